package store

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func seal(fields []byte) []byte {
	return binary.LittleEndian.AppendUint32(fields, crc32.Checksum(fields, castagnoli))
}

var sampleOps = map[string]Op{
	"first value":  {Origin: "a.1", Seq: 1, Stamp: 1 << 16, Key: "dnd/SEP001122AA0001", Value: []byte("true")},
	"empty value":  {Origin: "a.1", Seq: 2, Stamp: 2 << 16, Key: "fwd/301/all"},
	"deletion":     {Origin: "a.1", Seq: 300, Stamp: 3 << 16, Key: "fwd/301/all", Delete: true, Previous: Version{Stamp: 2 << 16, Seq: 2, Origin: "a.1"}},
	"in a group":   {Origin: "a.1", Seq: 4, Stamp: 4 << 16, Key: "x", Value: []byte{0}, More: 3},
	"suspect":      {Origin: "b.2", Seq: 5, Stamp: 1 << 60, Key: "x", Value: []byte("v"), Ordered: 5 << 16},
	"later fields": {Origin: "b.2", Seq: 6, Stamp: 6 << 16, Key: "x", Value: []byte("v"), unknown: []byte{10, 2, 'h', 'i', 200, 1, 0}},
}

func TestOpRoundTrip(t *testing.T) {
	for name, op := range sampleOps {
		t.Run(name, func(t *testing.T) {
			b, err := op.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			var got Op
			if err := got.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(op, got, cmp.AllowUnexported(Op{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("round trip (-want +got):\n%s", d)
			}
			value, deleted := peek(b)
			if string(value) != string(op.Value) || deleted != op.Delete {
				t.Errorf("peek got %q, %v; want %q, %v", value, deleted, op.Value, op.Delete)
			}
		})
	}
}

// The bytes on disk are a promise to every later release.
func TestOpGolden(t *testing.T) {
	op := Op{Origin: "a.1", Seq: 300, Stamp: 3 << 16, Key: "fwd/301/all", Value: []byte("302"),
		Previous: Version{Stamp: 2 << 16, Seq: 2, Origin: "a.1"}, More: 1}
	b, err := op.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := "0103612e31" + "0202ac02" + "030380800c" + "040780800802612e31" + "050b6677642f3330312f616c6c" + "0603333032" + "080101" + "33627483"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOpRefuses(t *testing.T) {
	base := func(extra ...byte) []byte { // origin a.1, seq 1, stamp 1, key x, then extra
		return append([]byte{1, 3, 'a', '.', '1', 2, 1, 1, 3, 1, 1, 5, 1, 'x'}, extra...)
	}
	var ok Op
	if err := ok.UnmarshalBinary(seal(base())); err != nil {
		t.Fatalf("base: %v", err)
	}
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"checksum":               append(base(), 1, 2, 3, 4),
		"fields out of order":    seal([]byte{2, 1, 1, 1, 3, 'a', '.', '1', 3, 1, 1, 5, 1, 'x'}),
		"field twice":            seal(base(5, 1, 'y')),
		"length beyond end":      seal(base(6, 9, 'v')),
		"no key":                 seal([]byte{1, 3, 'a', '.', '1', 2, 1, 1, 3, 1, 1}),
		"no origin":              seal([]byte{2, 1, 1, 3, 1, 1, 5, 1, 'x'}),
		"sequence zero":          seal([]byte{1, 3, 'a', '.', '1', 2, 1, 0, 3, 1, 1, 5, 1, 'x'}),
		"empty segment":          seal([]byte{1, 3, 'a', '.', '1', 2, 1, 1, 3, 1, 1, 5, 1, '/'}),
		"empty value field":      seal(base(6, 0)),
		"value and deletion":     seal(base(6, 1, 'v', 7, 0)),
		"deletion with content":  seal(base(7, 1, 1)),
		"more is zero":           seal(base(8, 1, 0)),
		"more is huge":           seal(base(8, 3, 255, 255, 3)),
		"number with rest":       seal(base(8, 2, 1, 1)),
		"number in long form":    seal(base(8, 2, 129, 0)),
		"previous without rest":  seal([]byte{1, 3, 'a', '.', '1', 2, 1, 1, 3, 1, 1, 4, 1, 1, 5, 1, 'x'}),
		"previous all zero":      seal([]byte{1, 3, 'a', '.', '1', 2, 1, 1, 3, 1, 1, 4, 2, 0, 0, 5, 1, 'x'}),
		"too much unknown":       seal(append(base(10, 0x81, 0x20), make([]byte, 4097)...)),
		"tag zero":               seal(base(0, 0)),
		"tag in an endless form": seal(base(255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			var op Op
			if err := op.UnmarshalBinary(b); !errors.Is(err, ErrOp) {
				t.Errorf("got %v, want ErrOp", err)
			}
		})
	}
}

func TestCheckKey(t *testing.T) {
	for key, want := range map[string]bool{
		"a": true, "a/b/c": true, "fwd/*21/all": true, "user/jürgen/pin": true, strings.Repeat("k", 256): true,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false, "a\nb": false, "a\x00": false, "\xff": false,
		strings.Repeat("k", 257): false,
	} {
		if err := CheckKey(key); (err == nil) != want {
			t.Errorf("CheckKey(%.20q) = %v, want ok %v", key, err, want)
		}
	}
}

func TestClockNeverStepsBack(t *testing.T) {
	start := time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)
	var c clock
	last := Stamp(0)
	for _, now := range []time.Time{start, start, start.Add(time.Millisecond), start.Add(-time.Hour), time.Unix(-5, 0), start.Add(2 * time.Millisecond)} {
		got := c.tick(now)
		if got <= last {
			t.Errorf("at %v: stamp %v after %v", now, got, last)
		}
		last = got
	}
	if want := StampAt(start.Add(2 * time.Millisecond)); last != want {
		t.Errorf("caught up at %v, want %v", last, want)
	}
}

func TestSuspectStamp(t *testing.T) {
	now := time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)
	for ahead, want := range map[time.Duration]bool{-time.Hour: false, 0: false, 59 * time.Second: false, 61 * time.Second: true, 10 * time.Minute: true} {
		if got := StampAt(now.Add(ahead)).Suspect(now); got != want {
			t.Errorf("%v ahead: suspect %v, want %v", ahead, got, want)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	ascending := []Version{{}, {Stamp: 1, Seq: 9, Origin: "b"}, {Stamp: 2, Seq: 1, Origin: "a"}, {Stamp: 2, Seq: 2, Origin: "a"}, {Stamp: 2, Seq: 1, Origin: "b"}}
	for i, v := range ascending {
		for j, w := range ascending {
			if got := v.After(w); got != (i > j) {
				t.Errorf("%v after %v: %v", v, w, got)
			}
		}
	}
}

func FuzzOp(f *testing.F) {
	for _, op := range sampleOps {
		b, err := op.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, fields []byte) {
		b := seal(append([]byte{}, fields...))
		var op Op
		if op.UnmarshalBinary(b) != nil {
			_, _ = peek(b)
			return
		}
		again, err := op.MarshalBinary()
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		if string(again) != string(b) {
			t.Errorf("second encoding differs:\n%x\n%x", b, again)
		}
		if value, deleted := peek(b); string(value) != string(op.Value) || deleted != op.Delete {
			t.Errorf("peek got %q, %v; want %q, %v", value, deleted, op.Value, op.Delete)
		}
	})
}

func BenchmarkEncodeOp(b *testing.B) {
	op := Op{Origin: "ringfence.0123456789abcdef", Seq: 4711, Stamp: StampAt(time.Now()), Key: "fwd/301/all", Value: make([]byte, 200),
		Previous: Version{Stamp: StampAt(time.Now()), Seq: 4000, Origin: "ringfence.0123456789abcdef"}}
	for name, enc := range map[string]func() ([]byte, error){"fields": op.MarshalBinary, "json": func() ([]byte, error) { return json.Marshal(op) }} {
		b.Run(name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				out, err := enc()
				if err != nil {
					b.Fatal(err)
				}
				size = len(out)
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}
