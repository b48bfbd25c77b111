package trustadmin

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/capf"
	"ringfence/trust/tlv"
)

func TestMain(m *testing.M) {
	// The log library of the certificate engine starts this when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"), goleak.Cleanup(func(code int) {
		for _, dir := range begun.dirs {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// verbs serves a world's verbs on a control socket.
func (w *world) verbs() func(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	socket := filepath.Join(w.t.TempDir(), "s.sock")
	s, err := admin.New(admin.Options{Socket: socket, Verbs: Verbs(), Handlers: w.keep.Handlers()})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
	c := admin.Client{Socket: socket, Verbs: Verbs()}
	return func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := c.Command(args, &out, &errs)
		return code, out.String(), errs.String()
	}
}

// hold makes the records say that a phone has fetched its present list.
func (w *world) hold(device string) {
	w.t.Helper()
	f, err := w.files.Get(requestFor("ITL" + device + ".tlv"))
	if err != nil {
		w.t.Fatal(err)
	}
	f.Delivered()
}

func TestRotateVerb(t *testing.T) {
	w := newWorld(t)
	run := w.verbs()
	w.hold(desk)
	w.hold(hall)
	want := func(code int, text string, args ...string) string {
		t.Helper()
		got, out, errs := run(args...)
		if got != code || !strings.Contains(out+errs, text) {
			t.Fatalf("%s: exit %d, %s%s; want %d, %q", strings.Join(args, " "), got, out, errs, code, text)
		}
		return out
	}
	want(0, "no rotation is under way", "cert", "rotate")
	want(2, "--role is missing", "cert", "rotate", "--plan")
	want(2, "no role WEB", "cert", "rotate", "--role", "web")
	want(1, "no rotation is under way", "cert", "rotate", "--role", "CCM", "--force", "because")
	dry := want(0, "would be rotated", "cert", "rotate", "--role", "ccm", "--plan")
	if w.ca.Stage(pki.RoleCCM) != "" {
		t.Fatal("--plan rotated")
	}
	order := want(0, "waits for 2 of them: "+desk+", "+hall, "cert", "rotate", "--role", "ccm")
	steps := func(s string) (names []string) {
		for line := range strings.SplitSeq(s, "\n") {
			if strings.HasPrefix(line, "  [") {
				names = append(names, strings.Fields(line[5:])[0])
			}
		}
		return names
	}
	if a, b := steps(dry), steps(order); len(a) != 7 || strings.Join(a, " ") != strings.Join(b, " ") {
		t.Errorf("plan %v, rotation %v", a, b)
	}
	want(1, "is being rotated already", "cert", "rotate", "--role", "CCM")
	w.hold(desk)
	want(0, "waits for 1 of them: "+hall, "cert", "rotate")
	want(0, "stage settle", "cert", "rotate", "--role", "CCM", "--force", "the other phone is broken")
	var plans []pki.Plan
	if out := want(0, "rotated; no phone", "cert", "rotate", "--role", "ADMIN"); strings.Contains(out, "[ ]") {
		t.Errorf("ended, but not all is done:\n%s", out)
	}
	if err := json.Unmarshal([]byte(want(0, "{", "cert", "rotate", "--json")), &plans); err != nil || len(plans) != 1 || plans[0].Stage != pki.StageSettle {
		t.Errorf("%+v, %v", plans, err)
	}
}

func TestEnrollAndRevokeVerbs(t *testing.T) {
	w := newWorld(t)
	w.doc.Phones = append(w.doc.Phones, config.Phone{Device: "SEP001122AA0003", Model: "8841", Security: config.SecurityNonsecure})
	run := w.verbs()
	key, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	install := func(device string) (serial string) {
		t.Helper()
		_, serial, err := w.ca.IssueLSC(t.Context(), device, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ca.ConfirmLSC(t.Context(), device, serial); err != nil {
			t.Fatal(err)
		}
		return serial
	}
	install(desk)
	for _, tc := range []struct {
		args   string
		code   int
		answer string
	}{
		{"cert enroll", 2, "either DEVICE or --all"},
		{"cert enroll " + desk + " --all", 2, "either DEVICE or --all"},
		{"cert enroll " + desk + " --expiring 60d", 2, "--expiring goes with --all"},
		{"cert enroll --all --expiring soon", 2, "takes days"},
		{"cert enroll SEP001122AA0009", 1, "is not declared"},
		{"cert enroll SEP001122AA0003", 1, "non-secure"},
		{"cert enroll --all --expiring 60d", 0, "1 phones get a new certificate at their next start: " + hall + "\n1 have one that is good for longer\n1 are in non-secure mode"},
		{"cert enroll --all --expiring 400d", 0, "2 phones get a new certificate"},
		{"cert enroll 00:11:22:aa:00:01", 0, "1 phones get a new certificate at their next start: " + desk},
		{"cert revoke kitchen", 1, "neither a phone nor the serial number"},
		{"cert revoke " + hall, 1, "has no certificate"},
	} {
		if code, out, errs := run(strings.Fields(tc.args)...); code != tc.code || !strings.Contains(out+errs, tc.answer) {
			t.Errorf("%s: exit %d, %s%s; want %d, %q", tc.args, code, out, errs, tc.code, tc.answer)
		}
	}
	if s, ok := w.ca.Scheduled(desk); !ok || s.Proven {
		t.Errorf("ordered by name: %+v", s)
	}
	if s, ok := w.ca.Scheduled(hall); !ok || !s.Proven {
		t.Errorf("ordered with all: %+v", s)
	}
	first := install(hall)
	if code, out, errs := run("cert", "revoke", strings.ToUpper(first), "--reason", "key compromise"); code != 0 || !strings.Contains(out, "revoked "+first) {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
	if code, out, _ := run("cert", "revoke", desk, "--reason", "stolen"); code != 0 || !strings.Contains(out, "cert enroll "+desk) {
		t.Errorf("exit %d, %s", code, out)
	}
	if strings.Join(w.revoked, " ") != hall+" "+desk {
		t.Errorf("connections to be ended: %v", w.revoked)
	}
	ccm, _ := w.ca.Identity(pki.RoleCCM)
	if code, _, errs := run("cert", "revoke", ccm.Leaf.SerialNumber.Text(16)); code != 1 || !strings.Contains(errs, "in use") {
		t.Errorf("revoked what is in use: exit %d, %s", code, errs)
	}
	code, out, _ := run("crl")
	if block, _ := pem.Decode([]byte(out)); code != 0 || block == nil || block.Type != "X509 CRL" {
		t.Errorf("crl: exit %d, %s", code, out)
	}
}

func TestTrustVerbs(t *testing.T) {
	if testing.Short() {
		t.Skip("deriving keys from passphrases takes the race detector minutes; make test-e2e runs it without")
	}
	w := newWorld(t)
	run := w.verbs()
	w.hold(desk)
	code, out, _ := run("trust", "show")
	for _, want := range []string{"ITLFile.tlv version 1.0, SHA-1", "SAST-RECOVERY, current", desk + "  ", "none yet"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("trust show lacks %q: exit %d\n%s", want, code, out)
		}
	}
	code, out, _ = run("trust", "show", "0011.22aa.0001", "--json")
	var info TrustInfo
	if err := json.Unmarshal([]byte(out), &info); code != 0 || err != nil || info.Device != desk || info.List.Version != "1.1" || len(info.Fetches) != 1 ||
		!info.Fetches[0].Current || info.Fetches[0].SHA256 != info.List.SHA256 {
		t.Errorf("exit %d, %v, %+v", code, err, info)
	}

	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, short := file("secret", []byte("correct horse battery\n")), file("short", []byte("short"))
	safe := filepath.Join(dir, "safe")
	for _, tc := range []struct {
		args   []string
		code   int
		answer string
	}{
		{[]string{"trust", "export", safe}, 1, "give --passphrase-file"},
		{[]string{"trust", "export", filepath.Join(dir, "sh"), "--passphrase-file", short}, 1, "at least 10"},
		{[]string{"trust", "export", safe, "--passphrase-file", secret, "--root"}, 0, "ITLFile.tlv, ca-chain.pem, crl.der, sast-recovery.age, root.age"},
		{[]string{"trust", "export", safe, "--passphrase-file", secret}, 1, "exists"},
		{[]string{"trust", "restore", filepath.Join(safe, "root.age"), "--passphrase-file", secret, "--root"}, 0, "root's key is on the appliance again"},
		{[]string{"trust", "restore", filepath.Join(safe, "root.age"), "--passphrase-file", short, "--root"}, 1, "passphrase does not open"},
		{[]string{"trust", "restore", filepath.Join(safe, "sast-recovery.age"), "--passphrase-file", secret}, 2, "--reason is missing"},
		{[]string{"trust", "restore", filepath.Join(safe, "sast-recovery.age"), "--passphrase-file", secret, "--reason", "x"}, 1, "rotate SAST instead"},
		{[]string{"trust", "force"}, 2, "--reason is missing"},
		{[]string{"trust", "force", "--reason", "x"}, 0, "no list was held back"},
		{[]string{"trust", "verify", filepath.Join(safe, "ITLFile.tlv")}, 0, "take this appliance's"},
		{[]string{"trust", "verify", secret}, 0, "no trust list"},
		{[]string{"trust", "verify", filepath.Join(dir, "none")}, 1, "no such file"},
		{[]string{"trust", "verify", dir}, 1, "no regular file"},
	} {
		if code, out, errs := run(tc.args...); code != tc.code || !strings.Contains(out+errs, tc.answer) {
			t.Errorf("%s: exit %d, %s%s; want %d, %q", strings.Join(tc.args, " "), code, out, errs, tc.code, tc.answer)
		}
	}
	if info, err := os.Stat(filepath.Join(safe, "sast-recovery.age")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("exported key: %v, %v", info, err)
	}
	b, err := os.ReadFile(filepath.Join(safe, "ITLFile.tlv"))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := tlv.Parse(b); err != nil || l.Verify(tlv.ITLFile) != nil {
		t.Errorf("exported list: %v", err)
	}
	b[len(b)-1] ^= 1
	if code, out, _ := run("trust", "verify", file("bad.tlv", b)); code != 0 || !strings.Contains(out, "refuse") {
		t.Errorf("a damaged list: exit %d, %s", code, out)
	}
	// Of another system.
	other := newWorld(t)
	l, _, err := other.files.List("")
	if err != nil {
		t.Fatal(err)
	}
	if code, out, _ := run("trust", "verify", file("other.tlv", l)); code != 0 || !strings.Contains(out, "delete their list by hand") || !strings.Contains(out, "not of this appliance") {
		t.Errorf("another system's list: exit %d, %s", code, out)
	}
}
