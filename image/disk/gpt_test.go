package disk

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memory is a disk in memory.
type memory []byte

func (m memory) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(p, at) }

func (m memory) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(m)) {
		return 0, errors.New("outside")
	}
	return copy(m[at:], p), nil
}

const sectors = 4096

func sample() *Table {
	return &Table{ID: NamedGUID("disk"), Sectors: sectors, Parts: []Partition{
		{Name: "rf-esp", Type: TypeESP, ID: NamedGUID("esp"), First: 64, Last: 127},
		{Name: "rf-data", Type: TypeLinux, ID: NamedGUID("data"), First: 2048, Last: 4000},
	}}
}

func TestTableRoundTrip(t *testing.T) {
	m := make(memory, sectors*Sector)
	copy(m, "boot code")
	barriers := 0
	if err := sample().Write(m, func() error { barriers++; return nil }); err != nil {
		t.Fatal(err)
	}
	got, err := Read(m, sectors)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, sample()); d != "" {
		t.Errorf("got, want:\n%s", d)
	}
	if !bytes.HasPrefix(m, []byte("boot code")) || m[446] != 0x80 || m[450] != 0xee || m[511] != 0xaa {
		t.Errorf("first sector: % x", m[:512])
	}
	if barriers != 2 {
		t.Errorf("%d barriers, want one between the copy and the table, and one at the end", barriers)
	}
}

func TestTableInTheFrontIsDamaged(t *testing.T) {
	for _, c := range []struct {
		name string
		at   int
	}{{"signature", Sector}, {"header", Sector + 60}, {"entries", 2 * Sector}} {
		m := make(memory, sectors*Sector)
		if err := sample().Write(m, nil); err != nil {
			t.Fatal(err)
		}
		m[c.at] ^= 1
		got, err := Read(m, sectors)
		if err != nil {
			t.Errorf("%s: %v, want the copy", c.name, err)
		} else if d := cmp.Diff(got, sample()); d != "" {
			t.Errorf("%s: got, want:\n%s", c.name, d)
		}
	}
}

// A disk onto which a smaller image was written has its copy somewhere in the middle.
func TestTableOfASmallerImage(t *testing.T) {
	m := make(memory, 3*sectors*Sector)
	if err := sample().Write(m[:sectors*Sector], nil); err != nil {
		t.Fatal(err)
	}
	got, err := Read(m, 3*sectors)
	if err != nil || got.Sectors != sectors {
		t.Fatalf("got %v, %v", got, err)
	}
	got.Sectors = 3 * sectors
	got.Parts[1].Last = got.LastUsable()
	if err := got.Write(m, nil); err != nil {
		t.Fatal(err)
	}
	m[Sector] = 0
	if grown, err := Read(m, 3*sectors); err != nil || grown.Parts[1].Last != got.LastUsable() {
		t.Errorf("copy at the new end: %v, %v", grown, err)
	}
}

func TestTableThatCannotBe(t *testing.T) {
	for name, spoil := range map[string]func(*Table){
		"overlap":      func(t *Table) { t.Parts[1].First = 100 },
		"before":       func(t *Table) { t.Parts[0].First = 3 },
		"behind":       func(t *Table) { t.Parts[1].Last = sectors - 1 },
		"backwards":    func(t *Table) { t.Parts[0].Last = 10 },
		"small disk":   func(t *Table) { t.Sectors = 10 },
		"endless name": func(t *Table) { t.Parts[0].Name = string(make([]byte, 40)) },
	} {
		x := sample()
		spoil(x)
		if err := x.Write(make(memory, sectors*Sector), nil); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestGUID(t *testing.T) {
	if got, want := TypeESP.String(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// UEFI specification 2.10, table 5.7: the first three groups are little-endian.
	if got := TypeESP[:4]; !bytes.Equal(got, []byte{0x28, 0x73, 0x2a, 0xc1}) {
		t.Errorf("on the disk % x", got)
	}
	for _, bad := range []string{"", "c12a7328-f81f-11d2-ba4b-00a0c93ec93", "c12a7328-f81f-11d2-ba4b-00a0c93ec93bb", "g12a7328-f81f-11d2-ba4b-00a0c93ec93b"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is a GUID", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	m := make(memory, sectors*Sector)
	if err := sample().Write(m, nil); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(m[:34*Sector]))
	f.Add([]byte("EFI PART"))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := make(memory, sectors*Sector)
		copy(disk, b)
		table, err := Read(disk, sectors)
		if err != nil {
			return
		}
		for _, p := range table.Parts {
			if p.Size() <= 0 || p.Offset() < 0 {
				t.Errorf("partition %+v", p)
			}
		}
	})
}
