package trace

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/sip/internal/siptest"
)

var (
	server = netip.MustParseAddrPort("192.0.2.10:5061")
	first  = netip.MustParseAddrPort("192.0.2.51:50147")
	second = netip.MustParseAddrPort("192.0.2.52:50200")
)

func entry(ms int, out bool, flow, party string, remote netip.AddrPort, start, method, body string) Entry {
	text := start + "\r\nVia: SIP/2.0/TLS 192.0.2.51:50147;branch=z9hG4bK1\r\nFrom: <sip:301@192.0.2.10>;tag=1\r\nTo: <sip:302@192.0.2.10>\r\n" +
		"Call-ID: " + flow + "@192.0.2.51\r\nCSeq: 101 " + method + "\r\n"
	if body != "" {
		text += "Content-Type: application/sdp\r\n"
	}
	text += "\r\n" + body
	return Entry{
		At: time.Date(2026, 3, 2, 9, 0, 0, ms*1e6, time.UTC), Out: out, Flow: flow, Transport: "TLS", Local: server, Remote: remote,
		Peer: remote.String(), CallID: flow, Party: party, StartLine: start, Text: text,
	}
}

func talk() []Entry {
	sdp := "v=0\r\no=- 1 1 IN IP4 192.0.2.51\r\ns=-\r\nc=IN IP4 192.0.2.51\r\nt=0 0\r\nm=audio 17904 RTP/AVP 0\r\na=sendonly\r\n"
	return []Entry{
		entry(0, false, "a", "301", first, "INVITE sip:302@192.0.2.10 SIP/2.0", "INVITE", sdp),
		entry(1, true, "a", "301", first, "SIP/2.0 100 Trying", "INVITE", ""),
		entry(2, true, "b", "302", second, "INVITE sip:302@192.0.2.52 SIP/2.0", "INVITE", strings.Replace(sdp, "a=sendonly\r\n", "", 1)),
		entry(3, true, "c", "303", second, "INVITE sip:303@192.0.2.53 SIP/2.0", "INVITE", ""),
		entry(90, false, "c", "303", second, "SIP/2.0 486 Busy Here", "INVITE", ""),
		entry(95, false, "b", "302", second, "BYE sip:302@192.0.2.10 SIP/2.0", "BYE", ""),
		entry(96, true, "b", "302", second, "SIP/2.0 200 OK", "BYE", ""),
	}
}

func TestLadder(t *testing.T) {
	var b strings.Builder
	if err := Ladder(&b, talk()); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimPrefix(`
           301 TLS                       server                        302 TLS                       303 TLS
09:00:00.000  |---- INVITE SDP sendonly --->|                             |                             |
09:00:00.001  |<------- 100 Trying ---------|                             |                             |
09:00:00.002  |                             |-------- INVITE SDP -------->|                             |
09:00:00.003  |                             |---------------------------------------- INVITE ---------->|
09:00:00.090  |                             |<------------------------------------ 486 Busy Here -------|
09:00:00.095  |                             |<----------- BYE ------------|                             |
09:00:00.096  |                             |------- 200 OK (BYE) ------->|                             |
`, "\n")
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	b.Reset()
	if err := Ladder(&b, nil); err != nil || b.String() != "" {
		t.Errorf("of nothing: %q %v", b.String(), err)
	}
}

// TestPcapng: the analyser that people use reads what we write.
func TestPcapng(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed")
	}
	six := entry(99, true, "d", "304", netip.MustParseAddrPort("[2001:db8::4]:50300"), "OPTIONS sip:304@[2001:db8::4] SIP/2.0", "OPTIONS", "")
	six.Local = netip.MustParseAddrPort("[2001:db8::1]:5060")
	name := filepath.Join(t.TempDir(), "call.pcapng")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := Pcapng(f, "Ringfence", append(talk(), six)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tshark, "-n", "-r", name, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-e", "frame.number", "-e", "frame.time_epoch",
		"-e", "ip.src", "-e", "ipv6.src", "-e", "udp.dstport", "-e", "sip.Method", "-e", "sip.Status-Code", "-e", "sdp.media.port", "-e", "_ws.malformed", "-e", "ip.checksum.status", "-e", "udp.checksum.status")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 8 {
		t.Fatalf("%d packets\n%s", len(lines), out)
	}
	for i, want := range []string{
		"1|1772442000.000000000|192.0.2.51||5060|INVITE||17904||1|3", "2|1772442000.001000000|192.0.2.10||50147||100|||1|3",
		"5|1772442000.090000000|192.0.2.52||5060||486|||1|3", "8|1772442000.099000000||2001:db8::1|50300|OPTIONS|||||1",
	} {
		got := strings.ReplaceAll(lines[[]int{0, 1, 4, 7}[i]], "\t", "|")
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestHEP compares with a message taken apart by hand: the layout of HEP 3 is public, and tshark knows it, too.
func TestHEP(t *testing.T) {
	e := Entry{At: time.Unix(1772442000, 5000), Out: true, Transport: "TCP", Local: server, Remote: first, CallID: "a", Text: "OPTIONS"}
	want := "48455033" + "0071" +
		"00000001000702" + "00000003000ac000020a" + "00000004000ac0000233" + "00000002000706" + "00000007000813c5" + "000000080008c3e3" +
		"00000009000a69a55190" + "0000000a000a00000005" + "0000000b000701" + "0000000c000a00000007" + "0000000f000d4f5054494f4e53" + "00000011000761"
	if got := hex.EncodeToString(HEP(&e, 7)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e.Local, e.Remote = netip.MustParseAddrPort("[2001:db8::1]:5060"), netip.MustParseAddrPort("[2001:db8::4]:50300")
	if b := HEP(&e, 7); !bytes.Contains(b, []byte{0, 0, 0, 1, 0, 7, 10}) || int(b[4])<<8|int(b[5]) != len(b) {
		t.Errorf("%x", b)
	}
}

// TestBytesAreBounded: long messages do not make the ring grow without end.
func TestBytesAreBounded(t *testing.T) {
	r, f := New(), siptest.NewFlow("a", "TCP")
	taps := 0
	r.Tap(func(Entry) { taps++ })
	long := strings.Repeat("x", maxText-50)
	for i := range 2 {
		for range 50 {
			e := entry(0, true, "", "301", first, "INVITE", "INVITE", long)
			e.CallID, e.Text = string(rune('a'+i)), e.Text[:min(len(e.Text), maxText)]
			r.keep(e)
		}
	}
	before := r.bytes
	record(t, r, f, false, message("INVITE", "c1"))
	if taps != 1 || r.bytes <= before || len(r.Merged("a", "b", "c1", "a")) != 101 {
		t.Errorf("%d taps, %d bytes, %d messages", taps, r.bytes, len(r.Merged("a", "b", "c1", "a")))
	}
	e := entry(0, true, "", "301", first, "INVITE", "INVITE", long)
	e.Text = e.Text[:maxText]
	for i := range 7000 {
		e.CallID = time.Duration(i).String()
		r.keep(e)
		if r.bytes > MaxBytes {
			t.Fatalf("%d bytes", r.bytes)
		}
	}
	if n := len(r.Calls()); n < 1000 || n > MaxBytes/maxText {
		t.Errorf("%d calls", n)
	}
}
