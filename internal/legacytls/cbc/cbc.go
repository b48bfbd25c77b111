// Package cbc protects records as TLS 1.0 to 1.2 and DTLS do with AES in CBC mode and HMAC-SHA1, MAC first and encryption
// after it (RFC 2246 §6.2.3.2, RFC 4346 §6.2.3.2, RFC 5246 §6.2.3.2). It knows no record headers and no sockets.
//
//	MAC input:  | sequence number 8 | type 1 | version 2 | length 2 | payload |
//	record:     | IV 16, explicit kind only | encrypted: payload | MAC 20 | padding 1..256, each byte the count before it |
//
// This order of MAC and encryption has been broken by timing (Vaudenay 2002, Lucky Thirteen 2013). Open therefore does the same
// work, and touches the same memory in the same order, whatever the padding claims: the padding is judged without branches, the
// MAC that was received is collected from everywhere it may stand, and the one that should have been is computed over the
// longest message that the record may hold, taking the hash's state out at the block where the message really ends. How
// long a record is, is public; what is wrong with it, is not, and there is one error for all of it.
//
// What the chained kind (TLS 1.0) cannot have is protection against chosen plaintext (BEAST): the IV of a record is the last
// block of the one before, which an observer has seen. See the package legacytls.
package cbc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// Sizes of keys and of what surrounds a payload.
const (
	MACSize   = sha1.Size
	BlockSize = aes.BlockSize
	// Overhead is the most that Seal adds to a payload.
	Overhead = BlockSize + MACSize + BlockSize
)

// ErrRecord says that a record does not authenticate. Nothing tells why.
var ErrRecord = errors.New("bad record")

// Header is what the MAC covers besides the payload. In DTLS the sequence number is epoch<<48 | number.
type Header struct {
	Sequence uint64
	Type     byte
	Version  uint16
}

const headerSize = 13

func (h Header) put(b *[headerSize]byte, n int) {
	binary.BigEndian.PutUint64(b[:], h.Sequence)
	b[8] = h.Type
	binary.BigEndian.PutUint16(b[9:], h.Version)
	b[11], b[12] = byte(n>>8), byte(n)
}

// Sealer protects the records of one direction. It is not safe for concurrent use.
type Sealer struct {
	mode     cipher.BlockMode // goes on from record to record in either kind
	explicit bool
	mac      hash.Hash
	head     [headerSize]byte
}

// NewSealer makes a Sealer of an AES key of 16 or 32 bytes and a MAC key. iv is the first IV of the chained kind (TLS 1.0);
// nil makes the explicit kind (TLS 1.1, TLS 1.2, DTLS).
func NewSealer(key, mac, iv []byte) (*Sealer, error) {
	b, first, err := newBlock(key, mac, iv)
	if err != nil {
		return nil, err
	}
	return &Sealer{mode: cipher.NewCBCEncrypter(b, first), explicit: iv == nil, mac: hmac.New(sha1.New, mac)}, nil
}

// newBlock checks the keys. The explicit kind begins with any IV: what its records have instead is a first block of which nobody
// knows the contents (RFC 4346 §6.2.3.2 (2)(b)).
func newBlock(key, mac, iv []byte) (b cipher.Block, first []byte, err error) {
	if iv == nil {
		iv = make([]byte, BlockSize)
	}
	if len(mac) != MACSize || len(iv) != BlockSize {
		return nil, nil, fmt.Errorf("cbc: MAC key of %d bytes, IV of %d", len(mac), len(iv))
	}
	if b, err = aes.NewCipher(key); err != nil {
		return nil, nil, fmt.Errorf("cbc: %w", err)
	}
	return b, iv, nil
}

// Seal appends the protected payload to dst. The payload may stand where it will be encrypted, which is at the end of dst, or a
// block further in the explicit kind; otherwise it may not overlap what is appended.
func (s *Sealer) Seal(dst []byte, h Header, payload []byte) []byte {
	start := len(dst)
	if s.explicit {
		var none [BlockSize]byte
		dst = append(dst, none[:]...)
		_, _ = rand.Read(dst[start:]) // never fails (crypto/rand)
	}
	h.put(&s.head, len(payload))
	s.mac.Reset()
	s.mac.Write(s.head[:])
	s.mac.Write(payload)
	dst = s.mac.Sum(append(dst, payload...))
	pad := BlockSize - (len(dst)-start)%BlockSize
	for range pad {
		dst = append(dst, byte(pad-1))
	}
	s.mode.CryptBlocks(dst[start:], dst[start:])
	return dst
}

// Opener checks the records of one direction. It is not safe for concurrent use.
type Opener struct {
	mode     cipher.BlockMode
	explicit bool
	mac      *macer
}

// NewOpener makes the counterpart of NewSealer.
func NewOpener(key, mac, iv []byte) (*Opener, error) {
	b, first, err := newBlock(key, mac, iv)
	if err != nil {
		return nil, err
	}
	m, err := newMACer(mac)
	if err != nil {
		return nil, err
	}
	return &Opener{mode: cipher.NewCBCDecrypter(b, first), explicit: iv == nil, mac: m}, nil
}

// Open decrypts a record's body in place and returns the payload, a part of body. After ErrRecord, body holds nothing of use,
// and the chained kind cannot go on.
func (o *Opener) Open(h Header, body []byte) ([]byte, error) {
	least := minBody
	if o.explicit {
		least += BlockSize
	}
	if len(body)%BlockSize != 0 || len(body) < least {
		return nil, ErrRecord
	}
	o.mode.CryptBlocks(body, body)
	if o.explicit {
		body = body[BlockSize:] // the IV: decrypting it put it before the rest, and what it decrypts to is nothing
	}
	pad, good := padding(body)
	n := len(body) - MACSize - pad
	received, want := collect(body, n), o.mac.sum(h, body, n)
	if good&equal(received[:], want[:]) != 1 {
		return nil, ErrRecord
	}
	return body[:n], nil
}

// minBody holds a MAC, one byte of padding and no payload.
const minBody = (MACSize + 1 + BlockSize - 1) / BlockSize * BlockSize
