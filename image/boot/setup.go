package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"
)

// The console asks the few questions without which nobody reaches the appliance: its name and address. There is no log-in,
// since whoever stands there could as well take the disk out; and it asks only where nothing was declared by somebody, or
// where the data partition cannot be used.

// answers of a set-up.
type answers struct {
	name    string
	static  *staticAddress // nil: DHCP
	address string         // that phones are told
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// errAborted is returned when the person did not confirm.
var errAborted = errors.New("nothing was changed")

// askSetup leads through the questions. current is the address that DHCP gave, or empty.
func askSetup(in *bufio.Reader, out io.Writer, current string) (answers, error) {
	a := answers{name: "ringfence", address: current}
	ask := func(question string) (string, error) {
		fmt.Fprintf(out, "\r\n%s ", question)
		line, err := in.ReadString('\n')
		return strings.TrimSpace(line), err
	}
	for {
		text, err := ask("Name of this appliance [" + a.name + "]:")
		if err != nil {
			return a, err
		}
		if text == "" || hostName.MatchString(text) {
			if text != "" {
				a.name = text
			}
			break
		}
		fmt.Fprint(out, "\r\nLetters, digits and - please, as in a host name.")
	}
	for {
		proposal := "192.0.2.10/24 192.0.2.1 192.0.2.53"
		question := "Address, gateway and DNS, as in " + proposal + ":"
		if current != "" {
			question = "Address, gateway and DNS, as in " + proposal + " [DHCP, now " + current + "]:"
		}
		text, err := ask(question)
		if err != nil {
			return a, err
		}
		if text == "" && current != "" {
			break
		}
		fixed, err := parseStatic(text)
		if err == nil && !fixed.Address.Addr().IsGlobalUnicast() {
			err = fmt.Errorf("%s is no address for a machine", fixed.Address.Addr())
		}
		if err == nil {
			a.static, a.address = fixed, fixed.Address.Addr().String()
			break
		}
		fmt.Fprintf(out, "\r\n%v", err)
	}
	text, err := ask(fmt.Sprintf("%s at %s. Use this? [y/N]", a.name, a.address))
	if err != nil {
		return a, err
	}
	if !strings.EqualFold(text, "y") && !strings.EqualFold(text, "yes") {
		return a, errAborted
	}
	return a, nil
}

// document is what the answers declare.
func (a answers) document() []byte {
	return fmt.Appendf(nil, "node:\n  name: %s\n  address: %s\n", a.name, a.address)
}

// openToSetup tells whether the console asks: nobody declared anything yet.
func (s *system) openToSetup() bool {
	var t taken
	_ = readJSON(configFile, &t)
	return t.Source == "" || t.Made != ""
}

// talk listens on the consoles for somebody who presses Enter.
func (s *system) talk(context.Context) {
	for _, name := range []string{"/dev/console", "/dev/tty1"} {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		s.tasks.Go("console "+name, func(context.Context) {
			defer f.Close()
			in := bufio.NewReader(f)
			if hint := eraseHint(s.view.get()); hint != "" && s.disk != nil && name != "/dev/tty1" { // the screen shows it itself
				fmt.Fprintf(f, "\r\n%s\r\n", hint)
			}
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					time.Sleep(10 * time.Second) // a line that nobody is at
					continue
				}
				s.talking.Store(true)
				s.hear(in, f, strings.TrimSpace(line))
				s.talking.Store(false)
			}
		})
	}
}

// hear answers a line that somebody typed.
func (s *system) hear(in *bufio.Reader, out io.Writer, line string) {
	st := s.view.get()
	switch {
	case s.disk != nil && st.Data != "":
		if line == "RESET" {
			fmt.Fprint(out, "\r\nErasing; the machine starts again.\r\n")
			s.factoryReset()
		}
		fmt.Fprintf(out, "\r\n%s\r\n%s\r\n", st.Data, eraseHint(st))
	case s.openToSetup() && st.Data == "":
		var current string
		if a, ok := s.waitAddress(0); ok {
			current = a
		}
		a, err := askSetup(in, out, current)
		if err == nil {
			fmt.Fprint(out, "\r\nOne moment.\r\n")
			err = s.setUp(a)
		}
		if err != nil {
			fmt.Fprintf(out, "\r\n%v\r\n", err)
			return
		}
		fmt.Fprintf(out, "\r\n%s\r\n", strings.ReplaceAll(render(s.view.get(), s.view.getDaemon()), "\n", "\r\n"))
	default:
		fmt.Fprintf(out, "\r\n%s\r\n", strings.ReplaceAll(render(st, s.view.getDaemon()), "\n", "\r\n"))
	}
}

// eraseHint says what can be done about a data partition that cannot be used.
func eraseHint(st Status) string {
	if st.Data == "" {
		return ""
	}
	return "Type RESET to erase the data partition and start as if new; then restore a backup."
}

// setUp stores what was answered while the daemon rests.
func (s *system) setUp(a answers) error {
	if _, err := netip.ParseAddr(a.address); err != nil {
		return err
	}
	s.resting.Store(true)
	defer s.resting.Store(false)
	s.stopDaemon()
	s.forgetDaemon()
	if a.static != nil {
		if err := writeJSON(staticFile, a.static); err != nil {
			return err
		}
		s.useStatic(a.static)
	}
	if err := s.apply(a.document(), "given on the console"); err != nil {
		return err
	}
	var t taken
	_ = readJSON(configFile, &t)
	t.Source, t.Made = "the console", ""
	s.view.set(func(v *Status) { v.Config = t.Source })
	return writeJSON(configFile, t)
}

// forgetDaemon makes the end of the daemon none that counts.
func (s *system) forgetDaemon() {
	s.daemon.mu.Lock()
	s.daemon.cmd = nil
	s.daemon.mu.Unlock()
}
