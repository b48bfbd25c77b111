package legacytls

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"hash"

	"ringfence/internal/legacytls/cbc"
)

const (
	masterSize   = 48
	verifySize   = 12
	premasterLen = 48
)

// keySize is that of a suite's AES key; 0 says that the suite is not one of ours.
func keySize(suite uint16) int {
	switch suite {
	case tls.TLS_RSA_WITH_AES_128_CBC_SHA:
		return 16
	case tls.TLS_RSA_WITH_AES_256_CBC_SHA:
		return 32
	}
	return 0
}

// expand is P_hash of RFC 2246 §5: it xors its output into out.
func expand(out []byte, h func() hash.Hash, secret, seed []byte) {
	m := hmac.New(h, secret)
	m.Write(seed)
	a := m.Sum(nil)
	for len(out) > 0 {
		m.Reset()
		m.Write(a)
		m.Write(seed)
		block := m.Sum(nil)
		n := min(len(out), len(block))
		for i, b := range block[:n] {
			out[i] ^= b
		}
		out = out[n:]
		m.Reset()
		m.Write(a)
		a = m.Sum(a[:0])
	}
}

// prf is the pseudo-random function: of MD5 and SHA-1, each with half of the secret, up to TLS 1.1 (RFC 2246 §5), of SHA-256 in
// TLS 1.2 (RFC 5246 §5).
func prf(version uint16, secret []byte, label string, seed []byte, n int) []byte {
	out := make([]byte, n)
	seed = append([]byte(label), seed...)
	if version >= tls.VersionTLS12 {
		expand(out, sha256.New, secret, seed)
		return out
	}
	half := (len(secret) + 1) / 2
	expand(out, md5.New, secret[:half], seed)
	expand(out, sha1.New, secret[len(secret)-half:], seed)
	return out
}

func masterSecret(version uint16, premaster []byte, client, server *[32]byte) []byte {
	return prf(version, premaster, "master secret", append(client[:], server[:]...), masterSize)
}

// directions are the keys of both directions.
type directions struct {
	client, server struct{ mac, key, iv []byte }
}

// keyBlock cuts the key block: MAC keys, keys, and in TLS 1.0 the first IVs, client before server (RFC 2246 §6.3).
func keyBlock(version, suite uint16, master []byte, client, server *[32]byte) (d directions) {
	const most = 2 * (cbc.MACSize + 32 + cbc.BlockSize)
	b := prf(version, master, "key expansion", append(server[:], client[:]...), most)
	cut := func(n int) []byte {
		out := b[:n:n]
		b = b[n:]
		return out
	}
	d.client.mac, d.server.mac = cut(cbc.MACSize), cut(cbc.MACSize)
	d.client.key, d.server.key = cut(keySize(suite)), cut(keySize(suite))
	if version == tls.VersionTLS10 {
		d.client.iv, d.server.iv = cut(cbc.BlockSize), cut(cbc.BlockSize)
	}
	return d
}

// transcript hashes the handshake's messages in every way that a version may ask for.
type transcript struct {
	md5, sha1, sha256 hash.Hash
}

func newTranscript() *transcript { return &transcript{md5.New(), sha1.New(), sha256.New()} }

func (t *transcript) add(message []byte) {
	t.md5.Write(message)
	t.sha1.Write(message)
	t.sha256.Write(message)
}

// both is the concatenation that TLS 1.0 and 1.1 sign and finish with.
func (t *transcript) both() []byte { return t.sha1.Sum(t.md5.Sum(nil)) }

// finished computes what a Finished message holds; who is client or server.
func (t *transcript) finished(version uint16, master []byte, who string) []byte {
	sum := t.both()
	if version >= tls.VersionTLS12 {
		sum = t.sha256.Sum(nil)
	}
	return prf(version, master, who+" finished", sum, verifySize)
}
