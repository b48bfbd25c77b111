package sip

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sipgo "github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
	"ringfence/sip/state"
)

// TestSipp registers 50 lines with Debian's sipp, over TCP and UDP.
func TestSipp(t *testing.T) {
	sipp, err := exec.LookPath("sipp")
	if err != nil {
		t.Skip("sipp is not installed")
	}
	s, _ := serve(t, declared{n: 1}, nil)
	const n = 50
	var users strings.Builder
	users.WriteString("SEQUENTIAL\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&users, "%d;[authentication username=%d password=pw%d]\n", 90000+i, 90000+i, 90000+i)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "users.csv")
	if err := os.WriteFile(file, []byte(users.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	scenario, err := filepath.Abs("testdata/sipp-register.xml")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, mode, transport string }{{"TCP", "t1", "TCP"}, {"UDP", "u1", "UDP"}} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), sipp, "-sf", scenario, "-inf", file, "-t", tt.mode, "-m", fmt.Sprint(n), "-r", "100",
				"-i", "127.0.0.1", "-nostdin", "-timeout", "30", "-timeout_error", s.Addr(tt.transport).String())
			cmd.Dir = dir
			cmd.WaitDelay = 5 * time.Second
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sipp: %v\n%s", err, tail(string(out), 3000))
			}
			for i := 1; i <= n; i++ {
				l, err := s.Line(fmt.Sprint(90000 + i))
				found := false
				for _, c := range l.Contacts {
					found = found || c.Transport == tt.transport && c.UserAgent == "sipp"
				}
				if err != nil || !l.Registered || !found {
					t.Fatalf("line %d: %+v, %v", 90000+i, l, err)
				}
			}
		})
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// TestBaresip registers a softphone that nobody here wrote, with nothing but number and password, over each transport.
func TestBaresip(t *testing.T) {
	baresip, err := exec.LookPath("baresip")
	if err != nil {
		t.Skip("baresip is not installed")
	}
	s, _ := serve(t, declared{n: 1}, nil)
	for i, transport := range []string{"UDP", "TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			line := fmt.Sprint(90011 + i)
			dir := t.TempDir()
			account := fmt.Sprintf("<sip:%s@%s;transport=%s>;auth_pass=pw%s;regint=60\n", line, s.Addr(transport), strings.ToLower(transport), line)
			config := "sip_listen 127.0.0.1:0\nsip_verify_server no\nmodule_path /usr/lib/baresip/modules\nmodule g711.so\nmodule_app account.so\nmodule_app menu.so\n"
			for name, text := range map[string]string{"accounts": account, "config": config} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			changed := make(chan struct{}, 100)
			defer s.State().Watch(func(state.Change) { changed <- struct{}{} })()
			cmd := exec.CommandContext(t.Context(), baresip, "-f", dir, "-t", "20")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			deadline := time.After(15 * time.Second)
			for !s.State().Line(line).Registered {
				select {
				case <-changed:
				case <-deadline:
					t.Fatal("not registered")
				}
			}
		})
	}
}

// TestLinphone registers Debian's linphone, which then shows the state of a phone and publishes its own.
func TestLinphone(t *testing.T) {
	linphone, err := exec.LookPath("linphonec")
	if err != nil {
		t.Skip("linphone-cli is not installed")
	}
	notified := make(chan string, 20)
	s, _ := serve(t, declared{n: 1}, func(o *Options) {
		o.Trace = func(_ flow.Flow, out bool, m sipgo.Message) {
			if res, ok := m.(*sipgo.Response); ok && !out && res.CSeq().MethodName == sipgo.NOTIFY {
				notified <- fmt.Sprint("answer ", res.StatusCode)
			}
			if req, ok := m.(*sipgo.Request); ok && out && req.Method == sipgo.NOTIFY {
				notified <- "NOTIFY " + strings.SplitN(req.Recipient.String(), "@", 2)[0]
			}
		}
	})
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".local/share/linphone"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("[sip]\nsip_port=-1\nsip_tcp_port=-1\nsip_tls_port=-1\ndefault_proxy=0\n"+
		"[proxy_0]\nreg_proxy=<sip:%s;transport=tcp>\nreg_identity=<sip:90001@127.0.0.1>\nreg_expires=600\nreg_sendregister=1\npublish=1\n"+
		"[auth_info_0]\nusername=90001\npasswd=pw90001\nrealm=pbx.example.com\ndomain=127.0.0.1\n"+
		"[friend_0]\nurl=\"ben\" <sip:10001@127.0.0.1>\npol=accept\nsubscribe=1\n", s.Addr("TCP"))
	if err := os.WriteFile(filepath.Join(dir, "rc"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), linphone, "-c", filepath.Join(dir, "rc"))
	cmd.Env = append(os.Environ(), "HOME="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	next := func(want string) {
		t.Helper()
		select {
		case got := <-notified:
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s did not come", want)
		}
	}
	next("NOTIFY sip:90001")
	next("answer 200")
	if l, err := s.Line("90001"); err != nil || !l.Registered || !strings.HasPrefix(l.Contacts[0].UserAgent, "Linphone") {
		t.Errorf("line %+v, %v", l, err)
	}
	s.State().SetLeg("10001", "x", state.Ringing)
	next("NOTIFY sip:90001")
	next("answer 200")
}

// TestSipvicious lets Debian's sipvicious guess numbers and a password. It finds neither: everybody is challenged alike, and
// after some failures even the right password is refused to whoever guesses.
func TestSipvicious(t *testing.T) {
	if _, err := exec.LookPath("svwar"); err != nil {
		t.Skip("sipvicious is not installed")
	}
	s, _ := serve(t, declared{n: 5}, func(o *Options) {
		o.Password = func(a string) (string, bool) { return "35", true } // within the range that is tried
	})
	port := fmt.Sprint(s.Addr("UDP").Port())
	for _, args := range [][]string{
		{"svwar", "-e", "10000-10006,90000-90003", "-m", "REGISTER", "--force"},
		{"svwar", "-e", "10000-10006,90000-90003", "-m", "INVITE", "--force"},
		{"svcrack", "-u", "90001", "-r", "1-40"},
		{"svcrack", "-u", "10001", "-r", "1-40"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), args[0], append(args[1:], "-p", port, "127.0.0.1")...)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
			cmd.WaitDelay = 5 * time.Second
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "found nothing") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
