package boot

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"ringfence/image/boot/release"
	"ringfence/image/disk"
	"ringfence/image/slot"
)

// drive is a disk in memory that loses power after some writes.
type drive struct {
	b      []byte
	writes int // that still work; negative: all
	broken int64
}

func (d *drive) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, at) }

var errPower = errors.New("no power")

func (d *drive) WriteAt(p []byte, at int64) (int, error) {
	if d.writes == 0 {
		return 0, errPower
	}
	d.writes--
	n := copy(d.b[at:], p)
	if d.broken >= at && d.broken < at+int64(n) {
		d.b[d.broken] ^= 1
	}
	return n, nil
}

const mib = 1 << 20

// stick is one that installs, with partitions of a MiB each.
func stick(t *testing.T) (*drive, *disk.Table) {
	t.Helper()
	names := []string{release.PartBIOS, release.PartESP, release.PartState, release.PartSlotA, release.PartSlotB, release.PartSeed, release.PartData}
	d := &drive{b: make([]byte, (len(names)+2)*mib), writes: -1, broken: -1}
	table := &disk.Table{ID: disk.NamedGUID("ringfence", "disk"), Sectors: uint64(len(d.b) / disk.Sector)}
	random := rand.NewChaCha8([32]byte{1})
	for i, n := range names {
		first := uint64((i + 1) * mib / disk.Sector)
		table.Parts = append(table.Parts, disk.Partition{Name: n, Type: disk.TypeSlot, ID: disk.NamedGUID(n), First: first, Last: first + mib/disk.Sector - 1})
		_, _ = random.Read(d.b[(i+1)*mib : (i+2)*mib])
	}
	copy(d.b, "the code of a boot loader")
	state := d.b[3*mib:]
	clear(state[:mib])
	copy(state[20*slot.Size:], "# GRUB Environment Block\nslot=a\na=3\nb=0\nmode=install\n"+strings.Repeat("#", slot.Size))
	clear(state[21*slot.Size:][:slot.Size])
	if err := table.Write(d, nil); err != nil {
		t.Fatal(err)
	}
	return d, table
}

func none() error { return nil }

func TestTransfer(t *testing.T) {
	src, from := stick(t)
	dst := &drive{b: bytes.Repeat([]byte{0xee}, 11*mib), writes: -1, broken: -1}
	sectors := uint64(len(dst.b) / disk.Sector)
	last := 0
	if err := transfer(src, from, dst, sectors, rand.NewChaCha8([32]byte{2}), none, func(p int) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last != 100 {
		t.Errorf("progress ended at %d", last)
	}
	table, err := disk.Read(dst, sectors)
	if err != nil {
		t.Fatal(err)
	}
	if table.ID == from.ID || table.Sectors != sectors {
		t.Errorf("table %s for %d sectors", table.ID, table.Sectors)
	}
	for i, p := range table.Parts {
		q := from.Parts[i]
		if p.Name != q.Name || p.Type != q.Type || p.First != q.First || p.ID == q.ID {
			t.Errorf("partition %+v of %+v", p, q)
		}
		got, want := dst.b[p.Offset():p.Offset()+mib], src.b[q.Offset():q.Offset()+mib]
		switch p.Name {
		case release.PartSlotB, release.PartData:
			if !blank(got) {
				t.Errorf("%s is not empty", p.Name)
			}
		case release.PartState:
			at, st, err := slot.Block(bytes.NewReader(got), mib)
			if err != nil || at != 20*slot.Size || st.String() != "slot=a a=3 b=0" || bytes.Contains(got, []byte("install")) {
				t.Errorf("state at %d: %s, %v", at, st, err)
			}
		default:
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs", p.Name)
			}
		}
	}
	if data := table.Parts[len(table.Parts)-1]; data.Last+8 < table.LastUsable() {
		t.Errorf("data ends at %d of %d", data.Last, table.LastUsable())
	}
	if !bytes.HasPrefix(dst.b, []byte("the code of a boot loader")) {
		t.Error("no boot loader")
	}
}

// A power cut at any write leaves a disk that is no appliance.
func TestTransferCut(t *testing.T) {
	src, from := stick(t)
	old := make([]byte, 11*mib)
	whole := &drive{b: old, writes: -1, broken: -1}
	sectors := uint64(len(old) / disk.Sector)
	if err := transfer(src, from, whole, sectors, rand.NewChaCha8([32]byte{2}), none, func(int) {}); err != nil {
		t.Fatal(err)
	}
	for writes := 1; ; writes += 2 { // the first clears the table that was there
		dst := &drive{b: bytes.Clone(old), writes: writes, broken: -1}
		err := transfer(src, from, dst, sectors, rand.NewChaCha8([32]byte{3}), none, func(int) {})
		if err == nil {
			break
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		table, err := disk.Read(dst, sectors)
		if writes > 1 && err == nil && (blank(dst.b[from.Parts[3].Offset():][:mib]) || table.ID == from.ID) {
			t.Errorf("after %d writes there is a table without what it names", writes)
		}
	}
}

func TestTransferVerifies(t *testing.T) {
	src, from := stick(t)
	dst := &drive{b: make([]byte, 11*mib), writes: -1, broken: from.Parts[3].Offset() + 12345}
	err := transfer(src, from, dst, uint64(len(dst.b)/disk.Sector), rand.NewChaCha8([32]byte{2}), none, func(int) {})
	if err == nil || !strings.Contains(err.Error(), "does not keep") {
		t.Errorf("a drive that changes a bit: %v", err)
	}
	if _, err := disk.Read(dst, uint64(len(dst.b)/disk.Sector)); err == nil {
		t.Error("it was made an appliance")
	}
	if err := transfer(src, from, dst, from.Sectors-2048, rand.NewChaCha8([32]byte{2}), none, func(int) {}); err == nil {
		t.Error("a disk that is too small was taken")
	}
}

func TestContents(t *testing.T) {
	appliance, _ := stick(t)
	foreign := &drive{b: make([]byte, 4*mib), writes: -1, broken: -1}
	other := &disk.Table{ID: disk.NamedGUID("x"), Sectors: 4 * mib / disk.Sector, Parts: []disk.Partition{{Name: "root", Type: disk.TypeLinux, ID: disk.NamedGUID("y"), First: 2048, Last: 4095}}}
	if err := other.Write(foreign, nil); err != nil {
		t.Fatal(err)
	}
	with := func(at int, b ...byte) []byte {
		d := make([]byte, 4*mib)
		copy(d[at:], b)
		return d
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", make([]byte, 4*mib), ""},
		{"smaller than what is looked at", make([]byte, 512), ""},
		{"appliance", appliance.b, "a Ringfence appliance with its keys, settings and users"},
		{"appliance whose first table is gone", append(make([]byte, mib), appliance.b[mib:]...), "a Ringfence appliance with its keys, settings and users"},
		{"another system", foreign.b, "1 partitions"},
		{"old partition table", with(510, 0x55, 0xaa), "a partition table or a boot loader"},
		{"file system", with(1080, 0x53, 0xef), "data without a partition table"},
		{"at the end", with(4*mib-1, 1), "data without a partition table"},
		{"in the middle", with(2*mib, 1), "data without a partition table"},
	} {
		if got, err := contents(bytes.NewReader(c.b), uint64(len(c.b)/disk.Sector)); got != c.want || err != nil {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if _, err := contents(bytes.NewReader(nil), 4096); err == nil {
		t.Error("a disk that cannot be read is not empty")
	}
}

func TestInstaller(t *testing.T) {
	_, from := stick(t)
	found := []target{{name: "sda", sectors: 1 << 21, model: "ACME Disk"}, {name: "sdb", sectors: 1 << 22, holds: "2 partitions"}}
	for _, c := range []struct {
		name, typed string
		broken      error
		want        string // disk
		end         error
	}{
		{"empty disk", "1\nYES\n\n", nil, "sda", nil},
		{"disk with data", "2\nERASE sdb\n\n", nil, "sdb", nil},
		{"yes is not enough for data", "2\nYES\n", nil, "", io.EOF},
		{"another disk's word", "2\nERASE sda\n", nil, "", io.EOF},
		{"not confirmed, then another", "1\n\n2\nERASE sdb\n\n", nil, "sdb", nil},
		{"no such number", "0\n3\nsda\n\n", nil, "", io.EOF},
		{"fails", "1\nYES\n", errPower, "sda", io.EOF},
	} {
		got := ""
		in := &installer{source: &bootDisk{name: "sdc", table: from}, list: func() []target { return found }, copy: func(x target, progress func(int)) error {
			got = x.name
			progress(100)
			return c.broken
		}}
		var out bytes.Buffer
		if err := in.ask(bufio.NewReader(strings.NewReader(c.typed)), &out); !errors.Is(err, c.end) || got != c.want {
			t.Errorf("%s: %q, %v\n%s", c.name, got, err, out.String())
		}
	}
	in := &installer{source: &bootDisk{name: "sdc", table: from}, list: func() []target { return nil }}
	var out bytes.Buffer
	if err := in.ask(bufio.NewReader(strings.NewReader("1\n")), &out); !errors.Is(err, io.EOF) || !strings.Contains(out.String(), "No disk was found") {
		t.Errorf("without a disk: %v\n%s", err, out.String())
	}
}
