package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFATByOthers lets Debian's fsck.fat and mtools judge the file systems.
func TestFATByOthers(t *testing.T) {
	for _, tool := range []string{"fsck.fat", "mtype", "mdir"} {
		if _, err := exec.LookPath(tool); err != nil {
			if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
				t.Skipf("%s is not here; GRUB and Linux judge the file systems in the boot tests", tool)
			}
		}
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	at := time.Date(2026, 5, 4, 8, 30, 10, 0, time.UTC)
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	for _, c := range []struct {
		name string
		fat  FAT
	}{
		{"FAT12", FAT{Bits: 12, Size: 1 << 20, Label: "STATE", Files: map[string][]byte{"grubenv": bytes.Repeat([]byte{'#'}, 512)}}},
		{"FAT16", FAT{Bits: 16, Size: 8 << 20, First: 99, Label: "SEED", Files: map[string][]byte{"README.TXT": []byte("text"), "ringfence.yaml": big, "empty": nil}}},
		{"FAT32", FAT{Bits: 32, Size: 64 << 20, Label: "ESP", Files: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": big, "EFI/debian/a name that is long enough for three entries": []byte("x")}}},
	} {
		c.fat.Time, c.fat.ID = at, 0x12345678
		name := filepath.Join(t.TempDir(), "fat")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(c.fat.Size); err != nil {
			t.Fatal(err)
		}
		if err := c.fat.Write(f, 0); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		f.Close()
		if out, err := exec.Command("fsck.fat", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: fsck.fat: %v\n%s", c.name, err, out)
		}
		for file, want := range c.fat.Files {
			if got, err := exec.Command("mtype", "-i", name, "::"+file).Output(); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s has %d bytes, want %d (%v)", c.name, file, len(got), len(want), err)
			}
		}
		if out, err := exec.Command("mdir", "-/", "-i", name, "::").Output(); err != nil || !strings.Contains(string(out), "2026-05-04") || !strings.Contains(string(out), "is "+c.fat.Label) {
			t.Errorf("%s: mdir: %v\n%s", c.name, err, out)
		}
	}
}

func TestFATThatCannotBe(t *testing.T) {
	for name, f := range map[string]FAT{
		"no such kind":  {Bits: 20, Size: 1 << 20},
		"half a sector": {Bits: 12, Size: 1000},
		"too small":     {Bits: 32, Size: 1 << 20},
		"too full":      {Bits: 12, Size: 1 << 20, Files: map[string][]byte{"a": make([]byte, 2<<20)}},
	} {
		if err := f.Write(make(memory, 4<<20), 0); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestFATIsTheSameTwice(t *testing.T) {
	make2 := func() memory {
		m := make(memory, 8<<20)
		f := FAT{Bits: 16, Size: 8 << 20, Label: "X", Files: map[string][]byte{"a": {1}, "b": {2}, "c/d": {3}, "c/e": {4}}}
		if err := f.Write(m, 0); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if !bytes.Equal(make2(), make2()) {
		t.Error("two file systems of the same files differ")
	}
}
