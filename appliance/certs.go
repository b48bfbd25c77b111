package appliance

import (
	"net/http"

	"ringfence/appliance/certadmin"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/web"
)

// addCerts serves what the authority shows to the world: revocation lists, OCSP and CA certificates.
func (a *appliance) addCerts() {
	l := a.doc().Node.Listen
	more := map[string]http.Handler{}
	if !l.Certs.Off() {
		a.supervisor.Add(server("certs", l.Certs, func(address string) (*web.Server, error) {
			return web.New(web.Options{Name: "certs", Address: address, Handler: web.NewPublished(a.ca, more, a.log), Log: a.log})
		}))
	}
}

// certKeeper answers the verbs about own keys and the root.
func (a *appliance) certKeeper() *certadmin.Keeper {
	return certadmin.New(a.ca, a.trust.Tick, func(r pki.Role) (pki.Plan, error) {
		p, _, err := a.ca.PlanRotation(r, a.trust.Fetched)
		return p, err
	})
}

// certListeners are the addresses of these services.
func certListeners(l config.Listen, add func(service, network string, e config.Endpoint)) {
	add("certs", "tcp", l.Certs)
}
