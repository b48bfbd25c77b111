package phone

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// recordConn reads a TLS connection record by record and refuses a message that is spread over two records, since phones
// stall on it (capf §1, tvs §1, anyconnect §6). crypto/tls gives from one Read the content of at most one record, whatever
// the size of the buffer; TestRecordConn holds it to that.
//
// measure says how long the message is that begins at b, or 0 if not even its length is there.
type recordConn struct {
	*tls.Conn
	measure func(b []byte) int
	spread  func(text string) // told once; then Read fails
	rest    []byte
	err     error
	buf     []byte
}

// errSpread is the error of a message in two records.
var errSpread = errors.New("message spread over several TLS records")

func newRecordConn(c *tls.Conn, measure func([]byte) int, spread func(string)) *recordConn {
	return &recordConn{Conn: c, measure: measure, spread: spread, buf: make([]byte, 17<<10)}
}

func (r *recordConn) Read(b []byte) (int, error) {
	if len(r.rest) > 0 {
		n := copy(b, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.Conn.Read(r.buf)
	if n == 0 {
		return 0, err
	}
	record := r.buf[:n]
	for at := 0; at < n; {
		length := r.measure(record[at:])
		if length == 0 || at+length > n {
			text := fmt.Sprintf("a record of %d bytes ends inside a message", n)
			r.err = fmt.Errorf("%w: %s", errSpread, text)
			r.spread(text)
			return 0, r.err
		}
		at += length
	}
	r.rest, r.err = record, err
	k := copy(b, r.rest)
	r.rest = r.rest[k:]
	return k, nil
}

var _ net.Conn = (*recordConn)(nil)

// prefixed measures messages with a header of head bytes whose big-endian length field of two bytes stands at offset at.
func prefixed(head, at int) func([]byte) int {
	return func(b []byte) int {
		if len(b) < head {
			return 0
		}
		return head + int(b[at])<<8 + int(b[at+1])
	}
}

// CAPF and TVS; the CSTP client looks at its records itself.
var (
	measureCAPF = prefixed(8, 6)
	measureTVS  = prefixed(10, 8)
)
