package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rsc.io/qr"
)

func TestPassphrase(t *testing.T) {
	stdin := os.Stdin
	null, err := os.Open(os.DevNull) // no terminal to ask at
	if err != nil {
		t.Fatal(err)
	}
	os.Stdin = null
	t.Cleanup(func() { os.Stdin = stdin; null.Close() })
	file := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(file, []byte("of the file\r\nand a second line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, file, env string
		how             Asking
		want, refused   string
	}{
		{"file before environment", file, "of the environment", Ask, "of the file", ""},
		{"environment", "", "of the environment", AskTwice, "of the environment", ""},
		{"nobody to ask", "", "", Ask, "", "--passphrase-file"},
		{"nobody to ask for a new one", "", "", AskTwice, "", "--passphrase-file"},
		{"a script without", "", "", AskMaybe, "", ""},
		{"no such file", file + "x", "", AskMaybe, "", "no such file"},
		{"not a file of a passphrase", large, "", Ask, "", "larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(PassphraseEnv, test.env)
			got, err := Passphrase(test.file, test.how)
			if test.refused == "" && (err != nil || got != test.want) || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestQR reads the drawing back module by module.
func TestQR(t *testing.T) {
	const text = "SEP001122AA0001 12345678"
	drawn, err := QR(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	if want := (code.Size + 4 + 1) / 2; len(lines) != want {
		t.Fatalf("%d lines, want %d", len(lines), want)
	}
	for y := range code.Size {
		row := []rune(lines[(y+2)/2])
		for x := range code.Size {
			upper := (y+2)%2 == 0
			c := row[x+2]
			light := c == '█' || upper && c == '▀' || !upper && c == '▄'
			if light == code.Black(x, y) {
				t.Fatalf("module %d,%d is drawn %q", x, y, c)
			}
		}
	}
	if _, err := QR(strings.Repeat("x", 5000), qr.L); err == nil {
		t.Error("5000 characters fit")
	}
}
