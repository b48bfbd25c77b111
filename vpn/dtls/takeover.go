package dtls

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// State is an established channel as another endpoint can go on with it: the other appliance of a pair that takes the address over, or
// this one after a restart. It holds the channel's secret.
type State struct {
	Kind   Kind           `json:"kind"`
	Suite  uint16         `json:"suite"`
	Master []byte         `json:"master"`
	Client []byte         `json:"client_random"`
	Server []byte         `json:"server_random"`
	Sent   uint64         `json:"sent"` // our next sequence number when this was noted
	Seen   uint64         `json:"seen"` // the client's highest, plus one
	Remote netip.AddrPort `json:"remote"`
	Peer   netip.Addr     `json:"peer"` // the client's address on TCP
}

// ahead is how much further the numbers begin with which another endpoint sends: more than the first one can have sent since
// the state was noted, so that no number is used twice (for GCM that would be the end of the key). 48 bits have room for
// 65,000 of these.
const ahead = 1 << 32

var errState = errors.New("channel state is not usable")

// State notes the channel; ok is false while it is not established, and when it is over.
func (c *Conn) State() (s State, ok bool) {
	c.e.mu.RLock()
	defer c.e.mu.RUnlock()
	if !c.up || c.closed.Load() {
		return State{}, false
	}
	s = State{Kind: c.hs.kind, Suite: c.hs.suite.id, Master: c.hs.master, Client: c.hs.random[:], Server: c.hs.serverRandom[:], Seen: c.top.Load(), Peer: c.ag.Peer}
	c.mu.Lock()
	s.Sent, s.Remote = c.epoch1, c.remote
	c.mu.Unlock()
	return s, true
}

// Adopt goes on with a channel. Records that the client sent before the state was noted are refused; of those it sent since, a copy
// may be accepted that the first endpoint had accepted already.
func (e *Endpoint) Adopt(s State, h Handler) (*Conn, error) {
	suite := suites[s.Suite]
	if suite == nil || s.Kind < Legacy || s.Kind > PSK || len(s.Master) != 48 || len(s.Client) != 32 || len(s.Server) != 32 || !s.Remote.IsValid() || s.Seen > maxSeq ||
		s.Sent+ahead > maxSeq {
		return nil, fmt.Errorf("adopt: %w", errState)
	}
	hs := &handshake{kind: s.Kind, suite: suite, state: hsDone, random: [32]byte(s.Client), serverRandom: [32]byte(s.Server), master: append([]byte(nil), s.Master...)}
	if err := hs.derive(); err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	c := &Conn{e: e, ag: &Agreement{Kind: s.Kind, Suite: s.Suite, Peer: s.Peer, Handler: h}, hs: hs, in: hs.in, out: hs.out, up: true, since: time.Now(),
		win: window{top: s.Seen, bits: ^uint64(0)}, remote: s.Remote, epoch1: s.Sent + ahead}
	c.top.Store(s.Seen)
	c.got.Store(s.Seen)
	e.mu.Lock()
	if old := e.peers[s.Remote]; old != nil {
		e.mu.Unlock()
		return nil, fmt.Errorf("adopt: %v has a channel here", s.Remote)
	}
	e.peers[s.Remote] = c
	e.placeLocked(c, s.Remote.Addr())
	e.placeLocked(c, s.Peer)
	e.mu.Unlock()
	h.Up(c)
	return c, nil
}
