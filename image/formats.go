package image

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"ringfence/image/boot/release"
	"ringfence/image/disk"
	"ringfence/image/slot"
)

// converters make another format of base.img, as base.FORMAT.
var converters = map[string]func(ctx context.Context, b *builder, base string) error{
	"qcow2": func(ctx context.Context, b *builder, base string) error {
		return qemuImg(ctx, base, "qcow2", "-c", "-m", "1")
	},
	"vhdx": func(ctx context.Context, b *builder, base string) error {
		return qemuImg(ctx, base, "vhdx", "-o", "subformat=dynamic")
	},
	"vmdk":      vmdk,
	"ova":       ova,
	"installer": installer,
}

// ending of a format's file.
func ending(format string) string {
	if format == "installer" {
		return ".installer.img"
	}
	return "." + format
}

// installer makes the stick that copies itself to a disk: the raw image with one word more in the block that GRUB reads.
func installer(ctx context.Context, b *builder, base string) error {
	name := base + ending("installer")
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", base+".img", name).CombinedOutput(); err != nil {
		return errors.New(lastLine(string(out)))
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	t, err := disk.Read(f, uint64(st.Size()/disk.Sector))
	if err != nil {
		return err
	}
	i, _ := t.Find(release.PartState)
	p := t.Parts[i]
	at, _, err := slot.Block(io.NewSectionReader(f, p.Offset(), p.Size()), p.Size())
	if err != nil {
		return err
	}
	block, err := slot.Installer().Marshal()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(block, p.Offset()+at); err != nil {
		return err
	}
	return f.Close()
}

func qemuImg(ctx context.Context, base, format string, args ...string) error {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return fmt.Errorf("%s needs qemu-img (Debian package qemu-utils)", format)
	}
	args = append(append([]string{"convert", "-f", "raw", "-O", format}, args...), base+".img", base+"."+format)
	if out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, lastLine(string(out)))
	}
	return nil
}

var vmdkCID = regexp.MustCompile(`\nCID=[0-9a-f]{8}\n`)

// vmdk makes the form that is imported, with the random content id of qemu-img replaced, so that two builds are the same.
func vmdk(ctx context.Context, b *builder, base string) error {
	if err := qemuImg(ctx, base, "vmdk", "-m", "1", "-o", "subformat=streamOptimized"); err != nil {
		return err
	}
	f, err := os.OpenFile(base+".vmdk", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	at := vmdkCID.FindIndex(head[:n])
	if at == nil {
		return errors.New("the vmdk has no content id where one is expected")
	}
	if _, err := f.WriteAt([]byte("\nCID=52494e47\n"), int64(at[0])); err != nil {
		return err
	}
	return f.Close()
}

//go:embed appliance.ovf
var ovf string

// ova packs description, hashes and disk in the order that importers want.
func ova(ctx context.Context, b *builder, base string) error {
	if err := vmdk(ctx, b, base); err != nil {
		return err
	}
	name := filepath.Base(base)
	raw, err := os.Stat(base + ".img")
	if err != nil {
		return err
	}
	vm, err := os.Stat(base + ".vmdk")
	if err != nil {
		return err
	}
	text := []byte(strings.NewReplacer("@NAME@", name, "@VERSION@", b.Version, "@CAPACITY@", fmt.Sprint(raw.Size()), "@SIZE@", fmt.Sprint(vm.Size())).Replace(ovf))
	d, err := digestFile(base + ".vmdk")
	if err != nil {
		return err
	}
	hashes := fmt.Appendf(nil, "SHA256(%s.ovf)= %s\nSHA256(%s.vmdk)= %s\n", name, digest(text).SHA256, name, d.SHA256)
	out, err := os.Create(base + ".ova")
	if err != nil {
		return err
	}
	defer out.Close()
	t := tar.NewWriter(out)
	head := func(file string, size int64) error {
		return t.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: size, ModTime: b.Epoch, Format: tar.FormatUSTAR})
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{name + ".ovf", text}, {name + ".mf", hashes}} {
		if err := head(f.name, int64(len(f.data))); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	if err := head(name+".vmdk", vm.Size()); err != nil {
		return err
	}
	in, err := os.Open(base + ".vmdk")
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(t, in); err != nil {
		return err
	}
	return errors.Join(t.Close(), out.Close())
}

// walkFiles reads every file of a folder, in order.
func walkFiles(root fs.FS, each func(name string, data []byte)) error {
	return fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, p)
		if err == nil {
			each(p, data)
		}
		return err
	})
}
