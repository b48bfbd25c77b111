// Package cstp is the frame codec of the Cisco SSL Tunnel Protocol: what follows the answer to CONNECT inside the TLS
// connection (AnyConnect page §6). It is pure: no sockets, no clock. Server and simulated phone share it and nothing else.
//
//	 0      1      2      3      4      5      6      7      8
//	+------+------+------+------+------+------+------+------+----------
//	| 'S'  | 'T'  | 'F'  |  1   |  length     | type |  0   | payload
//	+------+------+------+------+------+------+------+------+----------
//
// One frame is one TLS record in both directions. Clients drop records whose length disagrees; Next therefore lets a strict
// reader see the difference, and lets a tolerant one go by the length field alone.
package cstp

import (
	"errors"
	"fmt"
)

// HeaderLen is the length of the header in front of each payload.
const HeaderLen = 8

// MaxPayload is the longest payload that fits one TLS record with its header.
const MaxPayload = 1<<14 - HeaderLen

// Type is what a frame is. DTLS uses the same numbers in its one byte in front of each payload (§7).
type Type byte

// Types of frames.
const (
	Data        Type = 0 // one IP packet
	DPDRequest  Type = 3 // are you there? Answered with the same payload
	DPDResponse Type = 4
	Disconnect  Type = 5 // code byte and text
	Keepalive   Type = 7 // no answer
	Compressed  Type = 8 // never negotiated here
	Terminate   Type = 9 // server puts the client out for good
)

func (t Type) String() string {
	switch t {
	case Data:
		return "data"
	case DPDRequest:
		return "dpd-request"
	case DPDResponse:
		return "dpd-response"
	case Disconnect:
		return "disconnect"
	case Keepalive:
		return "keepalive"
	case Compressed:
		return "compressed"
	case Terminate:
		return "terminate"
	}
	return fmt.Sprintf("type-%d", byte(t))
}

// UserWish is the code of a Disconnect frame with which a client ends its session. Every other code, or none, means that it
// intends to come back (§6).
const UserWish = 0xb0

var (
	// ErrShort says that more bytes are needed before a frame is complete.
	ErrShort = errors.New("frame incomplete")
	// ErrMagic says that the bytes are no frame.
	ErrMagic = errors.New("no CSTP frame")
	// ErrTooLong says that a frame announces more than MaxPayload bytes.
	ErrTooLong = errors.New("CSTP frame too long")
)

// Frame is one frame. Payload points into the buffer it was decoded from.
type Frame struct {
	Type    Type
	Payload []byte
}

// PutHeader writes the header of a frame with n bytes of payload to the first HeaderLen bytes of b.
func PutHeader(b []byte, t Type, n int) {
	_ = b[HeaderLen-1]
	b[0], b[1], b[2], b[3] = 'S', 'T', 'F', 1
	b[4], b[5] = byte(n>>8), byte(n)
	b[6], b[7] = byte(t), 0
}

// Append appends the frame to dst. The payload must not be longer than MaxPayload.
func (f Frame) Append(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, HeaderLen)...)
	PutHeader(dst[n:], f.Type, len(f.Payload))
	return append(dst, f.Payload...)
}

// Next decodes the frame at the beginning of b and returns what follows it. ErrShort asks for more bytes; the other errors
// end the connection.
func Next(b []byte) (f Frame, rest []byte, err error) {
	magic := [4]byte{'S', 'T', 'F', 1}
	for i := 0; i < len(magic) && i < len(b); i++ {
		if b[i] != magic[i] {
			return Frame{}, b, ErrMagic
		}
	}
	if len(b) < HeaderLen {
		return Frame{}, b, ErrShort
	}
	n := int(b[4])<<8 | int(b[5])
	if n > MaxPayload {
		return Frame{}, b, ErrTooLong
	}
	if b[7] != 0 {
		return Frame{}, b, ErrMagic
	}
	if len(b) < HeaderLen+n {
		return Frame{}, b, ErrShort
	}
	return Frame{Type: Type(b[6]), Payload: b[HeaderLen : HeaderLen+n]}, b[HeaderLen+n:], nil
}

// DisconnectReason splits the payload of a Disconnect frame. The code is 0 when there is none. The text is bounded and holds
// printable characters only, so that it can be logged.
func DisconnectReason(payload []byte) (code byte, text string) {
	if len(payload) == 0 {
		return 0, ""
	}
	code, payload = payload[0], payload[1:]
	if len(payload) > 200 {
		payload = payload[:200]
	}
	clean := make([]byte, 0, len(payload))
	for _, c := range payload {
		if c >= ' ' && c < 0x7f {
			clean = append(clean, c)
		}
	}
	return code, string(clean)
}
