package provision

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"ringfence/config"
	"ringfence/trust"
	"ringfence/trust/sgn"
	"ringfence/trust/tlv"
)

// durable is a State.
type durable struct {
	mu     sync.Mutex
	m      map[string][]byte
	writes int
	fail   error
}

func (d *durable) Get(key string) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.m[key]
	return b, ok
}

func (d *durable) Write(_ context.Context, set map[string][]byte, del ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	for k, v := range set {
		if !strings.HasPrefix(k, "trust/") || len(v) > 64<<10 {
			return fmt.Errorf("field %s with %d bytes", k, len(v))
		}
		d.m[k] = bytes.Clone(v)
	}
	for _, k := range del {
		delete(d.m, k)
	}
	d.writes++
	return nil
}

// changing is a world whose certificates a test changes.
type changing struct {
	*world
	state  *durable
	sast   []string // signers of lists: the one in use, then older ones
	slot   string   // the other SAST of lists
	tftp   []string // signers of files
	listed []string // TFTP certificates in lists
	mode   int
	pad    int // more entries
}

func newChanging(t testing.TB) *changing {
	c := &changing{world: newWorld(t), state: &durable{m: map[string][]byte{}}, sast: []string{"sast"}, slot: "recovery",
		tftp: []string{"tftp"}, listed: []string{"tftp"}}
	c.restart(t)
	return c
}

func (c *changing) restart(t testing.TB) {
	t.Helper()
	signers := func(names []string) (out []trust.Signer, err error) {
		for _, n := range names {
			out = append(out, keys()[n])
		}
		return out, nil
	}
	o := c.Files.o
	o.State, o.Local = c.state, nil
	o.AuthMode = func(string) int { return c.mode }
	o.Trust = Trust{
		Entries: func() ([]trust.Entry, error) {
			k := keys()
			out := []trust.Entry{{Cert: k[c.sast[0]].Cert, Role: trust.SAST}, {Cert: k[c.slot].Cert, Role: trust.SAST}, {Cert: k["ccm"].Cert, Role: trust.CCM}}
			for _, n := range c.listed {
				out = append(out, trust.Entry{Cert: k[n].Cert, Role: trust.TFTP})
			}
			for range c.pad {
				out = append(out, trust.Entry{Cert: k["ccm"].Cert, Role: trust.AppServer})
			}
			return out, nil
		},
		ListSigners: func() ([]trust.Signer, error) { return signers(c.sast) },
		FileSigners: func() ([]trust.Signer, error) { return signers(c.tftp) },
	}
	var err error
	if c.Files, err = NewFiles(o); err != nil {
		t.Fatal(err)
	}
}

// fetchList fetches a phone's list as the phone does and returns it.
func (c *changing) fetchList(t testing.TB, device string) *tlv.List {
	t.Helper()
	f, err := c.get("ITL"+device+".tlv", HTTP)
	if err != nil {
		t.Fatal(err)
	}
	f.Delivered()
	l, err := tlv.Parse(f.Body)
	if err == nil {
		err = l.Verify(tlv.ITLFile)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A list that phones would refuse is not published, also not after a restart; they go on getting the one before. By force it is.
func TestNoListBreaksContinuity(t *testing.T) {
	c := newChanging(t)
	before := c.fetchList(t, phone8851)
	c.sast, c.slot = []string{"lsc"}, "lsc2" // keys of which no phone knows anything
	for _, restart := range []bool{false, true} {
		if restart {
			c.restart(t)
		}
		if err := c.HeldBack(); !errors.Is(err, ErrContinuity) {
			t.Fatalf("restart %v: %v", restart, err)
		}
		now := c.fetchList(t, phone8851)
		if err := tlv.Continues(before, now); err != nil {
			t.Fatalf("restart %v: %v", restart, err)
		}
		if !strings.Contains(c.lastNote(), "as it was before") {
			t.Errorf("boot record: %s", c.lastNote())
		}
		// The phone of another series never got its variant: none can be made.
		if _, err := c.get("ITL"+phone7965+".tlv", HTTP); err == nil {
			t.Error("a list that phones refuse was served")
		}
	}
	if err := c.ForceSigner("alice", ""); err == nil {
		t.Error("forced without a reason")
	}
	if err := c.ForceSigner("alice", "the old keys are lost"); err != nil {
		t.Fatal(err)
	}
	c.restart(t)
	if err := c.HeldBack(); err != nil {
		t.Fatal(err)
	}
	if now := c.fetchList(t, phone8851); tlv.Continues(before, now) == nil {
		t.Error("the forced list was not published")
	}
	// The force was for that signer alone.
	c.sast, c.slot = []string{"tftp2"}, "ccm"
	if err := c.HeldBack(); !errors.Is(err, ErrContinuity) {
		t.Errorf("a second break: %v", err)
	}
}

// What is not on record is not published: after a crash nobody could say what phones hold.
func TestListIsRecordedBeforeItIsServed(t *testing.T) {
	c := newChanging(t)
	c.state.fail = errors.New("disk full")
	if _, err := c.get("ITLFile.tlv", HTTP); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
	c.state.fail = nil
	c.fetchList(t, phone8851)
	writes := c.state.writes
	for range 5 {
		c.fetchList(t, phone8851)
	}
	if c.state.writes != writes {
		t.Errorf("%d writes for nothing new", c.state.writes-writes)
	}
}

// While the signer of files changes, each phone gets files by a certificate that its list names.
func TestFilesAreSignedByWhatThePhoneKnows(t *testing.T) {
	c := newChanging(t)
	signedBy := func(device, want string) {
		t.Helper()
		name := device + ".cnf.xml.sgn"
		if _, err := sgn.Open(c.must(t, name), name, []*x509.Certificate{keys()[want].Cert}); err != nil {
			t.Errorf("%s: not signed by %s: %v", device, want, err)
		}
	}
	c.fetchList(t, phone8851)
	c.fetchList(t, phone7965)
	c.tftp, c.listed = []string{"tftp", "tftp2"}, []string{"tftp", "tftp2"} // publish
	c.fetchList(t, phone8851)
	signedBy(phone8851, "tftp")
	c.tftp, c.listed = []string{"tftp2", "tftp"}, []string{"tftp2", "tftp"} // settle
	c.restart(t)
	signedBy(phone8851, "tftp2")
	signedBy(phone7965, "tftp")  // holds a list of before
	signedBy(phone9971, "tftp2") // never fetched one
	if holds, known := c.ListHolds(phone7965, keys()["tftp2"].Cert); holds || !known {
		t.Errorf("holds %v, known %v", holds, known)
	}
	if holds, known := c.ListHolds(phone9971, keys()["tftp2"].Cert); holds || known {
		t.Errorf("holds %v, known %v", holds, known)
	}
	c.fetchList(t, phone7965)
	signedBy(phone7965, "tftp2")
}

// A phone that missed a change of signers gets its list by one that it knows, once, with a time stamp that does not go back.
func TestPhoneIsLedBack(t *testing.T) {
	c := newChanging(t)
	held := c.fetchList(t, phone7965)
	c.sast, c.slot = []string{"recovery", "sast"}, "lsc"
	c.fetchList(t, phone8851)
	c.sast, c.slot = []string{"lsc", "recovery", "sast"}, "lsc2"
	c.restart(t)
	regular := c.fetchList(t, phone8851)
	for i := range 3 {
		next := c.fetchList(t, phone7965)
		if err := tlv.Continues(held, next); err != nil {
			t.Fatalf("fetch %d: %v", i, err)
		}
		if next.Time.Before(held.Time) || !next.Time.Equal(regular.Time) {
			t.Errorf("fetch %d: time %s after %s", i, next.Time, held.Time)
		}
		held = next
	}
	if s, _ := held.Signer(); !s.Equal(keys()["lsc"].Cert) {
		t.Errorf("arrived at %s", s.Subject)
	}
	if l, _ := c.FetchedList(phone7965); !l.Current {
		t.Error("does not hold the present list at the end")
	}
}

func TestListTooLarge(t *testing.T) {
	c := newChanging(t)
	c.pad = 60
	if _, err := c.get("ITLFile.tlv", HTTP); !errors.Is(err, tlv.ErrTooLarge) || !strings.Contains(err.Error(), "64 certificates are too many") {
		t.Errorf("%v", err)
	}
}

// The file tells the phone the proof that CAPF will ask for.
func TestFileFollowsTheEnrolment(t *testing.T) {
	c := newChanging(t)
	for mode, want := range map[int]string{0: "<capfAuthMode>2<", 3: "<capfAuthMode>3<", 1: "<capfAuthMode>1<"} {
		c.mode = mode
		if b := c.must(t, phone8851+".cnf.xml"); !bytes.Contains(b, []byte(want)) {
			t.Errorf("mode %d: no %s in\n%s", mode, want, b)
		}
	}
}

// Which VPN certificates a phone knows is on record when it has the whole file, not its stub.
func TestFileHoldsVPNHashes(t *testing.T) {
	c := newChanging(t)
	doc := *c.doc
	doc.VPN = config.VPN{Enabled: true, Hosts: []string{"vpn.example.net"}}
	doc.Phones = append([]config.Phone(nil), doc.Phones...)
	doc.Phones[0].VPN = "phones"
	c.change(func() { c.doc = &doc })
	const hash = "YDXfSng5J7WqmKttrChP2npBKvY="
	fetch := func(name string) {
		t.Helper()
		f, err := c.get(name, HTTP)
		if err != nil {
			t.Fatal(err)
		}
		f.Delivered()
	}
	fetch(phone8851 + ".cnf.xml.sgn")
	if _, known := c.FileHolds(phone8851, hash); known {
		t.Error("a stub counts as the file")
	}
	c.change(func() { c.lsc[phone8851] = "lsc" })
	fetch(phone8851 + ".cnf.xml.enc.sgn")
	for range 2 {
		if holds, known := c.FileHolds(phone8851, hash); !holds || !known {
			t.Errorf("holds %v, known %v", holds, known)
		}
		if holds, known := c.FileHolds(phone8851, "another"); holds || !known {
			t.Errorf("holds %v, known %v", holds, known)
		}
		c.restart(t)
	}
}

func TestCRLOverHTTP(t *testing.T) {
	w := newWorld(t)
	body, fail := []byte{0x30, 0x03, 0x02, 0x01, 0x05}, error(nil)
	addr := startHTTP(t, w, func(o *HTTPOptions) { o.CRL = func(context.Context) ([]byte, error) { return body, fail } })
	get := func() (int, string, []byte) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + addr + "/crl.der")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header.Get("Content-Type"), b
	}
	if code, kind, b := get(); code != 200 || kind != "application/pkix-crl" || !bytes.Equal(b, body) {
		t.Errorf("%d %s %x", code, kind, b)
	}
	fail = errors.New("clock")
	if code, _, _ := get(); code != 404 {
		t.Errorf("%d without a CRL", code)
	}
}
