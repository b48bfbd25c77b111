package trustadmin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ringfence/appliance/provision"
	"ringfence/appliance/store"
	"ringfence/cmd/sepsim/phone"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/capf"
	"ringfence/trust"
	"ringfence/trust/tvs"
)

const (
	desk = "SEP001122AA0001" // 8851
	hall = "SEP001122AA0002" // 8841, switched off most of the time
)

var loopback = netip.MustParseAddr("127.0.0.1")

// world is what serves phones' trust, as the appliance composes it, around simulated phones that check like phones. There is
// no SIP in it.
type world struct {
	t     testing.TB
	ca    *pki.Authority
	keep  *Keeper
	files *provision.Files
	doc   *config.Document
	enrol *pki.Enrolment
	store *store.Store

	http, https, tftp uint16
	revoked           []string

	mu    sync.Mutex
	ahead time.Duration
	notes []string
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *world) sleep(days int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += time.Duration(days) * 24 * time.Hour
}

// travel sets the clock.
func (w *world) travel(to time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead = time.Until(to)
}

func (w *world) setDoc(d *config.Document) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doc = d
}

func (w *world) document() *config.Document {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.doc
}

func (w *world) note(device, step, text string, _ bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, device+" "+step+": "+text)
}

type runner interface {
	Run(context.Context) error
	Stop()
}

func (w *world) run(s runner) {
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	w.t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
}

func at(port int) config.Endpoint {
	return config.Endpoint{AddrPort: netip.AddrPortFrom(loopback, uint16(port))}
}

// bootTime bounds one start of a phone.
const bootTime = time.Minute

// begun are the folders of appliances that were started once, by their number in a test: keys are expensive, and tests get
// copies. Two of one test have different ones.
var begun struct {
	sync.Mutex
	dirs []string
	used map[string]int // by test
}

// begin returns a folder with the state of an appliance that was started once.
func (w *world) begin() string {
	w.t.Helper()
	begun.Lock()
	defer begun.Unlock()
	if begun.used == nil {
		begun.used = map[string]int{}
	}
	n := begun.used[w.t.Name()]
	begun.used[w.t.Name()]++
	for len(begun.dirs) <= n {
		dir, err := os.MkdirTemp("", "trustadmin")
		if err != nil {
			w.t.Fatal(err)
		}
		begun.dirs = append(begun.dirs, dir)
		s, err := store.Open(store.Options{Dir: dir, Appliance: "alpha"})
		if err != nil {
			w.t.Fatal(err)
		}
		_, err = pki.Open(w.t.Context(), pki.Options{State: s, KeyFile: filepath.Join(dir, "pki.key"), Node: "alpha", Organization: "Example Org",
			Addresses: []netip.Addr{loopback}})
		if err := errors.Join(err, s.Close()); err != nil {
			w.t.Fatal(err)
		}
	}
	dir := w.t.TempDir()
	if err := errors.Join(os.CopyFS(dir, os.DirFS(begun.dirs[n])), os.Chmod(filepath.Join(dir, "pki.key"), 0o600)); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, doc: &config.Document{
		Node: config.Node{Name: "alpha", Address: loopback, Listen: config.Listen{SIPTCP: at(5060), SIPTLS: at(5061)}},
		Site: config.Site{Name: "Test", TimeZone: "Europe/Berlin", Date: "D.M.Y"},
		SIP:  config.SIP{RegisterExpires: config.Duration(2 * time.Minute)},
		PKI:  config.PKI{ITLVersion: config.ITLAuto, LSC: config.LSCPolicy{Auth: config.CAPFNullString}},
		Phones: []config.Phone{
			{Device: desk, Model: "8851", Security: config.SecurityEncrypted}, {Device: hall, Model: "8841", Security: config.SecurityEncrypted},
		},
		Lines: []config.Line{{Number: "301", Phone: desk, Index: 1, MaxCalls: 4, BusyAt: 2}, {Number: "302", Phone: hall, Index: 1, MaxCalls: 4, BusyAt: 2}},
	}}
	doc := w.document
	dir := w.begin()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.store, err = store.Open(store.Options{Dir: dir, Appliance: "alpha"})
	must(err)
	t.Cleanup(func() { w.store.Close() })
	w.ca, err = pki.Open(t.Context(), pki.Options{State: w.store, KeyFile: filepath.Join(dir, "pki.key"), Node: "alpha", Organization: "Example Org",
		Addresses: []netip.Addr{loopback}, Phones: Phones(doc), Now: w.now})
	must(err)
	w.keep, err = New(Options{Authority: w.ca, Doc: doc, State: w.store, Now: w.now, Revoked: func(d string) { w.revoked = append(w.revoked, d) }})
	must(err)
	w.enrol = pki.NewEnrolment(w.ca, func(d string) (pki.DevicePolicy, bool) {
		_, ok := w.document().Phone(d)
		p := pki.DevicePolicy{Key: capf.RSA2048}
		if c, given := w.ca.Code(d); given {
			p.Auth, p.Code = capf.AuthCode, c.Digits
		}
		return p, ok
	})
	identity := func(r pki.Role) func() (*tls.Certificate, error) {
		return func() (*tls.Certificate, error) { return w.ca.Identity(r) }
	}
	vouch, err := tvs.New(tvs.Options{Address: "127.0.0.1:0", Lookup: w.keep.Lookup, Note: w.note,
		TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.ca.Identity(pki.RoleTVS) }}})
	must(err)
	w.run(vouch)
	proxy, err := capf.New(capf.Options{Address: "127.0.0.1:0", Certificate: identity(pki.RoleCAPF), Backend: w.enrol, Note: w.note})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.doc.Node.Listen.TVS = config.Endpoint{AddrPort: netip.MustParseAddrPort(vouch.Addr().String())}
	w.doc.Node.Listen.CAPF = config.Endpoint{AddrPort: netip.MustParseAddrPort(proxy.Addr().String())}
	w.openFiles()

	plain, err := provision.NewHTTP(provision.HTTPOptions{Files: w.files, Address: "127.0.0.1:0", CRL: w.ca.CRL})
	must(err)
	w.run(plain)
	secure, err := provision.NewHTTP(provision.HTTPOptions{Files: w.files, Address: "127.0.0.1:0", Certificate: identity(pki.RoleTFTPEC),
		VerifyDevice: func(c *x509.Certificate, chain []*x509.Certificate) (string, error) {
			id, err := w.ca.VerifyDevice(c, chain, "")
			return id.Device, err
		}})
	must(err)
	w.run(secure)
	trivial, err := provision.NewTFTP(provision.TFTPOptions{Files: w.files, Address: "127.0.0.1:0"})
	must(err)
	w.run(trivial)
	port := func(s string) uint16 { return netip.MustParseAddrPort(s).Port() }
	w.http, w.https, w.tftp = port(plain.Addr().String()), port(secure.Addr().String()), port(trivial.Addr().String())
	return w
}

func (w *world) openFiles() {
	w.t.Helper()
	var err error
	w.files, err = provision.NewFiles(provision.Options{
		Doc: w.document, Password: func(d string) string { return "pw" + d[9:] + "Zq7x" },
		LSC: w.ca.CurrentLSC, VPNHashes: w.keep.VPNHashes, Trust: w.keep.Provision(), AuthMode: w.enrol.AuthMode, State: w.store,
		Note: w.note, Now: w.now, Fetched: func(string) { w.keep.Nudge() }, Believes: w.keep.Believes,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.keep.Use(w.files)
}

// phone makes a phone with its flash in dir. It may move from one world to another with it.
func (w *world) phone(device, model, dir string, change ...func(*phone.Options)) *phone.Phone {
	w.t.Helper()
	o := phone.Options{
		Device: device, Model: model, Server: loopback, Dir: dir, Local: loopback, StayDown: true,
		HTTPPort: int(w.http), HTTPSPort: int(w.https), TFTPPort: int(w.tftp),
		Timers: phone.Timers{TFTP: 200 * time.Millisecond, CAPFRetry: 10 * time.Millisecond},
		Events: func(e phone.Event) { w.t.Log(device, e) },
	}
	for _, c := range change {
		c(&o)
	}
	p, err := phone.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Stop)
	return p
}

func (w *world) boot(p *phone.Phone) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := p.Boot(ctx); err != nil {
		w.t.Fatalf("boot: %v", err)
	}
}

// content boots a phone that must have nothing to complain about.
func (w *world) content(p *phone.Phone) {
	w.t.Helper()
	w.boot(p)
	if r := p.Refusals(); len(r) != 0 || p.Stale() {
		w.t.Fatalf("phone %s refused %v, stale %v", p.Device(), r, p.Stale())
	}
}

func (w *world) tick() {
	w.t.Helper()
	if err := w.keep.Tick(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) rotate(r pki.Role) {
	w.t.Helper()
	if _, err := w.ca.Rotate(w.t.Context(), r, "test"); err != nil {
		w.t.Fatal(err)
	}
}

// First trust, then every listed role gets a new certificate while one phone follows and the other sleeps; neither ever
// refuses anything.
func TestRolesAreRenewed(t *testing.T) {
	w := newWorld(t)
	p, late := w.phone(desk, "8851", t.TempDir()), w.phone(hall, "8841", t.TempDir())
	w.content(p)
	w.content(late)
	if p.LSC() == nil || p.TrustList() == nil {
		t.Fatal("no certificate or list after the first start")
	}
	roles := []pki.Role{pki.RoleCCM, pki.RoleTFTP, pki.RoleTFTPEC, pki.RoleCAPF, pki.RoleAppServer, pki.RoleTVS}
	old := map[pki.Role]*x509.Certificate{}
	for _, r := range roles {
		id, err := w.ca.Identity(r)
		if err != nil {
			t.Fatal(err)
		}
		old[r] = id.Leaf
		w.rotate(r)
	}
	if _, ttl, ok := w.keep.Lookup(old[pki.RoleCCM].Raw); !ok || ttl != rolloverTTL {
		t.Errorf("TVS during a rollover: %v, %v", ok, ttl)
	}
	w.tick()
	for _, r := range roles {
		if got := w.ca.Stage(r); got != pki.StagePublish {
			t.Fatalf("%s is in stage %q before any phone has fetched the list", r, got)
		}
	}
	w.content(p)
	w.tick()
	if got := w.ca.Stage(pki.RoleTFTP); got != pki.StagePublish {
		t.Fatalf("stage %q though a phone is missing", got)
	}
	w.sleep(15) // the deadline
	w.tick()
	for _, r := range roles {
		if id, _ := w.ca.Identity(r); id.Leaf.Equal(old[r]) || w.ca.Stage(r) != pki.StageSettle {
			t.Fatalf("%s was not switched: stage %q", r, w.ca.Stage(r))
		}
	}
	w.content(p)    // which knows the new ones
	w.content(late) // which knew the old ones alone
	w.tick()
	for _, r := range roles {
		if got := w.ca.Stage(r); got != pki.StageRetire {
			t.Fatalf("%s is in stage %q", r, got)
		}
		if _, ttl, ok := w.keep.Lookup(old[r].Raw); !ok || ttl != 0 {
			t.Errorf("TVS on a %s that retires: %v, %v", r, ok, ttl)
		}
	}
	w.openFiles() // a restart; the listeners go on with the Files of before, the records are shared by the store
	w.content(p)
	w.content(late)
	w.openFiles()
	w.tick()
	for _, r := range roles {
		if got := w.ca.Stage(r); got != "" {
			t.Errorf("%s is in stage %q at the end", r, got)
		}
		if _, _, ok := w.keep.Lookup(old[r].Raw); ok {
			t.Errorf("TVS vouches for a forgotten %s", r)
		}
	}
	w.content(p)
	w.content(late)
}

// The signer of lists changes to the recovery key. A phone that slept through it, and through the next change too, is led
// back by a signer that it knows.
func TestSASTChangesToTheRecoveryKey(t *testing.T) {
	w := newWorld(t)
	p, late := w.phone(desk, "8851", t.TempDir()), w.phone(hall, "8841", t.TempDir())
	w.content(p)
	w.content(late)
	signer := func(p *phone.Phone) *x509.Certificate {
		t.Helper()
		c, err := p.TrustList().Signer()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	leaf := func(r pki.Role) *x509.Certificate {
		id, err := w.ca.Identity(r)
		if err != nil {
			t.Fatal(err)
		}
		return id.Leaf
	}
	first, recovery := leaf(pki.RoleSAST), leaf(pki.RoleSASTRecovery)
	w.rotate(pki.RoleSAST)
	w.tick() // every phone holds a list with the recovery key already
	if !leaf(pki.RoleSAST).Equal(recovery) || w.ca.Stage(pki.RoleSAST) != pki.StageRetire {
		t.Fatalf("stage %q", w.ca.Stage(pki.RoleSAST))
	}
	w.content(p)
	if !signer(p).Equal(recovery) {
		t.Error("the list has another signer than the recovery key")
	}
	w.tick()
	if w.ca.Stage(pki.RoleSAST) != pki.StageRetire {
		t.Error("the old signer was forgotten before the sleeping phone had the new list")
	}
	// A further recovery key for a sleeping phone's slot: it still holds {first, recovery}.
	if !signer(late).Equal(first) {
		t.Fatal("the sleeping phone is awake")
	}
	w.content(late)
	if !signer(late).Equal(recovery) {
		t.Error("the phone that knows the recovery key got another signer")
	}
	w.tick()
	if got := w.ca.Stage(pki.RoleSAST); got != "" {
		t.Errorf("stage %q at the end", got)
	}
	// Now the recovery key is replaced, and the signer after it, by force, while the phone sleeps with {recovery, second}.
	w.rotate(pki.RoleSASTRecovery)
	w.content(p)
	for _, r := range []pki.Role{pki.RoleSASTRecovery} {
		if err := w.ca.Force(t.Context(), r, "test", "test"); err != nil {
			t.Fatal(err)
		}
	}
	w.tick()
	w.rotate(pki.RoleSAST)
	if err := w.ca.Force(t.Context(), pki.RoleSAST, "test", "the key was seen elsewhere"); err != nil {
		t.Fatal(err)
	}
	w.tick()
	w.content(p)
	w.content(late) // its list names neither the signer in use nor its recovery key
	if !signer(late).Equal(recovery) {
		t.Errorf("led back by %s", signer(late).Subject)
	}
	w.content(late)
	if !signer(late).Equal(leaf(pki.RoleSAST)) {
		t.Error("the phone that was led back did not arrive")
	}
	w.content(p)
	w.tick()
	if got := w.ca.Stage(pki.RoleSAST); got != "" {
		t.Errorf("stage %q at the end", got)
	}
}

// A phone renews by the certificate that it has; a stranger with its name does not. After a revocation nobody does until an
// administrator says so.
func TestLSCRenewalAndRevocation(t *testing.T) {
	w := newWorld(t)
	p := w.phone(desk, "8851", t.TempDir())
	w.content(p)
	before := p.LSC()
	w.content(p)
	if !p.LSC().Equal(before) {
		t.Fatal("renewed before it was due")
	}
	w.sleep(300)
	stranger := w.phone(desk, "8851", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_ = stranger.Boot(ctx)
	if stranger.LSC() != nil || stranger.Refusals()[phone.CAPFRefused] == 0 || stranger.Config() != nil {
		t.Fatalf("a stranger renewed: refusals %v", stranger.Refusals())
	}
	w.content(p)
	renewed := p.LSC()
	if renewed.Equal(before) {
		t.Fatal("not renewed")
	}
	if current, _ := w.ca.CurrentLSC(desk); !current.Equal(renewed) {
		t.Error("the authority believes in another certificate")
	}
	if _, err := w.ca.VerifyDevice(before, nil, desk); err == nil {
		t.Error("the superseded certificate is believed")
	}
	w.content(p) // its file is sealed to the new one

	if _, err := w.ca.RevokeDevice(t.Context(), desk, "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ca.VerifyDevice(renewed, nil, desk); err == nil {
		t.Error("a revoked certificate is believed")
	}
	w.boot(p)
	if !p.Stale() || p.Refusals()[phone.CAPFRefused] == 0 || !p.LSC().Equal(renewed) {
		t.Errorf("a revoked phone got something new: stale %v, refusals %v", p.Stale(), p.Refusals())
	}
	if err := w.ca.Schedule(t.Context(), desk, capf.Install, "alice"); err != nil {
		t.Fatal(err)
	}
	w.boot(p)
	if p.Stale() || p.LSC().Equal(renewed) {
		t.Error("not enrolled though an administrator said so")
	}
}

// A phone that trusts another system's list refuses ours until its list is deleted by hand, or until that system's recovery
// key is restored here.
func TestPhonesOfAnotherSystem(t *testing.T) {
	foreign, w := newWorld(t), newWorld(t)
	flash, flash2 := t.TempDir(), t.TempDir()
	for device, dir := range map[string]string{desk: flash, hall: flash2} {
		p := foreign.phone(device, "8851", dir)
		foreign.content(p)
		p.Stop()
	}
	p := w.phone(desk, "8851", flash)
	w.boot(p)
	if p.Refusals()[phone.ListContinuity] != 1 || !p.Stale() {
		t.Fatalf("refusals %v, stale %v", p.Refusals(), p.Stale())
	}
	if err := p.EraseTrust(); err != nil {
		t.Fatal(err)
	}
	w.boot(p)
	if p.Refusals()[phone.ListContinuity] != 1 || p.Stale() {
		t.Fatalf("after deleting the list: refusals %v, stale %v", p.Refusals(), p.Stale())
	}
	if cert, _ := w.ca.CurrentLSC(desk); cert == nil || !cert.Equal(p.LSC()) {
		t.Error("not enrolled here")
	}

	// The foreign appliance is lost; its recovery key was in the safe.
	exported, err := foreign.ca.Export(t.Context(), pki.RoleSASTRecovery, "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ca.RestoreSAST(t.Context(), exported, "correct horse battery"); err != nil {
		t.Fatal(err)
	}
	if err := w.files.HeldBack(); err == nil {
		t.Error("a list was published that phones refuse")
	}
	w.boot(p)
	if p.Refusals()[phone.ListContinuity] != 1 || p.Stale() {
		t.Errorf("the list that is held back disturbs a phone: %v", p.Refusals())
	}
	if err := w.files.ForceSigner("alice", "taking over the old appliance's phones"); err != nil {
		t.Fatal(err)
	}
	if err := w.files.HeldBack(); err != nil {
		t.Error(err)
	}
	second := w.phone(hall, "8851", flash2)
	w.boot(second)
	if r := second.Refusals(); r[phone.ListContinuity] != 0 || second.Stale() {
		t.Errorf("a phone of the lost appliance: refusals %v, stale %v", r, second.Stale())
	}
}

// The VPN's certificate is in the phones' files, by its hash, before it is in use.
func TestVPNHashesComeBeforeTheCertificate(t *testing.T) {
	w := newWorld(t)
	w.doc.VPN = config.VPN{Enabled: true, Hosts: []string{"vpn.example.net"}, Policies: []config.VPNPolicy{{ID: "phones", Pool: netip.MustParsePrefix("192.0.2.0/25"), MTU: 1290}}}
	w.doc.Phones[0].VPN = "phones"
	p := w.phone(desk, "8851", t.TempDir())
	w.content(p)
	old := w.keep.VPNHashes()
	if len(old) != 1 {
		t.Fatalf("hashes %v", old)
	}
	w.rotate(pki.RoleVPN)
	w.tick()
	both := w.keep.VPNHashes()
	if len(both) != 2 || both[0] != old[0] || w.ca.Stage(pki.RoleVPN) != pki.StagePublish {
		t.Fatalf("hashes %v", both)
	}
	w.content(p)
	if holds, _ := w.files.FileHolds(desk, both[1]); !holds {
		t.Fatal("the file lacks the next hash")
	}
	w.tick()
	id, err := w.ca.Identity(pki.RoleVPN)
	if err != nil || trust.VPNHash(id.Leaf.Raw) != both[1] {
		t.Fatalf("not switched: %v, stage %q", err, w.ca.Stage(pki.RoleVPN))
	}
	w.content(p)
	w.tick()
	w.content(p)
	w.tick()
	if got := w.keep.VPNHashes(); len(got) != 1 || got[0] != both[1] || w.ca.Stage(pki.RoleVPN) != "" {
		t.Errorf("hashes %v, stage %q", got, w.ca.Stage(pki.RoleVPN))
	}
}

func requestFor(name string) provision.Request {
	return provision.Request{Name: name, Transport: provision.HTTP, Source: loopback}
}
