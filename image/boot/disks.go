package boot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
	"ringfence/image/boot/template"
	"ringfence/image/disk"
	"ringfence/image/slot"
)

// bootDisk is the disk that the appliance lives on.
type bootDisk struct {
	name  string // sda
	table *disk.Table
}

func (d *bootDisk) device() string { return "/dev/" + d.name }

// part is the partition of that name and its device.
func (d *bootDisk) part(name string) (disk.Partition, string, error) {
	i, ok := d.table.Find(name)
	if !ok {
		return disk.Partition{}, "", fmt.Errorf("disk %s has no partition %s", d.name, name)
	}
	number := strconv.Itoa(i + 1)
	if last := d.name[len(d.name)-1]; last >= '0' && last <= '9' {
		number = "p" + number // nvme0n1p7
	}
	return d.table.Parts[i], d.device() + number, nil
}

func slotPart(id slot.ID) string {
	if id == slot.B {
		return release.PartSlotB
	}
	return release.PartSlotA
}

// Waiting for the disk: controllers and USB sticks take their time.
const (
	diskWait = 60 * time.Second
	diskPoll = 100 * time.Millisecond
)

// openDisk finds the boot disk and makes /data of its last partition. Without one the appliance comes up all the same, to say so.
func (s *system) openDisk() {
	d, err := s.findDisk()
	if err != nil {
		s.log.Error("no disk", "err", err)
		s.view.set(func(v *Status) { v.Data = "no disk: " + err.Error() })
		return
	}
	s.disk = d
	s.log.Info("disk", "disk", d.name, "firmware", s.args["firmware"])
	s.view.set(func(v *Status) { v.Disk, v.Firmware = d.name, s.args["firmware"] })
	if err := s.openData(); err != nil {
		s.log.Error("data partition", "err", err)
		s.view.set(func(v *Status) { v.Data = err.Error() })
		return
	}
	s.view.set(func(v *Status) { v.Data = "" })
}

// findDisk waits for the disk that GRUB came from. Two disks with the same identity are possible until the first start has
// given one of them its own: then the one that is built in is preferred.
func (s *system) findDisk() (*bootDisk, error) {
	want, _ := disk.ParseGUID(s.args["disk"])
	for deadline := time.Now().Add(diskWait); ; {
		s.coldplug()
		var found, others []*bootDisk
		names, err := os.ReadDir("/sys/block")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			d, err := readDisk(n.Name())
			if err != nil {
				continue
			}
			i, ok := d.table.Find(release.PartESP)
			if _, data := d.table.Find(release.PartData); !ok || !data {
				continue
			}
			if d.table.Parts[i].ID == want {
				found = append(found, d)
			} else {
				others = append(others, d)
			}
		}
		if len(found) == 0 && time.Until(deadline) < diskWait-10*time.Second {
			found = others // GRUB could not tell
		}
		if len(found) > 0 {
			installs := s.args["install"] == "1"
			sort.SliceStable(found, func(i, j int) bool {
				return removable(found[i].name) == installs && removable(found[j].name) != installs
			})
			if len(found) > 1 {
				s.log.Error("several disks hold the same appliance; a stick that was left in should be taken out", "disk", found[0].name, "other", found[1].name)
				s.view.set(func(v *Status) { v.Notes = append(v.Notes, "another disk holds the same appliance: "+found[1].name) })
			}
			return found[0], nil
		}
		if time.Now().After(deadline) {
			return nil, errors.New("no disk of this appliance was found")
		}
		time.Sleep(diskPoll)
	}
}

// removable tells whether a disk can be pulled out: by its own word, or because it hangs on USB.
func removable(name string) bool {
	b, _ := os.ReadFile("/sys/block/" + name + "/removable")
	if strings.TrimSpace(string(b)) == "1" {
		return true
	}
	target, _ := filepath.EvalSymlinks("/sys/block/" + name)
	return strings.Contains(target, "/usb")
}

func sectorsOf(name string) (uint64, error) {
	b, err := os.ReadFile("/sys/block/" + name + "/size")
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// virtualDisk tells whether a block device is none that an appliance could live on.
func virtualDisk(name string) bool {
	for _, skip := range []string{"loop", "ram", "sr", "fd", "dm-", "md"} {
		if strings.HasPrefix(name, skip) {
			return true
		}
	}
	return false
}

func readDisk(name string) (*bootDisk, error) {
	if virtualDisk(name) {
		return nil, disk.ErrNoTable
	}
	sectors, err := sectorsOf(name)
	if err != nil || sectors == 0 {
		return nil, errors.Join(disk.ErrNoTable, err)
	}
	f, err := os.Open("/dev/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := disk.Read(f, sectors)
	if err != nil {
		return nil, err
	}
	return &bootDisk{name: name, table: t}, nil
}

// openData grows the table to the disk, gives a fresh disk an identity of its own, formats the data partition when it holds no
// file system, mounts it and lets the file system grow.
func (s *system) openData() error {
	if err := s.growTable(); err != nil {
		return err
	}
	_, device, err := s.disk.part(release.PartData)
	if err != nil {
		return err
	}
	blank, err := blankData(device)
	if err != nil {
		return err
	}
	if blank || s.args["reset"] == "1" {
		s.log.Info("formatting the data partition")
		if err := format(device); err != nil {
			return fmt.Errorf("format: %w", err)
		}
	}
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return err
	}
	const flags = unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(device, dataDir, "ext4", flags, "errors=remount-ro"); err != nil {
		return fmt.Errorf("the data partition is damaged (%w); restore a backup after a reset, which erases it", err)
	}
	if err := growData(device); err != nil {
		s.log.Error("data partition does not grow", "err", err)
	}
	for _, dir := range []struct {
		name string
		uid  int
	}{{ownDir, 0}, {StateDir, release.UID}} {
		if err := os.MkdirAll(dir.name, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir.name, dir.uid, dir.uid); err != nil {
			return err
		}
	}
	err = s.writable()
	if errors.Is(err, unix.ENOSPC) {
		s.log.Error("the data partition is full") // what is there can be read, and calls need no space
		return nil
	}
	if err != nil { // the kernel found it damaged and made it read-only, or the drive fails
		return fmt.Errorf("the data partition cannot be written (%w); restore a backup after a reset, which erases it", err)
	}
	return nil
}

// growTable extends the data partition to the end of the disk. On the first start it also writes identifiers of its own, since
// every disk flashed from one image has the same.
func (s *system) growTable() error {
	sectors, err := sectorsOf(s.disk.name)
	if err != nil {
		return err
	}
	t, err := grown(s.disk.table, sectors)
	if err != nil {
		return err
	}
	i := len(t.Parts) - 1
	fresh := t.ID == disk.NamedGUID("ringfence", "disk")
	if !fresh && t.Parts[i].Last == s.disk.table.Parts[i].Last {
		return nil
	}
	if fresh {
		if err := ownIDs(t, rand.Reader); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(s.disk.device(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.Write(f, f.Sync); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	s.disk.table = t
	p := t.Parts[i]
	return resizePartition(f, i+1, p.Offset(), p.Size())
}

// The BLKPG call of Linux (linux/blkpg.h) tells the kernel about one partition while others of the disk are in use.
type blkpgPartition struct {
	start, length int64
	number        int32
	_             [128]byte // names that nobody reads
	_             int32
}

type blkpgArg struct {
	op, flags, length int32
	_                 int32
	data              unsafe.Pointer
}

const (
	blkpg       = 0x1269
	blkpgResize = 3
	blkZeroOut  = 0x127f
	blkFlush    = 0x1261
	ext4Resize  = 0x40086610 // EXT4_IOC_RESIZE_FS
)

func resizePartition(f *os.File, number int, start, length int64) error {
	p := blkpgPartition{start: start, length: length, number: int32(number)}
	a := blkpgArg{op: blkpgResize, length: int32(unsafe.Sizeof(p)), data: unsafe.Pointer(&p)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkpg, uintptr(unsafe.Pointer(&a))); e != 0 {
		return fmt.Errorf("tell the kernel the size of partition %d: %w", number, e)
	}
	return nil
}

// blankData tells whether nobody has made a file system yet: the first block, which has the superblock, is the last that format
// writes.
func blankData(device string) (bool, error) {
	f, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, template.Block)
	if _, err := io.ReadFull(f, b); err != nil {
		return false, fmt.Errorf("read the data partition: %w", err)
	}
	return blank(b), nil // else a file system, or the ruins of one, which a person may want to look at
}

// format makes an empty ext4. The block with the superblock comes last, so that a power cut leaves a blank partition.
func format(device string) error {
	t, err := os.ReadFile(release.Template)
	if err != nil {
		return err
	}
	size, err := template.Size(t)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	span := [2]uint64{0, template.Block} // the superblock goes first, and comes last
	for range 2 {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span))); e != 0 {
			return fmt.Errorf("clear: %w", e)
		}
		if err := f.Sync(); err != nil {
			return err
		}
		span = [2]uint64{0, uint64(size)}
	}
	return template.Write(f, t, f.Sync)
}

// growData lets the mounted file system fill its partition.
func growData(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	dir, err := os.Open(dataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	blocks := uint64(size / template.Block)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return e
	}
	return nil
}

// writable writes a file and makes sure that it is on the disk.
func (s *system) writable() error {
	return writeFile(filepath.Join(ownDir, "probe"), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
}

// writeFile replaces a file so that a power cut leaves the old or the new one.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// dataUse is the size of the data partition and what is free of it.
func dataUse() (size, free uint64) {
	var st unix.Statfs_t
	if unix.Statfs(dataDir, &st) != nil {
		return 0, 0
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize)
}

// slots reads the state block.
func (d *bootDisk) slots() (slot.State, error) {
	st, _, err := d.openSlots(os.O_RDONLY, nil)
	return st, err
}

// setSlots changes the state block: one sector, written through to the disk.
func (d *bootDisk) setSlots(change func(slot.State) slot.State) (slot.State, error) {
	st, _, err := d.openSlots(os.O_RDWR|unix.O_SYNC, change)
	return st, err
}

func (d *bootDisk) openSlots(flags int, change func(slot.State) slot.State) (slot.State, int64, error) {
	p, device, err := d.part(release.PartState)
	if err != nil {
		return slot.State{}, 0, err
	}
	f, err := os.OpenFile(device, flags, 0)
	if err != nil {
		return slot.State{}, 0, err
	}
	defer f.Close()
	at, st, err := slot.Block(f, p.Size())
	if err != nil || change == nil {
		return st, at, err
	}
	st = change(st)
	b, err := st.Marshal()
	if err != nil {
		return st, at, err
	}
	if _, err := f.WriteAt(b, at); err != nil {
		return st, at, fmt.Errorf("write the state of the slots: %w", err)
	}
	return st, at, f.Sync()
}
