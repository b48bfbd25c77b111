package vpn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"crypto/tls"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
	"ringfence/vpn/cstp"
)

func TestPhoneByCertificate(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	if !netip.MustParsePrefix("10.77.0.0/24").Contains(c.Address()) || c.MTU() != 1290 || c.Info().DPD != 30*time.Second || c.Info().Keep != 20*time.Second {
		t.Errorf("granted %+v", c.Info())
	}
	up := udp4(c.Address().String(), "10.77.0.1", 20000, 16384, 100)
	if err := c.WritePacket(up); err != nil {
		t.Fatal(err)
	}
	if got := l.dev.next(t); !bytes.Equal(got, up) {
		t.Errorf("the kernel got %x", got)
	}
	for _, n := range []int{0, 100, 1290 - 28} {
		down := udp4("192.0.2.1", c.Address().String(), 16384, 20000, n)
		l.dev.toClients <- down
		buf := make([]byte, 2000)
		k, err := c.ReadPacket(buf)
		if err != nil || !bytes.Equal(buf[:k], down) {
			t.Errorf("payload of %d: the phone got %d bytes, %v", n, k, err)
		}
	}
	s := l.Sessions()
	if len(s) != 1 || s[0].Name != phone || s[0].Kind != "device" || s[0].State != "up" || s[0].RxPackets != 1 || s[0].TxPackets != 3 || s[0].Method != "certificate" {
		t.Errorf("sessions %+v", s)
	}
	if !l.notes.has(phone+" vpn ok tunnel up with address "+c.Address().String()) || !l.notes.has(phone+" vpn ok logged in by certificate") {
		t.Errorf("boot record %q", l.notes.lines)
	}
}

func TestPhoneOverUDP(t *testing.T) {
	l := newLab(t)
	o := l.phone(phone)
	o.UDP = true
	c := dial(t, o)
	until(t, "session up", func() bool { return stateOf(l, phone) == "up" })
	time.Sleep(50 * time.Millisecond)
	if c.OnUDP() {
		t.Error("a phone uses another UDP port than 443")
	}
	o.AnyUDPPort = true
	c = dial(t, o)
	until(t, "both on UDP", func() bool { return c.OnUDP() && sessionOf(l, phone).Payload == "udp" })
	up := udp4(c.Address().String(), "10.77.0.1", 20000, 16384, 100)
	_ = c.WritePacket(up)
	if got := l.dev.next(t); !bytes.Equal(got, up) {
		t.Errorf("the kernel got %x", got)
	}
	buf := make([]byte, 2000)
	for n := range 30 {
		down := udp4("192.0.2.1", c.Address().String(), 16384, 20000, 40*n)
		l.dev.toClients <- down
		if k, err := c.ReadPacket(buf); err != nil || !bytes.Equal(buf[:k], down) {
			t.Fatalf("payload of %d: the phone got %d bytes, %v", 40*n, k, err)
		}
	}
	if st := c.Stats(); st.UDPPackets != 30 {
		t.Errorf("%d of 30 packets came over UDP", st.UDPPackets)
	}
	if s := sessionOf(l, phone); !strings.HasPrefix(s.Datagrams, "DTLS 1.2 ECDHE-RSA-AES") || s.LossIn != 0 {
		t.Errorf("session %+v", s)
	}
	l.Kick(phone)
	<-c.Done()
}

func TestPhoneByPassword(t *testing.T) {
	l := newLab(t)
	o := l.phone(phone)
	o.Auth, o.Certificate, o.Password = phoneclient.PasswordOnly, nil, "phone&word"
	if c := dial(t, o); c.Info().Address.Bits() != 24 {
		t.Errorf("granted %+v", c.Info())
	}
	o.Auth, o.User, o.Password = phoneclient.UserPassword, "alice", "correct horse"
	c := dial(t, o)
	if !netip.MustParsePrefix("10.78.0.0/24").Contains(c.Address()) || len(c.Info().Routes) != 1 || c.Info().Banner != "Be kind" {
		t.Errorf("alice was granted %+v", c.Info())
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t)
	stranger := newAuthority("Stranger")
	for _, c := range []struct {
		name string
		edit func(*phoneclient.Options)
		want error
		note string
	}{
		{"wrong password", func(o *phoneclient.Options) {
			o.Auth, o.Password, o.Certificate = phoneclient.PasswordOnly, "wrong", nil
		}, phoneclient.ErrAuth, phone + " vpn failed log-in refused"},
		{"unknown user", func(o *phoneclient.Options) {
			o.Auth, o.User, o.Password, o.Certificate = phoneclient.UserPassword, "mallory", "x", nil
		}, phoneclient.ErrAuth, ""},
		{"certificate of a strange authority", func(o *phoneclient.Options) { o.Certificate = stranger.issue(phone, nil, time.Hour) }, phoneclient.ErrAuth,
			phone + " vpn failed certificate refused: x509: certificate signed by unknown authority"},
		{"expired certificate", func(o *phoneclient.Options) { o.Certificate = testCA().issue("SEP001122AA0009", nil, -time.Minute) }, phoneclient.ErrAuth,
			"SEP001122AA0009 vpn failed certificate refused: x509: certificate has expired"},
		{"device without a policy", func(o *phoneclient.Options) { o.Certificate = testCA().issue("SEP00000000DEAD", nil, time.Hour) }, phoneclient.ErrAuth,
			"SEP00000000DEAD vpn failed certificate refused: device SEP00000000DEAD has no VPN policy"},
		{"certificate and user name differ", func(o *phoneclient.Options) {
			o.Auth, o.User, o.Password = phoneclient.UserPassword, "alice", "correct horse"
		}, phoneclient.ErrAuth, phone + " vpn failed log-in refused"},
		{"another group's path", func(o *phoneclient.Options) { o.URL = strings.Replace(o.URL, "/svc", "/staff", 1) }, phoneclient.ErrAuth, ""},
		{"unknown path", func(o *phoneclient.Options) { o.URL = strings.Replace(o.URL, "/svc", "/nowhere", 1) }, phoneclient.ErrLogin, ""},
		{"the phone does not know the gateway", func(o *phoneclient.Options) { o.CertHashes = []string{phoneclient.Hash([]byte("x"))} }, phoneclient.ErrCertHash, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := l.phone(phone)
			c.edit(&o)
			_, err := phoneclient.Dial(t.Context(), o)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if !l.notes.has(c.note) {
				t.Errorf("boot record %q, want %q", l.notes.lines, c.note)
			}
		})
	}
	if n := len(l.Sessions()); n != 0 {
		t.Errorf("%d sessions after refusals", n)
	}
}

func TestUserMayUseDevice(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) {
		o.MayUse = func(user, device string) bool { return user == "alice" && device == phone }
	})
	o := l.phone(phone)
	o.Auth, o.User, o.Password = phoneclient.UserPassword, "alice", "correct horse"
	dial(t, o)
	if s := l.Sessions()[0]; s.Name != "alice" || s.Device != phone || s.Kind != "user" {
		t.Errorf("session %+v", s)
	}
	o = l.phone("SEP001122AA0002")
	o.Auth, o.User, o.Password = phoneclient.UserPassword, "alice", "correct horse"
	if _, err := phoneclient.Dial(t.Context(), o); !errors.Is(err, phoneclient.ErrAuth) {
		t.Errorf("on somebody else's phone: %v", err)
	}
}

func TestReconnectKeepsAddress(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	addr := c.Address()
	c.Drop()
	until(t, "session away", func() bool { return l.Sessions()[0].State == "away" })
	c2, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Drop()
	// The newest CONNECT wins while the one before is still up; that one just ends.
	c3, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c3.Drop()
	<-c2.Done()
	if errors.Is(c2.Err(), phoneclient.ErrPutOut) {
		t.Errorf("the older tunnel was told to go for good: %v", c2.Err())
	}
	if err := c3.WritePacket(udp4(addr.String(), "10.77.0.1", 1, 16384, 1)); err != nil {
		t.Fatal(err)
	}
	l.dev.next(t)
	if s := l.Sessions(); len(s) != 1 || s[0].Connects != 3 || s[0].State != "up" {
		t.Errorf("sessions %+v", s)
	}
}

func TestPhoneLogsInAgain(t *testing.T) {
	l := newLab(t)
	first := dial(t, l.phone(phone))
	second := dial(t, l.phone(phone))
	<-first.Done()
	if first.Address() != second.Address() || len(l.Sessions()) != 1 {
		t.Errorf("addresses %v and %v, %d sessions", first.Address(), second.Address(), len(l.Sessions()))
	}
	if !errors.Is(first.Err(), phoneclient.ErrPutOut) {
		t.Errorf("first tunnel ended with %v", first.Err())
	}
}

func TestUserSessionsAreLimited(t *testing.T) {
	l := newLab(t)
	o := l.phone(phone)
	o.Auth, o.User, o.Password, o.Certificate = phoneclient.UserPassword, "alice", "correct horse", nil
	a, b := dial(t, o), dial(t, o)
	if a.Address() == b.Address() {
		t.Errorf("both have %v", a.Address())
	}
	if _, err := phoneclient.Dial(t.Context(), o); !errors.Is(err, phoneclient.ErrLogin) || !strings.Contains(err.Error(), "503") {
		t.Errorf("third session: %v, want 503", err)
	}
	a.Drop()
	until(t, "one session away", func() bool { return l.Sessions()[0].State == "away" })
	dial(t, o)
	if n := len(l.Sessions()); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

func TestPolicyInThePacketPath(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	me := c.Address().String()
	for _, p := range [][]byte{
		udp4(me, "192.0.2.1", 1000, 8443, 10),        // the admin page's port
		udp4(me, "10.77.0.99", 20000, 20000, 10),     // another phone
		udp4("10.77.0.99", "10.77.0.1", 1, 16384, 1), // forged source
		[]byte("no packet at all"),
	} {
		if err := c.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	good := udp4(me, "192.0.2.1", 20000, 20000, 10)
	_ = c.WritePacket(good)
	if got := l.dev.next(t); !bytes.Equal(got, good) {
		t.Errorf("the kernel got %x", got)
	}
	if s := l.Sessions()[0]; s.Forbidden != 2 || s.Foreign != 1 || s.Malformed != 1 || s.RxPackets != 1 {
		t.Errorf("counters %+v", s)
	}
	l.dev.toClients <- udp4("203.0.113.9", me, 53, 53, 10)
	big := udp4("192.0.2.1", me, 16384, 20000, 1400)
	big[6] = 0x40 // do not fragment
	l.dev.toClients <- big
	icmp := l.dev.next(t)
	if icmp[9] != 1 || icmp[20] != 3 || icmp[21] != 4 || int(icmp[26])<<8|int(icmp[27]) != 1290 {
		t.Errorf("answer to a packet over the MTU: %x", icmp)
	}
	if s := l.Sessions()[0]; s.TooBig != 1 || s.Forbidden != 3 || s.TxPackets != 0 {
		t.Errorf("counters %+v", s)
	}
}

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

func sessionOf(l *lab, name string) vpn.SessionInfo {
	for _, s := range l.Sessions() {
		if s.Name == name {
			return s
		}
	}
	return vpn.SessionInfo{}
}

func TestKick(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	until(t, "session up", func() bool { return stateOf(l, phone) == "up" })
	if l.Kick("nobody") {
		t.Error("kicked a session that is not there")
	}
	if !l.Kick(l.Sessions()[0].ID) {
		t.Error("session not found")
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, phoneclient.ErrPutOut) || !strings.Contains(err.Error(), "administrator") {
		t.Errorf("the phone was told %v", err)
	}
	if _, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), c.Address()); !errors.Is(err, phoneclient.ErrAuth) {
		t.Errorf("coming back with the cookie: %v", err)
	}
	if len(l.Sessions()) != 0 {
		t.Errorf("sessions %+v", l.Sessions())
	}
}

func TestDeadPeerDetection(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) { o.Policies[0].DPD = time.Second })
	o := l.phone(phone)
	o.DPD = time.Hour
	c := dial(t, o)
	until(t, "probes answered", func() bool { return c.Stats().Probes >= 2 })
	if c.Err() != nil {
		t.Errorf("the tunnel ended: %v", c.Err())
	}
	// A client that reads nothing more is gone without a word.
	raw := login(t, l)
	until(t, "dead client noticed", func() bool { return stateOf(l, "SEP001122AA0003") == "away" })
	raw.Close()
}

func stateOf(l *lab, name string) string {
	for _, s := range l.Sessions() {
		if s.Name == name {
			return s.State
		}
	}
	return ""
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

func TestOldPhone(t *testing.T) {
	old := func(l *lab, version uint16) phoneclient.Options {
		o := l.phone(phone)
		o.Old, o.MaxTLS, o.Certificate = true, version, oldCert()
		return o
	}
	l := newLab(t)
	if _, err := phoneclient.Dial(t.Context(), old(l, tls.VersionTLS12)); err == nil {
		t.Error("served without legacy")
	}
	l = newLab(t, func(o *vpn.Options) { o.Legacy = true })
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		t.Run(tls.VersionName(v), func(t *testing.T) {
			c := dial(t, old(l, v))
			if st := c.Info().TLS; st.Version != v || st.CipherSuite != tls.TLS_RSA_WITH_AES_256_CBC_SHA && st.CipherSuite != tls.TLS_RSA_WITH_AES_128_CBC_SHA {
				t.Errorf("%s %s", tls.VersionName(st.Version), tls.CipherSuiteName(st.CipherSuite))
			}
			until(t, "session up", func() bool { return stateOf(l, phone) == "up" })
			up := udp4(c.Address().String(), "10.77.0.1", 20000, 16384, 700)
			_ = c.WritePacket(up)
			if got := l.dev.next(t); !bytes.Equal(got, up) {
				t.Errorf("the kernel got %x", got)
			}
			buf := make([]byte, 2000)
			for n := range 20 { // each must be one record: the client is strict
				down := udp4("192.0.2.1", c.Address().String(), 16384, 20000, 60*n)
				l.dev.toClients <- down
				if k, err := c.ReadPacket(buf); err != nil || !bytes.Equal(buf[:k], down) {
					t.Fatalf("payload of %d: the phone got %d bytes, %v", 60*n, k, err)
				}
			}
		})
	}
	if st := dial(t, l.phone("SEP001122AA0002")).Info().TLS; st.Version != tls.VersionTLS13 {
		t.Errorf("a modern client got %s", tls.VersionName(st.Version))
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

func TestSessionOutlivesTheProcess(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	records := l.Records()
	l.Stop()
	<-c.Done()
	l = newLab(t)
	if err := l.Adopt(records[0]); err != nil {
		t.Fatal(err)
	}
	again, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), c.Address())
	if err != nil {
		t.Fatal(err)
	}
	again.Drop()
}

func TestDatagramsOutliveTheProcess(t *testing.T) {
	l := newLab(t)
	o := l.phone(phone)
	o.UDP, o.AnyUDPPort = true, true
	c := dial(t, o)
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	records := l.Records()
	if len(records) != 1 || records[0].Channel == nil || records[0].Channel.Remote.String() == "" {
		t.Fatalf("records %+v", records)
	}
	before, at := l.Sessions()[0], l.Addr().String()
	l.Stop()
	<-c.Done()
	l = newLab(t, func(o *vpn.Options) { o.Listen = at })
	if err := l.Adopt(records[0]); err != nil {
		t.Fatal(err)
	}
	after := l.Sessions()[0]
	if after.ID != before.ID || after.Address != before.Address || after.Datagrams != before.Datagrams || after.Payload != "udp" {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	again, err := phoneclient.Reconnect(t.Context(), l.phone(phone), c.Cookie(), c.Address())
	if err != nil {
		t.Fatal(err)
	}
	again.Drop()
}

func TestStopIsIdempotent(t *testing.T) {
	l := newLab(t)
	c := dial(t, l.phone(phone))
	l.Stop()
	l.Stop()
	<-c.Done()
	if errors.Is(c.Err(), phoneclient.ErrPutOut) {
		t.Errorf("a client was told to go for good by a gateway that restarts: %v", c.Err())
	}
	if err := l.Start(); err != nil {
		t.Error(err)
	}
}
