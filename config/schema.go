package config

import (
	"encoding/json"
	"maps"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON Schema (draft 2020-12) of a document, for editors that complete and check while one types. It knows
// form, not meaning: what refers to what is for the check. Nothing is required at the top, since a file that is included by
// another has the same schema.
func Schema() []byte {
	g := &schemaMaker{defs: map[string]any{}}
	root := g.object(reflect.TypeFor[Document]())
	delete(root, "required")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Ringfence configuration"
	root["$defs"] = g.defs
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("config: schema: " + err.Error()) // only plain maps, texts and numbers are in it
	}
	return append(out, '\n')
}

type schemaMaker struct{ defs map[string]any }

// object describes a mapping with known keys. A mapping without any key is null in YAML.
func (g *schemaMaker) object(t reflect.Type) map[string]any {
	props := map[string]any{}
	var required []string
	for _, f := range fieldsOf(t) {
		props[f.name] = g.property(f)
		if f.required {
			required = append(required, f.name)
		}
	}
	out := map[string]any{"type": []string{"object", "null"}, "properties": props, "additionalProperties": false}
	if required != nil {
		out["required"] = required
		out["type"] = "object"
	}
	return out
}

func (g *schemaMaker) property(f field) map[string]any {
	out := g.value(f.typ, f)
	out["description"] = f.doc
	if f.hasDef {
		out["default"] = jsonDefault(f)
	}
	return out
}

// value describes one value of type t with the limits of field f.
func (g *schemaMaker) value(t reflect.Type, f field) map[string]any {
	if st, ok := scalarTypes[t]; ok {
		out := maps.Clone(st.schema)
		if f.required && st.quoted {
			out["pattern"] = digitsPattern
			out["maxLength"] = maxDigits
		}
		return out
	}
	switch {
	case t == reflect.TypeFor[Secret]():
		return secretSchema(f)
	case isStruct(t):
		if _, ok := g.defs[t.Name()]; !ok {
			g.defs[t.Name()] = nil // it may hold itself
			g.defs[t.Name()] = g.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case t.Kind() == reflect.Slice:
		item := f
		item.required = false
		return map[string]any{"type": []string{"array", "null"}, "items": g.value(t.Elem(), item)}
	case t.Kind() == reflect.Map:
		item := f
		item.required = false
		out := map[string]any{"type": []string{"object", "null"}, "additionalProperties": g.value(t.Elem(), item)}
		if f.keys != nil {
			out["propertyNames"] = map[string]any{"pattern": f.keys.String()}
		}
		return out
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int:
		out := map[string]any{"type": "integer"}
		if f.min != "" {
			out["minimum"] = atoi(f.min)
		}
		if f.max != "" {
			out["maximum"] = atoi(f.max)
		}
		return out
	}
	return textOf(f)
}

func textOf(f field) map[string]any {
	out := map[string]any{"type": "string"}
	if f.number {
		out["type"] = []string{"string", "integer"}
	}
	switch {
	case f.name == "model":
		out["enum"] = bothForms(modelNames())
	case f.enum != nil:
		out["enum"] = bothForms(f.enum)
		if !f.number {
			out["enum"] = f.enum
		}
	case f.pattern != nil:
		out["pattern"] = f.pattern.String()
		if !f.required {
			out["pattern"] = "^$|" + f.pattern.String()
		}
	}
	if f.max != "" {
		out["maxLength"] = atoi(f.max)
	}
	if f.required && f.pattern == nil && f.name != "model" {
		out["minLength"] = 1
	}
	return out
}

// bothForms lists names, and those that are numbers also without quotes.
func bothForms(names []string) []any {
	var out []any
	for _, n := range names {
		out = append(out, n)
	}
	for _, n := range names {
		if i, err := strconv.Atoi(n); err == nil {
			out = append(out, i)
		}
	}
	return out
}

func secretSchema(f field) map[string]any {
	text := map[string]any{"type": "string"}
	if f.pattern != nil {
		text["pattern"] = "^$|" + f.pattern.String()
	}
	from := func(key, what string) map[string]any {
		return map[string]any{
			"type": "object", "required": []string{key}, "additionalProperties": false,
			"properties": map[string]any{key: map[string]any{"type": "string", "minLength": 1, "description": what}},
		}
	}
	return map[string]any{"anyOf": []any{text,
		from("file", "File that holds the secret alone in one line."), from("env", "Environment variable that holds the secret.")}}
}

// jsonDefault is the default of a field as a JSON value.
func jsonDefault(f field) any {
	switch f.typ.Kind() {
	case reflect.Bool:
		return f.def == "true"
	case reflect.Int:
		return atoi(f.def)
	case reflect.Slice:
		var out []string
		for s := range strings.SplitSeq(strings.Trim(f.def, "[]"), ",") {
			out = append(out, strings.TrimSpace(s))
		}
		return out
	}
	return f.def
}
