package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// This is the only file that knows the YAML library: it turns bytes into our own tree with a position on every value. The
// library's decoder is not used, since it stops at the first fault, loses the position of what our own types refuse, and
// turns an unquoted 0123 into 83.

// Bounds of one file. The library's parser recurses once per key of a mapping, copies the rest of the document for each
// omitted value and nests without limit, so that each of these is counted in the tokens before it runs.
const (
	maxFileBytes   = 4 << 20
	maxDepth       = 24
	maxKeys        = 2000 // of one mapping
	maxOmitted     = 2000 // keys and list entries without a value
	maxTreeNodes   = 1_000_000
	maxSyntaxNotes = 160 // characters of the library's message
)

type kind uint8

const (
	kindNull kind = iota
	kindText
	kindInt
	kindFloat
	kindBool
	kindList
	kindMap
)

func (k kind) String() string {
	return [...]string{"nothing", "text", "a whole number", "a number", "true or false", "a list", "a mapping"}[k]
}

// node is a value of the document. Nodes are never changed once built: an alias shares the node of its anchor.
type node struct {
	kind    kind
	bad     bool   // a fault is reported already; the value is not judged
	text    string // of scalars; for text the value without quotes, else as written
	quoted  bool
	pos     pos
	items   []*node
	entries []entry
}

type entry struct {
	key string
	pos pos
	val *node
}

func (n *node) get(key string) (entry, bool) {
	for _, e := range n.entries {
		if e.key == key {
			return e, true
		}
	}
	return entry{}, false
}

// newSource prepares the text of a file. A byte order mark and carriage returns are dropped; columns do not change by it.
func newSource(name string, order int, data []byte) *source {
	text := strings.TrimPrefix(string(data), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	return &source{name: name, order: order, lines: strings.Split(text, "\n")}
}

// parseYAML reads one file into a tree. Faults go to f; the tree is nil if the file cannot be read as YAML at all.
func parseYAML(src *source, f *faults) (root *node) {
	text := strings.Join(src.lines, "\n")
	at := pos{src, 1, 1}
	switch {
	case len(text) > maxFileBytes:
		f.add(at, "", fmt.Sprintf("the file has more than %d MiB", maxFileBytes>>20), "split it by include")
		return nil
	case !utf8.ValidString(text):
		for i, l := range src.lines {
			if !utf8.ValidString(l) {
				f.add(pos{src, i + 1, 1}, "", "this line is not UTF-8", "save the file as UTF-8")
				break
			}
		}
		return nil
	case strings.ContainsRune(text, 0):
		f.add(at, "", "the file holds a NUL character", "save the file as plain text")
		return nil
	}
	b := &builder{src: src, f: f, anchors: map[string]*node{}}
	defer func() {
		// The parser is foreign code and the document may be hostile: a panic of it is a fault of the document.
		if r := recover(); r != nil {
			root = nil
			f.add(at, "", "the file cannot be read as YAML", "check quotes, brackets and indentation")
		}
	}()
	tokens := lexer.Tokenize(text)
	if !b.preflight(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		b.syntax(err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && body == nil {
			body = doc.Body
		}
	}
	if body == nil {
		return &node{kind: kindMap, pos: at}
	}
	return b.build(body)
}

type builder struct {
	src     *source
	f       *faults
	anchors map[string]*node
	nodes   int
	full    bool
}

func (b *builder) at(tk *token.Token) pos {
	if tk == nil || tk.Position == nil {
		return pos{b.src, 1, 1}
	}
	return pos{b.src, min(max(tk.Position.Line, 1), len(b.src.lines)), max(tk.Position.Column, 1)}
}

// syntax reports an error of the library, whose first line is "[line:column] message".
func (b *builder) syntax(err error) {
	at := pos{b.src, 1, 1}
	var message string
	// Error of the library draws the source around the fault, in time that grows with the square of its tokens; the fields
	// of the error cost nothing.
	if se := (*yaml.SyntaxError)(nil); errors.As(err, &se) {
		at, message = b.at(se.Token), se.Message
	} else if _, after, ok := strings.Cut(err.Error(), "] "); ok {
		message = after
	} else {
		message = err.Error()
	}
	b.f.add(at, "", "not YAML: "+syntaxMessage(message), syntaxHint(message))
}

// syntaxMessage is the first line of the library's words, bounded.
func syntaxMessage(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > maxSyntaxNotes {
		s = strings.ToValidUTF8(s[:maxSyntaxNotes], "")
	}
	return strings.ReplaceAll(s, "\t", `\t`)
}

func syntaxHint(s string) string {
	switch {
	case strings.Contains(s, "tab character"), strings.Contains(s, "'\t'"):
		return "a tab: indent with spaces"
	case strings.Contains(s, "quoted text"):
		return "close the quote"
	}
	return "check quotes, colons and indentation here and just above"
}

// preflight refuses what would cost the parser too much, and the parts of YAML that a configuration has no use for.
func (b *builder) preflight(tokens token.Tokens) bool {
	type level struct{ col, keys int }
	var (
		flow    int
		opened  []*token.Token // brackets and braces not closed yet
		levels  []level        // block mappings and lists open here, by column
		flows   [maxDepth + 1]int
		omitted int
		headers int
	)
	refuse := func(tk *token.Token, message, hint string) bool {
		b.f.add(b.at(tk), "", message, hint)
		return false
	}
	open := func(tk *token.Token) *level {
		col := tk.Position.Column
		for len(levels) > 0 && levels[len(levels)-1].col > col {
			levels = levels[:len(levels)-1]
		}
		if len(levels) == 0 || levels[len(levels)-1].col < col {
			levels = append(levels, level{col: col})
		}
		return &levels[len(levels)-1]
	}
	for i, tk := range tokens {
		var next *token.Token
		if i+1 < len(tokens) {
			next = tokens[i+1]
		}
		switch tk.Type {
		case token.InvalidType:
			return refuse(tk, "not YAML: "+syntaxMessage(tk.Error), syntaxHint(tk.Error))
		case token.MappingStartType, token.SequenceStartType:
			flow++
			opened = append(opened, tk)
			if flow <= maxDepth {
				flows[flow] = 0
			}
		case token.MappingEndType, token.SequenceEndType:
			if flow == 0 {
				return refuse(tk, tk.Value+" closes nothing", "remove it, or put the text into quotes")
			}
			last := opened[len(opened)-1]
			if (last.Type == token.MappingStartType) != (tk.Type == token.MappingEndType) {
				return refuse(tk, fmt.Sprintf("%s closes the %s of line %d", tk.Value, last.Value, last.Position.Line), "[ ends with ], { ends with }")
			}
			opened = opened[:len(opened)-1]
			flow--
		case token.DoubleQuoteType, token.SingleQuoteType:
			// A forgotten quote otherwise shows as an odd error many lines below, at the next quote.
			if strings.Contains(strings.TrimSpace(tk.Origin), "\n") {
				return refuse(tk, "this text in quotes does not end in its line", "close the quote; longer texts are written after |")
			}
		case token.MappingKeyType:
			return refuse(tk, "a key is introduced by ?", "write key: value")
		case token.TagType:
			return refuse(tk, "YAML tags are not used here", "remove "+tk.Value)
		case token.DirectiveType:
			return refuse(tk, "YAML directives are not used here", "remove the line")
		case token.DocumentHeaderType:
			if headers++; headers > 1 || i > 0 && significant(tokens[:i]) {
				return refuse(tk, "a second document begins here", "one file holds one document; use include for more files")
			}
		case token.SequenceEntryType:
			if flow == 0 {
				open(tk)
			}
			if next == nil || next.Position.Line > tk.Position.Line && next.Position.Column <= tk.Position.Column {
				omitted++
			}
		case token.MappingValueType:
			if i == 0 {
				break
			}
			key := tokens[i-1]
			keys := &flows[min(flow, maxDepth)]
			if flow == 0 {
				keys = &open(key).keys
			}
			if *keys++; *keys > maxKeys {
				return refuse(tk, fmt.Sprintf("a mapping has more than %d keys", maxKeys), "lists of things are written with - ")
			}
			if next == nil || next.Type == token.CollectEntryType || next.Type == token.MappingEndType ||
				next.Position.Line > key.Position.Line && next.Position.Column <= key.Position.Column {
				omitted++
			}
		}
		if flow+len(levels) > maxDepth {
			return refuse(tk, fmt.Sprintf("nested more than %d deep", maxDepth), "no part of a configuration is that deep: check brackets and indentation")
		}
		if omitted > maxOmitted {
			return refuse(tk, fmt.Sprintf("more than %d keys have no value", maxOmitted), "remove keys without a value")
		}
	}
	if flow > 0 {
		last := opened[flow-1]
		return refuse(last, "this "+last.Value+" is not closed", "add "+map[string]string{"[": "]", "{": "}"}[last.Value])
	}
	return true
}

func significant(tokens token.Tokens) bool {
	for _, tk := range tokens {
		if tk.Type != token.CommentType {
			return true
		}
	}
	return false
}

// build converts a node of the library.
func (b *builder) build(n ast.Node) *node {
	out := &node{pos: pos{b.src, 1, 1}}
	if n == nil {
		return out
	}
	out.pos = b.at(n.GetToken())
	if b.nodes++; b.nodes > maxTreeNodes {
		b.overflow(out.pos)
		return out
	}
	switch x := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		out.kind, out.text = kindText, x.Value
		out.quoted = x.Token.Type == token.DoubleQuoteType || x.Token.Type == token.SingleQuoteType
	case *ast.LiteralNode:
		out.kind, out.quoted = kindText, true
		if x.Value != nil {
			out.text = x.Value.Value
		}
	case *ast.IntegerNode:
		out.kind, out.text = kindInt, x.Token.Value
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.kind, out.text = kindFloat, n.GetToken().Value
	case *ast.BoolNode:
		out.kind, out.text = kindBool, strings.ToLower(x.Token.Value)
	case *ast.SequenceNode:
		out.kind = kindList
		for _, item := range x.Values {
			out.items = append(out.items, b.build(item))
		}
	case *ast.MappingNode:
		out.kind = kindMap
		if len(x.Values) > 0 && !x.IsFlowStyle && x.Values[0].Key != nil {
			out.pos = b.at(x.Values[0].Key.GetToken())
		}
		b.mapping(out, x.Values)
	case *ast.MappingValueNode:
		out.kind = kindMap
		out.pos = b.at(x.Key.GetToken())
		b.mapping(out, []*ast.MappingValueNode{x})
	case *ast.AnchorNode:
		val := b.build(x.Value)
		if x.Name != nil {
			b.anchors[x.Name.GetToken().Value] = val
		}
		return val
	case *ast.AliasNode:
		name := ""
		if x.Value != nil {
			name = x.Value.GetToken().Value
		}
		if val, ok := b.anchors[name]; ok {
			return val
		}
		b.f.add(out.pos, "", fmt.Sprintf("there is no anchor %q above", name), "define it with &"+name+", or quote the text if the * belongs to it")
		out.bad = true
	default:
		out.bad = true
		b.f.add(out.pos, "", "this kind of YAML value is not used here", "write text, numbers, lists and mappings")
	}
	return out
}

func (b *builder) overflow(at pos) {
	if !b.full {
		b.full = true
		b.f.add(at, "", fmt.Sprintf("the document expands to more than %d values", maxTreeNodes), "use fewer aliases")
	}
}

// mapping fills out with the entries of a mapping: duplicates are faults, merge keys (<<) give way to what is written.
func (b *builder) mapping(out *node, values []*ast.MappingValueNode) {
	known := make(map[string]pos, len(values))
	var merged []*node
	for _, v := range values {
		tk := v.Key.GetToken()
		at := b.at(tk)
		val := b.build(v.Value)
		if val.kind == kindNull && !val.bad {
			val.pos = at // there is nothing to point at
		}
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			merged = append(merged, b.mergeSources(val)...)
			continue
		}
		key := tk.Value
		if first, ok := known[key]; ok {
			b.f.add(at, "", fmt.Sprintf("key %q is given twice", key), fmt.Sprintf("the first is in line %d; keep one", first.line))
			continue
		}
		known[key] = at
		out.entries = append(out.entries, entry{key, at, val})
	}
	for _, m := range merged {
		for _, e := range m.entries {
			if b.nodes++; b.nodes > maxTreeNodes {
				b.overflow(out.pos)
				return
			}
			if _, ok := known[e.key]; ok {
				continue
			}
			known[e.key] = e.pos
			out.entries = append(out.entries, e)
		}
	}
}

func (b *builder) mergeSources(val *node) []*node {
	switch val.kind {
	case kindMap:
		return []*node{val}
	case kindList:
		var out []*node
		for _, item := range val.items {
			if item.kind == kindMap {
				out = append(out, item)
			}
		}
		if len(out) == len(val.items) {
			return out
		}
	}
	b.f.add(val.pos, "", "<< wants a mapping", "write <<: *name of an anchor that holds a mapping")
	return nil
}
