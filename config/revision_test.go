package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// memory is a Store whose writes can be made to fail.
type memory struct {
	data map[string][]byte
	fail error
}

func (m *memory) Get(key string) ([]byte, bool) { v, ok := m.data[key]; return v, ok }

func (m *memory) Scan(prefix string, fn func(string, []byte) bool) {
	for _, k := range slices.Sorted(maps.Keys(m.data)) {
		if strings.HasPrefix(k, prefix) && !fn(k, m.data[k]) {
			return
		}
	}
}

func (m *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	if m.fail != nil {
		return m.fail
	}
	for _, k := range del {
		delete(m.data, k)
	}
	maps.Copy(m.data, set)
	return nil
}

func openRevisions(t *testing.T, m *memory) *Revisions {
	t.Helper()
	day := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	r, err := OpenRevisions(m, func() time.Time { day = day.Add(time.Minute); return day })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func apply(t *testing.T, r *Revisions, author, text, data string) (Revision, string) {
	t.Helper()
	rev, diff, err := r.Apply(context.Background(), author, text, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return rev, diff
}

func TestRevisions(t *testing.T) {
	m := &memory{data: map[string][]byte{}}
	r := openRevisions(t, m)
	if d, rev := r.Current(); d != nil || rev.Number != 0 {
		t.Errorf("an empty store gives %v %v", d, rev)
	}
	one := string(Example())
	rev, diff := apply(t, r, "ada", "first", one)
	if rev.Number != 1 || rev.Author != "ada" || rev.Comment != "first" || len(rev.SHA256) != 64 || rev.Time.Nanosecond() != 0 {
		t.Errorf("got %+v", rev)
	}
	if !strings.Contains(diff, "+++ revision 1\n@@ -0,0 +1,") || strings.Contains(diff, "ExampleCleo303") {
		t.Errorf("difference to nothing:\n%s", diff)
	}
	two := strings.NewReplacer("ring_seconds: 20", "ring_seconds: 25", "ExampleCleo303", "OtherCleo303").Replace(one)
	rev, diff = apply(t, r, "ben", "longer\n\x1b[31m ring", two)
	want := `--- revision 1
+++ revision 2
@@ -90,7 +90,7 @@
     index: 2
     label: Sales
     caller_id: {name: Sales}
-    ring_seconds: 20
+    ring_seconds: 25
   - number: "302"
     user: ben
     phone: SEP001122AA0002
@@ -99,4 +99,4 @@
     busy_at: 2                  # with two calls a third one finds the line busy
   - number: "303"               # no phone: a softphone registers with this number and password
     user: cleo
-    password: [redacted]  # change; 8 to 30 letters and digits
+    password: [redacted]  # change; 8 to 30 letters and digits
`
	if d := cmp.Diff(want, diff); d != "" {
		t.Error(d)
	}
	if rev.Number != 2 || strings.ContainsAny(rev.Comment, "\n\x1b") {
		t.Errorf("got %q", rev.Comment)
	}
	if d, cur := r.Current(); cur != rev || d.Lines[1].RingSeconds != 25 || d.Lines[3].Password.Reveal() != "OtherCleo303" {
		t.Errorf("current is %v", cur)
	}
	if same, diff := apply(t, r, "ben", "again", two); same != rev || diff != "" || len(m.data) != 4 {
		t.Errorf("the same document made %v", same)
	}
	if got, err := r.Difference(2); err != nil || got != diff && got != want {
		t.Errorf("difference: %v\n%s", err, got)
	}
	raw, err := r.Raw(1)
	if err != nil || string(raw) != one {
		t.Errorf("raw text differs: %v", err)
	}
	shown, err := r.Show(1)
	if err != nil || strings.Contains(shown, "Example-ada-77") || strings.Contains(shown, "ExampleCleo303") || !strings.Contains(shown, "password: [redacted]") ||
		strings.Count(shown, "\n") != strings.Count(one, "\n") {
		t.Errorf("shown: %v\n%s", err, shown)
	}
	if _, err := r.Raw(7); !errors.Is(err, ErrUnknownRevision) {
		t.Errorf("got %v", err)
	}
	// A new process finds the newest.
	again := openRevisions(t, m)
	if d, cur := again.Current(); cur != rev || d == nil || len(again.Notices()) == 0 {
		t.Errorf("after a restart: %v", cur)
	}
	if list := again.List(); len(list) != 2 || list[0].Number != 2 || list[1].Number != 1 {
		t.Errorf("list: %v", list)
	}
}

func TestApplyStoresNothingInvalid(t *testing.T) {
	m := &memory{data: map[string][]byte{}}
	r := openRevisions(t, m)
	apply(t, r, "ada", "", minimal)
	before := maps.Clone(m.data)
	for name, text := range map[string]string{
		"fault":          minimal + "lines: [{number: 301}]",
		"not YAML":       "node: [",
		"include":        minimal + "include: [a.yaml]",
		"secret by path": minimal + "users: [{id: a, password: {file: x}}]",
		"shown secret":   minimal + "users: [{id: a, password: [redacted]}]",
		"quoted secret":  minimal + "users: [{id: a, password: \"[redacted]\"}]",
		"braces":         "{node: {address: 192.0.2.1}, site: {name: x}}",
		"empty":          "",
	} {
		_, _, err := r.Apply(context.Background(), "ada", "", []byte(text))
		var errs Errors
		if !errors.As(err, &errs) || !strings.HasPrefix(errs[0].File, "revision 2") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := r.Apply(context.Background(), "\n", "", []byte(minimal+"#")); err == nil {
		t.Error("a change by nobody was stored")
	}
	m.fail = errors.New("disk full")
	if _, _, err := r.Apply(context.Background(), "ada", "", []byte(minimal+"# more")); !errors.Is(err, m.fail) {
		t.Errorf("got %v", err)
	}
	if _, rev := r.Current(); rev.Number != 1 || len(m.data) != len(before) {
		t.Errorf("revision %d is in force", rev.Number)
	}
	for k, v := range before {
		if !bytes.Equal(m.data[k], v) {
			t.Errorf("%s changed", k)
		}
	}
}

func TestNodeIsKeptApart(t *testing.T) {
	m := &memory{data: map[string][]byte{}}
	r := openRevisions(t, m)
	rev, _ := apply(t, r, "ada", "", string(Example()))
	shared, node := string(m.data[sharedPrefix+rev.suffix()]), string(m.data[nodePrefix+rev.suffix()])
	if strings.Contains(shared, "16970") || !strings.Contains(node, "16970") || strings.Contains(node, "pbx.example.net") {
		t.Errorf("shared:\n%s\nnode:\n%s", shared, node)
	}
	// The peer has the shared part and lines of its own.
	peer := &memory{data: map[string][]byte{}}
	p := openRevisions(t, peer)
	apply(t, p, "ben", "", "node: {address: 192.0.2.20}\nsite: {name: Old}\n")
	apply(t, r, "ada", "renamed", strings.Replace(string(Example()), "name: Example", "name: New", 1))
	newest := r.List()[0]
	peer.data[sharedPrefix+newest.suffix()] = m.data[sharedPrefix+newest.suffix()]
	if err := p.Refresh(); err != nil {
		t.Fatal(err)
	}
	if d, rev := p.Current(); rev.Number != 2 || d.Site.Name != "New" || d.Node.Address.String() != "192.0.2.20" {
		t.Errorf("the peer has %v: %s at %s", rev, d.Site.Name, d.Node.Address)
	}
}

func TestSplitNodeJoins(t *testing.T) {
	for name, text := range map[string]string{
		"first":            "# head\nnode:\n  address: 192.0.2.1\n\n# next\nsite:\n  name: x\n",
		"last":             "site:\n  name: x\n# about\nnode:\n  address: 192.0.2.1",
		"middle":           "site:\n  name: x\nnode: {address: 192.0.2.1} # why\nsip:\n",
		"none":             "site:\n  name: x\n",
		"carriage returns": "site:\r\n  name: x\r\nnode:\r\n  address: 192.0.2.1\r\n\r\n# c\r\nsip:\r\n",
		"mark":             "\ufeffnode:\n  address: 192.0.2.1\nsite:\n",
		"braces of lines":  "node: {\n  address: 192.0.2.1\n}\nsite:\n",
	} {
		shared, node, at, err := splitNode("t", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(joinNode(shared, node, at)); got != text {
			t.Errorf("%s: joined to %q", name, got)
		}
		if strings.Contains(shared, "192.0.2.1") || strings.Contains(node, "site") || strings.Contains(node, "# next") {
			t.Errorf("%s: split into %q and %q", name, shared, node)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"node:\n  address: 192.0.2.1\n", "site:\n  name: x\n", "# c\n\n", "sip:\n", "users: [\n{id: a}\n]\n"}), 1, 5, rapid.ID[string]).Draw(t, "parts")
		text := strings.Join(parts, "")
		shared, node, at, err := splitNode("t", []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got := string(joinNode(shared, node, at)); got != text {
			t.Fatalf("%q joined to %q", text, got)
		}
	})
}

func TestRevisionsAreBounded(t *testing.T) {
	m := &memory{data: map[string][]byte{}}
	r := openRevisions(t, m)
	for i := range maxRevisions + 5 {
		apply(t, r, "ada", "", minimal+fmt.Sprintf("# %d\n", i))
	}
	if list := r.List(); len(list) != maxRevisions || list[len(list)-1].Number != 6 || len(m.data) != 2*maxRevisions {
		t.Errorf("%d revisions, %d values", len(list), len(m.data))
	}
	if _, err := r.Difference(6); !errors.Is(err, ErrUnknownRevision) {
		t.Errorf("difference to a revision that is gone: %v", err)
	}
}

func TestDamagedRevision(t *testing.T) {
	m := &memory{data: map[string][]byte{}}
	r := openRevisions(t, m)
	rev, _ := apply(t, r, "ada", "", minimal)
	key := sharedPrefix + rev.suffix()
	m.data[nodePrefix+rev.suffix()] = []byte("node: {address: 192.0.2.66}\n")
	if _, err := OpenRevisions(m, nil); err == nil || !strings.Contains(err.Error(), "hash") {
		t.Errorf("got %v", err)
	}
	m.data[key] = []byte("{")
	if _, err := OpenRevisions(m, nil); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestSource(t *testing.T) {
	dir := files(t, map[string]string{"c.yaml": minimal})
	s := FileSource(dir + "/c.yaml")
	if d, _, err := s.Load(); err != nil || d == nil {
		t.Fatal(err)
	}
	err := s.ReadOnly()
	if !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "edit that file") || strings.Count(err.Error(), dir+"/c.yaml") != 2 {
		t.Errorf("got %v", err)
	}
	if _, _, err := s.Apply(context.Background(), "ada", "", []byte(minimal)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v", err)
	}
	if s.String() != "file "+dir+"/c.yaml" || s.Revisions() != nil {
		t.Errorf("got %s", s)
	}
	r := openRevisions(t, &memory{data: map[string][]byte{}})
	s = StoredSource(r)
	if _, _, err := s.Load(); !errors.Is(err, ErrNoRevision) || s.ReadOnly() != nil {
		t.Errorf("got %v", err)
	}
	if _, _, err := s.Apply(context.Background(), "ada", "why", []byte(minimal)); err != nil {
		t.Fatal(err)
	}
	if d, _, err := s.Load(); err != nil || d == nil || s.String() != "revision 1 by ada at 2026-11-22T12:01:00Z: why" || s.Path() != "" {
		t.Errorf("got %v %v", err, s)
	}
}

func TestDiffOfValues(t *testing.T) {
	a, _ := mustParse(t, string(Example()))
	text := strings.NewReplacer("ring_seconds: 20", "ring_seconds: 25", "ExampleCleo303", "OtherCleo303", "  - id: ben\n    name: Ben\n", "", "    user: ben\n", "",
		"name: Example\n", "name: \"\"\n", "auth: [certificate, password]", "auth: [password]", "ports: 26384-27384", "ports: 26384-27400", "    label: Ada\n    security", "    security").Replace(string(Example()))
	text += "  - {number: \"304\", password: abcdefgh1, ring_seconds: 5}\nsip: {session_expires: 0s}\n"
	b, _ := mustParse(t, text)
	var got []string
	for _, c := range Diff(a, b) {
		got = append(got, c.String())
	}
	want := []string{
		"  node.media.ports: 26384-27384 -> 26384-27400",
		`  site.name: Example -> ""`,
		"  sip.session_expires: 30m0s -> 0s",
		"  vpn.policies[phones].auth: [certificate, password] -> [password]",
		"- users[ben]: {id: ben, name: Ben}",
		`  phones[SEP001122AA0001].label: Ada -> ""`,
		"  lines[311].ring_seconds: 20 -> 25",
		`  lines[302].user: ben -> ""`,
		"  lines[303].password: [redacted] -> [redacted]",
		"+ lines[304]: {number: 304, password: [redacted], ring_seconds: 5}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if d := Diff(a, a); len(d) != 0 {
		t.Errorf("differs from itself: %v", d)
	}
	maps1, _ := mustParse(t, minimal+"users: [{id: a, speed_dials: {1: \"2\", 3: \"4\"}}]")
	maps2, _ := mustParse(t, minimal+"users: [{id: a, speed_dials: {1: \"5\", 7: \"8\"}, password: abcdefgh1}]")
	got = nil
	for _, c := range Diff(maps1, maps2) {
		got = append(got, c.String())
	}
	if diff := cmp.Diff([]string{"+ users[a].password: [redacted]", "  users[a].speed_dials[1]: 2 -> 5", "- users[a].speed_dials[3]: 4", "+ users[a].speed_dials[7]: 8"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRevisionsFromManySides(t *testing.T) {
	r := openRevisions(t, &memory{data: map[string][]byte{}})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if _, _, err := r.Apply(context.Background(), "ada", "", []byte(minimal+fmt.Sprintf("# %d\n", i))); err != nil {
				t.Error(err)
			}
			if d, rev := r.Current(); d == nil || rev.Number == 0 {
				t.Error("no document after Apply")
			}
		})
	}
	all.Wait()
	if _, rev := r.Current(); rev.Number != 8 || len(r.List()) != 8 {
		t.Errorf("%d revisions, the last is %d", len(r.List()), rev.Number)
	}
}

func TestErrorsBrief(t *testing.T) {
	_, _, err := Parse("c.yaml", []byte("nod: 1\nlins: 2\nusrs: 3\n"))
	if got := err.(Errors).Brief(); strings.Contains(got, "\n") || !strings.Contains(got, "and 2 more faults") {
		t.Errorf("got %s", got)
	}
}
