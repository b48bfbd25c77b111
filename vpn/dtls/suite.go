package dtls

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
)

// Versions on the wire.
const (
	VersionLegacy uint16 = 0x0100 // the pre-standard DTLS of AnyConnect (§7.1)
	Version12     uint16 = 0xfefd
	version10     uint16 = 0xfeff // in the record header of first hellos
)

// Kind is one of the three ways to a DTLS channel (§7.1 to §7.3).
type Kind uint8

// Kinds.
const (
	Legacy Kind = iota + 1 // resumption, version 0x0100
	Resume                 // resumption, DTLS 1.2
	PSK                    // full PSK handshake, DTLS 1.2
)

func (k Kind) String() string {
	switch k {
	case Legacy:
		return "DTLS 0.9"
	case Resume:
		return "DTLS 1.2"
	case PSK:
		return "DTLS 1.2 PSK"
	}
	return "DTLS"
}

// suite is a cipher suite as far as the record layer and the PRF go. What the name says of key exchange means nothing in a
// resumption (§7.2).
type suite struct {
	id   uint16
	name string
	aead func(key []byte) (aeadMaker, error) // nil: CBC with HMAC-SHA1
	key  int                                 // bytes
	iv   int                                 // fixed part of the nonce; CBC carries its IV in the record
	hash func() hash.Hash                    // of PRF and transcript in DTLS 1.2
}

var suites = map[uint16]*suite{
	0x009c: {0x009c, "AES128-GCM-SHA256", gcm, 16, 4, sha256.New},
	0x009d: {0x009d, "AES256-GCM-SHA384", gcm, 32, 4, sha512.New384},
	0xc02f: {0xc02f, "ECDHE-RSA-AES128-GCM-SHA256", gcm, 16, 4, sha256.New},
	0xc030: {0xc030, "ECDHE-RSA-AES256-GCM-SHA384", gcm, 32, 4, sha512.New384},
	0x002f: {0x002f, "AES128-SHA", nil, 16, 0, sha256.New},
	0x0035: {0x0035, "AES256-SHA", nil, 32, 0, sha256.New},
	0x0033: {0x0033, "DHE-RSA-AES128-SHA", nil, 16, 0, sha256.New},
	0x0039: {0x0039, "DHE-RSA-AES256-SHA", nil, 32, 0, sha256.New},
	0x00a8: {0x00a8, "PSK-AES128-GCM-SHA256", gcm, 16, 4, sha256.New},
	0x00a9: {0x00a9, "PSK-AES256-GCM-SHA384", gcm, 32, 4, sha512.New384},
	0xccab: {0xccab, "PSK-CHACHA20-POLY1305", chacha, 32, 12, sha256.New},
}

// Names of suites that a client lists in X-DTLS12-CipherSuite and X-DTLS-CipherSuite, best first.
var (
	resumeNames = []uint16{0xc030, 0x009d, 0xc02f, 0x009c, 0x0035, 0x002f}
	legacyNames = []uint16{0x0035, 0x002f, 0x0039, 0x0033}
)

// pskSuites are those of the PSK handshake. AES-128 costs the appliance less than AES-256 and is no weaker than the TLS side.
var pskSuites = []uint16{0x00a8, 0x00a9, 0xccab}

// SuiteName is the OpenSSL name of a suite.
func SuiteName(id uint16) string {
	if s := suites[id]; s != nil {
		return s.name
	}
	return "unknown"
}

// Overhead is what a payload costs in a datagram with this kind and suite: record header, nonce or IV, tag or MAC with
// padding, and the type byte in front of the payload. The outer IP and UDP headers come on top.
func Overhead(k Kind, id uint16) int {
	s := suites[id]
	switch {
	case s == nil, s.aead != nil && s.iv == 4, k == PSK:
		return headerLen + 8 + 16 + 1
	}
	return headerLen + 16 + 20 + 16 + 1
}

// Choose picks kind and suite for a client's lists (§7.4): PSK when it is offered and the TLS connection can export a key, then
// DTLS 1.2 by resumption, then the legacy kind. tlsSuite is the OpenSSL name of the TLS cipher: old phones bring DTLS up only
// with the same one. name is what goes into the header of the list it came from.
func Choose(legacyList, list12 []string, exporter bool, tlsSuite string) (k Kind, id uint16, name string, ok bool) {
	has := func(list []string, s string) bool {
		for _, e := range list {
			if e == s {
				return true
			}
		}
		return false
	}
	if exporter && has(legacyList, "PSK-NEGOTIATE") {
		return PSK, 0, "PSK-NEGOTIATE", true
	}
	pick := func(list []string, names []uint16) (uint16, bool) {
		for _, id := range names {
			if suites[id].name == tlsSuite && has(list, tlsSuite) {
				return id, true
			}
		}
		for _, id := range names {
			if has(list, suites[id].name) {
				return id, true
			}
		}
		return 0, false
	}
	if id, ok := pick(list12, resumeNames); ok {
		return Resume, id, suites[id].name, true
	}
	if id, ok := pick(legacyList, legacyNames); ok {
		return Legacy, id, suites[id].name, true
	}
	return 0, 0, "", false
}

// pHash is P_hash of RFC 5246 §5.
func pHash(h func() hash.Hash, secret, seed []byte, n int) []byte {
	m := hmac.New(h, secret)
	m.Write(seed)
	a := m.Sum(nil)
	out := make([]byte, 0, n+m.Size())
	for len(out) < n {
		m.Reset()
		m.Write(a)
		m.Write(seed)
		out = m.Sum(out)
		m.Reset()
		m.Write(a)
		a = m.Sum(nil)
	}
	return out[:n]
}

// prf is the PRF of the kind: TLS 1.0's (RFC 2246 §5) for the legacy one, TLS 1.2's with the suite's hash for the others.
func (s *suite) prf(k Kind, secret []byte, label string, seed []byte, n int) []byte {
	seed = append([]byte(label), seed...)
	if k != Legacy {
		return pHash(s.hash, secret, seed, n)
	}
	half := (len(secret) + 1) / 2
	out := pHash(md5.New, secret[:half], seed, n)
	for i, b := range pHash(sha1.New, secret[len(secret)-half:], seed, n) {
		out[i] ^= b
	}
	return out
}

// finished is the verify_data over a transcript.
func (s *suite) finished(k Kind, master []byte, label string, transcript []byte) []byte {
	var sum []byte
	if k == Legacy {
		m, h := md5.Sum(transcript), sha1.Sum(transcript)
		sum = append(m[:], h[:]...)
	} else {
		h := s.hash()
		h.Write(transcript)
		sum = h.Sum(nil)
	}
	return s.prf(k, master, label, sum, 12)
}

// keys derives the protection of both directions: what the client sends, what we send.
func (s *suite) keys(k Kind, master, serverRandom, clientRandom []byte) (in, out protection, err error) {
	mac := 0
	if s.aead == nil {
		mac = sha1.Size
	}
	block := s.prf(k, master, "key expansion", append(append([]byte(nil), serverRandom...), clientRandom...), 2*(mac+s.key+s.iv))
	cut := func(n int) []byte {
		b := block[:n:n]
		block = block[n:]
		return b
	}
	inMAC, outMAC, inKey, outKey, inIV, outIV := cut(mac), cut(mac), cut(s.key), cut(s.key), cut(s.iv), cut(s.iv)
	if in, err = s.protect(k, inMAC, inKey, inIV); err == nil {
		out, err = s.protect(k, outMAC, outKey, outIV)
	}
	return in, out, err
}
