package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ringfence/appliance"
	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/image"
)

const imageHelp = `usage: ringfence image keys [--test] DIR
       ringfence image build --keys DIR [--out DIR] [--arch amd64|arm64] [--binary FILE] [--formats LIST] ...
       ringfence image seed IMAGE FILE
       ringfence image boot [--firmware bios|uefi|secureboot] [--arch amd64|arm64] [--keep] IMAGE

keys makes the two release keys that sign images and updates; a folder that has some is left alone. Keep one of them in a safe.
  --test            name them so that every image made with them says on its console that anybody can sign for it

build makes the disk image, the update file and the manifest (packages, modules and hashes). It needs Debian 12 with a reachable
mirror the first time, and no root.
  --keys DIR        release keys
  --sign N          which of them signs, 1 or 2 (1)
  --out DIR         folder for the results (build/image)
  --cache DIR       folder for packages (the user's cache)
  --arch ARCH       amd64 or arm64 (that of this program)
  --binary FILE     static ringfence for that architecture (this program)
  --version TEXT    release (that of this program)
  --formats LIST    besides the raw image: qcow2, vmdk, ova, vhdx, which need qemu-img, and installer, a stick that copies the
                    appliance to a disk of the machine it is put into; separated by commas
  --floor DATE      the oldest release that may be installed after this one, as 2026-01-31
  --pinned FILE     manifest of another build, whose package versions are taken
  --refresh         take the newest packages instead of those in the cache
  --secure-boot     start under UEFI by Debian's signed shim and GRUB, which Secure Boot with Microsoft's keys accepts
  --firmware DIR    files for /lib/firmware
  --kernel-args S   more words for the kernel's command line, as console=ttyS1,115200
seed puts a declared document into a raw image before it is flashed, so that the machine comes up with it.

boot starts a copy of a raw image in QEMU, without root and without hardware acceleration, and prints what the appliance in it
says of itself over a port of 127.0.0.1.
  --keep            let it run until Ctrl-C

The time of the source, which is in the image everywhere, is $SOURCE_DATE_EPOCH.
`

// image runs the commands that make images.
func (p *program) image(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.stderr, imageHelp)
		return admin.ExitUsage
	}
	switch args[0] {
	case "keys":
		return p.imageKeys(args[1:])
	case "build":
		return p.imageBuild(args[1:])
	case "seed":
		return p.imageSeed(args[1:])
	case "boot":
		return p.imageBoot(args[1:])
	case "help", "-h", "--help":
		fmt.Fprint(p.stdout, imageHelp)
		return admin.ExitOK
	}
	return p.wrong("image has no %q, but keys, build, seed and boot", args[0])
}

func (p *program) imageKeys(args []string) int {
	fs := flag.NewFlagSet("image keys", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	test := fs.Bool("test", false, "")
	if err := fs.Parse(args); err != nil || fs.NArg() != 1 {
		return p.wrong("usage: ringfence image keys [--test] DIR")
	}
	if _, err := image.LoadKeys(fs.Arg(0)); err == nil {
		fmt.Fprintf(p.stdout, "%s has release keys already; they were left alone\n", fs.Arg(0))
		return admin.ExitOK
	}
	if err := image.MakeKeys(fs.Arg(0), *test); err != nil {
		return p.broken(err)
	}
	fmt.Fprintf(p.stdout, "made two release keys in %s\n", fs.Arg(0))
	return admin.ExitOK
}

func (p *program) imageBuild(args []string) int {
	o := image.Options{Log: func(format string, args ...any) { fmt.Fprintf(p.stderr, "  "+format+"\n", args...) }}
	fs := flag.NewFlagSet("image build", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.Keys, "keys", "", "")
	fs.IntVar(&o.Sign, "sign", 1, "")
	fs.StringVar(&o.Out, "out", "build/image", "")
	fs.StringVar(&o.Cache, "cache", "", "")
	fs.StringVar(&o.Arch, "arch", runtime.GOARCH, "")
	fs.StringVar(&o.Binary, "binary", "", "")
	fs.StringVar(&o.Version, "version", appliance.Version, "")
	fs.StringVar(&o.Pinned, "pinned", "", "")
	fs.StringVar(&o.Extra, "firmware", "", "")
	fs.StringVar(&o.Args, "kernel-args", "", "")
	fs.BoolVar(&o.SecureBoot, "secure-boot", false, "")
	fs.BoolVar(&o.Refresh, "refresh", false, "")
	formats, floor := fs.String("formats", "", ""), fs.String("floor", "", "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(p.stdout, imageHelp)
		return admin.ExitOK
	} else if err != nil || fs.NArg() > 0 {
		return p.wrong("image build: %v; ringfence image help lists the flags", errors.Join(err, notAFlag(fs)))
	}
	if *formats != "" {
		o.Formats = strings.Split(*formats, ",")
	}
	if o.Keys == "" {
		return p.wrong("image build needs --keys DIR; ringfence image keys DIR makes them")
	}
	var err error
	if *floor != "" {
		if o.Floor, err = time.Parse(time.DateOnly, *floor); err != nil {
			return p.wrong("--floor %q is no date like 2026-01-31", *floor)
		}
	}
	if o.Epoch, err = p.sourceTime(); err != nil {
		return p.wrong("%v", err)
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return p.broken(err)
		}
	}
	if o.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return p.broken(fmt.Errorf("%w; --cache DIR says where packages may lie", err))
		}
		o.Cache = filepath.Join(cache, "ringfence-image")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	began := time.Now()
	m, err := image.Build(ctx, o)
	if err != nil {
		return p.broken(err)
	}
	base := fmt.Sprintf("ringfence-%s-%s", m.Version, m.Arch)
	fmt.Fprintf(p.stdout, "%s.img in %s, update %.1f MB, %.1f s\n", base, o.Out, float64(m.Files[base+".rfu"].Size)/1e6, time.Since(began).Seconds())
	if m.TestKeys {
		fmt.Fprintln(p.stdout, "signed with TEST keys: anybody who has them can sign an update for it")
	}
	return admin.ExitOK
}

func (p *program) imageSeed(args []string) int {
	if len(args) != 2 {
		return p.wrong("usage: ringfence image seed IMAGE FILE")
	}
	data, err := os.ReadFile(args[1])
	if err != nil {
		return p.broken(err)
	}
	if _, _, err := config.ParseStored(args[1], data); err != nil {
		return p.broken(err)
	}
	if err := image.WriteSeed(args[0], map[string][]byte{"ringfence.yaml": data}, time.Now()); err != nil {
		return p.broken(err)
	}
	return admin.ExitOK
}

func notAFlag(fs *flag.FlagSet) error {
	if fs.NArg() > 0 {
		return fmt.Errorf("it takes no %q", fs.Arg(0))
	}
	return nil
}

// sourceTime is $SOURCE_DATE_EPOCH, as every reproducible build has it.
func (p *program) sourceTime() (time.Time, error) {
	text := p.getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Time{}, errors.New("image build needs SOURCE_DATE_EPOCH, the time of the source in seconds: $(git log -1 --format=%ct)")
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds <= 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q, not a number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
