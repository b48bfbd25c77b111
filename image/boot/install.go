package boot

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
	"ringfence/image/disk"
)

// Installing: a stick whose state block says mode=install is started with rf.install=1, serves nobody, and asks on the consoles
// which disk the appliance is to be copied to. What is on the stick stays as it is, so that it can install the next machine.
//
//	list of disks ──number──▶ what it holds, and the word that confirms ──▶ copy, read back ──▶ take the stick out, restart
//	      ▲───────────────────── anything else ◀──────┘
type installer struct {
	source *bootDisk
	list   func() []target
	copy   func(t target, progress func(percent int)) error
	busy   atomic.Bool // one console has chosen
}

// target is a disk that the appliance could be copied to.
type target struct {
	name    string
	sectors uint64
	model   string
	holds   string // what would be lost; empty for an empty disk
}

func (t target) String() string {
	what := "empty"
	if t.holds != "" {
		what = "holds " + t.holds
	}
	return strings.Join(strings.Fields(fmt.Sprintf("%s  %d MB  %s  %s", t.name, t.sectors/2048, t.model, what)), " ")
}

// install is what PID 1 does on a stick that installs.
func (s *system) install() {
	d, err := s.findDisk()
	if err != nil {
		s.fatal("the stick that this was started from", err)
	}
	s.beat.Store(int64(time.Since(s.began)))
	s.view.set(func(v *Status) { v.Phase = "installing" })
	in := &installer{source: d, list: func() []target { return targets(d) }}
	in.copy = func(t target, progress func(int)) error { return installOn(d, t, progress) }
	s.log.Info("installing from", "disk", d.name)
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("1\n"), 0)
	for _, name := range []string{"/dev/console", "/dev/tty1"} {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		s.tasks.Go("installer "+name, func(context.Context) {
			defer f.Close()
			rd := bufio.NewReader(f)
			for {
				switch err := in.ask(rd, crlf{f}); {
				case err == nil:
					s.reboot("installed")
				case errors.Is(err, io.EOF):
					time.Sleep(10 * time.Second) // a line that nobody is at
				default:
					s.log.Error("not installed", "err", err)
				}
			}
		})
	}
	for {
		s.beat.Store(int64(time.Since(s.began)))
		s.coldplug() // a disk that is attached meanwhile
		time.Sleep(roundTime)
	}
}

// crlf is a terminal, which wants both ends of line.
type crlf struct{ w io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	_, err := io.WriteString(c.w, strings.ReplaceAll(string(p), "\n", "\r\n"))
	return len(p), err
}

// errBusy is returned on a console while the other one installs.
var errBusy = errors.New("the other console installs already")

// ask leads through one installation. It returns nil when the machine is to start again.
func (in *installer) ask(rd *bufio.Reader, out io.Writer) error {
	line := func() (string, error) {
		text, err := rd.ReadString('\n')
		return strings.TrimSpace(text), err
	}
	for {
		found := in.list()
		fmt.Fprint(out, "\nRingfence: this stick copies the appliance to a disk of this machine.\n\n")
		for i, t := range found {
			fmt.Fprintf(out, "  %d  %s\n", i+1, t)
		}
		if len(found) == 0 {
			fmt.Fprintf(out, "No disk was found that is not this stick and has %d MB. Attach one and press Enter: ", in.source.table.Sectors/2048)
		} else {
			fmt.Fprint(out, "\nNumber of the disk to install on, or Enter to look again: ")
		}
		text, err := line()
		if err != nil {
			return err
		}
		var n int
		if _, err := fmt.Sscanf(text, "%d", &n); err != nil || n < 1 || n > len(found) {
			continue
		}
		t := found[n-1]
		word := "YES"
		if t.holds == "" {
			fmt.Fprintf(out, "\nThe appliance goes to %s, which is empty. Type YES to go on: ", t.name)
		} else {
			word = "ERASE " + t.name
			fmt.Fprintf(out, "\n%s holds %s. All of it would be lost. Type %s to go on: ", t.name, t.holds, word)
		}
		if text, err = line(); err != nil {
			return err
		}
		if text != word {
			fmt.Fprint(out, "\nNothing was changed.\n")
			continue
		}
		if in.busy.Swap(true) {
			return errBusy
		}
		last := -1
		err = in.copy(t, func(percent int) {
			if percent/10 != last {
				last = percent / 10
				fmt.Fprintf(out, "%d %% ", percent)
			}
		})
		if err != nil {
			in.busy.Store(false)
			fmt.Fprintf(out, "\nNot installed: %v\n", err)
			continue
		}
		fmt.Fprint(out, "\nInstalled and verified. Take the stick out and press Enter; the machine starts again. ")
		_, err = line()
		return err
	}
}

// targets are the disks that could be installed on.
func targets(source *bootDisk) []target {
	var out []target
	names, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil
	}
	for _, n := range names {
		if n.Name() != source.name {
			if t, err := describeTarget(n.Name()); err == nil && t.sectors >= source.table.Sectors {
				out = append(out, t)
			}
		}
	}
	return out
}

func describeTarget(name string) (target, error) {
	t := target{name: name}
	if virtualDisk(name) {
		return t, disk.ErrNoTable
	}
	if b, _ := os.ReadFile("/sys/block/" + name + "/ro"); strings.TrimSpace(string(b)) == "1" {
		return t, errors.New("it can only be read")
	}
	var err error
	if t.sectors, err = sectorsOf(name); err != nil {
		return t, err
	}
	for _, at := range []string{"/device/vendor", "/device/model"} {
		if b, err := os.ReadFile("/sys/block/" + name + at); err == nil && !strings.HasPrefix(string(b), "0x") {
			t.model += " " + strings.TrimSpace(string(b))
		}
	}
	t.model = strings.TrimSpace(t.model)
	f, err := os.Open("/dev/" + name)
	if err != nil {
		return t, err
	}
	defer f.Close()
	t.holds, err = contents(f, t.sectors)
	return t, err
}

// contents says what a disk holds, and nothing where it is empty: both ends, and samples of what lies between.
func contents(r io.ReaderAt, sectors uint64) (string, error) {
	if t, err := disk.Read(r, sectors); err == nil {
		if _, ok := t.Find(release.PartData); ok {
			return "a Ringfence appliance with its keys, settings and users", nil
		}
		return fmt.Sprintf("%d partitions", len(t.Parts)), nil
	}
	size := int64(sectors) * disk.Sector
	end := min(size, spanEnds)
	head := make([]byte, end)
	if _, err := r.ReadAt(head, 0); err != nil {
		return "", err
	}
	if end >= disk.Sector && head[510] == 0x55 && head[511] == 0xaa {
		return "a partition table or a boot loader", nil
	}
	tail := make([]byte, end)
	if _, err := r.ReadAt(tail, size-end); err != nil {
		return "", err
	}
	empty := blank(head) && blank(tail)
	block := make([]byte, sampleSize)
	for i := int64(1); empty && i < samples; i++ {
		at := size / samples * i &^ (sampleSize - 1)
		n, err := r.ReadAt(block, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		empty = blank(block[:n])
	}
	if !empty {
		return "data without a partition table", nil
	}
	return "", nil
}

// What contents looks at.
const (
	spanEnds   = 1 << 20
	samples    = 256
	sampleSize = 4096
)

func blank(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// installOn copies the appliance and makes sure that the disk has it.
func installOn(source *bootDisk, t target, progress func(percent int)) error {
	if now, err := describeTarget(t.name); err != nil || now != t {
		return errors.Join(errors.New("the disk is not what it was a moment ago"), err)
	}
	src, err := os.Open(source.device())
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile("/dev/"+t.name, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	forget := func() error {
		if err := dst.Sync(); err != nil {
			return err
		}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, dst.Fd(), blkFlush, 0); e != 0 {
			return e
		}
		return nil
	}
	return transfer(src, source.table, dst, t.sectors, rand.Reader, forget, progress)
}
