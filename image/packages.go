package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// kernelPackages are Debian's meta packages whose dependency names the kernel of the day.
var kernelPackages = map[string]string{"amd64": "linux-image-6.12-amd64", "arm64": "linux-image-6.12-arm64"}

// toolPackages hold programs that the builder runs, and the libraries of theirs that not every Debian has.
var toolPackages = []string{"grub-common", "squashfs-tools", "libdevmapper1.02.1", "liblzo2-2"}

// Package is a Debian package that went into an image, or made it.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"`
	Tool    bool   `json:"tool,omitempty"` // it made the image and is not in it

	file string
}

// fetchAll gets every package of the build and unpacks it below the cache; roots are the places by name.
func (b *builder) fetchAll(ctx context.Context) error {
	want := []struct {
		name, arch string
		tool       bool
	}{{kernelPackages[b.Arch], b.Arch, false}}
	for _, p := range platforms[b.Arch] {
		want = append(want, struct {
			name, arch string
			tool       bool
		}{p.pkg, b.Arch, false})
		if p.efi != "" && b.SecureBoot {
			for _, pkg := range []string{p.stock.shimPkg, p.stock.grubPkg} {
				want = append(want, struct {
					name, arch string
					tool       bool
				}{pkg, b.Arch, false})
			}
		}
	}
	for _, t := range toolPackages {
		want = append(want, struct {
			name, arch string
			tool       bool
		}{t, runtime.GOARCH, true})
	}
	for _, w := range want {
		p, err := b.fetch(ctx, w.name, w.arch)
		if err != nil {
			return err
		}
		if w.name == kernelPackages[b.Arch] {
			kernel, err := kernelOf(ctx, p.file)
			if err != nil {
				return err
			}
			if p, err = b.fetch(ctx, kernel, w.arch); err != nil {
				return err
			}
		}
		p.Tool = w.tool
		root, err := b.unpack(ctx, p)
		if err != nil {
			return err
		}
		b.roots[w.name] = root
		b.packages = append(b.packages, p)
	}
	return nil
}

// fetch gets one package into the cache. What is there is taken, unless a refresh was asked for or the pinned version is another.
func (b *builder) fetch(ctx context.Context, name, arch string) (Package, error) {
	dir := filepath.Join(b.Cache, "debs", arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Package{}, err
	}
	version := b.pinned[name]
	pattern := filepath.Join(dir, name+"_*_*.deb")
	if version != "" {
		pattern = filepath.Join(dir, name+"_"+strings.ReplaceAll(version, ":", "%3a")+"_*.deb")
	}
	found, err := filepath.Glob(pattern)
	if err != nil {
		return Package{}, err
	}
	if len(found) == 0 || b.Refresh && version == "" && !b.fetched[name] {
		if err := b.download(ctx, dir, name, arch, version, found); err != nil {
			return Package{}, err
		}
		if found, err = filepath.Glob(pattern); err != nil || len(found) == 0 {
			return Package{}, errors.Join(fmt.Errorf("apt-get download %s left no file", name), err)
		}
	}
	b.fetched[name] = true
	if len(found) > 1 {
		return Package{}, fmt.Errorf("%s holds several versions of %s; remove those that are not wanted", dir, name)
	}
	return describe(ctx, found[0])
}

// download runs apt-get download with the machine's package sources: with its lists, or when they know nothing, with lists of
// our own below the cache, for which nobody needs to be root.
func (b *builder) download(ctx context.Context, dir, name, arch, version string, stale []string) error {
	b.log("fetching %s (%s)", name, arch)
	for _, f := range stale {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	what := name
	if version != "" {
		what += "=" + version
	}
	state, err := filepath.Abs(filepath.Join(b.Cache, "apt", arch))
	if err != nil {
		return err
	}
	own := []string{"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch, "-o", "Dir::State=" + state + "/state", "-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache=" + state + "/cache", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"}
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Dir = dir
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = io.Discard, &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[len(args)-1], err, lastLine(errs.String()))
		}
		return nil
	}
	if !b.lists[arch] && arch == runtime.GOARCH && !b.Refresh {
		if run("-o", "APT::Sandbox::User=root", "download", what) == nil {
			return nil
		}
	}
	if !b.lists[arch] {
		for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
				return err
			}
		}
		if err := run(append(own, "update")...); err != nil {
			return errors.Join(ErrNoPackages, err)
		}
		b.lists[arch] = true
	}
	if err := run(append(own, "download", what)...); err != nil {
		return errors.Join(ErrNoPackages, err)
	}
	return nil
}

// ErrNoPackages is returned when Debian's packages can be had neither from the cache nor from a mirror.
var ErrNoPackages = errors.New("the image is made of Debian 12's packages, and they cannot be fetched")

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// describe reads name, version and hash of a package file.
func describe(ctx context.Context, file string) (Package, error) {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "-f", file, "Package", "Version", "Architecture").Output()
	if err != nil {
		return Package{}, fmt.Errorf("dpkg-deb %s: %w", filepath.Base(file), err)
	}
	p := Package{file: file}
	for _, line := range strings.Split(string(out), "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return p, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return p, err
	}
	p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

var kernelName = regexp.MustCompile(`linux-image-[0-9][^ ,]*`)

// kernelOf is the package that a meta package of the kernel depends on.
func kernelOf(ctx context.Context, file string) (string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "-f", file, "Depends").Output()
	if err != nil {
		return "", fmt.Errorf("dpkg-deb %s: %w", filepath.Base(file), err)
	}
	if name := kernelName.FindString(string(out)); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("%s names no kernel", filepath.Base(file))
}

// unpack unpacks a package below the cache, once.
func (b *builder) unpack(ctx context.Context, p Package) (string, error) {
	root := filepath.Join(b.Cache, "roots", p.Name+"-"+p.SHA256[:16])
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	tmp, err := os.MkdirTemp(b.Cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", p.file, tmp).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb %s: %w: %s", p.Name, err, lastLine(string(out)))
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, root); err != nil {
		if _, there := os.Stat(root); there == nil {
			return root, nil // another build was faster
		}
		return "", err
	}
	return root, nil
}

// tool runs a program of toolPackages, from there and with the libraries from there.
func (b *builder) tool(ctx context.Context, env []string, name string, args ...string) error {
	program, libraries := name, []string{}
	for _, t := range toolPackages {
		for _, dir := range []string{"usr/bin", "usr/sbin"} {
			if p := filepath.Join(b.roots[t], dir, name); isFile(p) {
				program = p
			}
		}
		for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu"} {
			dirs, _ := filepath.Glob(filepath.Join(b.roots[t], pattern))
			libraries = append(libraries, dirs...)
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LD_LIBRARY_PATH="+strings.Join(libraries, ":"), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Epoch.Unix()))
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, lastLine(string(out)))
	}
	return nil
}

func isFile(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}
