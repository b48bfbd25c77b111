package netsvc

import (
	"context"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"
)

func serve(t *testing.T, o NTPOptions) *NTPServer {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	s, err := NewNTP(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// A client that nobody here wrote takes the answer as valid and computes our offset from it.
func TestIndependentClient(t *testing.T) {
	for name, c := range map[string]struct {
		address string
		ask     string
		synced  bool
		stratum uint8
	}{
		"synchronised":     {"127.0.0.1:0", "127.0.0.1", true, stratumSynced},
		"alone":            {"127.0.0.1:0", "127.0.0.1", false, stratumAlone},
		"every address":    {"0.0.0.0:0", "127.0.0.5", true, stratumSynced}, // the answer must come from the address asked
		"IPv6":             {"[::1]:0", "::1", true, stratumSynced},
		"both, asked by 6": {"[::]:0", "::1", true, stratumSynced},
	} {
		t.Run(name, func(t *testing.T) {
			const ahead = 90 * time.Second
			s := serve(t, NTPOptions{Address: c.address, Synced: func() bool { return c.synced }, Now: func() time.Time { return time.Now().Add(ahead) }})
			r, err := ntp.QueryWithOptions(c.ask, ntp.QueryOptions{Port: s.Addr().(*net.UDPAddr).Port, Timeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Validate(); err != nil {
				t.Errorf("the client finds the answer unfit: %v", err)
			}
			if off := (r.ClockOffset - ahead).Abs(); off > 5*time.Second {
				t.Errorf("offset %v, want about %v", r.ClockOffset, ahead)
			}
			if r.Stratum != c.stratum {
				t.Errorf("stratum %d, want %d", r.Stratum, c.stratum)
			}
		})
	}
}

func TestClockBeforeTheRelease(t *testing.T) {
	now := time.Unix(1000, 0)
	s := serve(t, NTPOptions{Earliest: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Now: func() time.Time { return now }, Synced: func() bool { return true }})
	r, err := ntp.QueryWithOptions("127.0.0.1", ntp.QueryOptions{Port: s.Addr().(*net.UDPAddr).Port, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Leap != ntp.LeapNotInSync || r.Validate() == nil {
		t.Errorf("a clock of 1970 is handed out as good: leap %d, stratum %d", r.Leap, r.Stratum)
	}
}

func TestAnswerOnlyToQuestions(t *testing.T) {
	s := &NTPServer{o: NTPOptions{Now: time.Now, Synced: func() bool { return true }}}
	question := func(first byte, n int) []byte {
		b := make([]byte, n)
		if n > 0 {
			b[0] = first
		}
		for i := 40; i < min(n, 48); i++ {
			b[i] = byte(i)
		}
		return b
	}
	for name, c := range map[string]struct {
		q  []byte
		ok bool
	}{
		"version 4":      {question(4<<3|3, 48), true},
		"version 3":      {question(3<<3|3, 48), true},
		"version 2":      {question(2<<3|3, 48), true},
		"with extension": {question(4<<3|3, 68), true},
		"empty":          {nil, false},
		"short":          {question(4<<3|3, 47), false},
		"a server's":     {question(4<<3|4, 48), false},
		"symmetric":      {question(4<<3|1, 48), false},
		"control":        {question(2<<3|6, 48), false},
		"monlist":        {question(2<<3|7, 48), false},
		"version 0":      {question(3, 48), false},
		"version 7":      {question(7<<3|3, 48), false},
	} {
		t.Run(name, func(t *testing.T) {
			a, ok := s.answer(c.q, time.Now())
			if ok != c.ok {
				t.Fatalf("answered %v, want %v", ok, c.ok)
			}
			if !ok {
				return
			}
			if got, want := hex.EncodeToString(a[24:32]), hex.EncodeToString(c.q[40:48]); got != want {
				t.Errorf("origin %s, want the client's transmit time %s", got, want)
			}
			if a[0]>>3&7 != c.q[0]>>3&7 {
				t.Errorf("version %d answered with %d", c.q[0]>>3&7, a[0]>>3&7)
			}
		})
	}
}

func TestPutNTP(t *testing.T) {
	var b [8]byte
	putNTP(b[:], time.Date(2026, 11, 23, 0, 0, 0, 500_000_000, time.UTC))
	if got := hex.EncodeToString(b[:]); !strings.HasSuffix(got, "80000000") || got[:8] != "eeae0080" {
		t.Errorf("%s", got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 48))
	f.Add(append([]byte{4<<3 | 3}, make([]byte, 47)...))
	s := &NTPServer{o: NTPOptions{Now: time.Now, Synced: kernelSynced}}
	f.Fuzz(func(t *testing.T, q []byte) {
		if a, ok := s.answer(q, time.Now()); ok && (len(a) > len(q) || a[0]&7 != modeServer) {
			t.Errorf("%x answered with %x", q, a)
		}
	})
}
