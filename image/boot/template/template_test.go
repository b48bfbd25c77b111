package template

import (
	"bytes"
	"errors"
	"testing"
)

type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

// failing ends all writing at its barrier.
type failing struct{ memory }

func TestMakeAndWrite(t *testing.T) {
	fs := make([]byte, 64*Block)
	copy(fs[1024:], "superblock")
	copy(fs[17*Block:], "a table")
	packed, err := Make(bytes.NewReader(fs), int64(len(fs)))
	if err != nil {
		t.Fatal(err)
	}
	if want := 16 + 2*(8+Block); len(packed) != want {
		t.Errorf("%d bytes, want %d", len(packed), want)
	}
	disk := make(memory, len(fs))
	if err := Write(disk, packed, func() error { return nil }); err != nil || !bytes.Equal(disk, fs) {
		t.Errorf("what was written differs (%v)", err)
	}
	// A power cut before the last barrier leaves nothing that looks like a file system.
	cut := failing{make(memory, len(fs))}
	if err := Write(cut, packed, func() error { return errors.New("power cut") }); err == nil || !bytes.Equal(cut.memory[:Block], make([]byte, Block)) {
		t.Errorf("after a cut the first block is not empty (%v)", err)
	}
}

func TestDamagedTemplate(t *testing.T) {
	fs := make([]byte, 4*Block)
	fs[0] = 1
	packed, err := Make(bytes.NewReader(fs), int64(len(fs)))
	if err != nil {
		t.Fatal(err)
	}
	outside := bytes.Clone(packed)
	outside[16] = 200
	for name, b := range map[string][]byte{"empty": nil, "cut off": packed[:len(packed)-1], "other": append([]byte("x"), packed[1:]...), "outside": outside, "no superblock": packed[:16]} {
		if err := Write(make(memory, len(fs)), b, func() error { return nil }); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}
