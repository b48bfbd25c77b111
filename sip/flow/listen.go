package flow

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/legacytls"
)

// streamListener accepts TCP or TLS connections.
type streamListener struct {
	net.Listener
	m         *Manager
	transport string
	tls       *tls.Config
	legacy    *legacytls.Config // nil: old phones are not served
	closeOnce sync.Once

	// Session ticket keys. The configuration is cloned for each connection, and a clone without keys makes its own, which no
	// other connection could use.
	tickets  [][32]byte
	ticketAt time.Time
}

// Ticket keys: a new one each day, a ticket is good for two to three.
const (
	ticketTurn = 24 * time.Hour
	ticketKeys = 3
)

// keepAlive finds out within about half a minute that a phone has lost its power. Phones themselves send nothing for 115 s. Where
// TCP_USER_TIMEOUT is set the kernel looks at that instead of Count, and ends the connection at the first probe after it: five
// probes fit in before, for one or two are lost easily, on Wi-Fi or when thousands are due at once.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 12 * time.Second, Interval: 4 * time.Second, Count: 5}

// turnTickets makes a new ticket key when the last is old. Only the accepting goroutine calls it.
func (l *streamListener) turnTickets(now time.Time) {
	if l.tls == nil || len(l.tickets) > 0 && now.Sub(l.ticketAt) < ticketTurn {
		return
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	l.tickets = append([][32]byte{key}, l.tickets[:min(len(l.tickets), ticketKeys-1)]...)
	l.ticketAt = now
	l.tls.SetSessionTicketKeys(l.tickets)
}

func (m *Manager) bindStream(l Listen) error {
	network := "tcp"
	if l.Addr.Addr().Is4() {
		network = "tcp4"
	}
	ln, err := (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(context.Background(), network, l.Addr.String())
	if err != nil {
		return err
	}
	sl := &streamListener{Listener: ln, m: m, transport: l.Transport}
	if l.Transport == "TLS" {
		sl.tls = m.serverTLS()
		if l.Legacy {
			sl.legacy = &legacytls.Config{Sessions: legacytls.NewSessions(0, 0)}
		}
	}
	m.streams = append(m.streams, sl)
	return nil
}

// serverTLS is the configuration of a TLS listener. Records are not split to warm up: phones take one record for one message.
func (m *Manager) serverTLS() *tls.Config {
	c := &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.opt.Certificate() },
	}
	if m.opt.VerifyClient == nil {
		return c
	}
	// Any certificate is taken by crypto/tls and judged by the hook: manufacturing CAs are SHA-1 and older than x509 accepts.
	c.ClientAuth = tls.RequestClientCert
	return c
}

func (l *streamListener) Close() error {
	var err error
	l.closeOnce.Do(func() { err = l.Listener.Close() })
	return err
}

func (l *streamListener) ended(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		l.m.opt.Log.Error("listener failed", "listener", l.transport+" "+l.Addr().String(), "err", err)
	}
}

// accept takes connections until the listener is closed. When the process is out of descriptors it waits for better times.
func (l *streamListener) accept(ctx context.Context) {
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.m.opt.Log.Error("accept", "listener", l.transport+" "+l.Addr().String(), "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			continue
		}
		pause = 0
		l.turnTickets(time.Now())
		from := addrPort(conn.RemoteAddr()).Addr()
		if !l.m.reserve(from) {
			conn.Close()
			continue
		}
		l.m.tasks.Go("sip flow", func(context.Context) { l.m.run(l.transport, conn, l.tls, l.legacy, true) }, func(err error) {
			if errors.Is(err, context.Canceled) {
				conn.Close()
				l.m.release(from)
			}
		})
	}
}

// run makes a flow of an accepted connection (counted by reserve) and lets it be served.
func (m *Manager) run(transport string, conn net.Conn, cfg *tls.Config, legacy *legacytls.Config, server bool) {
	setUserTimeout(conn, m.opt.TCPUserTimeout)
	s, err := m.handshake(transport, conn, cfg, legacy, server)
	if err != nil {
		conn.Close()
		m.release(addrPort(conn.RemoteAddr()).Addr())
		m.complain("TLS handshake", "peer", conn.RemoteAddr().String(), "err", err)
		return
	}
	if !m.add(s) {
		s.Close(ErrStopped)
		m.release(s.remote.Addr())
		return
	}
	_ = s.conn.SetReadDeadline(s.until)
	m.serve(s)
}

// serve reads s in a goroutine of its own: the one that did the handshake has a stack that idle phones are not to keep.
func (m *Manager) serve(s *stream) {
	m.tasks.Go("sip flow", func(context.Context) { s.serve() }, func(err error) {
		if errors.Is(err, context.Canceled) {
			s.Close(ErrStopped)
			m.remove(s)
		}
	})
}

// handshake makes the stream, for TLS after the handshake and with the client's verified identity.
func (m *Manager) handshake(transport string, conn net.Conn, cfg *tls.Config, legacy *legacytls.Config, server bool) (*stream, error) {
	if transport != "TLS" {
		return m.newStream(transport, conn, conn), nil
	}
	var device string
	var cert *x509.Certificate
	cfg = cfg.Clone()
	if server && m.opt.VerifyClient != nil {
		// VerifyConnection and not VerifyPeerCertificate: it is called for resumed sessions as well, so that a revoked
		// certificate does not live on in a ticket.
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			var err error
			if device, err = m.opt.VerifyClient(cs.PeerCertificates[0], cs.PeerCertificates[1:]); err != nil {
				return fmt.Errorf("client certificate %q: %w", cs.PeerCertificates[0].Subject.CommonName, err)
			}
			if device != "" {
				cert = cs.PeerCertificates[0]
			}
			return nil
		}
	}
	_ = conn.SetDeadline(time.Now().Add(m.opt.Handshake))
	step := &doorstep{Conn: conn}
	if tcp, ok := conn.(*net.TCPConn); ok {
		step.raw, _ = tcp.SyscallConn()
	}
	var tc net.Conn
	if server {
		var err error
		if tc, err = legacytls.Accept(m.tasks.Context(), step, cfg, legacy); err != nil {
			return nil, err
		}
	} else {
		c := tls.Client(step, cfg)
		if err := c.HandshakeContext(m.tasks.Context()); err != nil {
			return nil, err
		}
		tc = c
	}
	_ = conn.SetDeadline(time.Time{})
	step.served = step.raw != nil
	s := m.newStream(transport, tc, step)
	s.cert, s.device = cert, device
	return s, nil
}

// Dial opens a connection to addr and serves it as a flow like an accepted one; transport is "TCP" or "TLS".
func (m *Manager) Dial(ctx context.Context, transport string, addr netip.AddrPort, cfg *tls.Config) (Flow, error) {
	if !m.reserve(addr.Addr()) {
		return nil, fmt.Errorf("dial %s: too many connections", addr)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		m.release(addr.Addr())
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	setUserTimeout(conn, m.opt.TCPUserTimeout)
	if transport == "TLS" && cfg == nil {
		cfg = &tls.Config{ServerName: addr.Addr().String()}
	}
	s, err := m.handshake(transport, conn, cfg, nil, false)
	if err == nil && !m.add(s) {
		err = ErrStopped
	}
	if err != nil {
		conn.Close()
		m.release(addr.Addr())
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	s.Keep(time.Now().Add(100 * 365 * 24 * time.Hour))
	m.serve(s)
	return s, nil
}

// setUserTimeout lets the kernel give up a peer that acknowledges nothing, so that a phone that lost its power is noticed
// with the first message to it and not after a quarter of an hour.
func setUserTimeout(conn net.Conn, d time.Duration) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
