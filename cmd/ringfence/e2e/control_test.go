package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// TestOrders changes settings from the command line and sees the phones follow.
func TestOrders(t *testing.T) {
	feature.Proves(t, "CMD-1", "CMD-2", "CMD-3", "CMD-6", "CFS-4", "DNS-3", "HLG-5", "RST-1")
	d := newDaemon(t, morning)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ada)
	d.ready(ben)
	d.verb("line", "forward", "301", "303")
	eventually(t, 2*time.Second, "ada's phone shows the forward", func() bool { return ada.Forward(1) == "303" })
	d.verb("line", "forward", "311", "302") // each line has its own
	eventually(t, 2*time.Second, "ada's phone shows the second forward", func() bool { return ada.Forward(2) == "302" && ada.Forward(1) == "303" })
	d.verb("line", "forward", "301", "off")
	eventually(t, 2*time.Second, "the forward is gone", func() bool { return ada.Forward(1) == "" })
	for _, on := range []string{"on", "off"} {
		d.verb("phone", "dnd", "SEP001122AA0001", on)
		eventually(t, 2*time.Second, "ada's phone shows do-not-disturb "+on, func() bool { dnd, _ := ada.DND(); return dnd == (on == "on") })
		d.verb("phone", "hunt", "SEP001122AA0001", on)
		eventually(t, 2*time.Second, "ada's phone shows the hunt log-in "+on, func() bool { in, known := ada.HuntLogin(); return known && in == (on == "on") })
	}
	d.verb("phone", "restart", "SEP001122AA0001")
	eventually(t, 5*time.Second, "ada's phone obeys the restart", func() bool { return ada.ServiceControls() == 1 })
	for _, wrong := range [][]string{{"line", "forward", "999", "301"}, {"line", "forward", "301", "301"}, {"line", "forward", "301", "998"}, {"phone", "dnd", "SEP00000000DEAD", "on"}, {"phone", "dnd", "SEP001122AA0001", "maybe"}, {"vpn", "kick", "nobody"}} {
		if out, code := d.try(wrong...); code == 0 || out == "" {
			t.Errorf("ringfence %v: status %d, %q; want a refusal with a reason", wrong, code, out)
		}
	}
	if out := d.verb("plan", "explain", "--from", "301", "--dial", "302"); !strings.Contains(out, "302") {
		t.Errorf("plan explain says %q", out)
	}
	unharmed(t, ada, ben)
}

// TestRevokedPhoneIsOut withdraws a phone's certificate and sees its connections end and its log-ins refused.
func TestRevokedPhoneIsOut(t *testing.T) {
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	d.verb("cert", "revoke", "SEP001122AA0001")
	eventually(t, 5*time.Second, "ada's connection is closed", func() bool { return !ada.Registered() })
	ada.Stop()
	again := d.newPhone("SEP001122AA0001", "8851", 1, func(o *phone.Options) { o.Timers.Connect = 2 * time.Second })
	ctx := within(t, 30*time.Second)
	_ = again.Boot(ctx) // the configuration of yesterday may still be in force
	if err := again.Register(ctx); err == nil {
		// It may only be back with a new certificate, which an administrator has not allowed.
		t.Error("a phone with a revoked certificate registers")
	}
}

// TestConfigurationChanges reloads a file, and keeps stored revisions where no file is the authority.
func TestConfigurationChanges(t *testing.T) {
	feature.Proves(t, "MLN-9")
	d := newDaemon(t, morning)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ada)
	d.ready(ben)

	// A document with a fault changes nothing and says where it is.
	d.write(strings.Replace(morning, `ring_seconds: 4`, `ring_secunds: 4`, 1))
	if out, code := d.try("config", "reload"); code != 1 || !strings.Contains(out, "ring_secunds") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("reload of a faulty file: status %d\n%s", code, out)
	}
	// A line less: the phone is told at its next start, calls to the line end at once.
	d.write(strings.Replace(morning, `  - {number: "311", user: ada, phone: SEP001122AA0001, index: 2}`+"\n", "", 1))
	out := d.verb("config", "reload")
	if !strings.Contains(out, "SEP001122AA0001") {
		t.Errorf("reload does not name the phone with another file:\n%s", out)
	}
	c, err := ben.Call(within(t, 10*time.Second), "311")
	if err != nil {
		t.Fatal(err)
	}
	over(t, c)
	if c.Code() != 404 {
		t.Errorf("call to the removed line ended with %d, want 404", c.Code())
	}
	ca, cb := connect(t, ada, ben, "302") // the others are untouched
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	if out, code := d.try("config", "apply", d.config); code != 1 || !strings.Contains(out, d.config) {
		t.Errorf("apply with a file as the authority: status %d\n%s", code, out)
	}

	// Without a file the newest stored revision counts.
	ada.Stop()
	ben.Stop()
	d.stop()
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(bin(t, "ringfence"), append([]string{"--state", d.state}, args...)...)
		cmd.Env = append(os.Environ(), "EDITOR=sed -i s/ring_seconds:.4/ring_seconds:\\ 7/")
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != want {
			t.Fatalf("ringfence %v: status %d, want %d\n%s", args, cmd.ProcessState.ExitCode(), want, out)
		}
		return string(out)
	}
	if out := run(1, "run"); !strings.Contains(out, "config apply") {
		t.Errorf("run without any configuration says %q", out)
	}
	d.write(morning)
	run(0, "config", "apply", d.config)
	file := d.config
	d.config = ""
	d.start()
	defer func() { d.config = file }()
	run(0, "config", "apply", file, "--comment", "the same again")
	if out := run(0, "config", "show"); !strings.Contains(out, "SEP001122AA0001") || strings.Contains(out, adaPassword) {
		t.Errorf("config show prints\n%s", out)
	}
	if out := run(0, "config", "edit"); !strings.Contains(out, "ring_seconds") {
		t.Errorf("config edit prints\n%s", out)
	}
	if out := run(0, "config", "history"); strings.Count(strings.TrimSpace(out), "\n") < 1 {
		t.Errorf("history is not of two revisions:\n%s", out)
	}
	if out := run(0, "config", "diff"); !strings.Contains(out, "ring_seconds: 7") {
		t.Errorf("config diff prints\n%s", out)
	}
	if out := run(0, "phone", "adopt", "001122AA0009", "--model", "8841", "--line", "309", "--name", "Gast"); !strings.Contains(out, "309") {
		t.Errorf("phone adopt prints\n%s", out)
	}
	run(1, "phone", "adopt", "SEP001122AA0008", "--model", "8841", "--line", "309") // the number is taken
	guest := d.newPhoneAt(filepath.Dir(file), "SEP001122AA0009", "8841", 3)
	d.ready(guest)
	guest.Stop()
	for _, secret := range []string{adaPassword, benPassword, vpnPassword, cleoPassword} {
		if strings.Contains(d.log.String(), secret) {
			t.Errorf("the log holds the secret %s", secret)
		}
	}
	d.kill()
	d.start()
	if out := run(0, "config", "show"); !strings.Contains(out, "ring_seconds: 7") {
		t.Error("the edited revision did not survive a power cut")
	}
}
