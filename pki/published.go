package pki

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"
)

// RoleCertificate is a certificate that an appliance of the installation uses in a role, will use, or has used until phones
// know the newer one.
type RoleCertificate struct {
	Cert  *x509.Certificate
	Role  Role
	Node  string    // identity of the appliance
	Own   bool      // whether that is this one
	State CertState // Current, Next or Previous
	Stage Stage     // of the role's rotation there, "" when there is none
}

// Published returns the certificates of all roles of all appliances whose records are here, revoked ones left out: in the order
// of Roles, then of the appliances' identities, so that both appliances of a pair say the same.
func (a *Authority) Published() []RoleCertificate {
	own := a.seal.node()
	nodes := []string{own}
	a.opts.State.Scan("pki/role/", func(k string, _ []byte) bool {
		if node, _, ok := strings.Cut(strings.TrimPrefix(k, "pki/role/"), "/"); ok && !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
		return true
	})
	slices.Sort(nodes)
	var out []RoleCertificate
	for _, r := range Roles() {
		if r == RoleRoot {
			continue
		}
		for _, node := range nodes {
			stage := a.stageOf(node, r)
			for _, x := range []struct {
				key   string
				state CertState
			}{
				{"pki/role/" + node + "/" + string(r), Current},
				{"pki/rotate/" + node + "/" + string(r) + "/next", Next},
				{"pki/rotate/" + node + "/" + string(r) + "/previous", Previous},
			} {
				serial, ok := a.opts.State.Get(x.key)
				if !ok || a.IsRevoked(string(serial)) {
					continue
				}
				cert, err := a.certificate(string(serial))
				if err != nil {
					a.log.Error("certificate of a role", "role", string(r), "err", err)
					continue
				}
				out = append(out, RoleCertificate{Cert: cert, Role: r, Node: node, Own: node == own, State: x.state, Stage: stage})
			}
		}
	}
	return out
}

// Generation changes whenever this appliance changes what Published says. What the other appliance of a pair changes arrives
// without it, so that a copy may be kept for a second or so and no longer.
func (a *Authority) Generation() uint64 { return a.changes.Load() }

// counted is a State that counts the writes which concern roles.
type counted struct {
	State
	changes *atomic.Uint64
}

// Write writes, then counts: who reads the count before reading the state never takes old for new.
func (c counted) Write(ctx context.Context, set map[string][]byte, del ...string) error {
	err := c.State.Write(ctx, set, del...)
	for k := range set {
		if concernsRoles(k) {
			c.changes.Add(1)
			return err
		}
	}
	if slices.ContainsFunc(del, concernsRoles) {
		c.changes.Add(1)
	}
	return err
}

// concernsRoles tells the fields of roles, of rotations and of revocations from the many of phones' certificates.
func concernsRoles(key string) bool {
	return strings.HasPrefix(key, "pki/role/") || strings.HasPrefix(key, "pki/rotate/") || strings.HasPrefix(key, "pki/db/") && strings.Contains(key, "revoked")
}
