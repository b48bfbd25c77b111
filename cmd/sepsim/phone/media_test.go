package phone

import (
	"net/netip"
	"testing"
)

// Two ends of one call without a server between them: keys, reports and what happens when the keys differ.
func TestMediaPair(t *testing.T) {
	for _, suite := range []string{"", suite80, suite32, suiteGCM128, suiteGCM256} {
		t.Run("suite "+suite, func(t *testing.T) {
			w := newWorld(t)
			p := w.phone()
			conf := &Config{MediaFirst: 20000, MediaTo: 30000}
			a, b := newMedia(p), newMedia(p)
			for _, m := range []*media{a, b} {
				if err := m.open(conf, loopback); err != nil {
					t.Fatal(err)
				}
				defer m.close()
			}
			connect := func(from, to *media, out, in *cryptoLine) {
				t.Helper()
				err := from.set(agreed{remote: netip.AddrPortFrom(loopback, uint16(to.port)), codec: "PCMA", pt: 8, dtmf: 101, send: true, out: out, in: in})
				if err != nil {
					t.Fatal(err)
				}
			}
			var ka, kb *cryptoLine
			if suite != "" {
				x, y := newCrypto(1, suite), newCrypto(1, suite)
				ka, kb = &x, &y
			}
			connect(a, b, ka, kb)
			connect(b, a, kb, ka)
			heard := func(m *media, n int) bool { return m.audio().Received >= n }
			if err := p.Wait(w.ctx(), func() bool { return heard(a, 20) && heard(b, 20) }); err != nil {
				t.Fatalf("a %s, b %s", a.audio(), b.audio())
			}
			a.report()
			waitFor(t, func() bool { return b.audio().Reports == 1 })
			if got := b.audio(); got.AuthFailures != 0 || got.Malformed != 0 || got.Suite != suite {
				t.Errorf("%+v", got)
			}
			if suite == "" {
				return
			}
			// b now expects another key: after the second that old keys are good for, nothing of a is believed.
			wrong := newCrypto(1, suite)
			connect(b, a, kb, &wrong)
			b.mu.Lock()
			b.oldEnds = b.begun
			b.mu.Unlock()
			before := b.audio().Received
			waitFor(t, func() bool { return b.audio().AuthFailures > 5 })
			if got := b.audio().Received; got > before+1 {
				t.Errorf("%d packets believed under a wrong key", got-before)
			}
		})
	}
}

// The keys before a change of keys are good for a second more (calls §30).
func TestOldKeysLinger(t *testing.T) {
	w := newWorld(t)
	p := w.phone()
	m := newMedia(p)
	if err := m.open(&Config{MediaFirst: 20000, MediaTo: 30000}, loopback); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	peer := newMedia(p)
	if err := peer.open(&Config{MediaFirst: 20000, MediaTo: 30000}, loopback); err != nil {
		t.Fatal(err)
	}
	defer peer.close()
	k1, k2, k3 := newCrypto(1, suite80), newCrypto(1, suite80), newCrypto(1, suite80)
	at := func(x *media) netip.AddrPort { return netip.AddrPortFrom(loopback, uint16(x.port)) }
	for _, set := range []func() error{
		func() error { return peer.set(agreed{remote: at(m), codec: "PCMU", send: true, out: &k1, in: &k3}) },
		func() error { return m.set(agreed{remote: at(peer), codec: "PCMU", out: &k3, in: &k1}) },
		func() error { return m.set(agreed{remote: at(peer), codec: "PCMU", out: &k3, in: &k2}) },
	} {
		if err := set(); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return m.audio().Received >= 5 })
	if n := m.audio().AuthFailures; n != 0 {
		t.Errorf("%d packets under the old key refused within its second", n)
	}
}
