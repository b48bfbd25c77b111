package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

const secret = "correct horse"

var now = time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)

func TestMain(m *testing.M) {
	scryptWork = 10
	os.Exit(m.Run())
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, path, text string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != text {
		t.Errorf("%s holds %q (%v), want %q", path, b, err, text)
	}
}

// source is a small state directory with a document outside of it.
func source(t *testing.T) Source {
	t.Helper()
	dir, etc := t.TempDir(), t.TempDir()
	put(t, filepath.Join(dir, "pki.key"), "key")
	put(t, filepath.Join(dir, "state.db"), "not as it lies there")
	put(t, filepath.Join(dir, "local.db"), "bindings")
	put(t, filepath.Join(dir, "lock"), "1")
	put(t, filepath.Join(dir, "mail/301/1.wav"), "hello")
	put(t, filepath.Join(dir, replacedPrefix+"x/state.db"), "old")
	doc := filepath.Join(etc, "ringfence.yaml")
	put(t, doc, "node: {}")
	return Source{Dir: dir, Appliance: "north", Version: "1.2.3", Created: now, Document: doc, Files: []string{doc},
		Snapshot: func(fn func(int64, func(io.Writer) error) error) error {
			return fn(8, func(w io.Writer) error { _, err := io.WriteString(w, "snapshot"); return err })
		}}
}

func written(t *testing.T, s Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s, secret); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fine(string) error { return nil }

func TestBackupAndRestore(t *testing.T) {
	s := source(t)
	b := written(t, s)
	if bytes.Contains(b, []byte("snapshot")) {
		t.Error("the content can be read without the passphrase")
	}
	dir := filepath.Join(t.TempDir(), "new")
	r, err := Restore(bytes.NewReader(b), dir, secret, false, now, func(part string) error {
		has(t, filepath.Join(part, "state.db"), "snapshot")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	has(t, filepath.Join(dir, "state.db"), "snapshot")
	has(t, filepath.Join(dir, "pki.key"), "key")
	has(t, filepath.Join(dir, "mail/301/1.wav"), "hello")
	has(t, r.Document, "node: {}")
	if r.Appliance != "north" || !r.Created.Equal(now) || r.Version != "1.2.3" {
		t.Errorf("manifest %+v", r.Manifest)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "state.db", "pki.key", "mail", "config":
		default:
			t.Errorf("%s was restored too", e.Name())
		}
	}
	if err := Pending(dir); err != nil {
		t.Error(err)
	}
}

func TestRestoreOverAnother(t *testing.T) {
	b := written(t, source(t))
	dir := t.TempDir()
	put(t, filepath.Join(dir, "state.db"), "another")
	put(t, filepath.Join(dir, "lock"), "7")
	if _, err := Restore(bytes.NewReader(b), dir, secret, false, now, fine); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("without --replace: %v", err)
	}
	has(t, filepath.Join(dir, "state.db"), "another")
	r, err := Restore(bytes.NewReader(b), dir, secret, true, now, fine)
	if err != nil {
		t.Fatal(err)
	}
	has(t, filepath.Join(dir, "state.db"), "snapshot")
	has(t, filepath.Join(r.Replaced, "state.db"), "another")
}

func TestNothingChangesWhenTheBackupIsBad(t *testing.T) {
	b := written(t, source(t))
	changed := func(at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 1
		return c
	}
	for name, c := range map[string]struct {
		b          []byte
		passphrase string
		check      func(string) error
		want       string
	}{
		"wrong passphrase": {b, "wrong horse!", fine, "passphrase does not open"},
		"no backup":        {[]byte("hello"), secret, fine, "no backup"},
		"empty":            {nil, secret, fine, "no backup"},
		"cut off":          {b[:len(b)-10], secret, fine, "cut off"},
		"cut early":        {b[:300], secret, fine, ""},
		"bit turned":       {changed(len(b) - 40), secret, fine, "damaged"},
		"not usable":       {b, secret, func(string) error { return errors.New("too new") }, "too new"},
		"a file outside":   {raw(t, "../x", "x"), secret, fine, "which none should"},
		"a whole path":     {raw(t, "/etc/passwd", "x"), secret, fine, "which none should"},
		"an odd path":      {raw(t, "state/../../x", "x"), secret, fine, "which none should"},
		"without state":    {raw(t, "state/pki.key", "x"), secret, fine, "no state.db"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "state.db"), "mine")
			_, err := Restore(bytes.NewReader(c.b), dir, c.passphrase, true, now, c.check)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			has(t, filepath.Join(dir, "state.db"), "mine")
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

// raw is a backup with one file of any name.
func raw(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	to, err := age.NewScryptRecipient(secret)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(scryptWork)
	sealed, err := age.Encrypt(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(sealed)
	for _, f := range [][2]string{{manifestName, `{"format":1}`}, {name, text}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Typeflag: tar.TypeReg, Size: int64(len(f[1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), sealed.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A restore that is cut off between any two of its steps leaves a directory that says so, and that a second one mends.
func TestRestoreCutOff(t *testing.T) {
	b := written(t, source(t))
	for _, done := range []string{"", "state.db", "pki.key"} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, pendingName), "")
		if done != "" {
			put(t, filepath.Join(dir, done), "half")
		}
		put(t, filepath.Join(dir, unpackName, "state.db"), "half")
		if err := Pending(dir); err == nil {
			t.Errorf("after %q the directory passes for whole", done)
		}
		if _, err := Restore(bytes.NewReader(b), dir, secret, true, now, fine); err != nil {
			t.Fatal(err)
		}
		has(t, filepath.Join(dir, "state.db"), "snapshot")
		if err := Pending(dir); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteFile(t *testing.T) {
	s := source(t)
	path := filepath.Join(t.TempDir(), "north.backup")
	if err := WriteFile(path, s, "short"); err == nil || !strings.Contains(err.Error(), "at least 10") {
		t.Errorf("short passphrase: %v", err)
	}
	if err := WriteFile(path, s, secret); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, s, secret); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("over another file: %v", err)
	}
	s.Snapshot = func(func(int64, func(io.Writer) error) error) error { return errors.New("no disk") }
	if err := WriteFile(path+"2", s, secret); err == nil {
		t.Error("a failed backup passes for one")
	}
	if left, _ := filepath.Glob(path + "2*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}
