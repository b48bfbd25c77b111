package dtls

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	piondtls "github.com/pion/dtls/v2"

	"ringfence/vpn/tunnel"
)

// twin starts an endpoint at an address that another one has left.
func twin(t *testing.T, listen string) *Endpoint {
	t.Helper()
	e, err := New(Options{Listen: listen, Write: func(*tunnel.Batch) {}})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	return e
}

// TestTakeover lets a second endpoint, which has the first one's address and what it noted of its channel, go on: the client, which
// knows of nothing, is heard and hears, and nothing is accepted twice.
func TestTakeover(t *testing.T) {
	type dialled func(t *testing.T, e *Endpoint, ag *Agreement) net.Conn
	old := func(t *testing.T, e *Endpoint, ag *Agreement) net.Conn {
		o := dialOld(t, e, ag)
		if err := o.resume(); err != nil {
			t.Fatal(err)
		}
		return o
	}
	peer := func(suite piondtls.CipherSuiteID) dialled {
		return func(t *testing.T, e *Endpoint, ag *Agreement) net.Conn { return pion(t, e, ag, suite) }
	}
	for _, c := range []struct {
		kind   Kind
		suite  uint16
		secret int
		dial   dialled
	}{
		{Legacy, 0x0035, 48, old},
		{Resume, 0x009d, 48, old},
		{Resume, 0xc02f, 48, peer(piondtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)},
		{PSK, 0x00a8, 32, peer(piondtls.TLS_PSK_WITH_AES_128_GCM_SHA256)},
	} {
		t.Run(fmt.Sprintf("%v %#04x", c.kind, c.suite), func(t *testing.T) {
			first := twin(t, "127.0.0.1:0")
			ag, h := agreement(c.kind, c.suite, c.secret)
			first.Agree(ag)
			p := c.dial(t, first, ag)
			conn := wait(t, h.up, "channel")
			exchange(t, first, p, conn, h)
			state, ok := conn.State()
			if !ok {
				t.Fatal("the channel has no state")
			}
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), first.Port())
			first.Stop()
			raw, err := json.Marshal(state) // as it goes over a link
			if err != nil {
				t.Fatal(err)
			}
			var copied State
			if err := json.Unmarshal(raw, &copied); err != nil {
				t.Fatal(err)
			}
			second := twin(t, at.String())
			defer second.Stop()
			h2 := newHandler()
			taken, err := second.Adopt(copied, h2)
			if err != nil {
				t.Fatal(err)
			}
			if got := wait(t, h2.up, "channel"); got != taken {
				t.Error("another channel came up")
			}
			exchange(t, second, p, taken, h2)
			if s := second.Stats(); s.Handshakes != 0 || s.Channels != 1 || s.Bad != 0 {
				t.Errorf("stats %+v", s)
			}
			if next, ok := taken.State(); !ok || next.Sent < state.Sent+ahead {
				t.Errorf("numbers go on at %d, the first endpoint had come to %d", next.Sent, state.Sent)
			}
			if _, err := second.Adopt(copied, h2); err == nil {
				t.Error("a channel is taken over twice")
			}
		})
	}
}

// TestTakeoverRefusesReplays sends a record to the second endpoint that the first one had accepted.
func TestTakeoverRefusesReplays(t *testing.T) {
	first := twin(t, "127.0.0.1:0")
	ag, h := agreement(Resume, 0x009d, 48)
	first.Agree(ag)
	o := dialOld(t, first, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	conn := wait(t, h.up, "channel")
	rec := o.seal(typeData, []byte{0, 1, 2, 3})
	if _, err := o.c.Write(rec); err != nil {
		t.Fatal(err)
	}
	wait(t, h.data, "payload")
	<-h.place
	state, _ := conn.State()
	at := fmt.Sprintf("127.0.0.1:%d", first.Port())
	first.Stop()
	second := twin(t, at)
	defer second.Stop()
	h2 := newHandler()
	if _, err := second.Adopt(state, h2); err != nil {
		t.Fatal(err)
	}
	if _, err := o.c.Write(rec); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); second.Stats().Bad == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the copy is not counted")
		}
	}
	if len(h2.data) > 0 {
		t.Error("a copy of a record is accepted by the second endpoint")
	}
}

func TestTakeoverRefusesNonsense(t *testing.T) {
	e := endpoint(t)
	good := State{Kind: Resume, Suite: 0x009d, Master: make([]byte, 48), Client: make([]byte, 32), Server: make([]byte, 32), Remote: netip.MustParseAddrPort("127.0.0.1:9")}
	for name, change := range map[string]func(*State){
		"suite":  func(s *State) { s.Suite = 1 },
		"kind":   func(s *State) { s.Kind = 9 },
		"master": func(s *State) { s.Master = s.Master[1:] },
		"random": func(s *State) { s.Client = nil },
		"remote": func(s *State) { s.Remote = netip.AddrPort{} },
		"worn":   func(s *State) { s.Sent = maxSeq },
	} {
		s := good
		if change(&s); func() error { _, err := e.Adopt(s, newHandler()); return err }() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
