package e2e

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
	"ringfence/trust"
	"ringfence/trust/tvs"
)

// obeys makes a phone that restarts when it is told to.
func obeys(o *phone.Options) { o.StayDown = false }

// TestKeysAreRenewedByThemselves orders new keys for what phones meet at each start, and for the signer of their lists, and does
// nothing more: registered phones are told to fetch, in the right order, and refuse nothing on the way.
func TestKeysAreRenewedByThemselves(t *testing.T) {
	feature.Proves(t, "SEC-10")
	d := newDaemon(t, morning)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1, obeys), d.newPhone("SEP001122AA0002", "8841", 2, obeys)
	d.ready(ada)
	d.ready(ben)
	serves := func() string {
		t.Helper()
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", d.site.Address+":5061", &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
	}
	signer := func(p *phone.Phone) string {
		t.Helper()
		c, err := p.TrustList().Signer()
		if err != nil {
			t.Fatal(err)
		}
		return c.SerialNumber.Text(16)
	}
	ccm, sast := serves(), signer(ada)
	// A call goes on meanwhile: its phones are told after it.
	ca, cb := connect(t, ada, ben, "302")
	for _, role := range []string{"CCM", "TFTP", "TVS", "SAST"} {
		d.verb("cert", "rotate", "--role", role)
	}
	hear(t, ca, cb)
	if ada.ServiceControls() != 0 || ben.ServiceControls() != 0 {
		t.Error("a phone was told to restart in the middle of a call")
	}
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	// The minute until the next look is not waited for: another order makes the daemon look again.
	d.verb("cert", "rotate", "--role", "APP-SERVER")
	eventually(t, 150*time.Second, "all rotations have ended", func() bool {
		var plans []json.RawMessage
		d.json(&plans, "cert", "rotate")
		return len(plans) == 0
	})
	if serves() == ccm {
		t.Error("SIP over TLS still has the old certificate")
	}
	eventually(t, 20*time.Second, "both phones are back", func() bool { return ada.Registered() && ben.Registered() })
	for _, p := range []*phone.Phone{ada, ben} {
		if signer(p) == sast {
			t.Errorf("%s holds a list of the old signer", p.Device())
		}
		if p.Stale() || p.ServiceControls() < 2 {
			t.Errorf("%s: stale %v, told %d times", p.Device(), p.Stale(), p.ServiceControls())
		}
	}
	unharmed(t, ada, ben)
	ca, cb = connect(t, ben, ada, "301")
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
}

// TestTrustAnswersHaveALife asks TVS about its own certificates and about another system's that the configuration names, and
// sees how long phones may keep the answers: less while certificates change, and as declared for others.
func TestTrustAnswersHaveALife(t *testing.T) {
	feature.Proves(t, "TRV-5")
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1) // stays as it is when it is told to restart
	d.ready(ada)
	keys, err := filepath.Abs("../../../pki/capf/testdata/keys/capf.pem")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	for block != nil && block.Type != "CERTIFICATE" {
		block, b = pem.Decode(b)
	}
	other := block.Bytes
	file := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil {
		t.Fatal(err)
	}
	client := tvs.Client{Address: d.site.Address + ":2445", Device: "CP-8851-SEP001122AA0001", TLS: &tls.Config{InsecureSkipVerify: true}}
	ask := func(der []byte) *tvs.Response {
		t.Helper()
		r, err := client.Verify(within(t, 10*time.Second), der)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ccm := ada.Listed(trust.CCM)[0].Raw
	if r := ask(ccm); !r.Valid || r.TTL != tvs.DefaultTTL {
		t.Errorf("about its own: %+v", r)
	}
	if r := ask(other); r.Valid {
		t.Errorf("about a stranger: %+v", r)
	}
	d.write(strings.Replace(morning, "vpn:\n  hosts", "pki:\n  trusted: [{name: other, files: ["+file+"], roles: [APP-SERVER, CCM], ttl: 20m}]\nvpn:\n  hosts", 1))
	if out := d.verb("config", "reload"); strings.Contains(out, "started again") {
		t.Errorf("reload: %s", out)
	}
	if r := ask(other); !r.Valid || r.TTL != 20*time.Minute || len(r.Roles) != 2 || r.Roles[0] != trust.AppServer {
		t.Errorf("about the other system's: %+v", r)
	}
	d.verb("cert", "rotate", "--role", "CCM")
	if r := ask(ccm); !r.Valid || r.TTL != 300*time.Second {
		t.Errorf("about its own while that changes: %+v", r)
	}
	if out := d.verb("trust", "show"); !strings.Contains(out, "an older one") || !strings.Contains(out, "none yet") || !strings.Contains(out, "0 of 2 phones have fetched this list") {
		t.Errorf("trust show does not say who lacks the new list:\n%s", out)
	}
	d.write(morning)
	d.verb("config", "reload")
	if r := ask(other); r.Valid {
		t.Errorf("taken out of the configuration: %+v", r)
	}
	unharmed(t, ada)
}
