package legacytls

import (
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"
)

func put(s *Sessions, n byte) *session {
	v := &session{id: sessionID{n}, version: tls.VersionTLS10, suite: tls.TLS_RSA_WITH_AES_128_CBC_SHA, master: make([]byte, masterSize)}
	s.put(v)
	return v
}

func TestSessionsAreBounded(t *testing.T) {
	s := NewSessions(3, time.Hour)
	for n := range byte(3) {
		put(s, n)
	}
	if _, ok := s.get([]byte{0: 0, 31: 0}); !ok { // now the one used last
		t.Fatal("the first is gone already")
	}
	put(s, 3)
	for n, want := range map[byte]bool{0: true, 1: false, 2: true, 3: true} {
		id := sessionID{n}
		if _, ok := s.get(id[:]); ok != want {
			t.Errorf("session %d kept: %v", n, ok)
		}
	}
	if s.Len() != 3 {
		t.Errorf("%d sessions", s.Len())
	}
	s.drop(sessionID{9}) // not there
	s.drop(sessionID{2})
	if s.Len() != 2 {
		t.Errorf("%d sessions after one is dropped", s.Len())
	}
	s.Forget()
	if _, ok := s.get(make([]byte, 32)); ok || s.Len() != 0 {
		t.Error("not forgotten")
	}
	for _, id := range [][]byte{nil, {1}, make([]byte, 31)} {
		if _, ok := s.get(id); ok {
			t.Errorf("session for id %x", id)
		}
	}
	s.put(&session{id: sessionID{7}, chain: [][]byte{make([]byte, maxKept), {1}}})
	if s.Len() != 0 {
		t.Error("a chain of any size is kept")
	}
	var none *Sessions
	none.put(&session{})
	none.drop(sessionID{})
	none.Forget()
	if _, ok := none.get(make([]byte, 32)); ok || none.Len() != 0 {
		t.Error("no cache keeps something")
	}
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSessions(0, 0)
		v := put(s, 1)
		time.Sleep(24*time.Hour - time.Second)
		if _, ok := s.get(v.id[:]); !ok {
			t.Error("ended early")
		}
		time.Sleep(2 * time.Second) // use does not prolong
		if _, ok := s.get(v.id[:]); ok || s.Len() != 0 {
			t.Error("lives for ever")
		}
	})
}

// When a session is taken up again and when there is a full handshake instead. Nothing here is an error.
func TestResumption(t *testing.T) {
	id := phoneIdentity()
	for _, tc := range []struct {
		name   string
		auth   tls.ClientAuthType
		cert   *tls.Certificate
		change func(cfg *Config, second *puppet)
		want   bool
	}{
		{"plain", tls.NoClientCert, nil, func(*Config, *puppet) {}, true},
		{"in fragments", tls.NoClientCert, nil, func(_ *Config, q *puppet) { q.fragment = 1 }, true},
		{"with a certificate", tls.RequestClientCert, &id, func(*Config, *puppet) {}, true},
		{"no certificate when asked", tls.RequestClientCert, nil, func(*Config, *puppet) {}, false},
		{"other suite offered as well", tls.NoClientCert, nil, func(_ *Config, q *puppet) {
			q.suites = []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
		}, true},
		{"suite no longer offered", tls.NoClientCert, nil, func(_ *Config, q *puppet) { q.suites = []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA} }, false},
		{"other version", tls.NoClientCert, nil, func(_ *Config, q *puppet) { q.version = tls.VersionTLS11 }, false},
		{"other id", tls.NoClientCert, nil, func(_ *Config, q *puppet) { q.resume.id[0] ^= 1 }, false},
		{"forgotten", tls.NoClientCert, nil, func(cfg *Config, _ *puppet) { cfg.Sessions.Forget() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := serverConfig()
			cfg.Sessions, cfg.ClientAuth = NewSessions(10, time.Minute), tc.auth
			p, s := newPipe(t, cfg)
			p.cert = tc.cert
			if err := p.handshake(); err != nil {
				t.Fatal(err)
			}
			await(t, s.hands, "handshake")
			q, r := newPipe(t, cfg)
			q.resume = p.session()
			tc.change(cfg, q)
			if err := q.handshake(); err != nil {
				t.Fatal(err)
			}
			await(t, r.hands, "second handshake")
			state := r.server.ConnectionState()
			if state.DidResume != tc.want || !state.HandshakeComplete {
				t.Errorf("%+v", state)
			}
			if tc.cert != nil && (len(state.PeerCertificates) != 1 || !state.PeerCertificates[0].Equal(id.Leaf)) {
				t.Errorf("certificates %v", state.PeerCertificates)
			}
			echoThrough(t, q, "a message")
		})
	}
}

// Who has seen the id of a session on the wire cannot end it by asking for it and failing.
func TestSessionsOutliveStrangers(t *testing.T) {
	cfg := serverConfig()
	cfg.Sessions = NewSessions(10, time.Minute)
	p, s := newPipe(t, cfg)
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	await(t, s.hands, "handshake")
	q, r := newPipe(t, cfg)
	q.resume = &session{id: sessionID(p.agreed.SessionID), master: make([]byte, masterSize)}
	if err := q.handshake(); err == nil {
		t.Fatal("resumed without the secret")
	}
	q.record(typeHandshake, []byte{1, 2, 3})
	if err := await(t, r.hands, "second handshake"); err == nil {
		t.Fatal("served")
	}
	if cfg.Sessions.Len() != 1 {
		t.Error("the session is gone")
	}
}

// A certificate that was remembered does not help where none is asked for any more, nor the other way round.
func TestSessionsOfOtherPolicies(t *testing.T) {
	sessions := NewSessions(10, time.Minute)
	id := phoneIdentity()
	handshake := func(auth tls.ClientAuthType, resume *session) (*puppet, tls.ConnectionState) {
		cfg := serverConfig()
		cfg.Sessions, cfg.ClientAuth = sessions, auth
		p, s := newPipe(t, cfg)
		p.cert, p.resume = &id, resume
		if err := p.handshake(); err != nil {
			t.Fatal(err)
		}
		await(t, s.hands, "handshake")
		return p, s.server.ConnectionState()
	}
	with, _ := handshake(tls.RequestClientCert, nil)
	without, _ := handshake(tls.NoClientCert, nil)
	if _, s := handshake(tls.NoClientCert, with.session()); s.DidResume {
		t.Error("a session with a certificate where none is asked for")
	}
	if _, s := handshake(tls.RequestClientCert, without.session()); s.DidResume || len(s.PeerCertificates) != 1 {
		t.Error("a session without a certificate where one is asked for")
	}
}
