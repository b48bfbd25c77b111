package config

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// field is a key of a mapping, as the tags of a struct field describe it:
//
//	yaml      the key
//	default   value when the key is absent; a list is written [a, b]
//	doc       one sentence for reference and schema
//	required  "true": the key must be there and not be empty
//	min, max  of a whole number or duration; max of a text is its length in characters
//	enum      allowed texts, comma separated (of list elements too)
//	pattern   regular expression that a text matches, with want saying it in words
//	keys      the same for the keys of a map, with wantkeys
//	number    "true": the text may stand there as a number without quotes
type field struct {
	name     string
	index    int
	typ      reflect.Type
	def      string
	hasDef   bool
	doc      string
	required bool
	min, max string
	enum     []string
	pattern  *regexp.Regexp
	want     string
	keys     *regexp.Regexp
	wantKeys string
	number   bool
}

var fieldCache sync.Map // reflect.Type to []field

// fieldsOf lists the keys of a struct in the order of its fields.
func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name := sf.Tag.Get("yaml")
		if !sf.IsExported() || name == "" || name == "-" {
			continue
		}
		f := field{
			name: name, index: i, typ: sf.Type, doc: sf.Tag.Get("doc"), required: sf.Tag.Get("required") == "true",
			min: sf.Tag.Get("min"), max: sf.Tag.Get("max"), want: sf.Tag.Get("want"),
			wantKeys: sf.Tag.Get("wantkeys"), number: sf.Tag.Get("number") == "true",
		}
		f.def, f.hasDef = sf.Tag.Lookup("default")
		if e := sf.Tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		if p := sf.Tag.Get("pattern"); p != "" {
			f.pattern = regexp.MustCompile(p)
		}
		if p := sf.Tag.Get("keys"); p != "" {
			f.keys = regexp.MustCompile(p)
		}
		out = append(out, f)
	}
	got, _ := fieldCache.LoadOrStore(t, out)
	return got.([]field)
}

// setDefaults fills a struct with the defaults of its keys, nested ones included. Lists of structs stay empty.
func setDefaults(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		switch {
		case isStruct(f.typ):
			setDefaults(fv)
		case f.hasDef:
			if err := setDefault(fv, f); err != nil {
				panic(fmt.Sprintf("config: default of %s.%s: %v", v.Type().Name(), f.name, err))
			}
		}
	}
}

// isStruct tells a mapping with known keys from the scalar types that are structs in Go.
func isStruct(t reflect.Type) bool {
	_, scalar := scalarTypes[t]
	return t.Kind() == reflect.Struct && !scalar && t != reflect.TypeFor[Secret]()
}

func setDefault(v reflect.Value, f field) error {
	if f.typ.Kind() == reflect.Slice {
		inner := strings.TrimSuffix(strings.TrimPrefix(f.def, "["), "]")
		out := reflect.MakeSlice(f.typ, 0, 2)
		for part := range strings.SplitSeq(inner, ",") {
			ev := reflect.New(f.typ.Elem()).Elem()
			if err := setText(ev, strings.TrimSpace(part)); err != nil {
				return err
			}
			out = reflect.Append(out, ev)
		}
		v.Set(out)
		return nil
	}
	return setText(v, f.def)
}

// setText sets a scalar from its text.
func setText(v reflect.Value, s string) error {
	if t, ok := scalarTypes[v.Type()]; ok {
		x, err := t.parse(s)
		if err == nil {
			v.Set(reflect.ValueOf(x))
		}
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		v.SetInt(int64(n))
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		v.SetBool(b)
	default:
		return fmt.Errorf("no text form of %s", v.Type())
	}
	return nil
}

// Defaults returns a document in which every default is set and nothing is declared.
func Defaults() *Document {
	d := &Document{}
	setDefaults(reflect.ValueOf(d).Elem())
	return d
}
