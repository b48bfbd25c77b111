package vpn_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
	"ringfence/vpn/cstp"
)

func TestSlowClient(t *testing.T) {
	l := newLab(t)
	c := login(t, l) // takes nothing from here on
	me := l.Sessions()[0].Address.String()
	other := dial(t, l.phone(phone))
	until(t, "sessions up", func() bool { return stateOf(l, phone) == "up" && stateOf(l, "SEP001122AA0003") == "up" })
	bulk := udp4("192.0.2.1", me, 16384, 20000, 1200)
	for range 20 {
		for range 400 {
			l.dev.toClients <- bulk
		}
		// Another client is served as if nothing were.
		mine := udp4("192.0.2.1", other.Address().String(), 16384, 20000, 10)
		l.dev.toClients <- mine
		buf := make([]byte, 2000)
		if n, err := other.ReadPacket(buf); err != nil || !bytes.Equal(buf[:n], mine) {
			t.Fatalf("the other client got %d bytes, %v", n, err)
		}
	}
	var slow vpn.SessionInfo
	for _, s := range l.Sessions() {
		if s.Name != phone {
			slow = s
		}
	}
	if slow.Congested < 100 || slow.TxPackets != 8000 {
		t.Errorf("slow client %+v", slow)
	}
	// Voice that comes now leaves before the bulk that waits.
	voice := udp4("192.0.2.1", me, 16384, 20000, 160)
	voice[1] = 0xb8
	l.dev.toClients <- voice
	until(t, "voice queued", func() bool { return slow.TxPackets+1 == sessionOf(l, "SEP001122AA0003").TxPackets })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<14)
	seen, after := false, 0
	for !seen || after < 200 {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("voice seen %v, then %d packets: %v", seen, after, err)
		}
		switch f, _, err := cstp.Next(buf[:n]); {
		case err != nil:
			t.Fatal(err)
		case len(f.Payload) == len(voice):
			seen = true
		case seen:
			after++
		}
	}
}

// login makes a tunnel by hand for SEP001122AA0003 and returns the TLS connection behind the head.
func login(t *testing.T, l *lab) *tls.Conn {
	t.Helper()
	o := l.phone("SEP001122AA0003")
	cookie, err := phoneclient.Login(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c := dialTLS(t, l)
	io.WriteString(c, "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nCookie: webvpn="+cookie+"\r\n\r\n")
	buf := make([]byte, 8192)
	n, err := c.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\n") {
		t.Fatalf("CONNECT answered %q, %v", buf[:n], err)
	}
	return c
}

func dialTLS(t *testing.T, l *lab) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestFramesInForeignRecords(t *testing.T) {
	l := newLab(t)
	c := login(t, l)
	me := l.Sessions()[0].Address.String()
	pkt := udp4(me, "10.77.0.1", 20000, 16384, 40)
	frame := cstp.Frame{Type: cstp.Data, Payload: pkt}.Append(nil)
	probe := cstp.Frame{Type: cstp.DPDRequest, Payload: bytes.Repeat([]byte{7}, 3000)}.Append(nil)
	for _, w := range [][]byte{
		bytes.Repeat(frame, 3),             // three frames in one record
		frame[:5], frame[5:20], frame[20:], // one frame in three records
		bytes.Repeat(frame, 100),                  // a record larger than any packet
		append(bytes.Clone(frame[:11]), nil...),   // cut inside the packet
		append(bytes.Clone(frame[11:]), probe...), // its rest, and a probe larger than any packet
	} {
		if _, err := c.Write(w); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 + 1 + 100 + 1 {
		if got := l.dev.next(t); !bytes.Equal(got, pkt) {
			t.Fatalf("packet %d: %x", i, got)
		}
	}
	buf := make([]byte, 1<<14)
	n, err := c.Read(buf)
	probe[6] = byte(cstp.DPDResponse)
	if err != nil || !bytes.Equal(buf[:n], probe) {
		t.Errorf("answer to the probe has %d bytes, %v; want the whole payload in one record", n, err)
	}
}

func TestFrameSplitAtEveryByte(t *testing.T) {
	l := newLab(t)
	c := login(t, l)
	pkt := udp4(l.Sessions()[0].Address.String(), "10.77.0.1", 20000, 16384, 20)
	frame := cstp.Frame{Type: cstp.Data, Payload: pkt}.Append(nil)
	for n := 1; n < len(frame); n++ {
		c.Write(frame[:n])
		c.Write(frame[n:])
		if got := l.dev.next(t); !bytes.Equal(got, pkt) {
			t.Fatalf("split at %d: %x", n, got)
		}
	}
	for i := range frame {
		c.Write(frame[i : i+1])
	}
	if got := l.dev.next(t); !bytes.Equal(got, pkt) {
		t.Errorf("byte by byte: %x", got)
	}
}

func TestBrokenFramesEndTheChannelOnly(t *testing.T) {
	for name, bytes := range map[string]string{
		"not a frame":        "GET / HTTP/1.1\r\n\r\n",
		"compressed":         "STF\x01\x00\x01\x08\x00x",
		"unknown type":       "STF\x01\x00\x00\x63\x00",
		"longer than record": "STF\x01\xff\xff\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := login(t, l)
			io.WriteString(c, bytes)
			if n, err := c.Read(make([]byte, 10)); err == nil {
				t.Errorf("got %d bytes, want the end of the connection", n)
			}
			until(t, "session away", func() bool { return stateOf(l, "SEP001122AA0003") == "away" })
		})
	}
}

func TestGoodbye(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	c.Close()
	until(t, "session away", func() bool { return stateOf(l, phone) == "away" })
	if _, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), c.Address()); err != nil {
		t.Errorf("coming right back after a goodbye: %v", err)
	}
}

func TestConnectWithoutLogin(t *testing.T) {
	l := newLab(t)
	for name, cookie := range map[string]string{"none": "", "guessed": "Cookie: webvpn=" + strings.Repeat("ab", 32) + "\r\n", "huge": "Cookie: webvpn=" + strings.Repeat("x", 5000) + "\r\n"} {
		c := dialTLS(t, l)
		io.WriteString(c, "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\n"+cookie+"\r\n")
		b, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(b), "HTTP/1.1 401 ") {
			t.Errorf("cookie %s: %q", name, b)
		}
	}
}

func TestHalfOpenConnections(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	var open []net.Conn
	for i := range 300 {
		h, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if i%2 == 0 {
			h.Write([]byte{22, 3, 1, 2, 0, 1}) // a ClientHello that does not go on
		}
		open = append(open, h)
	}
	began := time.Now()
	c2 := dial(t, l.phone("SEP001122AA0002"))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("log-in beside half-open connections took %v", took)
	}
	for _, x := range []*phoneclient.Conn{c, c2} {
		pkt := udp4(x.Address().String(), "10.77.0.1", 1, 16384, 1)
		_ = x.WritePacket(pkt)
		if got := l.dev.next(t); !bytes.Equal(got, pkt) {
			t.Errorf("the kernel got %x", got)
		}
	}
	if st := l.Stats(); st.Evicted == 0 || st.Pending > 256 {
		t.Errorf("%d waiting, %d evicted; want at most 256 of one source", st.Pending, st.Evicted)
	}
	_ = open
}
