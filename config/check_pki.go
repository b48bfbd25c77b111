package config

import "fmt"

// pki judges for whom certificates are issued besides phones. An endpoint that is on and lets nobody in, or everybody, is a
// mistake.
func (c *checker) pki() {
	p, l := c.d.PKI, c.d.Node.Listen
	if p.PublishURL != "" && l.Certs.Off() {
		c.note("pki.publish_url", "give node.listen.certs an address, or serve these addresses elsewhere", "certificates name %s, but node.listen.certs is off", p.PublishURL)
	}
	if p.ACME.Enabled {
		if len(p.ACME.Domains) == 0 {
			c.bad("pki.acme.enabled", "add domains: [web.example.net]", "ACME is on and may issue for no name")
		}
		if l.ACME.Off() {
			c.bad("pki.acme.enabled", "give node.listen.acme an address: 0.0.0.0:6975", "ACME is on and node.listen.acme is off")
		}
	}
	accounts := map[string]string{}
	for i, a := range p.ACME.Accounts {
		c.duplicate(accounts, a.ID, fmt.Sprintf("pki.acme.accounts[%d].id", i), "ACME account")
	}
	s := p.SCEP
	if s.Enabled {
		if s.Challenge.Empty() && len(s.Clients) == 0 {
			c.bad("pki.scep.enabled", "add clients with name and challenge, or names and a shared challenge", "SCEP is on and nobody has a challenge password")
		}
		if l.Certs.Off() {
			c.bad("pki.scep.enabled", "give node.listen.certs an address: 0.0.0.0:6974", "SCEP is on and node.listen.certs is off")
		}
	}
	if !s.Challenge.Empty() && len(s.Names) == 0 {
		c.bad("pki.scep.challenge", "add names: [\"*.wifi.example.net\"]", "the shared challenge is good for no name")
	}
	clients := map[string]string{}
	for i, x := range s.Clients {
		c.duplicate(clients, x.Name, fmt.Sprintf("pki.scep.clients[%d].name", i), "SCEP client")
	}
}
