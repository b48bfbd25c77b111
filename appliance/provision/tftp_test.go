package provision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/trust/tlv"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func startTFTP(t testing.TB, w *world, change func(*TFTPOptions)) netip.AddrPort {
	t.Helper()
	o := TFTPOptions{Files: w.Files, Address: "127.0.0.1:0"}
	if change != nil {
		change(&o)
	}
	s, err := NewTFTP(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	return s.Addr().(*net.UDPAddr).AddrPort()
}

// transferAll drives a transfer with a receiver that loses and doubles packets as lose and double say, and returns what it
// received and how many DATA packets were sent.
func transferAll(t *testing.T, q readRequest, body []byte, lose, double func(n int) bool) ([]byte, int) {
	t.Helper()
	tr := newTransfer(q, body, capBlock)
	var got []byte
	block := defaultBlock
	if q.Block > 0 {
		block = min(q.Block, capBlock)
	}
	var expect, packets uint64 = 1, 0
	wire := tr.start()
	count, data := 0, 0
	for range 200000 {
		var acks []uint16
		for _, b := range wire {
			count++
			if b[1] == opData {
				data++
			}
			if lose(count) {
				continue
			}
			switch b[1] {
			case opOptAck:
				acks = append(acks, 0)
			case opData:
				packets++
				n := binary.BigEndian.Uint16(b[2:])
				if n == uint16(expect) {
					got = append(got, b[4:]...)
					expect++
					if q.Window <= 1 || len(b)-4 < block || (expect-1)%uint64(tr.window) == 0 {
						acks = append(acks, n)
					}
				} else {
					acks = append(acks, uint16(expect-1))
				}
			}
		}
		wire = nil
		for _, a := range acks {
			count++
			if lose(count) {
				continue
			}
			times := 1
			if double(count) {
				times = 2
			}
			for range times {
				out, done := tr.ack(a)
				if done {
					return got, data
				}
				wire = append(wire, out...)
			}
		}
		if len(wire) == 0 {
			var ok bool
			if wire, ok = tr.timeout(); !ok {
				t.Fatalf("given up after %d of %d bytes", len(got), len(body))
			}
		}
	}
	t.Fatal("no end")
	return nil, 0
}

func TestTransferMachine(t *testing.T) {
	never := func(int) bool { return false }
	for _, size := range []int{0, 1, 511, 512, 513, 1024, 5000, 14280} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * 7)
		}
		for _, q := range []readRequest{{}, {Block: 8}, {Block: 1428, Size: true}, {Block: 512, Window: 4}, {Window: 16, Timeout: time.Second}, {Block: 65464}} {
			got, sent := transferAll(t, q, body, never, never)
			if !bytes.Equal(got, body) {
				t.Fatalf("%d bytes with %+v: got %d", size, q, len(got))
			}
			block := defaultBlock
			if q.Block > 0 {
				block = min(q.Block, capBlock)
			}
			if want := size/block + 1; sent != want { // a multiple of the block ends with an empty one
				t.Errorf("%d bytes with %+v: %d blocks sent, want %d", size, q, sent, want)
			}
			for seed := range uint64(3) {
				r := rand.New(rand.NewPCG(seed, 1))
				if got, _ = transferAll(t, q, body, func(int) bool { return r.IntN(12) == 0 }, never); !bytes.Equal(got, body) {
					t.Fatalf("%d bytes with %+v and losses: got %d", size, q, len(got))
				}
			}
			// Doubled acknowledgements double nothing.
			got, again := transferAll(t, q, body, never, func(int) bool { return true })
			if !bytes.Equal(got, body) || again != sent {
				t.Errorf("%d bytes with %+v: %d packets with doubled ACKs, %d without", size, q, again, sent)
			}
		}
	}
}

// TestBlockNumbersWrap moves more than 65535 blocks.
func TestBlockNumbersWrap(t *testing.T) {
	body := make([]byte, 8*65536+8*70+3)
	for i := range body {
		body[i] = byte(i >> 3)
	}
	never := func(int) bool { return false }
	for _, window := range []int{0, 16} {
		got, _ := transferAll(t, readRequest{Block: 8, Window: window}, body, func(n int) bool { return n%1000 == 999 }, never)
		if !bytes.Equal(got, body) {
			t.Errorf("window %d: got %d bytes of %d", window, len(got), len(body))
		}
	}
}

func TestRetransmissionEnds(t *testing.T) {
	tr := newTransfer(readRequest{}, make([]byte, 2000), capBlock)
	tr.start()
	var waits []time.Duration
	for {
		waits = append(waits, tr.wait)
		out, ok := tr.timeout()
		if !ok {
			break
		}
		if len(out) != 1 || binary.BigEndian.Uint16(out[0][2:]) != 1 {
			t.Fatalf("sent %v", out)
		}
	}
	if len(waits) != tftpTries+1 || waits[0] != tftpFirstWait || waits[1] != 2*tftpFirstWait {
		t.Errorf("waits %v", waits)
	}
	// Acknowledgements of what was never sent move nothing.
	tr = newTransfer(readRequest{}, make([]byte, 2000), capBlock)
	tr.start()
	for _, n := range []uint16{2, 5, 65535, 0} {
		if out, done := tr.ack(n); out != nil || done {
			t.Errorf("ACK %d: %v %v", n, out, done)
		}
	}
	if out := tr.nudge(); len(out) != 1 {
		t.Errorf("a repeated request sent %v", out)
	}
	tr.ack(1)
	if out := tr.nudge(); out != nil {
		t.Errorf("a stale request sent %v", out)
	}
}

func TestParseRead(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     readRequest
		ok       bool
	}{
		{"plain", "a\x00octet\x00", readRequest{Name: "a"}, true},
		{"mode in any case", "a\x00OcTeT\x00", readRequest{Name: "a"}, true},
		{"netascii as octet", "a\x00netascii\x00", readRequest{Name: "a"}, true},
		{"all options", "a\x00octet\x00BLKSIZE\x001428\x00tsize\x000\x00timeout\x003\x00windowsize\x008\x00",
			readRequest{Name: "a", Block: 1428, Size: true, Timeout: 3 * time.Second, Window: 8}, true},
		{"unknown option", "a\x00octet\x00multicast\x00\x00blksize\x00600\x00", readRequest{Name: "a", Block: 600}, true},
		{"block out of range", "a\x00octet\x00blksize\x007\x00", readRequest{Name: "a"}, true},
		{"block too large", "a\x00octet\x00blksize\x0065465\x00", readRequest{Name: "a"}, true},
		{"timeout out of range", "a\x00octet\x00timeout\x00256\x00", readRequest{Name: "a"}, true},
		{"number with sign", "a\x00octet\x00blksize\x00+600\x00", readRequest{Name: "a"}, true},
		{"option twice", "a\x00octet\x00blksize\x00600\x00blksize\x00700\x00", readRequest{Name: "a", Block: 600}, true},
		{"window 0", "a\x00octet\x00windowsize\x000\x00", readRequest{Name: "a"}, true},
		{"empty", "", readRequest{}, false},
		{"no name", "\x00octet\x00", readRequest{}, false},
		{"no mode", "a\x00", readRequest{}, false},
		{"mail", "a\x00mail\x00", readRequest{}, false},
		{"not terminated", "a\x00octet", readRequest{}, false},
		{"option without value", "a\x00octet\x00blksize\x00", readRequest{}, false},
		{"too long", strings.Repeat("a", 600) + "\x00octet\x00", readRequest{}, false},
		{"too many options", "a\x00octet\x00" + strings.Repeat("x\x00y\x00", 40), readRequest{}, false},
	} {
		q, err := parseRead([]byte(c.in))
		if (err == nil) != c.ok || c.ok && q != c.want {
			t.Errorf("%s: got %+v, %v", c.name, q, err)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("SEP001122AA0001.cnf.xml\x00octet\x00blksize\x001428\x00tsize\x000\x00"), uint16(1))
	f.Add([]byte("a\x00octet\x00windowsize\x0016\x00blksize\x008\x00"), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		q, err := parseRead(b)
		if err != nil {
			return
		}
		tr := newTransfer(q, make([]byte, 3000), capBlock)
		for _, p := range append(tr.start(), errorPacket(1, "x")) {
			if len(p) > 4+capBlock {
				t.Errorf("packet of %d bytes", len(p))
			}
		}
		if n > 0 && !tr.negotiating {
			if _, done := tr.ack(n); done && tr.last > tr.window {
				t.Error("done at once")
			}
		}
		if len(tr.packets()) > capWindow {
			t.Error("window beyond its cap")
		}
	})
}

// peer is a TFTP client that does one thing at a time.
type peer struct {
	t    *testing.T
	conn *net.UDPConn
	well netip.AddrPort
	from netip.AddrPort // of the last packet
}

func newPeer(t *testing.T, well netip.AddrPort) *peer {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t: t, conn: c, well: well}
}

func (p *peer) send(to netip.AddrPort, b []byte) {
	p.t.Helper()
	if _, err := p.conn.WriteToUDPAddrPort(b, to); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read(name string, options ...string) {
	p.t.Helper()
	b := append([]byte{0, opRead}, name+"\x00octet\x00"...)
	for _, o := range options {
		b = append(append(b, o...), 0)
	}
	p.send(p.well, b)
}

// next reads a packet; nil when none comes within wait.
func (p *peer) next(wait time.Duration) []byte {
	p.t.Helper()
	b := make([]byte, 70000)
	p.conn.SetReadDeadline(time.Now().Add(wait))
	n, from, err := p.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Fatal(err)
		}
		return nil
	}
	p.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return b[:n]
}

func ackPacket(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, opAck}, n) }

const soon = 5 * time.Second

func TestTFTPRules(t *testing.T) {
	w := newWorld(t)
	well := startTFTP(t, w, nil)
	for _, c := range []struct {
		name string
		send []byte
		code int // of the ERROR that comes back; -1 for nothing
	}{
		{"write request", []byte("\x00\x02a\x00octet\x00"), 2},
		{"missing file", []byte("\x00\x01nothing\x00octet\x00"), 1},
		{"path out", []byte("\x00\x01../" + phoneOpen + ".cnf.xml\x00octet\x00"), 1},
		{"malformed", []byte("\x00\x01a"), 4},
		{"unknown opcode", []byte("\x00\x09"), 4},
		{"unsolicited data", []byte("\x00\x03\x00\x01x"), -1},
		{"unsolicited ack", ackPacket(1), -1},
		{"unsolicited error", errorPacket(0, "x"), -1},
		{"short", []byte("\x00"), -1},
		{"long", bytes.Repeat([]byte("x"), 3000), -1},
	} {
		p := newPeer(t, well)
		p.send(well, c.send)
		wait := soon
		if c.code < 0 {
			wait = 100 * time.Millisecond
		}
		b := p.next(wait)
		switch {
		case c.code < 0 && b != nil:
			t.Errorf("%s: got %q", c.name, b)
		case c.code >= 0 && (len(b) < 5 || b[1] != opError || int(b[3]) != c.code || b[len(b)-1] != 0):
			t.Errorf("%s: got %q", c.name, b)
		}
		if b != nil && p.next(50*time.Millisecond) != nil {
			t.Errorf("%s: more than one packet", c.name)
		}
	}
}

func TestTFTPTransferDetails(t *testing.T) {
	w := newWorld(t)
	well := startTFTP(t, w, func(o *TFTPOptions) { o.PathMTU = func(netip.Addr) int { return 1000 } })
	name := phoneOpen + ".cnf.xml"
	want := w.must(t, name)

	// The OACK holds what was understood, blocks are capped to the path.
	p := newPeer(t, well)
	p.read(name, "blksize", "8192", "tsize", "0", "madeup", "7", "timeout", "2")
	b := p.next(soon)
	if got, want := string(b), fmt.Sprintf("\x00\x06blksize\x00968\x00tsize\x00%d\x00timeout\x002\x00", len(want)); got != want {
		t.Fatalf("OACK %q, want %q", got, want)
	}
	own := p.from
	if own == well || own.Addr() != well.Addr() {
		t.Errorf("transfer from %s, asked %s", own, well)
	}
	// Somebody else on the transfer's port gets error 5, and nothing else happens.
	other := newPeer(t, well)
	other.send(own, ackPacket(0))
	if e := other.next(soon); len(e) < 4 || e[1] != opError || e[3] != tftpUnknownID {
		t.Errorf("stranger got %q", e)
	}
	var got []byte
	p.send(own, ackPacket(0))
	for n := uint16(1); ; n++ {
		b := p.next(soon)
		if len(b) < 4 || b[1] != opData || binary.BigEndian.Uint16(b[2:]) != n {
			t.Fatalf("block %d: got %d bytes", n, len(b))
		}
		got = append(got, b[4:]...)
		p.send(own, ackPacket(n))
		if n == 2 { // doubled: must not double the rest
			p.send(own, ackPacket(n))
		}
		if len(b) < 4+968 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	if b := p.next(100 * time.Millisecond); b != nil {
		t.Errorf("after the end: %q", b)
	}

	// A repeated request gets the first packet again, from the same transfer and long before its timer.
	p = newPeer(t, well)
	p.read(name, "timeout", "200")
	p.next(soon)
	own = p.from
	p.read(name, "timeout", "200")
	if b := p.next(soon); b == nil || b[1] != opOptAck || p.from != own {
		t.Errorf("repeated request: %d bytes from %s, before from %s", len(b), p.from, own)
	}
	// A request for something else ends the first one.
	p.read("ITLFile.tlv")
	if b := p.next(soon); b == nil || p.from == own || b[1] != opData {
		t.Errorf("other request: %d bytes from %s", len(b), p.from)
	}
	p.send(p.from, errorPacket(0, "enough"))

	// Lost packets come again with back-off, and then it ends; the boot record says so.
	p = newPeer(t, well)
	p.read(name)
	for i := range 2 {
		if b := p.next(soon); b == nil || b[3] != 1 {
			t.Errorf("packet %d: %d bytes", i, len(b))
		}
	}
}

func TestTFTPLimits(t *testing.T) {
	w := newWorld(t)
	well := startTFTP(t, w, func(o *TFTPOptions) { o.PerSource = 3 })
	name := phoneOpen + ".cnf.xml"
	var peers []*peer
	for range 3 {
		p := newPeer(t, well)
		p.read(name)
		if p.next(soon) == nil {
			t.Fatal("no answer")
		}
		peers = append(peers, p)
	}
	p := newPeer(t, well)
	p.read(name)
	if b := p.next(300 * time.Millisecond); b != nil {
		t.Errorf("a fourth transfer: %d bytes", len(b))
	}
	peers[0].send(peers[0].from, errorPacket(0, "enough"))
	for range 20 { // the place is free as soon as the server has read that
		p.read(name)
		if p.next(500*time.Millisecond) != nil {
			return
		}
	}
	t.Error("the place was not freed")
}

// TestTFTPClients fetches with clients that are not ours: Debian's tftp without options, curl with and without.
func TestTFTPClients(t *testing.T) {
	w := newWorld(t)
	well := startTFTP(t, w, nil)
	plain := w.must(t, phoneOpen+".cnf.xml")
	fetch := func(t *testing.T, command ...string) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		for i, a := range command {
			command[i] = strings.ReplaceAll(a, "OUT", out)
		}
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Skip(command[0] + " is not installed")
		}
		if b, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if got := readFile(t, out); !bytes.Equal(got, plain) {
			t.Errorf("got %d bytes, want %d", len(got), len(plain))
		}
	}
	port := fmt.Sprint(well.Port())
	url := "tftp://" + well.String() + "/" + phoneOpen + ".cnf.xml"
	t.Run("tftp-hpa", func(t *testing.T) {
		fetch(t, "tftp", "-m", "octet", "127.0.0.1", port, "-c", "get", phoneOpen+".cnf.xml", "OUT")
	})
	t.Run("curl", func(t *testing.T) { fetch(t, "curl", "-sS", "-o", "OUT", url) })
	t.Run("curl large blocks", func(t *testing.T) { fetch(t, "curl", "-sS", "--tftp-blksize", "1428", "-o", "OUT", url) })
	t.Run("curl no options", func(t *testing.T) { fetch(t, "curl", "-sS", "--tftp-no-options", "-o", "OUT", url) })
	t.Run("list", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("curl is not installed")
		}
		b, err := exec.CommandContext(t.Context(), "curl", "-sS", "tftp://"+well.String()+"/ITL"+phone8851+".tlv").Output()
		if err != nil {
			t.Fatal(err)
		}
		if l, err := tlv.Parse(b); err != nil || l.Verify(tlv.ITLFile) != nil {
			t.Errorf("list: %v", err)
		}
	})
}

// TestTFTPAnswersFromTheAddressAsked binds all addresses and asks two of them.
func TestTFTPAnswersFromTheAddressAsked(t *testing.T) {
	w := newWorld(t)
	for i, address := range []string{"127.0.0.1", "127.0.0.7", "127.0.0.1", "127.0.0.7"} {
		all := startTFTP(t, w, func(o *TFTPOptions) { o.Address = []string{"0.0.0.0:0", "[::]:0"}[i/2] })
		well := netip.AddrPortFrom(netip.MustParseAddr(address), all.Port())
		p := newPeer(t, well)
		p.read(phoneOpen + ".cnf.xml")
		if b := p.next(soon); b == nil || p.from.Addr() != well.Addr() {
			t.Errorf("asked %s, answered from %s", well, p.from)
		}
		p.send(p.from, errorPacket(0, "enough"))
		p.read("nothing")
		if b := p.next(soon); b == nil || p.from.Addr() != well.Addr() {
			t.Errorf("asked %s, refused from %s", well, p.from)
		}
	}
}

func TestTFTPGivesUpAndSaysSo(t *testing.T) {
	w := newWorld(t)
	well := startTFTP(t, w, nil)
	p := newPeer(t, well)
	p.read(phoneOpen + ".cnf.xml")
	b := p.next(soon)
	for b != nil && b[3] < 2 {
		p.send(p.from, ackPacket(1))
		b = p.next(soon)
	}
	p.send(p.from, errorPacket(3, "disk full"))
	for deadline := time.Now().Add(soon); !strings.Contains(w.lastNote(), "stopped taking it after 512 of "); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("noted %q", w.lastNote())
		}
	}
}
