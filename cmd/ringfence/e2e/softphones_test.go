package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// background runs a program until the test ends, and shows what it said if that failed. Its input stays open.
func background(t *testing.T, home string, args ...string) (in io.Writer, out *lockedBuffer) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip(args[0] + " is not installed")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.Dir = home
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out = &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", args[0], tail(out.String(), 3000))
		}
	})
	return stdin, out
}

// TestSoftphones registers Debian's linphone, baresip and sipp with nothing but number and password, and lets the first two watch a
// Cisco phone and their messages.
func TestSoftphones(t *testing.T) {
	feature.Proves(t, "PRS-1")
	d := newDaemon(t, office)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	// watches says whether a line is told about a number by an event, and has confirmed what it is now.
	watches := func(number, watcher, by, shows string) bool {
		var all []struct {
			Number, Shows, Watcher, By string
			Confirmed                  bool
		}
		d.json(&all, "watch", "list", number)
		for _, w := range all {
			if w.Watcher == watcher && w.By == by && w.Confirmed && w.Shows == shows {
				return true
			}
		}
		return false
	}
	registered := func(t *testing.T, line string) {
		t.Helper()
		eventually(t, 30*time.Second, line+" is registered", func() bool { return strings.TrimSpace(d.verb("line", "get", line, "status")) == "OK" })
	}
	write := func(t *testing.T, dir, name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	follows := func(t *testing.T, line string) {
		t.Helper()
		ctx := within(t, 40*time.Second)
		eventually(t, 30*time.Second, line+" watches 301", func() bool { return watches("301", line, "presence", "idle") })
		if err := ada.OffHook(ctx, 1); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, line+" sees 301 busy", func() bool { return watches("301", line, "presence", "on-the-phone") })
		if err := ada.OnHook(ctx, 1); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, line+" sees 301 idle", func() bool { return watches("301", line, "presence", "idle") })
	}
	t.Run("linphone", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, ".local/share/linphone/x", "")
		write(t, dir, "rc", fmt.Sprintf("[sip]\nsip_port=-1\nsip_tcp_port=-1\nsip_tls_port=-1\ndefault_proxy=0\n"+
			"[proxy_0]\nreg_proxy=<sip:%[1]s:5060;transport=tcp>\nreg_identity=<sip:304@%[1]s>\nreg_expires=600\nreg_sendregister=1\npublish=0\n"+
			"[auth_info_0]\nusername=304\npasswd=%[2]s\nrealm=pbx.example.com\ndomain=%[1]s\n"+
			"[friend_0]\nurl=\"ada\" <sip:301@%[1]s>\npol=accept\nsubscribe=1\n", d.site.Address, softPassword))
		background(t, dir, "linphonec", "-c", filepath.Join(dir, "rc"))
		registered(t, "304")
		follows(t, "304")
	})
	t.Run("baresip", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "config", "sip_listen "+d.site.phoneAddress(30).String()+":5070\nmodule_path /usr/lib/baresip/modules\nmodule g711.so\nmodule aubridge.so\n"+
			"module_app account.so\nmodule_app contact.so\nmodule_app menu.so\nmodule_app mwi.so\nmodule_app presence.so\naudio_source aubridge,x\naudio_player aubridge,x\n")
		write(t, dir, "accounts", fmt.Sprintf("<sip:309@%s;transport=udp>;auth_user=309;auth_pass=%s;regint=120;mwi=yes\n", d.site.Address, softPassword))
		write(t, dir, "contacts", fmt.Sprintf("\"Ada\" <sip:301@%s>;presence=p2p\n", d.site.Address))
		_, out := background(t, dir, "baresip", "-f", dir)
		registered(t, "309")
		follows(t, "309")
		d.verb("line", "messages", "309", "4", "1")
		eventually(t, 20*time.Second, "baresip tells of the messages", func() bool { return strings.Contains(out.String(), "Voice-Message: 4/1") })
		if !watches("309", "309", "message-summary", "4/1") {
			t.Errorf("watch list does not show the message lamp:\n%s", d.verb("watch", "list", "309"))
		}
	})
	t.Run("sipp", func(t *testing.T) {
		dir := t.TempDir()
		scenario, err := filepath.Abs("../../../sip/testdata/sipp-register.xml")
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "users.csv", fmt.Sprintf("SEQUENTIAL\n305;[authentication username=305 password=%s]\n", softPassword))
		for _, mode := range []string{"u1", "t1"} {
			cmd := exec.Command("sipp", "-sf", scenario, "-inf", filepath.Join(dir, "users.csv"), "-t", mode, "-m", "1", "-i", d.site.phoneAddress(31).String(),
				"-nostdin", "-timeout", "20", "-timeout_error", d.site.Address+":5060")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sipp over %s: %v\n%s", mode, err, tail(string(out), 2000))
			}
			if got := strings.TrimSpace(d.verb("line", "get", "305", "useragent")); got != "sipp" {
				t.Errorf("305 is registered by %q", got)
			}
		}
		eventually(t, 10*time.Second, "ada's lamp of 305 is lit", func() bool { return ada.BLF("305") != phone.LampUnknown })
	})
	unharmed(t, ada)
}
