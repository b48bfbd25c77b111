package dtls

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"ringfence/vpn/tunnel"
)

func TestWindow(t *testing.T) {
	var w window
	for _, c := range []struct {
		seq  uint64
		want bool
	}{{5, true}, {5, false}, {3, true}, {3, false}, {4, true}, {0, true}, {70, true}, {6, false}, {7, true}, {69, true}, {70, false}, {200, true}, {70, false}, {137, true}, {136, false}, {199, true}} {
		if got := w.fresh(c.seq); got != c.want {
			t.Errorf("fresh(%d) = %v, want %v", c.seq, got, c.want)
		}
		if c.want {
			w.see(c.seq)
		}
	}
}

// The vectors of the P_hash based PRF of TLS 1.2 that were published on the TLS mailing list.
func TestPRF(t *testing.T) {
	x := func(s string) []byte { b, _ := hex.DecodeString(s); return b }
	for _, c := range []struct {
		s                  *suite
		secret, seed, want string
	}{
		{suites[0x009c], "9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c", "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66"},
		{suites[0x009d], "b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465", "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d9184259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e0990703d73e56f"},
	} {
		want := x(c.want)
		if got := c.s.prf(Resume, x(c.secret), "test label", x(c.seed), len(want)); !bytes.Equal(got, want) {
			t.Errorf("%s: %x", c.s.name, got)
		}
	}
}

func protections(t testing.TB, id uint16, k Kind) (seal, open protection) {
	t.Helper()
	s := suites[id]
	a, _, err := s.keys(k, bytes.Repeat([]byte{1}, 48), make([]byte, 32), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, _, _ := s.keys(k, bytes.Repeat([]byte{1}, 48), make([]byte, 32), make([]byte, 32))
	return a, b
}

func sealed(t testing.TB, p protection, payload []byte, seq uint64) []byte {
	t.Helper()
	front, back := p.room()
	buf := make([]byte, headerLen+front+len(payload)+back)
	copy(buf[headerLen+front:], payload)
	rec, err := p.seal(buf, headerLen+front, len(payload), typeData, Version12, 1, seq)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestRecordsOfAllSuites(t *testing.T) {
	for id, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			seal, open := protections(t, id, Resume)
			for n := range 70 {
				want := bytes.Repeat([]byte{byte(n)}, n)
				rec := sealed(t, seal, want, uint64(n))
				if k := len(rec) - n; k > Overhead(Resume, id)-1 {
					t.Errorf("payload of %d costs %d, more than announced", n, k)
				}
				for bit := range 8 * len(rec) {
					if n > 3 && bit%97 != 0 { // all bits of short ones, some of the others
						continue
					}
					bad := bytes.Clone(rec)
					bad[bit/8] ^= 1 << (bit % 8)
					r, _, err := nextRecord(bad)
					if err != nil {
						continue
					}
					if _, err := open.open(nil, &r); err == nil && r.typ == typeData {
						t.Fatalf("payload of %d with bit %d changed opens", n, bit)
					}
				}
				r, rest, err := nextRecord(rec)
				if err != nil || len(rest) != 0 {
					t.Fatal(err)
				}
				got, err := open.open(nil, &r)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("payload of %d: %x, %v", n, got, err)
				}
			}
		})
	}
}

func TestChoose(t *testing.T) {
	oc := []string{"PSK-NEGOTIATE", "OC-DTLS1_2-AES256-GCM", "DHE-RSA-AES256-SHA", "AES256-SHA", "AES128-SHA"}
	oc12 := []string{"ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-GCM-SHA256", "DHE-RSA-AES256-SHA", "AES256-SHA"}
	for _, c := range []struct {
		name          string
		legacy, new12 []string
		exporter      bool
		tls           string
		kind          Kind
		cipher        string
	}{
		{"openconnect", oc, oc12, true, "", PSK, "PSK-NEGOTIATE"},
		{"openconnect on TLS 1.2 without exporter", oc, oc12, false, "", Resume, "ECDHE-RSA-AES256-GCM-SHA384"},
		{"newer phone takes the cipher of its TLS", nil, oc12, false, "ECDHE-RSA-AES128-GCM-SHA256", Resume, "ECDHE-RSA-AES128-GCM-SHA256"},
		{"old phone", []string{"AES256-SHA", "AES128-SHA"}, nil, false, "AES128-SHA", Legacy, "AES128-SHA"},
		{"old phone on another TLS cipher", []string{"AES128-SHA", "AES256-SHA"}, nil, false, "ECDHE-RSA-AES128-SHA", Legacy, "AES256-SHA"},
		{"nothing in common", []string{"DES-CBC3-SHA"}, []string{"CAMELLIA"}, true, "", 0, ""},
	} {
		k, _, name, ok := Choose(c.legacy, c.new12, c.exporter, c.tls)
		if k != c.kind || name != c.cipher || ok != (c.kind != 0) {
			t.Errorf("%s: %v %s", c.name, k, name)
		}
	}
}

func TestPartials(t *testing.T) {
	from, other := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	now := time.Unix(1e9, 0)
	frag := func(off, n int) *fragment {
		return &fragment{typ: 1, length: 30, offset: off, body: bytes.Repeat([]byte{byte(off)}, n)}
	}
	var p partials
	if _, ok := p.add(from, frag(10, 10), now); ok || len(p.list) != 0 {
		t.Error("a later fragment began a message")
	}
	p.add(from, frag(0, 10), now)
	if _, ok := p.add(other, frag(10, 20), now); ok {
		t.Error("another address went on with it")
	}
	p.add(from, frag(10, 10), now)
	m, ok := p.add(from, frag(20, 10), now)
	if !ok || !m.whole() || m.body[29] != 20 {
		t.Errorf("joined %+v, %v", m, ok)
	}
	for i := range 1000 {
		p.add(netip.AddrPortFrom(other.Addr(), uint16(i+10)), frag(0, 10), now)
	}
	if len(p.list) > maxPartials {
		t.Errorf("%d partial messages kept", len(p.list))
	}
	p.add(from, frag(0, 10), now.Add(partialLife))
	if len(p.list) != 1 {
		t.Errorf("%d partial messages kept after their life", len(p.list))
	}
}

func TestQueueJoins(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	var q queue
	add := func(to netip.AddrPort, tos byte, n int) { q.add(to, netip.Addr{}, tos, make([]byte, n)) }
	for range 3 {
		add(a, 0, 100)
	}
	add(a, 0, 50)  // the short last one
	add(a, 0, 100) // begins anew
	add(b, 0, 100)
	add(b, 46<<2, 100)
	add(b, 46<<2, 100)
	add(b, 0, 100) // not behind the other b in the array: alone
	for range maxSegs + 1 {
		add(a, 0, 10)
	}
	show := func(gso bool) (s string) {
		for _, m := range q.messages(gso) {
			s += fmt.Sprintf("%d:%d*%d ", m.to.Port(), len(m.segs), len(m.segs[0]))
		}
		return s
	}
	if got, want := show(true), "2:2*100 1:4*100 1:1*100 2:1*100 2:1*100 1:64*10 1:1*10 "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := len(q.messages(false)); n != 3+1+1+1+2+1+maxSegs+1 {
		t.Errorf("%d messages without joining", n)
	}
	q.reset()
	if len(q.messages(true)) != 0 {
		t.Error("not empty after reset")
	}
}

func FuzzClientHello(f *testing.F) {
	ag := &Agreement{ID: [32]byte{1}}
	body, _ := clientHelloFor(ag, Version12, [32]byte{2}, 0x00a9, 0x00ff)
	f.Add(body)
	f.Add(append(body, 0, 9, 0xff, 0x01, 0, 1, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h clientHello
		if h.Unmarshal(b) != nil {
			return
		}
		if id, ok := h.id(); ok && id == [32]byte{} && !bytes.Contains(b, id[:]) {
			t.Fatal("an id from nowhere")
		}
	})
}

// FuzzDatagram throws datagrams at an endpoint with a channel and agreements of each kind, without a socket's delivery.
func FuzzDatagram(f *testing.F) {
	for _, k := range []Kind{Legacy, Resume, PSK} {
		ag := &Agreement{Kind: k, ID: [32]byte{byte(k)}}
		v := Version12
		if k == Legacy {
			v = VersionLegacy
		}
		f.Add(helloDatagram(ag, v, 0x0035, 0x009c, 0x00a8))
	}
	f.Add([]byte("\x17\xfe\xfd\x00\x01\x00\x00\x00\x00\x00\x00\x00\x18aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
	e, err := New(Options{Listen: "127.0.0.1:0", Write: func(*tunnel.Batch) {}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(e.sock.close)
	for k, id := range map[Kind]uint16{Legacy: 0x0035, Resume: 0x009c, PSK: 0} {
		ag := &Agreement{Kind: k, Suite: id, ID: [32]byte{byte(k)}, Secret: make([]byte, 48), Handler: newHandler()}
		e.Agree(ag)
		ag.hellos = rate.NewLimiter(rate.Inf, 1)
	}
	b := tunnel.NewBatch()
	at := netip.MustParseAddrPort("127.0.0.1:9")
	f.Fuzz(func(t *testing.T, d []byte) {
		e.datagram(inbound{b: d, from: at}, b, time.Now())
		if s := e.Stats(); s.Channels > 0 || s.Pending > maxPending {
			t.Fatalf("stats %+v", s)
		}
	})
}
