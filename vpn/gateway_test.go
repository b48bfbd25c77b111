package vpn_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
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
