package web

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"ringfence/pki/ocsp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers OCSP with what it was asked.
type fake struct{}

func (fake) CRL(context.Context) ([]byte, error) { return []byte("present"), nil }
func (fake) CRLOf(_ context.Context, id string) ([]byte, error) {
	if id != "aa" {
		return nil, errors.New("no such CA")
	}
	return []byte("of aa"), nil
}
func (fake) AuthorityOf(id string) (*x509.Certificate, bool) {
	return &x509.Certificate{Raw: []byte("certificate")}, id == "aa"
}
func (fake) CRLs(context.Context) ([][]byte, error) { return [][]byte{{1}, {2}}, nil }
func (fake) Issuers() []*x509.Certificate           { return []*x509.Certificate{{Raw: []byte("issuer")}} }
func (fake) Roots() []*x509.Certificate             { return []*x509.Certificate{{Raw: []byte("root")}} }
func (fake) OCSP(b []byte) ([]byte, error) {
	if string(b) == "panic" {
		panic("planted")
	}
	return append([]byte("answer to "), b...), nil
}

func start(t *testing.T, h http.Handler) (base string) {
	t.Helper()
	s, err := New(Options{Name: "certs", Address: "127.0.0.1:0", Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		s.Stop()
	})
	return "http://" + s.Addr().String()
}

func TestPublished(t *testing.T) {
	more := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "more") })
	base := start(t, NewPublished(fake{}, map[string]http.Handler{"/scep": more}, nil))
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// Bytes whose base64 holds + and //, as a real request may.
	odd := []byte{0xff, 0xff, 0xff, 0xfb, 0xef, 0xbe, 1}
	if s := base64.StdEncoding.EncodeToString(odd); !strings.Contains(s, "//") || !strings.Contains(s, "+") {
		t.Fatal(s)
	}
	big := bytes.Repeat([]byte{1}, ocsp.MaxRequest+1)
	for _, tc := range []struct {
		name, method, path string
		body               []byte
		code               int
		kind, want         string
	}{
		{"present list", "GET", "/crl.der", nil, 200, "application/pkix-crl", "present"},
		{"list of a CA", "GET", "/crl/aa.crl", nil, 200, "application/pkix-crl", "of aa"},
		{"list of no CA", "GET", "/crl/bb.crl", nil, 404, "", ""},
		{"head of a list", "HEAD", "/crl.der", nil, 200, "application/pkix-crl", ""},
		{"CA", "GET", "/ca/aa.cer", nil, 200, "application/pkix-cert", "certificate"},
		{"no CA", "GET", "/ca/bb.cer", nil, 404, "", ""},
		{"all CAs", "GET", "/ca.pem", nil, 200, "application/pem-certificate-chain", "BEGIN CERTIFICATE"},
		{"all lists", "GET", "/crl.pem", nil, 200, "application/x-pem-file", "BEGIN X509 CRL"},
		{"list by POST", "POST", "/crl.der", nil, 405, "", ""},
		{"OCSP by POST", "POST", "/ocsp", []byte("x"), 200, "application/ocsp-response", "answer to x"},
		{"OCSP by GET", "GET", "/ocsp/" + base64.StdEncoding.EncodeToString(odd), nil, 200, "application/ocsp-response", "answer to " + string(odd)},
		{"OCSP by escaped GET", "GET", "/ocsp/" + url.QueryEscape(base64.StdEncoding.EncodeToString(odd)), nil, 200, "application/ocsp-response", "answer to " + string(odd)},
		{"OCSP, no base64", "GET", "/ocsp/!!", nil, 200, "application/ocsp-response", string(ocsp.Malformed.Marshal())},
		{"OCSP, too long", "POST", "/ocsp", big, 200, "application/ocsp-response", string(ocsp.Malformed.Marshal())},
		{"OCSP, nothing asked", "GET", "/ocsp", nil, 405, "", ""},
		{"more", "GET", "/scep?operation=GetCACaps", nil, 200, "", "more"},
		{"nothing", "GET", "/", nil, 404, "", ""},
		{"outside", "GET", "/crl/../ca.pem", nil, 404, "", ""},
	} {
		req, err := http.NewRequest(tc.method, base+tc.path, bytes.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tc.code || tc.kind != "" && res.Header.Get("Content-Type") != tc.kind || !strings.Contains(string(b), tc.want) {
			t.Errorf("%s: %d %s %q, %v; want %d %s %q", tc.name, res.StatusCode, res.Header.Get("Content-Type"), b, err, tc.code, tc.kind, tc.want)
		}
	}
	// A panic ends its own connection.
	if res, err := client.Post(base+"/ocsp", "", strings.NewReader("panic")); err == nil {
		res.Body.Close()
		t.Error("answered after a panic")
	}
	res, err := client.Get(base + "/crl.der")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

// More requests than can be signed are put off, not queued.
func TestTooManyAreToldToTryLater(t *testing.T) {
	p := NewPublished(fake{}, nil, nil)
	later := 0
	for range answersBurst + 100 {
		w := &recorder{h: http.Header{}}
		r, err := http.NewRequest("POST", "/ocsp", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		p.ServeHTTP(w, r)
		if bytes.Equal(w.body.Bytes(), ocsp.TryLater.Marshal()) {
			later++
		}
	}
	if later == 0 {
		t.Error("every one was answered")
	}
}

type recorder struct {
	h    http.Header
	body bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.h }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(int)             {}

func TestStopBeforeRun(t *testing.T) {
	s, err := New(Options{Name: "certs", Address: "127.0.0.1:0", Handler: NewPublished(fake{}, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Stop()
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}
