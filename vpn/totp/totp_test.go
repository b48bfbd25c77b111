package totp

import (
	"testing"
	"time"
)

// RFC 6238 Appendix B, SHA-1, the last six of its eight digits.
func TestRFC6238(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := code(secret, uint64(at)/step); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	secret, now := NewSecret(), time.Unix(1e9, 0)
	c := uint64(now.Unix()) / step
	for _, k := range []struct {
		name  string
		given string
		last  uint64
		ok    bool
	}{
		{"now", code(secret, c), 0, true},
		{"with a space", code(secret, c)[:3] + " " + code(secret, c)[3:], 0, true},
		{"a step ago", code(secret, c-1), 0, true},
		{"a step ahead", code(secret, c+1), 0, true},
		{"two steps ago", code(secret, c-2), 0, false},
		{"used before", code(secret, c), c, false},
		{"older than the one used before", code(secret, c-1), c, false},
		{"newer than the one used before", code(secret, c+1), c, true},
		{"empty", "", 0, false},
		{"too long", code(secret, c) + "0", 0, false},
	} {
		got, ok := Verify(secret, k.given, now, k.last)
		if ok != k.ok || ok && got <= k.last {
			t.Errorf("%s: %d %v, want %v", k.name, got, ok, k.ok)
		}
	}
}

func TestText(t *testing.T) {
	s := []byte("12345678901234567890")
	if got, want := Text(s), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"; got != want {
		t.Errorf("got %s", got)
	}
	for _, in := range []string{"GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "gezd gnbv-gy3t qojq gezd gnbv gy3t qojq"} {
		if b, err := ParseText(in); err != nil || string(b) != string(s) {
			t.Errorf("%s: %q, %v", in, b, err)
		}
	}
	for _, in := range []string{"", "GEZD", "1890!"} {
		if _, err := ParseText(in); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
	if got, want := URL("Lab & Co", "ada@example.org", s), "otpauth://totp/Lab%20&%20Co:ada@example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Lab+%26+Co"; got != want {
		t.Errorf("got %s", got)
	}
}
