package tvs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"time"
)

// Client asks a server, as a phone does. The zero value is not usable: TLS is required, and whom to believe is its
// VerifyPeerCertificate's or VerifyConnection's to say, since phones match the certificate against their trust list and
// not against a name.
type Client struct {
	Address string
	TLS     *tls.Config
	Device  string        // CP-8851-SEP001122AA0001
	Timeout time.Duration // for the connection and for each request; 10 s when 0
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// Conn is one connection; requests on it go one after the other.
type Conn struct {
	c       *tls.Conn
	device  string
	timeout time.Duration
}

// Connect opens a connection.
func (c *Client) Connect(ctx context.Context) (*Conn, error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("tvs: %w", err)
	}
	t := tls.Client(raw, c.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("tvs: handshake: %w", err)
	}
	return &Conn{c: t, device: c.Device, timeout: timeout}, nil
}

// Verify asks about one certificate on a connection of its own.
func (c *Client) Verify(ctx context.Context, der []byte) (*Response, error) {
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.Verify(der)
}

// Verify asks about one certificate.
func (c *Conn) Verify(der []byte) (*Response, error) {
	var id [4]byte
	rand.Read(id[:])
	q := Request{Session: binary.BigEndian.Uint32(id[:]), Device: c.device, Certificate: der}
	b, err := q.Marshal()
	if err != nil {
		return nil, err
	}
	if err := c.c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, fmt.Errorf("tvs: %w", err)
	}
	if _, err := c.c.Write(b); err != nil {
		return nil, fmt.Errorf("tvs: send: %w", err)
	}
	if b, err = ReadMessage(c.c); err != nil {
		return nil, fmt.Errorf("tvs: receive: %w", err)
	}
	var r Response
	if err := r.Unmarshal(b); err != nil {
		return nil, err
	}
	if r.Session != q.Session {
		return nil, fmt.Errorf("tvs: %w: answer to session %d, asked as %d", ErrMessage, r.Session, q.Session)
	}
	return &r, nil
}

// ConnectionState tells whether the session was resumed, among other things.
func (c *Conn) ConnectionState() tls.ConnectionState { return c.c.ConnectionState() }

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }
