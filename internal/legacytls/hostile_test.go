package legacytls

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/internal/legacytls/cbc"
)

// established is a puppet after its handshake.
func established(t *testing.T, version uint16) (*puppet, *pipe) {
	t.Helper()
	p, s := newPipe(t, serverConfig())
	p.version = version
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, s.hands, "handshake"); err != nil {
		t.Fatal(err)
	}
	return p, s
}

// refused wants the server to say this alert and close.
func refused(t *testing.T, name string, p *puppet, s *pipe, alert byte) {
	t.Helper()
	if err := p.ending(); err != fatal(alert) {
		t.Errorf("%s: the client got %v, want alert %d", name, err, alert)
	}
	err := await(t, s.end, "end")
	if f, ok := errors.AsType[*Fault](err); !ok || f.Alert != tls.AlertError(alert) {
		t.Errorf("%s: the server has %v", name, err)
	}
	if _, err := s.server.Write([]byte{1}); err == nil {
		t.Errorf("%s: written after the alert", name)
	}
	if _, err := s.server.Read(make([]byte, 1)); err == nil {
		t.Errorf("%s: read after the alert", name)
	}
}

// Whatever byte of a record's body is changed, the answer is the same: bad_record_mac and the end.
func TestTamperedRecords(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		p, _ := established(t, version)
		size := len(p.sealer.Seal(nil, headerOf(p), []byte("a message")))
		for i := range size {
			p, s := established(t, version)
			body := p.sealer.Seal(nil, headerOf(p), []byte("a message"))
			body[i] ^= 1 << (i % 8)
			if err := p.raw(typeApplication, version, body); err != nil {
				t.Fatal(err)
			}
			p.out++
			refused(t, fmt.Sprintf("%s, byte %d", tls.VersionName(version), i), p, s, alertBadRecordMAC)
		}
	}
}

// forge is a record's body of a client that knows the keys and breaks the rules.
func forge(t *testing.T, p *puppet, plain []byte) []byte {
	t.Helper()
	k := keyBlock(p.agreed.Version, p.agreed.Suite, p.master, &p.random, &p.agreed.Random).client
	// The chained kind goes on from the last block sent; TLS 1.1 lets us choose.
	s, err := cbc.NewSealer(k.key, make([]byte, cbc.MACSize), make([]byte, cbc.BlockSize))
	if err != nil {
		t.Fatal(err)
	}
	// Sealed as payload under a zero IV, with a zero MAC key, the blocks of plain come first.
	return append(make([]byte, cbc.BlockSize), s.Seal(nil, cbc.Header{}, plain)[:len(plain)]...)
}

// The table of what must not be told apart: all of these are one alert by one path.
func TestPaddingAndMACErrorsAreOne(t *testing.T) {
	const size = 320
	good := func(p *puppet, payload []byte, pad int) []byte {
		k := keyBlock(p.agreed.Version, p.agreed.Suite, p.master, &p.random, &p.agreed.Random).client
		return padWith(append(bytes.Clone(payload), macOf(k.mac, headerOf(p), payload)...), pad)
	}
	for _, tc := range []struct {
		name  string
		plain func(p *puppet) []byte
		want  byte
	}{
		{"good, least padding", func(p *puppet) []byte { return good(p, make([]byte, size-20-1), 1) }, 0},
		{"good, most padding", func(p *puppet) []byte { return good(p, make([]byte, size-20-256), 256) }, 0},
		{"wrong MAC", func(p *puppet) []byte { b := good(p, make([]byte, size-20-16), 16); b[size-36] ^= 1; return b }, alertBadRecordMAC},
		{"wrong payload", func(p *puppet) []byte { b := good(p, make([]byte, size-20-16), 16); b[0] ^= 1; return b }, alertBadRecordMAC},
		{"one byte of padding wrong", func(p *puppet) []byte { b := good(p, make([]byte, size-20-16), 16); b[size-9] ^= 1; return b }, alertBadRecordMAC},
		{"first byte of padding wrong", func(p *puppet) []byte { b := good(p, make([]byte, size-20-256), 256); b[size-256] ^= 1; return b }, alertBadRecordMAC},
		{"padding claims one less", func(p *puppet) []byte { b := good(p, make([]byte, size-20-16), 16); b[size-1]--; return b }, alertBadRecordMAC},
		{"no padding", func(p *puppet) []byte { b := make([]byte, size); b[size-1] = 0; return b }, alertBadRecordMAC},
		{"all padding", func(p *puppet) []byte { return bytes.Repeat([]byte{255}, size) }, alertBadRecordMAC},
		{"padding instead of the MAC", func(p *puppet) []byte { return bytes.Repeat([]byte{31}, 32) }, alertBadRecordMAC},
		{"padding longer than the record", func(p *puppet) []byte { return bytes.Repeat([]byte{99}, 32) }, alertBadRecordMAC},
		{"room for a MAC and no padding", func(p *puppet) []byte { return make([]byte, 16) }, alertBadRecordMAC},
		{"nothing", func(p *puppet) []byte { return nil }, alertBadRecordMAC},
		{"half a block", func(p *puppet) []byte { return make([]byte, 32) }, alertBadRecordMAC},
	} {
		p, s := established(t, tls.VersionTLS11)
		body := forge(t, p, tc.plain(p))
		if tc.name == "half a block" {
			body = body[:len(body)-8]
		}
		if err := p.raw(typeApplication, tls.VersionTLS11, body); err != nil {
			t.Fatal(err)
		}
		if tc.want != 0 {
			refused(t, tc.name, p, s, tc.want)
			continue
		}
		if typ, _, err := p.receive(); err != nil || typ != typeApplication { // it echoes
			t.Errorf("%s: record of type %d, %v", tc.name, typ, err)
		}
	}
}

// What a client may do wrong with its premaster secret. The server must not show by anything that it noticed.
func TestPremasterFaultsAreOne(t *testing.T) {
	raw := func(block func(k int, premaster []byte) []byte) func(*rsa.PublicKey, []byte) []byte {
		return func(pub *rsa.PublicKey, premaster []byte) []byte {
			c := new(big.Int).Exp(new(big.Int).SetBytes(block(pub.Size(), premaster)), big.NewInt(int64(pub.E)), pub.N)
			return c.FillBytes(make([]byte, pub.Size()))
		}
	}
	// PKCS #1 v1.5: 00 02, padding without zeros, 00, secret.
	pkcs1 := func(first, typ byte, gap int, secret []byte, k int) []byte {
		b := bytes.Repeat([]byte{0xaa}, k)
		b[0], b[1] = first, typ
		copy(b[k-len(secret):], secret)
		if gap >= 0 {
			b[k-len(secret)-1-gap] = 0
		}
		return b
	}
	for _, tc := range []struct {
		name    string
		encrypt func(*rsa.PublicKey, []byte) []byte
		good    bool
	}{
		{"right", raw(func(k int, s []byte) []byte { return pkcs1(0, 2, 0, s, k) }), true},
		{"other secret", func(pub *rsa.PublicKey, s []byte) []byte { s[20] ^= 1; return encryptPremaster(pub, s) }, false},
		{"version newer", func(pub *rsa.PublicKey, s []byte) []byte { s[1]++; return encryptPremaster(pub, s) }, false},
		{"version of SSL 3.0", func(pub *rsa.PublicKey, s []byte) []byte { s[1] = 0; return encryptPremaster(pub, s) }, false},
		{"version with another first byte", func(pub *rsa.PublicKey, s []byte) []byte { s[0] = 2; return encryptPremaster(pub, s) }, false},
		{"secret of 47 bytes", func(pub *rsa.PublicKey, s []byte) []byte { return encryptPremaster(pub, s[:47]) }, false},
		{"secret of 49 bytes", func(pub *rsa.PublicKey, s []byte) []byte { return encryptPremaster(pub, append(s, 1)) }, false},
		{"no secret", func(pub *rsa.PublicKey, s []byte) []byte { return encryptPremaster(pub, nil) }, false},
		{"padding of type 1", raw(func(k int, s []byte) []byte { return pkcs1(0, 1, 0, s, k) }), false},
		{"no zero first", raw(func(k int, s []byte) []byte { return pkcs1(1, 2, 0, s, k) }), false},
		{"no zero before the secret", raw(func(k int, s []byte) []byte { return pkcs1(0, 2, -1, s, k) }), false},
		{"a zero too early", raw(func(k int, s []byte) []byte { return pkcs1(0, 2, 5, s, k) }), false},
		{"random", func(pub *rsa.PublicKey, s []byte) []byte { b := make([]byte, pub.Size()); rand.Read(b[1:]); return b }, false},
		{"zeros", func(pub *rsa.PublicKey, s []byte) []byte { return make([]byte, pub.Size()) }, false},
		{"as large as the modulus", func(pub *rsa.PublicKey, s []byte) []byte { return pub.N.Bytes() }, false},
		{"too long", func(pub *rsa.PublicKey, s []byte) []byte { return append(encryptPremaster(pub, s), 0) }, false},
		{"too short", func(pub *rsa.PublicKey, s []byte) []byte { return encryptPremaster(pub, s)[1:] }, false},
		{"empty", func(pub *rsa.PublicKey, s []byte) []byte { return nil }, false},
	} {
		cfg := serverConfig()
		cfg.Sessions = NewSessions(10, time.Minute)
		p, s := newPipe(t, cfg)
		p.encrypt = tc.encrypt
		err := p.handshake()
		hands := await(t, s.hands, "handshake")
		if tc.good {
			if err != nil || hands != nil {
				t.Errorf("%s: %v, %v", tc.name, err, hands)
			}
			continue
		}
		// After Finished, as with any wrong key.
		if err != fatal(alertBadRecordMAC) || !strings.Contains(hands.Error(), "waiting for Finished: record of 48 bytes: bad record") {
			t.Errorf("%s: client %v, server %v", tc.name, err, hands)
		}
		if cfg.Sessions.Len() != 0 {
			t.Errorf("%s: a session is kept", tc.name)
		}
	}
}

func TestHellosRefused(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hello func(*clientHello)
		alert byte
	}{
		{"SSL 3.0", func(m *clientHello) { m.Version = 0x0300 }, alertProtocolVersion},
		{"version 0", func(m *clientHello) { m.Version = 0 }, alertProtocolVersion},
		{"TLS 1.3 alone", func(m *clientHello) {
			m.Extensions = []extension{{extSupportedVersions, []byte{2, 3, 4}}}
		}, alertProtocolVersion},
		{"no suite of ours", func(m *clientHello) {
			m.Suites = []uint16{tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}
		}, alertHandshakeFailure},
		{"signals alone", func(m *clientHello) { m.Suites = []uint16{signalRenegotiation} }, alertHandshakeFailure},
		{"fallback to TLS 1.0", func(m *clientHello) { m.Suites = append(m.Suites, signalFallback) }, alertInappropriateFallback},
		{"fallback to TLS 1.1", func(m *clientHello) { m.Version = tls.VersionTLS11; m.Suites = append(m.Suites, signalFallback) }, alertInappropriateFallback},
		{"compression alone", func(m *clientHello) { m.Compressions = []byte{1} }, alertIllegalParameter},
		{"renegotiation", func(m *clientHello) {
			m.Extensions = []extension{{extRenegotiation, append([]byte{12}, make([]byte, 12)...)}}
		}, alertHandshakeFailure},
		{"renegotiation without length", func(m *clientHello) { m.Extensions = []extension{{extRenegotiation, nil}} }, alertHandshakeFailure},
		{"extension twice", func(m *clientHello) { m.Extensions = []extension{{77, nil}, {77, nil}} }, alertDecodeError},
		{"no suites", func(m *clientHello) { m.Suites = nil }, alertDecodeError},
		{"no compressions", func(m *clientHello) { m.Compressions = nil }, alertDecodeError},
		{"session id of 33 bytes", func(m *clientHello) { m.SessionID = make([]byte, 33) }, alertDecodeError},
	} {
		p, s := newPipe(t, serverConfig())
		p.hello = tc.hello
		if err := p.handshake(); err != fatal(tc.alert) {
			t.Errorf("%s: the client got %v, want alert %d", tc.name, err, tc.alert)
		}
		if f, ok := errors.AsType[*Fault](await(t, s.hands, "handshake")); !ok || f.Alert != tls.AlertError(tc.alert) && tc.alert != alertDecodeError {
			if tc.alert != alertDecodeError {
				t.Errorf("%s: server has %v", tc.name, f)
			}
		}
	}
}

func TestHellosTaken(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hello func(*clientHello)
		info  bool // renegotiation_info in the answer
	}{
		{"bare", func(*clientHello) {}, false},
		{"renegotiation signal", func(m *clientHello) { m.Suites = append(m.Suites, signalRenegotiation) }, true},
		{"renegotiation extension", func(m *clientHello) { m.Extensions = []extension{{extRenegotiation, []byte{0}}} }, true},
		{"unknown extensions and suites", func(m *clientHello) {
			m.Extensions = []extension{{0x0a0a, nil}, {0x1234, []byte{1, 2, 3}}, {extServerName, []byte{1}}}
			m.Suites = append([]uint16{0x0a0a, 0xffff}, m.Suites...)
		}, false},
		{"compression offered too", func(m *clientHello) { m.Compressions = []byte{1, 0} }, false},
		{"unknown session", func(m *clientHello) { m.SessionID = make([]byte, 32) }, false},
		{"session id of one byte", func(m *clientHello) { m.SessionID = []byte{9} }, false},
	} {
		cfg := serverConfig()
		cfg.Sessions = NewSessions(1, time.Minute)
		p, _ := newPipe(t, cfg)
		p.hello = tc.hello
		if err := p.handshake(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got := len(p.agreed.Extensions) > 0; got != tc.info || tc.info && (p.agreed.Extensions[0].Type != extRenegotiation || !bytes.Equal(p.agreed.Extensions[0].Data, []byte{0})) {
			t.Errorf("%s: extensions %v", tc.name, p.agreed.Extensions)
		}
		if len(p.agreed.SessionID) != 32 {
			t.Errorf("%s: session id %x", tc.name, p.agreed.SessionID)
		}
		echoThrough(t, p, "a message")
	}
}

// echoThrough sends a record and wants one back.
func echoThrough(t *testing.T, p *puppet, text string) {
	t.Helper()
	if err := p.record(typeApplication, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if typ, got, err := p.receive(); err != nil || typ != typeApplication || string(got) != text {
		t.Fatalf("record of type %d, %q, %v", typ, got, err)
	}
}

func TestClientCertificatesRefused(t *testing.T) {
	rsaID, ecID := phoneIdentity(), ecPhoneIdentity()
	many := rsaID
	many.Certificate = slices.Repeat(rsaID.Certificate, maxChain+1)
	garbage := rsaID
	garbage.Certificate = [][]byte{{0x30, 3, 1, 2, 3}}
	other := rsaID
	other.PrivateKey = serverIdentity().PrivateKey
	for _, tc := range []struct {
		name   string
		cert   *tls.Certificate
		auth   tls.ClientAuthType
		change func(*certificateVerify)
		alert  byte
	}{
		{"none and required", nil, tls.RequireAnyClientCert, nil, alertHandshakeFailure},
		{"EC key", &ecID, tls.RequestClientCert, nil, alertUnsupportedCertificate},
		{"no certificate at all", &garbage, tls.RequestClientCert, nil, alertBadCertificate},
		{"too many", &many, tls.RequestClientCert, nil, alertDecodeError},
		{"key of somebody else", &other, tls.RequestClientCert, nil, alertDecryptError},
		{"signature changed", &rsaID, tls.RequestClientCert, func(v *certificateVerify) { v.Signature[9] ^= 1 }, alertDecryptError},
		{"signature cut", &rsaID, tls.RequestClientCert, func(v *certificateVerify) { v.Signature = v.Signature[1:] }, alertDecryptError},
		{"no signature", &rsaID, tls.RequestClientCert, func(v *certificateVerify) { v.Signature = nil }, alertDecryptError},
	} {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12} {
			cfg := serverConfig()
			cfg.ClientAuth = tc.auth
			p, s := newPipe(t, cfg)
			p.cert, p.breakVerify, p.version = tc.cert, tc.change, version
			if err := p.handshake(); err != fatal(tc.alert) {
				t.Errorf("%s, %s: the client got %v, want alert %d", tc.name, tls.VersionName(version), err, tc.alert)
			}
			if err := await(t, s.hands, "handshake"); err == nil {
				t.Errorf("%s: no error", tc.name)
			}
		}
	}
	// An algorithm that was not offered.
	cfg := serverConfig()
	cfg.ClientAuth = tls.RequestClientCert
	p, _ := newPipe(t, cfg)
	p.cert, p.version, p.breakVerify = &rsaID, tls.VersionTLS12, func(v *certificateVerify) { v.Algorithm = uint16(tls.PSSWithSHA256) }
	if err := p.handshake(); err != fatal(alertIllegalParameter) {
		t.Errorf("got %v", err)
	}
}

// Messages out of their turn. The early ChangeCipherSpec is the one that once made OpenSSL take keys that everybody knows.
func TestOutOfTurn(t *testing.T) {
	inject := func(at byte, typ byte, payload []byte) func(p *puppet) {
		return func(p *puppet) { p.before = map[byte]func(*puppet){at: func(p *puppet) { p.record(typ, payload) }} }
	}
	id := phoneIdentity()
	for _, tc := range []struct {
		name   string
		change func(p *puppet)
		alert  byte
	}{
		{"ChangeCipherSpec first", inject(msgClientHello, typeChangeCipher, []byte{1}), alertUnexpectedMessage},
		{"ChangeCipherSpec before the key exchange", inject(msgClientKeyExchange, typeChangeCipher, []byte{1}), alertUnexpectedMessage},
		{"ChangeCipherSpec before the certificate", inject(msgCertificate, typeChangeCipher, []byte{1}), alertUnexpectedMessage},
		{"ChangeCipherSpec before the signature", inject(msgCertificateVerify, typeChangeCipher, []byte{1}), alertUnexpectedMessage},
		{"ChangeCipherSpec twice, in clear", inject(typeChangeCipher, typeChangeCipher, []byte{1}), alertBadRecordMAC},
		{"ChangeCipherSpec twice", inject(sealedFinished, typeChangeCipher, []byte{1}), alertUnexpectedMessage},
		{"ChangeCipherSpec of 2", inject(typeChangeCipher, typeChangeCipher, []byte{2}), alertUnexpectedMessage},
		{"ChangeCipherSpec of two bytes", inject(typeChangeCipher, typeChangeCipher, []byte{1, 1}), alertUnexpectedMessage},
		{"application data first", inject(msgClientHello, typeApplication, []byte("GET /")), alertUnexpectedMessage},
		{"application data in clear", inject(msgClientKeyExchange, typeApplication, []byte("GET /")), alertUnexpectedMessage},
		{"application data before Finished", inject(sealedFinished, typeApplication, []byte("GET /")), alertUnexpectedMessage},
		{"Finished instead of ChangeCipherSpec", inject(typeChangeCipher, typeHandshake, framed(msgFinished, make([]byte, 12))), alertUnexpectedMessage},
		{"Finished first", inject(msgClientHello, typeHandshake, framed(msgFinished, make([]byte, 12))), alertUnexpectedMessage},
		{"a second hello", inject(msgCertificate, typeHandshake, framed(msgClientHello, nil)), alertUnexpectedMessage},
		{"key exchange twice", inject(msgCertificateVerify, typeHandshake, framed(msgClientKeyExchange, nil)), alertUnexpectedMessage},
		{"a message cut by ChangeCipherSpec", inject(typeChangeCipher, typeHandshake, []byte{msgFinished, 0}), alertUnexpectedMessage},
		{"hello request", inject(msgCertificate, typeHandshake, framed(msgHelloRequest, nil)), alertUnexpectedMessage},
		{"record of type 24", inject(msgCertificate, 24, []byte{1}), alertUnexpectedMessage},
		{"empty record", inject(msgCertificate, typeHandshake, nil), alertUnexpectedMessage},
		{"record of SSL 2.0", func(p *puppet) {
			p.before = map[byte]func(*puppet){msgClientHello: func(p *puppet) { p.raw(typeHandshake, 0x0002, []byte{1}) }}
		}, alertProtocolVersion},
		{"record of another version", func(p *puppet) {
			p.before = map[byte]func(*puppet){msgCertificate: func(p *puppet) { p.raw(typeHandshake, tls.VersionTLS11, []byte{1}) }}
		}, alertProtocolVersion},
		{"record too long", inject(msgCertificate, typeHandshake, make([]byte, maxPlain+1)), alertRecordOverflow},
		{"message too long", inject(msgCertificate, typeHandshake, []byte{msgCertificate, 0, 0x80, 1}), alertDecodeError},
		{"alert of one byte", inject(msgCertificate, typeAlert, []byte{1}), alertDecodeError},
		{"warnings and no end", func(p *puppet) {
			p.before = map[byte]func(*puppet){msgCertificate: func(p *puppet) {
				for range maxWarnings + 1 {
					p.record(typeAlert, []byte{levelWarning, 90})
				}
			}}
		}, alertUnexpectedMessage},
		{"wrong Finished", func(p *puppet) { p.breakFinish = func(b []byte) []byte { b[3] ^= 1; return b } }, alertDecryptError},
		{"Finished of 11 bytes", func(p *puppet) { p.breakFinish = func(b []byte) []byte { return b[:11] } }, alertDecryptError},
		{"Finished of 13 bytes", func(p *puppet) { p.breakFinish = func(b []byte) []byte { return append(b, 0) } }, alertDecryptError},
		{"no Finished", func(p *puppet) { p.breakFinish = func(b []byte) []byte { return nil } }, alertDecryptError},
	} {
		cfg := serverConfig()
		cfg.ClientAuth = tls.RequestClientCert
		p, s := newPipe(t, cfg)
		p.cert = &id
		tc.change(p)
		if err := p.handshake(); err != fatal(tc.alert) {
			t.Errorf("%s: the client got %v, want alert %d", tc.name, err, tc.alert)
		}
		if err := await(t, s.hands, "handshake"); err == nil {
			t.Errorf("%s: no error", tc.name)
		} else if a, ok := alertFor(err); !ok || a != tc.alert {
			t.Errorf("%s: the server has %v", tc.name, err)
		}
	}
}

func TestHandshakeIsBounded(t *testing.T) {
	long := func(n int) func(*clientHello) {
		return func(m *clientHello) { m.Extensions = []extension{{0x7777, make([]byte, n)}} }
	}
	for _, tc := range []struct {
		name            string
		hello, chain    int
		fragment, alert int
	}{
		{"long but good", 10000, 0, 100, -1},
		{"hello too long", maxMessage, 0, 1000, alertDecodeError},
		{"too many bytes in all", maxMessage - 100, maxMessage - 100, 500, alertUnexpectedMessage},
		{"too many records", maxHandshakeRecords, 0, 1, alertUnexpectedMessage},
	} {
		cfg := serverConfig()
		cfg.ClientAuth = tls.RequestClientCert
		p, s := newPipe(t, cfg)
		p.hello, p.fragment = long(tc.hello), tc.fragment
		if tc.chain > 0 {
			p.cert = &tls.Certificate{Certificate: [][]byte{make([]byte, tc.chain)}}
		}
		err := p.handshake()
		hands := await(t, s.hands, "handshake")
		if tc.alert < 0 && (err != nil || hands != nil) || tc.alert >= 0 && (err != fatal(byte(tc.alert)) || hands == nil) {
			t.Errorf("%s: %v, %v", tc.name, err, hands)
		}
	}
}

// A handshake in records of one byte each, with a certificate, is tolerated.
func TestFragments(t *testing.T) {
	id := phoneIdentity()
	for _, n := range []int{1, 2, 3, 7, 100} {
		cfg := serverConfig()
		cfg.ClientAuth = tls.RequireAnyClientCert
		p, _ := newPipe(t, cfg)
		p.fragment, p.cert = n, &id
		if err := p.handshake(); err != nil {
			t.Fatalf("fragments of %d: %v", n, err)
		}
		echoThrough(t, p, "a message")
	}
}

// A client that goes away after any number of bytes is noticed, and nothing else happens.
func TestCutAtEveryByte(t *testing.T) {
	id := phoneIdentity()
	cfg := serverConfig()
	cfg.ClientAuth, cfg.Sessions = tls.RequireAnyClientCert, NewSessions(10, time.Minute)
	p, s := newPipe(t, cfg)
	p.cert = &id
	whole := &cutter{Conn: p.Conn, left: 1 << 20}
	p.Conn = whole
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	await(t, s.hands, "handshake")
	total := 1<<20 - whole.left
	step := 1
	if testing.Short() {
		step = 37
	}
	for n := 0; n < total; n += step {
		q, s := newPipe(t, cfg)
		q.cert = &id
		q.Conn = &cutter{Conn: q.Conn, left: n}
		if err := q.handshake(); err == nil {
			t.Fatalf("cut after %d of %d bytes: no error", n, total)
		}
		if err := await(t, s.hands, "handshake"); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !broken(err) {
			t.Fatalf("cut after %d of %d bytes: %v", n, total, err)
		}
	}
	if cfg.Sessions.Len() != 1 {
		t.Errorf("%d sessions kept", cfg.Sessions.Len())
	}
}

// broken tells of a write to a peer that has gone.
func broken(err error) bool {
	ne, ok := errors.AsType[*net.OpError](err)
	return ok && !ne.Timeout()
}

// cutter closes after so many bytes.
type cutter struct {
	net.Conn
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	c.Conn.Write(b[:n])
	if n < len(b) {
		c.Conn.Close()
		return n, io.ErrClosedPipe
	}
	return n, nil
}

func TestAfterTheHandshake(t *testing.T) {
	for _, tc := range []struct {
		name  string
		send  func(p *puppet) error
		alert byte
	}{
		{"ChangeCipherSpec", func(p *puppet) error { return p.record(typeChangeCipher, []byte{1}) }, alertUnexpectedMessage},
		{"Finished", func(p *puppet) error { return p.record(typeHandshake, framed(msgFinished, make([]byte, 12))) }, alertUnexpectedMessage},
		{"empty handshake record", func(p *puppet) error { return p.record(typeHandshake, nil) }, alertUnexpectedMessage},
		{"record with too much", func(p *puppet) error { return p.record(typeApplication, make([]byte, maxPlain+1)) }, alertRecordOverflow},
		{"record too long", func(p *puppet) error { return p.raw(typeApplication, p.agreed.Version, make([]byte, maxCiphertext+16)) }, alertRecordOverflow},
		{"record of type 19", func(p *puppet) error { return p.raw(19, p.agreed.Version, make([]byte, 48)) }, alertUnexpectedMessage},
		{"record of another version", func(p *puppet) error { return p.raw(typeApplication, tls.VersionTLS12, make([]byte, 48)) }, alertProtocolVersion},
		{"record in clear", func(p *puppet) error {
			return p.raw(typeApplication, p.agreed.Version, []byte("GET / HTTP/1.0\r\n\r\n"))
		}, alertBadRecordMAC},
		{"empty body", func(p *puppet) error { return p.raw(typeApplication, p.agreed.Version, nil) }, alertBadRecordMAC},
		{"alert of three bytes", func(p *puppet) error { return p.record(typeAlert, []byte{1, 90, 0}) }, alertDecodeError},
		{"empty records and no end", func(p *puppet) (err error) {
			for range maxEmpty + 1 {
				err = errors.Join(err, p.record(typeApplication, nil))
			}
			return err
		}, alertUnexpectedMessage},
		{"warnings and no end", func(p *puppet) (err error) {
			for range maxWarnings + 1 {
				err = errors.Join(err, p.record(typeAlert, []byte{levelWarning, 90}))
			}
			return err
		}, alertUnexpectedMessage},
	} {
		p, s := established(t, tls.VersionTLS10)
		if err := tc.send(p); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		refused(t, tc.name, p, s, tc.alert)
	}
}

// Empty records between full ones, as OpenSSL sends them against BEAST, are as good as none.
func TestEmptyRecordsFromTheClient(t *testing.T) {
	p, _ := established(t, tls.VersionTLS10)
	for range 3 * maxEmpty {
		if err := p.record(typeApplication, nil); err != nil {
			t.Fatal(err)
		}
		echoThrough(t, p, "a message")
	}
}

// Once it is told no, and may go on; then it is the end.
func TestRenegotiation(t *testing.T) {
	p, s := established(t, tls.VersionTLS10)
	hello := framed(msgClientHello, make([]byte, 50))
	if err := p.record(typeHandshake, hello); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.receive(); err != (errAlert{levelWarning, alertNoRenegotiation}) {
		t.Fatalf("got %v", err)
	}
	echoThrough(t, p, "a message")
	if err := p.record(typeHandshake, hello); err != nil {
		t.Fatal(err)
	}
	refused(t, "second time", p, s, alertUnexpectedMessage)
}
