package provision

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/netlimit"
	"ringfence/trust/enc"
	"ringfence/trust/sgn"
	"ringfence/trust/tlv"
)

type runner interface {
	Run(context.Context) error
	Stop()
}

// run serves until the test ends.
func run(t testing.TB, s runner) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func startHTTP(t testing.TB, w *world, change func(*HTTPOptions)) string {
	t.Helper()
	o := HTTPOptions{Files: w.Files, Address: "127.0.0.1:0"}
	if change != nil {
		change(&o)
	}
	s, err := NewHTTP(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s.Addr().String()
}

// exchange sends a request as it stands and reads one response.
func exchange(t testing.TB, c net.Conn, r *bufio.Reader, method, request string) (*http.Response, []byte) {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

// TestHTTPRules goes through provisioning.md §3.1 on one connection: it stays usable after every answer.
func TestHTTPRules(t *testing.T) {
	w := newWorld(t)
	addr := startHTTP(t, w, nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	whole := w.must(t, phoneOpen+".cnf.xml")
	for _, q := range []struct {
		name, line string
		status     int
		body       []byte // nil: not looked at
	}{
		{"missing", "GET /nothing.xml", 404, nil},
		{"file", "GET /" + phoneOpen + ".cnf.xml", 200, whole},
		{"double slash is not redirected", "GET //" + phoneOpen + ".cnf.xml", 200, whole},
		{"empty locale folder", "GET //g3-tones.xml", 404, nil},
		{"lower case", "GET /" + strings.ToLower(phoneOpen) + ".CNF.XML", 200, whole},
		{"backslash", `GET /\` + phoneOpen + ".cnf.xml", 200, whole},
		{"percent-decoded once", "GET /%53" + phoneOpen[1:] + ".cnf.xml", 200, whole},
		{"not twice", "GET /%2553" + phoneOpen[1:] + ".cnf.xml", 404, nil},
		{"dots are not cleaned into another file", "GET /a/../" + phoneOpen + ".cnf.xml", 404, nil},
		{"encoded dots", "GET /%2e%2e/" + phoneOpen + ".cnf.xml", 404, nil},
		{"nul", "GET /" + phoneOpen + ".cnf.xml%00", 404, nil},
		{"absolute form", "GET http://192.0.2.10:6970/" + phoneOpen + ".cnf.xml", 200, whole},
		{"query", "GET /" + phoneOpen + ".cnf.xml?a=b", 200, whole},
		{"folder", "GET /", 404, nil},
		{"head", "HEAD /" + phoneOpen + ".cnf.xml", 200, []byte{}},
		{"head of nothing", "HEAD /nothing", 404, []byte{}},
		{"put", "PUT /" + phoneOpen + ".cnf.xml", 405, nil},
		{"options", "OPTIONS *", 405, nil},
		{"CTL", "GET /CTL" + phoneOpen + ".tlv", 404, nil},
		{"once more", "GET /" + phoneOpen + ".cnf.xml", 200, whole},
	} {
		method, _, _ := strings.Cut(q.line, " ")
		res, body := exchange(t, c, r, method, q.line+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if res.StatusCode != q.status {
			t.Errorf("%s: status %d, want %d", q.name, res.StatusCode, q.status)
		}
		if res.Close || len(res.TransferEncoding) > 0 || res.Header.Get("Content-Encoding") != "" || res.Header.Get("Location") != "" {
			t.Errorf("%s: header %v", q.name, res.Header)
		}
		n, err := strconv.Atoi(res.Header.Get("Content-Length"))
		if err != nil || method != "HEAD" && n != len(body) {
			t.Errorf("%s: Content-Length %q of %d", q.name, res.Header.Get("Content-Length"), len(body))
		}
		if q.name == "head" && n != len(whole) {
			t.Errorf("head: Content-Length %d of %d", n, len(whole))
		}
		if q.body != nil && !bytes.Equal(body, q.body) {
			t.Errorf("%s: %d bytes, want %d", q.name, len(body), len(q.body))
		}
		if q.status == 404 && len(body) > 20 {
			t.Errorf("%s: %d bytes for a missing file", q.name, len(body))
		}
	}
	// An old client gets its file too.
	c2, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	if res, body := exchange(t, c2, bufio.NewReader(c2), "GET", "GET /"+phoneOpen+".cnf.xml HTTP/1.0\r\n\r\n"); res.StatusCode != 200 || !bytes.Equal(body, whole) {
		t.Errorf("HTTP/1.0: %d", res.StatusCode)
	}
}

func TestHTTPBadRequests(t *testing.T) {
	w := newWorld(t)
	addr := startHTTP(t, w, nil)
	for _, request := range []string{
		"\r\n\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /" + strings.Repeat("a", 20000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: "+strings.Repeat("y", 100)+"\r\n", 200) + "\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n",
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(c, request)
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil && isTimeout(err) {
			t.Errorf("%.30q: connection stays open", request)
		}
		if len(b) > 500 {
			t.Errorf("%.30q: %d bytes of answer", request, len(b))
		}
		c.Close()
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestCurl fetches as somebody who is not us would.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	w := newWorld(t)
	addr := startHTTP(t, w, nil)
	out := filepath.Join(t.TempDir(), "out")
	name := phone8851 + ".cnf.xml.sgn"
	b, err := exec.CommandContext(t.Context(), curl, "-sS", "-w", "%{http_code} %{num_connects} %{content_type}\n", "-o", out, "http://"+addr+"/"+name,
		"-o", out+"2", "http://"+addr+"/CTL"+phone8851+".tlv", "-o", out+"3", "http://"+addr+"/ITL"+phone8851+".tlv").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	if got, want := string(b), "200 1 application/octet-stream\n404 0 text/plain\n200 0 application/octet-stream\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	opened(t, readFile(t, out), name)
	if l, err := tlv.Parse(readFile(t, out+"3")); err != nil || l.Verify(tlv.ITLFile) != nil {
		t.Errorf("list: %v", err)
	}
	// curl is done when it has the bytes; the server counts them a moment later.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if l, ok := w.FetchedList(phone8851); ok && l.Current {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the fetch of the list was not counted")
		}
	}
}

// TestBootTogether lets 200 phones fetch their files at once, all from one address and each on its own connections.
func TestBootTogether(t *testing.T) {
	w := newWorld(t, func(w *world) {
		for i := range 196 {
			p := w.doc.Phones[0]
			p.Device = fmt.Sprintf("SEP00AABBCC%04X", i)
			w.doc.Phones = append(w.doc.Phones, p)
			l := w.doc.Lines[0]
			l.Number, l.Phone = l.Number[:1]+"1"+l.Number[1:], p.Device
			w.doc.Lines = append(w.doc.Lines, l)
			w.lsc[p.Device] = "lsc"
		}
	})
	addr := startHTTP(t, w, nil)
	began := time.Now()
	var wg sync.WaitGroup
	failed := make(chan string, 1000)
	for _, p := range w.doc.Phones {
		if p.Device == phoneOpen {
			continue
		}
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}, Timeout: 60 * time.Second}
			defer c.CloseIdleConnections()
			for _, name := range []string{"CTL" + p.Device + ".tlv", "ITL" + p.Device + ".tlv", p.Device + ".cnf.xml.sgn", p.Device + ".cnf.xml.enc.sgn", "dial-" + p.Device + ".xml.sgn", "keys-" + p.Device + ".xml.sgn"} {
				res, err := c.Get("http://" + addr + "/" + name)
				if err != nil {
					failed <- err.Error()
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					failed <- err.Error()
					return
				}
				switch {
				case strings.HasPrefix(name, "CTL"):
					if res.StatusCode != 404 {
						failed <- name + ": " + res.Status
					}
				case strings.HasSuffix(name, ".enc.sgn"):
					if res.StatusCode == 404 && w.lsc[p.Device] == "" {
						continue
					}
					if _, err = enc.Open(b, name, fileSigners(), keys()["lsc"].Key.(*rsa.PrivateKey)); err != nil {
						failed <- err.Error()
					}
				case strings.HasSuffix(name, ".sgn"):
					if _, err = sgn.Open(b, name, fileSigners()); err != nil {
						failed <- err.Error()
					}
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for text := range failed {
		t.Error(text)
	}
	t.Logf("%d phones in %s", len(w.doc.Phones)-1, time.Since(began))
}

// TestSlowSenders holds connections that send a byte now and then, or nothing, or do not read; others are served, and the
// number of connections of one source is bounded.
func TestSlowSenders(t *testing.T) {
	w := newWorld(t)
	const patience = 4 * time.Second
	addr := startHTTP(t, w, func(o *HTTPOptions) {
		o.Limits, o.HeaderTime = netlimit.Limits{Total: 300, PerSource: 201}, patience
	})
	var slow []net.Conn
	for i := range 200 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		slow = append(slow, c)
		if i%2 == 0 {
			io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
		}
	}
	get := func() error { // before the slow ones are closed
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience - time.Second}
		res, err := c.Get("http://" + addr + "/ITLFile.tlv")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	// The 201st is the limit.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	slow = append(slow, c)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // they drip on
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				for _, c := range slow[:200:200] {
					io.WriteString(c, "y")
				}
			}
		}
	}()
	// All of them end within the header time, however they drip.
	deadline := time.Now().Add(patience + 10*time.Second)
	for i, c := range slow {
		c.SetReadDeadline(deadline)
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Fatalf("connection %d is still open", i)
		}
	}
	if err := get(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestHTTPS is port 6971: unsigned bodies, the device file alone, secrets only over a proven certificate.
func TestHTTPS(t *testing.T) {
	w := newWorld(t)
	ec := keys()["tftp-ec"]
	addr := startHTTP(t, w, func(o *HTTPOptions) {
		o.Certificate = func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{ec.Cert.Raw}, PrivateKey: ec.Key}, nil
		}
		o.VerifyDevice = func(c *x509.Certificate, _ []*x509.Certificate) (string, error) {
			if c.Equal(keys()["lsc"].Cert) {
				return phone8851, nil
			}
			return "", errors.New("nobody's")
		}
	})
	get := func(name, key string) (int, []byte, tls.ConnectionState) {
		t.Helper()
		config := &tls.Config{InsecureSkipVerify: true}
		if key != "" {
			k := keys()[key]
			config.Certificates = []tls.Certificate{{Certificate: [][]byte{k.Cert.Raw}, PrivateKey: k.Key}}
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		res, err := c.Get("https://" + addr + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b, *res.TLS
	}
	for _, c := range []struct {
		name, key string
		status    int
		full      bool
	}{
		{phone8851 + ".cnf.xml.sgn", "", 200, false},
		{phone8851 + ".cnf.xml", "", 200, false},
		{phone8851 + ".cnf.xml.sgn", "lsc", 200, true},
		{phone8851 + ".cnf.xml.sgn", "lsc2", 200, false}, // not one of ours
		{phone7965 + ".cnf.xml.sgn", "lsc", 200, false},  // another's
		{phoneOpen + ".cnf.xml.sgn", "", 200, true},
		{"dial-" + phone8851 + ".xml", "", 404, false},
		{"ITL" + phone8851 + ".tlv", "", 404, false},
	} {
		status, b, cs := get(c.name, c.key)
		if status != c.status {
			t.Errorf("%s with %q: status %d", c.name, c.key, status)
		}
		if !cs.PeerCertificates[0].Equal(ec.Cert) || cs.NegotiatedProtocol == "h2" {
			t.Errorf("connection %v", cs.NegotiatedProtocol)
		}
		if status == 200 && !bytes.HasPrefix(b, []byte("<?xml")) {
			t.Errorf("%s: not the plain file", c.name)
		}
		if got := bytes.Contains(b, []byte("<authPassword>")); got != c.full {
			t.Errorf("%s with %q: password in it: %v", c.name, c.key, got)
		}
	}
}

func TestHTTPStops(t *testing.T) {
	w := newWorld(t)
	s, err := NewHTTP(HTTPOptions{Files: w.Files, Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c, bufio.NewReader(c), "GET", "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := net.Dial("tcp", s.Addr().String()); err == nil {
		t.Error("still listening")
	}
	s.Stop()
	s.Stop()
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("run after stop: %v", err)
	}
	// One that never ran lets go of its port too.
	s2, err := NewHTTP(HTTPOptions{Files: w.Files, Address: s.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	s2.Stop()
	if s3, err := NewHTTP(HTTPOptions{Files: w.Files, Address: s.Addr().String()}); err != nil {
		t.Error(err)
	} else {
		s3.Stop()
	}
}
