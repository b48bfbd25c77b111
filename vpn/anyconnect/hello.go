package anyconnect

import (
	"crypto/tls"
	"net"
	"slices"
)

// hello chooses the TLS settings after reading each ClientHello (§2): modern clients are not weakened by what old phones need.
//
// A client that offers no ECDHE suite is an old phone. Where legacy is allowed it gets TLS 1.0 upwards with RSA key exchange
// and CBC only, since its firmware wants the TLS cipher to be one it also has for DTLS. One that knows ECDHE but nothing
// newer than TLS 1.1 gets ECDHE with CBC.
type hello struct {
	certificate func() *tls.Certificate
	legacy      bool
	refused     func(net.Addr)
	base        *tls.Config
	modern      *tls.Config
	rsa, old    *tls.Config
}

func newHello(certificate func() *tls.Certificate, legacy bool, refused func(net.Addr)) *hello {
	h := &hello{certificate: certificate, legacy: legacy, refused: refused}
	h.modern = &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
		},
	}
	h.rsa = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	h.old = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: append(slices.Clone(h.modern.CipherSuites), h.rsa.CipherSuites...)}
	for _, c := range []*tls.Config{h.modern, h.rsa, h.old} {
		// A certificate is asked for and never required: one port serves all ways to log in, and who it is, is decided there.
		c.ClientAuth = tls.RequestClientCert
		// Clients demand one frame per TLS record; without this, crypto/tls cuts the first records of a connection short.
		c.DynamicRecordSizingDisabled = true
		c.NextProtos = []string{"http/1.1"}
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate(), nil }
	}
	h.base = h.modern.Clone()
	h.base.GetConfigForClient = h.choose
	return h
}

func (h *hello) choose(c *tls.ClientHelloInfo) (*tls.Config, error) {
	rsa, ecdhe, newest := false, false, uint16(0)
	for _, id := range c.CipherSuites {
		switch {
		case id == tls.TLS_RSA_WITH_AES_256_CBC_SHA || id == tls.TLS_RSA_WITH_AES_128_CBC_SHA:
			rsa = true
		case id>>8 == 0xc0 || id>>8 == 0xcc || id>>8 == 0x13:
			ecdhe = true // or TLS 1.3
		}
	}
	for _, v := range c.SupportedVersions {
		if v <= tls.VersionTLS13 {
			newest = max(newest, v)
		}
	}
	switch {
	case ecdhe && newest >= tls.VersionTLS12:
		return h.modern, nil
	case !h.legacy:
		h.refused(c.Conn.RemoteAddr())
		return h.modern, nil
	case rsa && !ecdhe:
		return h.rsa, nil
	}
	return h.old, nil
}
