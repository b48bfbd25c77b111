package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

func keyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(name string, k ed25519.PrivateKey) Key {
	return Key{Name: name, Public: k.Public().(ed25519.PublicKey)}
}

var content = bytes.Repeat([]byte("slot"), 1000)

func sample(change func(*Info)) Info {
	sum := sha512.Sum512(content)
	i := Info{Product: Product, Version: "1.2.3", Arch: "amd64", Serial: 1000, Built: time.Unix(1000, 0).UTC(), Size: int64(len(content)), SHA512: hex.EncodeToString(sum[:])}
	if change != nil {
		change(&i)
	}
	return i
}

func TestOpen(t *testing.T) {
	one, two, stranger := keyOf(1), keyOf(2), keyOf(3)
	keys := []Key{public("release 1", one), public("TEST 2", two)}
	for _, c := range []struct {
		name  string
		key   ed25519.PrivateKey
		spoil func(h []byte)
		want  string // part of the error, empty when it opens
	}{
		{"first key", one, nil, ""},
		{"second key", two, nil, ""},
		{"a stranger's key", stranger, nil, "not signed"},
		{"a stranger who names our key", stranger, func(h []byte) { copy(h[signed:], mustHead(t, one)[signed:signed+keyIDSize]) }, "not signed"},
		{"description changed", one, func(h []byte) { h[40] ^= 1 }, "not signed"},
		{"zeros changed", one, func(h []byte) { h[signed-1] = 1 }, "not signed"},
		{"another format", one, func(h []byte) { h[16] = 9 }, "format 9"},
		{"another file", one, func(h []byte) { h[0] = 'X' }, "no update"},
		{"absurd length", one, func(h []byte) { h[22] = 0xff }, "damaged"},
	} {
		h, err := Head(sample(nil), c.key)
		if err != nil {
			t.Fatal(err)
		}
		if c.spoil != nil {
			c.spoil(h)
		}
		info, _, err := Open(h, keys)
		if c.want == "" {
			if err != nil || info != sample(nil) {
				t.Errorf("%s: %+v, %v", c.name, info, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if !keys[1].Test() || keys[0].Test() {
		t.Error("a key for tests is known by its name")
	}
}

func mustHead(t *testing.T, k ed25519.PrivateKey) []byte {
	t.Helper()
	h, err := Head(sample(nil), k)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSignedButNotForUs(t *testing.T) {
	for name, change := range map[string]func(*Info){
		"another product": func(i *Info) { i.Product = "other" },
		"no size":         func(i *Info) { i.Size = 0 },
		"no hash":         func(i *Info) { i.SHA512 = "00" },
	} {
		h, err := Head(sample(change), keyOf(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(h, []Key{public("release 1", keyOf(1))}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestFits(t *testing.T) {
	for _, c := range []struct {
		name  string
		arch  string
		size  int64
		floor int64
		ok    bool
	}{
		{"fits", "amd64", 1 << 20, 1000, true},
		{"another machine", "arm64", 1 << 20, 0, false},
		{"too large", "amd64", 100, 0, false},
		{"below the floor", "amd64", 1 << 20, 1001, false},
	} {
		if err := sample(nil).Fits(c.arch, c.size, c.floor); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCopy(t *testing.T) {
	damaged := bytes.Clone(content)
	damaged[100] ^= 1
	for _, c := range []struct {
		name string
		data []byte
		ok   bool
	}{{"whole", content, true}, {"more follows", append(bytes.Clone(content), 1, 2), true}, {"cut off", content[:100], false}, {"damaged", damaged, false}} {
		var out bytes.Buffer
		err := sample(nil).Copy(&out, bytes.NewReader(c.data))
		if (err == nil) != c.ok || c.ok && !bytes.Equal(out.Bytes(), content) {
			t.Errorf("%s: %d bytes, %v", c.name, out.Len(), err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	h, err := Head(sample(nil), keyOf(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h)
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, _, err := Open(b, []Key{public("release 1", keyOf(1))}); err == nil && !bytes.Equal(b[:signed], h[:signed]) {
			t.Errorf("an unsigned head was taken: %+v", info)
		}
	})
}
