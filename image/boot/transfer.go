package boot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"ringfence/image/boot/release"
	"ringfence/image/disk"
	"ringfence/image/slot"
)

const transferBlock = 1 << 20

// transfer makes dst, a disk of that many sectors, an appliance fresh from the factory: boot loaders, slot A and the seed of src,
// a table of its own, an empty data partition. The table comes last, so that a power cut leaves a disk that nobody takes for an
// appliance. forget writes everything out and empties the drive's cache, so that what is read back comes from the disk.
func transfer(src io.ReaderAt, from *disk.Table, dst disk.Device, sectors uint64, random io.Reader, forget func() error, progress func(percent int)) error {
	t, err := grown(from, sectors)
	if err != nil {
		return err
	}
	if err := ownIDs(t, random); err != nil {
		return err
	}
	zero := make([]byte, transferBlock)
	for _, at := range []int64{0, int64(sectors)*disk.Sector - transferBlock} {
		if _, err := dst.WriteAt(zero, at); err != nil {
			return fmt.Errorf("clear the ends: %w", err)
		}
	}
	if err := forget(); err != nil {
		return err
	}
	var total, done int64
	for _, p := range from.Parts {
		total += 2 * transferSize(p)
	}
	step := func(n int64) {
		done += n
		progress(int(done * 100 / max(total, 1)))
	}
	sums := map[string][sha256.Size]byte{}
	block := make([]byte, transferBlock)
	for _, p := range from.Parts {
		sum := sha256.New()
		for at := int64(0); at < transferSize(p); at += transferBlock {
			b := block[:min(transferBlock, transferSize(p)-at)]
			clear(b)
			if p.Name != release.PartSlotB && p.Name != release.PartData {
				if _, err := src.ReadAt(b, p.Offset()+at); err != nil {
					return fmt.Errorf("read %s: %w", p.Name, err)
				}
			}
			if p.Name == release.PartState {
				if b, err = factoryState(b); err != nil {
					return err
				}
			}
			sum.Write(b)
			if _, err := dst.WriteAt(b, p.Offset()+at); err != nil {
				return fmt.Errorf("write %s: %w", p.Name, err)
			}
			step(int64(len(b)))
		}
		sums[p.Name] = [sha256.Size]byte(sum.Sum(nil))
	}
	if err := forget(); err != nil {
		return err
	}
	for _, p := range from.Parts {
		sum := sha256.New()
		for at := int64(0); at < transferSize(p); at += transferBlock {
			b := block[:min(transferBlock, transferSize(p)-at)]
			if _, err := dst.ReadAt(b, p.Offset()+at); err != nil {
				return fmt.Errorf("read %s back: %w", p.Name, err)
			}
			sum.Write(b)
			step(int64(len(b)))
		}
		if [sha256.Size]byte(sum.Sum(nil)) != sums[p.Name] {
			return fmt.Errorf("the disk does not keep what is written to it (%s)", p.Name)
		}
	}
	loader := make([]byte, disk.Sector)
	if _, err := src.ReadAt(loader, 0); err != nil {
		return err
	}
	clear(loader[446:]) // the table fills in the rest
	if _, err := dst.WriteAt(loader, 0); err != nil {
		return err
	}
	return t.Write(dst, forget)
}

// transferSize is how much of a partition is written: of the empty ones as much as shows that they are empty.
func transferSize(p disk.Partition) int64 {
	if p.Name == release.PartSlotB || p.Name == release.PartData {
		return min(p.Size(), transferBlock)
	}
	return p.Size()
}

// factoryState replaces the state block in a state partition, of which b is all.
func factoryState(b []byte) ([]byte, error) {
	at, _, err := slot.Block(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	state, err := slot.Factory().Marshal()
	if err != nil {
		return nil, err
	}
	copy(b[at:], state)
	return b, nil
}

// grown is the table for a disk of that many sectors, with the data partition as far as it goes.
func grown(from *disk.Table, sectors uint64) (*disk.Table, error) {
	t := *from
	t.Parts = append([]disk.Partition(nil), t.Parts...)
	t.Sectors = sectors
	i, ok := t.Find(release.PartData)
	if !ok || i != len(t.Parts)-1 {
		return nil, fmt.Errorf("the last partition is not %s", release.PartData)
	}
	last := t.LastUsable()&^7 - 1 // whole blocks of 4096 bytes
	t.Parts[i].Last = max(last, t.Parts[i].Last)
	if t.Parts[i].Last > t.LastUsable() {
		return nil, fmt.Errorf("the disk is smaller than the image: %d sectors", sectors)
	}
	return &t, nil
}

// ownIDs gives disk and partitions identifiers that no other appliance has.
func ownIDs(t *disk.Table, random io.Reader) error {
	b := make([]byte, 16*(len(t.Parts)+1))
	if _, err := io.ReadFull(random, b); err != nil {
		return errors.Join(errors.New("no randomness for identifiers"), err)
	}
	t.ID = disk.RandomGUID(b)
	for i := range t.Parts {
		t.Parts[i].ID = disk.RandomGUID(b[16*(i+1):])
	}
	return nil
}
