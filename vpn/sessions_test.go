package vpn_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
)

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
