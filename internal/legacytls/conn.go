package legacytls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a connection to an old phone. Like a *tls.Conn it does the handshake with the first Read or Write at the latest; one
// goroutine may read while another writes.
type Conn struct {
	conn net.Conn
	cfg  *Config

	hs struct {
		mu    sync.Mutex
		done  atomic.Bool
		err   error
		state tls.ConnectionState
	}
	// Set by the handshake and not changed after it.
	version uint16
	session sessionID

	in  reader
	out writer
}

// alertTime is how long the peer may take to accept a last alert.
const alertTime = 2 * time.Second

var errClosed = errors.New("legacytls: write after the end of writing")

// Server returns the server's end of conn. cfg may be shared and is not changed.
func Server(conn net.Conn, cfg *Config) *Conn { return &Conn{conn: conn, cfg: cfg} }

// HandshakeContext does the handshake, once. When ctx ends during it conn is closed. A peer at fault is sent an alert, and conn is
// closed then too.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if c.hs.done.Load() {
		return nil
	}
	c.hs.mu.Lock()
	defer c.hs.mu.Unlock()
	if c.hs.done.Load() || c.hs.err != nil {
		return c.hs.err
	}
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	h := handshake{Conn: c}
	err := h.run()
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	c.in.release()
	if err != nil {
		c.hs.err = c.fail(err)
		return c.hs.err
	}
	c.hs.state.HandshakeComplete = true
	c.hs.done.Store(true)
	return nil
}

// fail ends the connection after an error: a fault is answered by its alert, and its session is not resumed.
func (c *Conn) fail(err error) error {
	alert, ok := alertFor(err)
	if !ok {
		return err
	}
	c.cfg.Sessions.drop(c.session)
	_ = c.conn.SetWriteDeadline(time.Now().Add(alertTime)) // also ends a write that hangs
	c.out.mu.Lock()
	if !c.out.closed {
		_ = c.sendLocked(c.appendRecord(nil, typeAlert, []byte{levelFatal, alert}))
	}
	c.out.err = err
	c.out.mu.Unlock()
	c.in.err = err
	c.conn.Close()
	return err
}

// Read reads application data.
func (c *Conn) Read(b []byte) (int, error) {
	if err := c.HandshakeContext(context.Background()); err != nil {
		return 0, err
	}
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	for len(c.in.rest) == 0 {
		if err := c.receive(); err != nil {
			c.in.release()
			return 0, err
		}
	}
	n := copy(b, c.in.rest)
	c.in.rest = c.in.rest[n:]
	c.in.release()
	return n, nil
}

// receive takes one record after the handshake.
func (c *Conn) receive() error {
	typ, payload, err := c.readRecord()
	if err == nil {
		err = c.handle(typ, payload)
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
}

func (c *Conn) handle(typ byte, payload []byte) error {
	in := &c.in
	switch typ {
	case typeApplication:
		if len(payload) > 0 {
			in.rest, in.empty, in.warnings = payload, 0, 0
			return nil
		}
		if in.empty++; in.empty > maxEmpty {
			return fault(alertUnexpectedMessage, "empty records and no end")
		}
		return nil
	case typeAlert:
		return c.alert(payload)
	case typeHandshake:
		// A client that wants to renegotiate is told no once; then it may go on with what it has (RFC 5246 §7.2.2).
		if in.renegotiations++; in.renegotiations > 1 || len(payload) == 0 || payload[0] != msgClientHello {
			return fault(alertUnexpectedMessage, "handshake message after the handshake")
		}
		c.out.mu.Lock()
		defer c.out.mu.Unlock()
		return c.sendLocked(c.appendRecord(nil, typeAlert, []byte{levelWarning, alertNoRenegotiation}))
	}
	return fault(alertUnexpectedMessage, "record of type %d after the handshake", typ)
}

// Write sends b in one record, or in as many of 16384 bytes as it takes.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.HandshakeContext(context.Background()); err != nil {
		return 0, err
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.closed {
		return 0, errClosed
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	sent := 0
	for sent < len(b) {
		n := min(len(b)-sent, maxPlain)
		records := (*buf)[:0]
		if c.cfg.EmptyRecords && c.version == tls.VersionTLS10 {
			records = c.appendRecord(records, typeApplication, nil)
		}
		if err := c.sendLocked(c.appendRecord(records, typeApplication, b[sent:sent+n])); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// CloseWrite tells the peer that nothing follows. The connection below stays open.
func (c *Conn) CloseWrite() error {
	if !c.hs.done.Load() {
		return errors.New("legacytls: CloseWrite before the handshake")
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.closeNotifyLocked()
}

func (c *Conn) closeNotifyLocked() error {
	if c.out.closed || c.out.err != nil {
		return c.out.err
	}
	c.out.closed = true
	return c.sendLocked(c.appendRecord(nil, typeAlert, []byte{levelWarning, alertCloseNotify}))
}

// Close says goodbye, unless somebody is writing, and closes the connection below. It may be called at any time.
func (c *Conn) Close() error {
	if c.hs.done.Load() && c.out.mu.TryLock() {
		_ = c.conn.SetWriteDeadline(time.Now().Add(alertTime))
		_ = c.closeNotifyLocked()
		c.out.mu.Unlock()
	}
	return c.conn.Close()
}

// ConnectionState tells version, suite, server name, the client's certificates, and whether the session was resumed. Its
// ExportKeyingMaterial must not be called: there is none here.
func (c *Conn) ConnectionState() tls.ConnectionState {
	c.hs.mu.Lock()
	defer c.hs.mu.Unlock()
	return c.hs.state
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.conn }

// LocalAddr is that of the connection below.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr is that of the connection below.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline sets both deadlines. After a write that timed out nothing more can be written.
func (c *Conn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// SetReadDeadline sets that of reading; reading can go on after it has passed.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline sets that of writing.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }
