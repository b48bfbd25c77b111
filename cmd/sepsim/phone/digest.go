package phone

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// challenge is a WWW-Authenticate header.
type challenge struct {
	realm, nonce, opaque, algorithm string
	qop                             []string
	stale                           bool
}

func challengeOf(value string) (challenge, error) {
	var c challenge
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	if !strings.EqualFold(scheme, "Digest") {
		return c, fmt.Errorf("challenge %q", clip(value))
	}
	for _, f := range splitOutside(rest, ',') {
		k, v, _ := strings.Cut(f, "=")
		v = unquote(strings.TrimSpace(v))
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "realm":
			c.realm = v
		case "nonce":
			c.nonce = v
		case "opaque":
			c.opaque = v
		case "algorithm":
			c.algorithm = v
		case "stale":
			c.stale = strings.EqualFold(v, "true")
		case "qop":
			for _, q := range strings.Split(v, ",") {
				c.qop = append(c.qop, strings.ToLower(strings.TrimSpace(q)))
			}
		}
	}
	switch {
	case c.algorithm != "" && !strings.EqualFold(c.algorithm, "MD5"):
		return c, fmt.Errorf("algorithm %s", clip(c.algorithm))
	case c.realm == "" || c.nonce == "":
		return c, errors.New("challenge without realm or nonce")
	}
	return c, nil
}

func md5Hex(s string) string {
	h := md5.Sum([]byte(s))
	return hex.EncodeToString(h[:])
}

// authorization answers a challenge in the layout of overview §4: no cnonce, nc and qop unless the server offered qop=auth.
func (c challenge) authorization(user, password, method, uri, cnonce string) string {
	ha1 := md5Hex(user + ":" + c.realm + ":" + password)
	ha2 := md5Hex(method + ":" + uri)
	auth := false
	for _, q := range c.qop {
		auth = auth || q == "auth"
	}
	response := md5Hex(ha1 + ":" + c.nonce + ":" + ha2)
	extra := ""
	if auth {
		response = md5Hex(strings.Join([]string{ha1, c.nonce, "00000001", cnonce, "auth", ha2}, ":"))
		extra = fmt.Sprintf(`,cnonce="%s",nc=00000001,qop=auth`, cnonce)
	}
	if c.opaque != "" {
		extra += fmt.Sprintf(`,opaque="%s"`, c.opaque)
	}
	return fmt.Sprintf(`Digest username="%s",realm="%s",uri="%s",response="%s",nonce="%s"%s,algorithm=MD5`,
		user, c.realm, uri, response, c.nonce, extra)
}
