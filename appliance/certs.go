package appliance

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"ringfence/appliance/certadmin"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/acme"
	"ringfence/pki/scep"
	"ringfence/pki/web"
)

// addCerts serves what the authority shows to the world, and the endpoints by which machines and devices get certificates
// where the document switches them on.
func (a *appliance) addCerts() error {
	l, p := a.doc().Node.Listen, a.doc().PKI
	more := map[string]http.Handler{}
	if p.SCEP.Enabled && !l.Certs.Off() {
		s, err := a.scepServer(p.SCEP)
		if err != nil {
			return err
		}
		more["/scep"], more["/scep/"], more["/scep/pkiclient.exe"], more["/cgi-bin/pkiclient.exe"] = s, s, s, s
	}
	if !l.Certs.Off() {
		a.supervisor.Add(server("certs", l.Certs, func(address string) (*web.Server, error) {
			return web.New(web.Options{Name: "certs", Address: address, Handler: web.NewPublished(a.ca, more, a.log), Log: a.log})
		}))
	}
	if !p.ACME.Enabled || l.ACME.Off() {
		return nil
	}
	s, err := a.acmeServer(p.ACME)
	if err != nil {
		return err
	}
	a.after("acme", func() error { s.Stop(); return nil })
	a.supervisor.Add(server("acme", l.ACME, func(address string) (*web.Server, error) {
		return web.New(web.Options{Name: "acme", Address: address, Handler: s, Certificate: a.roles.certificate(pki.RoleAdmin), Log: a.log})
	}))
	return nil
}

const day = 24 * time.Hour

func (a *appliance) acmeServer(c config.ACME) (*acme.Server, error) {
	keys := map[string][]byte{}
	for _, k := range c.Accounts {
		b, err := acme.DecodeKey(k.Key.Reveal())
		if err != nil {
			return nil, fmt.Errorf("pki.acme.accounts: key of %s is not base64url: %w", k.ID, err)
		}
		keys[k.ID] = b
	}
	resolver := ""
	if !c.Resolver.Off() {
		resolver = c.Resolver.String()
	}
	return acme.New(acme.Options{
		State: a.store, Domains: c.Domains, Keys: keys, Resolver: resolver, Log: a.log,
		Issue: func(ctx context.Context, pub crypto.PublicKey, names []string, account string) ([]byte, error) {
			chain, err := a.ca.Give(ctx, pki.Gift{Role: pki.RoleACME, Name: names[0], Names: names, Pub: pub, Life: time.Duration(c.Days) * day, Owner: account})
			var out []byte
			for _, x := range chain {
				out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw})...)
			}
			return out, err
		},
		Owner: func(cert *x509.Certificate) string { return a.ca.OwnerOf(cert, pki.RoleACME) },
		Revoke: func(ctx context.Context, cert *x509.Certificate, reason int) error {
			return a.ca.Revoke(ctx, cert.SerialNumber.Text(16), pki.ReasonText(reason))
		},
	})
}

func (a *appliance) scepServer(c config.SCEP) (*scep.Server, error) {
	o := scep.Options{
		Names: c.Names, Challenge: c.Challenge.Reveal(), Registrar: a.ca.Registrar, Log: a.log,
		CAs: func() ([]*x509.Certificate, error) {
			id, err := a.ca.Identity(pki.RoleCAPF)
			if err != nil {
				return nil, err
			}
			out := []*x509.Certificate{id.Leaf}
			for _, r := range a.ca.Roots() {
				if id.Leaf.CheckSignatureFrom(r) == nil {
					out = append(out, r)
				}
			}
			return out, nil
		},
		Issue: func(ctx context.Context, pub crypto.PublicKey, name string, names []string) (*x509.Certificate, error) {
			chain, err := a.ca.Give(ctx, pki.Gift{Role: pki.RoleSCEP, Name: name, Names: names, Pub: pub, Life: time.Duration(c.Days) * day, Owner: name, Client: true})
			if err != nil {
				return nil, err
			}
			return chain[0], nil
		},
		Current: func(cert *x509.Certificate) string { return a.ca.Holder(cert, pki.RoleSCEP) },
	}
	for _, x := range c.Clients {
		o.Clients = append(o.Clients, scep.Client{Name: x.Name, Challenge: x.Challenge.Reveal()})
	}
	return scep.New(o)
}

// certKeeper answers the verbs about own keys and the root.
func (a *appliance) certKeeper() *certadmin.Keeper {
	return certadmin.New(a.ca, a.trust.Tick, func(r pki.Role) (pki.Plan, error) {
		p, _, err := a.ca.PlanRotation(r, a.trust.Fetched)
		return p, err
	})
}

// certListeners are the addresses of these services.
func certListeners(d *config.Document, add func(service, network string, e config.Endpoint)) {
	add("certs", "tcp", d.Node.Listen.Certs)
	if d.PKI.ACME.Enabled {
		add("acme", "tcp", d.Node.Listen.ACME)
	}
}
