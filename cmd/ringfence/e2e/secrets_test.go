package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
)

// record captures everything that crosses the namespace's wire until the returned func is called, which gives the file.
func record(t *testing.T) (stop func() string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "wire.pcapng")
	cmd := exec.Command("dumpcap", "-q", "-i", "lo", "-w", name)
	log := &lockedBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, 10*time.Second, "dumpcap has begun", func() bool { return strings.Contains(log.String(), "File:") })
	return func() string {
		t.Helper()
		time.Sleep(500 * time.Millisecond) // dumpcap writes its buffer out every now and then
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("dumpcap does not end")
		}
		return name
	}
}

func pcmu(o *phone.Options) { o.Codecs = []string{"PCMU"} }

// TestMorningLeaksNothing captures a whole first morning of phones in encrypted mode, at the office and at home, with a call, and
// finds none of the secrets on the wire in any form, nor the voices. The same search finds both with a phone in the clear.
func TestMorningLeaksNothing(t *testing.T) {
	d := newDaemon(t, three)
	outside := func(o *phone.Options) { o.Outside = true; pcmu(o) }
	stop := record(t)
	ben := d.newPhone("SEP001122AA0002", "8841", 2, pcmu)
	d.ready(ben)
	office := d.newPhone("SEP001122AA0001", "8851", 1, pcmu)
	d.ready(office)
	office.Stop()
	home := d.newPhone("SEP001122AA0001", "8851", 1, outside)
	d.ready(home)
	ca, cb := connect(t, home, ben, "302")
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	unharmed(t, home, ben)
	wire, err := readCapture(stop())
	if err != nil {
		t.Fatal(err)
	}
	if wire.packets < 500 {
		t.Fatalf("captured %d packets, want the whole morning", wire.packets)
	}
	secrets := map[string][]byte{"ada's password": []byte(adaPassword), "ben's password": []byte(benPassword), "the VPN password": []byte(vpnPassword)}
	key, err := os.ReadFile(filepath.Join(d.state, "pki.key"))
	if err != nil {
		t.Fatal(err)
	}
	secrets["the key of the private keys"] = key
	for _, device := range []string{"SEP001122AA0001", "SEP001122AA0002"} {
		secrets["the private key of "+device] = privateExponent(t, filepath.Join(filepath.Dir(d.config), device, "lsc.pem"))
	}
	for name, secret := range secrets {
		if where, ok := wire.leak(secret); ok {
			t.Errorf("%s is on the wire: %s", name, where)
		}
	}
	for _, hz := range []float64{600, 1500} {
		if where, ok := wire.audible(hz); ok {
			t.Errorf("the call can be heard: %s", where)
		}
	}

	// The search is not blind: a phone in the clear is seen and heard.
	stop = record(t)
	cleo := d.newPhone("SEP001122AA0003", "7965", 3, pcmu)
	d.ready(cleo)
	ca, cc := connect(t, home, cleo, "303")
	hear(t, ca, cc)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)
	wire, err = readCapture(stop())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := wire.leak([]byte(cleoPassword)); !ok {
		t.Error("the password of a phone in the clear was not found: the search is blind")
	}
	if _, ok := wire.audible(600); !ok {
		t.Error("the call of a phone in the clear was not heard: the search is deaf")
	}
	if where, ok := wire.leak([]byte(adaPassword)); ok {
		t.Errorf("ada's password is on the wire: %s", where)
	}
}

// privateExponent is the part of a phone's RSA key that nobody else may know.
func privateExponent(t *testing.T, name string) []byte {
	t.Helper()
	rest, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("%s holds no private key", name)
		}
		if block.Type != "PRIVATE KEY" {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return key.(*rsa.PrivateKey).D.Bytes()
	}
}
