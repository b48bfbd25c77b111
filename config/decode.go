package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxVisits bounds the values that are decoded, since aliases make a small file a large document.
const maxVisits = 1_000_000

// index knows where each value of a document stands. Paths are written as in lines[2].number.
type index struct {
	marks  map[string]mark
	broken map[string]bool // sections (first part of a path) that hold faults; references into them are not judged
}

// mark is the place of a key and of its value; elements of lists have no key.
type mark struct{ key, val pos }

// find gives the mark of path or of the nearest thing around it.
func (x *index) find(path string) (mark, bool) {
	for path != "" {
		if m, ok := x.marks[path]; ok {
			return m, true
		}
		path = parentPath(path)
	}
	m, ok := x.marks[""]
	return m, ok
}

func parentPath(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

func sectionOf(path string) string {
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return path
}

// decoder turns a tree into a document and reports every value that does not fit.
type decoder struct {
	f      *faults
	ix     *index
	sys    system
	visits int
}

func (d *decoder) fault(at pos, path, message, hint string) {
	if d.visits > maxVisits+1 {
		return
	}
	d.ix.broken[sectionOf(path)] = true
	d.f.add(at, path, message, hint)
}

func (d *decoder) wrong(n *node, path string, err error) {
	var f *fault
	if errors.As(err, &f) {
		d.fault(n.pos, path, f.message, f.hint)
		return
	}
	d.fault(n.pos, path, err.Error(), "")
}

// kindFault reports a value of the wrong kind: a list where text is wanted, a number without quotes.
func (d *decoder) kindFault(n *node, path, want string) {
	name := lastKey(path)
	switch n.kind {
	case kindNull:
		d.fault(n.pos, path, name+" has no value", "want "+want+", or leave the key out")
	case kindInt, kindFloat, kindBool:
		if strings.HasSuffix(want, "in quotes") {
			want += `: "` + clip(n.text) + `"`
		}
		d.fault(n.pos, path, fmt.Sprintf("%s is %s, %s", name, n.kind, clip(n.text)), "want "+want)
	default:
		d.fault(n.pos, path, fmt.Sprintf("%s is %s", name, n.kind), "want "+want)
	}
}

func lastKey(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		path = path[i+1:]
	}
	if path == "" {
		return "the document"
	}
	return entryOf(path)
}

// entryOf names a path for people, who do not count list entries from 0; the position says which entry it is.
func entryOf(path string) string {
	if list, _, ok := strings.Cut(path, "["); ok && strings.HasSuffix(path, "]") {
		return "this entry of " + list
	}
	return path
}

// value decodes n into v, which already holds its default.
func (d *decoder) value(v reflect.Value, n *node, path string, f field) {
	if d.visits++; d.visits > maxVisits {
		if d.visits == maxVisits+1 {
			d.fault(n.pos, path, fmt.Sprintf("the document expands to more than %d values", maxVisits), "use fewer aliases")
		}
		return
	}
	if n.bad {
		d.ix.broken[sectionOf(path)] = true
		return
	}
	t := v.Type()
	switch {
	case t == reflect.TypeFor[Secret]():
		d.secret(v, n, path, f)
	case isStruct(t):
		d.object(v, n, path)
	case t.Kind() == reflect.Slice:
		d.list(v, n, path, f)
	case t.Kind() == reflect.Map:
		d.mapping(v, n, path, f)
	default:
		d.scalar(v, n, path, f)
	}
}

func (d *decoder) object(v reflect.Value, n *node, path string) {
	if n.kind == kindNull {
		n = &node{kind: kindMap, pos: n.pos} // a section whose keys are all commented out
	}
	if n.kind != kindMap {
		d.kindFault(n, path, "keys below it, indented")
		return
	}
	fields := fieldsOf(v.Type())
	present := make(map[string]bool, len(n.entries))
	for _, e := range n.entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == e.key })
		if i < 0 {
			// One fault is enough for a key that is misspelt and therefore missing.
			present[d.unknownKey(e, fields, path)] = true
			continue
		}
		f := fields[i]
		sub := join(path, f.name)
		present[f.name] = true
		d.ix.marks[sub] = mark{e.pos, e.val.pos}
		d.value(v.Field(f.index), e.val, sub, f)
		if f.required && e.val.kind == kindText && e.val.text == "" {
			d.fault(e.val.pos, sub, f.name+" is empty", hintOf(f))
		}
	}
	for _, f := range fields {
		switch sub := join(path, f.name); {
		case present[f.name]:
		case f.required:
			d.fault(n.pos, sub, lastKey(path)+" lacks "+f.name, "add "+f.name+": "+hintOf(f))
		case isStruct(f.typ):
			d.object(v.Field(f.index), &node{kind: kindMap, pos: n.pos}, sub)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func hintOf(f field) string {
	if f.want != "" {
		return f.want
	}
	if t, ok := scalarTypes[f.typ]; ok {
		return t.want
	}
	return "text"
}

// unknownKey reports a key and returns the one that was probably meant.
func (d *decoder) unknownKey(e entry, fields []field, path string) string {
	names := make([]string, len(fields))
	var secrets []string
	for i, f := range fields {
		names[i] = f.name
		if f.typ == reflect.TypeFor[Secret]() {
			secrets = append(secrets, f.name)
		}
	}
	hint := ""
	near := nearest(strings.ToLower(e.key), names)
	if near == "" || nearest(strings.ToLower(e.key), secrets) != "" {
		e.val.pos.hide() // it may be a misspelt password
	}
	if len(d.f.list) >= maxCollected {
		d.fault(e.pos, join(path, e.key), "", "") // only counted
		return near
	}
	if near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	} else if home := homeOf(e.key); home != "" {
		hint = fmt.Sprintf("%s belongs under %s", e.key, home)
	} else {
		hint = "known here: " + strings.Join(names, ", ")
	}
	where := ""
	if path != "" {
		where = " in " + lastKey(path)
	}
	d.fault(e.pos, join(path, e.key), fmt.Sprintf("unknown key %q%s", clip(e.key), where), hint)
	return near
}

// homeOf finds where a key is known, for one that was put into the wrong place.
func homeOf(key string) string {
	found := ""
	walkFields(reflect.TypeFor[Document](), "", func(path string, f field) {
		if f.name == key && found == "" {
			found = parentPath(path)
			if found == "" {
				found = "the top level"
			}
		}
	})
	return strings.TrimSuffix(found, "[]")
}

// walkFields visits every key of a type, outermost first; elements of lists are written name[].
func walkFields(t reflect.Type, path string, fn func(path string, f field)) {
	for _, f := range fieldsOf(t) {
		sub := join(path, f.name)
		fn(sub, f)
		switch {
		case isStruct(f.typ):
			walkFields(f.typ, sub, fn)
		case f.typ.Kind() == reflect.Slice && isStruct(f.typ.Elem()):
			walkFields(f.typ.Elem(), sub+"[]", fn)
		}
	}
}

func (d *decoder) list(v reflect.Value, n *node, path string, f field) {
	if n.kind == kindNull {
		v.SetZero()
		return
	}
	if n.kind != kindList {
		d.kindFault(n, path, "a list: [a, b], or one entry per line after - ")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		sub := fmt.Sprintf("%s[%d]", path, i)
		d.ix.marks[sub] = mark{item.pos, item.pos}
		ev := reflect.New(v.Type().Elem()).Elem()
		if isStruct(ev.Type()) {
			setDefaults(ev)
		}
		d.value(ev, item, sub, f)
		out = reflect.Append(out, ev)
	}
	v.Set(out)
}

func (d *decoder) mapping(v reflect.Value, n *node, path string, f field) {
	if n.kind == kindNull {
		v.SetZero()
		return
	}
	if n.kind != kindMap {
		d.kindFault(n, path, "a mapping: {key: value}")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range n.entries {
		sub := path + "[" + e.key + "]"
		d.ix.marks[sub] = mark{e.pos, e.val.pos}
		if f.keys != nil && !f.keys.MatchString(e.key) {
			d.fault(e.pos, sub, fmt.Sprintf("%q is no key of %s", clip(e.key), f.name), f.wantKeys)
			continue
		}
		ev := reflect.New(v.Type().Elem()).Elem()
		d.value(ev, e.val, sub, f)
		out.SetMapIndex(reflect.ValueOf(e.key), ev)
	}
	v.Set(out)
}

// scalar decodes text, numbers and switches, and checks the limits that the tags of the field give.
func (d *decoder) scalar(v reflect.Value, n *node, path string, f field) {
	if st, ok := scalarTypes[v.Type()]; ok {
		switch {
		case n.kind == kindText && (!st.quoted || n.quoted):
		case n.kind == kindInt && n.text == "0" && st.zero:
		case n.kind == kindInt && st.zero: // a duration without its unit: its own parser says so best
		case (n.kind == kindInt || n.kind == kindFloat) && st.number:
		case st.quoted && n.kind == kindInt:
			d.fault(n.pos, path, fmt.Sprintf("%s stands without quotes", n.text), `without quotes YAML may read another number: write "`+n.text+`"`)
			return
		case st.quoted && n.kind == kindText:
			d.fault(n.pos, path, fmt.Sprintf("%s stands without quotes", clip(n.text)), "want "+st.want)
			return
		default:
			if n.kind == kindInt || n.kind == kindFloat {
				if _, err := st.parse(n.text); err != nil {
					d.wrong(n, path, err)
					return
				}
			}
			d.kindFault(n, path, st.want)
			return
		}
		if n.text == "" && st.quoted {
			v.SetZero()
			return
		}
		x, err := st.parse(n.text)
		if err != nil {
			d.wrong(n, path, err)
			return
		}
		v.Set(reflect.ValueOf(x))
		d.limits(v, n, path, f)
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.kind != kindText && !(f.number && n.kind == kindInt) {
			d.kindFault(n, path, "text in quotes")
			return
		}
		v.SetString(n.text)
	case reflect.Int:
		if n.kind != kindInt {
			hint := "a whole number"
			if n.kind == kindText && n.quoted {
				hint += " without quotes"
			}
			d.kindFault(n, path, hint)
			return
		}
		i, err := strconv.Atoi(n.text)
		if err != nil || strings.HasPrefix(strings.TrimLeft(n.text, "+-"), "0") && n.text != "0" {
			d.fault(n.pos, path, fmt.Sprintf("%s is not a plain whole number", clip(n.text)), "decimal digits without leading zeros, _ or 0x")
			return
		}
		v.SetInt(int64(i))
	case reflect.Bool:
		if n.kind != kindBool {
			d.kindFault(n, path, "true or false")
			return
		}
		v.SetBool(n.text == "true")
	default:
		d.fault(n.pos, path, "this value cannot be declared", "")
		return
	}
	d.limits(v, n, path, f)
}

func (d *decoder) limits(v reflect.Value, n *node, path string, f field) {
	if v.Kind() == reflect.String {
		s := v.String()
		switch {
		case s == "":
		case f.enum != nil:
			if err := oneOf(s, f.enum); err != nil {
				d.wrong(n, path, err)
			}
		case f.max != "" && utf8.RuneCountInString(s) > atoi(f.max):
			d.fault(n.pos, path, fmt.Sprintf("%s has %d characters", f.name, utf8.RuneCountInString(s)), "at most "+f.max)
		case f.pattern != nil && !f.pattern.MatchString(s):
			hint := "want " + f.want
			if fixed := deviceName(s); f.name == "device" && fixed != "" {
				hint = "write " + fixed
			}
			d.fault(n.pos, path, fmt.Sprintf("%q is no %s", clip(s), f.name), hint)
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }):
			d.fault(n.pos, path, f.name+" holds control characters", "write plain text")
		}
		return
	}
	var got, low, high int64
	switch x := v.Interface().(type) {
	case int:
		got, low, high = int64(x), int64(atoi(f.min)), int64(atoi(f.max))
	case Duration:
		lo, _ := parseDuration(f.min)
		hi, _ := parseDuration(f.max)
		got, low, high = int64(x), int64(lo), int64(hi)
	default:
		return
	}
	if f.min != "" && got < low || f.max != "" && got > high {
		d.fault(n.pos, path, fmt.Sprintf("%s is %s", f.name, n.text), fmt.Sprintf("from %s to %s", f.min, f.max))
	}
}

// deviceName makes the name of a device from a MAC address in any usual form, or "".
func deviceName(s string) string {
	hex := strings.Map(func(r rune) rune {
		if strings.ContainsRune(":-. ", r) {
			return -1
		}
		return r
	}, strings.TrimPrefix(strings.ToUpper(s), "SEP"))
	if len(hex) != 12 || strings.Trim(hex, "0123456789ABCDEF") != "" {
		return ""
	}
	return "SEP" + hex
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// faulty tells whether a fault of the value at path is already reported.
func (x *index) faulty(f *faults, path string) bool {
	for _, e := range f.list {
		if e.Path == path {
			return true
		}
	}
	return false
}
