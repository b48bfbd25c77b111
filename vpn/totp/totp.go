// Package totp is the time-based one-time password of RFC 6238, as phone apps show it: six digits, 30 seconds, HMAC-SHA1. It
// is pure; who remembers the last code used of each person is the caller's business.
package totp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	step   = 30 // seconds
	digits = 6
	// drift is how many steps the person's clock may be off, either way.
	drift = 1
)

var encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewSecret makes a secret of 160 bits.
func NewSecret() []byte {
	s := make([]byte, 20)
	rand.Read(s)
	return s
}

// Text is the secret as people type it.
func Text(secret []byte) string { return encoding.EncodeToString(secret) }

// ParseText reads what Text wrote, with spaces and in any case.
func ParseText(s string) ([]byte, error) {
	s = strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "=", "").Replace(s))
	b, err := encoding.DecodeString(s)
	if err != nil || len(b) < 10 {
		return nil, fmt.Errorf("one-time password secret: not base32 of at least 10 bytes")
	}
	return b, nil
}

// URL is what a QR code for authenticator apps holds.
func URL(issuer, user string, secret []byte) string {
	return fmt.Sprintf("otpauth://totp/%s:%s?secret=%s&issuer=%s", url.PathEscape(issuer), url.PathEscape(user), Text(secret), url.QueryEscape(issuer))
}

// code is HOTP (RFC 4226 §5.3).
func code(secret []byte, counter uint64) string {
	m := hmac.New(sha1.New, secret)
	_ = binary.Write(m, binary.BigEndian, counter)
	sum := m.Sum(nil)
	off := sum[len(sum)-1] & 15
	n := binary.BigEndian.Uint32(sum[off:]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, n%1_000_000)
}

// Code is the code of a moment, as an authenticator shows it.
func Code(secret []byte, at time.Time) string { return code(secret, uint64(at.Unix())/step) }

// Verify checks a code. last is the counter of the last code that was accepted (0 for none): neither it nor an older one is
// good again. The counter to remember is returned.
func Verify(secret []byte, given string, now time.Time, last uint64) (counter uint64, ok bool) {
	given = strings.ReplaceAll(given, " ", "")
	at := uint64(now.Unix()) / step
	for c := at - drift; c <= at+drift; c++ {
		if subtle.ConstantTimeCompare([]byte(code(secret, c)), []byte(given)) == 1 && c > last {
			counter, ok = c, true
		}
	}
	return counter, ok
}
