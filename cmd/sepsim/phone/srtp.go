package phone

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pion/srtp/v3"
)

// suiteInfo is a suite of calls §30: bytes of key and of salt.
type suiteInfo struct {
	profile   srtp.ProtectionProfile
	key, salt int
}

var suites = map[string]suiteInfo{
	suite80:     {srtp.ProtectionProfileAes128CmHmacSha1_80, 16, 14},
	suite32:     {srtp.ProtectionProfileAes128CmHmacSha1_32, 16, 14},
	suiteGCM128: {srtp.ProtectionProfileAeadAes128Gcm, 16, 12},
	suiteGCM256: {srtp.ProtectionProfileAeadAes256Gcm, 32, 12},
}

// cryptoOf reads the value of an a=crypto attribute: tag suite inline:key[|lifetime|MKI].
func cryptoOf(v string) (cryptoLine, error) {
	f := strings.Fields(v)
	if len(f) < 3 {
		return cryptoLine{}, errors.New("crypto line cut short")
	}
	tag, err := strconv.Atoi(f[0])
	if err != nil || tag < 1 {
		return cryptoLine{}, fmt.Errorf("crypto tag %q", clip(f[0]))
	}
	s, ok := suites[f[1]]
	if !ok {
		return cryptoLine{}, fmt.Errorf("suite %q", clip(f[1]))
	}
	text, ok := strings.CutPrefix(f[2], "inline:")
	if !ok {
		return cryptoLine{}, errors.New("crypto key is not inline")
	}
	text, _, _ = strings.Cut(text, "|")
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "=")) // padding may be missing
	if err != nil || len(key) != s.key+s.salt {
		return cryptoLine{}, fmt.Errorf("key of %s with %d bytes", f[1], len(key))
	}
	return cryptoLine{tag: tag, suite: f[1], key: key}, nil
}

func encodeKey(key []byte) string { return base64.StdEncoding.EncodeToString(key) }

// newCrypto makes a line with a fresh key.
func newCrypto(tag int, suite string) cryptoLine {
	s := suites[suite]
	key := make([]byte, s.key+s.salt)
	_, _ = rand.Read(key)
	return cryptoLine{tag: tag, suite: suite, key: key}
}

// context makes the SRTP state of one direction. Replay protection is off in the library unless asked for.
func (c cryptoLine) context() (*srtp.Context, error) {
	s, ok := suites[c.suite]
	if !ok {
		return nil, fmt.Errorf("suite %q", c.suite)
	}
	return srtp.CreateContext(c.key[:s.key], c.key[s.key:], s.profile,
		srtp.SRTPReplayProtection(64), srtp.SRTCPReplayProtection(64))
}
