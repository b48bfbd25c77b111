package netlimit

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestListenerLimits(t *testing.T) {
	l, err := Listen("127.0.0.1:0", Limits{Total: 3, PerSource: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(local string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	refused := func(c net.Conn) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connection beyond the limit: got %v", err)
		}
	}
	dial("127.0.0.1")
	dial("127.0.0.1")
	first, second := <-accepted, <-accepted
	refused(dial("127.0.0.1")) // third of this source
	dial("127.0.0.2")
	<-accepted
	refused(dial("127.0.0.3")) // fourth in all
	if open, taken, no := l.Counts(); open != 3 || taken != 3 || no != 2 {
		t.Errorf("counts: %d open, %d accepted, %d refused", open, taken, no)
	}
	first.Close()
	first.Close() // counted once
	second.Close()
	dial("127.0.0.1")
	<-accepted
	if open, _, _ := l.Counts(); open != 2 {
		t.Errorf("%d open", open)
	}
	l.Close()
	<-done
}

// failing is a listener out of file descriptors.
type failing struct{ net.Listener }

func (failing) Accept() (net.Conn, error) {
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}
func (failing) Close() error { return nil }

func TestAcceptBacksOffAndEndsOnClose(t *testing.T) {
	l := New(failing{}, Limits{})
	done := make(chan error, 1)
	go func() { _, err := l.Accept(); done <- err }()
	l.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error after close")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("accept did not end")
	}
}

func TestSource(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:5":          "192.0.2.1",
		"[::ffff:192.0.2.1]:5": "192.0.2.1",
		"[fe80::1%eth0]:5":     "fe80::1",
	} {
		if got := Source(stringAddr(in)).String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if Source(stringAddr("pipe")).IsValid() {
		t.Error("an address without IP has one")
	}
}

type stringAddr string

func (stringAddr) Network() string  { return "tcp" }
func (a stringAddr) String() string { return string(a) }
