package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Op is one durable change of one field. It is written once, by its origin, and never changed after.
//
//	record = field* crc32c(4, little-endian, over all fields)
//	field  = tag(uvarint) length(uvarint) bytes
//
//	tag 1 origin      text; appliance name and disk incarnation: an empty disk gets a new one, else sequences repeat
//	tag 2 seq         uvarint, from 1, without gaps per origin
//	tag 3 stamp       uvarint, hybrid logical clock of the origin
//	tag 4 previous    stamp(uvarint) seq(uvarint) origin; the version that the writer saw; absent when there was none
//	tag 5 key         text
//	tag 6 value       bytes; absent when empty
//	tag 7 delete      empty; present for a deletion
//	tag 8 more        uvarint; operations of the same atomic group that still follow; absent for the last
//	tag 9 ordered     uvarint; the receiver's stamp that orders a clock-suspect operation instead of tag 3
//
// Tags ascend, each at most once. Tags of later releases are higher than 9; they are kept as they came, so that an
// appliance of this release forwards what it does not understand (docs/decisions/store.md).
type Op struct {
	Origin   string
	Seq      uint64
	Stamp    Stamp
	Previous Version
	Key      string
	Value    []byte
	Delete   bool
	More     uint32
	Ordered  Stamp
	unknown  []byte // fields of later releases, encoded
}

// ErrOp is wrapped by every error of UnmarshalBinary.
var ErrOp = errors.New("not an operation")

const (
	tagOrigin = iota + 1
	tagSeq
	tagStamp
	tagPrevious
	tagKey
	tagValue
	tagDelete
	tagMore
	tagOrdered
)

// maxUnknown bounds the bytes of fields of later releases in one operation.
const maxUnknown = 4 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Version is what orders the operation against others on the same key.
func (o *Op) Version() Version {
	v := Version{Stamp: o.Stamp, Seq: o.Seq, Origin: o.Origin}
	if o.Ordered != 0 {
		v.Stamp = o.Ordered
	}
	return v
}

// Concurrent tells whether the writer of o had not seen current, the version that o meets: two sides changed the field.
func (o *Op) Concurrent(current Version) bool { return o.Previous != current }

// MarshalBinary encodes o.
func (o *Op) MarshalBinary() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 64+2*len(o.Origin)+len(o.Key)+len(o.Value)+len(o.unknown))
	b = appendField(b, tagOrigin, o.Origin)
	b = appendNumber(b, tagSeq, o.Seq)
	b = appendNumber(b, tagStamp, uint64(o.Stamp))
	if !o.Previous.IsZero() {
		p := binary.AppendUvarint(make([]byte, 0, 24+len(o.Previous.Origin)), uint64(o.Previous.Stamp))
		p = binary.AppendUvarint(p, o.Previous.Seq)
		b = appendField(b, tagPrevious, append(p, o.Previous.Origin...))
	}
	b = appendField(b, tagKey, o.Key)
	if len(o.Value) > 0 {
		b = appendField(b, tagValue, o.Value)
	}
	if o.Delete {
		b = appendField(b, tagDelete, "")
	}
	if o.More > 0 {
		b = appendNumber(b, tagMore, uint64(o.More))
	}
	if o.Ordered > 0 {
		b = appendNumber(b, tagOrdered, uint64(o.Ordered))
	}
	b = append(b, o.unknown...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// UnmarshalBinary decodes b; o keeps no part of it.
func (o *Op) UnmarshalBinary(b []byte) error {
	*o = Op{}
	fields, err := checkSum(b)
	if err != nil {
		return err
	}
	last := uint64(0)
	for len(fields) > 0 {
		tag, value, rest, err := cutField(fields)
		if err != nil {
			return err
		}
		if tag <= last {
			return fmt.Errorf("field %d after field %d: %w", tag, last, ErrOp)
		}
		if tag > tagOrdered {
			if len(fields) > maxUnknown {
				return fmt.Errorf("%d bytes of unknown fields: %w", len(fields), ErrOp)
			}
			o.unknown = append(o.unknown, fields[:len(fields)-len(rest)]...)
		} else if err := o.set(tag, value); err != nil {
			return err
		}
		last, fields = tag, rest
	}
	return o.check()
}

func (o *Op) set(tag uint64, value []byte) (err error) {
	var n uint64
	switch tag {
	case tagOrigin:
		o.Origin = string(value)
	case tagSeq:
		o.Seq, err = number(value)
	case tagStamp:
		n, err = number(value)
		o.Stamp = Stamp(n)
	case tagPrevious:
		o.Previous, err = parsePrevious(value)
	case tagKey:
		o.Key = string(value)
	case tagValue:
		if len(value) == 0 {
			return fmt.Errorf("empty value field: %w", ErrOp)
		}
		o.Value = append([]byte(nil), value...)
	case tagDelete:
		if len(value) != 0 {
			return fmt.Errorf("delete field with %d bytes: %w", len(value), ErrOp)
		}
		o.Delete = true
	case tagMore:
		if n, err = number(value); err == nil && (n == 0 || n >= MaxGroup) {
			err = fmt.Errorf("%d more operations: %w", n, ErrOp)
		}
		o.More = uint32(n)
	case tagOrdered:
		if n, err = number(value); err == nil && n == 0 {
			err = fmt.Errorf("ordered field without stamp: %w", ErrOp)
		}
		o.Ordered = Stamp(n)
	}
	return err
}

// check holds for what is written and for what was read.
func (o *Op) check() error {
	switch {
	case o.Origin == "" || len(o.Origin) > maxOrigin:
		return fmt.Errorf("origin of %d bytes: %w", len(o.Origin), ErrOp)
	case o.Seq == 0 || o.Stamp == 0:
		return fmt.Errorf("sequence or stamp is zero: %w", ErrOp)
	case len(o.Value) > MaxValue:
		return fmt.Errorf("value of %d bytes: %w", len(o.Value), ErrOp)
	case o.Delete && len(o.Value) > 0:
		return fmt.Errorf("deletion with a value: %w", ErrOp)
	case o.More >= MaxGroup:
		return fmt.Errorf("%d more operations: %w", o.More, ErrOp)
	case !o.Previous.IsZero() && (o.Previous.Origin == "" || o.Previous.Seq == 0 || o.Previous.Stamp == 0 || len(o.Previous.Origin) > maxOrigin):
		return fmt.Errorf("incomplete previous version: %w", ErrOp)
	}
	if err := CheckKey(o.Key); err != nil {
		return fmt.Errorf("%w: %w", err, ErrOp)
	}
	return nil
}

func parsePrevious(b []byte) (v Version, err error) {
	stamp, n := uvarint(b)
	if n <= 0 {
		return v, fmt.Errorf("previous version: %w", ErrOp)
	}
	seq, m := uvarint(b[n:])
	if m <= 0 {
		return v, fmt.Errorf("previous version: %w", ErrOp)
	}
	v = Version{Stamp: Stamp(stamp), Seq: seq, Origin: string(b[n+m:])}
	if v.IsZero() {
		return v, fmt.Errorf("empty previous version: %w", ErrOp)
	}
	return v, nil
}

func appendField[T string | []byte](b []byte, tag uint64, value T) []byte {
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendNumber(b []byte, tag, n uint64) []byte {
	var v [binary.MaxVarintLen64]byte
	return appendField(b, tag, v[:binary.PutUvarint(v[:], n)])
}

// cutField takes the first field off b.
func cutField(b []byte) (tag uint64, value, rest []byte, err error) {
	tag, n := uvarint(b)
	if n <= 0 || tag == 0 {
		return 0, nil, nil, fmt.Errorf("field tag: %w", ErrOp)
	}
	size, m := uvarint(b[n:])
	if m <= 0 || size > uint64(len(b)-n-m) {
		return 0, nil, nil, fmt.Errorf("length of field %d: %w", tag, ErrOp)
	}
	end := n + m + int(size)
	return tag, b[n+m : end], b[end:], nil
}

// number reads a field that is one uvarint and nothing else.
func number(b []byte) (uint64, error) {
	v, n := uvarint(b)
	if n <= 0 || n != len(b) {
		return 0, fmt.Errorf("number field: %w", ErrOp)
	}
	return v, nil
}

// uvarint is binary.Uvarint without its second spellings: a number has one encoding, so that a record has one.
func uvarint(b []byte) (uint64, int) {
	v, n := binary.Uvarint(b)
	if n > 1 && b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

func checkSum(b []byte) (fields []byte, err error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("record of %d bytes: %w", len(b), ErrOp)
	}
	fields = b[:len(b)-4]
	if crc32.Checksum(fields, castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("checksum differs: %w", ErrOp)
	}
	return fields, nil
}

// peek reads value and deletion mark of a record in place, for reads that need nothing else. The record was checked when
// the file was opened or written.
func peek(record []byte) (value []byte, deleted bool) {
	if len(record) < 4 {
		return nil, true
	}
	for fields := record[:len(record)-4]; len(fields) > 0; {
		tag, v, rest, err := cutField(fields)
		if err != nil {
			return nil, true
		}
		switch tag {
		case tagValue:
			return v, false
		case tagDelete:
			return nil, true
		}
		if tag > tagValue {
			break
		}
		fields = rest
	}
	return nil, false
}
