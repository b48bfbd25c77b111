// Package legacytls is a TLS server endpoint for phones that know nothing newer than TLS 1.0 and RSA key exchange (6900, 7900,
// 8900 and 9900 series), on listeners that the administrator switched to it (node.listen.legacy_tls). Everybody else on
// the same port is served by crypto/tls; Accept decides by the ClientHello.
//
// It exists because crypto/tls splits every record of TLS 1.0 in CBC mode into one byte and the rest, with no setting against it,
// and these phones take one record for one message. Here one Write of up to 16384 bytes is one record.
//
// It implements, after RFC 2246 (TLS 1.0), RFC 4346 (1.1) and RFC 5246 (1.2):
//
//   - key exchange RSA with TLS_RSA_WITH_AES_128_CBC_SHA and TLS_RSA_WITH_AES_256_CBC_SHA, whichever the client names first;
//   - TLS 1.2 with these two suites, so that a phone that could do better than 1.0 but knows no ECDHE is not made to do worse;
//   - a client certificate with an RSA key, if asked for;
//   - resumption by session id from a bounded cache;
//   - the answer to secure renegotiation (RFC 5746), the fallback signal (RFC 7507) and the mark in the server's random by
//     which newer clients notice that somebody made them look old (RFC 8446 §4.1.3).
//
// It leaves out: clients, renegotiation (answered by no_renegotiation, then by closing), compression, tickets, ALPN, exported
// keys, extended master secret, encrypt-then-MAC, ClientHello in the form of SSL 2.0, SSL 3.0. Server names are read and other
// extensions ignored.
//
// # What protects, and what does not
//
// RSA key exchange has been broken by servers that told good padding from bad (Bleichenbacher 1998 and its children): here a
// premaster secret that does not decrypt, or names another version, is replaced by a random one without a branch, and
// the handshake fails later, at the client's Finished, as it does for any wrong key. CBC after MAC has been broken by servers
// that told bad padding from a bad MAC: see the package cbc. Every record that does not authenticate is answered by
// bad_record_mac and the end of the connection.
//
// There is no forward secrecy: who records traffic and later gets the server's key can read it. There is no defence against chosen
// plaintext either (BEAST), for TLS 1.0 chains the IV from record to record and the usual defence, splitting or empty
// records, is what these phones cannot take. It takes an attacker who chooses what the server sends to the phone right after
// seeing a record; what these protocols send (certificates, answers about certificates, SIP, tunnelled packets whose TLS is the outer
// one) is not his to choose. Config.EmptyRecords switches the defence on for clients that bear it.
package legacytls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Config of an endpoint. In Accept, fields left zero are those of the tls.Config beside it.
type Config struct {
	// Certificate gives the server's certificate, whose key must be RSA and decrypt.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientAuth is tls.NoClientCert, tls.RequestClientCert or tls.RequireAnyClientCert. Chains are not verified here:
	// manufacturers' certificates are older than crypto/x509 accepts. VerifyConnection judges them.
	ClientAuth tls.ClientAuthType
	// Authorities are names in DER that the request for a certificate lists; none means any.
	Authorities [][]byte
	// VerifyConnection is called when the peer's certificates are known, in resumed handshakes too, so that a revoked certificate
	// does not live on in a session. An error ends the handshake.
	VerifyConnection func(tls.ConnectionState) error
	// Sessions keeps sessions for resumption; nil keeps none. Listeners with different certificates or different peers
	// should not share it.
	Sessions *Sessions
	// EmptyRecords sends an empty record before each of application data in TLS 1.0, against chosen plaintext. Off for phones.
	EmptyRecords bool
}

// TLSConn is what Accept returns: *tls.Conn or *Conn.
type TLSConn interface {
	net.Conn
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
	CloseWrite() error
	NetConn() net.Conn
}

var (
	_ TLSConn = (*tls.Conn)(nil)
	_ TLSConn = (*Conn)(nil)
)

// Accept reads a client's hello and does the handshake: by crypto/tls with modern, or, if legacy is given and the client needs it,
// by this package. ctx and the deadline of conn bound it. After an error conn is closed.
//
// modern.MinVersion should be TLS 1.2, for nobody who is older comes to it.
func Accept(ctx context.Context, conn net.Conn, modern *tls.Config, legacy *Config) (TLSConn, error) {
	c, err := choose(ctx, conn, modern, legacy)
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func choose(ctx context.Context, conn net.Conn, modern *tls.Config, legacy *Config) (TLSConn, error) {
	if legacy == nil {
		return tls.Server(conn, modern), nil
	}
	cfg, err := legacy.with(modern)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	hello, replay, err := Sniff(conn)
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	if hello.NeedsLegacy() {
		return Server(replay, cfg), nil
	}
	return tls.Server(replay, modern), nil
}

// with fills in what is zero from a configuration of crypto/tls.
func (c *Config) with(t *tls.Config) (*Config, error) {
	out := *c
	if out.Certificate == nil {
		out.Certificate = certificateOf(t)
	}
	if out.ClientAuth == tls.NoClientCert {
		out.ClientAuth = t.ClientAuth
	}
	if out.VerifyConnection == nil {
		out.VerifyConnection = t.VerifyConnection
	}
	// Silence here would let people in whom the other configuration keeps out.
	if t.VerifyPeerCertificate != nil {
		return nil, errors.New("legacytls: VerifyPeerCertificate is not supported; use VerifyConnection")
	}
	return &out, out.check()
}

func (c *Config) check() error {
	switch c.ClientAuth {
	case tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert:
		return nil
	}
	return fmt.Errorf("legacytls: ClientAuth %v is not supported; verify in VerifyConnection", c.ClientAuth)
}

// certificateOf chooses as crypto/tls does: GetCertificate first, then the first of Certificates that can be used.
func certificateOf(t *tls.Config) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if t.GetCertificate != nil {
			if c, err := t.GetCertificate(hello); c != nil || err != nil {
				return c, err
			}
		}
		for i := range t.Certificates {
			if _, err := decrypter(&t.Certificates[i]); err == nil {
				return &t.Certificates[i], nil
			}
		}
		return nil, errors.New("no RSA certificate")
	}
}
