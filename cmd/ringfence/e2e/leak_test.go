package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// capture is what was on the wire, by direction of a connection: TCP bytes put in sequence, UDP payloads one after the other.
type capture struct {
	streams map[string][]byte
	rtp     map[string][][]byte // payloads after a 12-byte RTP header, by addresses and SSRC
	packets int
}

type segment struct {
	seq  uint32
	data []byte
}

// readCapture reads a pcap or pcapng file.
func readCapture(name string) (*capture, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var src interface {
		ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
		LinkType() layers.LinkType
	}
	if ng, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions); err == nil {
		src = ng
	} else {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if src, err = pcapgo.NewReader(f); err != nil {
			return nil, err
		}
	}
	c := &capture{streams: map[string][]byte{}, rtp: map[string][][]byte{}}
	tcp := map[string][]segment{}
	for {
		data, _, err := src.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: packet %d: %w", name, c.packets, err)
		}
		c.packets++
		p := gopacket.NewPacket(data, src.LinkType(), gopacket.DecodeOptions{NoCopy: true})
		nl := p.NetworkLayer()
		if nl == nil {
			continue
		}
		if t, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && len(t.Payload) > 0 {
			k := fmt.Sprintf("tcp %v %v", nl.NetworkFlow(), t.TransportFlow())
			tcp[k] = append(tcp[k], segment{t.Seq, t.Payload})
		}
		if u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok && len(u.Payload) > 0 {
			k := fmt.Sprintf("udp %v %v", nl.NetworkFlow(), u.TransportFlow())
			c.streams[k] = append(c.streams[k], u.Payload...)
			if len(u.Payload) > 12 && u.Payload[0] == 0x80 && u.Payload[1]&0x7f < 72 {
				k += fmt.Sprintf(" ssrc %x", u.Payload[8:12])
				c.rtp[k] = append(c.rtp[k], u.Payload[12:])
			}
		}
	}
	for k, segs := range tcp {
		first := segs[0].seq
		sort.SliceStable(segs, func(i, j int) bool { return int32(segs[i].seq-first) < int32(segs[j].seq-first) })
		next := segs[0].seq
		for _, s := range segs {
			if skip := int32(next - s.seq); skip > 0 {
				if int(skip) >= len(s.data) {
					continue
				}
				s.data = s.data[skip:]
			}
			c.streams[k] = append(c.streams[k], s.data...)
			next = s.seq + uint32(len(s.data))
		}
	}
	return c, nil
}

const window = 8 // bytes of a secret that must not be seen in a row

// traces returns every form in which a window of secret could stand in a stream: raw, hexadecimal in both cases,
// percent-encoded, and base64 at each of its three alignments.
func traces(secret []byte) [][]byte {
	var out [][]byte
	for i := 0; i+window <= len(secret); i++ {
		w := secret[i : i+window]
		h := hex.EncodeToString(w)
		var pct strings.Builder
		for _, b := range w {
			fmt.Fprintf(&pct, "%%%02x", b)
		}
		out = append(out, w, []byte(h), []byte(strings.ToUpper(h)), []byte(pct.String()), []byte(strings.ToUpper(pct.String())))
		for shift := range 3 {
			b := base64.StdEncoding.EncodeToString(append(make([]byte, shift), w...))
			// Characters that also depend on the neighbours of the window are cut off at both ends.
			b = strings.TrimRight(b, "=")
			head := (shift*8 + 5) / 6
			tail := 0
			if (shift+window)%3 != 0 {
				tail = 1
			}
			b = b[head : len(b)-tail]
			out = append(out, []byte(b), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(b)),
				[]byte(strings.NewReplacer("+", "%2B", "/", "%2F").Replace(b)))
		}
	}
	return out
}

// leak names the first stream that holds a trace of secret.
func (c *capture) leak(secret []byte) (where string, found bool) {
	for _, tr := range traces(secret) {
		for k, s := range c.streams {
			if i := bytes.Index(s, tr); i >= 0 {
				return fmt.Sprintf("%s at byte %d as %q", k, i, tr), true
			}
		}
	}
	return "", false
}

// audible names the first RTP stream in which, read as G.711, the tone of hz is at least half of all power.
func (c *capture) audible(hz float64) (where string, found bool) {
	for k, payloads := range c.rtp {
		if len(payloads) < 25 {
			continue
		}
		pcm := make([]float64, 0, len(payloads)*160)
		for _, p := range payloads {
			for _, b := range p {
				pcm = append(pcm, ulaw(b))
			}
		}
		if r := toneShare(pcm, hz); r > 0.5 {
			return fmt.Sprintf("%s, %d packets, %.0f %% of the power", k, len(payloads), r*100), true
		}
	}
	return "", false
}

// toneShare is the share of the power of pcm (8 kHz) that lies at hz, over blocks of 20 ms.
func toneShare(pcm []float64, hz float64) float64 {
	const block = 160
	var at, all float64
	for len(pcm) >= block {
		var re, im, e float64
		for i, x := range pcm[:block] {
			a := 2 * math.Pi * hz * float64(i) / 8000
			re, im, e = re+x*math.Cos(a), im+x*math.Sin(a), e+x*x
		}
		at += 2 * (re*re + im*im) / block
		all += e
		pcm = pcm[block:]
	}
	if all == 0 {
		return 0
	}
	return at / all
}

// ulaw decodes one G.711 µ-law byte, written apart from the product's codec so that the two check each other.
func ulaw(b byte) float64 {
	b = ^b
	v := (float64(b&0x0f)*2+33)*float64(int(1)<<(b>>4&7)) - 33
	if b&0x80 != 0 {
		return -v
	}
	return v
}

// TestDetectorFindsWhatIsPlanted shows that the search of TestMorningLeaksNothing is not blind: planted secrets in every form
// and a clear call are found, a random one is not.
func TestDetectorFindsWhatIsPlanted(t *testing.T) {
	secret := []byte("k7Qm2Vx9RtPw")
	forms := map[string]string{
		"raw":             "xx" + string(secret) + "yy",
		"part":            "..m2Vx9RtP..",
		"hex":             "<a>" + hex.EncodeToString(secret) + "</a>",
		"HEX":             strings.ToUpper(hex.EncodeToString(secret)),
		"base64":          base64.StdEncoding.EncodeToString(secret),
		"base64 shifted":  base64.StdEncoding.EncodeToString(append([]byte("u"), secret...)),
		"base64 shifted2": base64.StdEncoding.EncodeToString(append([]byte("us"), append(secret, "tail"...)...)),
		"url":             "%6B%37%51%6D%32%56%78%39%52%74%50%77",
	}
	for name, text := range forms {
		t.Run(name, func(t *testing.T) {
			c := writeAndRead(t, []byte("GET / "+text), nil)
			if _, ok := c.leak(secret); !ok {
				t.Errorf("the planted secret was not found in %q", text)
			}
			if where, ok := c.leak([]byte("another-Secret1")); ok {
				t.Errorf("found what is not there: %s", where)
			}
		})
	}
	t.Run("across segments", func(t *testing.T) {
		c := writeAndRead(t, nil, [][]byte{secret[:5], secret[5:]})
		if _, ok := c.leak(secret); !ok {
			t.Error("a secret cut in two TCP segments was not found")
		}
	})
	t.Run("clear call", func(t *testing.T) {
		c := &capture{rtp: map[string][][]byte{"clear": tonePackets(440, 50), "noise": noisePackets(50)}}
		if where, ok := c.audible(440); !ok || !strings.HasPrefix(where, "clear") {
			t.Errorf("found %q, want the clear call", where)
		}
		delete(c.rtp, "clear")
		if where, ok := c.audible(440); ok {
			t.Errorf("found a tone in noise: %s", where)
		}
	})
}

func tonePackets(hz float64, n int) [][]byte {
	out := make([][]byte, n)
	for p := range out {
		out[p] = make([]byte, 160)
		for i := range out[p] {
			v := 8000 * math.Sin(2*math.Pi*hz*float64(p*160+i)/8000)
			best, dist := byte(0), math.Inf(1)
			for b := range 256 {
				if d := math.Abs(ulaw(byte(b))*4 - v); d < dist {
					best, dist = byte(b), d
				}
			}
			out[p][i] = best
		}
	}
	return out
}

func noisePackets(n int) [][]byte {
	out := make([][]byte, n)
	x := uint32(1)
	for p := range out {
		out[p] = make([]byte, 160)
		for i := range out[p] {
			x = x*1664525 + 1013904223
			out[p][i] = byte(x >> 24)
		}
	}
	return out
}

// writeAndRead puts one UDP datagram and TCP segments (the later one first) into a capture file and reads it back.
func writeAndRead(t *testing.T, datagram []byte, segs [][]byte) *capture {
	t.Helper()
	name := t.TempDir() + "/c.pcap"
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	put := func(l gopacket.SerializableLayer, proto layers.IPProtocol, payload []byte) {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto,
			SrcIP: netip.MustParseAddr("192.0.2.1").AsSlice(), DstIP: netip.MustParseAddr("192.0.2.2").AsSlice()}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ip, l, gopacket.Payload(payload)); err != nil {
			t.Fatal(err)
		}
		ci := gopacket.CaptureInfo{CaptureLength: len(buf.Bytes()), Length: len(buf.Bytes())}
		if err := w.WritePacket(ci, buf.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if datagram != nil {
		put(&layers.UDP{SrcPort: 1000, DstPort: 2000}, layers.IPProtocolUDP, datagram)
	}
	seq := uint32(0xfffffffe) // wraps inside the secret
	for i := len(segs) - 1; i >= 0; i-- {
		s := seq
		for _, before := range segs[:i] {
			s += uint32(len(before))
		}
		put(&layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: s, ACK: true, DataOffset: 5}, layers.IPProtocolTCP, segs[i])
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := readCapture(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
