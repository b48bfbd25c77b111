package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

//go:generate go test . -run ^TestGenerated$ -update

const referenceHead = `# Configuration

<!-- Generated from package config by go generate; do not edit. -->

Everything an administrator declares stands in one YAML document. ` + "`ringfence config example`" + ` prints one that runs as it
is, ` + "`ringfence config check FILE`" + ` names every fault of one with line and remedy, ` + "`ringfence config schema`" + ` prints a
JSON Schema by which editors complete and check, ` + "`ringfence config reference`" + ` prints this page.

- **Strict.** An unknown key, a wrong type, a name given twice, a reference to nothing, two uses of one number and more than a
  model of phone can do are faults. A document with a fault does not start and changes nothing.
- **Two roots.** ` + "`node:`" + ` is true of one appliance and never leaves it; everything else is shared by a pair.
- **One authority.** With ` + "`--config FILE`" + ` that file is it, and whatever else would change the configuration is refused with
  the name of the file. Without, the newest stored revision is it, changed by ` + "`ringfence config apply`" + ` or ` + "`edit`" + `; each
  revision keeps its author, its time and the difference to the one before.
- **Initial values.** PIN, speed dials, language, forward and hunt login are declared as initial values. What users set later is
  state: it stays when the document changes, and can be reset to what is declared.
- **Several files.** ` + "`include: [users.yaml, \"phones/*.yaml\"]`" + ` reads further files, relative to the one that names them.
  Lists of the same section are appended in order, own entries first; any other value that stands in two files is a fault.
- **Secrets** are written as text, as ` + "`{file: PATH}`" + ` (one line) or as ` + "`{env: NAME}`" + `, and are never printed.
- **Anchors** (` + "`&name`, `*name`, `<<: *name`" + `) may be used; YAML tags, directives and several documents in a file may not.

`

// Reference is the page docs/configuration.md: every key with its type, its default and its meaning.
func Reference() []byte {
	var b strings.Builder
	b.WriteString(referenceHead)
	typesTable(&b)
	b.WriteString("## Sections\n\n")
	for _, f := range fieldsOf(reflect.TypeFor[Document]()) {
		section(&b, f)
	}
	modelsSection(&b)
	return []byte(b.String())
}

// typesTable explains how values of the types in the tables below are written.
func typesTable(b *strings.Builder) {
	b.WriteString("## How values are written\n\n| Type | Written as |\n|---|---|\n")
	rows := []string{
		"| text | plain or in quotes; in quotes where it looks like a number |",
		"| whole number | decimal digits without quotes |",
		"| true or false | without quotes |",
		"| secret | text in one line, `{file: PATH}` or `{env: NAME}` |",
	}
	for _, t := range scalarTypes {
		if t.enum == nil {
			rows = append(rows, fmt.Sprintf("| %s | %s |", t.name, t.want))
		}
	}
	slices.Sort(rows)
	b.WriteString(strings.Join(rows, "\n") + "\n\n")
}

func section(b *strings.Builder, f field) {
	fmt.Fprintf(b, "### %s\n\n%s\n\n", f.name, f.doc)
	t, prefix := f.typ, f.name
	if t.Kind() == reflect.Slice && isStruct(t.Elem()) {
		t, prefix = t.Elem(), f.name+"[]"
		b.WriteString("A list.\n\n")
	}
	if !isStruct(t) {
		fmt.Fprintf(b, "| Key | Type | Default | Meaning |\n|---|---|---|---|\n%s\n\n", row(f.name, f))
		return
	}
	if _, more, ok := strings.Cut(typeDocs[t.Name()], ". "); ok {
		b.WriteString(more + "\n\n") // the first sentence says what the section's own line says
	}
	walkFields(t, prefix, func(path string, f field) {
		elem := f.typ
		if elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		if _, more, ok := strings.Cut(typeDocs[elem.Name()], ". "); ok && isStruct(elem) {
			fmt.Fprintf(b, "`%s`: %s\n\n", path, more)
		}
	})
	b.WriteString("| Key | Type | Default | Meaning |\n|---|---|---|---|\n")
	walkFields(t, prefix, func(path string, f field) {
		if !isStruct(f.typ) {
			b.WriteString(row(path, f) + "\n")
		}
	})
	b.WriteString("\n")
}

func row(path string, f field) string {
	def := ""
	switch {
	case f.required:
		def = "required"
	case f.hasDef:
		def = "`" + f.def + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |", path, strings.ReplaceAll(typeName(f), "|", `\|`), def, strings.ReplaceAll(f.doc, "|", `\|`))
}

// typeName is the type of a key in words, with its limits.
func typeName(f field) string {
	name := func(t reflect.Type) string {
		if st, ok := scalarTypes[t]; ok {
			return st.name
		}
		switch {
		case t == reflect.TypeFor[Secret]():
			return "secret"
		case isStruct(t):
			return "mapping"
		case t.Kind() == reflect.Int:
			return "whole number"
		case t.Kind() == reflect.Bool:
			return "true or false"
		}
		return "text"
	}
	limit := ""
	elem := f.typ
	if k := f.typ.Kind(); k == reflect.Slice || k == reflect.Map {
		elem = f.typ.Elem()
	}
	switch {
	case f.enum != nil:
		limit = ": " + strings.Join(f.enum, ", ")
	case f.min != "" && f.max != "":
		limit = ", " + f.min + " to " + f.max
	case f.want != "" && f.pattern != nil:
		limit = ": " + f.want
	case f.max != "" && elem.Kind() == reflect.String:
		limit = ", at most " + f.max + " characters"
	}
	switch {
	case f.typ.Kind() == reflect.Slice && !isStruct(elem):
		return "list of " + name(elem) + limit
	case f.typ.Kind() == reflect.Slice:
		return "list of mappings"
	case f.typ.Kind() == reflect.Map:
		return "mapping to " + name(elem) + limit
	}
	return name(f.typ) + limit
}

func modelsSection(b *strings.Builder) {
	b.WriteString("## Models of phones\n\nLimits that the check applies. A dash means that no reference tells.\n\n")
	b.WriteString("| Model | Keys | Calls on a line | VPN client | TLS | EC certificates | Modules |\n|---|---|---|---|---|---|---|\n")
	yes := map[bool]string{true: "yes", false: "no"}
	for _, m := range Models() {
		calls := fmt.Sprint(m.MaxCalls)
		if m.MaxCalls == 0 {
			calls = "–"
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s | %s | %s | %s |\n", m.Model, m.LineKeys, calls, yes[m.VPN], m.TLSMax, yes[m.ECCertificates], strings.Join(m.ExpansionModules, ", "))
	}
}
