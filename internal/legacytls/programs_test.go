package legacytls

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// program runs a TLS client that nobody here wrote, types a line and returns what it printed when that came back (or when it
// ended).
func program(t *testing.T, want string, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "OPENSSL_CONF=/dev/null", "LC_ALL=C") // a system's policy forbids what is tested here
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &screen{want: want, seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	io.WriteString(in, line)
	select {
	case <-out.seen:
	case <-ended:
	}
	in.Close()
	select {
	case <-ended:
	case <-time.After(labTime):
		t.Errorf("%s does not end", name)
		cancel()
		<-ended
	}
	return out.String()
}

// line is what is typed.
const line = "hello, exchange\n"

// screen collects output and tells when something stands there.
type screen struct {
	want string
	seen chan struct{}
	once sync.Once
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(b)
	if bytes.Contains(s.buf.Bytes(), []byte(s.want)) {
		s.once.Do(func() { close(s.seen) })
	}
	return len(b), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func contains(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
}

func TestOpenSSL(t *testing.T) {
	cert, key := pemFiles(t, phoneIdentity())
	for _, tc := range []struct {
		name    string
		args    []string
		auth    tls.ClientAuthType
		version uint16
		suite   uint16
		peers   int
		out     []string
	}{
		{"AES-128", []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0, []string{"Protocol  : TLSv1\n", "Cipher is AES128-SHA", "Extended master secret: no", "Secure Renegotiation IS supported"}},
		{"AES-256", []string{"-tls1", "-cipher", "AES256-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_256_CBC_SHA, 0, []string{"Cipher is AES256-SHA"}},
		{"the client's order", []string{"-tls1", "-cipher", "AES256-SHA:AES128-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_256_CBC_SHA, 0, nil},
		{"the client's other order", []string{"-tls1", "-cipher", "AES128-SHA:AES256-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0, nil},
		{"TLS 1.1", []string{"-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0, []string{"TLSv1.1"}},
		{"TLS 1.2 without ECDHE", []string{"-tls1_2", "-cipher", "AES256-SHA:@SECLEVEL=0"}, tls.NoClientCert, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_CBC_SHA, 0, []string{"TLSv1.2"}},
		{"asked for a certificate, none there", []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.RequestClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 0, nil},
		{"certificate", []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0", "-cert", cert, "-key", key}, tls.RequestClientCert, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 1, nil},
		{"certificate, required, TLS 1.1", []string{"-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0", "-cert", cert, "-key", key}, tls.RequireAnyClientCert, tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 1, nil},
		{"certificate, TLS 1.2", []string{"-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0", "-cert", cert, "-key", key}, tls.RequireAnyClientCert, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 1, nil},
		{"certificate, TLS 1.2, SHA-1 alone", []string{"-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0", "-sigalgs", "RSA+SHA1", "-cert", cert, "-key", key}, tls.RequireAnyClientCert, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA, 1, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := serverConfig()
			cfg.ClientAuth = tc.auth
			l := newLab(t, modernConfig(), cfg)
			out := program(t, strings.TrimSpace(line), "openssl", append([]string{"s_client", "-connect", l.Addr().String()}, tc.args...)...)
			contains(t, out, append(tc.out, strings.TrimSpace(line))...)
			s := await(t, l.states, "handshake:\n"+out)
			if s.Version != tc.version || s.CipherSuite != tc.suite || len(s.PeerCertificates) != tc.peers || !s.HandshakeComplete || s.DidResume {
				t.Errorf("%s, %s, %d certificates", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), len(s.PeerCertificates))
			}
			if tc.peers > 0 && s.PeerCertificates[0].Subject.CommonName != "SEP001122AA0001" {
				t.Errorf("peer is %v", s.PeerCertificates[0].Subject)
			}
		})
	}
}

func TestOpenSSLResumes(t *testing.T) {
	cert, key := pemFiles(t, phoneIdentity())
	for _, tc := range []struct {
		name     string
		version  string
		sessions *Sessions
		auth     tls.ClientAuthType
		args     []string
		resumed  int
	}{
		{"TLS 1.0", "-tls1", NewSessions(10, time.Minute), tls.NoClientCert, nil, 5},
		{"TLS 1.1", "-tls1_1", NewSessions(10, time.Minute), tls.NoClientCert, nil, 5},
		{"TLS 1.2", "-tls1_2", NewSessions(10, time.Minute), tls.NoClientCert, nil, 5},
		{"with a certificate", "-tls1", NewSessions(10, time.Minute), tls.RequestClientCert, []string{"-cert", cert, "-key", key}, 5},
		{"asked for a certificate that is not there", "-tls1", NewSessions(10, time.Minute), tls.RequestClientCert, nil, 0},
		{"no cache", "-tls1", nil, tls.NoClientCert, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := serverConfig()
			cfg.Sessions, cfg.ClientAuth = tc.sessions, tc.auth
			l := newLab(t, modernConfig(), cfg)
			args := append([]string{"s_client", "-connect", l.Addr().String(), tc.version, "-cipher", "AES128-SHA:@SECLEVEL=0", "-reconnect", "-no_ticket"}, tc.args...)
			out := program(t, strings.TrimSpace(line), "openssl", args...)
			contains(t, out, strings.TrimSpace(line))
			resumed := 0
			for range 6 { // OpenSSL connects once and five times again
				s := await(t, l.states, "handshake")
				if s.DidResume {
					resumed++
				}
				if peers := len(s.PeerCertificates); peers != len(tc.args)/4 {
					t.Errorf("resumed %v: %d certificates", s.DidResume, peers)
				}
			}
			if resumed != tc.resumed || strings.Count(out, "Reused, ") != tc.resumed {
				t.Errorf("%d resumed, want %d; OpenSSL says\n%s", resumed, tc.resumed, out)
			}
		})
	}
}

func TestGnuTLS(t *testing.T) {
	cert, key := pemFiles(t, phoneIdentity())
	for _, tc := range []struct {
		name     string
		priority string
		args     []string
		version  uint16
		peers    int
		resumed  bool
	}{
		{"TLS 1.0", "NORMAL:-VERS-ALL:+VERS-TLS1.0:-KX-ALL:+RSA:%COMPAT", nil, tls.VersionTLS10, 0, false},
		{"TLS 1.1", "NORMAL:-VERS-ALL:+VERS-TLS1.1:-KX-ALL:+RSA:%COMPAT", nil, tls.VersionTLS11, 0, false},
		{"TLS 1.2 without ECDHE", "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA", nil, tls.VersionTLS12, 0, false},
		{"certificate", "NORMAL:-VERS-ALL:+VERS-TLS1.0:-KX-ALL:+RSA:%COMPAT", []string{"--x509certfile", cert, "--x509keyfile", key}, tls.VersionTLS10, 1, false},
		{"certificate, TLS 1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA", []string{"--x509certfile", cert, "--x509keyfile", key}, tls.VersionTLS12, 1, false},
		{"resumed", "NORMAL:-VERS-ALL:+VERS-TLS1.0:-KX-ALL:+RSA:%COMPAT:%NO_TICKETS", []string{"--resume", "--x509certfile", cert, "--x509keyfile", key}, tls.VersionTLS10, 1, true},
		{"AES-256", "NORMAL:-VERS-ALL:+VERS-TLS1.0:-KX-ALL:+RSA:-CIPHER-ALL:+AES-256-CBC:-MAC-ALL:+SHA1", nil, tls.VersionTLS10, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := serverConfig()
			cfg.ClientAuth, cfg.Sessions = tls.RequestClientCert, NewSessions(10, time.Minute)
			if tc.peers == 0 {
				cfg.ClientAuth = tls.NoClientCert
			}
			l := newLab(t, modernConfig(), cfg)
			_, port, _ := strings.Cut(l.Addr().String(), ":")
			out := program(t, strings.TrimSpace(line), "gnutls-cli", append([]string{"--insecure", "--priority", tc.priority, "--port", port, "127.0.0.1"}, tc.args...)...)
			contains(t, out, strings.TrimSpace(line), "Handshake was completed")
			s := await(t, l.states, "handshake")
			if tc.resumed {
				s = await(t, l.states, "second handshake")
				contains(t, out, "This is a resumed session")
			}
			if s.Version != tc.version || len(s.PeerCertificates) != tc.peers || s.DidResume != tc.resumed {
				t.Errorf("%s, %d certificates, resumed %v\n%s", tls.VersionName(s.Version), len(s.PeerCertificates), s.DidResume, out)
			}
		})
	}
}

// OpenSSL's client renegotiates on a line with R. It is told that there is no renegotiation, and gives up by itself.
func TestOpenSSLMayNotRenegotiate(t *testing.T) {
	l := newLab(t, modernConfig(), serverConfig())
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "s_client", "-connect", l.Addr().String(), "-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0")
	cmd.Env = append(os.Environ(), "OPENSSL_CONF=/dev/null")
	cmd.Stdin = strings.NewReader("R\n")
	out, _ := cmd.CombinedOutput()
	contains(t, string(out), "RENEGOTIATING", "no renegotiation")
}
