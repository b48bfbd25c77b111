package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is one effective value that differs between two documents. Old is empty for what was added, New for what was
// removed. Secrets are redacted.
type Change struct {
	Path     string
	Old, New string
}

// String is the change on one line.
func (c Change) String() string {
	switch {
	case c.Old == "":
		return "+ " + c.Path + ": " + c.New
	case c.New == "":
		return "- " + c.Path + ": " + c.Old
	}
	return "  " + c.Path + ": " + c.Old + " -> " + c.New
}

// Diff lists the effective values that differ, defaults included. Entries of lists are compared by what names them (id,
// device, number), not by their place.
func Diff(old, new *Document) []Change {
	var out []Change
	diffStruct(&out, "", reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem())
	return out
}

func diffStruct(out *[]Change, path string, a, b reflect.Value) {
	for _, f := range fieldsOf(a.Type()) {
		if path == "" && f.name == "include" {
			continue
		}
		diffValue(out, join(path, f.name), a.Field(f.index), b.Field(f.index))
	}
}

func diffValue(out *[]Change, path string, a, b reflect.Value) {
	switch {
	case isStruct(a.Type()):
		diffStruct(out, path, a, b)
	case a.Kind() == reflect.Slice && isStruct(a.Type().Elem()):
		diffList(out, path, a, b)
	case a.Kind() == reflect.Map:
		diffMap(out, path, a, b)
	case a.Type() == reflect.TypeFor[Secret]():
		x, y := a.Interface().(Secret), b.Interface().(Secret)
		if !x.Equal(y) {
			*out = append(*out, Change{path, secretState(x), secretState(y)})
		}
	default:
		if x, y := show(a), show(b); x != y {
			*out = append(*out, Change{path, cmp.Or(x, `""`), cmp.Or(y, `""`)})
		}
	}
}

func secretState(s Secret) string {
	if s.Empty() {
		return ""
	}
	return redacted
}

// names are the keys that tell the entries of a list apart, by preference.
var names = []string{"id", "device", "number", "range", "match"}

func diffList(out *[]Change, path string, a, b reflect.Value) {
	x, y := entries(a), entries(b)
	for _, e := range x {
		if i := slices.IndexFunc(y, func(o named) bool { return o.name == e.name }); i >= 0 {
			diffStruct(out, path+"["+e.name+"]", e.v, y[i].v)
			continue
		}
		*out = append(*out, Change{path + "[" + e.name + "]", show(e.v), ""})
	}
	for _, e := range y {
		if !slices.ContainsFunc(x, func(o named) bool { return o.name == e.name }) {
			*out = append(*out, Change{path + "[" + e.name + "]", "", show(e.v)})
		}
	}
}

type named struct {
	name string
	v    reflect.Value
}

// entries names the elements of a list; those without a name of their own go by their place.
func entries(list reflect.Value) []named {
	out := make([]named, list.Len())
	used := map[string]bool{}
	for i := range out {
		v := list.Index(i)
		name := fmt.Sprint(i)
		fields := fieldsOf(v.Type())
		for _, key := range names {
			if j := slices.IndexFunc(fields, func(f field) bool { return f.name == key }); j >= 0 {
				if s := fmt.Sprint(v.Field(fields[j].index).Interface()); s != "" && !used[s] {
					name = s
				}
				break
			}
		}
		used[name] = true
		out[i] = named{name, v}
	}
	return out
}

func diffMap(out *[]Change, path string, a, b reflect.Value) {
	keys := map[string]bool{}
	for _, m := range []reflect.Value{a, b} {
		for _, k := range m.MapKeys() {
			keys[k.String()] = true
		}
	}
	for _, k := range sortedKeys(keys) {
		x, y := a.MapIndex(reflect.ValueOf(k)), b.MapIndex(reflect.ValueOf(k))
		switch {
		case !x.IsValid():
			*out = append(*out, Change{path + "[" + k + "]", "", show(y)})
		case !y.IsValid():
			*out = append(*out, Change{path + "[" + k + "]", show(x), ""})
		default:
			diffValue(out, path+"["+k+"]", x, y)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// show writes a value on one line, with the keys of mappings that differ from their defaults and without secrets.
func show(v reflect.Value) string {
	switch {
	case isStruct(v.Type()):
		std := reflect.New(v.Type()).Elem()
		setDefaults(std)
		var parts []string
		for _, f := range fieldsOf(v.Type()) {
			if x := show(v.Field(f.index)); x != "" && x != show(std.Field(f.index)) {
				parts = append(parts, f.name+": "+x)
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case v.Type() == reflect.TypeFor[Secret]():
		return secretState(v.Interface().(Secret))
	case v.Kind() == reflect.Slice:
		if v.Len() == 0 {
			return ""
		}
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = show(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case v.Kind() == reflect.Map:
		keys := map[string]bool{}
		for _, k := range v.MapKeys() {
			keys[k.String()] = true
		}
		if len(keys) == 0 {
			return ""
		}
		var parts []string
		for _, k := range sortedKeys(keys) {
			parts = append(parts, k+": "+show(v.MapIndex(reflect.ValueOf(k))))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	switch x := v.Interface().(type) {
	case PortRange:
		return fmt.Sprintf("%d-%d", x.First, x.Last)
	case fmt.Stringer:
		if v.IsZero() && v.Type() != reflect.TypeFor[Endpoint]() && v.Type() != reflect.TypeFor[Duration]() {
			return "" // an address or network that is not given
		}
		return x.String()
	}
	return fmt.Sprint(v.Interface())
}
