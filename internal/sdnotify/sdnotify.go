// Package sdnotify tells the process that started us how we are, in the words of sd_notify(3): a datagram of NAME=value lines
// to the socket in $NOTIFY_SOCKET. systemd listens there, and so may any other parent. Without the variable nothing is sent.
package sdnotify

import (
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Messages that both sides know.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	Watchdog = "WATCHDOG=1"
)

// Status is the line that is shown to people beside the state.
func Status(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

// Send sends messages in one datagram. sent is false when nobody listens.
func Send(messages ...string) (sent bool, err error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return false, nil
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // a name of the abstract namespace
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return false, err
	}
	_, err = c.Write([]byte(strings.Join(messages, "\n") + "\n"))
	return err == nil, err
}

// Interval is how often the parent wants to hear Watchdog at least, and 0 when it does not.
func Interval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
