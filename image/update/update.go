// Package update is the file that brings a new release: a signed head and the content of a slot after it.
//
//	0      16  "RINGFENCE UPDATE"
//	16      4  format, 1, little-endian
//	20      4  length of the description
//	24      n  description, JSON (Info)
//	        …  zeros
//	3968    8  id of the key
//	3976   64  Ed25519 signature over SHA-512 of the bytes 0..3967
//	4040   56  zeros
//	4096    …  the slot: Info.Size bytes, whose SHA-512 is Info.SHA512
//
// The signature is checked before a byte of the slot is believed, and the hash after the slot was read back from the disk.
// Two keys are in force at any time, so that one can be replaced.
package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// HeadSize is where the slot begins.
const HeadSize = 4096

const (
	magic     = "RINGFENCE UPDATE"
	format    = 1
	signed    = 3968
	mostInfo  = signed - 24
	keyIDSize = 8
)

// Info describes an update. Serial orders releases: it is the time of the source in seconds. Floor is the least serial that
// may be installed after this release, so that nobody is led back to a release with a known hole.
type Info struct {
	Product string    `json:"product"`
	Version string    `json:"version"`
	Arch    string    `json:"arch"`
	Serial  int64     `json:"serial"`
	Floor   int64     `json:"floor"`
	Built   time.Time `json:"built"`
	Size    int64     `json:"size"`
	SHA512  string    `json:"sha512"`
}

// Product is the name in every Info.
const Product = "ringfence"

// Key is a public release key.
type Key struct {
	Name   string `json:"name"` // "release 1"; of a key for tests it begins with TEST
	Public []byte `json:"public"`
}

// ID is the beginning of the key's SHA-256.
func (k Key) ID() string {
	sum := sha256.Sum256(k.Public)
	return hex.EncodeToString(sum[:keyIDSize])
}

// Test tells whether anybody may have the private half.
func (k Key) Test() bool { return strings.HasPrefix(k.Name, "TEST") }

// ErrSignature is returned for a head that no key in force has signed.
var ErrSignature = errors.New("the update is not signed by a release key of this appliance")

// Head makes the head of an update of a slot whose size and hash are in info.
func Head(info Info, key ed25519.PrivateKey) ([]byte, error) {
	text, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	if len(text) > mostInfo {
		return nil, fmt.Errorf("update: description of %d bytes", len(text))
	}
	h := make([]byte, HeadSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[16:], format)
	binary.LittleEndian.PutUint32(h[20:], uint32(len(text)))
	copy(h[24:], text)
	sum := sha512.Sum512(h[:signed])
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	copy(h[signed:], id[:keyIDSize])
	copy(h[signed+keyIDSize:], ed25519.Sign(key, sum[:]))
	return h, nil
}

// Open checks a head and returns what it describes and the key that signed it.
func Open(h []byte, keys []Key) (Info, Key, error) {
	var info Info
	if len(h) != HeadSize || !bytes.HasPrefix(h, []byte(magic)) {
		return info, Key{}, errors.New("this is no update of this product")
	}
	if v := binary.LittleEndian.Uint32(h[16:]); v != format {
		return info, Key{}, fmt.Errorf("the update has format %d, this release reads %d", v, format)
	}
	n := binary.LittleEndian.Uint32(h[20:])
	if n > mostInfo {
		return info, Key{}, errors.New("the update's head is damaged")
	}
	id := hex.EncodeToString(h[signed : signed+keyIDSize])
	sum := sha512.Sum512(h[:signed])
	for _, k := range keys {
		if k.ID() != id || len(k.Public) != ed25519.PublicKeySize {
			continue
		}
		if !ed25519.Verify(k.Public, sum[:], h[signed+keyIDSize:signed+keyIDSize+ed25519.SignatureSize]) {
			return info, Key{}, ErrSignature
		}
		if err := json.Unmarshal(h[24:24+n], &info); err != nil {
			return info, Key{}, fmt.Errorf("the update's description: %w", err)
		}
		return info, k, info.check()
	}
	return info, Key{}, ErrSignature
}

func (i Info) check() error {
	if b, err := hex.DecodeString(i.SHA512); err != nil || len(b) != sha512.Size || i.Size <= 0 {
		return errors.New("the update's description has no size or hash")
	}
	if i.Product != Product {
		return fmt.Errorf("the update is for %q", i.Product)
	}
	return nil
}

// Fits says whether an update may replace the release that runs. floor is the highest one ever committed here.
func (i Info) Fits(arch string, slotSize, floor int64) error {
	switch {
	case i.Arch != arch:
		return fmt.Errorf("the update is for %s, this appliance is %s", i.Arch, arch)
	case i.Size > slotSize:
		return fmt.Errorf("the update has %d bytes, a slot %d", i.Size, slotSize)
	case i.Serial < floor:
		return fmt.Errorf("release %s of %s lies below the floor of this appliance (%s): it has a fault that a later one mended", i.Version,
			time.Unix(i.Serial, 0).UTC().Format(time.DateOnly), time.Unix(floor, 0).UTC().Format(time.DateOnly))
	}
	return nil
}

// Copy writes the slot from r to w and tells whether its hash is the one in the description.
func (i Info) Copy(w io.Writer, r io.Reader) error {
	sum := sha512.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.LimitReader(r, i.Size))
	if err != nil {
		return err
	}
	if n != i.Size {
		return fmt.Errorf("the update ends after %d of %d bytes: %w", n, i.Size, io.ErrUnexpectedEOF)
	}
	if hex.EncodeToString(sum.Sum(nil)) != i.SHA512 {
		return errors.New("the update's content is damaged: its hash is not the signed one")
	}
	return nil
}
