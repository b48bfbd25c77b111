package cbc

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"errors"
	"hash"
)

// What is in this file never branches on, nor indexes with, anything that was encrypted.

const (
	hashBlock  = sha1.BlockSize
	maxPadding = 256
)

// mask is all ones for 1 and zero for 0.
func mask(bit int) byte { return byte(-bit) }

// less returns 1 if a < b, both from 0 to 2^31-1.
func less(a, b int) int { return int(uint32(int32(a)-int32(b)) >> 31) }

// same returns 1 if a equals b, both as in less.
func same(a, b int) int { return subtle.ConstantTimeEq(int32(a), int32(b)) }

func equal(a, b []byte) int { return subtle.ConstantTimeCompare(a, b) }

// padding returns how many bytes of padding b claims, its count included, and 1 if they are right and leave room for a MAC.
// Wrong padding counts as one byte, so that what follows has a message to work on. b holds minBody bytes or more.
func padding(b []byte) (n, good int) {
	last := b[len(b)-1]
	n = int(last) + 1
	wrong := byte(0)
	for i := range min(maxPadding, len(b)) {
		wrong |= mask(less(i, n)) & (b[len(b)-1-i] ^ last)
	}
	good = subtle.ConstantTimeByteEq(wrong, 0) & (1 - less(len(b)-MACSize, n))
	return subtle.ConstantTimeSelect(good, n, 1), good
}

// lowest is the least length of payload that a record's decrypted body may have.
func lowest(body []byte) int { return max(0, len(body)-MACSize-maxPadding) }

// collect copies the MAC that stands at body[n:]. It walks over all places where one may stand and adds what is inside to a
// ring that begins wherever the MAC happens to; then it turns the ring.
func collect(body []byte, n int) (mac [MACSize]byte) {
	var ring [MACSize]byte
	begin, at := 0, 0 // begin: the place in the ring of the MAC's first byte
	for i := lowest(body); i < len(body); i++ {
		first := same(i, n)
		begin |= -first & at
		inside := (1 - less(i, n)) & less(i, n+MACSize)
		ring[at] |= mask(inside) & body[i]
		if at++; at == MACSize {
			at = 0
		}
	}
	for k := range mac {
		from := begin + k
		from -= MACSize & -(1 - less(from, MACSize))
		for j, b := range ring {
			mac[k] |= mask(same(j, from)) & b
		}
	}
	return mac
}

// macer computes HMAC-SHA1 (RFC 2104) over messages whose length is secret.
type macer struct {
	inner, outer [hashBlock]byte
	h            resumable
	state        []byte

	// Of one sum; here so that they are not made anew for each record.
	head        [headerSize]byte
	block       [hashBlock]byte
	digest, mac [sha1.Size]byte
}

// resumable is what crypto/sha1 promises of its hash: that its state can be taken out.
type resumable interface {
	hash.Hash
	encoding.BinaryAppender
}

func newMACer(key []byte) (*macer, error) {
	h, ok := sha1.New().(resumable)
	if !ok {
		return nil, errors.New("cbc: the state of SHA-1 cannot be taken out")
	}
	m := &macer{h: h, state: make([]byte, 0, 128)}
	for i := range hashBlock {
		m.inner[i], m.outer[i] = 0x36, 0x5c
		if i < len(key) {
			m.inner[i] ^= key[i]
			m.outer[i] ^= key[i]
		}
	}
	h.Write(m.inner[:])
	if s := m.chain(); len(s) != sha1.Size {
		return nil, errors.New("cbc: the state of SHA-1 is not as expected")
	}
	return m, nil
}

// chain returns the chaining value of SHA-1 after whole blocks. The binary form of the state begins with four bytes of magic
// and the five words; the tests hold it against HMAC for every length.
func (m *macer) chain() []byte {
	const magic = "sha\x01"
	b, err := m.h.AppendBinary(m.state[:0])
	if err != nil || len(b) < len(magic)+sha1.Size || string(b[:len(magic)]) != magic {
		return nil
	}
	return b[len(magic) : len(magic)+sha1.Size]
}

// sum is HMAC-SHA1 over the header and body[:n], where n is secret and lies between lowest(body) and len(body)-MACSize-1.
// Blocks that hold nothing but message for the least n are hashed at once. From there to the last block for the greatest n,
// each is put together byte by byte with the end mark and the length where they belong for the real n, and the state after the
// one that carries the length is kept.
func (m *macer) sum(h Header, body []byte, n int) [MACSize]byte {
	head, block, digest := &m.head, &m.block, &m.digest
	*digest = [sha1.Size]byte{}
	h.put(head, n)
	length := headerSize + n
	final := (length + 8) / hashBlock // the block with the length: it begins at least 8 bytes after the end mark's place
	least, most := headerSize+lowest(body), headerSize+len(body)-MACSize-1
	var bits [8]byte
	binary.BigEndian.PutUint64(bits[:], uint64(hashBlock+length)*8)

	m.h.Reset()
	m.h.Write(m.inner[:])
	first := least / hashBlock
	if first > 0 {
		m.h.Write(head[:])
		m.h.Write(body[:first*hashBlock-headerSize])
	}
	for b := first; b <= (most+8)/hashBlock; b++ {
		here := mask(same(b, final))
		for j := range block {
			at := b*hashBlock + j
			var c byte
			switch { // on public values only
			case at < headerSize:
				c = head[at]
			case at-headerSize < len(body):
				c = body[at-headerSize]
			}
			c &= mask(less(at, length))
			c |= 0x80 & mask(same(at, length))
			if j >= hashBlock-8 {
				c |= here & bits[j-(hashBlock-8)]
			}
			block[j] = c
		}
		m.h.Write(block[:])
		for i, c := range m.chain() {
			digest[i] |= here & c
		}
	}
	m.h.Reset()
	m.h.Write(m.outer[:])
	m.h.Write(digest[:])
	m.h.Sum(m.mac[:0])
	return m.mac
}
