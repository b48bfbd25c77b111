package cbc

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"errors"
	"fmt"
	"slices"
	"testing"
)

var (
	testKey = bytes.Repeat([]byte{0x4b}, 16)
	testMAC = bytes.Repeat([]byte{0x6d}, 20)
	testIV  = bytes.Repeat([]byte{0x69}, 16)
	head    = Header{Sequence: 7, Type: 23, Version: 0x0301}
)

func kinds(t *testing.T, run func(t *testing.T, iv []byte)) {
	t.Run("chained", func(t *testing.T) { run(t, testIV) })
	t.Run("explicit", func(t *testing.T) { run(t, nil) })
}

func text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}

func pair(t testing.TB, iv []byte) (*Sealer, *Opener) {
	t.Helper()
	s, err := NewSealer(testKey, testMAC, iv)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(testKey, testMAC, iv)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func TestRoundTrip(t *testing.T) {
	kinds(t, func(t *testing.T, iv []byte) {
		for _, key := range []int{16, 32} {
			s, err := NewSealer(make([]byte, key), testMAC, iv)
			if err != nil {
				t.Fatal(err)
			}
			o, err := NewOpener(make([]byte, key), testMAC, iv)
			if err != nil {
				t.Fatal(err)
			}
			h := head
			for n := range 700 {
				h.Sequence++
				record := s.Seal([]byte("before"), h, text(n))
				if len(record) > len("before")+n+Overhead {
					t.Fatalf("%d bytes of payload make %d", n, len(record))
				}
				got, err := o.Open(h, bytes.TrimPrefix(record, []byte("before")))
				if err != nil || !bytes.Equal(got, text(n)) {
					t.Fatalf("key of %d, payload of %d: %x, %v", key, n, got, err)
				}
			}
			if got, err := o.Open(h, s.Seal(nil, h, text(16384))); err != nil || len(got) != 16384 {
				t.Errorf("a full record: %d, %v", len(got), err)
			}
		}
	})
}

func TestKeysOfOtherLengths(t *testing.T) {
	for _, tc := range []struct {
		name         string
		key, mac, iv int
	}{{"key", 24 + 1, 20, 16}, {"no key", 0, 20, 16}, {"MAC key", 16, 19, 16}, {"IV", 16, 20, 15}, {"empty IV", 16, 20, 0}} {
		if s, err := NewSealer(make([]byte, tc.key), make([]byte, tc.mac), make([]byte, tc.iv)); err == nil {
			t.Errorf("%s: %v", tc.name, s)
		}
		if o, err := NewOpener(make([]byte, tc.key), make([]byte, tc.mac), make([]byte, tc.iv)); err == nil {
			t.Errorf("%s: %v", tc.name, o)
		}
	}
}

// raw encrypts what a peer may have put together in any way: explicit IV, then body as it stands.
func raw(t testing.TB, body []byte) []byte {
	t.Helper()
	b, err := aes.NewCipher(testKey)
	if err != nil {
		t.Fatal(err)
	}
	out := append(bytes.Clone(testIV), body...)
	cipher.NewCBCEncrypter(b, testIV).CryptBlocks(out[BlockSize:], body)
	return out
}

// reference is the MAC by crypto/hmac.
func reference(h Header, payload []byte) []byte {
	var b [headerSize]byte
	h.put(&b, len(payload))
	m := hmac.New(sha1.New, testMAC)
	m.Write(b[:])
	m.Write(payload)
	return m.Sum(nil)
}

func padded(body []byte, pad int) []byte {
	return append(body, bytes.Repeat([]byte{byte(pad - 1)}, pad)...)
}

// Peers may pad by up to 256 bytes (RFC 2246 §6.2.3.2), and some do.
func TestAllPaddings(t *testing.T) {
	_, o := pair(t, nil)
	for n := range 200 {
		for pad := 1; pad <= 256; pad++ {
			if (n+MACSize+pad)%BlockSize != 0 {
				continue
			}
			got, err := o.Open(head, raw(t, padded(append(text(n), reference(head, text(n))...), pad)))
			if err != nil || !bytes.Equal(got, text(n)) {
				t.Fatalf("payload of %d, padding of %d: %v", n, pad, err)
			}
		}
	}
}

// The MAC over a secret length is that of crypto/hmac for every length that a record may hold.
func TestMACOfAnyLength(t *testing.T) {
	m, err := newMACer(testMAC)
	if err != nil {
		t.Fatal(err)
	}
	for size := minBody; size <= 800; size += BlockSize {
		body := text(size)
		for n := lowest(body); n <= size-MACSize-1; n++ {
			if got := m.sum(head, body, n); !bytes.Equal(got[:], reference(head, body[:n])) {
				t.Fatalf("body of %d, payload of %d: %x", size, n, got)
			}
			if got := collect(body, n); !bytes.Equal(got[:], body[n:n+MACSize]) {
				t.Fatalf("body of %d, payload of %d: collected %x", size, n, got)
			}
		}
	}
}

// counted notes what is hashed.
type counted struct {
	resumable
	work []string
}

func (c *counted) Write(b []byte) (int, error) {
	c.work = append(c.work, fmt.Sprint("write ", len(b)))
	return c.resumable.Write(b)
}

func (c *counted) AppendBinary(b []byte) ([]byte, error) {
	c.work = append(c.work, "state")
	return c.resumable.AppendBinary(b)
}

// Records of one length cost the same hashing, block by block, whatever is in them: good ones, a wrong MAC, padding that is
// too long, padding with one wrong byte, and each number of bytes of padding.
func TestSameWorkForAll(t *testing.T) {
	_, o := pair(t, nil)
	c := &counted{resumable: o.mac.h}
	o.mac.h = c
	for _, size := range []int{minBody, 48, 64, 256, 272, 288, 304, 320, 1024, 1040, 16384 + 32} {
		var want []string
		check := func(name string, good bool, body []byte) {
			t.Helper()
			c.work = nil
			_, err := o.Open(head, raw(t, body))
			if good != (err == nil) || err != nil && err != ErrRecord {
				t.Errorf("%d bytes, %s: %v", size, name, err)
			}
			if want == nil {
				want = c.work
			}
			if !slices.Equal(c.work, want) {
				t.Errorf("%d bytes, %s: work is %v, for others %v", size, name, c.work, want)
			}
		}
		for pad := 1; pad <= min(maxPadding, size-MACSize); pad++ {
			n := size - MACSize - pad
			body := padded(append(text(n), reference(head, text(n))...), pad)
			check(fmt.Sprint("padding ", pad), true, body)
			wrong := bytes.Clone(body)
			wrong[n] ^= 1
			check(fmt.Sprint("wrong MAC, padding ", pad), false, wrong)
			if pad > 1 {
				wrong = bytes.Clone(body)
				wrong[size-pad] ^= 0x80
				check(fmt.Sprint("wrong padding ", pad), false, wrong)
			}
			wrong = bytes.Clone(body)
			wrong[size-1] ^= 0x55
			check(fmt.Sprint("other claim, padding ", pad), false, wrong)
		}
		check("zeros", false, make([]byte, size))
	}
}

func TestEveryBitCounts(t *testing.T) {
	kinds(t, func(t *testing.T, iv []byte) {
		for _, n := range []int{0, 1, 11, 12, 40, 300} {
			s, _ := pair(t, iv)
			record := s.Seal(nil, head, text(n))
			for i := range record {
				for _, bit := range []byte{1, 0x80} {
					_, o := pair(t, iv)
					b := bytes.Clone(record)
					b[i] ^= bit
					if _, err := o.Open(head, b); err != ErrRecord {
						t.Fatalf("payload of %d, byte %d: %v", n, i, err)
					}
				}
			}
			for i := range record {
				_, o := pair(t, iv)
				if _, err := o.Open(head, bytes.Clone(record[:i])); err != ErrRecord {
					t.Fatalf("payload of %d cut at %d: %v", n, i, err)
				}
			}
			for name, h := range map[string]Header{"sequence": {8, 23, 0x0301}, "type": {7, 22, 0x0301}, "version": {7, 23, 0x0302}} {
				_, o := pair(t, iv)
				if _, err := o.Open(h, bytes.Clone(record)); err != ErrRecord {
					t.Errorf("other %s: %v", name, err)
				}
			}
		}
	})
}

// Two records of one text differ: the chained kind goes on from the last block, the explicit one throws dice.
func TestRecordsDiffer(t *testing.T) {
	kinds(t, func(t *testing.T, iv []byte) {
		s, _ := pair(t, iv)
		if a, b := s.Seal(nil, head, text(64)), s.Seal(nil, head, text(64)); bytes.Equal(a, b) {
			t.Error("the same record twice")
		}
	})
}

// Records of the explicit kind are opened whatever came before, as datagrams must be.
func TestExplicitRecordsStandAlone(t *testing.T) {
	s, o := pair(t, nil)
	first, second := s.Seal(nil, head, text(40)), s.Seal(nil, head, text(50))
	if got, err := o.Open(head, second); err != nil || !bytes.Equal(got, text(50)) {
		t.Errorf("the second alone: %v", err)
	}
	if _, err := o.Open(head, make([]byte, 96)); err != ErrRecord {
		t.Errorf("a forged one: %v", err)
	}
	if got, err := o.Open(head, first); err != nil || !bytes.Equal(got, text(40)) {
		t.Errorf("the first after it: %v", err)
	}
}

func TestSealInPlace(t *testing.T) {
	kinds(t, func(t *testing.T, iv []byte) {
		for n := range 100 {
			s, o := pair(t, iv)
			at := 13
			if iv == nil {
				at += BlockSize
			}
			buf := make([]byte, 13+n+Overhead)
			payload := buf[at : at+n]
			copy(payload, text(n))
			record := s.Seal(buf[:13], head, payload)
			if &record[0] != &buf[0] {
				t.Fatal("moved")
			}
			if got, err := o.Open(head, record[13:]); err != nil || !bytes.Equal(got, text(n)) {
				t.Fatalf("payload of %d: %v", n, err)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(false, text(32))
	f.Add(true, text(16+minBody))
	f.Add(true, text(17))
	f.Fuzz(func(t *testing.T, explicit bool, body []byte) {
		iv := testIV
		if explicit {
			iv = nil
		}
		s, o := pair(t, iv)
		if got, err := o.Open(head, bytes.Clone(body)); err == nil {
			t.Fatalf("opened a record that nobody sealed: %x", got)
		} else if !errors.Is(err, ErrRecord) {
			t.Fatal(err)
		}
		_, o = pair(t, iv)
		if got, err := o.Open(head, s.Seal(nil, head, body)); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%x, %v", got, err)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{64, 1290, 16384} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, o := pair(b, nil)
			record := s.Seal(nil, head, text(n))
			buf := make([]byte, len(record))
			b.SetBytes(int64(n))
			for b.Loop() {
				copy(buf, record)
				if _, err := o.Open(head, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	s, _ := pair(b, nil)
	payload := text(1290)
	buf := make([]byte, 0, 2048)
	b.SetBytes(1290)
	for b.Loop() {
		buf = s.Seal(buf[:0], head, payload)
	}
}
