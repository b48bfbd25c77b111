package disk

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"
	"unicode/utf16"
)

// FAT describes a file system to be made (Microsoft's FAT specification 1.03). It is written once and never changed by this
// package. Names are kept as given, long ones with their long entries.
type FAT struct {
	Bits  int    // 12, 16 or 32
	Size  int64  // of the partition
	First uint64 // sector at which the partition starts, for the field of hidden sectors
	Label string // at most 11 characters
	ID    uint32
	Time  time.Time // of every file
	Files map[string][]byte
}

// geometry of a file system, in sectors.
type geometry struct {
	bits, reserved, rootEntries, perCluster, fat uint32
	sectors, data, clusters                      uint32
}

func (f FAT) geometry() (geometry, error) {
	g := geometry{bits: uint32(f.Bits), reserved: 1, rootEntries: 512, perCluster: 1, sectors: uint32(f.Size / Sector)}
	most := map[int]uint32{12: 4084, 16: 65524, 32: 0x0ffffff5}[f.Bits]
	least := map[int]uint32{12: 1, 16: 4085, 32: 65525}[f.Bits]
	if most == 0 || f.Size%Sector != 0 || f.Size > 1<<40 {
		return g, fmt.Errorf("no FAT%d of %d bytes", f.Bits, f.Size)
	}
	if f.Bits == 32 {
		g.reserved, g.rootEntries = 32, 0
	}
	for ; ; g.perCluster *= 2 {
		if g.perCluster > 64 {
			return g, fmt.Errorf("no FAT%d of %d bytes", f.Bits, f.Size)
		}
		// Taken so large that the clusters that its own sectors take away may be in it.
		g.fat = ((g.sectors/g.perCluster+2)*g.bits + 8*Sector - 1) / (8 * Sector)
		g.data = g.reserved + 2*g.fat + g.rootEntries*32/Sector
		if g.data >= g.sectors {
			return g, fmt.Errorf("no FAT%d of %d bytes", f.Bits, f.Size)
		}
		if g.clusters = (g.sectors - g.data) / g.perCluster; g.clusters <= most {
			break
		}
	}
	if g.clusters < least {
		return g, fmt.Errorf("%d bytes are too few for FAT%d", f.Size, f.Bits)
	}
	return g, nil
}

// node is a file or folder of the tree.
type node struct {
	name     string
	data     []byte
	children []*node // sorted
	folder   bool
	parent   *node
	first    uint32 // cluster
	count    uint32
}

// Write makes the file system at an offset of w, which must read as zero where nothing is written.
func (f FAT) Write(w io.WriterAt, offset int64) error {
	g, err := f.geometry()
	if err != nil {
		return err
	}
	root, all := f.tree()
	table := make([]uint32, g.clusters+2)
	end := map[uint32]uint32{12: 0xfff, 16: 0xffff, 32: 0x0fffffff}[g.bits]
	table[0], table[1] = end&^0xff|0xf8, end
	next := uint32(2)
	take := func(n *node, size int) error {
		n.count = uint32((size + int(g.perCluster)*Sector - 1) / (int(g.perCluster) * Sector))
		if n.count == 0 {
			return nil
		}
		n.first = next
		for range n.count {
			if next >= g.clusters+2 {
				return fmt.Errorf("%d bytes are too few for the files", f.Size)
			}
			table[next] = next + 1
			next++
		}
		table[next-1] = end
		return nil
	}
	for _, n := range all {
		size := len(n.data)
		if n.folder {
			if size = n.folderSize(f.Label); n == root && g.bits != 32 {
				if size > int(g.rootEntries)*32 {
					return fmt.Errorf("too many files in the root folder")
				}
				continue
			}
		}
		if err := take(n, size); err != nil {
			return err
		}
	}
	put := func(b []byte, sector uint32) error {
		_, err := w.WriteAt(b, offset+int64(sector)*Sector)
		return err
	}
	boot := f.boot(g, root.first)
	if err := put(boot, 0); err != nil {
		return err
	}
	if g.bits == 32 {
		info := make([]byte, Sector)
		copy(info, "RRaA")
		copy(info[484:], "rrAa")
		binary.LittleEndian.PutUint32(info[488:], g.clusters-(next-2))
		binary.LittleEndian.PutUint32(info[492:], next)
		info[510], info[511] = 0x55, 0xaa
		for _, s := range []struct {
			b  []byte
			at uint32
		}{{info, 1}, {boot, 6}, {info, 7}} {
			if err := put(s.b, s.at); err != nil {
				return err
			}
		}
	}
	packed := pack(table[:next], g.bits)
	for i := range uint32(2) {
		if err := put(packed, g.reserved+i*g.fat); err != nil {
			return err
		}
	}
	for _, n := range all {
		b, at := n.data, g.data+(n.first-2)*g.perCluster
		if n.folder {
			b = n.folderBytes(f.Label, f.Time)
			if n == root && g.bits != 32 {
				at = g.reserved + 2*g.fat
			}
		}
		if len(b) == 0 {
			continue
		}
		if err := put(b, at); err != nil {
			return err
		}
	}
	return nil
}

func (f FAT) tree() (root *node, all []*node) {
	root = &node{folder: true}
	folders := map[string]*node{".": root}
	var folder func(name string) *node
	folder = func(name string) *node {
		if n := folders[name]; n != nil {
			return n
		}
		p := folder(path.Dir(name))
		n := &node{name: path.Base(name), folder: true, parent: p}
		p.children = append(p.children, n)
		folders[name] = n
		return n
	}
	for name, data := range f.Files {
		p := folder(path.Dir(path.Clean(name)))
		p.children = append(p.children, &node{name: path.Base(name), data: data, parent: p})
	}
	var walk func(n *node)
	walk = func(n *node) {
		all = append(all, n)
		sort.Slice(n.children, func(i, j int) bool { return n.children[i].name < n.children[j].name })
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(root)
	return root, all
}

func (f FAT) boot(g geometry, root uint32) []byte {
	b := make([]byte, Sector)
	copy(b, "\xeb\x58\x90RINGFENC")
	le := binary.LittleEndian
	le.PutUint16(b[11:], Sector)
	b[13] = byte(g.perCluster)
	le.PutUint16(b[14:], uint16(g.reserved))
	b[16] = 2
	le.PutUint16(b[17:], uint16(g.rootEntries))
	b[21] = 0xf8
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], uint32(f.First))
	if g.sectors < 1<<16 && g.bits != 32 {
		le.PutUint16(b[19:], uint16(g.sectors))
	} else {
		le.PutUint32(b[32:], g.sectors)
	}
	tail := b[36:]
	if g.bits == 32 {
		le.PutUint32(b[36:], g.fat)
		le.PutUint32(b[44:], root)
		le.PutUint16(b[48:], 1)
		le.PutUint16(b[50:], 6)
		tail = b[64:]
	} else {
		le.PutUint16(b[22:], uint16(g.fat))
	}
	tail[0], tail[2] = 0x80, 0x29
	le.PutUint32(tail[3:], f.ID)
	copy(tail[7:], fmt.Sprintf("%-11.11s", f.Label))
	copy(tail[18:], fmt.Sprintf("%-8s", fmt.Sprintf("FAT%d", g.bits)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// pack writes the table in 12, 16 or 32 bits an entry.
func pack(table []uint32, bits uint32) []byte {
	var out []byte
	switch bits {
	case 12:
		out = make([]byte, (len(table)*3+1)/2+1)
		for i, v := range table {
			at := i * 3 / 2
			if i%2 == 0 {
				out[at], out[at+1] = byte(v), out[at+1]&0xf0|byte(v>>8)
			} else {
				out[at], out[at+1] = out[at]&0x0f|byte(v<<4), byte(v>>4)
			}
		}
	case 16:
		for _, v := range table {
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		}
	default:
		for _, v := range table {
			out = binary.LittleEndian.AppendUint32(out, v)
		}
	}
	return out
}

// short tells whether a name needs no long entries.
func short(name string) bool {
	base, ext, _ := strings.Cut(name, ".")
	return len(base) <= 8 && base != "" && len(ext) <= 3 && name == strings.ToUpper(name) && !strings.ContainsAny(name, " +,;=[]") && strings.Count(name, ".") <= 1
}

func (n *node) folderSize(label string) int {
	entries := 0
	if n.parent != nil {
		entries = 2
	} else if label != "" {
		entries = 1
	}
	for _, c := range n.children {
		entries++
		if !short(c.name) {
			entries += (len(utf16.Encode([]rune(c.name))) + 12) / 13
		}
	}
	return max(entries*32, 1)
}

func (n *node) folderBytes(label string, at time.Time) []byte {
	var out []byte
	if n.parent != nil {
		out = append(out, entry(".          ", 0x10, n.first, 0, at)...)
		out = append(out, entry("..         ", 0x10, n.parent.clusterAsParent(), 0, at)...)
	} else if label != "" {
		out = append(out, entry(fmt.Sprintf("%-11.11s", label), 0x08, 0, 0, at)...)
	}
	for i, c := range n.children {
		alias := ""
		if short(c.name) {
			base, ext, _ := strings.Cut(c.name, ".")
			alias = fmt.Sprintf("%-8s%-3s", base, ext)
		} else {
			alias = aliasOf(c.name, i)
			out = append(out, long(c.name, alias)...)
		}
		attribute := byte(0x20)
		if c.folder {
			attribute = 0x10
		}
		out = append(out, entry(alias, attribute, c.first, uint32(len(c.data)), at)...)
	}
	return out
}

// clusterAsParent is the cluster that a child's ".." names: the root folder is 0, also where it has one.
func (n *node) clusterAsParent() uint32 {
	if n.parent == nil {
		return 0
	}
	return n.first
}

// aliasOf makes a short name that is unique by the position in the folder.
func aliasOf(name string, i int) string {
	ext := strings.ToUpper(strings.TrimPrefix(path.Ext(name), "."))
	base := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToUpper(strings.TrimSuffix(name, path.Ext(name))))
	number := fmt.Sprintf("~%d", i+1)
	return fmt.Sprintf("%-8s%-3.3s", base[:min(len(base), 8-len(number))]+number, ext)
}

func long(name, alias string) []byte {
	var sum byte
	for i := range 11 {
		sum = sum>>1 | sum<<7
		sum += alias[i]
	}
	units := utf16.Encode([]rune(name))
	count := (len(units) + 12) / 13
	if len(units)%13 != 0 {
		units = append(units, 0)
	}
	for len(units) < count*13 {
		units = append(units, 0xffff)
	}
	var out []byte
	for k := count; k > 0; k-- {
		e := make([]byte, 32)
		e[0], e[11], e[13] = byte(k), 0x0f, sum
		if k == count {
			e[0] |= 0x40
		}
		for j, u := range units[(k-1)*13 : k*13] {
			place := 1 + 2*j
			if j >= 11 {
				place = 28 + 2*(j-11)
			} else if j >= 5 {
				place = 14 + 2*(j-5)
			}
			binary.LittleEndian.PutUint16(e[place:], u)
		}
		out = append(out, e...)
	}
	return out
}

func entry(name string, attribute byte, cluster, size uint32, at time.Time) []byte {
	e := make([]byte, 32)
	copy(e, name)
	e[11] = attribute
	at = at.UTC()
	date := uint16(max(at.Year()-1980, 0)<<9 | int(at.Month())<<5 | at.Day())
	clock := uint16(at.Hour()<<11 | at.Minute()<<5 | at.Second()/2)
	binary.LittleEndian.PutUint16(e[14:], clock)
	binary.LittleEndian.PutUint16(e[16:], date)
	binary.LittleEndian.PutUint16(e[18:], date)
	binary.LittleEndian.PutUint16(e[20:], uint16(cluster>>16))
	binary.LittleEndian.PutUint16(e[22:], clock)
	binary.LittleEndian.PutUint16(e[24:], date)
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(e[28:], size)
	return e
}
