package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An appliance that burnt down is there again from its backup: its phones trust it, keep their certificates, and what users set
// is as it was.
func TestBackupAndRestore(t *testing.T) {
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	d.verb("line", "forward", "302", "303")
	dir := filepath.Dir(d.config)
	pass, file := filepath.Join(dir, "passphrase"), filepath.Join(dir, "north.backup")
	if err := os.WriteFile(pass, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := d.try("backup", file); code == 0 || !strings.Contains(out, "--passphrase-file") {
		t.Errorf("a backup without a passphrase: status %d\n%s", code, out)
	}
	d.verb("backup", file, "--passphrase-file", pass)
	if out, code := d.try("backup", file, "--passphrase-file", pass); code != 1 || !strings.Contains(out, "exists") {
		t.Errorf("a backup over another: status %d\n%s", code, out)
	}
	d.verb("line", "forward", "302", "off") // after the backup, so it is lost with the appliance
	if out, code := d.try("restore", file, "--passphrase-file", pass, "--replace"); code != 1 || !strings.Contains(out, "in use") {
		t.Errorf("a restore under a running daemon: status %d\n%s", code, out)
	}
	var before []struct{ Role, Serial string }
	d.json(&before, "cert", "list")
	ada.Stop()
	d.kill()
	if err := os.RemoveAll(d.state); err != nil {
		t.Fatal(err)
	}

	if out := d.verb("restore", "--check", "--passphrase-file", pass, file); !strings.Contains(out, "is whole") {
		t.Errorf("restore --check prints\n%s", out)
	}
	if _, err := os.Stat(d.state); err == nil {
		t.Error("restore --check has made the state directory")
	}
	out := d.verb("restore", file, "--passphrase-file", pass)
	restored := filepath.Join(d.state, "config", d.config)
	if !strings.Contains(out, restored) {
		t.Errorf("restore does not say where the document is:\n%s", out)
	}
	d.config = restored
	d.start()
	if out := d.verb("line", "forward", "302"); !strings.Contains(out, "303") {
		t.Errorf("the forward is gone: %s", out)
	}
	var after []struct{ Role, Serial string }
	d.json(&after, "cert", "list")
	if len(after) != len(before) {
		t.Fatalf("%d certificates, %d before", len(after), len(before))
	}
	for i := range after {
		if after[i] != before[i] {
			t.Errorf("certificate %v, %v before", after[i], before[i])
		}
	}
	// The phone with its old flash refuses nothing.
	again := d.newPhoneAt(dir, "SEP001122AA0001", "8851", 1)
	d.ready(again)
	unharmed(t, again)
	again.Stop()

	// The same without a daemon.
	d.stop()
	second := filepath.Join(dir, "second.backup")
	d.verb("backup", second, "--passphrase-file", pass, "--config", d.config)
	if out, code := d.try("restore", second, "--passphrase-file", pass); code != 1 || !strings.Contains(out, "--replace") {
		t.Errorf("a restore over an appliance: status %d\n%s", code, out)
	}
	d.verb("restore", second, "--passphrase-file", pass, "--replace")
	d.config = filepath.Join(d.state, "config", restored)
	d.start()
	eventually(t, 10*time.Second, "the daemon answers", func() bool { _, code := d.try("status"); return code == 0 })
}
