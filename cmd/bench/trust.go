package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/pki/capf"
	"ringfence/trust/tvs"
)

// enrolledSite is the daemon of trust and phones: phones in encrypted mode, which must have their certificates before they
// can register.
func (b *bench) enrolledSite() site {
	n := b.scale(b.fleetSize)
	return site{phones: n, secure: true, rsa: n / 10}
}

// trust measures the servers that phones meet before they register: TVS and CAPF. What one RSA signature costs is timed beside
// it, since a TLS connection with an RSA certificate cannot cost less.
func (b *bench) trust(ctx context.Context) (err error) {
	sign, err := b.rsaSignature(ctx)
	if err != nil {
		return err
	}
	d, err := b.newDaemon(ctx, "trust", b.enrolledSite())
	if err != nil {
		return err
	}
	defer also(&err, d)
	if err := b.tvs(ctx, d, sign); err != nil {
		return err
	}
	return b.enrol(ctx, d, filepath.Join(b.tmp, "trust"))
}

// rsaSignature times one RSA-2048 signature with Go's library, and with OpenSSL's where that is installed.
func (b *bench) rsaSignature(ctx context.Context) (time.Duration, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("anchor"))
	own := process{pids: []int{os.Getpid()}}
	n, before := 0, own.cpu()
	for end := time.Now().Add(time.Second); time.Now().Before(end); n++ {
		if _, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:]); err != nil {
			return 0, err
		}
	}
	sign := (own.cpu() - before) / time.Duration(n)
	r := row{Name: "anchor: one RSA-2048 signature, Go", Value: per(sign, 1, time.Millisecond), Unit: "ms CPU"}
	out, err := exec.CommandContext(ctx, "openssl", "speed", "-seconds", "1", "-mr", "rsa2048").Output()
	if err == nil {
		// +F2:2:2048:<signatures per second>:<verifications per second>
		for line := range strings.Lines(string(out)) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 5 && f[0] == "+F2" {
				if perSecond, err := strconv.ParseFloat(f[3], 64); err == nil && perSecond > 0 {
					r.Reference, r.Than = 1000/perSecond, "OpenSSL"
				}
			}
		}
	}
	b.report.add(r)
	return sign, nil
}

// phoneTLS is how phones connect: TLS 1.2. Whom they believe is another program's test.
func phoneTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
}

// from is a dialer with an address of phone i.
func from(i int) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(phoneAddress(i), 0)), Timeout: answerTime}
	return d.DialContext
}

func (b *bench) tvs(ctx context.Context, d *daemon, sign time.Duration) error {
	const atOnce = 16
	address := fmt.Sprintf("%s:%d", daemonAddress, portTVS)
	client := func(i int) *tvs.Client {
		return &tvs.Client{Address: address, TLS: phoneTLS(), Device: "CP-8851-" + device(i), Dial: from(i)}
	}
	c, err := client(0).Connect(ctx)
	if err != nil {
		return err
	}
	der := c.ConnectionState().PeerCertificates[0].Raw
	c.Close()
	ask := func(c *tvs.Conn) error {
		r, err := c.Verify(der)
		if err == nil && !r.Valid {
			err = errors.New("TVS does not know its own certificate")
		}
		return err
	}
	type kind struct {
		name   string
		goal   float64
		anchor bool
		f      func(w int) error
	}
	clients, conns := make([]*tvs.Client, atOnce), make([]*tvs.Conn, atOnce)
	for w := range atOnce {
		clients[w] = client(w)
		clients[w].TLS.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		for range 2 { // the first makes the ticket
			if c, err = clients[w].Connect(ctx); err != nil {
				return err
			}
			if err := ask(c); err != nil {
				return err
			}
			if conns[w] != nil {
				conns[w].Close()
			}
			conns[w] = c
		}
	}
	resumed := conns[0].ConnectionState().DidResume
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	once := func(cl *tvs.Client) error {
		c, err := cl.Connect(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(c)
	}
	for _, k := range []kind{
		{"TVS query, new TLS connection", 1.5 * per(sign, 1, time.Millisecond), true, func(w int) error { return once(client(w)) }},
		{"TVS query, resumed TLS session", 0.3, false, func(w int) error { return once(clients[w]) }},
		{"TVS query, same connection", 0, false, func(w int) error { return ask(conns[w]) }},
	} {
		before := d.cpu()
		n, took, times, err := load(ctx, b.span()/2, atOnce, k.f)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		r := row{Name: k.name, Value: per(d.cpu()-before, n, time.Millisecond), Unit: "ms CPU", Goal: k.goal,
			Beside: fmt.Sprintf("%s/s, 16 clients, p99 %v", figure(float64(n)/took.Seconds()), quantile(times, 0.99).Round(10*time.Microsecond))}
		if k.anchor {
			r.Reference, r.Than = per(sign, 1, time.Millisecond), "RSA signature"
		}
		if strings.Contains(k.name, "resumed") && !resumed {
			r.Beside += "; NOT RESUMED by the server"
		}
		b.report.add(r)
	}
	return nil
}

// enrol gives every phone of the site its certificate by CAPF and keeps those in a folder: RSA keys first, then
// P-256. One key of each kind serves all, made beforehand: phones make their own, at their own cost.
func (b *bench) enrol(ctx context.Context, d *daemon, dir string) error {
	const atOnce = 8
	s := b.enrolledSite()
	address := fmt.Sprintf("%s:%d", daemonAddress, portCAPF)
	ders := make([][]byte, s.phones)
	var mu sync.Mutex
	for _, k := range []struct {
		name        string
		kind        capf.KeyKind
		first, last int
	}{{"RSA-2048", capf.RSA2048, 0, s.rsa}, {"P-256", capf.P256, s.rsa, s.phones}} {
		key, err := capf.GenerateKey(k.kind)
		if err != nil {
			return err
		}
		if err := keep(filepath.Join(dir, "key-"+string(k.kind)), key); err != nil {
			return err
		}
		before, began := d.cpu(), time.Now()
		var times []time.Duration
		err = each(k.last-k.first, atOnce, func(i int) error {
			i += k.first
			began := time.Now()
			conn, err := from(i)(ctx, "tcp", address)
			if err != nil {
				return err
			}
			t := tls.Client(conn, phoneTLS())
			if err := t.HandshakeContext(ctx); err != nil {
				conn.Close()
				return err
			}
			res, err := (&capf.Client{Device: device(i), GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil }}).Run(ctx, t)
			if err == nil && (res.Reason != capf.ReasonDone || len(res.Certificate) == 0) {
				err = fmt.Errorf("%s: %v", device(i), res.Reason)
			}
			mu.Lock()
			defer mu.Unlock()
			ders[i] = res.Certificate
			times = append(times, time.Since(began))
			return err
		})
		if err != nil {
			return fmt.Errorf("CAPF %s: %w", k.name, err)
		}
		took := time.Since(began)
		n := k.last - k.first
		b.report.add(row{Name: "CAPF enrolment, key " + k.name, Value: per(d.cpu()-before, n, time.Millisecond), Unit: "ms CPU", Goal: 4.3,
			Beside: fmt.Sprintf("%s/s, 8 phones at once, new TLS connection, issued and journalled; p99 %v", figure(float64(n)/took.Seconds()),
				quantile(times, 0.99).Round(time.Millisecond))})
	}
	f, err := os.Create(filepath.Join(dir, "certificates.pem"))
	if err != nil {
		return err
	}
	defer f.Close()
	for i, der := range ders {
		if err := pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Device": device(i)}, Bytes: der}); err != nil {
			return err
		}
	}
	return nil
}

func keep(file string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, der, 0o600)
}

// certificates are what enrol has left, one for each phone.
func (b *bench) certificates() ([]tls.Certificate, error) {
	s := b.enrolledSite()
	text, err := os.ReadFile(filepath.Join(b.tmp, "trust", "certificates.pem"))
	if err != nil {
		return nil, fmt.Errorf("phones over TLS need the part trust before them: %w", err)
	}
	keys := map[capf.KeyKind]crypto.PrivateKey{}
	for _, kind := range []capf.KeyKind{capf.RSA2048, capf.P256} {
		der, err := os.ReadFile(filepath.Join(b.tmp, "trust", "key-"+string(kind)))
		if err != nil {
			return nil, err
		}
		if keys[kind], err = x509.ParsePKCS8PrivateKey(der); err != nil {
			return nil, err
		}
	}
	var all []tls.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all, nil
		}
		kind := capf.P256
		if len(all) < s.rsa {
			kind = capf.RSA2048
		}
		all = append(all, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: keys[kind]})
	}
}
