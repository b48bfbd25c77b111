// Package slot is the state of the two slots: which one is preferred and how many tries each has left. GRUB and the init role
// share it as one GRUB environment block of 512 bytes, so that a change is one sector (docs/appliance.md, "How it comes back").
//
//	factory                          slot=a a=3 b=0
//	GRUB boots X                     X = X-1
//	X is healthy                     slot=X X=3
//	an update of Y begins            Y=0          never bootable while it is being written
//	it is written and verified       slot=Y Y=1
//	GRUB cannot load X               X=0
package slot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Size of the block: one sector.
const Size = 512

// Full is the number of tries of a slot that has proven itself.
const Full = 3

const header = "# GRUB Environment Block\n"

// ID names a slot.
type ID string

// The two slots.
const (
	A ID = "a"
	B ID = "b"
)

// Other is the other slot.
func (i ID) Other() ID {
	if i == A {
		return B
	}
	return A
}

// State of the slots.
type State struct {
	Preferred ID
	Tries     map[ID]int
	other     map[string]string // what somebody else put into the block
}

// Factory is the state of a fresh disk.
func Factory() State { return State{Preferred: A, Tries: map[ID]int{A: Full, B: 0}} }

// Installer is the state of a stick that installs: GRUB starts its slot A with rf.install=1, and counts nothing.
func Installer() State {
	s := Factory()
	s.other = map[string]string{"mode": "install"}
	return s
}

// String is the state as the block has it.
func (s State) String() string {
	return fmt.Sprintf("slot=%s a=%d b=%d", s.Preferred, s.Tries[A], s.Tries[B])
}

// Set returns the state with other tries of one slot, which becomes the preferred one if it has any.
func (s State) Set(id ID, tries int) State {
	n := State{Preferred: s.Preferred, Tries: map[ID]int{A: s.Tries[A], B: s.Tries[B]}, other: s.other}
	n.Tries[id] = tries
	if tries > 0 {
		n.Preferred = id
	}
	return n
}

// ErrNoBlock is returned for bytes that are no environment block.
var ErrNoBlock = errors.New("no GRUB environment block")

// Parse reads a block. What a damaged block lacks is 0 tries.
func Parse(b []byte) (State, error) {
	s := State{Preferred: A, Tries: map[ID]int{}, other: map[string]string{}}
	if len(b) != Size || !bytes.HasPrefix(b, []byte(header)) {
		return s, ErrNoBlock
	}
	for _, line := range strings.Split(string(b[len(header):]), "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		switch key {
		case "slot":
			if value == "b" {
				s.Preferred = B
			}
		case "a", "b":
			if len(value) == 1 && value[0] >= '0' && value[0] <= '0'+Full {
				s.Tries[ID(key)] = int(value[0] - '0')
			}
		default:
			s.other[key] = value
		}
	}
	return s, nil
}

// Marshal makes the block.
func (s State) Marshal() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%sslot=%s\na=%d\nb=%d\n", header, s.Preferred, s.Tries[A], s.Tries[B])
	keys := make([]string, 0, len(s.other))
	for k := range s.other {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s=%s\n", k, s.other[k])
	}
	if b.Len() > Size {
		return nil, fmt.Errorf("state block: %d bytes, more than a sector", b.Len())
	}
	return append(b.Bytes(), bytes.Repeat([]byte{'#'}, Size-b.Len())...), nil
}

// Block finds the block in a state partition by its header at a sector's start. The file system around it is never mounted:
// its one file is never moved.
func Block(r io.ReaderAt, size int64) (offset int64, s State, err error) {
	b := make([]byte, Size)
	for at := int64(0); at+Size <= size; at += Size {
		if _, err := r.ReadAt(b, at); err != nil {
			return 0, s, fmt.Errorf("read state partition: %w", err)
		}
		if s, err := Parse(b); err == nil {
			return at, s, nil
		}
	}
	return 0, s, ErrNoBlock
}
