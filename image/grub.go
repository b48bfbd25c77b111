package image

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ringfence/image/disk"
)

//go:embed grub.cfg
var grubScript string

// GRUB's modules. The ones for signatures make it refuse a kernel or initramfs without a signature of a release key.
var grubModules = []string{"pgp", "gcry_rsa", "gcry_sha256", "gcry_sha512", "memdisk", "part_gpt", "fat", "squash4", "tar", "normal", "linux",
	"loadenv", "regexp", "test", "probe", "configfile", "echo", "boot", "serial", "terminal", "reboot", "sleep", "halt"}

// platform is one kind of GRUB.
type platform struct {
	target  string // of grub-mkimage
	pkg     string // Debian package
	efi     string // name below EFI/BOOT, empty for BIOS
	console string // of the kernel
	stock   stock
}

// stock is what Debian signed for one kind of firmware: Microsoft's keys start the shim, which starts GRUB, which starts the kernel.
type stock struct {
	shimPkg, shim string // package and file
	grubPkg, grub string
	name          string // that the shim looks for
}

var platforms = map[string][]platform{
	"amd64": {
		{target: "i386-pc", pkg: "grub-pc-bin", console: "console=tty0 console=ttyS0,115200"},
		{target: "x86_64-efi", pkg: "grub-efi-amd64-bin", efi: "BOOTX64.EFI", console: "console=tty0 console=ttyS0,115200",
			stock: stock{"shim-signed", "usr/lib/shim/shimx64.efi.signed", "grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grubx64.efi"}},
	},
	"arm64": {{target: "arm64-efi", pkg: "grub-efi-arm64-bin", efi: "BOOTAA64.EFI", console: "console=tty0 console=ttyAMA0,115200",
		stock: stock{"shim-signed", "usr/lib/shim/shimaa64.efi.signed", "grub-efi-arm64-signed", "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed", "grubaa64.efi"}}},
}

func (b *builder) script(p platform) string {
	return strings.NewReplacer("@CONSOLE@", p.console, "@ARGS@", b.Args).Replace(grubScript)
}

// stockFiles are shim and GRUB as Debian signed them, and what that GRUB reads: a script that makes it insist on signatures, with the
// keys beside it. Who can write this partition can replace those, which is why our own GRUB holds both inside; but only this
// one is started by firmware whose Secure Boot knows Microsoft's keys alone.
func (b *builder) stockFiles(p platform) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, from := range map[string]string{p.efi: filepath.Join(b.roots[p.stock.shimPkg], p.stock.shim), p.stock.name: filepath.Join(b.roots[p.stock.grubPkg], p.stock.grub)} {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		files["EFI/BOOT/"+name] = data
	}
	var head strings.Builder
	for i, k := range b.keys.Pub {
		name := fmt.Sprintf("EFI/debian/release%d.gpg", i+1)
		files[name] = pgpPublic(k.Boot, k.Name)
		fmt.Fprintf(&head, "trust --skip-sig ($root)/%s\n", name)
	}
	head.WriteString("set check_signatures=enforce\n")
	files["EFI/debian/grub.cfg"] = []byte(head.String() + b.script(p))
	return files, nil
}

// grub makes a GRUB with the script and the public keys inside.
func (b *builder) grub(ctx context.Context, p platform) ([]byte, error) {
	var memdisk bytes.Buffer
	t := tar.NewWriter(&memdisk)
	script := b.script(p)
	if err := t.WriteHeader(&tar.Header{Name: "boot/grub/grub.cfg", Mode: 0o644, Size: int64(len(script)), ModTime: b.Epoch, Format: tar.FormatUSTAR}); err != nil {
		return nil, err
	}
	if _, err := t.Write([]byte(script)); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	work := filepath.Join(b.work, p.target)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	archive, out := filepath.Join(work, "memdisk.tar"), filepath.Join(work, "core.img")
	if err := os.WriteFile(archive, memdisk.Bytes(), 0o644); err != nil {
		return nil, err
	}
	args := []string{"-d", filepath.Join(b.roots[p.pkg], "usr/lib/grub", p.target), "-O", p.target, "-o", out, "-p", "(memdisk)/boot/grub", "-m", archive}
	for i, k := range b.keys.Pub {
		name := filepath.Join(work, fmt.Sprintf("key%d.gpg", i+1))
		if err := os.WriteFile(name, pgpPublic(k.Boot, k.Name), 0o644); err != nil {
			return nil, err
		}
		args = append(args, "--pubkey", name)
	}
	if p.efi != "" {
		sbat := filepath.Join(work, "sbat.csv")
		text := "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\ngrub,4,Free Software Foundation,grub,2.06,https://www.gnu.org/software/grub/\n"
		if err := os.WriteFile(sbat, []byte(text), 0o644); err != nil {
			return nil, err
		}
		args = append(args, "--disable-shim-lock", "--sbat", sbat)
	}
	args = append(args, grubModules...)
	if p.efi == "" {
		args = append(args, "biosdisk")
	} else {
		args = append(args, "efi_gop", "all_video")
	}
	if b.Arch == "arm64" {
		args = append(args, "gzio") // the kernel is compressed
	}
	if err := b.tool(ctx, nil, "grub-mkimage", args...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// installBIOS puts GRUB for BIOS on the disk without grub-install: boot.img in the first sector, told where core.img begins,
// and core.img in its partition, whose first sector is told where the rest is (both of GRUB's grub-core/boot/i386/pc).
func installBIOS(d disk.Device, bootImage, core []byte, p disk.Partition) error {
	if len(bootImage) != disk.Sector || int64(len(core)) > p.Size() || len(core) <= disk.Sector {
		return fmt.Errorf("GRUB of %d and %d bytes does not fit", len(bootImage), len(core))
	}
	mbr := make([]byte, disk.Sector)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return err
	}
	copy(mbr[:446], bootImage)
	binary.LittleEndian.PutUint64(mbr[0x5c:], p.First)
	mbr[0x66], mbr[0x67] = 0x90, 0x90 // the check for a floppy, which would take the boot drive's number from the image
	mbr[510], mbr[511] = 0x55, 0xaa
	core = append(bytes.Clone(core), make([]byte, -len(core)&(disk.Sector-1))...)
	binary.LittleEndian.PutUint64(core[500:], p.First+1)
	binary.LittleEndian.PutUint16(core[508:], uint16(len(core)/disk.Sector-1))
	binary.LittleEndian.PutUint16(core[510:], 0x0820)
	if _, err := d.WriteAt(mbr, 0); err != nil {
		return err
	}
	_, err := d.WriteAt(core, p.Offset())
	return err
}
