package capf

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/legacytls"
	"ringfence/internal/task"
)

// Timeouts of §8. Zero values are replaced by those of DefaultTimeouts.
type Timeouts struct {
	Handshake time.Duration // TLS
	Auth      time.Duration // AUTH_RESPONSE
	Key       time.Duration // KEY_GENERATE_RESPONSE, REQUEST_IN_PROGRESS included
	Answer    time.Duration // STORE, FETCH and DELETE responses
	Write     time.Duration // one message of ours
}

// DefaultTimeouts are what phones are known to live with.
var DefaultTimeouts = Timeouts{
	Handshake: 10 * time.Second, Auth: 15 * time.Second, Key: 180 * time.Second, Answer: 30 * time.Second, Write: 10 * time.Second,
}

func (t Timeouts) withDefaults() Timeouts {
	for _, f := range []struct{ have, def *time.Duration }{
		{&t.Handshake, &DefaultTimeouts.Handshake}, {&t.Auth, &DefaultTimeouts.Auth}, {&t.Key, &DefaultTimeouts.Key},
		{&t.Answer, &DefaultTimeouts.Answer}, {&t.Write, &DefaultTimeouts.Write},
	} {
		if *f.have == 0 {
			*f.have = *f.def
		}
	}
	return t
}

// Options of a Server.
type Options struct {
	Address     string                           // to listen on, host:port; phones know port 3804 unless their file says otherwise
	Certificate func() (*tls.Certificate, error) // the CAPF certificate, asked for at each handshake
	Backend     Backend
	Log         *slog.Logger
	// Note writes a device's boot record; nil writes none.
	Note func(device, step, text string, failed bool)

	// MaxConns and MaxConnsPerAddress bound connections; above them a new one is closed before TLS. Phones behind one NAT
	// share an address. 0 is 2048 and 512.
	MaxConns           int
	MaxConnsPerAddress int
	Timeouts           Timeouts
	// SessionID gives a session its id; nil takes random ones, without which a proof could be replayed. It is there for
	// replaying recorded sessions, whose proofs are bound to theirs.
	SessionID func() uint32

	// Legacy also serves phones that know nothing newer than TLS 1.0 with RSA key exchange (7900 series and older).
	Legacy bool
}

// Stats counts what a server has done since it was made.
type Stats struct {
	Sessions  uint64 // TLS established
	Installed uint64
	Idle      uint64 // nothing was due
	Other     uint64 // fetched, deleted
	Refused   uint64 // END_SESSION 7 or 9
	Lost      uint64 // timeout or connection lost
	Turned    uint64 // closed before TLS because of a limit
	Open      int    // connections now
}

// Server is a CAPF server.
type Server struct {
	opts    Options
	log     *slog.Logger
	ln      net.Listener
	tls     *tls.Config
	legacy  *legacytls.Config // nil: not served
	guesses *guesses

	sessions, installed, idle, other, refused, lost, turned atomic.Uint64

	mu    sync.Mutex
	conns map[net.Conn]netip.Addr
	perIP map[netip.Addr]int
	stop  chan struct{}
	once  sync.Once
}

// New binds the listener; Run serves.
func New(o Options) (*Server, error) {
	if o.Backend == nil || o.Certificate == nil {
		return nil, errors.New("capf: options without backend or certificate")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns == 0 {
		o.MaxConns = 2048
	}
	if o.MaxConnsPerAddress == 0 {
		o.MaxConnsPerAddress = 512
	}
	if o.SessionID == nil {
		o.SessionID = randomID
	}
	o.Timeouts = o.Timeouts.withDefaults()
	s := &Server{
		opts: o, log: o.Log.With("component", "capf"), guesses: newGuesses(),
		conns: make(map[net.Conn]netip.Addr), perIP: make(map[netip.Addr]int), stop: make(chan struct{}),
	}
	s.tls = &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.Certificate() },
		MinVersion:     tls.VersionTLS12,
		// Otherwise the first messages are cut into records of the size of a segment, and the certificate for the phone
		// arrives in two.
		DynamicRecordSizingDisabled: true,
	}
	if o.Legacy {
		s.legacy = &legacytls.Config{Sessions: legacytls.NewSessions(0, 0)}
	}
	var err error
	if s.ln, err = net.Listen("tcp", o.Address); err != nil {
		return nil, fmt.Errorf("capf: listen: %w", err)
	}
	return s, nil
}

// randomID makes a session id: random, so that no proof made for one session fits another (§6.3), and never zero.
func randomID() uint32 {
	var b [4]byte
	for {
		rand.Read(b[:])
		if id := binary.BigEndian.Uint32(b[:]); id != 0 {
			return id
		}
	}
}

// Addr is where the server listens.
func (s *Server) Addr() netip.AddrPort { return s.ln.Addr().(*net.TCPAddr).AddrPort() }

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	return Stats{
		Sessions: s.sessions.Load(), Installed: s.installed.Load(), Idle: s.idle.Load(), Other: s.other.Load(),
		Refused: s.refused.Load(), Lost: s.lost.Load(), Turned: s.turned.Load(), Open: open,
	}
}

// Stop closes the listener and every connection. It may be called at any time, more than once, also before Run.
func (s *Server) Stop() {
	s.once.Do(func() { close(s.stop) })
	s.ln.Close()
}

// Run serves until ctx ends or Stop is called, and returns when every session has ended.
func (s *Server) Run(ctx context.Context) error {
	g := task.NewGroup(ctx, s.log)
	defer g.Stop()
	defer s.Stop()
	g.Go("capf stop", func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-s.stop:
		}
		s.ln.Close()
		s.closeAll()
	})
	for failures := 0; ; {
		c, err := s.ln.Accept()
		switch {
		case err == nil:
			failures = 0
			s.accept(g, c)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			// Out of files, most likely: sessions that end give some back.
			if failures++; failures > 100 {
				return fmt.Errorf("capf: accept: %w", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// accept starts a session unless a limit is reached.
func (s *Server) accept(g *task.Group, c net.Conn) {
	peer := peerOf(c)
	if !s.admit(c, peer) {
		s.turned.Add(1)
		c.Close()
		return
	}
	g.Go("capf session", func(ctx context.Context) { s.serve(ctx, c, peer) }, func(error) {
		c.Close()
		s.release(c)
	})
}

func peerOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (s *Server) admit(c net.Conn, peer netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
		return false
	default:
	}
	if len(s.conns) >= s.opts.MaxConns || s.perIP[peer] >= s.opts.MaxConnsPerAddress {
		return false
	}
	s.conns[c] = peer
	s.perIP[peer]++
	return true
}

func (s *Server) release(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peer, ok := s.conns[c]
	if !ok {
		return
	}
	delete(s.conns, c)
	if s.perIP[peer]--; s.perIP[peer] <= 0 {
		delete(s.perIP, peer)
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	all := make([]net.Conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// serve does the handshake and the dialogue of one connection. Only this goroutine waits for its peer.
func (s *Server) serve(ctx context.Context, raw net.Conn, peer netip.Addr) {
	raw.SetDeadline(time.Now().Add(s.opts.Timeouts.Handshake))
	c, err := legacytls.Accept(ctx, raw, s.tls, s.legacy)
	if err != nil {
		s.lost.Add(1)
		s.log.Info("handshake", "peer", peer, "err", err)
		return
	}
	s.ServeConn(ctx, c, peer)
}

// ServeConn goes through one session on a connection that somebody else has accepted and secured, and closes it: for TLS
// endpoints other than this server's own. Each Write has to become one record.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, peer netip.Addr) {
	defer c.Close()
	start := time.Now()
	s.sessions.Add(1)
	ses := &session{backend: s.opts.Backend, guesses: s.guesses, peer: peer, id: s.opts.SessionID()}
	err := s.converse(ctx, c, ses)
	s.report(ses, err, time.Since(start))
}

// converse runs the dialogue: messages in, answers out, until END_SESSION or a lost connection.
func (s *Server) converse(ctx context.Context, c net.Conn, ses *session) error {
	if err := s.write(c, ses, ses.open()); err != nil {
		return err
	}
	deadline := time.Now().Add(ses.limit(s.opts.Timeouts))
	for ses.state != stateClosed {
		c.SetReadDeadline(deadline)
		in, err := ReadMessage(c)
		var out Body
		bad := errors.Is(err, ErrMalformed)
		switch {
		case bad:
			err = refuse("%v", err)
		case err != nil:
			return err
		default:
			was := ses.state
			out, err = ses.step(ctx, in)
			if was != ses.state {
				deadline = time.Now().Add(ses.limit(s.opts.Timeouts))
			}
		}
		if r, ok := errors.AsType[*refusal](err); ok {
			ses.to(stateClosed)
			if r.guess {
				s.guesses.failed(ses.device, ses.peer)
			}
			if s.write(c, ses, &EndSession{Reason: r.reason}) == nil && bad {
				linger(c)
			}
			return r
		}
		if out == nil {
			continue
		}
		if err := s.write(c, ses, out); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) write(c net.Conn, ses *session, b Body) error {
	c.SetWriteDeadline(time.Now().Add(s.opts.Timeouts.Write))
	return WriteMessage(c, Message{Session: ses.id, Body: b})
}

// linger lets a peer whose message was not read to its end read END_SESSION: closing with bytes unread would reset the
// connection and may destroy it.
func linger(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, c, 4*maxBody)
}

// report counts, logs and notes how a session went, once.
func (s *Server) report(ses *session, err error, took time.Duration) {
	log := s.log.With("peer", ses.peer, "took", took)
	if ses.device != "" {
		log = log.With("phone", ses.device)
	}
	note := func(text string, failed bool) {
		if s.opts.Note != nil && ses.device != "" {
			s.opts.Note(ses.device, "capf", text, failed)
		}
	}
	r, refused := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		s.guesses.succeeded(ses.device)
		switch ses.dev.Operation {
		case None:
			s.idle.Add(1)
			log.Debug("session", "result", ses.outcome)
		case Install:
			s.installed.Add(1)
			log.Info("session", "result", ses.outcome)
		default:
			s.other.Add(1)
			log.Info("session", "result", ses.outcome)
		}
		note(ses.outcome, false)
	case refused && r.ours != nil:
		s.refused.Add(1)
		log.Error("session refused", "err", r)
		note("refused: "+r.text, true)
	case refused:
		s.refused.Add(1)
		log.Info("session refused", "err", r)
		note("refused: "+r.text, true)
	default:
		s.lost.Add(1)
		text := "connection lost while " + ses.state.String()
		switch ses.state {
		case stateStore:
			text = "connection lost after the certificate was sent; the enrolment stays due"
		case stateHello:
			text = "connection lost before the phone named itself"
		}
		log.Info("session lost", "state", ses.state.String(), "err", err)
		note(text, true)
	}
}
