package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"ringfence/appliance/admin"
	"ringfence/image"
	"ringfence/image/vm"
)

// bootDocument is what a machine in QEMU's own network can live with.
const bootDocument = `node:
  name: vm
  address: 10.0.2.15
  listen:
    metrics: 0.0.0.0:9090
`

// bootTime bounds the start; software emulation on a busy machine takes its time.
const bootTime = 15 * time.Minute

// imageBoot starts a copy of an image in QEMU and ends with the appliance's own word of how it is.
func (p *program) imageBoot(args []string) int {
	fs := flag.NewFlagSet("image boot", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	firmware := fs.String("firmware", "", "")
	arch := fs.String("arch", runtime.GOARCH, "")
	keep := fs.Bool("keep", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() != 1 {
		return p.wrong("usage: ringfence image boot [--firmware bios|uefi|secureboot] [--arch ARCH] [--keep] IMAGE")
	}
	if *firmware == "" {
		*firmware = "bios"
		if *arch == "arm64" {
			*firmware = "uefi" // it knows no other
		}
	}
	if *firmware != "bios" && *firmware != "uefi" && *firmware != "secureboot" {
		return p.wrong("--firmware %q is none of bios, uefi and secureboot", *firmware)
	}
	if err := vm.Available(*arch, *firmware); err != nil {
		return p.broken(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := p.bootCopy(ctx, fs.Arg(0), *arch, *firmware, *keep); err != nil {
		return p.broken(err)
	}
	return admin.ExitOK
}

func (p *program) bootCopy(ctx context.Context, name, arch, firmware string, keep bool) error {
	dir, err := os.MkdirTemp("", "ringfence-boot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk.img")
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", name, disk).CombinedOutput(); err != nil {
		return errors.New(strings.TrimSpace(string(out)))
	}
	if err := image.WriteSeed(disk, map[string][]byte{"ringfence.yaml": []byte(bootDocument)}, time.Now()); err != nil {
		return err
	}
	ports := []int{9090, 6970, 5060}
	m, err := vm.Start(vm.Options{Dir: dir, Image: disk, Arch: arch, Firmware: firmware, Network: true, Ports: ports})
	if err != nil {
		return err
	}
	defer m.Stop()
	fmt.Fprintf(p.stdout, "%s: started without hardware acceleration, that takes from half a minute to some minutes\n", firmware)
	began := time.Now()
	wait, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	h, err := m.Until(wait, 9090, "start", func(h vm.Health) bool { return h.OK && h.Image.Committed })
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s: up after %.0f s, %.1f s of them from PID 1 on; http://127.0.0.1:%d/healthz says\n", firmware, time.Since(began).Seconds(), h.Image.Ready, m.Port(9090))
	fmt.Fprintf(p.stdout, "  release %s, slot %s proven (%s), firmware %s, disk %s, %d MB for data, %d of %d MB of memory used\n", h.Image.Version, h.Image.Slot, h.Image.Slots, h.Image.Firmware, h.Image.Disk, h.Image.DataSize>>20, h.Image.MemUsed>>20, h.Image.Memory>>20)
	for _, s := range h.Services {
		fmt.Fprintf(p.stdout, "  %-10s %s\n", s.Name, s.State)
	}
	if !keep {
		return nil
	}
	for _, port := range ports {
		fmt.Fprintf(p.stdout, "port %d is at 127.0.0.1:%d\n", port, m.Port(port))
	}
	fmt.Fprintln(p.stdout, "it keeps running until Ctrl-C")
	select {
	case <-ctx.Done():
	case <-m.Ended():
	}
	return nil
}
