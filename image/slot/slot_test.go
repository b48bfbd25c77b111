package slot

import (
	"bytes"
	"strings"
	"testing"
)

func block(text string) []byte {
	b := []byte("# GRUB Environment Block\n" + text)
	return append(b, bytes.Repeat([]byte{'#'}, Size-len(b))...)
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"factory", "slot=a\na=3\nb=0\n", "slot=a a=3 b=0"},
		{"other slot", "slot=b\na=1\nb=2\n", "slot=b a=1 b=2"},
		{"any order, as GRUB writes it", "a=3\nslot=a\nb=1\n", "slot=a a=3 b=1"},
		{"nonsense is no try", "slot=c\na=9\nb=-1\n", "slot=a a=0 b=0"},
		{"empty", "", "slot=a a=0 b=0"},
	} {
		s, err := Parse(block(c.text))
		if err != nil || s.String() != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, s, err, c.want)
		}
	}
	for name, b := range map[string][]byte{"short": block("")[:511], "no header": bytes.Repeat([]byte{'#'}, Size)} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// The table of docs/appliance.md, "How it comes back".
func TestLifeOfASlot(t *testing.T) {
	s := Factory()
	for _, step := range []struct {
		name  string
		id    ID
		tries int
		want  string
	}{
		{"update begins", B, 0, "slot=a a=3 b=0"},
		{"written", B, 1, "slot=b a=3 b=1"},
		{"GRUB starts it", B, 0, "slot=b a=3 b=0"},
		{"healthy", B, Full, "slot=b a=3 b=3"},
		{"the other is healthy", A, Full, "slot=a a=3 b=3"},
	} {
		s = s.Set(step.id, step.tries)
		b, err := s.Marshal()
		if err != nil || len(b) != Size {
			t.Fatalf("%s: %d bytes, %v", step.name, len(b), err)
		}
		if s, err = Parse(b); err != nil || s.String() != step.want {
			t.Errorf("%s: %s, %v, want %s", step.name, s, err, step.want)
		}
	}
}

func TestOthersVariablesStay(t *testing.T) {
	s, err := Parse(block("slot=a\na=3\nb=0\nnext_entry=x\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Set(A, 2).Marshal()
	if err != nil || !strings.Contains(string(b), "next_entry=x\n") {
		t.Errorf("%q, %v", b, err)
	}
}

func TestBlockIsFoundByItsHeader(t *testing.T) {
	part := make([]byte, 20*Size)
	copy(part[7*Size:], block("slot=b\na=0\nb=3\n"))
	at, s, err := Block(bytes.NewReader(part), int64(len(part)))
	if err != nil || at != 7*Size || s.Preferred != B {
		t.Errorf("at %d: %s, %v", at, s, err)
	}
	if _, _, err := Block(bytes.NewReader(part[:7*Size]), 7*Size); err == nil {
		t.Error("found where there is none")
	}
}

func TestInstaller(t *testing.T) {
	b, err := Installer().Marshal()
	if err != nil || !bytes.Contains(b, []byte("\nmode=install\n")) {
		t.Fatalf("%q, %v", b, err)
	}
	if b, err = Factory().Marshal(); err != nil || bytes.Contains(b, []byte("mode")) {
		t.Errorf("%q, %v", b, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(block("slot=b\na=1\nb=2\nx=y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		out, err := s.Marshal()
		if err != nil {
			return // what somebody else put there may leave no room
		}
		if again, err := Parse(out); err != nil || again.String() != s.String() {
			t.Errorf("%s became %s, %v", s, again, err)
		}
	})
}
