package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// terminal prints lines, in colour when its writer is one.
type terminal struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

func newTerminal(w io.Writer) *terminal {
	t := &terminal{w: w}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		t.color = err == nil
	}
	return t
}

// The SGR codes in use.
const (
	green  = "32"
	red    = "31"
	yellow = "33"
	bold   = "1"
	faint  = "2"
)

func (t *terminal) paint(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *terminal) line(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, format+"\n", args...)
}

func (t *terminal) title(s string) { t.line("\n%s", t.paint(bold, s)) }

// done, failed and passed over are the three ways in which a step can end. Control characters of a peer do not reach the
// terminal.
func (t *terminal) done(text string)   { t.line("  %s %s", t.paint(green, "✓"), printable(text)) }
func (t *terminal) failed(text string) { t.line("  %s %s", t.paint(red, "✗"), printable(text)) }
func (t *terminal) passed(text string) { t.line("  %s %s", t.paint(yellow, "–"), printable(text)) }
func (t *terminal) note(text string)   { t.line("    %s", t.paint(faint, printable(text))) }

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
