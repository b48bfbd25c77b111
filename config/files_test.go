package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write("secrets/301", "a password of some length\n")
	part := write("parts/lines.yaml", `lines: [{number: "301", password: {file: ../secrets/301}}]`)
	main := write("ringfence.yaml", "node: {address: 192.0.2.10}\ninclude: [parts/*.yaml]\n")
	if got, want := Files(main), []string{main, part, secret}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if got := Files(filepath.Join(dir, "none.yaml")); got != nil {
		t.Errorf("files %q of nothing", got)
	}
	stored := `node: {address: 192.0.2.10}` + "\n" + `lines: [{number: "301", password: {file: "` + secret + `"}}]`
	if got, want := StoredFiles([]byte(stored)), []string{secret}; !slices.Equal(got, want) {
		t.Errorf("stored files %q, want %q", got, want)
	}
}
