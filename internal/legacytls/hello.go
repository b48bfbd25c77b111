package legacytls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// Hello is what a ClientHello says of its client. The zero Hello is that of somebody who does not speak TLS.
type Hello struct {
	Version    uint16 // newest one offered, below GREASE
	Suites     []uint16
	ServerName string

	message clientHello
}

// NeedsLegacy tells whether a client has to be served by this package: it knows nothing newer than TLS 1.1, or no ECDHE at all.
func (h Hello) NeedsLegacy() bool {
	switch {
	case h.Version == 0 || h.Version > tls.VersionTLS12:
		return false
	case h.Version < tls.VersionTLS12:
		return true
	}
	return !slices.ContainsFunc(h.Suites, ephemeral)
}

// ephemeral tells whether crypto/tls can serve a suite with ECDHE key exchange, which suites of TLS 1.3 have all.
func ephemeral(suite uint16) bool { return ephemeralSuites()[suite] }

var ephemeralSuites = sync.OnceValue(func() map[uint16]bool {
	out := map[uint16]bool{}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		out[s.ID] = strings.Contains(s.Name, "_ECDHE_") || slices.Contains(s.SupportedVersions, tls.VersionTLS13)
	}
	return out
})

// Bounds of what is read before it is known who speaks.
const (
	maxHello    = 16 << 10 // a hello with post-quantum keys is about 1.8 KiB
	maxHelloRaw = 32 << 10 // with the headers of the records that it may come in
)

// Sniff reads a ClientHello and returns what it says, and a connection on which it can be read again. It reads no byte
// beyond the records that hold it. What is no ClientHello, or too large for one, makes the zero Hello and no error: whoever serves
// others on this port shall answer it. An error is one of the connection. The caller sets a deadline.
func Sniff(conn net.Conn) (hello Hello, replay net.Conn, err error) {
	var raw, message []byte
	for len(raw) <= maxHelloRaw {
		start := len(raw)
		if raw, err = readMore(conn, raw, headerSize); err != nil {
			break
		}
		h := raw[start:]
		n := int(h[3])<<8 | int(h[4])
		if h[0] != typeHandshake || h[1] != 3 || n == 0 || n > maxPlain {
			break
		}
		if raw, err = readMore(conn, raw, n); err != nil {
			break
		}
		message = append(message, raw[start+headerSize:]...)
		if message[0] != msgClientHello || len(message) > maxHello {
			break
		}
		if body, _, ok := cutMessage(message); ok {
			_ = hello.parse(body)
			break
		}
	}
	if err != nil {
		return Hello{}, nil, err
	}
	return hello, &replayed{Conn: conn, rest: raw}, nil
}

// readMore appends n bytes of a connection.
func readMore(conn net.Conn, b []byte, n int) ([]byte, error) {
	start := len(b)
	b = append(b, make([]byte, n)...)
	m, err := io.ReadFull(conn, b[start:])
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && start > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b[:start+m], err
}

// parse reads a ClientHello's body.
func (h *Hello) parse(body []byte) error {
	var m clientHello
	if err := m.Unmarshal(body); err != nil {
		return err
	}
	*h = Hello{Version: m.newest(), Suites: m.Suites, ServerName: m.serverName(), message: m}
	return nil
}

// replayed is a connection of which the beginning is read again.
type replayed struct {
	net.Conn
	rest []byte
}

// Read returns what was sniffed, then what comes.
func (r *replayed) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.rest)
	if r.rest = r.rest[n:]; len(r.rest) == 0 {
		r.rest = nil
	}
	return n, nil
}

// info is the hello as crypto/tls tells it to callbacks.
func (h Hello) info(conn net.Conn) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		CipherSuites: slices.Clone(h.Suites), ServerName: h.ServerName, SupportedVersions: h.message.versions(), Conn: conn,
	}
}

// first returns the suite of this package that the client names first, or 0. The order is the client's, for it knows which
// one its hardware is quick at.
func (h Hello) first() uint16 {
	for _, s := range h.Suites {
		if keySize(s) != 0 {
			return s
		}
	}
	return 0
}

// uncompressed tells whether the client can do without compression, as it must.
func (h Hello) uncompressed() bool { return bytes.IndexByte(h.message.Compressions, 0) >= 0 }
