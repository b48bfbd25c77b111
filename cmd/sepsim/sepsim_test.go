package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"", exitUsage, "sepsim morning"},
		{"help", exitOK, "sepsim load"},
		{"dial", exitUsage, `no command "dial"`},
		{"run", exitUsage, "is no address"},
		{"run --server 192.0.2.1", exitUsage, "--dir is missing"},
		{"run --server 192.0.2.1 --dir x --device SEP00", exitUsage, "not SEP and twelve"},
		{"run --server 192.0.2.1 --dir x --device SEP001122AA0001 --model 1234", exitUsage, `model "1234"`},
		{"run --bogus", exitUsage, "bogus"},
		{"run -h", exitOK, "-outside"},
		{"run --server 192.0.2.1 surplus", exitUsage, `"surplus" is too much`},
		{"load --server 192.0.2.1", exitUsage, "no address with port"},
		{"load --server 192.0.2.1:5060 --device-base X", exitUsage, "no device name"},
		{"load --server 192.0.2.1:5060 --password-env NOTHING_THERE", exitUsage, "no password"},
		{"morning --ringfence /nowhere/ringfence", exitFail, "/nowhere/ringfence config example"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Chdir(t.TempDir())
			var out bytes.Buffer
			code := command(t.Context(), strings.Fields(tc.args), strings.NewReader(""), &out, &out)
			if code != tc.code || !strings.Contains(out.String(), tc.says) {
				t.Errorf("status %d, want %d and %q:\n%s", code, tc.code, tc.says, out.String())
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	var b bytes.Buffer
	term := newTerminal(&b)
	term.done("a\x1b[2Jb\x07\u009b")
	if got, want := b.String(), "  ✓ a [2Jb  \n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	term.color = true
	b.Reset()
	term.failed("x")
	if got := b.String(); got != "  \x1b[31m✗\x1b[0m x\n" {
		t.Errorf("printed %q", got)
	}
}

// registrar answers REGISTER: 401, then 200; every tenth number is unknown.
func registrar(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	head := regexp.MustCompile(`(?s)\A(REGISTER .*?\r\n)\r\n`)
	length := regexp.MustCompile(`Content-Length: (\d+)`)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var pend []byte
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					pend = append(pend, buf[:n]...)
					for {
						m := head.FindSubmatch(pend)
						if m == nil {
							break
						}
						var body int
						fmt.Sscan(string(length.FindSubmatch(m[1])[1]), &body)
						if len(pend) < len(m[0])+body {
							break
						}
						pend = pend[len(m[0])+body:]
						var copied strings.Builder
						for _, line := range strings.Split(string(m[1]), "\r\n") {
							for _, name := range []string{"Via:", "From:", "To:", "Call-ID:", "CSeq:"} {
								if strings.HasPrefix(line, name) {
									copied.WriteString(line + "\r\n")
								}
							}
						}
						status := "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=MD5"
						switch {
						case strings.Contains(copied.String(), "To: <sip:5010@"):
							status = "403 Forbidden"
						case strings.Contains(string(m[1]), "Authorization: "):
							status = "200 OK\r\nExpires: 120"
						}
						fmt.Fprintf(c, "SIP/2.0 %s\r\n%sContent-Length: 0\r\n\r\n", status, copied.String())
					}
				}
			})
		}
	})
	return ln.Addr().String()
}

func TestLoad(t *testing.T) {
	t.Setenv("SEPSIM_PASSWORD", "k7Qm2Vx9Rt")
	var out bytes.Buffer
	args := []string{"load", "--server", registrar(t), "--phones", "40", "--rate", "1000", "--hold", "100ms", "--first", "5000"}
	code := command(t.Context(), args, nil, &out, &out)
	text := out.String()
	if code != exitFail || !strings.Contains(text, "registered 39 of 40") || !strings.Contains(text, "1 × REGISTER: 403 Forbidden") {
		t.Errorf("status %d:\n%s", code, text)
	}
	file := filepath.Join(t.TempDir(), "accounts")
	if err := os.WriteFile(file, []byte("# comment\nSEP001122AA0001 301 secret99\n\nSEP001122AA0002 302 secret98\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code = command(ctx, []string{"load", "--server", registrar(t), "--accounts", file, "--hold", "0"}, nil, &out, &out)
	if code != exitOK || !strings.Contains(out.String(), "registered 2 of 2") || strings.Contains(out.String(), "secret9") {
		t.Errorf("status %d:\n%s", code, out.String())
	}
}

// A daemon that does not start is told with the end of its log.
func TestMorningWithABrokenDaemon(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "ringfence")
	script := "#!/bin/sh\nif [ \"$1\" = config ]; then echo 'node: {}'; exit 0; fi\necho 'port 69 is taken' >&2\nexit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	var out bytes.Buffer
	code := command(t.Context(), []string{"morning", "--ringfence", program, "--once"}, nil, &out, &out)
	if code != exitFail || !strings.Contains(out.String(), "port 69 is taken") {
		t.Errorf("status %d:\n%s", code, out.String())
	}
	left, err := filepath.Glob(filepath.Join(dir, "ringfence-morning-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
