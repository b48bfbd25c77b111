// Package certadmin answers the verbs by which administrators bring keys and certificates of their own, take the chain of
// a certificate to others, and keep the root's key (docs/trust.md). What phones believe is trustadmin's.
//
// Files are read, and passphrases asked for, where the administrator types; their content travels over the control socket.
package certadmin

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"ringfence/appliance/admin"
	"ringfence/pki"
)

// Verbs are the commands of this package; Handlers answer them.
func Verbs() []admin.Verb {
	phrase := admin.Flag{Name: "passphrase-file", Usage: "file whose first line is the passphrase; else $" + admin.PassphraseEnv + ", else it is asked for"}
	root := admin.Flag{Name: "root", Usage: "PEM file of the CA where the chain has to end"}
	out := admin.Flag{Name: "out", Usage: "file to write, which must not exist; else it is printed"}
	c := &client{}
	once, twice, maybe := new(admin.Ask), new(admin.AskTwice), new(admin.AskMaybe)
	return []admin.Verb{
		{Name: "cert import", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "bring a key and certificate of your own for a role", Prepare: c.prepare(maybe, true), Print: printer(printImported),
			Help: "FILE is PEM (certificate, key and the CAs above it, in any order) or PKCS #12. Phones are told of it before it is used, as by cert rotate.\n" +
				"For role CAPF it is an issuing CA with its chain.",
			Flags: []admin.Flag{{Name: "role", Usage: "SAST-RECOVERY, CCM, TFTP, TFTP-EC, CAPF, TVS, APP-SERVER, VPN, ADMIN or PEERING"}, root, phrase}},
		{Name: "cert export", Args: "ROLE", Min: 1, Max: 1, Short: "the certificate of a role and the CAs above it, PEM; ROLE root is the root", Print: c.toFile, Flags: []admin.Flag{out}, Prepare: c.keepOut},
		{Name: "cert clock", Change: true, Short: "whether the clock can be right: nothing is issued while it cannot", Print: printer(printClock),
			Help:  "The appliance remembers the time. When the clock is set back, or years ahead, phones are judged by the time that was last believed.",
			Flags: []admin.Flag{{Name: "accept", Usage: "it is right now", Bool: true}}},
		{Name: "cert root", Short: "where the root's key lies", Print: printer(printRoot)},
		{Name: "cert root protect", Change: true, Short: "lock the root's key with a passphrase", Prepare: c.prepare(twice, false), Print: printer(printRoot), Flags: []admin.Flag{phrase}},
		{Name: "cert root unprotect", Change: true, Short: "take the passphrase off the root's key, so that the issuing CA renews by itself", Prepare: c.prepare(once, false), Print: printer(printRoot), Flags: []admin.Flag{phrase}},
		{Name: "cert root export", Change: true, Short: "the root and its key, encrypted with the passphrase, for the safe", Prepare: c.prepare(once, false), Print: c.toFile, Flags: []admin.Flag{out, phrase}},
		{Name: "cert root remove", Change: true, Short: "take the root's key off this appliance, once it was exported", Print: printer(printRoot)},
		{Name: "cert root restore", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "put the exported root's key back, locked with its passphrase", Prepare: c.prepare(once, true), Print: printer(printRoot), Flags: []admin.Flag{phrase}},
		{Name: "cert issuer renew", Change: true, Short: "a new issuing CA while the root's key is locked", Prepare: c.prepare(once, false), Print: printer(printImported), Flags: []admin.Flag{phrase},
			Help: "cert rotate --role CAPF, with the passphrase that it then needs."},
		{Name: "cert issuer request", Change: true, Short: "make the request of an issuing CA for the root of another appliance to sign", Print: c.toFile, Flags: []admin.Flag{out}, Prepare: c.keepOut},
		{Name: "cert issuer sign", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "sign another appliance's request with the root", Prepare: c.prepare(maybe, true), Print: c.toFile, Flags: []admin.Flag{out, phrase}},
		{Name: "cert issuer install", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "take the signed request back and make it the issuing CA", Prepare: c.prepare(nil, true), Print: printer(printImported), Flags: []admin.Flag{root}},
	}
}

// client is what one invocation of a verb keeps between question and answer.
type client struct {
	out string // where the answer goes; the daemon is not told
}

// prepare reads, at the client, the files that a verb names and its passphrase.
func (c *client) prepare(passphrase *admin.Asking, file bool) func(*admin.Request) error {
	return func(r *admin.Request) error {
		if err := c.keepOut(r); err != nil {
			return err
		}
		if file {
			if err := admin.Carry(&r.Args[0]); err != nil {
				return err
			}
		}
		if name := r.Flags["root"]; name != "" {
			b, err := admin.ReadFile(name)
			if err != nil {
				return err
			}
			r.Flags["root"] = string(b)
		}
		if passphrase == nil {
			return nil
		}
		secret, err := admin.Passphrase(r.Flags["passphrase-file"], *passphrase)
		if err != nil {
			return err
		}
		if secret != "" {
			r.Flags["passphrase-file"] = secret
		}
		return nil
	}
}

// keepOut takes --out aside, and refuses a file that exists before anything is done.
func (c *client) keepOut(r *admin.Request) error {
	c.out = r.Flags["out"]
	delete(r.Flags, "out")
	if c.out == "" {
		return nil
	}
	if _, err := os.Lstat(c.out); err == nil {
		return fmt.Errorf("%s exists already", c.out)
	}
	return nil
}

// Keeper answers the verbs.
type Keeper struct {
	ca *pki.Authority
	// tick leads rotations as far as phones allow.
	tick func(ctx context.Context) error
	plan func(r pki.Role) (pki.Plan, error)
}

// New makes a Keeper. Tick leads rotations on, and plan says how far a role's has come.
func New(ca *pki.Authority, tick func(ctx context.Context) error, plan func(r pki.Role) (pki.Plan, error)) *Keeper {
	return &Keeper{ca: ca, tick: tick, plan: plan}
}

// Handlers answer Verbs.
func (k *Keeper) Handlers() map[string]admin.Handler {
	return map[string]admin.Handler{
		"cert import":         k.importRole,
		"cert export":         k.export,
		"cert clock":          k.clock,
		"cert root":           k.root,
		"cert root protect":   k.changeRoot(k.protect),
		"cert root unprotect": k.changeRoot(k.unprotect),
		"cert root export":    k.exportRoot,
		"cert root remove":    k.changeRoot(func(ctx context.Context, _ admin.Request) error { return k.ca.RemoveRootKey(ctx) }),
		"cert root restore":   k.changeRoot(k.restore),
		"cert issuer renew":   k.renew,
		"cert issuer request": k.request,
		"cert issuer sign":    k.sign,
		"cert issuer install": k.install,
	}
}

func by(r admin.Request) string { return fmt.Sprintf("user %d", r.Peer.UID) }

// refused makes an answer to the administrator of what pki says.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: "))
}

func bundle(r admin.Request) (*pki.Bundle, []*x509.Certificate, error) {
	b, err := admin.Carried(r.Args[0])
	if err != nil {
		return nil, nil, err
	}
	got, err := pki.ParseBundle(b, r.Flags["passphrase-file"])
	if err != nil {
		return nil, nil, admin.Refuse("%v", err)
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode([]byte(r.Flags["root"])); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			roots = append(roots, c)
		}
	}
	if r.Flags["root"] != "" && len(roots) == 0 {
		return nil, nil, admin.Refuse("the file of --root holds no PEM certificate")
	}
	return got, roots, nil
}

// ImportedInfo is the answer to cert import and to what changes the issuing CA.
type ImportedInfo struct {
	Role    string    `json:"role"`
	Subject string    `json:"subject"`
	Until   time.Time `json:"until"`
	InUse   bool      `json:"in_use"`          // else phones are told of it first
	Missing []string  `json:"missing"`         // phones that are waited for
	Stage   string    `json:"stage,omitempty"` // of the rotation
}

func (k *Keeper) importRole(ctx context.Context, r admin.Request) (any, error) {
	role := pki.Role(strings.ToUpper(r.Flags["role"]))
	if role == "" {
		return nil, admin.Usage("cert import: --role is missing")
	}
	if !slices.Contains(pki.Roles(), role) {
		return nil, admin.Usage("cert import: no role %s", role)
	}
	b, roots, err := bundle(r)
	if err != nil {
		return nil, err
	}
	if _, err := k.ca.Import(ctx, role, b, roots, by(r)); err != nil {
		return nil, refused(err)
	}
	return k.began(ctx, role)
}

// began leads a rotation that has just begun as far as it goes, and tells where that is.
func (k *Keeper) began(ctx context.Context, role pki.Role) (any, error) {
	if err := k.tick(ctx); err != nil {
		return nil, refused(err)
	}
	current, next, _, err := k.ca.Identities(role)
	if err != nil {
		return nil, err
	}
	plan, err := k.plan(role)
	if err != nil && !errors.Is(err, pki.ErrRootKey) { // which a rotation that has ended is told of
		return nil, err
	}
	info := ImportedInfo{Role: string(role), Missing: []string{}, Stage: string(plan.Stage), InUse: next == nil}
	cert := current.Leaf
	if next != nil {
		cert = next.Leaf
		info.Missing = append(info.Missing, plan.Missing...)
	}
	info.Subject, info.Until = cert.Subject.String(), cert.NotAfter
	return info, nil
}

// TextInfo is the answer of verbs that give a file.
type TextInfo struct {
	PEM string `json:"pem"`
}

func (k *Keeper) export(_ context.Context, r admin.Request) (any, error) {
	role := pki.Role(strings.ToUpper(r.Args[0]))
	if role != pki.RoleRoot && !slices.Contains(pki.Roles(), role) {
		return nil, admin.Usage("cert export: no role %s", role)
	}
	b, err := k.ca.ChainPEM(role)
	return TextInfo{string(b)}, refused(err)
}

// ClockInfo is the answer to cert clock.
type ClockInfo struct {
	Now      time.Time `json:"now"`
	Believed bool      `json:"believed"`
	JudgedBy time.Time `json:"judged_by"` // the time by which certificates of phones are judged
	Why      string    `json:"why,omitempty"`
}

func (k *Keeper) clock(ctx context.Context, r admin.Request) (any, error) {
	if r.Flags["accept"] != "" {
		if err := k.ca.AcceptClock(ctx); err != nil {
			return nil, refused(err)
		}
	}
	i := ClockInfo{Now: time.Now().UTC(), Believed: true}
	if err := k.ca.CheckClock(ctx); err != nil {
		i.Believed, i.Why = false, strings.TrimPrefix(err.Error(), "pki: ")
	}
	i.JudgedBy = k.ca.Moment()
	return i, nil
}

func (k *Keeper) root(context.Context, admin.Request) (any, error) {
	i, err := k.ca.Root()
	return i, refused(err)
}

// changeRoot does something with the root's key and tells where it lies then.
func (k *Keeper) changeRoot(do func(ctx context.Context, r admin.Request) error) admin.Handler {
	return func(ctx context.Context, r admin.Request) (any, error) {
		if err := do(ctx, r); err != nil {
			return nil, refused(err)
		}
		return k.root(ctx, r)
	}
}

func (k *Keeper) protect(ctx context.Context, r admin.Request) error {
	return k.ca.ProtectRoot(ctx, r.Flags["passphrase-file"])
}

func (k *Keeper) unprotect(ctx context.Context, r admin.Request) error {
	return k.ca.UnprotectRoot(ctx, r.Flags["passphrase-file"])
}

func (k *Keeper) restore(ctx context.Context, r admin.Request) error {
	b, err := admin.Carried(r.Args[0])
	if err != nil {
		return err
	}
	return k.ca.RestoreRoot(ctx, b, r.Flags["passphrase-file"])
}

func (k *Keeper) exportRoot(ctx context.Context, r admin.Request) (any, error) {
	b, err := k.ca.ExportRoot(ctx, r.Flags["passphrase-file"])
	return TextInfo{string(b)}, refused(err)
}

func (k *Keeper) renew(ctx context.Context, r admin.Request) (any, error) {
	if _, err := k.ca.RotateIssuer(ctx, by(r), r.Flags["passphrase-file"]); err != nil {
		return nil, refused(err)
	}
	return k.began(ctx, pki.RoleCAPF)
}

func (k *Keeper) request(ctx context.Context, _ admin.Request) (any, error) {
	b, err := k.ca.RequestIssuer(ctx)
	return TextInfo{string(b)}, refused(err)
}

func (k *Keeper) sign(ctx context.Context, r admin.Request) (any, error) {
	b, err := admin.Carried(r.Args[0])
	if err != nil {
		return nil, err
	}
	out, err := k.ca.SignIssuer(ctx, b, r.Flags["passphrase-file"])
	return TextInfo{string(out)}, refused(err)
}

func (k *Keeper) install(ctx context.Context, r admin.Request) (any, error) {
	b, roots, err := bundle(r)
	if err != nil {
		return nil, err
	}
	if _, err := k.ca.InstallIssuer(ctx, b, roots, by(r)); err != nil {
		return nil, refused(err)
	}
	return k.began(ctx, pki.RoleCAPF)
}

// printer adapts a typed renderer.
func printer[T any](f func(w io.Writer, v T)) func(io.Writer, json.RawMessage) error {
	return func(w io.Writer, answer json.RawMessage) error {
		var v T
		if err := json.Unmarshal(answer, &v); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		f(w, v)
		return nil
	}
}

// toFile prints what a verb gives, or writes it where --out says.
func (c *client) toFile(w io.Writer, answer json.RawMessage) error {
	var v TextInfo
	if err := json.Unmarshal(answer, &v); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if c.out == "" {
		_, err := io.WriteString(w, v.PEM)
		return err
	}
	f, err := os.OpenFile(c.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(v.PEM)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(w, "written to %s\n", c.out)
	return nil
}

func printImported(w io.Writer, i ImportedInfo) {
	fmt.Fprintf(w, "%s, until %s\n", i.Subject, i.Until.Format(time.DateOnly))
	switch {
	case i.InUse:
		fmt.Fprintf(w, "It is the certificate of role %s now.\n", i.Role)
	default:
		fmt.Fprintf(w, "It becomes the certificate of role %s when phones have been told of it; %d are waited for: ringfence cert rotate shows them.\n", i.Role, len(i.Missing))
	}
}

func printClock(w io.Writer, i ClockInfo) {
	if i.Believed {
		fmt.Fprintf(w, "The clock says %s, which can be right.\n", i.Now.Format(time.RFC3339))
		return
	}
	fmt.Fprintf(w, "%s\nNothing is issued or renewed; phones are judged by %s.\n", i.Why, i.JudgedBy.Format(time.RFC3339))
}

func printRoot(w io.Writer, i pki.RootInfo) {
	fmt.Fprintf(w, "%s, serial %s, until %s\n", i.Subject, i.Serial, i.NotAfter.Format(time.DateOnly))
	switch i.Key {
	case pki.RootOpen:
		fmt.Fprintln(w, "Its key lies on this appliance without a passphrase: cert root protect locks it.")
	case pki.RootLocked:
		fmt.Fprintln(w, "Its key lies on this appliance, locked with a passphrase.")
	default:
		fmt.Fprintln(w, "Its key is not on this appliance: cert root restore puts it back.")
	}
	if i.Exported.IsZero() {
		fmt.Fprintln(w, "It was never exported: without a copy it is lost with the appliance.")
	} else {
		fmt.Fprintf(w, "Exported on %s.\n", i.Exported.Format(time.DateOnly))
	}
}
