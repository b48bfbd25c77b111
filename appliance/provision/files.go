package provision

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/appliance/provision/phonefile"
	"ringfence/config"
	"ringfence/internal/task"
	"ringfence/trust"
	"ringfence/trust/enc"
	"ringfence/trust/sgn"
)

// Files decides what each device gets. Its methods may be called from any goroutine.
type Files struct {
	o      Options
	log    *slog.Logger
	guard  *guard
	cache  *cache
	stamps *stamps

	mu      sync.Mutex
	phones  map[string]*rendered // declared phones only
	doc     *config.Document     // for which phones was last pruned
	fetched map[string]ListFetch // declared phones only
	given   map[string]fileGiven // declared phones only

	publishing sync.Mutex // one list is published at a time
	last       published  // valid when its Content is not empty
}

// rendered is the newest good set of a phone.
type rendered struct {
	doc      *config.Document
	inputs   digest
	set      *phonefile.Set // nil if there never was a good one
	fault    error          // why the newest is not set
	vpn      []string       // hashes of VPN certificates in it
	certHash string
	stub     []byte // for certHash; nil if not made yet
}

// NewFiles checks the options.
func NewFiles(o Options) (*Files, error) {
	switch {
	case o.Doc == nil:
		return nil, errors.New("provision: options without document")
	case o.Trust.Entries == nil || o.Trust.ListSigner == nil && o.Trust.ListSigners == nil || o.Trust.FileSigner == nil && o.Trust.FileSigners == nil:
		return nil, errors.New("provision: options without signers")
	}
	if o.LSC == nil {
		o.LSC = func(string) (*x509.Certificate, bool) { return nil, false }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Files{
		o: o, log: o.Log.With("component", "provision"), guard: newGuard(), cache: newCache(),
		stamps: &stamps{local: o.Local, last: make(map[string]stamp)},
		phones: make(map[string]*rendered), fetched: make(map[string]ListFetch), given: make(map[string]fileGiven),
	}, nil
}

// Get answers a request. Every error means "not found" to the phone; only ErrNotFound is an ordinary one.
func (f *Files) Get(r Request) (*File, error) {
	text, ok := Normalise(r.Name)
	if !ok {
		return nil, ErrNotFound
	}
	n := parseName(text)
	if n.kind == kindOther {
		return nil, ErrNotFound
	}
	doc := f.o.Doc()
	var phone *config.Phone
	if n.device != "" {
		phone, _ = doc.Phone(n.device)
		ok, first := f.guard.admit(guardKey{r.Transport, r.Source}, n.device, phone != nil, f.o.Now())
		if first {
			f.log.Info("source asked for too many unknown phones", "peer", r.Source.String(), "listener", string(r.Transport))
		}
		if !ok {
			return nil, ErrNotFound
		}
		if phone == nil {
			f.note(n, r, "not found: no phone "+n.device+" is declared", true)
			return nil, ErrNotFound
		}
	}
	// The device file alone is served on 6971; phones ask for all else on 6970 (sgn.md).
	if n.kind == kindCTL || r.Transport == HTTPS && (n.kind != kindConfig || n.sealed) {
		f.note(n, r, "not found", false)
		return nil, ErrNotFound
	}
	file, what, err := f.make(doc, phone, n, r)
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			f.log.Error("file not made", "phone", n.device, "file", n.text, "err", err)
			what = "not found: " + oneLine(err)
		}
		f.note(n, r, what, true)
		return nil, err
	}
	f.log.Debug("file asked", "phone", n.device, "file", n.text, "listener", string(r.Transport), "peer", r.Source.String())
	f.note(n, r, "got "+what, false)
	file.Name, file.Type = n.text, n.mediaType()
	total := len(file.Body)
	file.lost = func(sent int) {
		f.note(n, r, fmt.Sprintf("and stopped taking it after %d of %d bytes", sent, total), true)
	}
	return file, nil
}

// make builds the answer; what describes it to humans.
func (f *Files) make(doc *config.Document, phone *config.Phone, n name, r Request) (file *File, what string, err error) {
	var body []byte
	switch n.kind {
	case kindList:
		if body, what, err = f.list(doc, nil); err != nil {
			return nil, what, err
		}
		return &File{Body: body}, what, nil
	case kindDeviceList:
		body, what, err = f.list(doc, phone)
		if err != nil {
			return nil, what, err
		}
		return &File{Body: body, delivered: func() { f.listDelivered(n.device, body) }}, what, nil
	}
	p, err := f.render(doc, n.device)
	if err != nil {
		return nil, "", err
	}
	var delivered func()
	switch n.kind {
	case kindConfig:
		var full bool
		body, what, full, err = f.config(phone, p, n, r)
		if full && phone.VPN != "" {
			delivered = func() { f.fileDelivered(n.device, p.vpn) }
		}
	case kindDial:
		body, what, err = f.part(phone, n, r, p.set.Dial, "its dial template")
	case kindKeys:
		body, what, err = f.part(phone, n, r, p.set.SoftKeys, "its soft keys")
	case kindFeature:
		body, what, err = f.part(phone, n, r, p.set.FeaturePolicy, "its feature policy")
	}
	if err != nil {
		return nil, what, err
	}
	return &File{Body: body, delivered: delivered}, what, nil
}

// part serves a file without secrets, signed where the name says so.
func (f *Files) part(phone *config.Phone, n name, _ Request, content []byte, what string) ([]byte, string, error) {
	if content == nil {
		return nil, "not found: this model uses none", ErrNotFound
	}
	if !n.signed {
		return content, what, nil
	}
	b, err := f.sign(phone, n, content)
	return b, what + ", signed", err
}

// config serves the device file: the package comment says to whom in which form. full tells it from the stub.
func (f *Files) config(phone *config.Phone, p rendered, n name, r Request) (body []byte, what string, full bool, err error) {
	lsc, why := f.sealTo(phone.Device)
	encrypted := phone.Security != config.SecurityNonsecure
	if n.sealed {
		if lsc == nil {
			return nil, "not found: " + why, false, ErrNotFound
		}
		b, err := f.seal(phone, n, p.set.Config, lsc)
		return b, "its device file, sealed to its certificate", true, err
	}
	content := p.set.Config
	full = true
	switch {
	case !encrypted:
		what = "its device file in clear, with its password (security: nonsecure)"
	case r.Transport == HTTPS && r.Proven == phone.Device:
		what = "its device file, over its own certificate"
	default:
		certHash := ""
		full = false
		what = "the stub that makes it enrol: " + why
		if lsc != nil {
			certHash, what = trust.ConfigHash(lsc.Raw), "the stub that points to its sealed file"
		}
		if content, err = f.stub(phone.Device, p, certHash); err != nil {
			return nil, "", false, err
		}
	}
	// On 6971 the TLS certificate is the proof: the body is unsigned under both names (sgn.md).
	if !n.signed || r.Transport == HTTPS {
		return content, what, full, nil
	}
	body, err = f.sign(phone, n, content)
	return body, what + ", signed", full, err
}

// sealTo returns the certificate to which files of a device can be sealed, or why there is none.
func (f *Files) sealTo(device string) (*x509.Certificate, string) {
	c, ok := f.o.LSC(device)
	switch {
	case !ok || c == nil:
		return nil, "it has no certificate yet"
	case f.o.Now().After(c.NotAfter):
		return nil, "its certificate has expired"
	}
	if _, err := enc.PhoneKey(c); err != nil {
		return nil, "its certificate has a key that cannot open a sealed file, it needs an RSA one"
	}
	return c, ""
}

// Due tells whether a phone has to enrol before it can get its device file, and why.
func (f *Files) Due(device string) (reason string, due bool) {
	phone, ok := f.o.Doc().Phone(device)
	if !ok || phone.Security == config.SecurityNonsecure {
		return "", false
	}
	c, why := f.sealTo(device)
	return why, c == nil
}

func (f *Files) sign(phone *config.Phone, n name, content []byte) ([]byte, error) {
	s, err := f.fileSigner(phone.Device)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", n.text, err)
	}
	d := digestOf(phone)
	k := cacheKey{name: n.text, content: sha256.Sum256(content), signer: sha256.Sum256(s.Cert.Raw), hash: byte(d)}
	at := f.stamps.at(n.text, k.content, f.o.Now())
	k.at = at.Unix()
	if b, ok := f.cache.get(k); ok {
		return b, nil
	}
	b, err := sgn.Sign(n.text, content, s, d, at)
	if err == nil {
		f.cache.put(k, b)
	}
	return b, err
}

func (f *Files) seal(phone *config.Phone, n name, content []byte, lsc *x509.Certificate) ([]byte, error) {
	s, err := f.fileSigner(phone.Device)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", n.text, err)
	}
	d := digestOf(phone)
	k := cacheKey{name: n.text, content: sha256.Sum256(content), signer: sha256.Sum256(s.Cert.Raw), phone: sha256.Sum256(lsc.Raw), hash: byte(d)}
	at := f.stamps.at(n.text, sha256.Sum256(slices.Concat(k.content[:], k.phone[:])), f.o.Now())
	k.at = at.Unix()
	if b, ok := f.cache.get(k); ok {
		return b, nil
	}
	b, err := enc.Seal(n.text, content, lsc, s, d, at)
	if err == nil {
		f.cache.put(k, b)
	}
	return b, err
}

// digestOf chooses the hash by what the series takes (tlv.md §3).
func digestOf(phone *config.Phone) trust.Digest {
	if m, ok := config.Model(phone.Model); ok && (m.Series == "7800" || m.Series == "8800") {
		return trust.SHA512
	}
	return trust.SHA1
}

// Stamps are the version stamps of a phone's files, for service control (provisioning.md §1.3).
func (f *Files) Stamps(device string) (phonefile.Stamps, error) {
	p, err := f.render(f.o.Doc(), device)
	if err != nil {
		return phonefile.Stamps{}, err
	}
	return p.set.Stamps, nil
}

// Check renders a phone's files and tells why they are not served as declared (err) and what is odd about them.
func (f *Files) Check(device string) (warnings []string, err error) {
	p, err := f.render(f.o.Doc(), device)
	if err != nil {
		return nil, err
	}
	return p.set.Warnings, p.fault
}

// render returns the newest good files of a phone: those of the present document, or if these do not pass the lint, the
// ones before. A phone that gets a file it cannot read is dead until somebody finds out why.
func (f *Files) render(doc *config.Document, device string) (rendered, error) {
	phone, ok := doc.Phone(device)
	if !ok {
		return rendered{}, ErrNotFound
	}
	in := phonefile.Input{Doc: doc, Device: device, Offers: f.o.Offers}
	if f.o.Password != nil {
		in.Password = f.o.Password(device)
	} else {
		in.Password = phone.Password.Reveal()
	}
	if f.o.VPNHashes != nil {
		in.VPNHashes = f.o.VPNHashes()
	}
	if f.o.Appliances != nil {
		in.Appliances = f.o.Appliances(doc)
	}
	if f.o.AuthMode != nil {
		in.AuthMode = f.o.AuthMode(device)
	}
	inputs := digest(sha256.Sum256(fmt.Appendf(nil, "%q %q %v %d", in.Password, in.VPNHashes, in.Appliances, in.AuthMode)))

	f.mu.Lock()
	f.pruneLocked(doc)
	last, ok := f.phones[device]
	if ok && last.doc == doc && last.inputs == inputs {
		p := *last
		f.mu.Unlock()
		return p.usable()
	}
	f.mu.Unlock()

	p := rendered{doc: doc, inputs: inputs, vpn: in.VPNHashes}
	set, err := phonefile.Render(in)
	if err == nil {
		if m, ok := config.Model(phone.Model); ok {
			err = set.Lint(m, phone.Modules)
		}
	}
	if p.set = set; err != nil {
		p.fault, p.set = err, nil
		if last != nil {
			p.set, p.vpn = last.set, last.vpn
		}
	}
	f.mu.Lock()
	f.phones[device] = &p
	f.mu.Unlock()

	if p.fault != nil {
		text := "its new files are not served, phones would drop them: " + oneLine(p.fault)
		if p.set != nil {
			text = "its new files are not served, it gets the ones before: " + oneLine(p.fault)
		}
		f.log.Error("files do not pass the lint", "phone", device, "err", p.fault)
		f.noteText(device, "file", text, true)
	} else if last == nil || last.set == nil || last.set.Stamps != p.set.Stamps {
		for _, w := range p.set.Warnings {
			f.noteText(device, "file", w, false)
		}
	}
	return p.usable()
}

func (p rendered) usable() (rendered, error) {
	if p.set == nil {
		return p, fmt.Errorf("no good files: %w", p.fault)
	}
	return p, nil
}

// stub makes the stub of a phone and keeps it with its set.
func (f *Files) stub(device string, p rendered, certHash string) ([]byte, error) {
	if p.stub != nil && p.certHash == certHash {
		return p.stub, nil
	}
	b, err := enc.Stub(p.set.Config, certHash)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	if now := f.phones[device]; now != nil && now.set == p.set {
		now.stub, now.certHash = b, certHash
	}
	f.mu.Unlock()
	return b, nil
}

// pruneLocked forgets phones that are no longer declared; f.mu is held.
func (f *Files) pruneLocked(doc *config.Document) {
	if f.doc == doc {
		return
	}
	f.doc = doc
	for device := range f.phones {
		if _, ok := doc.Phone(device); !ok {
			delete(f.phones, device)
			delete(f.fetched, device)
			delete(f.given, device)
		}
	}
}

// note writes the boot record of the device that a name names.
func (f *Files) note(n name, r Request, outcome string, failed bool) {
	if n.device == "" {
		return
	}
	step := "file"
	if n.kind == kindDeviceList || n.kind == kindCTL {
		step = "trust"
	}
	f.noteText(n.device, step, fmt.Sprintf("asked for %s over %s, %s", n.text, r.Transport, outcome), failed)
}

func (f *Files) noteText(device, step, text string, failed bool) {
	if f.o.Note == nil {
		return
	}
	// A panic in the boot record must not cost the phone its file; Guard has logged it.
	_ = task.Guard(f.log, "provision note", func() { f.o.Note(device, step, text, failed) })
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
