package e2e

import (
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/appliance/admin"
)

// published is morning with addresses of revocation lists and OCSP in the certificates.
var published = strings.Replace(morning, "site:\n", "pki: {publish_url: \"http://{{.Address}}:6974\"}\nsite:\n", 1)

// openssl runs OpenSSL and returns what it says.
func openssl(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 30*time.Second), "openssl", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// download fetches a URL into a file.
func download(t testing.TB, address string) (file string, body []byte) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", address, res.Status, err)
	}
	file = filepath.Join(t.TempDir(), "downloaded")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, body
}

// ofDevice is the certificate in use of a device, as cert list shows it.
func (d *daemon) ofDevice(device string) admin.CertInfo {
	d.t.Helper()
	var all []admin.CertInfo
	d.json(&all, "cert", "list")
	for _, c := range all {
		if c.Device == device {
			return c
		}
	}
	d.t.Fatalf("%s has no certificate: %+v", device, all)
	return admin.CertInfo{}
}

// Whoever checks certificates finds revocation lists and OCSP where the certificates say, and sees a revocation at once.
func TestRevocationIsPublished(t *testing.T) {
	d := newDaemon(t, published)
	base := "http://" + d.site.Address + ":6974"
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	lsc := d.ofDevice("SEP001122AA0001")

	// The chain of SIP over TLS, checked with the lists that it names itself.
	shown, err := openssl(t, "", "s_client", "-connect", d.site.Address+":5061", "-showcerts")
	if err != nil && !strings.Contains(shown, "BEGIN CERTIFICATE") {
		t.Fatalf("%v\n%s", err, shown)
	}
	leaf := filepath.Join(t.TempDir(), "leaf.pem")
	block, _ := pem.Decode([]byte(shown[strings.Index(shown, "-----BEGIN CERTIFICATE"):]))
	if err := os.WriteFile(leaf, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	cas, _ := download(t, base+"/ca.pem")
	check := func(when string) {
		t.Helper()
		cas, _ := download(t, base+"/ca.pem")
		lists, _ := download(t, base+"/crl.pem")
		for _, how := range [][]string{{"-crl_download", "-crl_check"}, {"-CRLfile", lists, "-crl_check_all"}} {
			if out, err := openssl(t, "", append(append([]string{"verify", "-CAfile", cas}, how...), leaf)...); err != nil {
				t.Errorf("%s, chain of SIP over TLS with %v: %v\n%s", when, how, err, out)
			}
		}
	}
	check("at first")
	text, err := openssl(t, "", "x509", "-in", leaf, "-noout", "-text")
	if err != nil || !strings.Contains(text, "OCSP - URI:"+base+"/ocsp") {
		t.Errorf("no address of OCSP in\n%s", text)
	}

	status := func(extra ...string) string {
		t.Helper()
		out, err := openssl(t, "", append(append([]string{"ocsp", "-issuer", cas, "-CAfile", cas, "-url", base + "/ocsp"}, extra...), "-serial", "0x"+lsc.Serial)...)
		if err != nil || !strings.Contains(out, "Response verify OK") {
			t.Fatalf("%v\n%s", err, out)
		}
		if len(extra) == 0 && strings.Contains(out, "WARNING") {
			t.Errorf("the nonce did not come back:\n%s", out)
		}
		return out
	}
	if out := status(); !strings.Contains(out, ": good") {
		t.Errorf("before:\n%s", out)
	}
	d.verb("cert", "revoke", "SEP001122AA0001", "--reason", "key compromise")
	for _, extra := range [][]string{nil, {"-no_nonce"}, {"-sha256"}} {
		if out := status(extra...); !strings.Contains(out, ": revoked") || !strings.Contains(out, "keyCompromise") {
			t.Errorf("after, %v:\n%s", extra, out)
		}
	}
	_, list := download(t, base+"/crl.der")
	out, err := openssl(t, string(list), "crl", "-inform", "DER", "-noout", "-text")
	if err != nil || !strings.Contains(out, strings.ToUpper(lsc.Serial)) {
		t.Errorf("list: %v\n%s", err, out)
	}

	// The issuing CA changes: what was issued before is still answered for.
	d.verb("cert", "rotate", "--role", "CAPF")
	d.verb("cert", "rotate", "--role", "CAPF", "--force", "test")
	d.verb("cert", "rotate", "--role", "CAPF", "--force", "test")
	check("after the change of the issuing CA")
	if out := status(); !strings.Contains(out, ": revoked") {
		t.Errorf("after the change of the issuing CA:\n%s", out)
	}
}
