// Package tvs is the trust verification service: messages, server and client (tvs.md). A phone that meets a certificate
// which its trust lists do not name asks here whether it is good, and for what.
//
// The server answers by exact match of the bytes against what Lookup knows: it builds no chain and tests no name; that a
// certificate has expired or was revoked is Lookup's to know. QUERY_REQUEST is known by name only and not served. TLS 1.0
// for the 7900 series is a matter of the tls.Config that the caller gives.
package tvs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"time"

	"ringfence/trust"
)

// Constants of tvs.md §2.
const (
	protocolID = 0x57
	version    = 1

	commandVerifyRequest  = 1
	commandVerifyResponse = 2

	tagDeviceName  = 1
	tagCertificate = 2
	tagStatus      = 7
	tagRoles       = 8
	tagTTL         = 9

	headerLen = 10
	// MaxBody is the longest message body that is read; requests have 900 to 1500 bytes.
	MaxBody = 16 << 10
	// MaxTTL is the longest time that a phone may keep an answer.
	MaxTTL = 2592000 * time.Second
	// DefaultTTL is the usual time that a phone may keep an answer.
	DefaultTTL = 86400 * time.Second
)

// ErrMessage says that bytes are not a message of this protocol; the connection is to be closed without an answer.
var ErrMessage = errors.New("malformed tvs message")

// Request is VERIFY_REQUEST: is this certificate good?
//
//	57 01 01 00  session(4)  length(2)
//	01 n  01 name            DEVICE_NAME: CP-<model>-SEP<MAC>, no NUL
//	02 n  der                CERTIFICATE
type Request struct {
	Session     uint32
	Device      string
	Certificate []byte
}

// Response is VERIFY_RESPONSE. Roles and TTL are sent only when Valid.
//
//	57 01 02 00  session(4)  length(2)
//	07 1  status             0 valid, 1 invalid
//	08 n  role…              one byte each
//	09 4  seconds            how long the phone may keep the answer
type Response struct {
	Session uint32
	Valid   bool
	Roles   []trust.Role
	TTL     time.Duration
}

// deviceName is what phones call themselves, anchored to the very end (tvs.md §3).
var deviceName = regexp.MustCompile(`\ACP-[A-Za-z0-9-]{2,20}-(SEP[0-9A-F]{12})\z`)

// SEP returns the device in the request's name (SEP and the MAC), or "" when the name is an odd one. It is a claim that
// nothing proves.
func (r *Request) SEP() string {
	m := deviceName.FindStringSubmatch(r.Device)
	if m == nil {
		return ""
	}
	return m[1]
}

// Marshal writes the message.
func (r *Request) Marshal() ([]byte, error) {
	b := head(commandVerifyRequest, r.Session)
	b, err := appendElement(b, tagDeviceName, append([]byte{1}, r.Device...))
	if err != nil {
		return nil, err
	}
	if b, err = appendElement(b, tagCertificate, r.Certificate); err != nil {
		return nil, err
	}
	return finish(b)
}

// Unmarshal reads a whole message.
func (r *Request) Unmarshal(b []byte) error {
	session, e, err := elements(b, commandVerifyRequest)
	if err != nil {
		return err
	}
	name, cert := e[tagDeviceName], e[tagCertificate]
	if len(name) < 1 || name[0] != 1 {
		return fmt.Errorf("%w: no device name", ErrMessage)
	}
	// A name with control characters would be believed by a careless match and forge lines in a log.
	for _, c := range name[1:] {
		if c < 0x20 || c > 0x7e {
			return fmt.Errorf("%w: byte %#x in the device name", ErrMessage, c)
		}
	}
	if len(cert) == 0 {
		return fmt.Errorf("%w: no certificate", ErrMessage)
	}
	*r = Request{Session: session, Device: string(name[1:]), Certificate: bytes.Clone(cert)}
	return nil
}

// Marshal writes the message.
func (r *Response) Marshal() ([]byte, error) {
	b := head(commandVerifyResponse, r.Session)
	if !r.Valid {
		b, _ = appendElement(b, tagStatus, []byte{1})
		return finish(b)
	}
	ttl := r.TTL / time.Second
	if ttl < 1 || r.TTL > MaxTTL {
		return nil, fmt.Errorf("ttl %s out of range", r.TTL)
	}
	roles := make([]byte, len(r.Roles))
	for i, role := range r.Roles {
		roles[i] = byte(role)
	}
	b, _ = appendElement(b, tagStatus, []byte{0})
	b, err := appendElement(b, tagRoles, roles)
	if err != nil {
		return nil, err
	}
	b, _ = appendElement(b, tagTTL, binary.BigEndian.AppendUint32(nil, uint32(ttl)))
	return finish(b)
}

// Unmarshal reads a whole message.
func (r *Response) Unmarshal(b []byte) error {
	session, e, err := elements(b, commandVerifyResponse)
	if err != nil {
		return err
	}
	status := e[tagStatus]
	if len(status) != 1 || status[0] > 1 {
		return fmt.Errorf("%w: no status", ErrMessage)
	}
	*r = Response{Session: session, Valid: status[0] == 0}
	if !r.Valid {
		return nil
	}
	ttl := e[tagTTL]
	if len(ttl) != 4 || e[tagRoles] == nil {
		return fmt.Errorf("%w: valid without roles or ttl", ErrMessage)
	}
	for _, role := range e[tagRoles] {
		r.Roles = append(r.Roles, trust.Role(role))
	}
	r.TTL = time.Duration(binary.BigEndian.Uint32(ttl)) * time.Second
	return nil
}

func head(command byte, session uint32) []byte {
	b := []byte{protocolID, version, command, 0}
	b = binary.BigEndian.AppendUint32(b, session)
	return append(b, 0, 0)
}

func appendElement(b []byte, tag byte, value []byte) ([]byte, error) {
	if len(value) > math.MaxUint16 {
		return nil, fmt.Errorf("element %d: %d bytes do not fit", tag, len(value))
	}
	b = append(b, tag, byte(len(value)>>8), byte(len(value)))
	return append(b, value...), nil
}

func finish(b []byte) ([]byte, error) {
	n := len(b) - headerLen
	if n > MaxBody {
		return nil, fmt.Errorf("tvs message of %d bytes is too long", n)
	}
	binary.BigEndian.PutUint16(b[8:], uint16(n))
	return b, nil
}

// elements checks the header and splits the body. Unknown elements are passed over, doubled and overrunning ones refused.
func elements(b []byte, command byte) (session uint32, e map[byte][]byte, err error) {
	n, err := bodyLength(b)
	if err != nil {
		return 0, nil, err
	}
	if b[2] != command {
		return 0, nil, fmt.Errorf("%w: command %d", ErrMessage, b[2])
	}
	if n != len(b)-headerLen {
		return 0, nil, fmt.Errorf("%w: length %d of %d", ErrMessage, n, len(b)-headerLen)
	}
	e = make(map[byte][]byte, 4)
	for p := b[headerLen:]; len(p) > 0; {
		if len(p) < 3 {
			return 0, nil, fmt.Errorf("%w: element cut short", ErrMessage)
		}
		tag, l := p[0], int(binary.BigEndian.Uint16(p[1:]))
		if l > len(p)-3 {
			return 0, nil, fmt.Errorf("%w: element %d beyond the message", ErrMessage, tag)
		}
		if _, twice := e[tag]; twice {
			return 0, nil, fmt.Errorf("%w: element %d twice", ErrMessage, tag)
		}
		e[tag], p = p[3:3+l], p[3+l:]
	}
	return binary.BigEndian.Uint32(b[4:]), e, nil
}

// bodyLength checks the fixed header.
func bodyLength(b []byte) (int, error) {
	if len(b) < headerLen {
		return 0, fmt.Errorf("%w: header cut short", ErrMessage)
	}
	if b[0] != protocolID || b[1] != version {
		return 0, fmt.Errorf("%w: protocol %#x version %d", ErrMessage, b[0], b[1])
	}
	n := int(binary.BigEndian.Uint16(b[8:]))
	if n > MaxBody {
		return 0, fmt.Errorf("%w: body of %d bytes", ErrMessage, n)
	}
	return n, nil
}

// ReadMessage reads one message with any fragmentation and checks its length before it reads the body. io.EOF means that
// the other side closed between messages.
func ReadMessage(r io.Reader) ([]byte, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n, err := bodyLength(h[:])
	if err != nil {
		return nil, err
	}
	b := make([]byte, headerLen+n)
	copy(b, h[:])
	if _, err := io.ReadFull(r, b[headerLen:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
