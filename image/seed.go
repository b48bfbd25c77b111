package image

import (
	"fmt"
	"os"
	"time"

	"ringfence/image/boot/release"
	"ringfence/image/disk"
)

// WriteSeed puts files into the seed partition of an image that was not started yet. What was there is gone.
func WriteSeed(name string, files map[string][]byte, at time.Time) error {
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
		return fmt.Errorf("%s: %w", name, err)
	}
	i, ok := t.Find(release.PartSeed)
	if !ok {
		return fmt.Errorf("%s has no partition %s", name, release.PartSeed)
	}
	p := t.Parts[i]
	if _, err := f.WriteAt(make([]byte, p.Size()), p.Offset()); err != nil {
		return err
	}
	fat := disk.FAT{Bits: 16, Size: p.Size(), First: p.First, Label: release.SeedLabel, ID: 0x52465345, Time: at, Files: files}
	if err := fat.Write(f, p.Offset()); err != nil {
		return err
	}
	return f.Close()
}
