package sdp

import (
	"encoding/base64"
	"strconv"
	"strings"

	"ringfence/media"
)

// Crypto is an a=crypto line (RFC 4568 §9.1) with a suite that media knows:
//
//	a=crypto:<tag> <suite> inline:<base64 of key and salt>[|lifetime][|MKI:length] [session parameters]
type Crypto struct {
	Tag int
	Key media.Key
}

// parseCrypto reads the value after "crypto:". Lines that cannot be used are dropped, so that the next one may be taken: unknown
// suites (F8, the 8-octet GCM of a draft), a master key identifier, session parameters that change the protection, more than
// one key. A lifetime is accepted and has no effect: a call is shorter. Padding of the base64 may be missing.
func parseCrypto(arg string) (Crypto, bool) {
	f := strings.Fields(arg)
	if len(f) < 3 {
		return Crypto{}, false
	}
	tag, err := strconv.Atoi(f[0])
	if err != nil || tag < 0 || tag > 999999999 {
		return Crypto{}, false
	}
	suite, ok := media.SuiteByName(strings.ToUpper(f[1]))
	if !ok {
		return Crypto{}, false
	}
	for _, p := range f[3:] {
		if !harmless(p) {
			return Crypto{}, false
		}
	}
	method, text, _ := strings.Cut(f[2], ":")
	if !strings.EqualFold(method, "inline") || strings.Contains(text, ";") {
		return Crypto{}, false
	}
	text, rest, _ := strings.Cut(text, "|")
	if strings.Contains(rest, ":") { // an MKI: every packet would carry it
		return Crypto{}, false
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return Crypto{}, false
	}
	key, err := media.KeyFrom(suite, b)
	if err != nil {
		return Crypto{}, false
	}
	return Crypto{Tag: tag, Key: key}, true
}

// harmless tells whether a session parameter (RFC 4568 §6.3) may be ignored. Those that begin with "-" may be by definition;
// WSH only advises on the replay window.
func harmless(p string) bool {
	return strings.HasPrefix(p, "-") || strings.HasPrefix(strings.ToUpper(p), "WSH=")
}

// marshal writes the line without "a=". This is the one place where a key becomes text.
func (c Crypto) marshal() string {
	return "crypto:" + strconv.Itoa(c.Tag) + " " + c.Key.Suite().String() + " inline:" +
		base64.StdEncoding.EncodeToString(c.Key.Material())
}
