package phone

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net/netip"

	"ringfence/trust"
)

// tlsConfig is what this model can do as a client. The server's certificate is matched against the lists and TVS, never
// against a name or chain.
func (p *Phone) tlsConfig(client bool) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS10,
		MaxVersion:         p.man.maxTLS,
		InsecureSkipVerify: true,
	}
	if p.man.rsaKX {
		// capf §1: the 7900 series does RSA key exchange only.
		c.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	}
	if client {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if id := p.identity(); id != nil {
				return id, nil
			}
			return &tls.Certificate{}, nil
		}
	}
	return c
}

// identity is the certificate that the phone shows: LSC, else MIC.
func (p *Phone) identity() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flash.lsc != nil {
		return p.flash.lsc
	}
	return p.opt.MIC
}

// dialTLS connects to a service and believes it only when its certificate is listed or vouched for with the role.
func (p *Phone) dialTLS(ctx context.Context, step string, addr netip.AddrPort, want trust.Role, service string, client bool) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.Timers.Connect)
	defer cancel()
	raw, err := p.net().DialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	conf := p.tlsConfig(client)
	var verdict error
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		verdict = p.vouch(ctx, step, s.PeerCertificates[0], want, service)
		return verdict
	}
	c := tls.Client(raw, conf)
	err = c.HandshakeContext(ctx)
	if err == nil {
		return c, nil
	}
	raw.Close()
	if verdict != nil {
		return nil, verdict
	}
	return nil, fmt.Errorf("%s: TLS: %w", service, err)
}

func randomUint32() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}
