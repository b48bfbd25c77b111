package dtls

import (
	"encoding/binary"
	"errors"
)

// Content types of records.
const (
	typeCCS       = 20
	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23
)

const (
	headerLen = 13
	// maxRecord bounds the payload of a record (RFC 6347 §4.1).
	maxRecord = 1<<14 + 256
)

// record is one record of a datagram. body points into the datagram.
//
//	| type 1 | version 2 | epoch 2 | sequence 6 | length 2 | body |
type record struct {
	typ     byte
	version uint16
	epoch   uint16
	seq     uint64 // 48 bits
	body    []byte
}

var errRecord = errors.New("malformed record")

// nextRecord decodes the record at the beginning of b.
func nextRecord(b []byte) (r record, rest []byte, err error) {
	if len(b) < headerLen {
		return r, nil, errRecord
	}
	n := int(binary.BigEndian.Uint16(b[11:]))
	if n > maxRecord || len(b) < headerLen+n {
		return r, nil, errRecord
	}
	r = record{typ: b[0], version: binary.BigEndian.Uint16(b[1:]), epoch: binary.BigEndian.Uint16(b[3:]),
		seq: uint64(binary.BigEndian.Uint16(b[5:]))<<32 | uint64(binary.BigEndian.Uint32(b[7:])), body: b[headerLen : headerLen+n]}
	return r, b[headerLen+n:], nil
}

// putHeader writes the header of a record with n bytes of body.
func putHeader(b []byte, typ byte, version, epoch uint16, seq uint64, n int) {
	_ = b[headerLen-1]
	b[0] = typ
	binary.BigEndian.PutUint16(b[1:], version)
	binary.BigEndian.PutUint64(b[3:], uint64(epoch)<<48|seq&(1<<48-1))
	binary.BigEndian.PutUint16(b[11:], uint16(n))
}

// window is the sliding window against replays (RFC 6347 §4.1.2.6).
type window struct {
	top  uint64 // highest sequence number seen, plus one
	bits uint64 // bit i: top-1-i was seen
}

// fresh tells whether seq has not been seen and is not too old. Only authenticated records are then marked by see.
func (w *window) fresh(seq uint64) bool {
	if seq >= w.top {
		return true
	}
	back := w.top - 1 - seq
	return back < 64 && w.bits&(1<<back) == 0
}

func (w *window) see(seq uint64) {
	if seq >= w.top {
		if shift := seq + 1 - w.top; shift < 64 {
			w.bits <<= shift
		} else {
			w.bits = 0
		}
		w.bits |= 1
		w.top = seq + 1
		return
	}
	if back := w.top - 1 - seq; back < 64 {
		w.bits |= 1 << back
	}
}
