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

// sh runs a command line in a folder.
func sh(t testing.TB, dir, command string) string {
	t.Helper()
	cmd := exec.CommandContext(within(t, 30*time.Second), "sh", "-ec", command)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// An administrator brings a VPN certificate of the company's CA as PKCS #12, and the gateway shows it with its chain.
func TestOwnCertificate(t *testing.T) {
	d := newDaemon(t, morning)
	dir := t.TempDir()
	sh(t, dir, `
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 30 -subj "/CN=Company Root" -addext keyUsage=critical,keyCertSign,cRLSign 2>&1
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.csr -subj "/CN=Company Servers" 2>&1
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' > ca.ext
openssl x509 -req -in ca.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile ca.ext -out ca.pem 2>&1
openssl req -new -newkey rsa:2048 -nodes -keyout vpn.key -out vpn.csr -subj "/CN=vpn.example.com" 2>&1
printf 'subjectAltName=DNS:vpn.example.com\nextendedKeyUsage=serverAuth\n' > vpn.ext
openssl x509 -req -in vpn.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 10 -extfile vpn.ext -out vpn.pem 2>&1
openssl pkcs12 -export -inkey vpn.key -in vpn.pem -certfile ca.pem -passout pass:company-secret -out vpn.p12
echo company-secret > secret`)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, tc := range []struct{ args, want string }{
		{"cert import vpn.p12", "--role is missing"},
		{"cert import vpn.p12 --role VPN", "passphrase is wanted"},
		{"cert import ca.pem --role CAPF", "no private key"},
		{"cert import vpn.p12 --role SAST --passphrase-file secret", "SAST-RECOVERY"},
		{"cert import vpn.p12 --role CAPF --passphrase-file secret", "CA:TRUE"},
	} {
		var args []string
		for _, a := range strings.Fields(tc.args) {
			if strings.Contains(a, ".p12") || strings.Contains(a, ".pem") || a == "secret" {
				a = in(a)
			}
			args = append(args, a)
		}
		if out, code := d.try(args...); code == 0 || !strings.Contains(out, tc.want) {
			t.Errorf("%s: status %d, %s; want %q", tc.args, code, out, tc.want)
		}
	}
	out := d.verb("cert", "import", in("vpn.p12"), "--role", "VPN", "--root", in("root.pem"), "--passphrase-file", in("secret"))
	if !strings.Contains(out, "vpn.example.com") || !strings.Contains(out, "certificate of role VPN now") {
		t.Errorf("import says %s", out)
	}
	if strings.Contains(d.log.String(), "company-secret") {
		t.Error("the passphrase is in the log")
	}
	shown, _ := openssl(t, "", "s_client", "-connect", d.site.Address+":443", "-CAfile", in("root.pem"), "-verify_return_error")
	if !strings.Contains(shown, "Verify return code: 0") || !strings.Contains(shown, "CN = vpn.example.com") {
		t.Errorf("the gateway shows:\n%s", shown)
	}
	d.verb("cert", "export", "CCM", "--out", in("ccm.pem"))
	if n := strings.Count(sh(t, dir, "openssl storeutl -certs -noout -text ccm.pem"), "Certificate:"); n != 3 {
		t.Errorf("%d certificates exported, want leaf, issuing CA and root", n)
	}
}

// The root's key is locked and taken away, and gives a second appliance its issuing CA when it is asked with its passphrase.
func TestRootOffTheAppliance(t *testing.T) {
	d, second := newDaemon(t, morning), newDaemon(t, morning)
	dir := t.TempDir()
	secret, backup := filepath.Join(dir, "secret"), filepath.Join(dir, "root.age")
	if err := os.WriteFile(secret, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuses := func(want string, verb ...string) {
		t.Helper()
		if out, code := d.try(verb...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%v: status %d, %s; want %q", verb, code, out, want)
		}
	}
	if out := d.verb("status"); !strings.Contains(out, "without a passphrase") {
		t.Errorf("status does not say that the root lies open:\n%s", out)
	}
	refuses("passphrase is wanted", "cert", "root", "protect")
	d.verb("cert", "root", "protect", "--passphrase-file", secret)
	if out := d.verb("status"); strings.Contains(out, "without a passphrase") {
		t.Errorf("status still says that the root lies open:\n%s", out)
	}
	refuses("cert issuer renew asks for it", "cert", "rotate", "--role", "CAPF")
	if out := d.verb("cert", "issuer", "renew", "--passphrase-file", secret); !strings.Contains(out, "of role CAPF now") {
		t.Errorf("renewed: %s", out)
	}
	refuses("not exported yet", "cert", "root", "remove")
	d.verb("cert", "root", "export", "--out", backup, "--passphrase-file", secret)
	d.verb("cert", "root", "remove")
	request, signed := filepath.Join(dir, "request.pem"), filepath.Join(dir, "signed.pem")
	second.verb("cert", "issuer", "request", "--out", request)
	refuses("not on this appliance", "cert", "issuer", "sign", request, "--passphrase-file", secret)
	d.verb("cert", "root", "restore", backup, "--passphrase-file", secret)
	refuses("passphrase", "cert", "issuer", "sign", request)
	d.verb("cert", "issuer", "sign", request, "--out", signed, "--passphrase-file", secret)
	d.verb("cert", "export", "root", "--out", filepath.Join(dir, "root.pem"))
	if out := second.verb("cert", "issuer", "install", signed, "--root", filepath.Join(dir, "root.pem")); !strings.Contains(out, "of role CAPF now") {
		t.Errorf("installed: %s", out)
	}
	// What the second appliance issues from now on, the root of the first vouches for.
	ada := second.newPhone("SEP001122AA0001", "8851", 1)
	second.ready(ada)
	lsc := second.ofDevice("SEP001122AA0001")
	cas, _ := download(t, "http://"+second.site.Address+":6974/ca.pem")
	block, _ := pem.Decode([]byte(sh(t, dir, "cat signed.pem"))) // the first one
	issuer := filepath.Join(dir, "issuer.pem")
	if err := os.WriteFile(issuer, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := openssl(t, "", "ocsp", "-issuer", issuer, "-CAfile", cas, "-url", "http://"+second.site.Address+":6974/ocsp", "-serial", "0x"+lsc.Serial)
	if err != nil || !strings.Contains(out, ": good") {
		t.Errorf("certificate of the phone under the new issuing CA: %v\n%s", err, out)
	}
}
