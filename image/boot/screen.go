package boot

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

const screenEvery = 2 * time.Second

// screen shows the status on the first virtual console. There is no log-in: whoever stands there sees what is the matter.
func (s *system) screen(context.Context) {
	f, err := os.OpenFile("/dev/tty1", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("1\n"), 0) // the kernel's lines would write over it
	last := ""
	for {
		text := render(s.view.get(), s.view.getDaemon())
		if s.openToSetup() && s.view.get().Data == "" {
			text += "\n  Nothing is declared yet: press Enter to give it a name and an address.\n"
		}
		if s.disk != nil {
			if hint := eraseHint(s.view.get()); hint != "" {
				text += "\n  " + hint + "\n"
			}
		}
		if s.talking.Load() {
			last = ""
		} else if text != last {
			last = text
			// Clear, home, no cursor.
			_, _ = f.WriteString("\x1b[2J\x1b[H\x1b[?25l" + strings.ReplaceAll(text, "\n", "\r\n"))
		}
		time.Sleep(screenEvery)
	}
}

// fullPart of the data partition free is next to nothing.
const fullPart = 50

// render is the screen as text.
func render(st Status, d DaemonStatus) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	name := d.Name
	if name == "" {
		name = "not configured yet"
	}
	fmt.Fprintf(&b, "\n  Ringfence %s   %s\n\n", st.Version, name)
	row("state", "%s", state(st, d))
	if len(st.Links) == 0 {
		row("network", "no network card that this image has a driver for")
	}
	for _, l := range st.Links {
		switch {
		case len(l.Addresses) > 0:
			row(l.Name, "%s (%s)", strings.Join(l.Addresses, "  "), l.MAC)
		case l.Up:
			row(l.Name, "no address; nobody answers DHCP (%s)", l.MAC)
		default:
			row(l.Name, "no cable (%s)", l.MAC)
		}
	}
	if d.Address != "" {
		row("phones use", "%s", d.Address)
	}
	if d.Name != "" {
		row("phones", "%d of %d registered", len(d.Registered), d.Phones)
	}
	if d.CA != "" {
		row("fingerprint", "%s", d.CA)
	}
	row("slot", "%s  %s", strings.ToUpper(string(st.Slot)), st.Slots)
	if st.Update != nil {
		row("last update", "%s: %s, %s", st.Update.Version, st.Update.State, st.Update.At.Format(time.DateTime))
	}
	if st.DataSize > 0 {
		row("data", "%d of %d MB free", st.DataFree>>20, st.DataSize>>20)
	}
	b.WriteByte('\n')
	wrong := problems(st, d)
	for _, w := range wrong {
		fmt.Fprintf(&b, "  ! %s\n", w)
	}
	return b.String()
}

func state(st Status, d DaemonStatus) string {
	switch {
	case st.Phase != "running":
		return st.Phase
	case st.Data != "":
		return "stopped: the data partition cannot be used"
	case st.Daemon != "":
		return "the service is starting"
	case len(d.Down) > 0:
		return "running, not everything is up"
	case !st.Committed:
		return "running, proving itself: " + st.Gate
	}
	return "running"
}

// problems are what somebody should look at.
func problems(st Status, d DaemonStatus) []string {
	var out []string
	if st.TestKeys {
		out = append(out, "built with TEST keys: anybody can sign an update for this appliance")
	}
	if st.Recovery {
		out = append(out, "recovery: neither slot has proven itself lately; install an update")
	}
	if st.Update != nil && st.Update.State == Returned {
		out = append(out, "the update to "+st.Update.Version+" did not prove itself; this is the release before it")
	}
	for _, text := range []string{st.Data, st.Clock} {
		if text != "" {
			out = append(out, text)
		}
	}
	if st.DataSize > 0 && st.DataFree < st.DataSize/fullPart {
		out = append(out, fmt.Sprintf("the data partition is full: %d MB are free; delete recordings or backups", st.DataFree>>20))
	}
	if st.Crashes > 0 {
		out = append(out, fmt.Sprintf("the service has ended %d times of late: %s", st.Crashes, st.Daemon))
	}
	for _, down := range d.Down {
		out = append(out, "not up: "+down)
	}
	if d.Address != "" && st.Phase == "running" {
		have := false
		for _, l := range st.Links {
			for _, a := range l.Addresses {
				have = have || strings.HasPrefix(a, d.Address+"/")
			}
		}
		if !have {
			out = append(out, "node.address "+d.Address+" is no address of this machine")
		}
	}
	return append(append(out, st.Notes...), d.Warnings...)
}
