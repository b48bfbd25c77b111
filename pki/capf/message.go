package capf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Wire constants (§2).
const (
	protocolID = 0x55
	headerLen  = 8
	maxBody    = 16 << 10 // [P] of §2.2; the largest honest message is below 4 KiB
)

// Command is the second byte of a message (§2.1).
type Command byte

// The commands that are used. Others have names but no known layout.
const (
	cmdAuthRequest         Command = 1
	cmdAuthResponse        Command = 2
	cmdKeyGenerateRequest  Command = 3
	cmdKeyGenerateResponse Command = 4
	cmdStoreRequest        Command = 9
	cmdStoreResponse       Command = 10
	cmdFetchRequest        Command = 11
	cmdFetchResponse       Command = 12
	cmdDeleteRequest       Command = 13
	cmdDeleteResponse      Command = 14
	cmdEndSession          Command = 15
	cmdRetryLater          Command = 16
	cmdInProgress          Command = 17
)

// Reason is the outcome that END_SESSION and the phone's answers carry (§2.3).
type Reason byte

// The reasons.
const (
	ReasonNothing Reason = 0 // END_SESSION: nothing to do, or end of a fetch
	ReasonDone    Reason = 1 // success
	ReasonRefused Reason = 7 // refused, or failure at the phone
	ReasonUnknown Reason = 9 // END_SESSION: device not known
)

// String explains the reason.
func (r Reason) String() string {
	switch r {
	case ReasonNothing:
		return "nothing to do"
	case ReasonDone:
		return "done"
	case ReasonRefused:
		return "refused"
	case ReasonUnknown:
		return "unknown device"
	}
	return fmt.Sprintf("reason %d", byte(r))
}

// Tags of elements (§2.2).
const (
	tagReason      = 0x01
	tagCertType    = 0x03
	tagCertificate = 0x04
	tagSignedData  = 0x06
	tagVersion     = 0x07
	tagAuthType    = 0x08
	tagPublicKey   = 0x09
	tagKeySize     = 0x0a
	tagPassword    = 0x0b
	tagDeviceName  = 0x0d
	tagSUDIData    = 0x10
	tagKeyType     = 0x11
	tagCurve       = 0x12
	tagSHA2Signed  = 0x14
)

// fixedLength holds the elements whose length does not vary.
var fixedLength = map[byte]int{
	tagReason: 1, tagCertType: 1, tagVersion: 1, tagAuthType: 1, tagKeySize: 2, tagKeyType: 1, tagCurve: 1,
}

// CertificateType says which certificate of a phone is meant.
type CertificateType byte

// The certificate types.
const (
	TypeLSC CertificateType = 1
	TypeMIC CertificateType = 2
)

// ErrMalformed is wrapped by every error about the contents of a message, as against the connection that carries it: the
// server answers the former with END_SESSION and the latter with silence (§8).
var ErrMalformed = errors.New("capf: malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Body is the part of a message that its command defines.
type Body interface {
	command() Command
	marshal(w *elements) error
	unmarshal(e *elements) error
}

// Message is one CAPF message:
//
//	offset  size  field
//	0       1     protocol id, 0x55
//	1       1     command
//	2       4     session id
//	6       2     length of what follows
//	8       n     elements: tag(1) length(2) value(length)
type Message struct {
	Session uint32
	Body    Body
}

// Marshal writes the message with its elements in the order in which the reference sends them.
func (m Message) Marshal() ([]byte, error) {
	w := &elements{raw: make([]byte, headerLen, 2048)}
	if err := m.Body.marshal(w); err != nil {
		return nil, err
	}
	if w.err != nil {
		return nil, w.err
	}
	n := len(w.raw) - headerLen
	if n > maxBody {
		return nil, fmt.Errorf("capf: message of %d bytes is too long", n)
	}
	w.raw[0] = protocolID
	w.raw[1] = byte(m.Body.command())
	binary.BigEndian.PutUint32(w.raw[2:], m.Session)
	binary.BigEndian.PutUint16(w.raw[6:], uint16(n))
	return w.raw, nil
}

// Unmarshal reads one whole message. Values are copies.
func (m *Message) Unmarshal(b []byte) error {
	n, err := bodyLength(b)
	if err != nil {
		return err
	}
	if len(b) != headerLen+n {
		return malformed("%d bytes follow the header, its length says %d", len(b)-headerLen, n)
	}
	m.Session = binary.BigEndian.Uint32(b[2:])
	m.Body = newBody(Command(b[1]))
	if m.Body == nil {
		return malformed("command %d", b[1])
	}
	var e elements
	if err := e.parse(b[headerLen:]); err != nil {
		return err
	}
	return m.Body.unmarshal(&e)
}

// bodyLength checks a header and returns the length it announces.
func bodyLength(header []byte) (int, error) {
	if len(header) < headerLen {
		return 0, malformed("header of %d bytes", len(header))
	}
	if header[0] != protocolID {
		return 0, malformed("protocol id 0x%02x", header[0])
	}
	n := int(binary.BigEndian.Uint16(header[6:]))
	if n > maxBody {
		return 0, malformed("length %d", n)
	}
	return n, nil
}

// ReadMessage reads one message, whatever pieces it arrives in. An error that does not wrap ErrMalformed is the reader's.
func ReadMessage(r io.Reader) (Message, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Message{}, err
	}
	n, err := bodyLength(header[:])
	if err != nil {
		return Message{}, err
	}
	b := make([]byte, headerLen+n)
	copy(b, header[:])
	if _, err := io.ReadFull(r, b[headerLen:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	var m Message
	err = m.Unmarshal(b)
	return m, err
}

// WriteMessage writes a message with a single Write, so that it becomes a single TLS record: phones stall when header and
// body arrive in two (§1).
func WriteMessage(w io.Writer, m Message) error {
	b, err := m.Marshal()
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// elements is the list of elements of a message, being written or read.
type elements struct {
	raw   []byte          // while writing: header and elements
	found map[byte][]byte // after parse
	err   error           // the first error while writing
}

// parse enforces the rules of §2.2: no element beyond the end, none twice, fixed lengths exact. Tags that are not listed
// are allowed, since firmware differs; nobody looks at them.
func (e *elements) parse(b []byte) error {
	e.found = make(map[byte][]byte, 8)
	for len(b) > 0 {
		if len(b) < 3 {
			return malformed("element header cut short")
		}
		tag, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		if n > len(b)-3 {
			return malformed("element %d of %d bytes runs past the message", tag, n)
		}
		if _, twice := e.found[tag]; twice {
			return malformed("element %d twice", tag)
		}
		if want, fixed := fixedLength[tag]; fixed && n != want {
			return malformed("element %d has %d bytes instead of %d", tag, n, want)
		}
		e.found[tag] = append(make([]byte, 0, n), b[3:3+n]...)
		b = b[3+n:]
	}
	return nil
}

func (e *elements) add(tag byte, value []byte) {
	if len(value) > maxBody {
		e.err = fmt.Errorf("capf: element %d of %d bytes is too long", tag, len(value))
		return
	}
	e.raw = append(e.raw, tag, byte(len(value)>>8), byte(len(value)))
	e.raw = append(e.raw, value...)
}

func (e *elements) addByte(tag, value byte) { e.add(tag, []byte{value}) }

// addText writes a string and its NUL.
func (e *elements) addText(tag byte, s string) {
	if !validText(s) {
		e.err = fmt.Errorf("capf: element %d: text holds a NUL or is not UTF-8", tag)
		return
	}
	e.add(tag, append([]byte(s), 0))
}

func (e *elements) has(tag byte) bool { _, ok := e.found[tag]; return ok }

// byteOf returns a one-byte element that must be there.
func (e *elements) byteOf(tag byte) (byte, error) {
	v, ok := e.found[tag]
	if !ok {
		return 0, malformed("element %d is missing", tag)
	}
	return v[0], nil
}

// bytesOf returns an element that must be there and not be empty.
func (e *elements) bytesOf(tag byte) ([]byte, error) {
	v, ok := e.found[tag]
	if !ok || len(v) == 0 {
		return nil, malformed("element %d is missing or empty", tag)
	}
	return v, nil
}

// textOf returns a text element, without its one NUL.
func (e *elements) textOf(tag byte) (string, error) {
	v, ok := e.found[tag]
	if !ok {
		return "", malformed("element %d is missing", tag)
	}
	if len(v) == 0 || v[len(v)-1] != 0 {
		return "", malformed("element %d does not end in a NUL", tag)
	}
	s := string(v[:len(v)-1])
	if !validText(s) {
		return "", malformed("element %d holds a NUL or is not UTF-8", tag)
	}
	return s, nil
}

func validText(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return false
		}
	}
	return utf8.ValidString(s)
}

// wrapCertificate writes the wrapper of CERTIFICATE (§2.4):
//
//	0x01  length(2) = DER length + 2  0x00  certificate type(1)  DER
func wrapCertificate(typ CertificateType, der []byte) []byte {
	b := make([]byte, 0, len(der)+5)
	b = append(b, 0x01, byte((len(der)+2)>>8), byte(len(der)+2), 0x00, byte(typ))
	return append(b, der...)
}

// unwrapCertificate reads the wrapper. The type is not to be relied on: the reference writes 1 around a MIC too.
func unwrapCertificate(b []byte) (CertificateType, []byte, error) {
	if len(b) < 6 || b[0] != 0x01 || b[3] != 0x00 {
		return 0, nil, malformed("certificate wrapper")
	}
	if int(binary.BigEndian.Uint16(b[1:])) != len(b)-3 {
		return 0, nil, malformed("certificate wrapper holds %d bytes and says otherwise", len(b)-3)
	}
	typ := CertificateType(b[4])
	if typ != TypeLSC && typ != TypeMIC {
		return 0, nil, malformed("certificate type %d", b[4])
	}
	return typ, b[5:], nil
}
