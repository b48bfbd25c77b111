package phone

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"ringfence/trust"
)

// VerifyCertificate asks TVS about a certificate as the phone does for a service that its lists do not name, and gives the
// roles that TVS knows it in. It asks whether the lists name it or not and remembers nothing.
func (p *Phone) VerifyCertificate(ctx context.Context, cert *x509.Certificate) ([]trust.Role, error) {
	p.mu.Lock()
	var nodes []Node
	if p.config != nil {
		nodes = p.config.TVS
	}
	p.mu.Unlock()
	if len(nodes) == 0 {
		return nil, errors.New("no TVS server is configured")
	}
	var errs []error
	for _, n := range nodes {
		res, err := p.queryTVS(ctx, n, cert)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !res.Valid {
			return nil, p.refused(StepTVS, refuse(TVSInvalid, nil, "TVS does not know %s", cert.Subject))
		}
		p.event(StepTVS, fmt.Sprintf("TVS vouches for %s as %v for %s", cert.Subject, res.Roles, res.TTL), nil)
		return res.Roles, nil
	}
	return nil, fmt.Errorf("no TVS server answers: %w", errors.Join(errs...))
}

// Listed gives the certificates that the phone's lists name with a role.
func (p *Phone) Listed(role trust.Role) []*x509.Certificate {
	var out []*x509.Certificate
	for _, l := range p.lists() {
		for _, e := range l.Entries {
			if e.Role == role {
				out = append(out, e.Cert)
			}
		}
	}
	return out
}
