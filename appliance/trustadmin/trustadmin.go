// Package trustadmin keeps what phones believe in step with the certificate authority: it says which certificates stand in
// trust lists, in TVS and in device files, leads rotations of keys as phones fetch what is new, and answers the verbs by
// which administrators look at all this and change it (tlv.md §8, tvs.md §3, certhash.md; docs/trust.md).
//
// It joins the areas that may not know each other: pki makes certificates and plans rotations, provision hands out lists and
// files and knows who fetched them.
//
// Start with Keeper: vouch.go says what TVS and lists say, foreign.go what comes from other systems, push.go who is told to fetch.
package trustadmin

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"ringfence/appliance/provision"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// rolloverTTL is how long phones may keep TVS's answers while certificates change (tvs.md §3).
const rolloverTTL = 300 * time.Second

// tickTime is how often rotations are looked after, nudgeRest how soon after something has happened.
const (
	tickTime  = time.Minute
	nudgeRest = 500 * time.Millisecond
)

// use is a role of the authority as phones see it.
type use struct {
	role   pki.Role
	as     trust.Role
	listed bool // in trust lists; else TVS vouches
}

// uses says in which roles of trust lists and TVS each certificate of the appliance stands. The VPN's and the pages' are known
// to phones by TVS alone: the one by its hash in the device file, the other not at all until a service URL leads there.
var uses = []use{
	{pki.RoleSAST, trust.SAST, true},
	{pki.RoleSASTRecovery, trust.SAST, true},
	{pki.RoleCCM, trust.CCM, true},
	{pki.RoleTFTP, trust.TFTP, true},
	{pki.RoleTFTPEC, trust.TFTP, true},
	{pki.RoleCAPF, trust.CAPF, true},
	{pki.RoleAppServer, trust.AppServer, true},
	{pki.RoleTVS, trust.TVS, true},
	{pki.RoleVPN, trust.AppServer, false},
	{pki.RoleAdmin, trust.AppServer, false},
}

// Options of a Keeper.
type Options struct {
	Authority *pki.Authority
	Doc       func() *config.Document
	// Restart makes a phone fetch its files anew, unless it is in a call, and returns when the phone has said that it will. With
	// it rotations get on by themselves; without it they wait for phones to start. Registered tells which phones can be told.
	Restart    func(ctx context.Context, device string) error
	Registered func(device string) bool
	// EverRegistered tells which phones have registered once. May be nil.
	EverRegistered func(device string) bool
	// State keeps the last order that named no single phone. May be nil.
	State provision.State
	// Revoked is told which device proves itself no more, so that its connections can be ended. May be nil.
	Revoked func(device string)
	Log     *slog.Logger     // may be nil
	Now     func() time.Time // time.Now when nil
}

// Keeper keeps phones' trust and the authority in step. Its methods may be called from any goroutine.
type Keeper struct {
	o     Options
	log   *slog.Logger
	files *provision.Files

	index   atomic.Pointer[index]
	foreign atomic.Pointer[foreign]
	nudge   chan struct{} // holds one when there is something to look after before the next tick

	told map[string]time.Time // phones that were told to fetch, of Run alone
}

// New makes a Keeper. Use has to be called before the first tick and the first verb.
func New(o Options) (*Keeper, error) {
	if o.Authority == nil || o.Doc == nil {
		return nil, errors.New("trustadmin: options without authority or document")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &Keeper{o: o, log: o.Log.With("component", "trust"), nudge: make(chan struct{}, 1), told: make(map[string]time.Time)}
	k.foreign.Store(&foreign{})
	k.Reload(o.Doc())
	return k, nil
}

// Use gives the Keeper the files, which are made with its Provision.
func (k *Keeper) Use(f *provision.Files) { k.files = f }

// Phones is pki.Options.Phones: which phones a rotation waits for.
func Phones(doc func() *config.Document) func(pki.Role) []string {
	return func(r pki.Role) []string {
		if r == pki.RoleAdmin || r == pki.RolePeering {
			return nil
		}
		d := doc()
		var out []string
		for i := range d.Phones {
			p := &d.Phones[i]
			if r == pki.RoleVPN && p.VPN == "" || r == pki.RoleTFTPEC && provision.ListVersion(d, p) == tlv.V10 {
				continue
			}
			out = append(out, p.Device)
		}
		return out
	}
}

// certificates of a role that stand in lists or files now: the one in use, the one that follows, and the one before while it
// is still published.
func (k *Keeper) certificates(r pki.Role) ([]*tls.Certificate, error) {
	current, next, previous, err := k.o.Authority.Identities(r)
	if err != nil {
		return nil, err
	}
	out := []*tls.Certificate{current}
	if r == pki.RoleSAST || r == pki.RoleSASTRecovery {
		return out, nil // two slots: the recovery signer is the next one
	}
	if next != nil {
		out = append(out, next)
	}
	if previous != nil && k.o.Authority.Stage(r) == pki.StageSettle {
		out = append(out, previous)
	}
	return out, nil
}

// signers are the certificates of a role that can sign for phones: the one in use first, then what phones may know instead.
func (k *Keeper) signers(r pki.Role) ([]trust.Signer, error) {
	current, next, previous, err := k.o.Authority.Identities(r)
	if err != nil {
		return nil, fmt.Errorf("signer %s: %w", r, err)
	}
	if r == pki.RoleSAST {
		next = nil // it signs when it is in use
	}
	var out []trust.Signer
	for _, c := range []*tls.Certificate{current, previous, next} {
		if c == nil {
			continue
		}
		key, ok := c.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("signer %s: the key cannot sign", r)
		}
		out = append(out, trust.Signer{Cert: c.Leaf, Key: key})
	}
	return out, nil
}

// Provision is what signs lists and files for phones.
func (k *Keeper) Provision() provision.Trust {
	return provision.Trust{
		Entries:     k.Entries,
		ListSigners: func() ([]trust.Signer, error) { return k.signers(pki.RoleSAST) },
		FileSigners: func() ([]trust.Signer, error) { return k.signers(pki.RoleTFTP) },
		Foreign:     k.foreignSigners,
	}
}

// VPNHashes are what phones compare the gateway's certificate with (certhash.md): while it changes, both.
func (k *Keeper) VPNHashes() []string {
	certs, err := k.certificates(pki.RoleVPN)
	if err != nil {
		k.log.Error("VPN certificates", "err", err)
		return nil
	}
	var out []string
	for _, c := range certs {
		out = append(out, trust.VPNHash(c.Leaf.Raw))
	}
	return out
}

// Fetched is pki.Fetched. A phone that never fetched a list holds nothing that could be outdated.
func (k *Keeper) Fetched(r pki.Role, device string) bool {
	if _, gone := k.files.Released(device); gone {
		return true // it belongs to another system
	}
	current, next, previous, err := k.o.Authority.Identities(r)
	if err != nil {
		return false
	}
	holds := func(c *tls.Certificate) (holds, known bool) { return k.files.ListHolds(device, c.Leaf) }
	if r == pki.RoleVPN {
		holds = func(c *tls.Certificate) (holds, known bool) {
			if holds, known = k.files.FileHolds(device, trust.VPNHash(c.Leaf.Raw)); known {
				return holds, true
			}
			_, known = k.files.ListHolds(device, c.Leaf)
			return false, known
		}
	}
	want := current
	if next != nil {
		want = next
	}
	has, known := holds(want)
	if !known {
		return true
	}
	if previous != nil && k.o.Authority.Stage(r) == pki.StageRetire {
		old, _ := holds(previous)
		return has && !old
	}
	return has
}

// Tick leads rotations as far as phones allow, and begins renewals.
func (k *Keeper) Tick(ctx context.Context) error {
	changes, err := k.o.Authority.Advance(ctx, k.o.Now(), k.Fetched)
	for _, c := range changes {
		k.log.Info("keys changed", "role", string(c.Role), "stage", string(c.Stage), "reason", c.Text)
	}
	return err
}

// Nudge makes Run look after the rotations soon, as when a phone has fetched a list. It never blocks.
func (k *Keeper) Nudge() {
	select {
	case k.nudge <- struct{}{}:
	default:
	}
}

// Run ticks until ctx ends: every minute, and soon after a Nudge.
func (k *Keeper) Run(ctx context.Context) error {
	t := time.NewTicker(tickTime)
	defer t.Stop()
	last := ""
	for {
		began := time.Now()
		text := ""
		if err := k.Tick(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
			if text != last {
				k.log.Error("rotations", "err", err)
			}
		}
		last = text
		k.push(ctx)
		// A morning of many phones nudges without end, and looking after a rotation asks about each of them: most of the time
		// is not spent on it.
		rest := max(nudgeRest, 10*time.Since(began))
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-k.nudge:
			if !pause(ctx, min(rest, tickTime)) {
				return nil
			}
		}
	}
}

// Warnings is for people, beside those of the authority.
func (k *Keeper) Warnings() []string {
	out := slices.Clone(k.foreign.Load().faults)
	if err := k.files.HeldBack(); err != nil {
		out = append(out, "the trust list is not published: "+err.Error())
	}
	for _, p := range k.o.Authority.Rotations(k.Fetched) {
		for _, s := range p.Steps {
			if s.Name == string(p.Stage) && s.Until.IsZero() && len(p.Missing) > 0 && k.o.Now().Sub(p.Since) > 14*24*time.Hour {
				out = append(out, fmt.Sprintf("the rotation of %s waits for %d phones since %s: ringfence cert rotate --role %s --plan names them",
					p.Role, len(p.Missing), p.Since.Format(time.DateOnly), p.Role))
			}
		}
	}
	return out
}
