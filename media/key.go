package media

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/pion/srtp/v3"
)

// Suite is a way to protect a stream (RFC 4568 §6.2, RFC 7714 §14).
type Suite uint8

// The suites of "sip-calls" §30, in the order in which they are preferred.
const (
	NoSuite Suite = iota
	AEAD256GCM
	AEAD128GCM
	CM128SHA80
	CM128SHA32
)

var suites = [...]struct {
	name      string
	key, salt int // octets
	profile   srtp.ProtectionProfile
}{
	NoSuite:    {name: "none"},
	AEAD256GCM: {"AEAD_AES_256_GCM", 32, 12, srtp.ProtectionProfileAeadAes256Gcm},
	AEAD128GCM: {"AEAD_AES_128_GCM", 16, 12, srtp.ProtectionProfileAeadAes128Gcm},
	CM128SHA80: {"AES_CM_128_HMAC_SHA1_80", 16, 14, srtp.ProtectionProfileAes128CmHmacSha1_80},
	CM128SHA32: {"AES_CM_128_HMAC_SHA1_32", 16, 14, srtp.ProtectionProfileAes128CmHmacSha1_32},
}

// Suites returns every suite, the preferred first.
func Suites() []Suite { return []Suite{AEAD256GCM, AEAD128GCM, CM128SHA80, CM128SHA32} }

// SuiteByName finds a suite by its registered name, in exactly that spelling.
func SuiteByName(name string) (Suite, bool) {
	for _, s := range Suites() {
		if suites[s].name == name {
			return s, true
		}
	}
	return NoSuite, false
}

// String returns the registered name.
func (s Suite) String() string {
	if int(s) < len(suites) {
		return suites[s].name
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// KeyLen is the length of master key and salt together.
func (s Suite) KeyLen() int {
	if int(s) < len(suites) {
		return suites[s].key + suites[s].salt
	}
	return 0
}

// Key is the master key and salt of one direction. The zero Key is none: the stream is in clear. It never prints its bytes.
type Key struct {
	suite    Suite
	material []byte
}

// NewKey makes a random key for a suite.
func NewKey(s Suite) Key {
	k := Key{suite: s, material: make([]byte, s.KeyLen())}
	_, _ = rand.Read(k.material) // never fails since Go 1.24
	return k
}

// KeyFrom takes master key and salt, one after the other, as received.
func KeyFrom(s Suite, material []byte) (Key, error) {
	if s == NoSuite || len(material) != s.KeyLen() {
		return Key{}, fmt.Errorf("%s takes %d octets of key and salt, not %d", s, s.KeyLen(), len(material))
	}
	return Key{suite: s, material: bytes.Clone(material)}, nil
}

// Suite returns the suite; NoSuite for the zero Key.
func (k Key) Suite() Suite { return k.suite }

// Material returns master key and salt.
func (k Key) Material() []byte { return bytes.Clone(k.material) }

// Zero tells whether there is no key.
func (k Key) Zero() bool { return k.suite == NoSuite }

// Equal tells whether both are the same key of the same suite.
func (k Key) Equal(o Key) bool { return k.suite == o.suite && bytes.Equal(k.material, o.material) }

// String hides the key.
func (k Key) String() string { return k.suite.String() + " [redacted]" }

// GoString hides the key from %#v.
func (k Key) GoString() string { return k.String() }

// LogValue hides the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// context makes the SRTP state of one direction.
func (k Key) context() (*srtp.Context, error) {
	p := suites[k.suite]
	// The library leaves replay protection off unless asked.
	c, err := srtp.CreateContext(k.material[:p.key], k.material[p.key:], p.profile,
		srtp.SRTPReplayProtection(replayWindow), srtp.SRTCPReplayProtection(replayWindow))
	if err != nil {
		return nil, fmt.Errorf("make SRTP context %s: %w", k.suite, err)
	}
	return c, nil
}

const replayWindow = 64 // RFC 3711 §3.3.2: at least 64
