package trace

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Ladder draws messages as arrows between us and each phone: the first phone at our left, the others at our right.
//
//	                 301 TLS                    us                     302 TCP
//	09:00:00.000      |-------- INVITE SDP ----->|                        |
//	09:00:00.002      |                          |------ INVITE SDP ----->|
func Ladder(w io.Writer, entries []Entry) error {
	var lanes []string // flows, in the order in which they came
	title := map[string]string{}
	for _, e := range entries {
		if _, ok := title[e.Flow]; !ok {
			lanes = append(lanes, e.Flow)
			name := e.Party
			if name == "" {
				name = e.Peer
			}
			title[e.Flow] = name + " " + e.Transport
		}
	}
	if len(lanes) == 0 {
		return nil
	}
	const width = 30
	// Our own column is the second one.
	column := func(flow string) int {
		for i, l := range lanes {
			if l == flow && i == 0 {
				return 0
			} else if l == flow {
				return i + 1
			}
		}
		return 0
	}
	columns := len(lanes) + 1
	blank := func() []rune {
		row := []rune(strings.Repeat(" ", (columns-1)*width+1))
		for c := range columns {
			row[c*width] = '|'
		}
		return row
	}
	head := []rune(strings.Repeat(" ", 14+columns*width))
	put := func(row []rune, at int, text string) {
		for i, r := range []rune(text) {
			if at+i >= 0 && at+i < len(row) {
				row[at+i] = r
			}
		}
	}
	put(head, 14+width-3, "server")
	for _, l := range lanes {
		t := title[l]
		if n := width - 4; utf8.RuneCountInString(t) > n {
			t = string([]rune(t)[:n])
		}
		put(head, 14+column(l)*width-min(len(t)/2, 13), t)
	}
	if _, err := fmt.Fprintln(w, strings.TrimRight(string(head), " ")); err != nil {
		return err
	}
	for _, e := range entries {
		row := blank()
		from, to := column(e.Flow), 1
		left, right := min(from, to)*width, max(from, to)*width
		for i := left + 1; i < right; i++ {
			row[i] = '-'
		}
		// Towards the phone: to the left for the first one, to the right for the others.
		if e.Out == (from < to) {
			row[left+1] = '<'
		} else {
			row[right-1] = '>'
		}
		text := " " + e.Short() + " "
		if n := width - 4; utf8.RuneCountInString(text) > n {
			text = string([]rune(text)[:n-1]) + " "
		}
		middle := left + width/2
		if from > to {
			middle = right - width/2
		}
		put(row, middle-utf8.RuneCountInString(text)/2, text)
		if _, err := fmt.Fprintf(w, "%s  %s\n", e.At.Format("15:04:05.000"), strings.TrimRight(string(row), " ")); err != nil {
			return err
		}
	}
	return nil
}

// Short is what a message is in a few words: INVITE SDP, 180 Ringing, 200 OK (BYE).
func (e *Entry) Short() string {
	text := e.StartLine
	if rest, ok := strings.CutPrefix(text, "SIP/2.0 "); ok {
		text = rest
		if m := e.header("CSeq"); m != "" {
			if f := strings.Fields(m); len(f) == 2 && f[1] != "INVITE" {
				text += " (" + f[1] + ")"
			}
		}
	} else {
		text, _, _ = strings.Cut(text, " ")
	}
	if strings.Contains(e.header("Content-Type"), "sdp") {
		text += " SDP"
		for _, d := range []string{"sendonly", "recvonly", "inactive"} {
			if strings.Contains(e.Text, "\na="+d) {
				text += " " + d
			}
		}
	}
	return text
}

func (e *Entry) header(name string) string {
	head, _, _ := strings.Cut(e.Text, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
