package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

const (
	maxIncludeDepth = 8
	maxFiles        = 256
	maxTotalBytes   = 16 << 20
)

// Load reads the document at path with everything that it includes. The error is of type Errors and holds every fault; the
// notices are worth showing in either case. Nothing of a document with a fault is returned.
func Load(path string) (*Document, []Notice, error) {
	data, err := readRegular(path, maxFileBytes)
	if err != nil {
		e := &Error{File: path, Message: "cannot be read: " + reason(err), Hint: "ringfence config example prints a document to start from", cause: err}
		if errors.Is(err, fs.ErrPermission) {
			e.Hint = "let the user that runs ringfence read it"
		}
		return nil, nil, Errors{e}
	}
	return parse(path, data, realSystem())
}

// Parse reads a document from data as Load does. Name stands in messages, and included files and those of secrets are taken
// relative to its folder.
func Parse(name string, data []byte) (*Document, []Notice, error) {
	return parse(name, data, realSystem())
}

// ParseStored reads the document of a stored revision: it may include nothing, and the path of a secret must be absolute.
func ParseStored(name string, data []byte) (*Document, []Notice, error) {
	sys := realSystem()
	sys.stored = true
	return parse(name, data, sys)
}

func parse(name string, data []byte, sys system) (*Document, []Notice, error) {
	l := &loader{sys: sys, f: &faults{}}
	root := l.file(name, data, nil)
	d, notices := l.document(root)
	if errs := l.f.errors(); errs != nil {
		return nil, notices, errs
	}
	return d, notices, nil
}

// loader reads the files of a document and merges their trees.
type loader struct {
	sys     system
	f       *faults
	files   []loaded
	bytes   int
	notices []Notice
	partial bool // a file could not be read, so that what is missing may stand there
}

type loaded struct {
	path string // cleaned, symbolic links resolved
	src  *source
}

func (l *loader) document(root *node) (*Document, []Notice) {
	d := &Document{index: &index{marks: map[string]mark{}, broken: map[string]bool{}}}
	v := reflect.ValueOf(d).Elem()
	setDefaults(v)
	if root == nil {
		return nil, nil
	}
	d.index.marks[""] = mark{root.pos, root.pos}
	dec := &decoder{f: l.f, ix: d.index, sys: l.sys}
	dec.object(v, root, "")
	d.settle()
	d.link()
	c := &checker{d: d, ix: d.index, f: l.f, partial: l.partial, notices: l.notices}
	c.run()
	return d, boundNotices(c.notices)
}

// settle lowers defaults that another declared value contradicts. What is declared itself is left for the check.
func (d *Document) settle() {
	declared := func(format string, i int) bool {
		_, ok := d.index.marks[fmt.Sprintf(format, i)]
		return ok
	}
	for i := range d.Lines {
		if l := &d.Lines[i]; !declared("lines[%d].busy_at", i) {
			l.BusyAt = min(l.BusyAt, l.MaxCalls)
		}
	}
	for i := range d.Parking {
		if p := &d.Parking[i]; !declared("parking[%d].reminder_seconds", i) && p.Reminder > p.Seconds {
			p.Reminder = 0
		}
	}
	if _, ok := d.index.marks["sip.max_flows_per_source"]; !ok {
		d.SIP.MaxFlowsPerIP = min(d.SIP.MaxFlowsPerIP, d.SIP.MaxFlows)
	}
}

const maxNotices = 100

func boundNotices(list []Notice) []Notice {
	if len(list) > maxNotices {
		more := fmt.Sprintf("%d more notices are not shown", len(list)-maxNotices)
		list = append(list[:maxNotices:maxNotices], Notice{Position: list[0].Position, Message: more})
	}
	return list
}

// file parses one file and merges what it includes into it. Own content comes before that of included files.
func (l *loader) file(name string, data []byte, stack []string) *node {
	src := newSource(name, len(l.files), data)
	l.files = append(l.files, loaded{realPath(name), src})
	l.bytes += len(data)
	root := parseYAML(src, l.f)
	if root == nil {
		l.partial = true
		return nil
	}
	if root.kind == kindNull {
		root = &node{kind: kindMap, pos: root.pos}
	}
	if root.kind != kindMap {
		l.partial = true
		l.f.add(root.pos, "", "the document is "+root.kind.String(), "want sections: node:, users:, phones:, lines: ...")
		return nil
	}
	inc, ok := root.get("include")
	if !ok {
		return root
	}
	if l.sys.stored {
		l.f.add(inc.pos, "include", "a stored configuration is one document and includes nothing", "put the sections into it, or run with --config FILE")
		return root
	}
	return l.include(root, inc, append(slices.Clone(stack), realPath(name)))
}

func (l *loader) include(root *node, inc entry, stack []string) *node {
	if inc.val.kind != kindList {
		return root // the decoder says so
	}
	for _, item := range inc.val.items {
		if item.kind != kindText || item.text == "" {
			continue
		}
		for _, path := range l.expand(item) {
			if sub := l.included(path, item, stack); sub != nil {
				root = l.merge(root, sub, "")
			}
		}
	}
	return root
}

// expand turns an entry of include into paths, in order of names where it is a pattern.
func (l *loader) expand(item *node) []string {
	path := item.text
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(item.pos.src.name), path)
	}
	if !strings.ContainsAny(path, "*?[") {
		return []string{path}
	}
	paths, err := l.sys.glob(path)
	if err != nil {
		l.f.add(item.pos, "include", fmt.Sprintf("%q is not a pattern of file names", clip(item.text)), `like "phones/*.yaml"`)
		return nil
	}
	if len(paths) == 0 {
		l.notices = append(l.notices, Notice{item.pos.position(), "include", fmt.Sprintf("no file matches %s", clip(item.text)), "patterns are relative to the folder of this file"})
	}
	slices.Sort(paths)
	return paths
}

func (l *loader) included(path string, item *node, stack []string) *node {
	refuse := func(message, hint string) *node {
		l.partial = true
		l.f.add(item.pos, "include["+path+"]", message, hint)
		return nil
	}
	real := realPath(path)
	if i := slices.Index(stack, real); i >= 0 {
		return refuse("files include each other: "+strings.Join(append(baseNames(stack[i:]), filepath.Base(real)), ", "), "remove one of the includes")
	}
	if i := slices.IndexFunc(l.files, func(f loaded) bool { return f.path == real }); i >= 0 {
		return refuse(filepath.Base(path)+" is included twice", "remove one of the includes")
	}
	if len(stack) >= maxIncludeDepth {
		return refuse(fmt.Sprintf("includes are more than %d deep", maxIncludeDepth), "include the file from the first one")
	}
	if len(l.files) >= maxFiles {
		return refuse(fmt.Sprintf("more than %d files", maxFiles), "put more into one file")
	}
	data, err := l.sys.read(path, maxFileBytes)
	if err != nil {
		return refuse(reason(err), "correct the name; it is relative to the folder of this file")
	}
	if l.bytes+len(data) > maxTotalBytes {
		return refuse(fmt.Sprintf("all files together have more than %d MiB", maxTotalBytes>>20), "include less")
	}
	return l.file(path, data, stack)
}

func baseNames(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = filepath.Base(p)
	}
	return out
}

func realPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// merge joins the same section of two files: lists are appended, mappings are joined key by key, and any other value that
// stands in both is a fault. Nodes are shared by aliases, so that a new one is made.
func (l *loader) merge(a, b *node, path string) *node {
	switch {
	case b.kind == kindNull:
		return a
	case a.kind == kindNull:
		return b
	case a.kind == kindList && b.kind == kindList:
		return &node{kind: kindList, pos: a.pos, items: slices.Concat(a.items, b.items)}
	case a.kind == kindMap && b.kind == kindMap:
		out := &node{kind: kindMap, pos: a.pos, entries: slices.Clone(a.entries)}
		for _, e := range b.entries {
			i := slices.IndexFunc(out.entries, func(o entry) bool { return o.key == e.key })
			if i < 0 {
				out.entries = append(out.entries, e)
				continue
			}
			sub := join(path, e.key)
			if e.val.kind == out.entries[i].val.kind && (e.val.kind == kindList || e.val.kind == kindMap) || e.val.kind == kindNull || out.entries[i].val.kind == kindNull {
				out.entries[i].val = l.merge(out.entries[i].val, e.val, sub)
				continue
			}
			l.twice(out.entries[i].pos, e.pos, sub)
		}
		return out
	}
	l.twice(a.pos, b.pos, path)
	return a
}

func (l *loader) twice(first, second pos, path string) {
	l.f.add(second, path, path+" is set in two files", fmt.Sprintf("the first is %s; keep one", first.position()))
}
