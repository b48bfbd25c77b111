package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"time"

	"ringfence/image/boot/release"
	"ringfence/image/boot/template"
	"ringfence/image/disk"
	"ringfence/image/slot"
	"ringfence/image/update"
)

// Options of Build.
type Options struct {
	Arch    string    // amd64 or arm64
	Binary  string    // the static binary that becomes /init
	Version string    // of the release
	Epoch   time.Time // time of the source: every time in the image, and what orders releases
	Floor   time.Time // the oldest release that may follow this one; zero: any
	Keys    string    // folder of the release keys
	Sign    int       // which of them signs, 1 or 2
	Cache   string    // folder for packages
	Out     string    // folder for the results
	Formats []string  // besides raw: qcow2, vmdk, ova, vhdx, installer
	Pinned  string    // manifest of another build whose packages are to be taken; may be empty
	Refresh bool      // ask for newer packages than those in the cache
	Extra   string    // folder of files for /lib/firmware; may be empty
	Args    string    // more words for the kernel's command line
	// SecureBoot puts Debian's signed shim and GRUB on the disk for UEFI, instead of a GRUB that holds script and keys.
	SecureBoot bool
	Log        func(format string, args ...any)
}

func (o *Options) validate() error {
	if platforms[o.Arch] == nil {
		return fmt.Errorf("no image for %q, but for amd64 and arm64", o.Arch)
	}
	if o.Version == "" || o.Binary == "" || o.Keys == "" || o.Cache == "" || o.Out == "" || o.Epoch.IsZero() {
		return errors.New("version, binary, keys, cache, out and the time of the source are needed")
	}
	if o.Sign != 1 && o.Sign != 2 {
		return fmt.Errorf("no release key %d, but 1 and 2", o.Sign)
	}
	if !kernelArgs.MatchString(o.Args) {
		return fmt.Errorf("%q are no words for the kernel's command line", o.Args)
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	for _, f := range o.Formats {
		if converters[f] == nil {
			return fmt.Errorf("no format %q, but qcow2, vmdk, ova, vhdx and installer", f)
		}
	}
	return nil
}

// kernelArgs keeps what GRUB's script language would understand out of the script.
var kernelArgs = regexp.MustCompile(`^[A-Za-z0-9_.,:=/ -]*$`)

// MiB is 2^20 bytes.
const MiB = 1 << 20

// layout is the disk: names, types and sizes of the partitions (docs/appliance.md). The data partition grows at first boot.
var layout = []struct {
	name string
	kind disk.GUID
	size int64
}{
	{release.PartBIOS, disk.TypeBIOSBoot, 1 * MiB},
	{release.PartESP, disk.TypeESP, 64 * MiB},
	{release.PartState, disk.TypeState, 1 * MiB},
	{release.PartSlotA, disk.TypeSlot, 128 * MiB},
	{release.PartSlotB, disk.TypeSlot, 128 * MiB},
	{release.PartSeed, disk.TypeBasic, 8 * MiB},
	{release.PartData, disk.TypeLinux, dataSize},
}

const dataSize = 64 * MiB

// Manifest is what went into an image and what came out: its bill of materials.
type Manifest struct {
	Product  string            `json:"product"`
	Version  string            `json:"version"`
	Arch     string            `json:"arch"`
	Epoch    int64             `json:"source_date_epoch"`
	TestKeys bool              `json:"test_keys"`
	Keys     []update.Key      `json:"keys"`
	Go       string            `json:"go"`
	Modules  []GoModule        `json:"go_modules"`
	Packages []Package         `json:"debian_packages"`
	Kernel   []string          `json:"kernel_modules"`
	Files    map[string]Digest `json:"files"`
}

// GoModule is a Go module in the binary.
type GoModule struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"`
}

// Digest is size and hash of a file.
type Digest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

type builder struct {
	Options
	work     string
	keys     *Keys
	key      privateKey
	pinned   map[string]string
	roots    map[string]string
	packages []Package
	fetched  map[string]bool
	lists    map[string]bool
}

func (b *builder) log(format string, args ...any) { b.Log(format, args...) }

// Build makes the image, the update file and the manifest, and returns the latter.
func Build(ctx context.Context, o Options) (*Manifest, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	b := &builder{Options: o, pinned: map[string]string{}, roots: map[string]string{}, fetched: map[string]bool{}, lists: map[string]bool{}}
	for _, dir := range []*string{&b.Cache, &b.Out} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, err
		}
		*dir = abs
		if err := os.MkdirAll(abs, 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if b.keys, err = LoadKeys(o.Keys); err != nil {
		return nil, fmt.Errorf("release keys: %w (ringfence image keys makes them)", err)
	}
	if b.key, err = b.keys.private(o.Sign); err != nil {
		return nil, fmt.Errorf("release key: %w", err)
	}
	if err := b.pin(); err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(b.Out, ".work-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.work)
	if err := b.fetchAll(ctx); err != nil {
		return nil, err
	}
	m := &Manifest{Product: update.Product, Version: b.Version, Arch: b.Arch, Epoch: b.Epoch.Unix(), TestKeys: b.keys.Test(), Keys: b.keys.updateKeys(),
		Packages: b.packages, Files: map[string]Digest{}}
	if err := m.readBinary(b.Binary); err != nil {
		return nil, err
	}
	content, info, err := b.slot(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := b.write(ctx, m, content, info); err != nil {
		return nil, err
	}
	return m, nil
}

func (b *builder) pin() error {
	if b.Pinned == "" {
		return nil
	}
	data, err := os.ReadFile(b.Pinned)
	if err != nil {
		return err
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", b.Pinned, err)
	}
	for _, p := range m.Packages {
		b.pinned[p.Name] = p.Version
	}
	return nil
}

// readBinary puts into the manifest what the binary says of itself.
func (m *Manifest) readBinary(name string) error {
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		return err
	}
	m.Go = info.GoVersion
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		m.Modules = append(m.Modules, GoModule{d.Path, d.Version, d.Sum})
	}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" && s.Value != m.Arch {
			return fmt.Errorf("%s is for %s, the image for %s", name, s.Value, m.Arch)
		}
		if s.Key == "CGO_ENABLED" && s.Value != "0" {
			return fmt.Errorf("%s was built with cgo; the image has no C library (CGO_ENABLED=0)", name)
		}
	}
	return nil
}

// slot makes the content of a slot: kernel, initramfs, and a signature of each.
func (b *builder) slot(ctx context.Context, m *Manifest) (content string, info update.Info, err error) {
	root := b.roots[kernelPackages[b.Arch]]
	kernels, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return "", info, fmt.Errorf("%s holds %d kernels, want one", root, len(kernels))
	}
	kernel, err := os.ReadFile(kernels[0])
	if err != nil {
		return "", info, err
	}
	if kernel, err = b.packKernel(ctx, kernel); err != nil {
		return "", info, err
	}
	b.log("modules")
	files, err := b.initFiles(ctx, m)
	if err != nil {
		return "", info, err
	}
	b.log("initramfs")
	initrd, err := initramfs(files)
	if err != nil {
		return "", info, err
	}
	dir := filepath.Join(b.work, "slot")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", info, err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"vmlinuz", kernel}, {"initrd", initrd}} {
		sig, err := pgpSign(b.key.boot, f.data)
		if err != nil {
			return "", info, err
		}
		m.Files[f.name] = digest(f.data)
		if err := errors.Join(b.plainFile(filepath.Join(dir, f.name), f.data), b.plainFile(filepath.Join(dir, f.name+".sig"), sig)); err != nil {
			return "", info, err
		}
	}
	if err := b.plain(dir, 0o755); err != nil {
		return "", info, err
	}
	content = filepath.Join(b.work, "slot.squashfs")
	// Not compressed: both files are. GRUB then reads the fastest.
	if err := b.tool(ctx, nil, "mksquashfs", dir, content, "-processors", "1", "-all-root", "-no-exports", "-no-xattrs", "-noI", "-noD", "-noF", "-noX", "-noappend", "-no-progress", "-quiet"); err != nil {
		return "", info, err
	}
	f, err := os.Open(content)
	if err != nil {
		return "", info, err
	}
	defer f.Close()
	sum := sha512.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return "", info, err
	}
	info = update.Info{Product: update.Product, Version: b.Version, Arch: b.Arch, Serial: b.Epoch.Unix(), Built: b.Epoch.UTC(), Size: size, SHA512: hex.EncodeToString(sum.Sum(nil))}
	if !b.Floor.IsZero() {
		info.Floor = b.Floor.Unix()
	}
	if size > 128*MiB {
		return "", info, fmt.Errorf("the slot has %d bytes, more than its partition", size)
	}
	return content, info, nil
}

// plainFile writes a file whose mode and time mksquashfs may keep: those of whoever builds must not matter.
func (b *builder) plainFile(name string, data []byte) error {
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return err
	}
	return b.plain(name, 0o644)
}

func (b *builder) plain(name string, mode os.FileMode) error {
	return errors.Join(os.Chmod(name, mode), os.Chtimes(name, b.Epoch, b.Epoch))
}

// packKernel compresses a kernel that Debian ships as it lies in memory (arm64); GRUB unpacks it, after it has verified what lies
// on the disk. The one for amd64 unpacks itself.
func (b *builder) packKernel(ctx context.Context, kernel []byte) ([]byte, error) {
	if b.Arch != "arm64" {
		return kernel, nil
	}
	cmd := exec.CommandContext(ctx, "gzip", "-9n") // GRUB does not understand every code table that Go's gzip makes
	cmd.Stdin = bytes.NewReader(kernel)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return out, nil
}

// initFiles are the files of the initramfs.
func (b *builder) initFiles(ctx context.Context, m *Manifest) ([]file, error) {
	binary, err := os.ReadFile(b.Binary)
	if err != nil {
		return nil, err
	}
	m.Files["init"] = digest(binary)
	files, index, err := kernelModules(ctx, b.roots[kernelPackages[b.Arch]], b.Arch)
	if err != nil {
		return nil, err
	}
	for _, x := range index {
		m.Kernel = append(m.Kernel, x.Name)
	}
	ext4, err := b.ext4(ctx)
	if err != nil {
		return nil, err
	}
	about := release.Info{Version: b.Version, Arch: b.Arch, Serial: b.Epoch.Unix(), Keys: b.keys.updateKeys()}
	if !b.Floor.IsZero() {
		about.Floor = b.Floor.Unix()
	}
	text, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return nil, err
	}
	files = append(files,
		file{"init", 0o755, binary},
		file{release.ModulesIndex[1:], 0o644, index.Marshal()},
		file{release.Template[1:], 0o644, ext4},
		file{release.File[1:], 0o644, text},
		file{"etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0::/:/none\nringfence:x:%d:%d::/:/none\n", release.UID, release.UID)},
		file{"etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\nringfence:x:%d:\n", release.UID)},
	)
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "data", "mnt"} {
		files = append(files, file{dir, os.ModeDir | 0o755, nil})
	}
	if b.Extra != "" {
		root := os.DirFS(b.Extra)
		if err := walkFiles(root, func(name string, data []byte) { files = append(files, file{"lib/firmware/" + name, 0o644, data}) }); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// ext4 makes an empty file system with Debian's mke2fs and keeps its blocks.
func (b *builder) ext4(ctx context.Context) ([]byte, error) {
	name := filepath.Join(b.work, "data.ext4")
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(dataSize); err != nil {
		return nil, err
	}
	program := "mke2fs"
	if p, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/mke2fs"
	} else {
		program = p
	}
	id := disk.NamedGUID(update.Product, "data").String()
	if err := b.tool(ctx, []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", b.Epoch.Unix()), "MKE2FS_CONFIG=/dev/null"}, program, "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1",
		"-L", release.PartData, "-U", id, "-O", "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-J", "size=4", "-E", "hash_seed="+id+",lazy_itable_init=0,lazy_journal_init=0,resize=268435456,nodiscard", name); err != nil {
		return nil, err
	}
	return template.Make(f, dataSize)
}

// write makes the files of the result.
func (b *builder) write(ctx context.Context, m *Manifest, content string, info update.Info) error {
	base := filepath.Join(b.Out, fmt.Sprintf("ringfence-%s-%s", b.Version, b.Arch))
	head, err := update.Head(info, b.key.update)
	if err != nil {
		return err
	}
	if err := concat(base+".rfu", head, content); err != nil {
		return err
	}
	b.log("disk")
	if err := b.disk(ctx, base+".img", content); err != nil {
		return err
	}
	results := []string{base + ".rfu", base + ".img"}
	for _, f := range b.Formats {
		b.log("%s", f)
		if err := converters[f](ctx, b, base); err != nil {
			return err
		}
		results = append(results, base+ending(f))
	}
	for _, r := range results {
		d, err := digestFile(r)
		if err != nil {
			return err
		}
		m.Files[filepath.Base(r)] = d
	}
	sort.Strings(m.Kernel)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(base+".manifest.json", append(text, '\n'), 0o644)
}

// disk writes the raw image.
func (b *builder) disk(ctx context.Context, name, content string) error {
	t := &disk.Table{ID: disk.NamedGUID(update.Product, "disk")}
	next := uint64(MiB / disk.Sector)
	for _, p := range layout {
		size := uint64(p.size / disk.Sector)
		t.Parts = append(t.Parts, disk.Partition{Name: p.name, Type: p.kind, ID: disk.NamedGUID(update.Product, p.name), First: next, Last: next + size - 1})
		next += size
	}
	t.Sectors = next + MiB/disk.Sector
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(t.Sectors) * disk.Sector); err != nil {
		return err
	}
	if err := t.Write(f, nil); err != nil {
		return err
	}
	part := func(name string) disk.Partition { i, _ := t.Find(name); return t.Parts[i] }
	esp := map[string][]byte{}
	for _, p := range platforms[b.Arch] {
		if p.efi != "" && b.SecureBoot {
			files, err := b.stockFiles(p)
			if err != nil {
				return err
			}
			maps.Copy(esp, files)
			continue
		}
		core, err := b.grub(ctx, p)
		if err != nil {
			return err
		}
		if p.efi != "" {
			esp["EFI/BOOT/"+p.efi] = core
			continue
		}
		boot, err := os.ReadFile(filepath.Join(b.roots[p.pkg], "usr/lib/grub", p.target, "boot.img"))
		if err != nil {
			return err
		}
		if err := installBIOS(f, boot, core, part(release.PartBIOS)); err != nil {
			return err
		}
	}
	state, err := slot.Factory().Marshal()
	if err != nil {
		return err
	}
	for _, fs := range []struct {
		part  string
		bits  int
		label string
		files map[string][]byte
	}{
		{release.PartESP, 32, "RF-ESP", esp},
		{release.PartState, 12, "RF-STATE", map[string][]byte{"grubenv": state}},
		{release.PartSeed, 16, release.SeedLabel, map[string][]byte{"README.TXT": []byte(seedText)}},
	} {
		p := part(fs.part)
		id := disk.NamedGUID(update.Product, fs.part, "fat")
		fat := disk.FAT{Bits: fs.bits, Size: p.Size(), First: p.First, Label: fs.label, Time: b.Epoch, Files: fs.files,
			ID: uint32(id[0])<<24 | uint32(id[1])<<16 | uint32(id[2])<<8 | uint32(id[3])}
		if err := fat.Write(f, p.Offset()); err != nil {
			return fmt.Errorf("%s: %w", fs.part, err)
		}
	}
	in, err := os.Open(content)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(io.NewOffsetWriter(f, part(release.PartSlotA).Offset()), in); err != nil {
		return err
	}
	return f.Close()
}

const seedText = "Put the declared document here as ringfence.yaml before the first start.\r\n" +
	"It is taken over when the appliance starts, and again when it has changed.\r\n"

func digest(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest{int64(len(b)), hex.EncodeToString(sum[:])}
}

func digestFile(name string) (Digest, error) {
	f, err := os.Open(name)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return Digest{n, hex.EncodeToString(sum.Sum(nil))}, err
}

// concat writes head and then a file into name.
func concat(name string, head []byte, content string) error {
	in, err := os.Open(content)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(head); err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
