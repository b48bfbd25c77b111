package registrar

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// nonces issues nonces that need no memory until they are used, and remembers those that were.
//
// A nonce is the hexadecimal form of
//
//	 0               4               8               16
//	+---------------+---------------+---------------+
//	| seconds since | random        | HMAC-SHA-256, |
//	| the start     |               | first 8 bytes |
//	+---------------+---------------+---------------+
//
// under a key of this process. A nonce answered without qop is good once; with qop as often as nc grows. Time is monotonic, so
// a change of the clock has no effect. The memory of used nonces has two generations of one lifetime each and is bounded:
// when a generation is full, a new one begins and nonces issued before the older one's start count as stale.
type nonces struct {
	key      [32]byte
	start    time.Time
	lifetime time.Duration
	max      int

	mu       sync.Mutex
	used     [2]map[string]uint32 // nonce -> highest nc
	turned   time.Duration        // when used[0] began
	earliest time.Duration        // nonces issued before are stale
}

func newNonces(lifetime time.Duration, max int) *nonces {
	n := &nonces{start: time.Now(), lifetime: lifetime, max: max}
	_, _ = rand.Read(n.key[:]) // never fails (crypto/rand)
	n.used[0], n.used[1] = make(map[string]uint32), make(map[string]uint32)
	return n
}

func (n *nonces) mac(b []byte) []byte {
	h := hmac.New(sha256.New, n.key[:])
	h.Write(b)
	return h.Sum(nil)[:8]
}

// issue returns a new nonce.
func (n *nonces) issue() string {
	var b [16]byte
	binary.BigEndian.PutUint32(b[:], uint32(time.Since(n.start)/time.Second))
	_, _ = rand.Read(b[4:8])
	copy(b[8:], n.mac(b[:8]))
	return hex.EncodeToString(b[:])
}

// ours reports whether a nonce was issued by this process and is young enough.
func (n *nonces) ours(nonce string) bool {
	var b [16]byte
	if len(nonce) != 32 {
		return false
	}
	if _, err := hex.Decode(b[:], []byte(nonce)); err != nil || !hmac.Equal(b[8:], n.mac(b[:8])) {
		return false
	}
	issued := time.Duration(binary.BigEndian.Uint32(b[:])) * time.Second
	n.mu.Lock()
	defer n.mu.Unlock()
	return issued >= n.earliest && time.Since(n.start) < issued+n.lifetime
}

// use notes a correct answer and reports whether it is the first of its kind: no replay.
func (n *nonces) use(nonce string, nc uint32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Since(n.start)
	if now-n.turned > n.lifetime || len(n.used[0]) >= n.max {
		if now-n.turned <= n.lifetime {
			n.earliest = n.turned // what used[1] knew is forgotten before its time
		}
		n.used[1], n.used[0], n.turned = n.used[0], make(map[string]uint32), now
	}
	for _, m := range n.used {
		if last, ok := m[nonce]; ok {
			if nc == 0 || last == 0 || nc <= last {
				return false
			}
			m[nonce] = nc
			return true
		}
	}
	n.used[0][nonce] = nc
	return true
}

// credentials are the parameters of a Digest Authorization header (RFC 8760, 7616, 2617).
type credentials struct {
	username, realm, nonce, uri, response, algorithm, cnonce, qop, opaque string
	nc                                                                    uint32
}

var errNotDigest = errors.New("no digest credentials")

// maxParams bounds the parameters looked at in one header.
const maxParams = 32

// parseCredentials reads "Digest name=value, name="value" ...". Blanks around = and , are free; a parameter given twice is an
// error, since another reader might take the other one.
func parseCredentials(s string) (credentials, error) {
	var c credentials
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	if !strings.EqualFold(scheme, "Digest") {
		return c, errNotDigest
	}
	seen := make(map[string]bool, 10)
	for n := 0; ; n++ {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		if n == maxParams {
			return c, errors.New("too many digest parameters")
		}
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return c, errors.New("digest parameter without value")
		}
		name = strings.ToLower(strings.TrimSpace(name))
		after = strings.TrimLeft(after, " \t")
		var value string
		if strings.HasPrefix(after, `"`) {
			value, rest, ok = unquote(after)
			if !ok {
				return c, errors.New("digest parameter without closing quote")
			}
		} else {
			value, rest, _ = strings.Cut(after, ",")
			value = strings.TrimSpace(value)
		}
		if seen[name] {
			return c, errors.New("digest parameter given twice")
		}
		seen[name] = true
		switch name {
		case "username":
			c.username = value
		case "realm":
			c.realm = value
		case "nonce":
			c.nonce = value
		case "uri":
			c.uri = value
		case "response":
			c.response = value
		case "algorithm":
			c.algorithm = strings.ToUpper(value)
		case "cnonce":
			c.cnonce = value
		case "qop":
			c.qop = strings.ToLower(value)
		case "opaque":
			c.opaque = value
		case "nc":
			v, err := strconv.ParseUint(value, 16, 32)
			if err != nil || len(value) != 8 {
				return c, errors.New("digest nc")
			}
			c.nc = uint32(v)
		}
	}
	if c.nonce == "" || c.response == "" || c.uri == "" {
		return c, errors.New("digest without nonce, uri or response")
	}
	if c.qop != "" && (c.qop != "auth" || c.cnonce == "" || c.nc == 0) {
		return c, errors.New("digest qop without cnonce and nc")
	}
	return c, nil
}

// unquote returns the quoted string at the start of s and what follows it.
func unquote(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		case '"':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}

// answer computes the response that password gives, or "" for an algorithm that was not offered.
func (c credentials) answer(realm, method, password string) string {
	var h func(parts ...string) string
	switch c.algorithm {
	case "", "MD5":
		h = func(parts ...string) string { return sum(md5.New(), parts) }
	case "SHA-256":
		h = func(parts ...string) string { return sum(sha256.New(), parts) }
	default:
		return ""
	}
	a1 := h(c.username, realm, password)
	a2 := h(method, c.uri)
	if c.qop == "" {
		return h(a1, c.nonce, a2)
	}
	nc := "0000000" + strconv.FormatUint(uint64(c.nc), 16)
	return h(a1, c.nonce, nc[len(nc)-8:], c.cnonce, c.qop, a2)
}

// sum hashes the parts joined by colons.
func sum(h hash.Hash, parts []string) string {
	for i, p := range parts {
		if i > 0 {
			h.Write([]byte(":"))
		}
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// correct compares in constant time.
func (c credentials) correct(realm, method, password string) bool {
	want := c.answer(realm, method, password)
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(strings.ToLower(c.response))) == 1
}
