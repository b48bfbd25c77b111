package dtls

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"

	"ringfence/internal/legacytls/cbc"
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
		return newBlocks(mac, key)
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

// blocks is AES-CBC with HMAC-SHA1, MAC then encrypt, as TLS 1.1 does it (RFC 4346 §6.2.3.2); the package cbc does the work and
// says what it takes to do it without telling an attacker anything.
//
//	| header 13 | IV 16 | encrypted: payload | MAC 20 | padding 1..16 |
type blocks struct {
	sealer  *cbc.Sealer
	opener  *cbc.Opener
	payload []byte // a copy, since sealing moves it
}

func newBlocks(mac, key []byte) (*blocks, error) {
	s, err := cbc.NewSealer(key, mac, nil)
	if err != nil {
		return nil, err
	}
	o, err := cbc.NewOpener(key, mac, nil)
	return &blocks{sealer: s, opener: o}, err
}

func (p *blocks) room() (front, back int) { return cbc.BlockSize, cbc.MACSize + cbc.BlockSize }

func (p *blocks) seal(buf []byte, off, n int, typ byte, version, epoch uint16, seq uint64) ([]byte, error) {
	start := off - cbc.BlockSize - headerLen
	p.payload = append(p.payload[:0], buf[off:off+n]...)
	h := cbc.Header{Sequence: uint64(epoch)<<48 | seq, Type: typ, Version: version}
	body := p.sealer.Seal(buf[start+headerLen:start+headerLen], h, p.payload)
	putHeader(buf[start:], typ, version, epoch, seq, len(body))
	return buf[start : start+headerLen+len(body)], nil
}

func (p *blocks) open(_ []byte, r *record) ([]byte, error) {
	h := cbc.Header{Sequence: uint64(r.epoch)<<48 | r.seq, Type: r.typ, Version: r.version}
	payload, err := p.opener.Open(h, r.body)
	if err != nil {
		return nil, errBad
	}
	return payload, nil
}
