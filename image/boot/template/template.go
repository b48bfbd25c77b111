// Package template keeps an empty ext4 file system as the few blocks of it that are not zero, so that the init role can make
// one without mkfs: the rest of the space is cleared by the drive, then the blocks are written, the one with the superblock
// last, since it alone makes a file system of them.
//
//	0  8  "RFEXT4\x00\x01"
//	8  8  size of the file system in bytes, little-endian
//	16 …  blocks: 8 bytes number, 4096 bytes content, in ascending order of the number
package template

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Block is the size of a block.
const Block = 4096

const magic = "RFEXT4\x00\x01"

// Make reads a file system of size bytes and keeps its blocks.
func Make(r io.Reader, size int64) ([]byte, error) {
	out := binary.LittleEndian.AppendUint64([]byte(magic), uint64(size))
	block, zero := make([]byte, Block), make([]byte, Block)
	for n := range size / Block {
		if _, err := io.ReadFull(r, block); err != nil {
			return nil, fmt.Errorf("read the file system: %w", err)
		}
		if !bytes.Equal(block, zero) {
			out = binary.LittleEndian.AppendUint64(out, uint64(n))
			out = append(out, block...)
		}
	}
	return out, nil
}

// Size of the file system that a template makes.
func Size(t []byte) (int64, error) {
	if len(t) < 16 || string(t[:8]) != magic || (len(t)-16)%(8+Block) != 0 {
		return 0, errors.New("this is no template of a file system")
	}
	return int64(binary.LittleEndian.Uint64(t[8:])), nil
}

// Write makes the file system on a device that reads as zero for the size of the template. barrier is called before the block
// that makes it valid.
func Write(w io.WriterAt, t []byte, barrier func() error) error {
	size, err := Size(t)
	if err != nil {
		return err
	}
	var first []byte
	for at := 16; at < len(t); at += 8 + Block {
		n := binary.LittleEndian.Uint64(t[at:])
		if int64(n) >= size/Block {
			return fmt.Errorf("template: block %d lies outside", n)
		}
		block := t[at+8 : at+8+Block]
		if n == 0 {
			first = block
			continue
		}
		if _, err := w.WriteAt(block, int64(n)*Block); err != nil {
			return err
		}
	}
	if first == nil {
		return errors.New("template: no superblock")
	}
	if err := barrier(); err != nil {
		return err
	}
	if _, err := w.WriteAt(first, 0); err != nil {
		return err
	}
	return barrier()
}
