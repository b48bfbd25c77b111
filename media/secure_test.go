package media

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
)

func TestSRTP(t *testing.T) {
	for _, suite := range Suites() {
		t.Run(suite.String(), func(t *testing.T) {
			e := engine(t)
			a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
			r := pa.remote(pcmu)
			r.RecvKey, r.SendKey = NewKey(suite), NewKey(suite)
			set(t, a, r)
			in, out := contextOf(t, r.RecvKey), contextOf(t, r.SendKey)

			pa.say(0, "in clear")
			wait(t, "clear packet refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
			sealed := seal(t, in, pa.packet(0, "secret"))
			pa.write(sealed)
			pb.expect(0, "secret")
			pa.write(sealed)
			wait(t, "replay refused", func() bool { return a.Stats().Rx.Replayed == 1 })
			forged := seal(t, in, pa.packet(0, "secret"))
			forged[len(forged)-1] ^= 1
			pa.write(forged)
			wait(t, "forged packet refused", func() bool { return a.Stats().Rx.Unprotected == 2 })

			pb.say(0, "reply")
			got := pa.read()
			if bytes.Contains(got, []byte("reply")) {
				t.Fatal("sent in clear")
			}
			plain, err := out.DecryptRTP(nil, got, nil)
			if err != nil || string(plain[rtpHeaderLen:]) != "reply" {
				t.Fatalf("decrypted %q, %v", plain, err)
			}
			want := map[Suite]int{CM128SHA32: 4, CM128SHA80: 10, AEAD128GCM: 16, AEAD256GCM: 16}[suite]
			if tag := len(got) - len(plain); tag != want {
				t.Errorf("tag of %d octets, want %d", tag, want)
			}
			if !a.Stats().Secure {
				t.Error("not reported as secure")
			}
		})
	}
}

func contextOf(t testing.TB, k Key) *srtp.Context {
	t.Helper()
	c, err := k.context()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func seal(t testing.TB, c *srtp.Context, b []byte) []byte {
	t.Helper()
	out, err := c.EncryptRTP(nil, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRekeyKeepsTheOldKeyForASecond(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey, r.SendKey = NewKey(CM128SHA80), NewKey(CM128SHA80)
	set(t, a, r)
	before := contextOf(t, r.RecvKey)
	pa.write(seal(t, before, pa.packet(0, "1")))
	pb.expect(0, "1")
	set(t, a, r) // the same again: the state of the key goes on
	pa.write(seal(t, before, pa.packet(0, "2")))
	pb.expect(0, "2")

	r.RecvKey = NewKey(AEAD256GCM)
	set(t, a, r)
	after := contextOf(t, r.RecvKey)
	pa.write(seal(t, after, pa.packet(0, "new")))
	pb.expect(0, "new")
	pa.write(seal(t, before, pa.packet(0, "late")))
	pb.expect(0, "late")
	a.rx.Lock()
	a.rx.oldUntil = 1 // the second is over
	a.rx.Unlock()
	pa.write(seal(t, before, pa.packet(0, "too late")))
	wait(t, "old key refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
}

func TestAuthenticatedPacketMovesTheLatch(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey = NewKey(CM128SHA32)
	set(t, a, r)
	in := contextOf(t, r.RecvKey)
	for range 2 {
		moved, intruder := listen(t), listen(t)
		writeFrom(t, intruder, pa.to, pa.packet(0, "in clear"))
		writeFrom(t, moved, pa.to, seal(t, in, pa.packet(0, "moved")))
		pb.expect(0, "moved")
		pb.say(0, "answer")
		if got := readFrom(t, moved); string(got[rtpHeaderLen:]) != "answer" {
			t.Fatalf("heard %q", got)
		}
	}
}

func TestSourcesOfOneKeyAreBounded(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey = NewKey(CM128SHA80)
	set(t, a, r)
	in := contextOf(t, r.RecvKey)
	for i := range maxSources {
		pa.ssrc = uint32(i + 1)
		pa.write(seal(t, in, pa.packet(0, "x")))
		pb.hear()
	}
	pa.ssrc++
	pa.write(seal(t, in, pa.packet(0, "x")))
	wait(t, "one source too many refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
}

func TestProtectedReports(t *testing.T) {
	e := engine(t, func(o *Options) { o.ReportEvery = 50 * time.Millisecond })
	for _, suite := range Suites() {
		s := session(t, e)
		p := newParty(t, s)
		r := p.remote(pcmu)
		r.SendKey, r.RecvKey = NewKey(suite), NewKey(suite)
		set(t, s, r)
		plain, err := contextOf(t, r.SendKey).DecryptRTCP(nil, readFrom(t, p.ctl), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rtcp.Unmarshal(plain); err != nil {
			t.Fatal(err)
		}
		raw, _ := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 7}})
		sealed, err := contextOf(t, r.RecvKey).EncryptRTCP(nil, raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctl := netip.AddrPortFrom(loopback, uint16(s.LocalPort()+1))
		writeFrom(t, p.ctl, ctl, raw)
		writeFrom(t, p.ctl, ctl, sealed)
		writeFrom(t, p.ctl, ctl, sealed)
		wait(t, "one of three taken", func() bool {
			st := s.Stats().Rx
			return st.Reports == 1 && st.Unprotected == 1 && st.Replayed == 1
		})
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := NewKey(CM128SHA80)
	for _, s := range []string{k.String(), k.GoString(), k.LogValue().String()} {
		if s != "AES_CM_128_HMAC_SHA1_80 [redacted]" {
			t.Errorf("printed %q", s)
		}
	}
	if _, err := KeyFrom(CM128SHA80, make([]byte, 29)); err == nil {
		t.Error("took a short key")
	}
	if got, err := KeyFrom(k.Suite(), k.Material()); err != nil || !got.Equal(k) {
		t.Errorf("key did not survive, %v", err)
	}
}
