package phone

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/pion/rtp"

	"ringfence/media/codec"
)

// The phone's G.711 and the appliance's were written apart from each other; they agree on
// every input.
func TestG711AgreesWithTheAppliance(t *testing.T) {
	for _, tc := range []struct {
		name        string
		encode      func(int16) byte
		decode      func(byte) int16
		theirEncode func([]byte, []int16) []byte
		theirDecode func([]int16, []byte) []int16
	}{
		{"mu-law", ulaw, fromUlaw, codec.EncodeULaw, codec.DecodeULaw},
		{"A-law", alaw, fromAlaw, codec.EncodeALaw, codec.DecodeALaw},
	} {
		for i := range 256 {
			if got, want := tc.decode(byte(i)), tc.theirDecode(nil, []byte{byte(i)})[0]; got != want {
				t.Fatalf("%s %#x: %d and %d", tc.name, i, got, want)
			}
		}
		for x := math.MinInt16; x <= math.MaxInt16; x++ {
			// A sample that is exactly a decision value may go either way, so its neighbours' codes count too.
			got, ok := tc.decode(tc.encode(int16(x))), false
			for _, near := range []int{x, x - 1, x + 1} {
				near = min(max(near, math.MinInt16), math.MaxInt16)
				ok = ok || got == tc.theirDecode(nil, tc.theirEncode(nil, []int16{int16(near)}))[0]
			}
			if !ok {
				t.Fatalf("%s of %d: %d", tc.name, x, got)
			}
		}
	}
}

func TestTones(t *testing.T) {
	for _, hz := range []float64{300, 440, 700, 1004, 1633, 3000} {
		src := toneSource{hz: hz}
		out := make([]int16, 8000)
		src.fill(out)
		for i, s := range out {
			out[i] = fromUlaw(ulaw(s))
		}
		got, share := findTone(out)
		if math.Abs(got-hz) > 2 || share < 0.99 {
			t.Errorf("%.0f Hz found as %.1f with %.3f of the power", hz, got, share)
		}
		if s := ToneShare(out, hz+200); s > 0.01 {
			t.Errorf("%.0f Hz has %.3f of its power 200 Hz above", hz, s)
		}
		if c := Correlation(out, out[400:1200]); c < 0.99 {
			t.Errorf("%.0f Hz correlates with itself at %.3f", hz, c)
		}
	}
	noise := make([]int16, 8000)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = int16(x >> 17)
	}
	if _, share := findTone(noise); share > 0.05 {
		t.Errorf("noise is a tone with %.3f of its power", share)
	}
	src := toneSource{hz: 1004}
	tone := make([]int16, 800)
	src.fill(tone)
	if c := Correlation(noise, tone); c > 0.3 {
		t.Errorf("noise correlates with a tone at %.3f", c)
	}
	if hz, share := findTone(make([]int16, 8000)); hz != 0 || share != 0 {
		t.Errorf("silence is %.0f Hz", hz)
	}
}

func TestOpaqueFrames(t *testing.T) {
	b := opaqueFrame(1004, 7)
	if hz, ok := fromOpaque(b); !ok || hz != 1004 || len(b) != 160 {
		t.Errorf("%.0f %v", hz, ok)
	}
	b[100] ^= 1
	if _, ok := fromOpaque(b); ok {
		t.Error("a changed frame counts as intact")
	}
}

func TestRecorder(t *testing.T) {
	var r recorder
	at := time.Unix(1700000000, 0)
	send := func(seq uint16, ssrc uint32) {
		r.packet(&rtp.Packet{Header: rtp.Header{SequenceNumber: seq, SSRC: ssrc, Timestamp: uint32(seq) * 160}, Payload: make([]byte, 160)}, at, "PCMU", 0, 101)
		at = at.Add(20 * time.Millisecond)
	}
	for _, seq := range []uint16{65533, 65534, 65535, 0, 2, 3, 5} { // 1 and 4 are lost, over the wrap
		send(seq, 1)
	}
	if r.lost() != 2 || r.received != 7 || r.late != 0 {
		t.Errorf("lost %d of %d, late %d", r.lost(), r.received, r.late)
	}
	send(4, 1) // comes late: not lost after all
	if r.lost() != 1 || r.late != 1 {
		t.Errorf("lost %d, late %d", r.lost(), r.late)
	}
	send(100, 2)
	send(102, 2)
	if r.lost() != 2 || r.sources != 1 {
		t.Errorf("lost %d, sources %d", r.lost(), r.sources)
	}
}

// crypto/tls hands out at most one record for each Read; the record checks stand on it.
func TestRecordConn(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tc := range []struct {
			name   string
			writes [][]byte
			ok     bool
		}{
			{"one message in one record", [][]byte{{0, 2, 'a', 'b'}}, true},
			{"two messages in one record", [][]byte{{0, 2, 'a', 'b', 0, 1, 'c'}}, true},
			{"two messages in two records", [][]byte{{0, 2, 'a', 'b'}, {0, 1, 'c'}}, true},
			{"header and body apart", [][]byte{{0, 2}, {'a', 'b'}}, false},
			{"cut in the body", [][]byte{{0, 2, 'a'}, {'b'}}, false},
			{"cut in the header", [][]byte{{0}, {2, 'a', 'b'}}, false},
			{"a message and a half", [][]byte{{0, 1, 'c', 0}, {1, 'd'}}, false},
		} {
			t.Run(tls.VersionName(version)+" "+tc.name, func(t *testing.T) {
				a, b := net.Pipe()
				id := pairOf(signer(t, "tvs"))
				server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{id}, MinVersion: version, MaxVersion: version})
				go func() {
					for _, w := range tc.writes {
						_, _ = server.Write(w)
					}
					server.Close()
				}()
				spread := 0
				c := newRecordConn(tls.Client(b, &tls.Config{InsecureSkipVerify: true}), prefixed(2, 0), func(string) { spread++ })
				defer c.Close()
				_, err := io.ReadAll(&oneByte{c})
				a.Close() // a server that says goodbye waits for nobody
				b.Close()
				if got := err == nil; got != tc.ok || (spread == 0) != tc.ok || !tc.ok && !errors.Is(err, errSpread) {
					t.Errorf("%v, told %d times", err, spread)
				}
			})
		}
	}
}

type oneByte struct{ r io.Reader }

func (o *oneByte) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }
