package tvs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/netlimit"
	"ringfence/trust"
	"ringfence/trust/internal/vectors"
	"ringfence/trust/tvs"
)

// store is the one that the recorded server had.
func store(t testing.TB) func([]byte) ([]trust.Role, time.Duration, bool) {
	t.Helper()
	type entry struct {
		roles []trust.Role
		ttl   time.Duration
	}
	known := make(map[string]entry)
	for _, e := range vectors.Load(t).TVSSetup.Store {
		var roles []trust.Role
		for _, name := range e.Roles {
			r, err := trust.ParseRole(name)
			if err != nil {
				t.Fatal(err)
			}
			roles = append(roles, r)
		}
		known[string(vectors.Key(t, e.Certificate).Cert.Raw)] = entry{roles, time.Duration(e.TTL) * time.Second}
	}
	return func(der []byte) ([]trust.Role, time.Duration, bool) {
		e, ok := known[string(der)]
		return e.roles, e.ttl, ok
	}
}

// start runs a server on a free port and ends it with the test.
func start(t testing.TB, change func(*tvs.Options)) *tvs.Server {
	t.Helper()
	key := vectors.Key(t, "keys/tvs.pem")
	o := tvs.Options{
		Address: "127.0.0.1:0",
		TLS:     &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{key.Cert.Raw}, PrivateKey: key.Key}}},
		Lookup:  store(t),
	}
	if change != nil {
		change(&o)
	}
	s, err := tvs.New(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return s
}

// client believes the one certificate, as a phone believes its list.
func client(t testing.TB, s *tvs.Server) *tvs.Client {
	want := vectors.Key(t, "keys/tvs.pem").Cert.Raw
	return &tvs.Client{
		Address: s.Addr().String(),
		Device:  "CP-8841-SEP001122334455",
		TLS: &tls.Config{
			InsecureSkipVerify: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				if !bytes.Equal(cs.PeerCertificates[0].Raw, want) {
					return errors.New("not the TVS certificate of the list")
				}
				return nil
			},
		},
	}
}

type message struct {
	From    string `json:"from"`
	Message string `json:"message"`
	Hex     string `json:"hex"`
}

func (m message) bytes(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(m.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors replays each recorded session against our server. What must come back is the manifest's product column; where
// the recording has an answer and the product says valid or invalid, ours is the same byte for byte.
func TestVectors(t *testing.T) {
	s := start(t, func(o *tvs.Options) { o.Idle = 5 * time.Second })
	valid := "570102000102030400100700010008000201030900040001" + "5180"
	m := vectors.Load(t)
	if len(m.TVS) < 26 {
		t.Fatalf("only %d vectors", len(m.TVS))
	}
	for _, v := range m.TVS {
		t.Run(v.File, func(t *testing.T) {
			var session []message
			if err := json.Unmarshal(vectors.Read(t, v.File), &session); err != nil {
				t.Fatal(err)
			}
			var send, want []byte
			dribble := 0
			for _, msg := range session {
				switch {
				case msg.From == "client" && msg.Hex != "":
					send = append(send, msg.bytes(t)...)
				case msg.From == "server" && msg.Hex != "":
					want = append(want, msg.bytes(t)...)
				}
			}
			switch v.File {
			case "tvs/dribbled.json":
				// The recording ends where the reference gave up; the whole request is that of another session.
				var whole []message
				if err := json.Unmarshal(vectors.Read(t, "tvs/valid-two-roles.json"), &whole); err != nil {
					t.Fatal(err)
				}
				rest := whole[0].bytes(t)
				if !bytes.HasPrefix(rest, send) {
					t.Fatal("recording is not the beginning of the other")
				}
				send, dribble = rest, 3
			}

			c, err := tls.Dial("tcp", s.Addr().String(), client(t, s).TLS)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			if dribble == 0 {
				dribble = len(send)
			}
			for rest := send; len(rest) > 0; {
				n := min(dribble, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil && len(got) == 0 && v.Product != "dropped" && v.Product != "drop" {
				t.Fatal(err)
			}
			switch {
			case v.Product == "dropped" || v.Product == "drop":
				want = nil
			case v.Product == "answer or drop, log it":
				if len(got) == 0 {
					return
				}
				want, _ = hex.DecodeString(valid)
			case len(want) == 0: // the reference dropped what we answer
				want, _ = hex.DecodeString(valid)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("product is to: %s\ngot  %x\nwant %x", v.Product, got, want)
			}
		})
	}
}

func TestManyRequestsOnOneConnection(t *testing.T) {
	s := start(t, nil)
	c, err := client(t, s).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 20 {
		name, want := "keys/ccm.pem", true
		if i%2 == 1 {
			name, want = "keys/stranger.pem", false
		}
		r, err := c.Verify(vectors.Key(t, name).Cert.Raw)
		if err != nil {
			t.Fatal(err)
		}
		if r.Valid != want {
			t.Errorf("%d: %s valid %v", i, name, r.Valid)
		}
		if want && (r.TTL != tvs.DefaultTTL || len(r.Roles) != 2) {
			t.Errorf("%d: ttl %s roles %v", i, r.TTL, r.Roles)
		}
	}
}

// TestOneRecordPerMessage counts the TLS records that an answer takes.
func TestOneRecordPerMessage(t *testing.T) {
	s := start(t, nil)
	cl := client(t, s)
	cl.TLS.MaxVersion = tls.VersionTLS12 // tickets of TLS 1.3 would be records too
	var counted *recordCounter
	cl.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		counted = &recordCounter{Conn: c}
		return counted, err
	}
	c, err := cl.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := counted.applicationRecords()
	if _, err := c.Verify(vectors.Key(t, "keys/sast-1.pem").Cert.Raw); err != nil {
		t.Fatal(err)
	}
	if got := counted.applicationRecords() - before; got != 1 {
		t.Errorf("answer came in %d records", got)
	}
}

// recordCounter keeps what it reads, so that record headers can be counted.
type recordCounter struct {
	net.Conn
	mu   sync.Mutex
	read []byte
}

func (c *recordCounter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.read = append(c.read, b[:n]...)
	c.mu.Unlock()
	return n, err
}

func (c *recordCounter) applicationRecords() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := c.read; len(b) >= 5; {
		if b[0] == 23 {
			n++
		}
		b = b[min(len(b), 5+int(b[3])<<8+int(b[4])):]
	}
	return n
}

func TestSessionResumption(t *testing.T) {
	s := start(t, nil)
	cl := client(t, s)
	cl.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	cl.TLS.ServerName = "tvs"
	for i, want := range []bool{false, true, true} {
		c, err := cl.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(vectors.Key(t, "keys/ccm.pem").Cert.Raw); err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().DidResume; got != want {
			t.Errorf("connection %d: resumed %v, want %v", i, got, want)
		}
		c.Close()
	}
}

// TestIdlePeersStopNobody holds 200 connections that never start TLS and asks beside them (tvs.md §4).
func TestIdlePeersStopNobody(t *testing.T) {
	s := start(t, func(o *tvs.Options) { o.Limits = netlimit.Limits{Total: 300, PerSource: 300}; o.Idle = 4 * time.Second })
	idle := make([]net.Conn, 200)
	for i := range idle {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle[i] = c
		if i%2 == 1 {
			c.Write([]byte{0x16, 3, 1, 2}) // a handshake that goes no further
		}
	}
	for range 5 {
		began := time.Now()
		if r, err := client(t, s).Verify(t.Context(), vectors.Key(t, "keys/ccm.pem").Cert.Raw); err != nil || !r.Valid {
			t.Fatalf("got %v, %v", r, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("answer took %s", took)
		}
	}
	for i, c := range idle {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Fatalf("idle connection %d is still open", i)
		}
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestLimits(t *testing.T) {
	s := start(t, func(o *tvs.Options) { o.Limits = netlimit.Limits{Total: 10, PerSource: 2} })
	a, err := client(t, s).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := client(t, s).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, s).Connect(t.Context()); err == nil {
		t.Error("a third connection was taken")
	}
	if _, err := a.Verify(vectors.Key(t, "keys/ccm.pem").Cert.Raw); err != nil {
		t.Errorf("first connection: %v", err)
	}
	b.Close()
	// The server sees the end of b in its own time.
	for deadline := time.Now().Add(5 * time.Second); ; {
		c, err := client(t, s).Connect(t.Context())
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("place was not freed: %v", err)
		}
	}
}

func TestNotes(t *testing.T) {
	var mu sync.Mutex
	var notes []string
	s := start(t, func(o *tvs.Options) {
		o.Note = func(device, step, text string, failed bool) {
			mu.Lock()
			defer mu.Unlock()
			notes = append(notes, strings.Join([]string{device, step, text}, "|"))
		}
	})
	for _, key := range []string{"keys/ccm.pem", "keys/stranger.pem"} {
		if _, err := client(t, s).Verify(t.Context(), vectors.Key(t, key).Cert.Raw); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(notes) != 2 || notes[0] != "SEP001122334455|tvs|asked about Test CCM: valid" || !strings.Contains(notes[1], "not one of ours") {
		t.Errorf("notes: %q", notes)
	}
}

func TestStopIsIdempotent(t *testing.T) {
	s := start(t, nil)
	c, err := client(t, s).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.Stop()
	s.Stop()
	if _, err := c.Verify(vectors.Key(t, "keys/ccm.pem").Cert.Raw); err == nil {
		t.Error("an answer after stop")
	}
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("run after stop: %v", err)
	}
}

func TestSEP(t *testing.T) {
	for name, want := range map[string]string{
		"CP-8841-SEP001122334455":      "SEP001122334455",
		"CP-7975G-SEP001122334455":     "SEP001122334455",
		"CP-8841-SEP00112233445":       "",
		"CP-8841-SEP0011223344556":     "",
		"CP-8841-SEP00112233445a":      "",
		"xCP-8841-SEP001122334455":     "",
		"CP-8841-SEP001122334455 ":     "",
		"CP-88/41-SEP001122334455":     "",
		"CP-8841-3PCC-SEP00112233AA55": "SEP00112233AA55",
	} {
		if got := (&tvs.Request{Device: name}).SEP(); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestResponseRange(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Second / 2, tvs.MaxTTL + time.Second} {
		if _, err := (&tvs.Response{Valid: true, TTL: ttl}).Marshal(); err == nil {
			t.Errorf("ttl %s was written", ttl)
		}
	}
	if _, err := (&tvs.Request{Certificate: make([]byte, tvs.MaxBody)}).Marshal(); err == nil {
		t.Error("a request above 16 KiB was written")
	}
}

func FuzzMessages(f *testing.F) {
	for _, v := range vectors.Load(f).TVS {
		var session []message
		if err := json.Unmarshal(vectors.Read(f, v.File), &session); err != nil {
			f.Fatal(err)
		}
		for _, m := range session {
			if b, err := hex.DecodeString(m.Hex); err == nil && len(b) > 0 {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, err := tvs.ReadMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		var q tvs.Request
		if q.Unmarshal(whole) == nil {
			again, err := q.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			var q2 tvs.Request
			if err := q2.Unmarshal(again); err != nil || q2.Device != q.Device || !bytes.Equal(q2.Certificate, q.Certificate) || q2.Session != q.Session {
				t.Errorf("round trip: %v", err)
			}
		}
		var r tvs.Response
		_ = r.Unmarshal(whole)
	})
}

func benchmark(b *testing.B, resume bool) {
	s := start(b, nil)
	cl := client(b, s)
	if resume {
		cl.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		cl.TLS.ServerName = "tvs"
	}
	der := vectors.Key(b, "keys/ccm.pem").Cert.Raw
	for b.Loop() {
		if _, err := cl.Verify(context.Background(), der); err != nil {
			b.Fatal(err)
		}
	}
}

// Client and server share the processor in these.
func BenchmarkQueryNewConnection(b *testing.B) { benchmark(b, false) }
func BenchmarkQueryResumed(b *testing.B)       { benchmark(b, true) }

func BenchmarkQuerySameConnection(b *testing.B) {
	c, err := client(b, start(b, nil)).Connect(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	der := vectors.Key(b, "keys/ccm.pem").Cert.Raw
	for b.Loop() {
		if _, err := c.Verify(der); err != nil {
			b.Fatal(err)
		}
	}
}
