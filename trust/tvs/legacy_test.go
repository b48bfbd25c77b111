package tvs_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"ringfence/trust/internal/vectors"
	"ringfence/trust/tvs"
)

// The port as phones of each age find it: with and without old TLS, one record for an answer.
func TestOldPhones(t *testing.T) {
	for _, tc := range []struct {
		name    string
		legacy  bool
		version uint16
		suites  []uint16
		served  bool
	}{
		{"7965", true, tls.VersionTLS10, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}, true},
		{"7965 with AES-256", true, tls.VersionTLS10, []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA}, true},
		{"7965, switched off", false, tls.VersionTLS10, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}, false},
		{"RSA alone, switched off", false, tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}, false},
		{"8851", true, tls.VersionTLS12, nil, true},
		{"newer still", true, tls.VersionTLS13, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := start(t, func(o *tvs.Options) { o.Legacy = tc.legacy })
			cl := client(t, s)
			cl.TLS.MinVersion, cl.TLS.MaxVersion, cl.TLS.CipherSuites = tc.version, tc.version, tc.suites
			var counted *recordCounter
			cl.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				counted = &recordCounter{Conn: c}
				return counted, err
			}
			c, err := cl.Connect(t.Context())
			if (err == nil) != tc.served {
				t.Fatalf("got %v", err)
			}
			if !tc.served {
				return
			}
			defer c.Close()
			for i := range 3 {
				before := counted.applicationRecords()
				r, err := c.Verify(vectors.Key(t, "keys/ccm.pem").Cert.Raw)
				if err != nil || !r.Valid {
					t.Fatalf("answer %d: %+v, %v", i, r, err)
				}
				// Tickets of TLS 1.3 are such records too.
				if got := counted.applicationRecords() - before; got != 1 && tc.version < tls.VersionTLS13 {
					t.Errorf("answer %d came in %d records", i, got)
				}
			}
			if got := c.ConnectionState().Version; got != tc.version {
				t.Errorf("version %s", tls.VersionName(got))
			}
		})
	}
}

// What TVS gives the endpoint for old phones is enough for it: it must not depend on fields that crypto/tls alone reads.
func TestLegacyTakesTheTLSConfiguration(t *testing.T) {
	key := vectors.Key(t, "keys/tvs.pem")
	cert := &tls.Certificate{Certificate: [][]byte{key.Cert.Raw}, PrivateKey: key.Key}
	s := start(t, func(o *tvs.Options) {
		o.Legacy = true
		o.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }}
	})
	cl := client(t, s)
	cl.TLS.MinVersion, cl.TLS.MaxVersion, cl.TLS.CipherSuites = tls.VersionTLS10, tls.VersionTLS10, []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	if r, err := cl.Verify(t.Context(), key.Cert.Raw); err != nil || r == nil {
		t.Errorf("%+v, %v", r, err)
	}
}
