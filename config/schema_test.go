package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// validate is a small validator of the parts of JSON Schema that Schema uses. It stands for the editor.
func validate(schema, defs map[string]any, v any, path string) []string {
	if ref, ok := schema["$ref"].(string); ok {
		return validate(defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any), defs, v, path)
	}
	if any, ok := schema["anyOf"].([]any); ok {
		var all []string
		for _, s := range any {
			faults := validate(s.(map[string]interface{}), defs, v, path)
			if len(faults) == 0 {
				return nil
			}
			all = append(all, faults...)
		}
		return all
	}
	fail := func(format string, args ...any) []string { return []string{path + ": " + fmt.Sprintf(format, args...)} }
	if c, ok := schema["const"]; ok && fmt.Sprint(c) != fmt.Sprint(v) {
		return fail("%v is not %v", v, c)
	}
	if e, ok := schema["enum"].([]any); ok && !slices.Contains(e, v) {
		return fail("%v is none of %v", v, e)
	}
	if t := types(schema["type"]); t != nil && !slices.Contains(t, typeOf(v)) && !(typeOf(v) == "integer" && slices.Contains(t, "number")) {
		return fail("%v is %s, want %v", v, typeOf(v), t)
	}
	var out []string
	switch x := v.(type) {
	case string:
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(x) {
			out = append(out, fail("%q does not match %s", x, p)...)
		}
		if n, ok := schema["maxLength"].(float64); ok && len([]rune(x)) > int(n) {
			out = append(out, fail("%q is too long", x)...)
		}
		if n, ok := schema["minLength"].(float64); ok && len(x) < int(n) {
			out = append(out, fail("%q is too short", x)...)
		}
	case float64:
		if n, ok := schema["minimum"].(float64); ok && x < n {
			out = append(out, fail("%v is below %v", x, n)...)
		}
		if n, ok := schema["maximum"].(float64); ok && x > n {
			out = append(out, fail("%v is above %v", x, n)...)
		}
	case []any:
		if items, ok := schema["items"].(map[string]any); ok {
			for i, e := range x {
				out = append(out, validate(items, defs, e, fmt.Sprintf("%s[%d]", path, i))...)
			}
		}
	case map[string]any:
		props, _ := schema["properties"].(map[string]any)
		for _, k := range sortedKeys(x) {
			switch p, ok := props[k].(map[string]any); {
			case ok:
				out = append(out, validate(p, defs, x[k], join(path, k))...)
			case schema["additionalProperties"] == false:
				out = append(out, fail("unknown key %s", k)...)
			default:
				if names, ok := schema["propertyNames"].(map[string]any); ok && !regexp.MustCompile(names["pattern"].(string)).MatchString(k) {
					out = append(out, fail("key %s", k)...)
				}
				if p, ok := schema["additionalProperties"].(map[string]any); ok {
					out = append(out, validate(p, defs, x[k], join(path, k))...)
				}
			}
		}
		required, _ := schema["required"].([]any)
		for _, k := range required {
			if _, ok := x[k.(string)]; !ok {
				out = append(out, fail("lacks %s", k)...)
			}
		}
	}
	return out
}

func types(t any) []string {
	switch x := t.(type) {
	case string:
		return []string{x}
	case []any:
		var out []string
		for _, s := range x {
			out = append(out, s.(string))
		}
		return out
	}
	return nil
}

func typeOf(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if x == float64(int(x)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

func schemaFaults(t *testing.T, text string) []string {
	t.Helper()
	var schema map[string]any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	var doc any
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return validate(schema, schema["$defs"].(map[string]any), doc, "")
}

// What the reader accepts the schema must accept too, or editors cry wolf.
func TestSchemaAcceptsWhatIsAccepted(t *testing.T) {
	for name, text := range map[string]string{
		"example": string(Example()), "site example": string(ExampleSite()), "every section": site,
		"empty sections":   minimal + "users:\nvpn:\n  policies:\nsip:\n",
		"forms":            minimal + "sip: {session_expires: 0, register_expires: 1m30s}\npki: {itl_version: 1.1}\nphones: [{device: SEP001122AA0001, model: \"8851\", label: \"\", load: \"\", capf_code: {env: HOME}}]\nlines: [{number: \"301\", phone: SEP001122AA0001, forward: \"\", on_busy: hangup}]",
		"listeners off":    "node: {address: 192.0.2.1, listen: {tftp: off, tvs: \"\", capf: \"[::]:3804\"}}",
		"included pattern": "include: [\"a/*.yaml\"]\n",
	} {
		if faults := schemaFaults(t, text); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

func TestSchemaRefusesForm(t *testing.T) {
	for _, text := range []string{
		"nod: {}", "node: {addres: 192.0.2.1}", "node: {}", "node: {address: 5}", "node: {address: 192.0.2.1, listen: {tftp: 69}}",
		"lines: [{number: 301}]", "lines: [{number: \"\"}]", "lines: [{index: 1}]", "lines: [{number: \"301\", index: 0}]", "lines: [{number: \"301\", on_busy: \"302\"}]",
		"phones: [{device: sep1, model: 8851}]", "phones: [{device: SEP001122AA0001, model: 8850}]", "phones: [{device: SEP001122AA0001, model: 8851, label: 1234567890123}]",
		"phones: [{device: SEP001122AA0001, model: 8851, security: authenticated}]", "users: [{id: a, password: {path: x}}]", "users: [{id: a, password: short}]",
		"users: [{id: a, speed_dials: {100: \"1\"}}]", "sip: {register_expires: 120}", "vpn: {enabled: \"yes\"}", "vpn: {policies: [{id: a, pool: 1.2.3.4}]}", "users: {}",
		"services: {codes: {fly: \"*7\"}}", "groups: [{number: \"370\", strategy: everybody}]",
	} {
		if len(schemaFaults(t, text)) == 0 {
			t.Errorf("accepted: %s", text)
		}
	}
}
