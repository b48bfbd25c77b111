package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

const phone = "SEP001122334455"

// The recorded LSCs are rebuilt from the issuer, the phone's key, the serial and the dates. Everything but the key
// identifiers, which the reference does not write, has to come out byte for byte (capf.md §5).
func TestLSCEqualsTheRecordedOne(t *testing.T) {
	issuer, issuerKey := readPEM(t, "issuer.pem")
	for _, name := range []string{"rsa2048", "ec256", "ec384", "ec521"} {
		t.Run(name, func(t *testing.T) {
			want, key := readPEM(t, "lsc-"+phone+"-"+name+".pem")
			tpl, err := lscTemplate(phone, issuer)
			if err != nil {
				t.Fatal(err)
			}
			tpl.SerialNumber, tpl.NotBefore, tpl.NotAfter = want.SerialNumber, want.NotBefore, want.NotAfter
			got, err := sign(tpl, issuer, key.Public(), issuerKey)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range []struct {
				name      string
				got, want []byte
			}{
				{"subject", got.RawSubject, want.RawSubject},
				{"issuer", got.RawIssuer, want.RawIssuer},
				{"public key", got.RawSubjectPublicKeyInfo, want.RawSubjectPublicKeyInfo},
			} {
				if !bytes.Equal(part.got, part.want) {
					t.Errorf("%s:\n got %x\nwant %x", part.name, part.got, part.want)
				}
			}
			if got.Version != want.Version || got.SignatureAlgorithm != want.SignatureAlgorithm {
				t.Errorf("version %d, %s; want %d, %s", got.Version, got.SignatureAlgorithm, want.Version, want.SignatureAlgorithm)
			}
			extensions := func(c *x509.Certificate) map[string]string {
				m := map[string]string{}
				for _, e := range c.Extensions {
					if id := e.Id.String(); id != "2.5.29.14" && id != "2.5.29.35" {
						m[id] = fmt.Sprintf("critical %v %x", e.Critical, e.Value)
					}
				}
				return m
			}
			if g, w := extensions(got), extensions(want); !maps.Equal(g, w) {
				t.Errorf("extensions:\n got %v\nwant %v", g, w)
			}
		})
	}
}

func TestLSCBelongsToItsIssuer(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	cert := f.install(t, phone, key)
	ca := f.Issuers()[0]
	if len(cert.AuthorityKeyId) == 0 || !bytes.Equal(cert.AuthorityKeyId, ca.SubjectKeyId) || len(cert.SubjectKeyId) == 0 {
		t.Errorf("key identifiers: own %x, issuer's %x; the issuing CA has %x", cert.SubjectKeyId, cert.AuthorityKeyId, ca.SubjectKeyId)
	}
	if got, want := cert.Subject.String(), "CN="+phone+",O=Example Org"; got != want && got != "O=Example Org,CN="+phone {
		t.Errorf("subject %s, want %s", got, want)
	}
	if got, want := cert.NotAfter.Sub(cert.NotBefore), 365*24*time.Hour; got != want {
		t.Errorf("life %v, want %v", got, want)
	}
	out, err := openssl(t, "x509", "-in", writePEM(t, "lsc.pem", cert), "-noout", "-text")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"Subject: CN = " + phone + ", O = Example Org", "URI:" + phone, "Digital Signature, Key Encipherment", "CA:FALSE",
		"TLS Web Server Authentication, TLS Web Client Authentication, IPSec End System", "X509v3 Key Usage: critical",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("OpenSSL does not show %q in\n%s", want, out)
		}
	}
}

func TestLSCDoesNotOutliveItsIssuer(t *testing.T) {
	f := open(t, func(o *Options) { o.LSCDays = 3560 })
	end := f.Issuers()[0].NotAfter
	f.clock.t = end.Add(-30 * 24 * time.Hour)
	if err := f.AcceptClock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.install(t, phone, ecKey(t)); !got.NotAfter.Equal(end) {
		t.Errorf("ends %s, want the issuer's %s", got.NotAfter, end)
	}
	f.clock.t = end.Add(time.Hour)
	if _, _, err := f.IssueLSC(t.Context(), phone, ecKey(t).Public()); err == nil {
		t.Error("issued after the end of the issuing CA")
	}
}

func TestSerialNumbers(t *testing.T) {
	f := open(t)
	seen := map[string]bool{}
	for range 1000 {
		n := f.serial()
		b := n.Bytes()
		if len(b) != 16 || b[0]&0x80 != 0 || seen[n.String()] {
			t.Fatalf("serial %x", b)
		}
		seen[n.String()] = true
		if got, ok := parseSerial(strings.ToUpper(serialText(n))); !ok || got.Cmp(n) != 0 {
			t.Fatalf("serial %x is read as %v", b, got)
		}
	}
	if n, ok := parseSerial("0A:ff"); !ok || n.Cmp(big.NewInt(0x0aff)) != 0 {
		t.Errorf("0A:ff is read as %v, %v", n, ok)
	}
	for _, s := range []string{"", "x", "0", "-1"} {
		if _, ok := parseSerial(s); ok {
			t.Errorf("%q was read", s)
		}
	}
}

// states returns a device's certificates by serial.
func states(f *fixture, device string) map[string]CertState {
	m := map[string]CertState{}
	for _, r := range f.Issued(device) {
		m[r.Serial] = r.State
	}
	return m
}

func TestLifeOfAnLSC(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	issue := func() string {
		t.Helper()
		f.clock.Add(time.Minute)
		_, serial, err := f.IssueLSC(t.Context(), phone, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return serial
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]CertState{}
	check := func(step string) {
		t.Helper()
		f.reopen(t) // what counts is in the state
		if got := states(f, phone); !maps.Equal(got, want) {
			t.Fatalf("%s:\n got %v\nwant %v", step, got, want)
		}
	}
	a := issue()
	want[a] = Unconfirmed
	check("issued")
	if _, ok := f.CurrentLSC(phone); ok {
		t.Error("an unconfirmed certificate is current")
	}
	must(f.ConfirmLSC(t.Context(), phone, a))
	want[a] = Current
	check("confirmed")
	b := issue()
	want[b] = Unconfirmed
	check("second issued")
	must(f.DiscardLSC(t.Context(), phone, b))
	want[b] = Deleted
	check("second refused by the phone")
	if err := f.ConfirmLSC(t.Context(), phone, b); err == nil {
		t.Error("a discarded certificate was confirmed")
	}
	c, d := issue(), issue()
	must(f.ConfirmLSC(t.Context(), phone, d))
	want[a], want[c], want[d] = Superseded, Superseded, Current
	check("third lost, fourth confirmed")
	must(f.ConfirmLSC(t.Context(), phone, d)) // again, after an answer got lost
	check("fourth confirmed twice")
	if err := f.DiscardLSC(t.Context(), phone, d); err == nil {
		t.Error("the current certificate was discarded")
	}
	if err := f.ConfirmLSC(t.Context(), "SEP00112233FFFF", d); !errors.Is(err, ErrUnknown) {
		t.Errorf("another device's certificate: got %v, want %v", err, ErrUnknown)
	}
	must(f.DeletedLSC(t.Context(), phone))
	want[d] = Deleted
	check("deleted by the phone")
	e := issue()
	must(f.ConfirmLSC(t.Context(), phone, e))
	must(f.Revoke(t.Context(), e, "key compromise"))
	want[e] = Revoked
	check("revoked")
	if _, ok := f.CurrentLSC(phone); ok {
		t.Error("a revoked certificate is current")
	}
}

// The process is killed before each write of a life in turn; whatever was written before must be a consistent state in
// which the phone's certificate works.
func TestKilledAtEveryWrite(t *testing.T) {
	killed := errors.New("killed")
	key := ecKey(t)
	for n := 0; ; n++ {
		f := open(t)
		first := f.install(t, phone, key)
		if err := f.Schedule(t.Context(), phone, capf.Install, "test"); err != nil {
			t.Fatal(err)
		}
		left := n
		f.state.hook = func(map[string][]byte, []string) error {
			if left--; left < 0 {
				return killed
			}
			return nil
		}
		f.clock.Add(time.Hour)
		der, serial, err := f.IssueLSC(t.Context(), phone, key.Public())
		if err == nil {
			err = f.ConfirmLSC(t.Context(), phone, serial)
		}
		f.state.hook = nil
		f.reopen(t)
		op, scheduled := f.Scheduled(phone)
		current, ok := f.CurrentLSC(phone)
		if !ok {
			t.Fatalf("killed at write %d: no current certificate", n)
		}
		if _, e := f.VerifyDevice(current, nil, phone); e != nil {
			t.Errorf("killed at write %d: %v", n, e)
		}
		switch {
		case err == nil:
			if scheduled || !bytes.Equal(current.Raw, der) {
				t.Errorf("finished: scheduled %v, current %s", op, serialText(current.SerialNumber))
			}
			if n < 2 {
				t.Errorf("finished with %d writes, want 2", n)
			}
			return
		case !errors.Is(err, killed):
			t.Fatal(err)
		case !scheduled || !bytes.Equal(current.Raw, first.Raw):
			t.Errorf("killed at write %d: scheduled %v, current %s", n, scheduled, serialText(current.SerialNumber))
		}
	}
}

func TestUnfinishedEnrolmentsAreBounded(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	for range maxUnfinished {
		if _, _, err := f.IssueLSC(t.Context(), phone, key.Public()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := f.IssueLSC(t.Context(), phone, key.Public()); err == nil {
		t.Error("no limit")
	}
	if _, _, err := f.IssueLSC(t.Context(), "SEP00112233FFFF", key.Public()); err != nil {
		t.Errorf("another device: %v", err)
	}
	f.clock.Add(time.Hour + time.Minute)
	if _, _, err := f.IssueLSC(t.Context(), phone, key.Public()); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	f := open(t)
	for _, name := range []string{"", "a/b", "SEP 1", "CP-8841-SEP001122334455", strings.Repeat("x", 65), "SEP00112233445ü"} {
		if _, _, err := f.IssueLSC(t.Context(), name, ecKey(t).Public()); err == nil {
			t.Errorf("issued for %q", name)
		}
	}
	if _, _, err := f.IssueLSC(t.Context(), phone, "not a key"); err == nil {
		t.Error("issued for something that is no key")
	}
	if f.state.groups != 0 {
		t.Errorf("%d groups were written", f.state.groups)
	}
}

func TestListHasEverything(t *testing.T) {
	f := open(t)
	f.install(t, phone, ecKey(t))
	f.install(t, "SEP0011223344EE", ecKey(t))
	got := f.List()
	if len(got) != 12+2 {
		t.Fatalf("%d records, want 14", len(got))
	}
	var roles []string
	for _, r := range got[:12] {
		if r.Device != "" || r.State != Current || r.NotAfter.IsZero() || len(r.Fingerprint) != 64 {
			t.Errorf("record %+v", r)
		}
		roles = append(roles, string(r.Role))
	}
	slices.Sort(roles)
	want := []string{"ADMIN", "APP-SERVER", "CAPF", "CCM", "PEERING", "ROOT", "SAST", "SAST-RECOVERY", "TFTP", "TFTP-EC", "TVS", "VPN"}
	if !slices.Equal(roles, want) {
		t.Errorf("roles %v, want %v", roles, want)
	}
	for i, want := range []string{phone, "SEP0011223344EE"} {
		if r := got[12+i]; r.Device != want || r.State != Current || r.Key != "p256" || r.Role != "" {
			t.Errorf("record %+v, want one of %s", r, want)
		}
	}
	id, _ := f.Identity(RoleTVS)
	if r, ok := f.Find(id.Leaf.Raw); !ok || r.Role != RoleTVS {
		t.Errorf("Find: %+v, %v", r, ok)
	}
	stranger, _ := readPEM(t, "capf.pem")
	if _, ok := f.Find(stranger.Raw); ok {
		t.Error("found a foreign certificate")
	}
}
