package config

import (
	"fmt"
	"slices"
	"strings"
)

// trusted judges the certificates of other systems and the proofs of phones.
func (c *checker) trusted() {
	names := map[string]bool{}
	for i, t := range c.d.PKI.Trusted {
		path := fmt.Sprintf("pki.trusted[%d]", i)
		if names[t.Name] {
			c.bad(path+".name", "give each entry a name of its own", "pki.trusted: the name %s is taken", t.Name)
		}
		names[t.Name] = true
		isPEM := func(name string) bool { return !strings.HasSuffix(strings.ToLower(name), ".tlv") }
		switch {
		case len(t.Files) == 0:
			c.bad(path, "add files: [/etc/ringfence/old.pem]", "%s names no file", path)
		case slices.Contains(t.Files, ""):
			c.bad(path+".files", "remove it", "%s has a file without name", path)
		case len(t.Roles) == 0 && slices.ContainsFunc(t.Files, isPEM):
			c.bad(path, "add roles: [CCM]", "%s: what the certificates of PEM files are good for has to be said by roles", path)
		case len(t.Roles) > 0 && !slices.ContainsFunc(t.Files, isPEM):
			c.note(path+".roles", "remove roles", "%s.roles changes nothing: trust lists say themselves what their certificates are good for", path)
		}
	}
	lsc := c.d.PKI.LSC
	switch {
	case lsc.Auth == CAPFMIC && len(c.d.PKI.MICRoots) == 0:
		c.note("pki.lsc.auth", "add pki.mic_roots: the PEM files of the manufacturer's CAs", "no phone can enrol: pki.lsc.auth is mic, and nothing says whose MICs to believe")
	case lsc.Auth == CAPFLSC && len(c.d.PKI.MICRoots) == 0:
		c.note("pki.lsc.auth", "add pki.mic_roots: the PEM files of the manufacturer's CAs", "only phones that have a certificate can enrol: pki.lsc.auth is lsc, and nothing says whose MICs to believe")
	case lsc.SessionProof == "required" && len(c.d.PKI.MICRoots) == 0:
		c.note("pki.lsc.session_proof", "add pki.mic_roots, or set session_proof: auto", "no phone can renew its certificate: pki.lsc.session_proof is required, and nothing says whose MICs to believe")
	}
}
