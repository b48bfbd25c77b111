package anyconnect

import (
	"crypto/tls"
	"net"

	"ringfence/internal/legacytls"
)

// hello holds the TLS settings of both kinds of clients; which it is, the ClientHello tells (§2): modern ones are not weakened
// by what old phones need.
//
// A client that knows nothing newer than TLS 1.1, or no ECDHE, is an old phone. Where legacy is allowed the package legacytls
// serves it, with RSA key exchange and AES-CBC, one frame to a record in TLS 1.0 too; its firmware wants the TLS cipher to be
// one that it also has for DTLS.
type hello struct {
	modern *tls.Config
	old    *legacytls.Config // nil: refused
}

func newHello(certificate func() *tls.Certificate, legacy bool, refused func(net.Addr)) *hello {
	h := &hello{modern: &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
		},
		// A certificate is asked for and never required: one port serves all ways to log in, and who it is, is decided there.
		ClientAuth: tls.RequestClientCert,
		// Clients demand one frame per TLS record; without this, crypto/tls cuts the first records of a connection short.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  []string{"http/1.1"},
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(), nil },
	}}
	if legacy {
		h.old = &legacytls.Config{Sessions: legacytls.NewSessions(0, 0)}
		return h
	}
	h.modern.GetConfigForClient = func(c *tls.ClientHelloInfo) (*tls.Config, error) {
		if isOld(c) {
			refused(c.Conn.RemoteAddr())
		}
		return nil, nil
	}
	return h
}

// isOld tells a client that the modern settings cannot serve.
func isOld(c *tls.ClientHelloInfo) bool {
	newest, ecdhe := uint16(0), false
	for _, v := range c.SupportedVersions {
		if v <= tls.VersionTLS13 {
			newest = max(newest, v)
		}
	}
	for _, id := range c.CipherSuites {
		ecdhe = ecdhe || id>>8 == 0xc0 || id>>8 == 0xcc || id>>8 == 0x13 // or TLS 1.3
	}
	return newest < tls.VersionTLS12 || !ecdhe
}
