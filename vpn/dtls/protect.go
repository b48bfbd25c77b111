package dtls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// protection seals or opens the records of one direction. It is not safe for concurrent use.
type protection interface {
	// room is how many bytes stand between the record header and the payload, and at most behind it.
	room() (front, back int)
	// seal protects the payload at buf[off:off+n] in place and returns the whole record, which begins front+headerLen bytes
	// before the payload.
	seal(buf []byte, off, n int, typ byte, version, epoch uint16, seq uint64) ([]byte, error)
	// open checks a record and returns its payload: in dst when that is large enough, else in the record's own buffer.
	open(dst []byte, r *record) ([]byte, error)
}

// errBad says that a record does not authenticate. Nothing tells why.
var errBad = errors.New("bad record")

type aeadMaker = cipher.AEAD

func gcm(key []byte) (aeadMaker, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func chacha(key []byte) (aeadMaker, error) { return chacha20poly1305.New(key) }

func (s *suite) protect(k Kind, mac, key, iv []byte) (protection, error) {
	if s.aead == nil {
		b, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return &cbc{block: b, mac: hmac.New(constantTime, mac)}, nil
	}
	a, err := s.aead(key)
	if err != nil {
		return nil, err
	}
	p := &aead{aead: a, explicit: 8}
	copy(p.iv[:], iv)
	if s.iv == 12 {
		p.explicit = 0
	}
	return p, nil
}

// aead is GCM (RFC 5288) or ChaCha20-Poly1305 (RFC 7905).
//
//	GCM:    | header 13 | explicit nonce 8 | sealed payload | tag 16 |   nonce = fixed 4, explicit 8
//	ChaCha: | header 13 | sealed payload | tag 16 |                      nonce = fixed 12 xor sequence
type aead struct {
	aead     cipher.AEAD
	explicit int
	iv       [12]byte
	nonce    [12]byte
	ad       [13]byte
}

func (p *aead) room() (front, back int) { return p.explicit, 16 }

// prepare sets nonce and additional data. explicit is nil for ChaCha.
func (p *aead) prepare(typ byte, version, epoch uint16, seq uint64, n int, explicit []byte) {
	full := uint64(epoch)<<48 | seq
	binary.BigEndian.PutUint64(p.ad[:], full)
	p.ad[8] = typ
	binary.BigEndian.PutUint16(p.ad[9:], version)
	binary.BigEndian.PutUint16(p.ad[11:], uint16(n))
	p.nonce = p.iv
	if explicit != nil {
		copy(p.nonce[4:], explicit)
		return
	}
	binary.BigEndian.PutUint64(p.nonce[4:], binary.BigEndian.Uint64(p.iv[4:])^full)
}

func (p *aead) seal(buf []byte, off, n int, typ byte, version, epoch uint16, seq uint64) ([]byte, error) {
	start := off - p.explicit - headerLen
	var explicit []byte
	if p.explicit > 0 {
		explicit = buf[off-8 : off]
		binary.BigEndian.PutUint64(explicit, uint64(epoch)<<48|seq)
	}
	p.prepare(typ, version, epoch, seq, n, explicit)
	putHeader(buf[start:], typ, version, epoch, seq, p.explicit+n+16)
	sealed := p.aead.Seal(buf[off:off], p.nonce[:], buf[off:off+n], p.ad[:])
	return buf[start : off+len(sealed)], nil
}

func (p *aead) open(dst []byte, r *record) ([]byte, error) {
	n := len(r.body) - p.explicit - 16
	if n < 0 {
		return nil, errBad
	}
	var explicit []byte
	if p.explicit > 0 {
		explicit = r.body[:8]
	}
	p.prepare(r.typ, r.version, r.epoch, r.seq, n, explicit)
	if len(dst) < n {
		dst = r.body[p.explicit:]
	}
	out, err := p.aead.Open(dst[:0], p.nonce[:], r.body[p.explicit:], p.ad[:])
	if err != nil {
		return nil, errBad
	}
	return out, nil
}

// cbc is AES-CBC with HMAC-SHA1, MAC then encrypt, as TLS 1.1 does it (RFC 4346 §6.2.3.2).
//
//	| header 13 | IV 16 | encrypted: payload | MAC 20 | padding 1..16 |
type cbc struct {
	block cipher.Block
	mac   hash.Hash
	head  [13]byte
}

const block = aes.BlockSize

func (p *cbc) room() (front, back int) { return block, sha1.Size + block }

func (p *cbc) header(typ byte, version, epoch uint16, seq uint64, n int) []byte {
	binary.BigEndian.PutUint64(p.head[:], uint64(epoch)<<48|seq)
	p.head[8] = typ
	binary.BigEndian.PutUint16(p.head[9:], version)
	binary.BigEndian.PutUint16(p.head[11:], uint16(n))
	return p.head[:]
}

func (p *cbc) seal(buf []byte, off, n int, typ byte, version, epoch uint16, seq uint64) ([]byte, error) {
	start, iv := off-block-headerLen, buf[off-block:off]
	if _, err := rand.Read(iv); err != nil {
		return nil, err
	}
	p.mac.Reset()
	p.mac.Write(p.header(typ, version, epoch, seq, n))
	p.mac.Write(buf[off : off+n])
	body := p.mac.Sum(buf[off : off+n])
	pad := block - len(body)%block
	for range pad {
		body = append(body, byte(pad-1))
	}
	cipher.NewCBCEncrypter(p.block, iv).CryptBlocks(body, body)
	putHeader(buf[start:], typ, version, epoch, seq, block+len(body))
	return buf[start : off+len(body)], nil
}

// open does the same work for good and bad padding, so that its time tells an attacker nothing (Lucky Thirteen): the padding
// is judged without branches; the MAC is computed over as many bytes as the padding claims, with a last block of constant
// time, and then over the rest, so that the number of hashed blocks is the same for all claims.
func (p *cbc) open(_ []byte, r *record) ([]byte, error) {
	if len(r.body)%block != 0 || len(r.body) < 2*block+block { // IV, and MAC with at least one byte of padding
		return nil, errBad
	}
	iv, body := r.body[:block], r.body[block:]
	cipher.NewCBCDecrypter(p.block, iv).CryptBlocks(body, body)
	pad, good := padding(body)
	n := len(body) - pad - sha1.Size
	// A claim that leaves no room for the MAC is bad; go on as if there were no padding.
	short := int(uint32(n) >> 31)
	good &= 1 - short
	n = subtle.ConstantTimeSelect(short, 0, n)
	p.mac.Reset()
	p.mac.Write(p.header(r.typ, r.version, r.epoch, r.seq, n))
	p.mac.Write(body[:n])
	want := p.mac.Sum(nil)
	p.mac.Write(body[n+sha1.Size:]) // the same number of blocks whatever the padding claims
	got := body[n : n+sha1.Size]
	if subtle.ConstantTimeCompare(got, want)&good != 1 {
		return nil, errBad
	}
	return body[:n], nil
}

// padding returns how many bytes of padding b claims, and 1 if they are all right. It looks at the same bytes whatever they
// say.
func padding(b []byte) (n, good int) {
	last := b[len(b)-1]
	n = int(last) + 1
	look := min(256, len(b))
	bad := byte(0)
	for i := range look {
		inside := byte(subtle.ConstantTimeLessOrEq(i+1, n)) // counted from the end
		bad |= -inside & (b[len(b)-1-i] ^ last)
	}
	good = subtle.ConstantTimeByteEq(bad, 0) & subtle.ConstantTimeLessOrEq(n, len(b))
	return subtle.ConstantTimeSelect(good, n, 1), good
}

// constantTime is SHA-1 whose Sum takes the same time for each length within a block.
func constantTime() hash.Hash {
	h := sha1.New()
	if c, ok := h.(interface {
		hash.Hash
		ConstantTimeSum(b []byte) []byte
	}); ok {
		return steady{c}
	}
	return h
}

type steady struct {
	c interface {
		hash.Hash
		ConstantTimeSum(b []byte) []byte
	}
}

func (s steady) Write(b []byte) (int, error) { return s.c.Write(b) }
func (s steady) Sum(b []byte) []byte         { return s.c.ConstantTimeSum(b) }
func (s steady) Reset()                      { s.c.Reset() }
func (s steady) Size() int                   { return s.c.Size() }
func (s steady) BlockSize() int              { return s.c.BlockSize() }
