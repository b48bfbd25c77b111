// Package disk reads and writes what lies on the appliance's disk: the GUID partition table (UEFI specification 2.10,
// section 5.3) and small FAT file systems. The builder writes both, the init role reads and rewrites the table.
//
// It knows sectors of 512 bytes only, which is what GRUB for BIOS knows too, and 128 partition entries, the usual number.
package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Sector is the size of a sector.
const Sector = 512

// The table: header in sector 1, entries from sector 2 on; the copy lies at the end, entries first.
const (
	headerSize   = 92
	entryCount   = 128
	entrySize    = 128
	entrySectors = entryCount * entrySize / Sector
	// FirstUsable is the first sector that a partition may have.
	FirstUsable = 2 + entrySectors
)

// GUID as it stands on the disk: the first three groups little-endian.
type GUID [16]byte

// Known partition types; the rf types are the product's own.
var (
	TypeBIOSBoot = MustGUID("21686148-6449-6E6F-744E-656564454649")
	TypeESP      = MustGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
	TypeBasic    = MustGUID("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7")
	TypeLinux    = MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
	TypeState    = MustGUID("6F9A3C52-1D0B-4E57-9C43-7B2E58D4A611")
	TypeSlot     = MustGUID("B83E0D17-52C4-4B6A-A0F9-3C9D61E7F024")
)

// ParseGUID reads the usual form with four hyphens.
func ParseGUID(s string) (g GUID, err error) {
	var a uint32
	var b, c, d uint16
	var e uint64
	if n, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); n != 5 || err != nil || len(s) != 36 {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint16(g[8:], d)
	binary.BigEndian.PutUint16(g[10:], uint16(e>>32))
	binary.BigEndian.PutUint32(g[12:], uint32(e))
	return g, nil
}

// MustGUID is ParseGUID for constants.
func MustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// NamedGUID derives a GUID from names, so that two builds give the same.
func NamedGUID(names ...string) GUID {
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	return RandomGUID(sum[:16])
}

// RandomGUID makes a GUID of version 4 from 16 random bytes.
func RandomGUID(random []byte) (g GUID) {
	copy(g[:], random)
	g[7] = g[7]&0x0f | 0x40 // version 4; the third group is little-endian
	g[8] = g[8]&0x3f | 0x80
	return g
}

// String is the usual form, in lower case as GRUB writes it.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), binary.BigEndian.Uint16(g[8:]), uint64(binary.BigEndian.Uint16(g[10:]))<<32|uint64(binary.BigEndian.Uint32(g[12:])))
}

// Partition is one entry.
type Partition struct {
	Name        string
	Type, ID    GUID
	First, Last uint64 // sectors, both inclusive
}

// Offset of the partition in bytes.
func (p Partition) Offset() int64 { return int64(p.First) * Sector }

// Size of the partition in bytes.
func (p Partition) Size() int64 { return int64(p.Last-p.First+1) * Sector }

// Table is a whole partition table.
type Table struct {
	ID      GUID
	Sectors uint64      // of the disk that the table was made for
	Parts   []Partition // in the order of their numbers, the first is number 1
}

// Find is the partition of that name; its number is the index plus one.
func (t *Table) Find(name string) (int, bool) {
	for i, p := range t.Parts {
		if p.Name == name {
			return i, true
		}
	}
	return 0, false
}

// LastUsable is the last sector that a partition may have.
func (t *Table) LastUsable() uint64 { return t.Sectors - 2 - entrySectors }

// Device is what a table is written to.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// Write puts the table on the disk: the copy at the end, then barrier, then the table in front, so that a power cut leaves one
// that is whole. The code in the first 446 bytes of the disk stays. barrier may be nil.
func (t *Table) Write(d Device, barrier func() error) error {
	if err := t.check(); err != nil {
		return err
	}
	if barrier == nil {
		barrier = func() error { return nil }
	}
	entries := t.entries()
	crc := crc32.ChecksumIEEE(entries)
	last := t.Sectors - 1
	write := func(b []byte, sector uint64) error {
		_, err := d.WriteAt(b, int64(sector)*Sector)
		return err
	}
	if err := write(entries, last-entrySectors); err != nil {
		return err
	}
	if err := write(t.header(last, 1, last-entrySectors, crc), last); err != nil {
		return err
	}
	if err := barrier(); err != nil {
		return err
	}
	if err := write(entries, 2); err != nil {
		return err
	}
	if err := write(t.header(1, last, 2, crc), 1); err != nil {
		return err
	}
	mbr := make([]byte, Sector)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return err
	}
	if err := write(t.protective(mbr), 0); err != nil {
		return err
	}
	return barrier()
}

func (t *Table) check() error {
	if t.Sectors < 2*FirstUsable || len(t.Parts) > entryCount {
		return fmt.Errorf("a disk of %d sectors with %d partitions cannot be", t.Sectors, len(t.Parts))
	}
	for i, p := range t.Parts {
		if p.First < FirstUsable || p.Last < p.First || p.Last > t.LastUsable() || len(utf16.Encode([]rune(p.Name))) > 36 {
			return fmt.Errorf("partition %d %q from %d to %d does not fit", i+1, p.Name, p.First, p.Last)
		}
		for j, q := range t.Parts[:i] {
			if p.First <= q.Last && q.First <= p.Last {
				return fmt.Errorf("partitions %d and %d overlap", j+1, i+1)
			}
		}
	}
	return nil
}

func (t *Table) entries() []byte {
	out := make([]byte, entryCount*entrySize)
	for i, p := range t.Parts {
		e := out[i*entrySize:]
		copy(e[0:], p.Type[:])
		copy(e[16:], p.ID[:])
		binary.LittleEndian.PutUint64(e[32:], p.First)
		binary.LittleEndian.PutUint64(e[40:], p.Last)
		for k, u := range utf16.Encode([]rune(p.Name)) {
			binary.LittleEndian.PutUint16(e[56+2*k:], u)
		}
	}
	return out
}

func (t *Table) header(at, other, entries uint64, crc uint32) []byte {
	h := make([]byte, Sector)
	copy(h, "EFI PART\x00\x00\x01\x00")
	binary.LittleEndian.PutUint32(h[12:], headerSize)
	binary.LittleEndian.PutUint64(h[24:], at)
	binary.LittleEndian.PutUint64(h[32:], other)
	binary.LittleEndian.PutUint64(h[40:], FirstUsable)
	binary.LittleEndian.PutUint64(h[48:], t.LastUsable())
	copy(h[56:], t.ID[:])
	binary.LittleEndian.PutUint64(h[72:], entries)
	binary.LittleEndian.PutUint32(h[80:], entryCount)
	binary.LittleEndian.PutUint32(h[84:], entrySize)
	binary.LittleEndian.PutUint32(h[88:], crc)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
	return h
}

// protective makes the partition entry that keeps old tools off. Its active flag is set since some BIOSes boot nothing else.
func (t *Table) protective(mbr []byte) []byte {
	clear(mbr[446:510])
	e := mbr[446:]
	copy(e, []byte{0x80, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(t.Sectors-1, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	return mbr
}

// ErrNoTable is returned for a disk without a partition table of this kind.
var ErrNoTable = errors.New("no GUID partition table")

// Read reads the table of a disk of that many sectors: the one in front, or the copy where that is damaged. Sectors of the
// result is what the table says, which is less than the disk has until the table is grown.
func Read(r io.ReaderAt, sectors uint64) (*Table, error) {
	t, err := readAt(r, 1)
	if err == nil || sectors < 2*FirstUsable {
		return t, err
	}
	if copied, e := readAt(r, sectors-1); e == nil {
		return copied, nil
	}
	return nil, err
}

func readAt(r io.ReaderAt, at uint64) (*Table, error) {
	h := make([]byte, Sector)
	if _, err := r.ReadAt(h, int64(at)*Sector); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if !bytes.HasPrefix(h, []byte("EFI PART")) {
		return nil, ErrNoTable
	}
	sum := binary.LittleEndian.Uint32(h[16:])
	clear(h[16:20])
	if binary.LittleEndian.Uint32(h[12:]) != headerSize || crc32.ChecksumIEEE(h[:headerSize]) != sum || binary.LittleEndian.Uint64(h[24:]) != at {
		return nil, fmt.Errorf("%w: its header is damaged", ErrNoTable)
	}
	if n, size := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:]); n != entryCount || size != entrySize {
		return nil, fmt.Errorf("%w: %d entries of %d bytes", ErrNoTable, n, size)
	}
	entries := make([]byte, entryCount*entrySize)
	start := binary.LittleEndian.Uint64(h[72:])
	if start > 1<<54 {
		return nil, fmt.Errorf("%w: entries at sector %d", ErrNoTable, start)
	}
	if _, err := r.ReadAt(entries, int64(start)*Sector); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(h[88:]) {
		return nil, fmt.Errorf("%w: its entries are damaged", ErrNoTable)
	}
	t := &Table{ID: GUID(h[56:72]), Sectors: max(binary.LittleEndian.Uint64(h[32:]), at) + 1}
	for i := range entryCount {
		e := entries[i*entrySize : (i+1)*entrySize]
		p := Partition{Type: GUID(e[0:16]), ID: GUID(e[16:32]), First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:])}
		if p.Type == (GUID{}) {
			break // the appliance's tables have no gaps
		}
		var name []uint16
		for k := 56; k < entrySize; k += 2 {
			u := binary.LittleEndian.Uint16(e[k:])
			if u == 0 {
				break
			}
			name = append(name, u)
		}
		p.Name = string(utf16.Decode(name))
		if p.First < FirstUsable || p.Last < p.First || p.Last >= t.Sectors {
			return nil, fmt.Errorf("%w: partition %d lies outside", ErrNoTable, i+1)
		}
		t.Parts = append(t.Parts, p)
	}
	return t, nil
}
