package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"ringfence/config"
	"ringfence/internal/task"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// Trust lists, and what phones hold of them. Fields of the State:
//
//	trust/published            the content published last, JSON; no list that phones holding it would refuse follows it
//	trust/published/VARIANT    that list as it was sent, per version and digest
//	trust/forced               a signer that may follow all the same, who wants it and why, JSON
//	trust/fetched/DEVICE       the list that a phone fetched last, JSON
//	trust/file/DEVICE          which VPN certificates the device file names that a phone fetched last, JSON

// ListFetch tells which trust list a phone fetched last.
type ListFetch struct {
	Hash    string    `json:"hash"` // SHA-256 of the file, hex
	At      time.Time `json:"at"`
	SAST    []string  `json:"sast,omitempty"`  // the SAST certificates in it, see CertID
	Certs   []string  `json:"certs,omitempty"` // all certificates in it
	Current bool      `json:"-"`               // whether it would get the same list now
}

// fileGiven tells what a phone knows of VPN certificates.
type fileGiven struct {
	VPN []string  `json:"vpn"`
	At  time.Time `json:"at"`
}

// published is the content of the list that all phones get.
type published struct {
	Content string    `json:"content"` // digest of entries and signer
	Signer  string    `json:"signer"`
	SAST    []string  `json:"sast"`
	At      time.Time `json:"at"`
}

type forced struct {
	Signer string    `json:"signer"`
	By     string    `json:"by"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
}

const fetchBucket = "provision-lists"

// writeTime bounds one write of the State.
const writeTime = 10 * time.Second

// ErrContinuity is wrapped when a list is held back because phones would refuse it (tlv.md §7 point 8).
var ErrContinuity = errors.New("phones that hold the list published last would refuse it")

// CertID is how records name a certificate: the first 16 bytes of its SHA-256, hex.
func CertID(c *x509.Certificate) string {
	h := sha256.Sum256(c.Raw)
	return hex.EncodeToString(h[:16])
}

// ListVersion chooses the version of a phone's own list.
func ListVersion(doc *config.Document, phone *config.Phone) tlv.Version {
	switch doc.PKI.ITLVersion {
	case config.ITL10:
		return tlv.V10
	case config.ITL11:
		return tlv.V11
	}
	if m, ok := config.Model(phone.Model); ok && m.ECCertificates {
		return tlv.V11
	}
	return tlv.V10
}

// listSigners are the signers of lists, the one in use first.
func (f *Files) listSigners() ([]trust.Signer, error) {
	if f.o.Trust.ListSigners == nil {
		s, err := f.o.Trust.ListSigner()
		return []trust.Signer{s}, err
	}
	all, err := f.o.Trust.ListSigners()
	if err == nil && len(all) == 0 {
		err = errors.New("nobody signs lists")
	}
	return all, err
}

// fileSigner is the signer of a device's files: while a certificate is being replaced, one that its list names.
func (f *Files) fileSigner(device string) (trust.Signer, error) {
	if f.o.Trust.FileSigners == nil {
		return f.o.Trust.FileSigner(device)
	}
	all, err := f.o.Trust.FileSigners()
	if err != nil {
		return trust.Signer{}, err
	}
	if len(all) == 0 {
		return trust.Signer{}, errors.New("nobody signs files")
	}
	if held, ok := f.fetch(device); ok && len(all) > 1 {
		for _, s := range all {
			if slices.Contains(held.Certs, CertID(s.Cert)) {
				return s, nil
			}
		}
	}
	return all[0], nil
}

// list builds the trust list of a phone, or the general one that every model takes: version 1.0, SHA-1.
func (f *Files) list(doc *config.Document, phone *config.Phone) ([]byte, string, error) {
	version, digest := tlv.V10, trust.SHA1
	if phone != nil {
		version, digest = ListVersion(doc, phone), digestOf(phone)
	}
	signers, err := f.listSigners()
	if err != nil {
		return nil, "", fmt.Errorf("trust list: %w", err)
	}
	entries, err := f.o.Trust.Entries()
	if err != nil {
		return nil, "", fmt.Errorf("trust list: %w", err)
	}
	signer, what := signers[0], "the trust list, version "+version.String()
	content := listContent(entries, signer)
	variant := fmt.Sprintf("trust/published/%s-%d", version, digest)
	if err := f.publish(content, entries, signer); err != nil {
		if b, ok := f.stored(variant); ok {
			return b, what + ", as it was before: " + oneLine(err), nil
		}
		return nil, "", fmt.Errorf("trust list: %w", err)
	}
	// All variants of one content carry one time, so that it cannot go backwards when a phone changes its variant.
	at := f.stamps.at(tlv.ITLFile, content, f.o.Now())
	if own, by, why, ok := f.special(phone, entries, signer, signers); ok {
		entries, signer, variant = own, by, ""
		content = listContent(entries, signer)
		what += why
	}
	b, err := f.buildList(version, digest, entries, signer, content, at)
	if err == nil && variant != "" {
		f.keepList(variant, b)
	}
	return b, what, err
}

// listContent identifies what a list says.
func listContent(entries []trust.Entry, s trust.Signer) digest {
	h := sha256.New()
	for _, e := range entries {
		h.Write([]byte{byte(e.Role)})
		h.Write(e.Cert.Raw)
	}
	signer := sha256.Sum256(s.Cert.Raw)
	h.Write(signer[:])
	return digest(h.Sum(nil))
}

// buildList signs a list, or takes it from the cache.
func (f *Files) buildList(version tlv.Version, d trust.Digest, entries []trust.Entry, s trust.Signer, content digest, at time.Time) ([]byte, error) {
	l := tlv.List{Version: version, Digest: d, Filename: tlv.ITLFile, Time: at}
	for _, e := range entries {
		if version != tlv.V10 || e.Cert.PublicKeyAlgorithm == x509.RSA {
			l.Entries = append(l.Entries, e)
		}
	}
	k := cacheKey{name: tlv.ITLFile, content: content, signer: sha256.Sum256(s.Cert.Raw), hash: byte(d), version: byte(version), at: at.Unix()}
	if b, ok := f.cache.get(k); ok {
		return b, nil
	}
	b, err := tlv.Build(l, s)
	if errors.Is(err, tlv.ErrTooLarge) {
		return nil, fmt.Errorf("%d certificates are too many: end rotations or use fewer appliances: %w", len(l.Entries), err)
	}
	if err != nil {
		return nil, err
	}
	f.cache.put(k, b)
	return b, nil
}

// bridge returns the signer that leads a phone back which missed a change of signers: one that its list names, when that
// does not name the one in use.
func (f *Files) bridge(phone *config.Phone, signers []trust.Signer) (trust.Signer, bool) {
	if phone == nil || len(signers) < 2 {
		return trust.Signer{}, false
	}
	held, ok := f.fetch(phone.Device)
	if !ok || len(held.SAST) == 0 || slices.Contains(held.SAST, CertID(signers[0].Cert)) {
		return trust.Signer{}, false
	}
	for _, s := range signers[1:] {
		if slices.Contains(held.SAST, CertID(s.Cert)) {
			return s, true
		}
	}
	return trust.Signer{}, false
}

// bridgeEntries puts old into the slot beside the signer in use, in place of the recovery signer.
func bridgeEntries(entries []trust.Entry, signer, old trust.Signer) []trust.Entry {
	out := []trust.Entry{{Cert: old.Cert, Role: trust.SAST}, {Cert: signer.Cert, Role: trust.SAST}}
	for _, e := range entries {
		if e.Role != trust.SAST {
			out = append(out, e)
		}
	}
	return out
}

// publish checks that phones which hold the list published last take this content, and records it as published. What is not
// recorded is not published.
func (f *Files) publish(content digest, entries []trust.Entry, s trust.Signer) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	now := published{Content: hex.EncodeToString(content[:]), Signer: CertID(s.Cert), At: f.o.Now().UTC().Truncate(time.Second)}
	if f.last.Content == "" && f.o.State != nil {
		f.load("trust/published", &f.last)
	}
	if f.last.Content == now.Content {
		return nil
	}
	for _, e := range entries {
		if e.Role == trust.SAST {
			now.SAST = append(now.SAST, CertID(e.Cert))
		}
	}
	if f.last.Content != "" && !slices.Contains(f.last.SAST, now.Signer) {
		var force forced
		if !f.load("trust/forced", &force) || force.Signer != now.Signer {
			return fmt.Errorf("signer %s: %w", s.Cert.Subject.CommonName, ErrContinuity)
		}
		f.log.Error("trust list published that phones may refuse", "by", force.By, "reason", force.Text)
	}
	if err := f.save("trust/published", now); err != nil {
		return fmt.Errorf("record publication: %w", err)
	}
	f.last = now
	f.log.Info("trust list published", "signer", s.Cert.Subject.CommonName, "certificates", len(entries))
	return nil
}

// ForceSigner lets lists of the signer in use be published although phones that hold the list published last will refuse
// them until somebody deletes it there by hand. by and text are kept.
func (f *Files) ForceSigner(by, text string) error {
	if text == "" {
		return errors.New("provision: forcing a signer of trust lists needs a reason")
	}
	signers, err := f.listSigners()
	if err != nil {
		return fmt.Errorf("provision: force signer: %w", err)
	}
	err = f.save("trust/forced", forced{Signer: CertID(signers[0].Cert), By: by, Text: text, At: f.o.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("provision: force signer: %w", err)
	}
	return nil
}

// List returns the trust list that a phone would get now, or for "" the general one, and in a few words what it is.
func (f *Files) List(device string) (b []byte, what string, err error) {
	doc := f.o.Doc()
	if device == "" {
		return f.list(doc, nil)
	}
	phone, ok := doc.Phone(device)
	if !ok {
		return nil, "", ErrNotFound
	}
	return f.list(doc, phone)
}

// HeldBack tells why the list in force is not the one that should be published, or nil.
func (f *Files) HeldBack() error {
	signers, err := f.listSigners()
	if err != nil {
		return err
	}
	entries, err := f.o.Trust.Entries()
	if err != nil {
		return err
	}
	return f.publish(listContent(entries, signers[0]), entries, signers[0])
}

// FetchedList tells which trust list a phone fetched last.
func (f *Files) FetchedList(device string) (ListFetch, bool) {
	l, ok := f.fetch(device)
	if !ok {
		return ListFetch{}, false
	}
	doc := f.o.Doc()
	if phone, declared := doc.Phone(device); declared {
		if b, _, err := f.list(doc, phone); err == nil {
			l.Current = l.Hash == hashOf(b)
		}
	}
	return l, true
}

// fetch is FetchedList without Current.
func (f *Files) fetch(device string) (l ListFetch, ok bool) {
	f.mu.Lock()
	l, ok = f.fetched[device]
	f.mu.Unlock()
	if ok {
		return l, true
	}
	durable := f.o.State != nil && f.load("trust/fetched/"+device, &l)
	var lazy ListFetch
	if f.o.Local != nil {
		if b, found := f.o.Local.Get(fetchBucket, device); found {
			ok = json.Unmarshal(b, &lazy) == nil
		}
	}
	switch {
	case !durable:
		l = lazy
	case ok && lazy.At.After(l.At):
		l = lazy // the same list again, or a durable write that failed
	}
	if !ok && !durable {
		return ListFetch{}, false
	}
	f.mu.Lock()
	f.fetched[device] = l
	f.mu.Unlock()
	return l, true
}

// ListHolds tells whether the list that a phone fetched last names a certificate; known is false for a phone that never
// fetched one.
func (f *Files) ListHolds(device string, c *x509.Certificate) (holds, known bool) {
	l, ok := f.fetch(device)
	return ok && slices.Contains(l.Certs, CertID(c)), ok
}

// FileHolds tells whether the device file that a phone fetched last names a VPN certificate by its hash.
func (f *Files) FileHolds(device, vpnHash string) (holds, known bool) {
	f.mu.Lock()
	g, ok := f.given[device]
	f.mu.Unlock()
	if !ok && f.o.State != nil {
		ok = f.load("trust/file/"+device, &g)
	}
	return ok && slices.Contains(g.VPN, vpnHash), ok
}

func (f *Files) fetchedNow(device string) {
	if f.o.Fetched != nil {
		_ = task.Guard(f.log, "provision fetched", func() { f.o.Fetched(device) })
	}
}

func hashOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func (f *Files) listDelivered(device string, body []byte) {
	defer f.fetchedNow(device)
	f.tried(device)
	l := ListFetch{Hash: hashOf(body), At: f.o.Now().UTC().Truncate(time.Second)}
	if list, err := tlv.Parse(body); err == nil {
		for _, e := range list.Entries {
			id := CertID(e.Cert)
			l.Certs = append(l.Certs, id)
			if e.Role == trust.SAST {
				l.SAST = append(l.SAST, id)
			}
		}
	}
	before, had := f.fetch(device)
	f.mu.Lock()
	f.fetched[device] = l
	f.mu.Unlock()
	if f.o.State != nil && (!had || before.Hash != l.Hash || len(before.Certs) == 0) {
		if err := f.save("trust/fetched/"+device, l); err != nil {
			f.log.Error("list fetch not kept", "phone", device, "err", err)
		}
	}
	if f.o.Local == nil {
		return
	}
	b, err := json.Marshal(l)
	if err != nil {
		f.log.Error("list fetch not kept", "phone", device, "err", err)
		return
	}
	f.o.Local.Put(fetchBucket, device, b)
}

// fileDelivered records which VPN certificates a phone knows now.
func (f *Files) fileDelivered(device string, vpn []string) {
	defer f.fetchedNow(device)
	g := fileGiven{VPN: vpn, At: f.o.Now().UTC().Truncate(time.Second)}
	f.mu.Lock()
	before, had := f.given[device]
	f.given[device] = g
	f.mu.Unlock()
	if f.o.State == nil {
		return
	}
	if !had {
		had = f.load("trust/file/"+device, &before)
	}
	if !had || !slices.Equal(before.VPN, vpn) {
		if err := f.save("trust/file/"+device, g); err != nil {
			f.log.Error("fetch of a device file not kept", "phone", device, "err", err)
		}
	}
}

// keepList keeps a published list as it was sent: if its signer is lost, phones go on getting it.
func (f *Files) keepList(key string, b []byte) {
	if f.o.State == nil {
		return
	}
	f.publishing.Lock()
	defer f.publishing.Unlock()
	if old, ok := f.o.State.Get(key); ok && bytes.Equal(old, b) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	if err := f.o.State.Write(ctx, map[string][]byte{key: b}); err != nil {
		f.log.Error("published list not kept", "err", err)
	}
}

func (f *Files) stored(key string) ([]byte, bool) {
	if f.o.State == nil {
		return nil, false
	}
	return f.o.State.Get(key)
}

func (f *Files) load(key string, to any) bool {
	b, ok := f.stored(key)
	return ok && json.Unmarshal(b, to) == nil
}

// save writes a field; without a State it does nothing.
func (f *Files) save(key string, v any) error {
	if f.o.State == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	return f.o.State.Write(ctx, map[string][]byte{key: b})
}
