package config

import (
	"fmt"
	"slices"
	"strings"
)

// legacyNeeds are the listeners without which a phone in encrypted mode gets neither its certificate nor a registration.
var legacyNeeds = []string{"capf", "tvs", "sip"}

// OldTLS tells whether a model knows no TLS newer than 1.0 (or 1.1) and therefore needs node.listen.legacy_tls.
func (m PhoneModel) OldTLS() bool { return m.TLSMax == "1.0" || m.TLSMax == "1.1" }

// Legacy tells whether the service (capf, tvs, sip, vpn) also speaks to phones that know nothing newer than TLS 1.0.
func (l Listen) Legacy(service string) bool { return slices.Contains(l.LegacyTLS, service) }

// legacy judges the old phones: each in encrypted mode needs listeners that speak its TLS, and who switches these on shall
// know for whom.
func (c *checker) legacy() {
	if !c.whole("node") || !c.whole("phones") {
		return
	}
	const path = "node.listen.legacy_tls"
	list := c.d.Node.Listen.LegacyTLS
	for i, s := range list {
		if slices.Contains(list[:i], s) {
			c.bad(fmt.Sprintf("%s[%d]", path, i), "remove one", "%s is given twice", s)
		}
	}
	var lacking []string
	for _, s := range legacyNeeds {
		if !slices.Contains(list, s) {
			lacking = append(lacking, s)
		}
	}
	var old, outside oldPhones
	for i := range c.d.Phones {
		p := &c.d.Phones[i]
		m, ok := Model(p.Model)
		if !ok || !m.OldTLS() {
			continue
		}
		if p.Security == SecurityEncrypted {
			old.add(i, p, m)
		}
		if p.VPN != "" && c.d.VPN.Enabled {
			outside.add(i, p, m)
		}
	}
	c.oldEncrypted(old, lacking)
	if !slices.Contains(list, "vpn") && len(outside.names) > 0 {
		c.note(fmt.Sprintf("phones[%d].vpn", outside.first), "add vpn to "+path+", or remove vpn: here",
			"the VPN offers nothing as old as TLS 1.0, so that it stays shut for %s", outside)
	}
	if len(list) == 0 {
		return
	}
	if len(old.names)+len(outside.names) == 0 {
		c.note(path, "remove legacy_tls", "%s: TLS 1.0 is offered, but no declared phone needs it", strings.Join(list, ", "))
		return
	}
	c.note(path, "remove it when these phones are gone", "TLS 1.0 with RSA key exchange is offered (%s) because of %s", strings.Join(list, ", "), old.and(outside))
}

// oldEncrypted reports phones that could neither be enrolled nor register. One fault for all: it is one decision.
func (c *checker) oldEncrypted(old oldPhones, lacking []string) {
	if len(old.names) == 0 || len(lacking) == 0 {
		return
	}
	const list = "node.listen.legacy_tls"
	want := "[" + strings.Join(legacyNeeds, ", ") + "]"
	if len(c.d.Node.Listen.LegacyTLS) > 0 {
		c.bad(list, fmt.Sprintf("add %s, or set security: nonsecure at these phones", strings.Join(lacking, " and ")),
			"legacy_tls lacks %s for encrypted phones that know nothing newer than TLS 1.0: %s", strings.Join(lacking, " and "), old)
		return
	}
	path := fmt.Sprintf("phones[%d].security", old.first)
	if _, ok := c.ix.marks[path]; !ok {
		path = fmt.Sprintf("phones[%d].model", old.first)
	}
	c.bad(path, "set security: nonsecure, or "+list+": "+want,
		"TLS 1.0, which no listener offers, is all that these phones know, so that they cannot be in encrypted mode: %s", old)
}

// oldPhones names phones of one kind.
type oldPhones struct {
	first int // index of the first one
	names []string
}

func (o *oldPhones) add(i int, p *Phone, m PhoneModel) {
	if len(o.names) == 0 {
		o.first = i
	}
	o.names = append(o.names, p.Device+" ("+m.Model+")")
}

func (o oldPhones) and(p oldPhones) oldPhones {
	for _, n := range p.names {
		if !slices.Contains(o.names, n) {
			o.names = append(o.names, n)
		}
	}
	return o
}

// String lists as many as anybody reads in a line.
func (o oldPhones) String() string {
	const shown = 8
	if n := len(o.names); n > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(o.names[:shown], ", "), n-shown)
	}
	return strings.Join(o.names, ", ")
}
