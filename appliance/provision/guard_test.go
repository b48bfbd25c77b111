package provision

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestGuessingNames asks for one MAC after the other, as somebody does who wants device files.
func TestGuessingNames(t *testing.T) {
	w := newWorld(t)
	ask := func(source, device string, over Transport) bool {
		_, err := w.Get(Request{Name: device + ".cnf.xml", Transport: over, Source: netip.MustParseAddr(source)})
		return err == nil
	}
	ask("192.0.2.66", phone7965, HTTP) // a real phone behind the same address
	found := 0
	for i := range 5000 {
		if guess := fmt.Sprintf("SEP%012X", 0x001122AA0001-2500+i); guess != phone7965 && ask("192.0.2.66", guess, HTTP) {
			found++
		}
	}
	if found != 0 {
		t.Errorf("%d phones found by guessing", found)
	}
	if !ask("192.0.2.66", phone7965, HTTP) {
		t.Error("the phone that asked before was locked out")
	}
	if ask("192.0.2.66", phone8851, HTTP) {
		t.Error("the guesser got a file")
	}
	if !ask("192.0.2.66", phone8851, TFTP) || !ask("192.0.2.67", phone8851, HTTP) {
		t.Error("another transport or source was locked out")
	}
	w.change(func() { w.clock = now.Add(guardWindow + time.Second) })
	if !ask("192.0.2.66", phone8851, HTTP) {
		t.Error("still locked out after the window")
	}
	// One phone that asks again and again is no guesser.
	for range 500 {
		ask("192.0.2.68", "SEP00112233FFFF", HTTP)
	}
	if !ask("192.0.2.68", phone8851, HTTP) {
		t.Error("a repeating unknown phone locked its source out")
	}
	// The table of sources is bounded.
	for i := range guardSources + 100 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		w.Get(Request{Name: "SEP00112233FFFF.cnf.xml", Transport: HTTP, Source: a})
	}
	if n := len(w.guard.sources); n > guardSources || w.guard.order.Len() != n {
		t.Errorf("%d sources, %d in order", n, w.guard.order.Len())
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range cacheFiles + 50 {
		c.put(cacheKey{name: fmt.Sprint(i)}, make([]byte, 10))
	}
	if len(c.files) != cacheFiles || c.bytes != 10*cacheFiles {
		t.Errorf("%d files, %d bytes", len(c.files), c.bytes)
	}
	if _, ok := c.get(cacheKey{name: "0"}); ok {
		t.Error("the oldest is still there")
	}
	c.put(cacheKey{name: "big"}, make([]byte, cacheBytes))
	if _, ok := c.get(cacheKey{name: "big"}); !ok || len(c.files) != 1 {
		t.Errorf("%d files beside a big one", len(c.files))
	}
	c.put(cacheKey{name: "big"}, make([]byte, 10))
	if c.bytes != 10 {
		t.Errorf("%d bytes", c.bytes)
	}
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"", "/", "//g3-tones.xml", `\\a\b`, "../a", "a/../b", "C:/x", "a\x00b", "SEP001122AA0001.cnf.xml.sgn", "a/./b", "ITLFile.tlv/", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, ok := Normalise(s)
		if !ok {
			return
		}
		if out == "" || strings.HasPrefix(out, "/") || strings.Contains(out, "//") || strings.ContainsAny(out, "\x00\\") {
			t.Errorf("%q became %q", s, out)
		}
		for part := range strings.SplitSeq(out, "/") {
			if part == ".." || part == "." || part == "" {
				t.Errorf("%q became %q", s, out)
			}
		}
		if again, ok := Normalise(out); !ok || again != out {
			t.Errorf("%q is not stable: %q", out, again)
		}
		if n := parseName(out); n.kind != kindOther && n.kind != kindList && n.kind != kindCTL && len(n.device) != 15 {
			t.Errorf("%q: device %q", out, n.device)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	w := newWorld(b)
	w.lsc[phone8851] = "lsc"
	for _, name := range []string{phone8851 + ".cnf.xml.sgn", phone8851 + ".cnf.xml.enc.sgn", "ITL" + phone8851 + ".tlv"} {
		b.Run("cached/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := w.get(name, HTTP); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("signed/"+name, func(b *testing.B) {
			one := signature(b)
			for b.Loop() {
				w.cache = newCache()
				if _, err := w.get(name, HTTP); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(one), "signatures")
		})
		b.Run("made/"+name, func(b *testing.B) {
			for b.Loop() {
				w.cache = newCache()
				w.phones = make(map[string]*rendered)
				if _, err := w.get(name, HTTP); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// signature is what one RSA-2048 signature costs on this machine at this moment.
func signature(b *testing.B) time.Duration {
	b.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256(nil)
	const n = 50
	began := time.Now()
	for range n {
		if _, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began) / n
}
