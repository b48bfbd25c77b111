package acme

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Bounds of a proof: what a client's server answers is as little trusted as what a client sends.
const (
	proveTime    = 15 * time.Second
	maxAnswer    = 1 << 10
	maxRedirects = 3
)

// prover asks the servers that names lead to.
type prover struct {
	dialer            net.Dialer
	httpPort, tlsPort string
	transport         *http.Transport
}

func newProver(o Options) *prover {
	p := &prover{httpPort: o.httpPort, tlsPort: o.tlsPort}
	if o.Resolver != "" {
		p.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, o.Resolver)
		}}
	}
	p.transport = &http.Transport{
		DialContext: p.dialer.DialContext, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		// A server that redirects to its HTTPS side proves by what it says, not by a certificate that it has not got yet.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // RFC 8555 §8.3
	}
	return p
}

func (p *prover) stop() { p.transport.CloseIdleConnections() }

// check looks at the proof that a name is the client's: keyAuth is the token and the account's thumbprint (RFC 8555 §8.1).
func (p *prover) check(ctx context.Context, kind, name, token, keyAuth string) error {
	ctx, cancel := context.WithTimeout(ctx, proveTime)
	defer cancel()
	if kind == "tls-alpn-01" {
		return p.checkTLS(ctx, name, keyAuth)
	}
	return p.checkHTTP(ctx, name, token, keyAuth)
}

// checkHTTP fetches the token's file (RFC 8555 §8.3). Redirects are followed to the same name and its two usual ports alone.
func (p *prover) checkHTTP(ctx context.Context, name, token, keyAuth string) error {
	host := name
	if p.httpPort != "80" {
		host = net.JoinHostPort(name, p.httpPort)
	}
	address := url.URL{Scheme: "http", Host: host, Path: "/.well-known/acme-challenge/" + token}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: p.transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		port := r.URL.Port()
		if r.URL.Hostname() != name || port != "" && port != p.httpPort && port != p.tlsPort {
			return fmt.Errorf("a redirect to %s is not followed", r.URL.Host)
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", address.String(), unwrapURL(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", address.String(), err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %d, not 200", address.String(), res.StatusCode)
	case subtle.ConstantTimeCompare([]byte(strings.TrimRight(string(body), " \t\r\n")), []byte(keyAuth)) != 1:
		return fmt.Errorf("%s does not hold the token with this account's thumbprint", address.String())
	}
	return nil
}

// unwrapURL takes the address off an error that will name it anyway.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

var oidIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// checkTLS looks at the certificate that a server shows for the proof (RFC 8737 §3).
func (p *prover) checkTLS(ctx context.Context, name, keyAuth string) error {
	address := net.JoinHostPort(name, p.tlsPort)
	d := tls.Dialer{NetDialer: &p.dialer, Config: &tls.Config{
		ServerName: name, NextProtos: []string{"acme-tls/1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the certificate is the proof and signed by itself
	}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	if state.NegotiatedProtocol != "acme-tls/1" || len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%s does not speak acme-tls/1", address)
	}
	cert := state.PeerCertificates[0]
	if len(cert.DNSNames) != 1 || !strings.EqualFold(cert.DNSNames[0], name) || len(cert.IPAddresses)+len(cert.EmailAddresses)+len(cert.URIs) != 0 {
		return fmt.Errorf("the certificate of %s does not name %s alone", address, name)
	}
	sum := sha256.Sum256([]byte(keyAuth))
	want, err := asn1.Marshal(sum[:])
	if err != nil {
		return err
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidIdentifier) && e.Critical && subtle.ConstantTimeCompare(e.Value, want) == 1 {
			return nil
		}
	}
	return fmt.Errorf("the certificate of %s does not carry this account's thumbprint", address)
}
