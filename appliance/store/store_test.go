package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir, Appliance: "east"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func write(t testing.TB, s *Store, set map[string]string, del ...string) {
	t.Helper()
	group := map[string][]byte{}
	for k, v := range set {
		group[k] = []byte(v)
	}
	if err := s.Write(context.Background(), group, del...); err != nil {
		t.Fatal(err)
	}
}

func contents(s *Store) map[string]string {
	m := map[string]string{}
	s.Scan("", func(k string, v []byte) bool { m[k] = string(v); return true })
	return m
}

func TestWriteGetScan(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	write(t, s, map[string]string{"fwd/301/all": "302", "fwd/302/all": "", "dnd/SEP001122AA0001": "true"})
	write(t, s, map[string]string{"fwd/301/all": "303"}, "dnd/SEP001122AA0001", "dnd/SEP001122AA0001", "never/was")

	want := map[string]string{"fwd/301/all": "303", "fwd/302/all": ""}
	if d := cmp.Diff(want, contents(s)); d != "" {
		t.Errorf("contents (-want +got):\n%s", d)
	}
	if v, ok := s.Get("fwd/302/all"); !ok || len(v) != 0 {
		t.Errorf("empty value: got %q, %v", v, ok)
	}
	if _, ok := s.Get("dnd/SEP001122AA0001"); ok {
		t.Error("deleted key is still there")
	}
	if got := s.LastSeq(); got != 5 {
		t.Errorf("%d operations, want 5: deleting nothing is none", got)
	}
	if v, exists := s.Version("dnd/SEP001122AA0001"); exists || v.Seq != 4 {
		t.Errorf("version of the deleted key: %v, %v; want sequence 4, gone", v, exists)
	}
	var seen []string
	s.Scan("fwd/", func(k string, _ []byte) bool { seen = append(seen, k); return false })
	if d := cmp.Diff([]string{"fwd/301/all"}, seen); d != "" {
		t.Errorf("stopped scan (-want +got):\n%s", d)
	}
	origin := s.Origin()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := s.Write(t.Context(), map[string][]byte{"a": nil}); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v, want ErrClosed", err)
	}

	s = open(t, dir)
	if d := cmp.Diff(want, contents(s)); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
	if s.Origin() != origin || !strings.HasPrefix(origin, "east.") || s.LastSeq() != 5 {
		t.Errorf("origin %s at %d, want %s at 5", s.Origin(), s.LastSeq(), origin)
	}
	if info, err := os.Stat(filepath.Join(dir, "state.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v, %v; want 0600", info.Mode(), err)
	}
	s.Close()
}

func TestWriteRefuses(t *testing.T) {
	s := open(t, t.TempDir())
	done, cancel := context.WithCancel(t.Context())
	cancel()
	many := map[string][]byte{}
	for i := range MaxGroup + 1 {
		many[fmt.Sprint("k/", i)] = nil
	}
	big := map[string][]byte{}
	for i := range MaxGroupBytes/MaxValue + 1 {
		big[fmt.Sprint("k/", i)] = make([]byte, MaxValue)
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		set  map[string][]byte
		del  []string
		want error
	}{
		"empty segment":      {t.Context(), map[string][]byte{"a//b": nil}, nil, ErrKey},
		"empty deleted key":  {t.Context(), nil, []string{""}, ErrKey},
		"value too large":    {t.Context(), map[string][]byte{"a": make([]byte, MaxValue+1)}, nil, ErrKey},
		"set and deleted":    {t.Context(), map[string][]byte{"a": nil}, []string{"a"}, ErrKey},
		"too many":           {t.Context(), many, nil, ErrKey},
		"too many bytes":     {t.Context(), big, nil, ErrKey},
		"ended context":      {done, map[string][]byte{"a": nil}, nil, context.Canceled},
		"nothing, ended ctx": {done, nil, nil, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Write(c.ctx, c.set, c.del...); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if s.LastSeq() != 0 || len(contents(s)) != 0 {
		t.Errorf("refused writes left %d operations", s.LastSeq())
	}
	if err := s.Write(t.Context(), nil); err != nil {
		t.Errorf("empty group: %v", err)
	}
}

func TestScanCrossesChunks(t *testing.T) {
	s := open(t, t.TempDir())
	want := map[string]string{}
	for g := range 3 {
		group := map[string]string{}
		for i := range scanChunk {
			group[fmt.Sprintf("n/%05d", g*scanChunk+i)] = fmt.Sprint(i)
		}
		maps.Copy(want, group)
		write(t, s, group)
	}
	write(t, s, nil, "n/01024", "n/01025")
	delete(want, "n/01024")
	delete(want, "n/01025")
	var keys []string
	s.Scan("n/", func(k string, v []byte) bool {
		if want[k] != string(v) {
			t.Errorf("%s = %s, want %s", k, v, want[k])
		}
		keys = append(keys, k)
		if len(keys) == 10 { // fn may use the store
			write(t, s, map[string]string{"other": "x"})
		}
		return true
	})
	if !slices.IsSorted(keys) || len(keys) != len(want) {
		t.Errorf("%d keys, sorted %v; want %d sorted", len(keys), slices.IsSorted(keys), len(want))
	}
}

func TestOperationsCarryTheRecordRules(t *testing.T) {
	s := open(t, t.TempDir())
	write(t, s, map[string]string{"b": "1", "a": "1", "c": "1"})
	write(t, s, map[string]string{"a": "2"}, "b")
	var ops []Op
	if err := s.Ops(0, func(op Op) bool { ops = append(ops, op); return true }); err != nil {
		t.Fatal(err)
	}
	type row struct {
		Seq    uint64
		Key    string
		Value  string
		Delete bool
		More   uint32
		After  uint64
	}
	var got []row
	last := Stamp(0)
	for _, op := range ops {
		got = append(got, row{op.Seq, op.Key, string(op.Value), op.Delete, op.More, op.Previous.Seq})
		if op.Origin != s.Origin() || op.Stamp <= last {
			t.Errorf("operation %d: origin %s stamp %v after %v", op.Seq, op.Origin, op.Stamp, last)
		}
		last = op.Stamp
	}
	want := []row{{1, "a", "1", false, 2, 0}, {2, "b", "1", false, 1, 0}, {3, "c", "1", false, 0, 0}, {4, "a", "2", false, 1, 1}, {5, "b", "", true, 0, 2}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("operations (-want +got):\n%s", d)
	}
	if v, _ := s.Version("a"); ops[3].Concurrent(v) == false || ops[3].Previous != ops[0].Version() {
		t.Errorf("previous version %v does not name what was overwritten", ops[3].Previous)
	}
	var tail []uint64
	if err := s.Ops(3, func(op Op) bool { tail = append(tail, op.Seq); return len(tail) < 1 }); err != nil || !slices.Equal(tail, []uint64{4}) {
		t.Errorf("stopped tail %v, %v; want [4]", tail, err)
	}
}

// dump is the projection byte by byte.
func dump(t testing.TB, s *Store) map[string]string {
	m := map[string]string{}
	if err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFields).ForEach(func(k, v []byte) error { m[string(k)] = string(v); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestModel compares the store with a plain map under random groups, reopenings, rebuilds and compactions.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		if err != nil {
			rt.Fatal(err)
		}
		s, err := Open(Options{Dir: dir})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close(); os.RemoveAll(dir) }()
		s.db.NoSync = true // the model is about contents; TestKill is about the disk
		model := map[string]string{}
		key := rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a0", "b", "fwd/301/all", "fwd/3010/all", "z"})
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				set := rapid.MapOfN(key, rapid.SliceOfN(rapid.Byte(), 0, 6), 0, 4).Draw(rt, "set")
				var del []string
				for _, k := range rapid.SliceOfN(key, 0, 3).Draw(rt, "del") {
					if _, both := set[k]; !both {
						del = append(del, k)
					}
				}
				if err := s.Write(context.Background(), set, del...); err != nil {
					rt.Fatal(err)
				}
				for k, v := range set {
					model[k] = string(v)
				}
				for _, k := range del {
					delete(model, k)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				if s, err = Open(Options{Dir: dir}); err != nil {
					rt.Fatal(err)
				}
				s.db.NoSync = true
			},
			"rebuild": func(rt *rapid.T) {
				before := dump(t, s)
				if err := s.Rebuild(context.Background()); err != nil {
					rt.Fatal(err)
				}
				if d := cmp.Diff(before, dump(t, s)); d != "" {
					rt.Fatalf("rebuilt projection differs:\n%s", d)
				}
			},
			"compact": func(rt *rapid.T) {
				if err := s.Compact(context.Background(), rapid.Uint64Range(0, s.LastSeq()+1).Draw(rt, "upTo")); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				if d := cmp.Diff(model, contents(s)); d != "" {
					rt.Fatalf("contents (-model +store):\n%s", d)
				}
				prefix := key.Draw(rt, "prefix")
				got := map[string]string{}
				s.Scan(prefix, func(k string, v []byte) bool { got[k] = string(v); return true })
				want := maps.Clone(model)
				maps.DeleteFunc(want, func(k, _ string) bool { return !strings.HasPrefix(k, prefix) })
				if d := cmp.Diff(want, got); d != "" {
					rt.Fatalf("scan %s (-model +store):\n%s", prefix, d)
				}
				want1, exists := model[prefix]
				if v, ok := s.Get(prefix); ok != exists || string(v) != want1 {
					rt.Fatalf("get %s: %q, %v; want %q, %v", prefix, v, ok, want1, exists)
				}
			},
		})
	})
}

func TestWritersShareCommits(t *testing.T) {
	s := open(t, t.TempDir())
	const writers, each = 16, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.Write(context.Background(), map[string][]byte{fmt.Sprint("w/", w): []byte(fmt.Sprint(i))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	st := s.Stats()
	if st.Ops != writers*each || st.Groups != writers*each || st.Fields != writers || st.Records != writers*each {
		t.Errorf("stats %+v", st)
	}
	if st.Commits >= st.Groups/2 {
		t.Errorf("%d commits for %d groups of 16 writers at once: they do not share", st.Commits, st.Groups)
	}
}

func TestCompactForgetsWhatIsSuperseded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.db.NoSync = true // thousands of commits, and none to be lost here
	for i := range compactStep + 10 {
		write(t, s, map[string]string{"counter": fmt.Sprint(i), fmt.Sprint("once/", i%3): "x"})
	}
	write(t, s, nil, "once/0")
	cut := s.LastSeq()
	write(t, s, map[string]string{"counter": "last"})
	before := contents(s)
	if err := s.Compact(t.Context(), cut); err != nil {
		t.Fatal(err)
	}
	// Left: the counter's last two (the older was the winner up to now, so it was kept only until the newer came: 1), once/1, once/2.
	if st := s.Stats(); st.Records != 3 || st.Fields != 3 {
		t.Errorf("%d operations, %d fields left; want 3 and 3", st.Records, st.Fields)
	}
	if err := s.Ops(cut-1, func(Op) bool { return true }); !errors.Is(err, ErrCompacted) {
		t.Errorf("operations before the cut: %v, want ErrCompacted", err)
	}
	if err := s.Ops(cut, func(Op) bool { return true }); err != nil {
		t.Errorf("operations after the cut: %v", err)
	}
	// What was a survivor of the compaction goes when something newer comes.
	write(t, s, map[string]string{"once/1": "y"})
	if st := s.Stats(); st.Records != 3 {
		t.Errorf("%d operations after superseding a survivor, want 3", st.Records)
	}
	before["once/1"] = "y"
	s.Close()
	s = open(t, dir)
	if err := s.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, contents(s)); d != "" {
		t.Errorf("after compaction, reopening and rebuild (-want +got):\n%s", d)
	}
}

func TestHousekeepingKeepsTheRetention(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 10 {
		write(t, s, map[string]string{"k": fmt.Sprint(i)})
	}
	s.retention = time.Hour
	if s.housekeep() || s.Stats().Records != 10 {
		t.Errorf("%d operations left of 10 younger than the retention", s.Stats().Records)
	}
	s.retention = -time.Hour
	if s.housekeep() || s.Stats().Records != 1 {
		t.Errorf("%d operations left of 10 older than the retention, want 1", s.Stats().Records)
	}
}

// A value of the other appliance with a higher version stays, one with a lower goes to the log only, and a local write made
// in sight of a value always wins over it, whatever its clock said.
func TestApplyOrdersByVersion(t *testing.T) {
	s := open(t, t.TempDir())
	ahead := StampAt(time.Now().Add(30 * time.Second))
	apply := func(op Op) (won bool) {
		r := &request{done: make(chan error, 1), step: func(tx *bbolt.Tx) error {
			x, err := begin(tx, s.origin, s.seq.Load())
			if err != nil {
				return err
			}
			if won, err = x.apply(&op); err != nil {
				return err
			}
			return x.finish()
		}}
		if err := s.submit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return won
	}
	write(t, s, map[string]string{"k": "ours"})
	if apply(Op{Origin: "west.1", Seq: 1, Stamp: 1, Key: "k", Value: []byte("older")}) {
		t.Error("the older value won")
	}
	if !apply(Op{Origin: "west.1", Seq: 2, Stamp: ahead, Key: "k", Value: []byte("newer")}) {
		t.Error("the newer value lost")
	}
	if apply(Op{Origin: "west.1", Seq: 3, Stamp: ahead * 2, Ordered: 7, Key: "k", Value: []byte("suspect")}) {
		t.Error("the suspect value won by its stamp")
	}
	write(t, s, map[string]string{"k": "in sight"})
	if v, _ := s.Get("k"); string(v) != "in sight" {
		t.Errorf("got %q, want the local write that saw the other", v)
	}
	before := dump(t, s)
	if err := s.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, dump(t, s)); d != "" {
		t.Errorf("rebuilt from two logs (-want +got):\n%s", d)
	}
	if st := s.Stats(); st.Records != 5 || st.Fields != 1 {
		t.Errorf("stats %+v, want 5 records (losers stay in the log) of 1 field", st)
	}
}

func TestWatch(t *testing.T) {
	s := open(t, t.TempDir())
	w, all := s.Watch("fwd/"), s.Watch("")
	write(t, s, map[string]string{"fwd/301/all": "302", "dnd/x": "true"})
	write(t, s, map[string]string{"dnd/y": "true"})
	write(t, s, map[string]string{"fwd/302/all": "1"}, "fwd/301/all")
	read := func(w *Watch) (out []string) {
		e, err := w.Next(t.Context())
		if err != nil || e.Lagged {
			t.Fatalf("next: %+v, %v", e, err)
		}
		for _, c := range e.Changes {
			if v, _ := s.Version(c.Key); c.Key != "fwd/301/all" && v != c.Version {
				t.Errorf("%s has version %v, the feed said %v", c.Key, v, c.Version)
			}
			out = append(out, fmt.Sprintf("%s=%s %v", c.Key, c.Value, c.Deleted))
		}
		return out
	}
	for i, want := range [][]string{{"fwd/301/all=302 false"}, {"fwd/301/all= true", "fwd/302/all=1 false"}} {
		if d := cmp.Diff(want, read(w)); d != "" {
			t.Errorf("event %d (-want +got):\n%s", i, d)
		}
	}
	if got := len(read(all)); got != 2 {
		t.Errorf("feed of everything: %d changes in the first group, want 2", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next with ended context: %v", err)
	}
	w.Close()
	w.Close()
	if _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("next after close: %v", err)
	}
	got := make(chan error)
	go func() {
		for {
			if _, err := all.Next(context.Background()); err != nil {
				got <- err
				return
			}
		}
	}()
	s.Close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("next after the store closed: %v", err)
	}
	if _, err := s.Watch("").Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("watch of a closed store: %v", err)
	}
}

func TestSlowWatchIsMarkedAndGoesOn(t *testing.T) {
	s := open(t, t.TempDir())
	w := s.Watch("")
	defer w.Close()
	group := map[string]string{}
	for i := range 1000 {
		group[fmt.Sprint("k/", i)] = "v"
	}
	for range 5 {
		write(t, s, group)
	}
	e, err := w.Next(t.Context())
	if err != nil || !e.Lagged || len(e.Changes) != 0 {
		t.Fatalf("after 5000 unread changes: %d changes, lagged %v, %v", len(e.Changes), e.Lagged, err)
	}
	write(t, s, map[string]string{"after": "v"})
	if e, err = w.Next(t.Context()); err != nil || e.Lagged || len(e.Changes) != 1 || e.Changes[0].Key != "after" {
		t.Errorf("after the mark: %+v, %v", e, err)
	}
}

func TestTypedFields(t *testing.T) {
	s := open(t, t.TempDir())
	type greeting struct{ Text string }
	forward, dnd, greet := TextField("fwd", "all"), BoolField("dnd", ""), JSONField[greeting]("greet", "")
	set := map[string][]byte{}
	if err := errors.Join(forward.Put(set, "301", "302"), dnd.Put(set, "SEP001122AA0001", true), greet.Put(set, "301", greeting{"hello"})); err != nil {
		t.Fatal(err)
	}
	set["dnd/odd"] = []byte("perhaps")
	if err := s.Write(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := forward.Get(s, "301"); v != "302" || !ok || err != nil {
		t.Errorf("text: %q %v %v", v, ok, err)
	}
	if v, ok, err := dnd.Get(s, "SEP001122AA0001"); !v || !ok || err != nil {
		t.Errorf("switch: %v %v %v", v, ok, err)
	}
	if v, ok, err := greet.Get(s, "301"); v.Text != "hello" || !ok || err != nil {
		t.Errorf("record: %v %v %v", v, ok, err)
	}
	if _, ok, err := dnd.Get(s, "odd"); ok || err == nil {
		t.Errorf("unreadable value: %v %v, want an error", ok, err)
	}
	if _, ok, err := forward.Get(s, "999"); ok || err != nil {
		t.Errorf("absent: %v %v", ok, err)
	}
	for key, want := range map[string]string{"fwd/301/all": "301", "fwd/301/busy": "", "fwd/301": "", "fwd//all": "", "fwd/a/b/all": ""} {
		if got, ok := forward.Name(key); got != want && ok || ok != (want != "") {
			t.Errorf("name of %s: %q %v, want %q", key, got, ok, want)
		}
	}
}
