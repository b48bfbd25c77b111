package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What systemd, or whatever else started the daemon, hears of it: ready when every service is, alive while it is, stopping.
func TestParentIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Setenv("NOTIFY_SOCKET", path)
	os.Setenv("WATCHDOG_USEC", "900000")
	defer os.Unsetenv("WATCHDOG_USEC")
	defer os.Unsetenv("NOTIFY_SOCKET")
	heard := func(want string) {
		t.Helper()
		b := make([]byte, 500)
		if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := l.Read(b)
			if err != nil {
				t.Fatalf("%s was never heard: %v", want, err)
			}
			if strings.Contains(string(b[:n]), want+"\n") {
				return
			}
		}
	}
	d := newDaemon(t, morning)
	heard("READY=1")
	for range 3 {
		heard("WATCHDOG=1")
	}
	d.stop()
	heard("STOPPING=1")
}
