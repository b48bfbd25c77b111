package legacytls

import (
	"crypto/tls"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// Messages of the handshake (RFC 5246 §7.4 and its forerunners). On the wire each has a header of its own:
//
//	| type 1 | length 3 | body |
const (
	msgHelloRequest       = 0
	msgClientHello        = 1
	msgServerHello        = 2
	msgCertificate        = 11
	msgCertificateRequest = 13
	msgServerHelloDone    = 14
	msgCertificateVerify  = 15
	msgClientKeyExchange  = 16
	msgFinished           = 20
)

const messageHeader = 4

// errMessage is wrapped by every fault in the form of a message.
var errMessage = errors.New("malformed message")

func malformed(what string) error { return fmt.Errorf("%w: %s", errMessage, what) }

// cutMessage takes the first whole message off b.
func cutMessage(b []byte) (body, rest []byte, ok bool) {
	if len(b) < messageHeader {
		return nil, b, false
	}
	n := messageHeader + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
	if len(b) < n {
		return nil, b, false
	}
	return b[messageHeader:n], b[n:], true
}

// framed puts the header before a body.
func framed(typ byte, body []byte) []byte {
	n := len(body)
	return append([]byte{typ, byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

// built returns what was built; lengths that do not fit are a fault of ours and refused before.
func built(b *cryptobyte.Builder) ([]byte, error) {
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("legacytls: %w", err)
	}
	return out, nil
}

type extension struct {
	Type uint16
	Data []byte
}

// Extensions that are looked at.
const (
	extServerName          = 0
	extSignatureAlgorithms = 13
	extSupportedVersions   = 43
	extRenegotiation       = 0xff01
)

// Suites that are signals (RFC 5746 §3.3, RFC 7507).
const (
	signalRenegotiation = 0x00ff
	signalFallback      = 0x5600
)

// clientHello: RFC 5246 §7.4.1.2.
//
//	| version 2 | random 32 | session id 1+n | suites 2+2n | compressions 1+n | extensions 2+n, may be absent |
type clientHello struct {
	Version      uint16
	Random       [32]byte
	SessionID    []byte
	Suites       []uint16
	Compressions []byte
	Extensions   []extension
}

// Marshal writes the body.
func (m *clientHello) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(m.Version)
	b.AddBytes(m.Random[:])
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.SessionID) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range m.Suites {
			b.AddUint16(s)
		}
	})
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.Compressions) })
	addExtensions(&b, m.Extensions)
	return built(&b)
}

// Unmarshal reads the body.
func (m *clientHello) Unmarshal(body []byte) error {
	*m = clientHello{}
	s := cryptobyte.String(body)
	var id, suites, compressions cryptobyte.String
	if !s.ReadUint16(&m.Version) || !s.CopyBytes(m.Random[:]) || !s.ReadUint8LengthPrefixed(&id) || len(id) > 32 {
		return malformed("hello")
	}
	if !s.ReadUint16LengthPrefixed(&suites) || len(suites) == 0 || len(suites)%2 != 0 || !s.ReadUint8LengthPrefixed(&compressions) || len(compressions) == 0 {
		return malformed("suites or compressions of hello")
	}
	m.SessionID, m.Compressions = clone(id), clone(compressions)
	m.Suites = make([]uint16, len(suites)/2)
	for i := range m.Suites {
		suites.ReadUint16(&m.Suites[i])
	}
	var ok bool
	if m.Extensions, ok = readExtensions(s); !ok {
		return malformed("extensions of hello")
	}
	return nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

func addExtensions(b *cryptobyte.Builder, list []extension) {
	if len(list) == 0 {
		return
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, e := range list {
			b.AddUint16(e.Type)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.Data) })
		}
	})
}

// readExtensions reads what stands behind the fixed part of a hello: nothing, or a list in which each type stands once.
func readExtensions(s cryptobyte.String) ([]extension, bool) {
	if s.Empty() {
		return nil, true
	}
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() {
		return nil, false
	}
	var out []extension
	seen := map[uint16]bool{}
	for !list.Empty() {
		var e extension
		var data cryptobyte.String
		if !list.ReadUint16(&e.Type) || !list.ReadUint16LengthPrefixed(&data) || seen[e.Type] {
			return nil, false
		}
		seen[e.Type] = true
		e.Data = clone(data)
		out = append(out, e)
	}
	return out, true
}

func (m *clientHello) extension(typ uint16) ([]byte, bool) {
	for _, e := range m.Extensions {
		if e.Type == typ {
			return e.Data, true
		}
	}
	return nil, false
}

func (m *clientHello) signals(suite uint16) bool {
	for _, s := range m.Suites {
		if s == suite {
			return true
		}
	}
	return false
}

// versions lists what the client offers, newest first as far as it says so: supported_versions, or all up to its version.
func (m *clientHello) versions() []uint16 {
	if data, ok := m.extension(extSupportedVersions); ok {
		s := cryptobyte.String(data)
		var list cryptobyte.String
		var out []uint16
		if s.ReadUint8LengthPrefixed(&list) {
			for v := uint16(0); list.ReadUint16(&v); {
				if v >= tls.VersionTLS10 && v <= tls.VersionTLS13 { // others are GREASE or drafts
					out = append(out, v)
				}
			}
		}
		return out
	}
	var out []uint16
	for v := min(m.Version, tls.VersionTLS12); v >= tls.VersionTLS10; v-- {
		out = append(out, v)
	}
	return out
}

// newest is the newest version that the client offers. One below TLS 1.0 is returned as it is.
func (m *clientHello) newest() uint16 {
	best := uint16(0)
	for _, v := range m.versions() {
		best = max(best, v)
	}
	if best == 0 {
		best = m.Version
	}
	return best
}

// serverName is the host in the server_name extension (RFC 6066 §3), or nothing.
func (m *clientHello) serverName() string {
	data, ok := m.extension(extServerName)
	if !ok {
		return ""
	}
	s := cryptobyte.String(data)
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) {
		return ""
	}
	for !list.Empty() {
		var typ uint8
		var name cryptobyte.String
		if !list.ReadUint8(&typ) || !list.ReadUint16LengthPrefixed(&name) {
			return ""
		}
		if typ == 0 && len(name) <= 255 {
			return string(name)
		}
	}
	return ""
}

// serverHello: RFC 5246 §7.4.1.3.
//
//	| version 2 | random 32 | session id 1+n | suite 2 | compression 1 | extensions 2+n, may be absent |
type serverHello struct {
	Version    uint16
	Random     [32]byte
	SessionID  []byte
	Suite      uint16
	Extensions []extension
}

// Marshal writes the body.
func (m *serverHello) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(m.Version)
	b.AddBytes(m.Random[:])
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.SessionID) })
	b.AddUint16(m.Suite)
	b.AddUint8(0)
	addExtensions(&b, m.Extensions)
	return built(&b)
}

// Unmarshal reads the body.
func (m *serverHello) Unmarshal(body []byte) error {
	*m = serverHello{}
	s := cryptobyte.String(body)
	var id cryptobyte.String
	var compression uint8
	if !s.ReadUint16(&m.Version) || !s.CopyBytes(m.Random[:]) || !s.ReadUint8LengthPrefixed(&id) || len(id) > 32 ||
		!s.ReadUint16(&m.Suite) || !s.ReadUint8(&compression) || compression != 0 {
		return malformed("server hello")
	}
	m.SessionID = clone(id)
	var ok bool
	if m.Extensions, ok = readExtensions(s); !ok {
		return malformed("extensions of server hello")
	}
	return nil
}
