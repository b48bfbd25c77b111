package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
	"ringfence/pki/capf"
)

const adaDevice = "SEP001122AA0001"

// capf opens a connection to the daemon's CAPF.
func (d *daemon) capf() net.Conn {
	d.t.Helper()
	c, err := capf.Dial(within(d.t, 10*time.Second), d.site.Address+":3804", func(*x509.Certificate) error { return nil }, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// capfSession runs one CAPF session as a phone that holds what c says.
func (d *daemon) capfSession(c capf.Client) (capf.Result, error) {
	d.t.Helper()
	conn := d.capf()
	defer conn.Close()
	return c.Run(within(d.t, 20*time.Second), conn)
}

// proves asks for the device's file over 6971 with a certificate: whoever proves to be that device gets the file, others get the
// stub.
func (d *daemon) proves(device string, cert []byte, key crypto.Signer) bool {
	d.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}}}
	res, err := client.Get("https://" + d.site.Address + ":6971/" + device + ".cnf.xml")
	if err != nil {
		return false // refused in the handshake
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return err == nil && res.StatusCode == http.StatusOK && bytes.Contains(b, []byte("<sipLines>"))
}

// TestEnrolmentByCode gives a phone a one-time code by an order: without it, or with a wrong one, there is no certificate; guesses
// are limited; with it there is one, and the code is spent.
func TestEnrolmentByCode(t *testing.T) {
	feature.Proves(t, "CER-5")
	d := newDaemon(t, morning)
	out := d.verb("cert", "enroll", adaDevice, "--code-is", "471199")
	if !strings.Contains(out, "471199") || !strings.Contains(out, "▄") {
		t.Errorf("no code and no QR code:\n%s", out)
	}
	key, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	try := func(typed string) capf.Reason {
		t.Helper()
		res, err := d.capfSession(capf.Client{Device: adaDevice, Password: typed, GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil }})
		if err != nil {
			t.Fatal(err)
		}
		return res.Reason
	}
	if got := try(""); got != capf.ReasonRefused {
		t.Errorf("without a code: %s", got)
	}
	ada := d.newPhone(adaDevice, "8851", 1, func(o *phone.Options) { o.CAPFCode = "471199" })
	d.ready(ada)
	unharmed(t, ada)
	if ada.LSC() == nil {
		t.Fatal("no certificate")
	}
	d.verb("cert", "enroll", adaDevice, "--code-is", "815081")
	if got := try("471199"); got != capf.ReasonRefused {
		t.Errorf("a spent code: %s", got)
	}
	for i := range 5 {
		if got := try(fmt.Sprintf("%04d", i)); got != capf.ReasonRefused {
			t.Errorf("a wrong code: %s", got)
		}
	}
	if got := try("815081"); got != capf.ReasonRefused {
		t.Errorf("the right code after too many wrong ones: %s", got)
	}
	if out := d.verb("phone", "show", adaDevice); !strings.Contains(out, "too many wrong") {
		t.Errorf("phone show does not tell of the guesses:\n%s", out)
	}
}

// TestEnrolmentOperations orders what CAPF can do, one after the other, with keys of every kind, and looks at what the phone is
// told and what the daemon makes of it.
func TestEnrolmentOperations(t *testing.T) {
	feature.Proves(t, "CER-3", "CER-4")
	d := newDaemon(t, morning)
	var held []byte
	var last crypto.Signer
	client := func() capf.Client {
		return capf.Client{
			Device: adaDevice, Progress: 2, Installed: held,
			GenerateKey: func(k capf.KeyKind) (crypto.Signer, error) {
				key, err := capf.GenerateKey(k)
				last = key
				return key, err
			},
			Store:  func(der []byte, _ crypto.Signer) error { held = der; return nil },
			Delete: func() error { held = nil; return nil },
		}
	}
	run := func(want capf.Operation, reason capf.Reason) {
		t.Helper()
		res, err := d.capfSession(client())
		if err != nil || res.Operation != want || res.Reason != reason {
			t.Fatalf("%+v, %v; want %s and %s", res, err, want, reason)
		}
	}
	for _, kind := range []string{"rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521"} {
		d.write(strings.Replace(morning, "    vpn: phones\n    keys", "    vpn: phones\n    lsc_key: "+kind+"\n    keys", 1))
		d.verb("config", "reload")
		d.verb("cert", "enroll", adaDevice)
		run(capf.Install, capf.ReasonDone)
		cert, err := x509.ParseCertificate(held)
		if err != nil {
			t.Fatal(err)
		}
		if got := capf.KindOf(cert.PublicKey); string(got) != kind {
			t.Errorf("a key %s, want %s", got, kind)
		}
		if !d.proves(adaDevice, held, last) {
			t.Errorf("%s: the certificate proves nothing", kind)
		}
	}
	run(capf.None, capf.ReasonNothing)
	d.verb("cert", "fetch", adaDevice)
	run(capf.Fetch, capf.ReasonNothing)
	run(capf.None, capf.ReasonNothing)
	before, key := held, last
	d.verb("cert", "delete", adaDevice)
	run(capf.Delete, capf.ReasonDone)
	if held != nil || d.proves(adaDevice, before, key) {
		t.Error("a deleted certificate proves its device")
	}
	if out := d.verb("cert", "progress"); !strings.Contains(out, "the phone has no certificate") {
		t.Errorf("progress after the deletion:\n%s", out)
	}
	run(capf.Install, capf.ReasonDone)
	if res, err := d.capfSession(capf.Client{Device: "SEP00112233DEAD"}); err != nil || res.Reason != capf.ReasonUnknown {
		t.Errorf("a stranger: %+v, %v", res, err)
	}
}

// TestEnrolmentByCertificate lets a phone in by the manufacturer's certificate alone, and has it renew by its own; what another
// phone could have recorded of it is good for nothing.
func TestEnrolmentByCertificate(t *testing.T) {
	feature.Proves(t, "CER-2")
	const device = "SEP001122334455"
	keys, err := filepath.Abs("../../../pki/capf/testdata/keys")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(morning, "vpn:\n  hosts", "pki:\n  mic_roots: ["+filepath.Join(keys, "mic-ca.pem")+"]\n  lsc: {auth: lsc}\nvpn:\n  hosts", 1)
	text = strings.Replace(text, "lines:\n", "  - {device: "+device+", model: \"8841\"}\nlines:\n  - {number: \"305\", phone: "+device+", index: 1}\n", 1)
	d := newDaemon(t, text)
	mic := func(name string) *tls.Certificate {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(keys, name))
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(b, b)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	own, other := mic("mic-"+device+".pem"), mic("mic-SEP0011223344EE.pem")
	identity := func(c *tls.Certificate) *capf.Identity {
		return &capf.Identity{Certificate: c.Certificate[0], Key: c.PrivateKey.(crypto.Signer)}
	}
	p := d.newPhone(device, "8841", 3, func(o *phone.Options) { o.MIC = own })
	d.ready(p)
	unharmed(t, p)
	first := p.LSC()
	if first == nil {
		t.Fatal("not enrolled by MIC")
	}
	d.verb("cert", "enroll", "--all")
	lsc := p.Proof()
	for name, c := range map[string]capf.Client{
		"no proof":                             {Device: device},
		"another phone's MIC":                  {Device: device, Proof: identity(other), SUDI: identity(other)},
		"its LSC with another phone's MIC":     {Device: device, Proof: lsc, SUDI: identity(other)},
		"its LSC without proof of the session": {Device: device, Proof: lsc},
	} {
		if res, err := d.capfSession(c); err != nil || res.Reason != capf.ReasonRefused {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	if err := p.Boot(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	if p.LSC() == nil || p.LSC().Equal(first) {
		t.Error("not renewed by its own certificate")
	}
}

// TestKilledDuringEnrolment kills the daemon at every step of an enrolment. Afterwards what the phone holds proves it, the
// enrolment is due unless the phone has been told that it is done, and it succeeds.
func TestKilledDuringEnrolment(t *testing.T) {
	d := newDaemon(t, morning)
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	d.stop()
	d.write(strings.Replace(morning, "    vpn: phones\n    keys", "    vpn: phones\n    lsc_key: p256\n    keys", 1))
	d.start()
	var holds []byte
	enrol := func() {
		t.Helper()
		res, err := d.capfSession(capf.Client{Device: adaDevice, GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil },
			Store: func(der []byte, _ crypto.Signer) error { holds = der; return nil }})
		if err != nil || res.Reason != capf.ReasonDone {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	enrol()
	// Each line is what the phone has done when the power goes: sent is left unanswered, read was read.
	steps := []string{"connected", "read AUTH_REQUEST", "sent AUTH_RESPONSE", "read KEY_GENERATE_REQUEST", "sent REQUEST_IN_PROGRESS", "sent KEY_GENERATE_RESPONSE",
		"read STORE_CERTIFICATE_REQUEST", "stored", "sent STORE_CERTIFICATE_RESPONSE", "read END_SESSION"}
	for last, name := range steps {
		d.verb("cert", "enroll", adaDevice)
		c := d.capf()
		var id uint32
		read := func() capf.Body {
			t.Helper()
			if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			m, err := capf.ReadMessage(c)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			id = m.Session
			return m.Body
		}
		send := func(b capf.Body) {
			t.Helper()
			if err := capf.WriteMessage(c, capf.Message{Session: id, Body: b}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		ended := false
		var store *capf.StoreRequest
		for step, do := range []func(){
			func() {}, func() { read() },
			func() { send(&capf.AuthResponse{Reason: capf.ReasonDone, Version: 3, DeviceName: adaDevice}) }, func() { read() },
			func() { send(&capf.InProgress{}) }, func() { send(&capf.KeyGenerateResponse{PublicKey: spki}) },
			func() { store, _ = read().(*capf.StoreRequest) }, func() { holds = store.Certificate },
			func() { send(&capf.StoreResponse{Reason: capf.ReasonDone}) }, func() { _, ended = read().(*capf.EndSession) },
		} {
			if do(); step == last {
				break
			}
		}
		d.kill()
		c.Close()
		d.start()
		if !d.proves(adaDevice, holds, key) {
			t.Errorf("%s: what the phone holds proves nothing", name)
		}
		due := strings.Contains(d.verb("cert", "progress"), adaDevice)
		if ended && due || !due && last < len(steps)-2 {
			t.Errorf("%s: due %v", name, due)
		}
		if !due {
			d.verb("cert", "enroll", adaDevice)
		}
		enrol()
		if !d.proves(adaDevice, holds, key) {
			t.Errorf("%s: enrolled afterwards, but the certificate proves nothing", name)
		}
	}
	if out := d.verb("cert", "list"); !strings.Contains(out, adaDevice) {
		t.Errorf("cert list:\n%s", out)
	}
}

// TestStalledClients opens 200 connections each to CAPF and TVS that stop at various points, and sees a phone go through its
// morning and ask TVS meanwhile, at the usual pace.
func TestStalledClients(t *testing.T) {
	feature.Proves(t, "TRV-2", "TRV-3")
	d := newDaemon(t, morning)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range 400 {
		from := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("%s.%d", network, 60+i%40))}}
		c, err := from.Dial("tcp", net.JoinHostPort(d.site.Address, []string{"3804", "2445"}[i%2]))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		switch i / 2 % 4 {
		case 0: // never starts TLS
		case 1: // stops in the middle of a record
			_, _ = c.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
		case 2: // TLS, then silence
			tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			if err := tc.HandshakeContext(ctx); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			cancel()
		case 3: // half a message inside TLS
			tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			_ = tc.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := tc.Write([]byte{0x57, 1, 1, 0, 0}); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	}
	ada := d.newPhone(adaDevice, "8851", 1)
	d.ready(ada)
	unharmed(t, ada)
	for _, c := range ada.Listed(0) {
		if _, err := ada.VerifyCertificate(within(t, 10*time.Second), c); err != nil {
			t.Errorf("TVS about %s: %v", c.Subject, err)
		}
	}
	ccm := ada.Listed(1)
	roles, err := ada.VerifyCertificate(within(t, 10*time.Second), ccm[0])
	if err != nil || len(roles) != 1 || roles[0] != 1 {
		t.Errorf("TVS about the SIP server: %v, %v", roles, err)
	}
	b, err := os.ReadFile("../../../pki/capf/testdata/keys/issuer.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	for block != nil && block.Type != "CERTIFICATE" {
		block, b = pem.Decode(b)
	}
	stranger, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ada.VerifyCertificate(within(t, 10*time.Second), stranger); !phone.RefusedAs(err, phone.TVSInvalid) {
		t.Errorf("TVS about a stranger: %v", err)
	}
}
