package registrar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/transaction"
)

// contact is one value of a Contact header, with its URI as it was written.
type contact struct {
	star   bool
	text   string
	uri    sip.Uri
	params map[string]string // names in lower case, values without quotes
}

// parseContacts reads all Contact headers of a REGISTER.
func parseContacts(req *sip.Request) ([]contact, error) {
	var out []contact
	for h := range transaction.Headers(req, "Contact", "m") {
		for _, v := range splitList(h.Value(), ',') {
			c, err := parseContact(v)
			if err != nil {
				return nil, err
			}
			if out = append(out, c); len(out) > MaxContacts {
				return nil, errors.New("too many contacts")
			}
		}
	}
	if len(out) > 1 {
		for _, c := range out {
			if c.star {
				return nil, errors.New("* beside other contacts")
			}
		}
	}
	return out, nil
}

func parseContact(v string) (contact, error) {
	v = strings.TrimSpace(v)
	if v == "*" {
		return contact{star: true}, nil
	}
	c := contact{params: make(map[string]string)}
	rest := ""
	if open := indexOutside(v, '<'); open >= 0 {
		end := strings.IndexByte(v[open:], '>')
		if end < 0 {
			return c, errors.New("contact without >")
		}
		c.text, rest = v[open+1:open+end], v[open+end+1:]
	} else {
		c.text, rest, _ = strings.Cut(v, ";")
		c.text, rest = strings.TrimSpace(c.text), ";"+rest
	}
	u, err := transaction.VerbatimURI(c.text)
	if err != nil {
		return c, fmt.Errorf("contact: %w", err)
	}
	scheme, _, _ := strings.Cut(c.text, ":")
	if s := strings.ToLower(scheme); s != "sip" && s != "sips" || strings.ContainsAny(c.text, " \t\r\n\"<>") || u.Host == "" {
		return c, errors.New("contact is no SIP URI")
	}
	c.uri = u
	for _, p := range splitList(rest, ';') {
		name, value, _ := strings.Cut(p, "=")
		if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
			c.params[name] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return c, nil
}

// splitList splits outside quotes and angle brackets.
func splitList(s string, sep byte) []string {
	var out []string
	quoted, angle, start := false, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '<':
			angle = true
		case !quoted && c == '>':
			angle = false
		case !quoted && !angle && c == sep:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

// indexOutside finds c outside quotes.
func indexOutside(s string, c byte) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && s[i] == c:
			return i
		}
	}
	return -1
}

// standby tells a keep-alive towards the member that is not in charge: both parameters, any order, any case
// (sip-registration.md §7.1).
func (c contact) standby() bool {
	_, alive := c.params["cisco-keep-alive"]
	return alive && c.params["expires"] == "0"
}

// expires is what the contact asks for; ok is false if nothing is said anywhere.
func (c contact) expires(req *sip.Request) (time.Duration, bool) {
	for _, v := range []string{c.params["expires"], transaction.Header(req, "Expires")} {
		if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32); err == nil {
			return time.Duration(n) * time.Second, true
		}
	}
	return 0, false
}

// withUser returns the URI text with another user part, all else verbatim: the contact of a secondary line.
func withUser(text, user string) string {
	scheme, rest, _ := strings.Cut(text, ":")
	head, params, more := strings.Cut(rest, ";")
	if at := strings.LastIndexByte(head, '@'); at >= 0 {
		head = head[at+1:]
	}
	if more {
		params = ";" + params
	}
	return scheme + ":" + user + "@" + head + params
}

// deviceName is the name in the Contact, however the client software spells the parameter.
func (c contact) deviceName() string {
	for _, k := range []string{"+u.sip!devicename.ccm.cisco.com", "+u.sip!devicename.ccm.features.cisco.com"} {
		if v := c.params[k]; v != "" {
			return v
		}
	}
	return ""
}

// modelOf takes 8861 out of Cisco-CP8861/14.1.1 and 8865NR out of Cisco-CP8865NR/…; "" for others.
func modelOf(ua string) string {
	if len(ua) < 9 || !strings.EqualFold(ua[:8], "Cisco-CP") {
		return ""
	}
	m, _, _ := strings.Cut(ua[8:], "/")
	return m
}

// maxTagSets bounds what is shared between phones; there are about as many sets as firmwares.
const maxTagSets = 256

// tagSets shares the lists of option tags between all phones that announce the same: they are some 400 bytes each.
type tagSets struct {
	mu   sync.Mutex
	sets map[string][]string
}

// of is supported, or a list that is equal.
func (t *tagSets) of(req *sip.Request) []string { return t.share(supported(req)) }

func (t *tagSets) share(tags []string) []string {
	if len(tags) == 0 {
		return nil
	}
	key := strings.Join(tags, ",")
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.sets[key]; ok {
		return s
	}
	if len(t.sets) < maxTagSets {
		if t.sets == nil {
			t.sets = make(map[string][]string)
		}
		t.sets[key] = tags
	}
	return tags
}

// supported lists the option tags of all Supported headers in lower case.
func supported(req *sip.Request) []string {
	var out []string
	for h := range transaction.Headers(req, "Supported", "k") {
		for tag := range strings.SplitSeq(h.Value(), ",") {
			if tag = strings.ToLower(strings.TrimSpace(tag)); tag != "" && len(out) < 64 {
				out = append(out, tag)
			}
		}
	}
	return out
}
