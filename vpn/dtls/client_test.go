package dtls

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// helloDatagram is a ClientHello that names ag.
func helloDatagram(ag *Agreement, version uint16, ids ...uint16) []byte {
	_, d := clientHelloFor(ag, version, [32]byte{1, 2, 3}, ids...)
	return d
}

// clientHelloFor returns the body of a hello and the datagram that carries it.
func clientHelloFor(ag *Agreement, version uint16, random [32]byte, ids ...uint16) (body, datagram []byte) {
	body = binary.BigEndian.AppendUint16(nil, version)
	body = append(body, random[:]...)
	body = append(append(body, 32), ag.ID[:]...)
	body = append(body, 0, 0, byte(2*len(ids)))
	for _, id := range ids {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	body = append(body, 1, 0)
	msg := marshalMessage(msgClientHello, 0, body)
	d := make([]byte, headerLen)
	putHeader(d, typeHandshake, version, 0, 0, len(msg))
	return body, append(d, msg...)
}

// oldClient is a client of any kind, written apart from the server's exchange but on the same record codec: it does what
// phones and openconnect do. It can lose and repeat what it sends.
type oldClient struct {
	t        testing.TB
	c        net.Conn
	ag       *Agreement
	version  uint16
	suite    *suite
	in, out  protection
	seq      uint64
	finished []byte // the last flight
	random   [32]byte
}

func dialOld(t testing.TB, e *Endpoint, ag *Agreement, ids ...uint16) *oldClient {
	t.Helper()
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	o := &oldClient{t: t, c: c, ag: ag, version: Version12}
	if ag.Kind == Legacy {
		o.version = VersionLegacy
	}
	rand.Read(o.random[:])
	return o
}

func (o *oldClient) read() []byte {
	o.t.Helper()
	buf := make([]byte, 4096)
	o.c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := o.c.Read(buf)
	if err != nil {
		o.t.Fatalf("no datagram: %v", err)
	}
	return buf[:n]
}

// resume makes a channel by resumption.
func (o *oldClient) resume() error {
	o.t.Helper()
	hello, d := clientHelloFor(o.ag, o.version, o.random, o.ag.Suite)
	o.c.Write(d)
	return o.answer(hello, o.read())
}

// answer reads the server's flight and sends the last one.
func (o *oldClient) answer(hello, d []byte) error {
	var recs []record
	for len(d) > 0 {
		r, rest, err := nextRecord(d)
		if err != nil {
			return err
		}
		if r.version != o.version {
			return errors.New("record version")
		}
		recs, d = append(recs, r), rest
	}
	if len(recs) != 3 || recs[0].typ != typeHandshake || recs[1].typ != typeCCS || recs[2].epoch != 1 {
		return errors.New("flight is not ServerHello, CCS, Finished")
	}
	if want := map[Kind]int{Legacy: 3, Resume: 1}[o.ag.Kind]; len(recs[1].body) != want {
		return errors.New("length of CCS")
	}
	sh, _, err := nextFragment(recs[0].body)
	if err != nil || sh.typ != msgServerHello || binary.BigEndian.Uint16(sh.body) != o.version || string(sh.body[35:67]) != string(o.ag.ID[:]) || len(sh.body) != 70 {
		return errors.New("server hello")
	}
	o.suite = suites[binary.BigEndian.Uint16(sh.body[67:])]
	k := o.ag.Kind
	fromClient, fromServer, err := o.suite.keys(k, o.ag.Secret, sh.body[2:34], o.random[:])
	if err != nil {
		return err
	}
	o.out, o.in = fromClient, fromServer
	transcript := func(parts ...[]byte) (all []byte) {
		for i, p := range parts {
			if k == Legacy {
				all = append(all, p...)
				continue
			}
			m := []byte{msgClientHello, msgServerHello, msgFinished}[i]
			all = append(all, marshalMessage(m, []uint16{0, 0, 1}[i], p)...)
		}
		return all
	}
	plain, err := o.in.open(nil, &recs[2])
	if err != nil {
		return err
	}
	fin, _, err := nextFragment(plain)
	if err != nil || string(fin.body) != string(o.suite.finished(k, o.ag.Secret, "server finished", transcript(hello, sh.body))) {
		return errors.New("server finished does not verify")
	}
	own := o.suite.finished(k, o.ag.Secret, "client finished", transcript(hello, sh.body, fin.body))
	ccs, seq := []byte{1}, uint16(1)
	if k == Legacy {
		ccs, seq = []byte{1, 0, 1}, 2
	}
	last := make([]byte, headerLen)
	putHeader(last, typeCCS, o.version, 0, 1, len(ccs))
	o.finished = append(append(last, ccs...), o.seal(typeHandshake, marshalMessage(msgFinished, seq, own))...)
	o.c.Write(o.finished)
	return nil
}

func (o *oldClient) seal(typ byte, payload []byte) []byte {
	front, back := o.out.room()
	buf := make([]byte, headerLen+front+len(payload)+back)
	copy(buf[headerLen+front:], payload)
	rec, err := o.out.seal(buf, headerLen+front, len(payload), typ, o.version, 1, o.seq)
	if err != nil {
		o.t.Fatal(err)
	}
	o.seq++
	return rec
}

// Write, Read, SetDeadline and the rest make it a net.Conn for exchange.
func (o *oldClient) Write(b []byte) (int, error) { return o.c.Write(o.seal(typeData, b)) }

func (o *oldClient) Read(b []byte) (int, error) {
	for {
		n, err := o.c.Read(b)
		if err != nil {
			return 0, err
		}
		r, _, err := nextRecord(b[:n])
		if err != nil {
			return 0, err
		}
		if r.typ != typeData {
			continue
		}
		p, err := o.in.open(nil, &r)
		if err != nil {
			return 0, err
		}
		return copy(b, p), nil
	}
}

func (o *oldClient) Close() error                       { return o.c.Close() }
func (o *oldClient) LocalAddr() net.Addr                { return o.c.LocalAddr() }
func (o *oldClient) RemoteAddr() net.Addr               { return o.c.RemoteAddr() }
func (o *oldClient) SetDeadline(t time.Time) error      { return o.c.SetDeadline(t) }
func (o *oldClient) SetReadDeadline(t time.Time) error  { return o.c.SetReadDeadline(t) }
func (o *oldClient) SetWriteDeadline(t time.Time) error { return o.c.SetWriteDeadline(t) }

func TestResumeAllSuites(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		ids  []uint16
	}{{Resume, resumeNames}, {Legacy, legacyNames}} {
		for _, id := range c.ids {
			t.Run(c.kind.String()+" "+SuiteName(id), func(t *testing.T) {
				e := endpoint(t)
				ag, h := agreement(c.kind, id, 48)
				e.Agree(ag)
				o := dialOld(t, e, ag)
				if err := o.resume(); err != nil {
					t.Fatal(err)
				}
				exchange(t, e, o, wait(t, h.up, "channel"), h)
			})
		}
	}
}

func TestLostFlights(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0x009c, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	hello, d := clientHelloFor(ag, o.version, o.random, ag.Suite)
	o.c.Write(d)
	o.read() // and lost
	time.Sleep(resendGap)
	o.c.Write(d) // the client repeats its hello
	o.read()     // lost again
	began := time.Now()
	again := o.read() // the server repeats by itself
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the server waited %v", took)
	}
	if err := o.answer(hello, again); err != nil {
		t.Fatal(err)
	}
	exchange(t, e, o, wait(t, h.up, "channel"), h)
}

func TestReplayAndForgery(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0x0035, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	wait(t, h.up, "channel")
	a, b := o.seal(typeData, []byte("\x00first")), o.seal(typeData, []byte("\x00second"))
	forged := append([]byte(nil), o.seal(typeData, []byte("\x00forged"))...)
	forged[len(forged)-1] ^= 1
	for _, d := range [][]byte{b, a, a, b, forged, forged[:20], {23}, {}} {
		o.c.Write(d)
	}
	if got := string(wait(t, h.data, "payload")); got != "\x00second" {
		t.Errorf("got %q", got)
	}
	if got := string(wait(t, h.data, "reordered payload")); got != "\x00first" {
		t.Errorf("got %q", got)
	}
	o.Write([]byte("\x00third"))
	if got := string(wait(t, h.data, "payload")); got != "\x00third" {
		t.Errorf("got %q", got)
	}
	if s := e.Stats(); s.Bad != 5 {
		t.Errorf("%d bad records, want 5: two replays, one forged, two cut", s.Bad)
	}
}

// TestDisorder sends each record twice and in an order of its own, as bad lines do: each payload arrives once.
func TestDisorder(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0x009d, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	wait(t, h.up, "channel")
	const n, reach = 320, 32 // less than the window of 64
	var recs [][]byte
	for i := range n {
		recs = append(recs, o.seal(typeData, []byte{0, byte(i >> 8), byte(i)}))
	}
	seen := map[int]int{}
	for at := 0; at < n; at += reach {
		part := append(append([][]byte(nil), recs[at:at+reach]...), recs[at:at+reach]...)
		mathrand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		for _, r := range part {
			if _, err := o.c.Write(r); err != nil {
				t.Fatal(err)
			}
		}
		for range reach {
			p := wait(t, h.data, "payload")
			<-h.place
			seen[int(p[1])<<8|int(p[2])]++
		}
	}
	for i := range n {
		if seen[i] != 1 {
			t.Errorf("payload %d arrived %d times", i, seen[i])
		}
	}
	for deadline := time.Now().Add(10 * time.Second); e.Stats().Bad < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if bad := e.Stats().Bad; bad != n || len(h.data) > 0 {
		t.Errorf("%d copies were refused, want %d; %d payloads more", bad, n, len(h.data))
	}
}

func TestWrongFinished(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0x009d, 48)
	e.Agree(ag)
	thief := *ag // overheard the id, does not know the secret
	thief.Secret = make([]byte, 48)
	o := dialOld(t, e, &thief)
	if err := o.resume(); err == nil {
		t.Error("a client without the secret understands the server")
	}
	if s := e.Stats(); s.Channels != 0 {
		t.Errorf("stats %+v", s)
	}
	good := dialOld(t, e, ag)
	if err := good.resume(); err != nil {
		t.Fatal(err)
	}
	wait(t, h.up, "channel of the right client")
}

func TestRoaming(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0xc030, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	c := wait(t, h.up, "channel")
	old := o.seal(typeData, []byte("\x00old"))
	o.Write([]byte("\x00first"))
	wait(t, h.data, "payload")
	was := c.Remote()
	n, err := net.Dial("udp", o.c.RemoteAddr().String()) // another port: the NAT forgot the binding
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.Write(old) // held back by somebody: authentic, but not newer than what came since
	o.c = n
	o.Write([]byte("\x00second"))
	if got := string(wait(t, h.data, "payload from the new address")); got != "\x00second" {
		t.Errorf("got %q", got)
	}
	if c.Remote() == was || c.Remote().String() != n.LocalAddr().String() || e.Stats().Roamed != 1 {
		t.Errorf("channel is at %v, was at %v", c.Remote(), was)
	}
	exchange(t, e, o, c, h)
}

func TestHelloFloodIsBounded(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Resume, 0x009c, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	c := wait(t, h.up, "channel")
	for i := range 2000 { // somebody heard the id and sends hellos from many places
		n, err := net.Dial("udp", o.c.RemoteAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, d := clientHelloFor(ag, Version12, [32]byte{byte(i), byte(i >> 8)}, ag.Suite)
		n.Write(d)
		n.Close()
	}
	exchange(t, e, o, c, h)
	if s := e.Stats(); s.Pending > perAgreement || s.Channels != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestCloseNotify(t *testing.T) {
	e := endpoint(t)
	ag, h := agreement(Legacy, 0x0035, 48)
	e.Agree(ag)
	o := dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	wait(t, h.up, "channel")
	o.c.Write(o.seal(typeAlert, []byte{1, 0}))
	wait(t, h.down, "news of the end")
	o.Write([]byte("\x00late"))
	for end := time.Now().Add(5 * time.Second); e.Stats().Unknown == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	e.mu.RLock()
	places := len(e.places)
	e.mu.RUnlock()
	if s := e.Stats(); s.Channels != 0 || s.Unknown != 1 || places != 0 {
		t.Errorf("stats %+v, %d places", s, places)
	}
	// A new hello of the same agreement makes a new channel; closing it tells the client.
	o = dialOld(t, e, ag)
	if err := o.resume(); err != nil {
		t.Fatal(err)
	}
	wait(t, h.up, "channel").Close()
	d := o.read()
	r, _, err := nextRecord(d)
	if err != nil || r.typ != typeAlert {
		t.Fatalf("got %x", d)
	}
	if p, err := o.in.open(nil, &r); err != nil || len(p) != 2 || p[1] != 0 {
		t.Errorf("alert %x, %v", p, err)
	}
}
