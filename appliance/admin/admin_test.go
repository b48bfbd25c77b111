package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ringfence/appliance/supervise"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) {
	if path := os.Getenv("RINGFENCE_ADMIN_TEST_DIAL"); path != "" {
		c := Client{Socket: path, Verbs: Verbs()}
		os.Exit(c.Command([]string{"status"}, os.Stdout, os.Stderr))
	}
	time.Local = time.UTC // golden files show local times
	goleak.VerifyTestMain(m)
}

// serve runs a Server until the test ends and returns a client for it.
func serve(t *testing.T, o Options) (*Server, Client) {
	t.Helper()
	if o.Socket == "" {
		o.Socket = filepath.Join(t.TempDir(), "run", "s.sock")
	}
	if o.Handlers == nil {
		o.Handlers = sample().Handlers()
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		s.Close()
		if _, err := os.Stat(o.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket left behind: %v", err)
		}
	})
	verbs := o.Verbs
	if verbs == nil {
		verbs = Verbs()
	}
	return s, Client{Socket: o.Socket, Verbs: verbs}
}

func run(c Client, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = c.Command(args, &out, &errs)
	return code, out.String(), errs.String()
}

// What administrators see and what scripts read is kept in testdata; -update writes it anew.
func TestAnswers(t *testing.T) {
	_, c := serve(t, Options{})
	for _, args := range [][]string{
		{"status"}, {"phone", "list"}, {"phone", "show", "SEP001122AA0001"}, {"phone", "show", "SEP001122AA0002"}, {"phone", "show", "SEP00AABBCCDD01"},
		{"line", "list"}, {"line", "show", "301"}, {"cert", "list"}, {"vpn", "sessions"}, {"call", "list"},
	} {
		for _, form := range []string{"txt", "json"} {
			name := strings.Join(args, "-") + "." + form
			t.Run(name, func(t *testing.T) {
				full := args
				if form == "json" {
					full = append([]string{}, append(args, "--json")...)
				}
				code, out, errs := run(c, full...)
				if code != ExitOK || errs != "" {
					t.Fatalf("exit %d, stderr %q", code, errs)
				}
				if strings.Contains(out, "\x1b") && form == "txt" {
					t.Error("control characters of the network reach the terminal")
				}
				path := filepath.Join("testdata", name)
				if *update {
					if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(string(want), out); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestEmptyLists(t *testing.T) {
	_, c := serve(t, Options{Handlers: Sources{
		Status: func() StatusInfo { return StatusInfo{} }, Phones: func(bool) []PhoneInfo { return nil }, Phone: func(string) (PhoneInfo, bool) { return PhoneInfo{}, false },
		Lines: func() []LineInfo { return nil }, Line: func(string) (LineInfo, bool) { return LineInfo{}, false }, Certs: func() []CertInfo { return nil },
		VPNSessions: func() []VPNSessionInfo { return nil }, Calls: func() []CallInfo { return nil },
	}.Handlers()})
	for verb, want := range map[string]string{
		"phone list": "no phone is declared and none has asked\n", "line list": "no line is declared\n", "cert list": "no certificate was issued\n",
		"vpn sessions": "nobody is connected\n", "call list": "no call\n",
	} {
		if code, out, _ := run(c, strings.Fields(verb)...); code != 0 || out != want {
			t.Errorf("%s: exit %d, %q; want %q", verb, code, out, want)
		}
		if code, out, _ := run(c, append(strings.Fields(verb), "--json")...); code != 0 || out != "[]\n" {
			t.Errorf("%s --json: exit %d, %q; want []", verb, code, out)
		}
	}
	if code, _, errs := run(c, "line", "show", "1"); code != 1 || errs != "ringfence: line 1 is not declared; none is declared\n" {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestRefusals(t *testing.T) {
	_, c := serve(t, Options{})
	for name, tc := range map[string]struct {
		args   string
		code   int
		stderr string
	}{
		"no verb":            {"", 2, "ringfence: no verb given\n"},
		"unknown verb":       {"frobnicate", 2, "ringfence: no verb \"frobnicate\"; ringfence help lists them\n"},
		"half a verb":        {"phone", 2, "ringfence: phone needs one of: list, show\n"},
		"half with a flag":   {"phone --json", 2, "ringfence: phone needs one of: list, show\n"},
		"wrong second word":  {"phone shw SEP001122AA0001", 2, "ringfence: phone has no verb \"shw\", but list, show\n"},
		"missing argument":   {"phone show", 2, "ringfence: phone show needs DEVICE\nusage: ringfence phone show DEVICE [--json]\n"},
		"too many":           {"phone show a b", 2, "ringfence: phone show: too many arguments\nusage: ringfence phone show DEVICE [--json]\n"},
		"none wanted":        {"status x", 2, "ringfence: status takes no arguments\nusage: ringfence status [--json]\n"},
		"unknown flag":       {"status --yaml", 2, "ringfence: status has no flag --yaml\nusage: ringfence status [--json]\n"},
		"json with value":    {"status --json=1", 2, "ringfence: status has no flag --json=1\nusage: ringfence status [--json]\n"},
		"undeclared phone":   {"phone show SEP001122AA0009", 1, "ringfence: phone SEP001122AA0009 is not declared; declared are SEP001122AA0001, SEP001122AA0002\n"},
		"no phone's name":    {"phone show kitchen", 1, "ringfence: phone kitchen is not declared; declared are SEP001122AA0001, SEP001122AA0002\n"},
		"undeclared line":    {"line show 999", 1, "ringfence: line 999 is not declared; declared are 301, 310\n"},
		"dashes end flags":   {"line show -- -1", 1, "ringfence: line -1 is not declared; declared are 301, 310\n"},
		"odd bytes in names": {"phone show ä&arg=x", 1, "ringfence: phone ä&arg=x is not declared; declared are SEP001122AA0001, SEP001122AA0002\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := run(c, strings.Fields(tc.args)...)
			if code != tc.code || errs != tc.stderr || out != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q", code, out, errs, tc.code, tc.stderr)
			}
		})
	}
	for _, spelling := range []string{"sep001122aa0001", "00:11:22:aa:00:01", "0011.22AA.0001", "00-11-22-AA-00-01"} {
		if code, out, errs := run(c, "phone", "show", "--json", spelling); code != 0 || !strings.Contains(out, `"device": "SEP001122AA0001"`) {
			t.Errorf("%s: exit %d, %s", spelling, code, errs)
		}
	}
	if code, out, _ := run(c, "phone", "show", "--help"); code != 0 || !strings.HasPrefix(out, "usage: ringfence phone show DEVICE [--json]\n") {
		t.Errorf("help: exit %d, %q", code, out)
	}
}

func TestManyDeclaredNamesAreCut(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("n", i))
	}
	if got, want := Undeclared("line", "x", names).Error(), "line x is not declared; declared are n0, n1, n2, n3, n4, n5, n6, n7 and 12 more"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// A verb that a later package brings: flags, arguments, a change, refusals of each kind.
func TestAddedVerb(t *testing.T) {
	verb := Verb{Name: "phone restart", Args: "DEVICE...", Min: 1, Max: 9, Short: "restart phones", Change: true,
		Flags: []Flag{{Name: "hard", Usage: "full boot", Bool: true}, {Name: "reason", Usage: "for the log"}}}
	var got Request
	_, c := serve(t, Options{Verbs: []Verb{verb}, Handlers: map[string]Handler{"phone restart": func(_ context.Context, r Request) (any, error) {
		got = r
		switch r.Args[0] {
		case "refuse":
			return nil, Refuse("phone is in a call")
		case "usage":
			return nil, Usage("no such reason")
		case "fail":
			return nil, errors.New("disk")
		case "panic":
			panic("boom")
		}
		return map[string]int{"restarted": len(r.Args)}, nil
	}}})
	code, out, errs := run(c, "phone", "restart", "a", "--hard", "b", "--reason", "new keys", "c")
	if code != 0 || out != "{\n  \"restarted\": 3\n}\n" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	want := Request{Args: []string{"a", "b", "c"}, Flags: map[string]string{"hard": "true", "reason": "new keys"}, Peer: Peer{UID: os.Geteuid(), PID: os.Getpid()}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("request (-want +got):\n%s", d)
	}
	for arg, want := range map[string]struct {
		code int
		text string
	}{"refuse": {1, "phone is in a call"}, "usage": {2, "no such reason"}, "fail": {1, "disk"}, "panic": {1, "verb phone restart: panic: boom"}} {
		if code, _, errs := run(c, "phone", "restart", arg); code != want.code || errs != "ringfence: "+want.text+"\n" {
			t.Errorf("%s: exit %d, %q; want %d, %q", arg, code, errs, want.code, want.text)
		}
	}
	for args, want := range map[string]string{"--hard=1 a": "--hard takes no value", "a --reason": "--reason needs a value", "a --x": "phone restart has no flag --x"} {
		if code, _, errs := run(c, append([]string{"phone", "restart"}, strings.Fields(args)...)...); code != 2 || !strings.HasPrefix(errs, "ringfence: "+want+"\n") {
			t.Errorf("%s: exit %d, %q; want %q", args, code, errs, want)
		}
	}
}

// The daemon checks again what its client checked: anybody can write to a socket.
func TestDaemonBelievesNoClient(t *testing.T) {
	verb := Verb{Name: "x y", Min: 1, Max: 1, Change: true, Short: "s"}
	handlers := sample().Handlers()
	handlers["x y"] = func(context.Context, Request) (any, error) { return "done", nil }
	_, c := serve(t, Options{Verbs: append(Verbs(), verb), Handlers: handlers})
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}}}
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
		text               string
	}{
		"unknown path":    {"GET", "/v1/nothing", "", 404, "the daemon knows no GET /v1/nothing"},
		"wrong method":    {"GET", "/v1/x/y?arg=a", "", 404, "the daemon knows no GET"},
		"no argument":     {"GET", "/v1/phone/show", "", 400, "usage: ringfence phone show DEVICE [--json]"},
		"two arguments":   {"GET", "/v1/phone/show?arg=a&arg=b", "", 400, "usage:"},
		"unknown flag":    {"GET", "/v1/status?f=1", "", 400, `status has no flag \"f\"`},
		"no JSON":         {"POST", "/v1/x/y", "hello", 400, "body is not JSON"},
		"empty body":      {"POST", "/v1/x/y", "", 400, "usage:"},
		"too large":       {"POST", "/v1/x/y", `{"args":["` + strings.Repeat("a", maxBody) + `"]}`, 400, "too large"},
		"and a good one":  {"POST", "/v1/x/y", `{"args":["a"]}`, 200, "done"},
		"and a good read": {"GET", "/v1/line/show?arg=301", "", 200, "Ada Example"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tc.method, "http://x"+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := hc.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			if res.StatusCode != tc.status || !bytes.Contains(b, []byte(tc.text)) || !json.Valid(b) {
				t.Errorf("got %d %.200s; want %d with %q", res.StatusCode, b, tc.status, tc.text)
			}
		})
	}
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.sock")
	o := Options{Socket: path, Handlers: sample().Handlers()}
	try := func() string {
		s, err := New(o)
		if err != nil {
			return err.Error()
		}
		s.Close()
		s.Close()
		return ""
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := try(); !strings.Contains(got, "a file of another kind is in the way") {
		t.Errorf("file in the way: %q", got)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("it was overwritten")
	}
	os.Remove(path)

	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	if got := try(); !strings.Contains(got, "another ringfence answers there") {
		t.Errorf("live socket: %q", got)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close() // as after kill -9: the file stays, nobody answers
	if code, _, errs := run(Client{path, Verbs()}, "status"); code != 1 || !strings.HasPrefix(errs, "ringfence: no daemon answers at "+path+": is ringfence run running") {
		t.Errorf("stale socket: exit %d, %q", code, errs)
	}
	if got := try(); got != "" {
		t.Errorf("stale socket not replaced: %q", got)
	}
	if code, _, errs := run(Client{path, Verbs()}, "status"); code != 1 || !strings.HasPrefix(errs, "ringfence: no daemon answers at") {
		t.Errorf("no socket: exit %d, %q", code, errs)
	}
	o.Socket = filepath.Join(dir, strings.Repeat("x", 110))
	if got := try(); !strings.Contains(got, "choose a shorter --socket") {
		t.Errorf("long path: %q", got)
	}
	o.Socket = filepath.Join(dir, "new", "folder", "s.sock")
	s, _ := serve(t, o)
	info, err := os.Stat(s.o.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestForeignUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("", "ringfence-admin")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "client")
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(exe, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	_, c := serve(t, Options{Socket: filepath.Join(dir, "s.sock")})
	asNobody := func() (int, string) {
		cmd := exec.Command(exe)
		cmd.Env = []string{"RINGFENCE_ADMIN_TEST_DIAL=" + c.Socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if code, out := asNobody(); code != 1 || out != "ringfence: no permission for "+c.Socket+": only root and the user of the daemon may give orders\n" {
		t.Errorf("by the file's mode: exit %d, %s", code, out)
	}
	if err := os.Chmod(c.Socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if code, out := asNobody(); code != 1 || out != "ringfence: user 65534 may not give orders here: only root and the user of the daemon may\n" {
		t.Errorf("by the kernel's word: exit %d, %s", code, out)
	}
}

func TestControlConnectionsAreBounded(t *testing.T) {
	_, c := serve(t, Options{})
	var idle []net.Conn
	for range maxControlConns {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	done := make(chan int)
	go func() { code, _, _ := run(c, "status"); done <- code }()
	select {
	case <-done:
		t.Error("one more than the bound was served")
	case <-time.After(100 * time.Millisecond):
	}
	for _, conn := range idle {
		conn.Close()
	}
	if code := <-done; code != 0 {
		t.Errorf("exit %d after room was made", code)
	}
}

func TestVerbWithoutHandler(t *testing.T) {
	h := sample().Handlers()
	delete(h, "cert list")
	if _, err := New(Options{Socket: "x", Handlers: h}); err == nil || err.Error() != `admin: verb "cert list" has no handler` {
		t.Errorf("got %v", err)
	}
	h = sample().Handlers()
	h["cert burn"] = h["cert list"]
	if _, err := New(Options{Socket: "x", Handlers: h}); err == nil || err.Error() != `admin: handler "cert burn" has no verb` {
		t.Errorf("got %v", err)
	}
}

func TestMetricsAndHealth(t *testing.T) {
	var mu sync.Mutex
	health := []supervise.Health{{Name: "sip", State: supervise.Running, Up: true}, {Name: "vpn", State: supervise.Running, Up: true}}
	get := func() []supervise.Health {
		mu.Lock()
		defer mu.Unlock()
		return append([]supervise.Health{}, health...)
	}
	m := NewMetrics("1.2.3")
	m.Services(get)
	m.Gauge("ringfence_phone_registered_devices", "Registered.", func() float64 { return 7 })
	refused := m.Counts("ringfence_sip_register_refused_total", "Refused.", "reason", "password", "line")
	refused("password")
	refused("made up by a stranger")
	took := m.Durations("ringfence_store_commit_seconds", "Took.", 0.001, 0.1)
	took(50 * time.Millisecond)
	s, _ := serve(t, Options{Metrics: m, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Health: get})
	fetch := func(path string) (int, string) {
		hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := hc.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	code, page := fetch("/metrics")
	for _, want := range []string{
		`ringfence_build_info{version="1.2.3"} 1`, `ringfence_task_panics_total `, `ringfence_service_up{service="vpn"} 1`, `ringfence_service_restarts_total{service="sip"} 0`,
		"# TYPE ringfence_service_restarts_total counter", `ringfence_phone_registered_devices 7`, `ringfence_sip_register_refused_total{reason="password"} 1`,
		`ringfence_sip_register_refused_total{reason="line"} 0`, `ringfence_sip_register_refused_total{reason="other"} 1`,
		`ringfence_store_commit_seconds_bucket{le="0.1"} 1`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if code != 200 || !strings.Contains(page, want) {
			t.Errorf("status %d, page lacks %q", code, want)
		}
	}
	if code, page := fetch("/healthz"); code != 200 || !strings.Contains(page, `"ok": true`) {
		t.Errorf("healthy: %d %s", code, page)
	}
	mu.Lock()
	health[1] = supervise.Health{Name: "vpn", State: supervise.Failed, Err: errors.New("open /dev/net/tun"), Restarts: 3}
	mu.Unlock()
	code, page = fetch("/healthz")
	var body struct {
		OK       bool
		Services []ServiceInfo
	}
	if err := json.Unmarshal([]byte(page), &body); err != nil || code != 503 || body.OK || len(body.Services) != 2 || !body.Services[0].Up || body.Services[1].State != "failed" {
		t.Errorf("one service down: %d %s %v", code, page, err)
	}
	if strings.Contains(page, "/dev/net/tun") {
		t.Error("the public page tells paths")
	}
	if _, page := fetch("/metrics"); !strings.Contains(page, `ringfence_service_up{service="vpn"} 0`) || !strings.Contains(page, `ringfence_service_restarts_total{service="vpn"} 3`) {
		t.Error("metrics do not show the failed service")
	}
	if code, _ := fetch("/v1/status"); code != 404 {
		t.Errorf("the control verbs are on the network: %d", code)
	}
	for _, bad := range []string{"sip_calls", "ringfence_calls", "ringfence_SIP_calls", "ringfence_sip-calls_now"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("name %q was accepted", bad)
				}
			}()
			m.Gauge(bad, "", func() float64 { return 0 })
		}()
	}
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket := filepath.Join(t.TempDir(), "s.sock")
	_, err = New(Options{Socket: socket, Handlers: sample().Handlers(), Listen: netip.MustParseAddrPort(ln.Addr().String())})
	if err == nil || !strings.HasPrefix(err.Error(), "node.listen.metrics: ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket left behind: %v", err)
	}
}
