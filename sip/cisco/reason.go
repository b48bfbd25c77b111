package cisco

import (
	"fmt"
	"strconv"
	"strings"
)

// ResetReason is what a phone says in the Reason header of its first REGISTER and when it unregisters
// (sip-overview.md §3, sip-registration.md §8):
//
//	Reason: SIP;cause=200;text="cisco-alarm:25 Name=SEP... ActiveLoad=... InactiveLoad=... Last=initialized"
type ResetReason struct {
	Code         int
	Name         string
	ActiveLoad   string // without .loads
	InactiveLoad string
	Last         string
}

// Marshal writes the header's value. A phone with one firmware slot has no InactiveLoad and calls the other one Load.
func (r *ResetReason) Marshal() string {
	loads := " Load=" + r.ActiveLoad + ".loads"
	if r.InactiveLoad != "" {
		loads = " ActiveLoad=" + r.ActiveLoad + ".loads InactiveLoad=" + r.InactiveLoad + ".loads"
	}
	return fmt.Sprintf(`SIP;cause=200;text="cisco-alarm:%d Name=%s%s Last=%s"`, r.Code, r.Name, loads, r.Last)
}

// Unmarshal reads the header's value; an error if it is no reset reason.
func (r *ResetReason) Unmarshal(s string) error {
	s = strings.TrimSpace(s)
	if len(s) > 1024 || len(s) < 4 || !strings.EqualFold(s[:4], "SIP;") {
		return fmt.Errorf("not a reset reason")
	}
	i := indexFold(s, "text=")
	if i < 0 {
		return fmt.Errorf("not a reset reason")
	}
	text := strings.Trim(s[i+len("text="):], `" `)
	*r = ResetReason{}
	found := false
	for _, word := range strings.Fields(text) {
		if code, ok := strings.CutPrefix(word, "cisco-alarm:"); ok {
			r.Code, _ = strconv.Atoi(code)
			found = true
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "Name":
			r.Name = value
		case "ActiveLoad", "Load":
			r.ActiveLoad = strings.TrimSuffix(value, ".loads")
		case "InactiveLoad":
			r.InactiveLoad = strings.TrimSuffix(value, ".loads")
		case "Last":
			r.Last = value
		}
	}
	if !found {
		return fmt.Errorf("not a reset reason")
	}
	return nil
}

// indexFold finds an ASCII word without regard to case. (The index in strings.ToLower(s) is another one when s is not UTF-8.)
func indexFold(s, word string) int {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return i
		}
	}
	return -1
}

// TookOver tells whether the phone has come because another member failed it (sip-registration.md §7.2).
func (r *ResetReason) TookOver() bool {
	switch r.Last {
	case "cm-closed-tcp", "cm-reset-tcp", "cm-aborted-tcp", "tcp-timeout", "reg-timeout", "fallback":
		return true
	}
	return false
}

// Alarm is the body of an alarm REFER (sip-registration.md §9).
type Alarm struct {
	Name   string
	Params []Param
}

// Param is one named value.
type Param struct{ Name, Value string }

// Get returns the value of a parameter, or "".
func (a *Alarm) Get(name string) string {
	for _, p := range a.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Marshal writes the document.
func (a *Alarm) Marshal() []byte {
	w := &writer{}
	w.line("<x-cisco-alarm>")
	w.line(`<Alarm Name="`, w.text(a.Name), `">`)
	w.line("<ParameterList>")
	for _, p := range a.Params {
		w.line(`<String name="`, w.text(p.Name), `">`, w.text(p.Value), "</String>")
	}
	w.line("</ParameterList>")
	w.line("</Alarm>")
	w.line("</x-cisco-alarm>")
	return w.bytes()
}

// Unmarshal reads the document.
func (a *Alarm) Unmarshal(b []byte) error {
	root, err := parse(b)
	if err != nil {
		return fmt.Errorf("alarm: %w", err)
	}
	n := root.child("Alarm")
	if root.name != "x-cisco-alarm" || n.name == "" {
		return fmt.Errorf("alarm: root element %.40q", root.name)
	}
	*a = Alarm{Name: n.attr("Name")}
	for _, p := range n.child("ParameterList").children {
		a.Params = append(a.Params, Param{p.attr("name"), p.text})
	}
	return nil
}
