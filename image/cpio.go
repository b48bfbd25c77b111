package image

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// file of the initramfs. Folders are made as they are needed; devices are the kernel's.
type file struct {
	name string // without a leading slash
	mode fs.FileMode
	data []byte
}

// cpio writes an archive of the kind that the kernel unpacks ("newc": Documentation/driver-api/early-userspace/buffer-format.rst),
// sorted, with nobody's times and inode numbers that just run.
func cpio(w io.Writer, files []file) error {
	const (
		regular = 0o100000
		folder  = 0o040000
	)
	all := map[string]file{}
	for _, f := range files {
		for dir := path.Dir(f.name); dir != "."; dir = path.Dir(dir) {
			all[dir] = file{name: dir, mode: fs.ModeDir | 0o755}
		}
		all[f.name] = f
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	one := func(inode int, name string, mode uint32, data []byte) error {
		var b bytes.Buffer
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
		_, err := w.Write(b.Bytes())
		return err
	}
	for i, name := range names {
		f := all[name]
		mode := uint32(f.mode.Perm()) | regular
		if f.mode.IsDir() {
			mode = uint32(f.mode.Perm()) | folder
		}
		if err := one(i+1, name, mode, f.data); err != nil {
			return err
		}
	}
	return one(0, "TRAILER!!!", 0, nil)
}

// initramfs is the archive, compressed. One thread, so that the result does not depend on how many there are.
func initramfs(files []file) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	if err := cpio(z, files); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
