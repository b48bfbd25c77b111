package image

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OpenPGP version 4 names keys by it (RFC 4880, section 12.2)
	"crypto/sha512"
	"encoding/binary"
	"math/big"
)

// GRUB 2.06 checks detached OpenPGP signatures of version 4 and knows RSA and DSA keys. What it reads is little: a public key
// packet, and a signature whose issuer stands in the unhashed part. RSA signatures with PKCS #1 v1.5 are deterministic.

// pgpCreated is the time in every key and signature; OpenPGP wants one, nobody checks it.
const pgpCreated = 1767225600

// OpenPGP constants (RFC 4880, sections 4.3, 5.2.1, 9.1, 9.4, 5.2.3.1).
const (
	pgpSignature  = 2
	pgpPublicKey  = 6
	pgpUserID     = 13
	pgpBinary     = 0x00
	pgpRSA        = 1
	pgpSHA512     = 10
	pgpSubCreated = 2
	pgpSubIssuer  = 16
)

func pgpPacket(tag byte, body []byte) []byte {
	out := []byte{0x80 | tag<<2 | 1, byte(len(body) >> 8), byte(len(body))}
	return append(out, body...)
}

func pgpNumber(n *big.Int) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(n.BitLen()))
	return append(out, n.Bytes()...)
}

func pgpKeyBody(k *rsa.PublicKey) []byte {
	out := binary.BigEndian.AppendUint32([]byte{4}, pgpCreated)
	out = append(out, pgpRSA)
	out = append(out, pgpNumber(k.N)...)
	return append(out, pgpNumber(big.NewInt(int64(k.E)))...)
}

// pgpPublic is a public key as grub-mkimage --pubkey wants it.
func pgpPublic(k *rsa.PublicKey, name string) []byte {
	return append(pgpPacket(pgpPublicKey, pgpKeyBody(k)), pgpPacket(pgpUserID, []byte(name))...)
}

func pgpKeyID(k *rsa.PublicKey) []byte {
	sum := sha1.Sum(pgpPacket(pgpPublicKey, pgpKeyBody(k))) //nolint:gosec // see the import
	return sum[12:]
}

// pgpSign makes a detached signature of content.
func pgpSign(key *rsa.PrivateKey, content []byte) ([]byte, error) {
	hashed := binary.BigEndian.AppendUint32([]byte{5, pgpSubCreated}, pgpCreated)
	head := []byte{4, pgpBinary, pgpRSA, pgpSHA512, byte(len(hashed) >> 8), byte(len(hashed))}
	head = append(head, hashed...)
	h := sha512.New()
	h.Write(content)
	h.Write(head)
	h.Write(binary.BigEndian.AppendUint32([]byte{4, 0xff}, uint32(len(head))))
	sum := h.Sum(nil)
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA512, sum)
	if err != nil {
		return nil, err
	}
	unhashed := append([]byte{9, pgpSubIssuer}, pgpKeyID(&key.PublicKey)...)
	body := append(head, 0, byte(len(unhashed)))
	body = append(body, unhashed...)
	body = append(body, sum[:2]...)
	return pgpPacket(pgpSignature, append(body, pgpNumber(new(big.Int).SetBytes(sig))...)), nil
}
