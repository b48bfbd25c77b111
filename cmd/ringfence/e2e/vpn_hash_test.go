package e2e

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
	"ringfence/trust"
)

// gatewayHash is what phones compare: the hash of the certificate that the gateway shows now.
func (d *daemon) gatewayHash() string {
	d.t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", d.site.Address+":443", &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	return trust.VPNHash(c.ConnectionState().PeerCertificates[0].Raw)
}

// TestGatewayCertificateChanges orders a new certificate of the gateway: it is put to use when every phone has fetched its hash, in
// the office or through the tunnel, and nobody copies anything by hand. A phone that knows the old hash alone then refuses the gateway.
func TestGatewayCertificateChanges(t *testing.T) {
	feature.Proves(t, "VPN-5")
	d := newDaemon(t, strings.Replace(morning, `    password: "`+benPassword+`"
`, `    password: "`+benPassword+`"
    vpn: phones
`, 1))
	for i, device := range []string{"SEP001122AA0001", "SEP001122AA0002"} {
		p := d.newPhone(device, "8841", i+1)
		d.ready(p)
		p.Stop()
	}
	old := d.gatewayHash()
	late := t.TempDir() // the flash of the first phone as it is now
	if err := os.CopyFS(filepath.Join(late, "SEP001122AA0001"), os.DirFS(filepath.Join(filepath.Dir(d.config), "SEP001122AA0001"))); err != nil {
		t.Fatal(err)
	}
	missing := func() []string {
		var plans []struct {
			Stage   string   `json:"stage"`
			Missing []string `json:"missing"`
		}
		d.json(&plans, "cert", "rotate", "--role", "VPN", "--plan")
		if len(plans) != 1 || plans[0].Stage != "publish" {
			return nil
		}
		return plans[0].Missing
	}
	d.verb("cert", "rotate", "--role", "VPN")
	if got := missing(); !slices.Equal(got, []string{"SEP001122AA0001", "SEP001122AA0002"}) {
		t.Fatalf("the rotation waits for %v, want both phones", got)
	}
	outside := func(o *phone.Options) { o.Outside = true }
	home := d.newPhone("SEP001122AA0001", "8841", 1, outside)
	d.ready(home) // fetches its file through the tunnel
	home.Stop()
	eventually(t, 10*time.Second, "the rotation waits for the other phone alone", func() bool { return slices.Equal(missing(), []string{"SEP001122AA0002"}) })
	if d.gatewayHash() != old {
		t.Fatal("the gateway shows its new certificate before every phone knows it")
	}
	office := d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(office)
	eventually(t, 10*time.Second, "the gateway shows its new certificate", func() bool { return d.gatewayHash() != old })

	again := d.newPhone("SEP001122AA0001", "8841", 1, outside)
	d.ready(again)
	ca, cb := connect(t, again, office, "302")
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	again.Stop()

	stale := d.newPhoneAt(late, "SEP001122AA0001", "8841", 1, outside)
	err := stale.Boot(within(t, 30*time.Second))
	if r := stale.Refusals(); err == nil || r[phone.VPNCertificate] == 0 {
		t.Errorf("a phone that knows another certificate says %v, refusals %v", err, r)
	}
}
