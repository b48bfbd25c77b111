package trustadmin

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/provision"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/capf"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// Verbs are the commands of this package; Handlers answer them.
func Verbs() []admin.Verb {
	passphrase := admin.Flag{Name: "passphrase-file", Usage: "file whose first line is the passphrase, at least 10 characters; else $" + admin.PassphraseEnv + ", else it is asked for"}
	// What the administrator names is read where the verb is typed.
	phrase := func(r *admin.Request, how admin.Asking) (err error) {
		r.Flags["passphrase-file"], err = admin.Passphrase(r.Flags["passphrase-file"], how)
		return err
	}
	carryFile := func(r *admin.Request) error { return admin.Carry(&r.Args[0]) }
	verbs := []admin.Verb{
		{Name: "cert rotate", Change: true, Short: "give a role a new key and certificate without any phone losing its trust", Print: printer(printPlans),
			Help: "Without --role: the rotations under way. With --plan nothing changes: shown is what would be done, or how far it has come, and for which phones it waits.\n" +
				"Roles: SAST, SAST-RECOVERY, CCM, TFTP, TFTP-EC, CAPF, TVS, APP-SERVER, VPN, ADMIN, PEERING.",
			Flags: []admin.Flag{{Name: "role", Usage: "the role"}, {Name: "plan", Usage: "show, do nothing", Bool: true},
				{Name: "force", Usage: "do not wait for the phones that the present stage waits for; the value is the reason, which is kept"}}},
		{Name: "cert revoke", Args: "SERIAL|DEVICE", Min: 1, Max: 1, Change: true, Short: "revoke a certificate, or all of a phone's", Print: printer(printRevoked),
			Flags: []admin.Flag{{Name: "reason", Usage: "key compromise, superseded, cessation of operation, or any text"}}},
		{Name: "trust show", Args: "[DEVICE]", Max: 1, Short: "the trust list that phones get, and who has fetched it", Print: printer(printTrust)},
		{Name: "trust verify", Args: "FILE", Min: 1, Max: 1, Short: "check a trust list file as a phone does", Prepare: carryFile, Print: printer(printVerified)},
		{Name: "trust recover", Args: "DEVICE", Min: 1, Max: 1, Change: true, Short: "what to do, in order, with a phone that holds another system's trust list", Print: printer(printRecover),
			Help: "With --list, a copy of the list that the phone holds, it says exactly what helps. Where pki.trusted has the private key of that system's signer,\n" +
				"the phone's next list is signed by it, so that a restart of the phone is all that is to be done.",
			Prepare: func(r *admin.Request) error {
				list, ok := r.Flags["list"]
				if !ok {
					return nil
				}
				err := admin.Carry(&list)
				r.Flags["list"] = list
				return err
			},
			Flags: []admin.Flag{{Name: "list", Usage: "copy of the list that the phone holds"}}},
		{Name: "trust release", Args: "[DEVICE]", Max: 1, Change: true, Short: "give a phone away: let it believe the next system that it meets", Print: printer(printReleased),
			Help:  "Its next list names no service. From then on it does not work here.",
			Flags: []admin.Flag{{Name: "all", Usage: "every phone", Bool: true}, {Name: "undo", Usage: "take it back", Bool: true}, {Name: "reason", Usage: "why; kept with the phone"}}},
		{Name: "trust export", Args: "DIR", Min: 1, Max: 1, Change: true, Short: "write trust list, CA certificates, and the recovery key encrypted, into a new folder",
			Prepare: func(r *admin.Request) (err error) {
				if r.Args[0], err = filepath.Abs(r.Args[0]); err != nil {
					return err
				}
				return phrase(r, admin.AskTwice)
			},
			Print: printer(printExported), Flags: []admin.Flag{passphrase, {Name: "root", Usage: "the root's key too", Bool: true}}},
		{Name: "trust restore", Args: "FILE", Min: 1, Max: 1, Change: true, Short: "take over the phones of a lost appliance by its exported recovery key",
			Prepare: func(r *admin.Request) error { return errors.Join(carryFile(r), phrase(r, admin.Ask)) }, Print: printer(printRestored),
			Help:  "With --root, FILE is the exported key of this appliance's root, which is wanted for a new issuing CA.",
			Flags: []admin.Flag{passphrase, {Name: "reason", Usage: "why; kept with the list"}, {Name: "root", Usage: "FILE is the root's key", Bool: true}}},
		{Name: "trust force", Change: true, Short: "publish a trust list that phones will refuse until their list is deleted by hand", Print: printer(printForced),
			Flags: []admin.Flag{{Name: "reason", Usage: "why; kept with the list"}}},
		{Name: "crl", Short: "the list of revoked certificates, PEM", Print: printer(printCRL)},
	}
	return slices.Insert(verbs, 1, enrolVerbs()...)
}

// Handlers answer Verbs.
func (k *Keeper) Handlers() map[string]admin.Handler {
	return map[string]admin.Handler{
		"cert rotate":   k.rotate,
		"cert enroll":   k.enroll,
		"cert fetch":    k.order(capf.Fetch),
		"cert delete":   k.order(capf.Delete),
		"cert progress": k.progress,
		"cert codes":    k.codes,
		"cert revoke":   k.revoke,
		"trust show":    k.show,
		"trust verify":  k.verify,
		"trust recover": k.recover,
		"trust release": k.release,
		"trust export":  k.export,
		"trust restore": k.restore,
		"trust force":   k.force,
		"crl":           k.crl,
	}
}

func by(r admin.Request) string { return fmt.Sprintf("user %d", r.Peer.UID) }

// refused turns faults of arguments and of the moment into refusals, which are no faults of ours.
func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pki.ErrRootLocked):
		return admin.Refuse("%s: ringfence cert issuer renew asks for it", strings.TrimPrefix(err.Error(), "pki: "))
	case errors.Is(err, pki.ErrUnknown), errors.Is(err, pki.ErrRotating), errors.Is(err, pki.ErrRootKey), errors.Is(err, pki.ErrClock):
		return admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: "))
	}
	return err
}

func (k *Keeper) rotate(ctx context.Context, r admin.Request) (any, error) {
	name, dry, reason := strings.ToUpper(r.Flags["role"]), r.Flags["plan"] != "", r.Flags["force"]
	if name == "" {
		if dry || reason != "" {
			return nil, admin.Usage("cert rotate: --role is missing")
		}
		return list(k.o.Authority.Rotations(k.Fetched)), nil
	}
	role := pki.Role(name)
	if !slices.Contains(pki.Roles(), role) {
		return nil, admin.Usage("cert rotate: no role %s; roles are %s", name, joined(pki.Roles()))
	}
	switch {
	case dry:
		p, _, err := k.o.Authority.PlanRotation(role, k.Fetched)
		return []pki.Plan{p}, refused(err)
	case reason != "":
		if err := k.o.Authority.Force(ctx, role, by(r), reason); err != nil {
			return nil, refused(err)
		}
	default:
		if _, err := k.o.Authority.Rotate(ctx, role, by(r)); err != nil {
			return nil, refused(err)
		}
	}
	if err := k.Tick(ctx); err != nil {
		return nil, refused(err)
	}
	k.Nudge() // phones are told to fetch
	p, _, err := k.o.Authority.PlanRotation(role, k.Fetched)
	if err == nil && p.Stage == "" {
		p.Ended = true // nobody was to be waited for
		for i := range p.Steps {
			p.Steps[i].Done = true
		}
	}
	return []pki.Plan{p}, refused(err)
}

func joined(roles []pki.Role) string {
	var out []string
	for _, r := range roles {
		out = append(out, string(r))
	}
	return strings.Join(out, ", ")
}

var macAddress = regexp.MustCompile(`^(?:SEP)?([0-9A-F]{12})$`)

// declared finds a phone by its name or MAC address in any spelling.
func (k *Keeper) declared(typed string) (*config.Phone, error) {
	name := typed
	if m := macAddress.FindStringSubmatch(strings.NewReplacer(":", "", "-", "", ".", "").Replace(strings.ToUpper(typed))); m != nil {
		name = "SEP" + m[1]
	}
	doc := k.o.Doc()
	if p, ok := doc.Phone(name); ok {
		return p, nil
	}
	var names []string
	for _, p := range doc.Phones {
		names = append(names, p.Device)
	}
	return nil, admin.Undeclared("phone", name, names)
}

// RevokedInfo is the answer to cert revoke.
type RevokedInfo struct {
	Device  string   `json:"device,omitempty"`
	Serials []string `json:"serials"`
}

func (k *Keeper) revoke(ctx context.Context, r admin.Request) (any, error) {
	what, reason := r.Args[0], r.Flags["reason"]
	answer := RevokedInfo{Serials: []string{}}
	device := ""
	if p, err := k.declared(what); err == nil {
		device = p.Device
	} else if len(k.o.Authority.Issued(what)) > 0 {
		device = what // declared no more
	}
	if device != "" {
		for _, rec := range k.o.Authority.Issued(device) {
			if rec.State == pki.Current || rec.State == pki.Unconfirmed {
				answer.Serials = append(answer.Serials, rec.Serial)
			}
		}
		answer.Device = device
		if len(answer.Serials) == 0 {
			return nil, admin.Refuse("phone %s has no certificate that proves anything", device)
		}
		if _, err := k.o.Authority.RevokeDevice(ctx, device, reason); err != nil {
			return nil, refused(err)
		}
	} else {
		wanted := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(what, ":", "")), "0")
		for _, rec := range k.o.Authority.List() {
			if rec.Serial == wanted {
				answer.Device, answer.Serials = rec.Device, []string{rec.Serial}
			}
		}
		if len(answer.Serials) == 0 {
			return nil, &admin.Error{Status: 404, Text: fmt.Sprintf("%s is neither a phone nor the serial number of a certificate: ringfence cert list shows both", what)}
		}
		if err := k.o.Authority.Revoke(ctx, wanted, reason); err != nil {
			return nil, admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: "))
		}
	}
	if answer.Device != "" && k.o.Revoked != nil {
		k.o.Revoked(answer.Device)
	}
	return answer, nil
}

// ListInfo is a trust list.
type ListInfo struct {
	What     string      `json:"what,omitempty"`
	File     string      `json:"file"`
	Version  string      `json:"version"`
	Digest   string      `json:"digest"`
	Signer   string      `json:"signer"`
	Signed   time.Time   `json:"signed"`
	Bytes    int         `json:"bytes"`
	SHA256   string      `json:"sha256"`
	Entries  []EntryInfo `json:"entries"`
	HeldBack string      `json:"held_back,omitempty"` // why it is not the newest
}

// EntryInfo is a record of a trust list.
type EntryInfo struct {
	Role     string    `json:"role"`
	Subject  string    `json:"subject"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	Use      string    `json:"use,omitempty"` // current, next, previous: how it stands here
}

// TrustInfo is the answer to trust show.
type TrustInfo struct {
	Device    string      `json:"device,omitempty"`
	List      ListInfo    `json:"list"`
	Fetches   []FetchInfo `json:"fetches"`
	Rotations []pki.Plan  `json:"rotations"`
	Warnings  []string    `json:"warnings"`
}

// FetchInfo tells which list a phone fetched.
type FetchInfo struct {
	Device  string    `json:"device"`
	At      time.Time `json:"at,omitzero"`
	SHA256  string    `json:"sha256,omitempty"`
	Current bool      `json:"current"`
	// Special tells what is special about the phone's next list: it is given away, or led over from another system.
	Special    string `json:"special,omitempty"`
	Registered bool   `json:"registered"`
}

func (k *Keeper) show(_ context.Context, r admin.Request) (any, error) {
	answer := TrustInfo{Fetches: []FetchInfo{}, Rotations: list(k.o.Authority.Rotations(k.Fetched)), Warnings: list(k.Warnings())}
	if len(r.Args) == 1 {
		p, err := k.declared(r.Args[0])
		if err != nil {
			return nil, err
		}
		answer.Device = p.Device
	}
	b, what, err := k.files.List(answer.Device)
	if err != nil {
		return nil, err
	}
	l, err := tlv.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("trust list: %w", err)
	}
	answer.List = k.listInfo(l, b)
	answer.List.What = what
	if err := k.files.HeldBack(); err != nil {
		answer.List.HeldBack = err.Error()
	}
	for _, p := range k.o.Doc().Phones {
		if answer.Device != "" && p.Device != answer.Device {
			continue
		}
		f := FetchInfo{Device: p.Device}
		if l, ok := k.files.FetchedList(p.Device); ok {
			f.At, f.SHA256, f.Current = l.At, l.Hash, l.Current
		}
		if c := k.files.Led(p.Device); c != nil {
			f.Special = "led over by " + c.Subject.CommonName
		}
		if _, gone := k.files.Released(p.Device); gone {
			f.Special = "given away"
		}
		f.Registered = k.o.Registered != nil && k.o.Registered(p.Device)
		answer.Fetches = append(answer.Fetches, f)
	}
	return answer, nil
}

func (k *Keeper) listInfo(l *tlv.List, b []byte) ListInfo {
	info := ListInfo{File: l.Filename, Version: l.Version.String(), Digest: digestName(l.Digest), Signer: l.SignerName, Signed: l.Time.UTC(), Bytes: len(b),
		SHA256: sum(b), Entries: []EntryInfo{}}
	for _, e := range l.Entries {
		i := EntryInfo{Role: e.Role.String(), Subject: e.Cert.Subject.String(), Serial: e.Cert.SerialNumber.Text(16), NotAfter: e.Cert.NotAfter}
		if rec, ok := k.o.Authority.Find(e.Cert.Raw); ok {
			i.Use = string(rec.Role) + ", " + string(rec.State)
		}
		info.Entries = append(info.Entries, i)
	}
	return info
}

// VerifiedInfo is the answer to trust verify.
type VerifiedInfo struct {
	List      ListInfo `json:"list"`
	Good      bool     `json:"good"` // a phone without a list takes it
	Fault     string   `json:"fault,omitempty"`
	Ours      bool     `json:"ours"`      // signed by a key of this appliance
	Continues bool     `json:"continues"` // phones that hold it take the list that this appliance publishes now
	Advice    string   `json:"advice,omitempty"`
}

func (k *Keeper) verify(_ context.Context, r admin.Request) (any, error) {
	b, err := admin.Carried(r.Args[0])
	if err != nil {
		return nil, err
	}
	l, err := tlv.Parse(b)
	if err != nil {
		return VerifiedInfo{Fault: err.Error(), List: ListInfo{Entries: []EntryInfo{}}, Advice: "it is no trust list, or a damaged one: phones refuse it"}, nil
	}
	v := VerifiedInfo{List: k.listInfo(l, b)}
	if err := l.Verify(l.Filename); err != nil {
		v.Fault, v.Advice = err.Error(), "phones refuse this list"
		return v, nil
	}
	v.Good = true
	if signer, err := l.Signer(); err == nil {
		_, v.Ours = k.o.Authority.Find(signer.Raw)
	}
	ours, _, err := k.files.List("")
	if err != nil {
		return nil, err
	}
	own, err := tlv.Parse(ours)
	if err != nil {
		return nil, fmt.Errorf("trust list: %w", err)
	}
	v.Continues = tlv.Continues(l, own) == nil
	switch {
	case v.Continues:
		v.Advice = "phones that hold this list take this appliance's"
	case k.leadsBack(l):
		v.Advice = "phones that hold this list are led back by a signer of before that this appliance still has"
	default:
		v.Advice = "phones that hold this list refuse this appliance's: delete their list by hand, or restore the recovery key of the system that made it (trust restore)"
	}
	return v, nil
}

// leadsBack reports whether a signer of before, which this appliance still has, is a SAST of a list.
func (k *Keeper) leadsBack(l *tlv.List) bool {
	signers, err := k.signers(pki.RoleSAST)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(signers, func(s trust.Signer) bool {
		return slices.ContainsFunc(l.Certificates(trust.SAST), func(c *x509.Certificate) bool { return c.Equal(s.Cert) })
	})
}

// ExportedInfo is the answer to trust export.
type ExportedInfo struct {
	Dir   string   `json:"dir"`
	Files []string `json:"files"`
}

func (k *Keeper) export(ctx context.Context, r admin.Request) (any, error) {
	dir := r.Args[0]
	if !filepath.IsAbs(dir) {
		return nil, admin.Usage("%s: give the whole path, since the daemon works in another folder", dir)
	}
	secret := r.Flags["passphrase-file"]
	itl, _, err := k.files.List("")
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, c := range append(k.o.Authority.Issuers(), k.o.Authority.Roots()...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	var sast []byte // for another system's TVS, so that its phones take this one's lists
	for _, role := range []pki.Role{pki.RoleSAST, pki.RoleSASTRecovery} {
		id, err := k.o.Authority.Identity(role)
		if err != nil {
			return nil, err
		}
		sast = append(sast, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Leaf.Raw})...)
	}
	crl, err := k.o.Authority.CRL(ctx)
	if err != nil {
		return nil, refused(err)
	}
	files := []struct {
		name string
		body []byte
	}{{"sast.pem", sast}, {tlv.ITLFile, itl}, {"ca-chain.pem", chain}, {"crl.der", crl}}
	keys := []pki.Role{pki.RoleSASTRecovery}
	if r.Flags["root"] != "" {
		keys = append(keys, pki.RoleRoot)
	}
	// The folder first: a key counts as exported when its Export returns.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, admin.Refuse("%v", err)
	}
	answer := ExportedInfo{Dir: dir}
	write := func(name string, body []byte) error {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			return admin.Refuse("%v", err)
		}
		answer.Files = append(answer.Files, name)
		return nil
	}
	for _, f := range files {
		if err := write(f.name, f.body); err != nil {
			return nil, err
		}
	}
	for _, role := range keys {
		b, err := k.o.Authority.Export(ctx, role, secret)
		if err != nil {
			return nil, admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: "))
		}
		if err := write(strings.ToLower(string(role))+".age", b); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// RestoredInfo is the answer to trust restore.
type RestoredInfo struct {
	Role   string `json:"role"`
	Signer string `json:"signer,omitempty"`
}

func (k *Keeper) restore(ctx context.Context, r admin.Request) (any, error) {
	exported, err := admin.Carried(r.Args[0])
	if err != nil {
		return nil, err
	}
	fail := func(err error) (any, error) { return nil, admin.Refuse("%s", strings.TrimPrefix(err.Error(), "pki: ")) }
	if r.Flags["root"] != "" {
		if err := k.o.Authority.RestoreRootKey(ctx, exported, r.Flags["passphrase-file"]); err != nil {
			return fail(err)
		}
		return RestoredInfo{Role: string(pki.RoleRoot)}, nil
	}
	reason := r.Flags["reason"]
	if reason == "" {
		return nil, admin.Usage("trust restore: --reason is missing: phones that trust this appliance's own list already will refuse the new one")
	}
	if err := k.o.Authority.RestoreSAST(ctx, exported, r.Flags["passphrase-file"]); err != nil {
		return fail(err)
	}
	if err := k.files.ForceSigner(by(r), reason); err != nil {
		return nil, err
	}
	id, err := k.o.Authority.Identity(pki.RoleSAST)
	if err != nil {
		return nil, err
	}
	return RestoredInfo{Role: string(pki.RoleSAST), Signer: id.Leaf.Subject.String()}, nil
}

// ForcedInfo is the answer to trust force.
type ForcedInfo struct {
	Published bool   `json:"published"`
	Was       string `json:"was,omitempty"` // why it was held back
}

func (k *Keeper) force(_ context.Context, r admin.Request) (any, error) {
	reason := strings.TrimSpace(r.Flags["reason"])
	if reason == "" {
		return nil, admin.Usage("trust force: --reason is missing")
	}
	held := k.files.HeldBack()
	switch {
	case held == nil:
		return ForcedInfo{Published: true}, nil
	case !errors.Is(held, provision.ErrContinuity):
		return nil, held
	}
	if err := k.files.ForceSigner(by(r), reason); err != nil {
		return nil, err
	}
	return ForcedInfo{Published: true, Was: held.Error()}, k.files.HeldBack()
}

// CRLInfo is the answer to crl.
type CRLInfo struct {
	Issuer  string    `json:"issuer"`
	Number  string    `json:"number"`
	Made    time.Time `json:"made"`
	Until   time.Time `json:"until"`
	Revoked int       `json:"revoked"`
	PEM     string    `json:"pem"`
}

func (k *Keeper) crl(ctx context.Context, _ admin.Request) (any, error) {
	der, err := k.o.Authority.CRL(ctx)
	if err != nil {
		return nil, refused(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("CRL: %w", err)
	}
	return CRLInfo{Issuer: l.Issuer.String(), Number: l.Number.String(), Made: l.ThisUpdate, Until: l.NextUpdate, Revoked: len(l.RevokedCertificateEntries),
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))}, nil
}

// list makes an empty list of nil, so that JSON shows [] and not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
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
