package dtls

import (
	"encoding/binary"
	"errors"
)

// Handshake message types.
const (
	msgClientHello       = 1
	msgServerHello       = 2
	msgServerHelloDone   = 14
	msgClientKeyExchange = 16
	msgFinished          = 20
)

const (
	msgHeaderLen = 12
	// maxMessage bounds a client's handshake message; hellos have some hundred bytes.
	maxMessage = 4096
)

var errMessage = errors.New("malformed handshake message")

// fragment is a handshake message or a part of it (RFC 6347 §4.2.2).
//
//	| type 1 | length 3 | message sequence 2 | fragment offset 3 | fragment length 3 | body |
type fragment struct {
	typ    byte
	length int
	seq    uint16
	offset int
	body   []byte
}

// whole tells that the fragment is a whole message.
func (f *fragment) whole() bool { return f.offset == 0 && len(f.body) == f.length }

// nextFragment decodes the fragment at the beginning of b.
func nextFragment(b []byte) (f fragment, rest []byte, err error) {
	if len(b) < msgHeaderLen {
		return f, nil, errMessage
	}
	u24 := func(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }
	f = fragment{typ: b[0], length: u24(b[1:]), seq: binary.BigEndian.Uint16(b[4:]), offset: u24(b[6:])}
	n := u24(b[9:])
	if f.length > maxMessage || f.offset+n > f.length || len(b) < msgHeaderLen+n {
		return f, nil, errMessage
	}
	f.body = b[msgHeaderLen : msgHeaderLen+n]
	return f, b[msgHeaderLen+n:], nil
}

// marshalMessage is a whole message with its header.
func marshalMessage(typ byte, seq uint16, body []byte) []byte {
	n := len(body)
	b := []byte{typ, byte(n >> 16), byte(n >> 8), byte(n), byte(seq >> 8), byte(seq), 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
	return append(b, body...)
}

// clientHello is what is needed of a ClientHello.
//
//	| version 2 | random 32 | session id 1+n | cookie 1+n | suites 2+n | compression 1+n | extensions 2+n, may be missing |
type clientHello struct {
	version   uint16
	random    [32]byte
	sessionID []byte
	suites    []uint16
	reneg     bool   // offers secure renegotiation, which must be answered
	appID     []byte // extension in which OpenSSL builds of openconnect repeat the App-ID (§7.3)
}

const (
	extRenegotiation = 0xff01
	extAppID         = 48018
	scsvReneg        = 0x00ff
)

// Unmarshal reads the body of a ClientHello.
func (h *clientHello) Unmarshal(b []byte) error {
	*h = clientHello{}
	r := reader{b: b}
	h.version = r.u16()
	copy(h.random[:], r.bytes(32))
	h.sessionID = r.bytes(r.u8())
	r.bytes(r.u8()) // cookie: none was asked for
	list := r.bytes(r.u16int())
	compression := r.bytes(r.u8())
	if r.bad || len(list)%2 != 0 || len(h.sessionID) > 32 || len(compression) == 0 {
		return errMessage
	}
	for ; len(list) > 0; list = list[2:] {
		id := binary.BigEndian.Uint16(list)
		h.suites = append(h.suites, id)
		h.reneg = h.reneg || id == scsvReneg
	}
	if len(r.b) == 0 {
		return nil
	}
	ext := reader{b: r.bytes(r.u16int())}
	if r.bad || len(r.b) != 0 {
		return errMessage
	}
	for len(ext.b) > 0 {
		typ := ext.u16()
		body := ext.bytes(ext.u16int())
		if ext.bad {
			return errMessage
		}
		switch typ {
		case extRenegotiation:
			h.reneg = true
		case extAppID:
			if len(body) > 1 && int(body[0]) == len(body)-1 {
				body = body[1:]
			}
			h.appID = body
		}
	}
	return nil
}

func (h *clientHello) offers(id uint16) bool {
	for _, s := range h.suites {
		if s == id {
			return true
		}
	}
	return false
}

// id is the 32 bytes that name the agreement.
func (h *clientHello) id() (id [32]byte, ok bool) {
	for _, b := range [][]byte{h.sessionID, h.appID} {
		if len(b) == 32 {
			return [32]byte(b), true
		}
	}
	return id, false
}

// serverHello is our answer.
//
//	| version 2 | random 32 | session id 1+n | suite 2 | compression 1 | extensions 2+n, only if one is due |
type serverHello struct {
	version   uint16
	random    [32]byte
	sessionID []byte
	suite     uint16
	reneg     bool
}

// Marshal returns the body of the message.
func (h *serverHello) Marshal() []byte {
	b := binary.BigEndian.AppendUint16(nil, h.version)
	b = append(b, h.random[:]...)
	b = append(b, byte(len(h.sessionID)))
	b = append(b, h.sessionID...)
	b = binary.BigEndian.AppendUint16(b, h.suite)
	b = append(b, 0)
	if h.reneg {
		b = append(b, 0, 5, 0xff, 0x01, 0, 1, 0)
	}
	return b
}

// reader takes fields off a buffer; after the first that is missing all are empty and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() int {
	if p := r.bytes(1); p != nil {
		return int(p[0])
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.bytes(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u16int() int { return int(r.u16()) }
