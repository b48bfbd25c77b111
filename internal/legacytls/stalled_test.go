package legacytls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// Clients that never go on must not keep a normal one waiting, and are gone when their time is up.
func TestStalledHandshakes(t *testing.T) {
	hello := func() []byte {
		var b bytes.Buffer
		p := &puppet{Conn: bufferConn{Writer: &b}}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	const stalled = 200
	cfg := serverConfig()
	cfg.Sessions = NewSessions(10, time.Minute)
	l := newLab(t, modernConfig(), cfg)
	var open []net.Conn
	for i := range stalled {
		c := l.dial(t)
		open = append(open, c)
		if n := []int{0, 3, headerSize, headerSize + 10, len(hello)}[i%5]; n > 0 {
			if _, err := c.Write(hello[:n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := time.Now()
	c := tls.Client(l.dial(t), clientConfig(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA))
	echo(t, c, "a message")
	m := tls.Client(l.dial(t), &tls.Config{InsecureSkipVerify: true})
	echo(t, m, "a message")
	t.Logf("with %d stalled, two clients took %v", stalled, time.Since(start))
	// Their time is up: the listener's deadline, here brought about by hand.
	l.mu.Lock()
	for raw := range l.open {
		if raw.RemoteAddr().String() != c.NetConn().LocalAddr().String() && raw.RemoteAddr().String() != m.NetConn().LocalAddr().String() {
			raw.SetReadDeadline(time.Now())
		}
	}
	l.mu.Unlock()
	for range stalled {
		if err := await(t, l.errs, "end of a stalled handshake"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
	for i, c := range open {
		if _, err := io.Copy(io.Discard, c); err != nil && !broken(err) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	echo(t, c, "a message")
}

// bufferConn writes to a buffer.
type bufferConn struct {
	net.Conn
	io.Writer
}

func (b bufferConn) Write(p []byte) (int, error) { return b.Writer.Write(p) }
