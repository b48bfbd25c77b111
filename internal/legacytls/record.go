package legacytls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"

	"ringfence/internal/legacytls/cbc"
)

// Records (RFC 5246 §6.2):
//
//	| type 1 | version 2 | length 2 | body |
const (
	typeChangeCipher = 20
	typeAlert        = 21
	typeHandshake    = 22
	typeApplication  = 23

	headerSize    = 5
	maxPlain      = 16384
	maxCiphertext = maxPlain + 2048
	// Between records with application data in them. OpenSSL sends an empty one before each full one; nobody needs many.
	maxEmpty    = 16
	maxWarnings = 4
)

// buffers hold a record each. A connection has one only from a record's first byte to its last being read by the owner, so that
// idle phones cost none.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxCiphertext); return &b }}

// reader is the receiving half of a connection. One goroutine at a time uses it.
type reader struct {
	mu     sync.Mutex
	err    error // for good
	opener *cbc.Opener
	seq    uint64

	head [headerSize]byte
	have int // bytes of the record at hand that have come, header included
	buf  *[]byte
	rest []byte // application data not yet read; a part of *buf

	empty, warnings, renegotiations int
}

// readRecord returns the next record, opened. The payload is valid until the next call. A deadline that passes loses nothing:
// the next call goes on. Faults are returned and not yet answered.
func (c *Conn) readRecord() (typ byte, payload []byte, err error) {
	in := &c.in
	if in.err != nil {
		return 0, nil, in.err
	}
	if err := c.readTo(in.head[:], 0); err != nil {
		return 0, nil, err
	}
	size, err := c.checkHeader(in.head)
	if err != nil {
		return 0, nil, err
	}
	if in.buf == nil {
		in.buf = buffers.Get().(*[]byte)
	}
	body := (*in.buf)[:size]
	if err := c.readTo(body, headerSize); err != nil {
		return 0, nil, err
	}
	in.have = 0
	typ = in.head[0]
	if in.opener == nil {
		return typ, body, nil
	}
	payload, err = in.opener.Open(cbc.Header{Sequence: in.seq, Type: typ, Version: c.version}, body)
	in.seq++
	switch {
	case err != nil:
		return 0, nil, fault(alertBadRecordMAC, "record of %d bytes: %w", size, err)
	case len(payload) > maxPlain:
		return 0, nil, fault(alertRecordOverflow, "record with %d bytes of payload", len(payload))
	}
	return typ, payload, nil
}

// readTo fills b with the bytes of the record at hand from offset on, unless they have come already.
func (c *Conn) readTo(b []byte, offset int) error {
	in := &c.in
	for in.have < offset+len(b) {
		n, err := c.conn.Read(b[in.have-offset:])
		in.have += n
		if err == nil || n > 0 {
			continue
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return err
		}
		// Like crypto/tls: the end of the connection between two records is the end, inside one it is a cut.
		if errors.Is(err, io.EOF) && in.have > 0 {
			err = io.ErrUnexpectedEOF
		}
		in.err = err
		return err
	}
	return nil
}

// checkHeader judges a record by its header, before memory is spent on it.
func (c *Conn) checkHeader(h [headerSize]byte) (size int, err error) {
	typ, version, size := h[0], uint16(h[1])<<8|uint16(h[2]), int(h[3])<<8|int(h[4])
	most := maxPlain
	if c.in.opener != nil {
		most = maxCiphertext
	}
	switch {
	case typ < typeChangeCipher || typ > typeApplication:
		return 0, fault(alertUnexpectedMessage, "record of type %d", typ)
	case c.version != 0 && version != c.version, version>>8 != 3:
		return 0, fault(alertProtocolVersion, "record of version %#04x", version)
	case size > most:
		return 0, fault(alertRecordOverflow, "record of %d bytes", size)
	case size == 0 && c.in.opener == nil:
		return 0, fault(alertUnexpectedMessage, "empty record in clear")
	}
	return size, nil
}

// release gives the buffer back when nothing is left in it.
func (in *reader) release() {
	if len(in.rest) == 0 && in.have == 0 && in.buf != nil {
		clear(*in.buf) // what one phone said is not left lying about for another connection's faults
		buffers.Put(in.buf)
		in.buf, in.rest = nil, nil
	}
}

// alert judges a received alert. nil says that it can be ignored.
func (c *Conn) alert(payload []byte) error {
	if len(payload) != 2 {
		return fault(alertDecodeError, "alert of %d bytes", len(payload))
	}
	level, what := payload[0], payload[1]
	switch {
	case what == alertCloseNotify:
		c.in.err = io.EOF
		return io.EOF
	case level == levelFatal:
		c.cfg.Sessions.drop(c.session)
		c.in.err = &PeerAlert{tls.AlertError(what)}
		return c.in.err
	}
	if c.in.warnings++; c.in.warnings > maxWarnings {
		return fault(alertUnexpectedMessage, "warning %d and no end", what)
	}
	return nil
}

// writer is the sending half.
type writer struct {
	mu     sync.Mutex
	err    error // for good
	sealer *cbc.Sealer
	seq    uint64
	closed bool // close_notify sent
}

// appendRecord appends one record with a payload of at most maxPlain bytes. c.out.mu is held, or the handshake goes on.
func (c *Conn) appendRecord(dst []byte, typ byte, payload []byte) []byte {
	version := c.version
	if version == 0 {
		version = tls.VersionTLS10
	}
	start := len(dst)
	dst = append(dst, typ, byte(version>>8), byte(version), 0, 0)
	if s := c.out.sealer; s != nil {
		dst = s.Seal(dst, cbc.Header{Sequence: c.out.seq, Type: typ, Version: version}, payload)
		c.out.seq++
	} else {
		dst = append(dst, payload...)
	}
	n := len(dst) - start - headerSize
	dst[start+3], dst[start+4] = byte(n>>8), byte(n)
	return dst
}

// sendLocked writes records. A write that fails may have written a part, after which nothing can follow. c.out.mu is held.
func (c *Conn) sendLocked(records []byte) error {
	if c.out.err != nil {
		return c.out.err
	}
	_, err := c.conn.Write(records)
	c.out.err = err
	return err
}
