package legacytls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	rsaSuite  = tls.TLS_RSA_WITH_AES_128_CBC_SHA
	ecSuite   = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
	ccmSuite  = 0xc09c // TLS_RSA_WITH_AES_128_CCM: the number looks like ECDHE
	greaseAny = 0x5a5a
)

func TestNeedsLegacy(t *testing.T) {
	versions := func(v ...uint16) []extension {
		b := []byte{byte(2 * len(v))}
		for _, v := range v {
			b = append(b, byte(v>>8), byte(v))
		}
		return []extension{{extSupportedVersions, b}}
	}
	for _, tc := range []struct {
		name       string
		version    uint16
		suites     []uint16
		extensions []extension
		want       bool
	}{
		{"a 7965", tls.VersionTLS10, []uint16{rsaSuite}, nil, true},
		{"TLS 1.0 with ECDHE", tls.VersionTLS10, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, rsaSuite}, nil, true},
		{"TLS 1.1", tls.VersionTLS11, []uint16{rsaSuite}, nil, true},
		{"SSL 3.0", 0x0300, []uint16{rsaSuite}, nil, true},
		{"TLS 1.2 without ECDHE", tls.VersionTLS12, []uint16{rsaSuite, tls.TLS_RSA_WITH_AES_128_GCM_SHA256}, nil, true},
		{"TLS 1.2 with RSA and CCM", tls.VersionTLS12, []uint16{ccmSuite, rsaSuite}, nil, true},
		{"TLS 1.2 with ECDHE", tls.VersionTLS12, []uint16{rsaSuite, ecSuite}, nil, false},
		{"TLS 1.2 with ECDHE and CBC alone", tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, nil, false},
		{"TLS 1.3", tls.VersionTLS12, []uint16{tls.TLS_AES_128_GCM_SHA256}, versions(greaseAny, tls.VersionTLS13, tls.VersionTLS12), false},
		{"TLS 1.3 with suites unknown", tls.VersionTLS12, []uint16{0x1399}, versions(tls.VersionTLS13), false},
		{"a list of old versions", tls.VersionTLS12, []uint16{ecSuite}, versions(tls.VersionTLS11, tls.VersionTLS10), true},
		{"a list with nothing known", tls.VersionTLS12, []uint16{rsaSuite}, versions(greaseAny), true},
		{"version of the future", 0x0305, []uint16{ecSuite}, nil, false},
	} {
		var raw bytes.Buffer
		p := &puppet{Conn: bufferConn{Writer: &raw}, version: tc.version, suites: tc.suites, extensions: tc.extensions}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		hello, _, err := Sniff(readConn{Reader: &raw})
		if err != nil {
			t.Fatal(err)
		}
		if got := hello.NeedsLegacy(); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	if (Hello{}).NeedsLegacy() {
		t.Error("who speaks no TLS is served here")
	}
}

// readConn reads from a reader, and knows that its peer has addresses.
type readConn struct {
	net.Conn
	io.Reader
}

func (r readConn) Read(b []byte) (int, error)       { return r.Reader.Read(b) }
func (r readConn) Write(b []byte) (int, error)      { return len(b), nil }
func (r readConn) Close() error                     { return nil }
func (r readConn) SetWriteDeadline(time.Time) error { return nil }

func TestSniff(t *testing.T) {
	whole := func(change func(p *puppet)) []byte {
		var raw bytes.Buffer
		p := &puppet{Conn: bufferConn{Writer: &raw}, extensions: []extension{{extServerName, []byte{0, 10, 0, 0, 7, 'p', 'b', 'x', '.', 'n', 'e', 't'}}}}
		if change != nil {
			change(p)
		}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		return raw.Bytes()
	}
	good := whole(nil)
	big := func(n int) []byte {
		return whole(func(p *puppet) { p.extensions = []extension{{99, make([]byte, n)}}; p.fragment = 8000 })
	}
	for _, tc := range []struct {
		name    string
		raw     []byte
		version uint16
		err     error
	}{
		{"hello", good, tls.VersionTLS10, nil},
		{"hello in fragments of one byte", whole(func(p *puppet) { p.fragment = 1 }), tls.VersionTLS10, nil},
		{"hello and more", append(bytes.Clone(good), "more"...), tls.VersionTLS10, nil},
		{"large hello", big(16000), tls.VersionTLS10, nil},
		{"hello too large", big(17000), 0, nil},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), 0, nil},
		{"SSH", []byte("SSH-2.0-x\r\n"), 0, nil},
		{"SSL 2.0", []byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10}, 0, nil},
		{"other message", []byte{22, 3, 1, 0, 4, 20, 0, 0, 0}, 0, nil},
		{"hello with a fault", []byte{22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 1}, 0, nil},
		{"empty record", []byte{22, 3, 1, 0, 0}, 0, nil},
		{"record too long", []byte{22, 3, 1, 0x40, 1, 1}, 0, nil},
		{"nothing", nil, 0, io.EOF},
		{"cut in the header", good[:3], 0, io.ErrUnexpectedEOF},
		{"cut after the header", good[:5], 0, io.ErrUnexpectedEOF},
		{"cut in the body", good[:30], 0, io.ErrUnexpectedEOF},
	} {
		hello, replay, err := Sniff(readConn{Reader: bytes.NewReader(tc.raw)})
		if hello.Version != tc.version || !errors.Is(err, tc.err) {
			t.Errorf("%s: %+v, %v", tc.name, hello, err)
		}
		if err != nil {
			continue
		}
		if tc.version != 0 && tc.name != "large hello" && hello.ServerName != "pbx.net" {
			t.Errorf("%s: server name %q", tc.name, hello.ServerName)
		}
		if again, err := io.ReadAll(readerOnly{replay}); err != nil || !bytes.Equal(again, tc.raw) {
			t.Errorf("%s: %d bytes of %d again, %v", tc.name, len(again), len(tc.raw), err)
		}
	}
}

// Nothing is read beyond the hello, so that whoever is not meant can hand the connection on.
func TestSniffReadsNoFurther(t *testing.T) {
	var raw bytes.Buffer
	p := &puppet{Conn: bufferConn{Writer: &raw}}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	rest := strings.NewReader("the rest")
	if _, _, err := Sniff(readConn{Reader: io.MultiReader(&raw, rest)}); err != nil || rest.Len() != 8 {
		t.Errorf("%d left, %v", rest.Len(), err)
	}
}

func TestSniffHasADeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ours.SetDeadline(time.Now())
	if _, err := Accept(t.Context(), ours, modernConfig(), serverConfig()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Who speaks no TLS is answered by crypto/tls, as on every other listener.
func TestNonsenseGoesToCryptoTLS(t *testing.T) {
	ours, theirs := socketPair(t)
	defer theirs.Close()
	io.WriteString(theirs, "GET / HTTP/1.1\r\n\r\n")
	_, err := Accept(t.Context(), ours, modernConfig(), serverConfig())
	if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok {
		t.Errorf("got %v", err)
	}
}
