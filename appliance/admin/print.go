package admin

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"ringfence/appliance/phone"
	"ringfence/image/boot"
)

// table writes aligned columns; a row of other length than the head is a mistake of the caller.
func table(w io.Writer, head []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = plain(cell); cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	tw.Flush()
}

// plain replaces what could move the cursor: user agents, contacts and file names come from the network.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// pairs writes "name  value" lines and leaves out empty values.
func pairs(w io.Writer, kv ...string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			fmt.Fprintf(tw, "%s\t%s\n", kv[i], plain(kv[i+1]))
		}
	}
	tw.Flush()
}

// when shows a time of today by its clock and another by its date.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	t = t.Local()
	if y, m, d := t.Date(); func() bool { ny, nm, nd := time.Now().Date(); return y == ny && m == nm && d == nd }() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func on(b bool) string {
	if b {
		return "on"
	}
	return ""
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func bytesOf(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func printMachine(w io.Writer, m *MachineInfo) {
	if m == nil {
		return
	}
	disk, heat := "", ""
	if m.DataSize > 0 {
		disk = fmt.Sprintf("%s of %s free", bytesOf(m.DataFree), bytesOf(m.DataSize))
	}
	if m.Sensor != "" {
		heat = fmt.Sprintf("%.0f °C (%s)", m.Celsius, m.Sensor)
	}
	pairs(w, "disk", disk, "temperature", heat, "clock", m.Clock)
}

func printStatus(w io.Writer, s StatusInfo) {
	up := 0
	for _, svc := range s.Services {
		if svc.Up {
			up++
		}
	}
	pairs(w,
		"appliance", strings.TrimSpace(s.Appliance+"  "+s.Address),
		"version", s.Version,
		"config", s.Config,
		"state", s.StateDir,
		"running since", when(s.Started),
		"services", fmt.Sprintf("%d of %d up", up, len(s.Services)),
		"phones", fmt.Sprintf("%d of %d registered", s.Phones.Registered, s.Phones.Declared),
		"lines", fmt.Sprintf("%d of %d registered", s.Lines.Registered, s.Lines.Declared),
		"calls", fmt.Sprint(s.Calls),
		"VPN sessions", fmt.Sprint(s.VPN),
	)
	printMachine(w, s.Machine)
	if len(s.Services) > 0 {
		fmt.Fprintln(w)
		rows := make([][]string, 0, len(s.Services))
		for _, svc := range s.Services {
			restarts := ""
			if svc.Restarts > 0 {
				restarts = fmt.Sprint(svc.Restarts)
			}
			state := svc.State
			if svc.Error != "" {
				state += ": " + svc.Error
			}
			rows = append(rows, []string{svc.Name, strings.Join(svc.Listen, ", "), when(svc.Since), restarts, state})
		}
		table(w, []string{"SERVICE", "LISTENS", "SINCE", "RESTARTS", "STATE"}, rows)
	}
	if len(s.Stuck) > 0 {
		fmt.Fprintf(w, "\n%s stuck: %s\n  ringfence phone show %s tells why\n", plural(len(s.Stuck), "phone"), strings.Join(s.Stuck, ", "), s.Stuck[0])
	}
	if len(s.Waiting) > 0 {
		fmt.Fprintf(w, "\n%s waiting to be declared: %s", plural(len(s.Waiting)+s.MoreWait, "phone"), strings.Join(s.Waiting, ", "))
		if s.MoreWait > 0 {
			fmt.Fprintf(w, " and %d more; ringfence phone list --waiting shows them", s.MoreWait)
		}
		fmt.Fprintln(w)
	}
	printImage(w, s.Image)
	printWarnings(w, s.Warnings)
}

// printImage shows what init tells.
func printImage(w io.Writer, i *boot.Status) {
	if i == nil {
		return
	}
	proven := "proven"
	if !i.Committed {
		proven = "not proven yet: " + i.Gate
	}
	rows := []string{"image", i.Version, "slot", fmt.Sprintf("%s, %s (%s)", i.Slot, proven, i.Slots), "data", fmt.Sprintf("%d of %d MB free on %s", i.DataFree>>20, i.DataSize>>20, i.Disk)}
	if i.Update != nil {
		rows = append(rows, "last update", fmt.Sprintf("%s %s, %s", i.Update.Version, i.Update.State, when(i.Update.At)))
	}
	if i.Clock != "" {
		rows = append(rows, "clock", i.Clock)
	}
	fmt.Fprintln(w)
	pairs(w, rows...)
	printWarnings(w, i.Notes)
}

func printWarnings(w io.Writer, warnings []string) {
	for i, text := range warnings {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}

func printPhones(w io.Writer, phones []PhoneInfo) {
	if len(phones) == 0 {
		fmt.Fprintln(w, "no phone is declared and none has asked")
		return
	}
	rows := make([][]string, 0, len(phones))
	more := 0
	for _, p := range phones {
		if p.More > 0 {
			more = p.More
			continue
		}
		var numbers []string
		for _, l := range p.Lines {
			numbers = append(numbers, l.Number)
		}
		state, where, since := p.State, "", ""
		if p.Stand != nil && p.Stand.Advice != nil {
			state += ": " + p.Stand.Advice.Rule
		}
		if r := p.Registration; r != nil {
			where, since = r.Transport+" "+r.Remote, when(r.Since)
		}
		rows = append(rows, []string{p.Device, p.Model, p.Label, p.Security, strings.Join(numbers, " "), where, since, state})
	}
	table(w, []string{"DEVICE", "MODEL", "LABEL", "SECURITY", "LINES", "REGISTERED FROM", "SINCE", "STATE"}, rows)
	if more > 0 {
		fmt.Fprintf(w, "%d more wait to be declared; ringfence phone list --waiting shows them\n", more)
	}
}

func printPhone(w io.Writer, p PhoneInfo) {
	security := p.Security
	var lines []string
	for _, l := range p.Lines {
		text := fmt.Sprintf("%d: %s", l.Index, l.Number)
		if l.Label != "" && l.Label != l.Number {
			text += " " + l.Label
		}
		lines = append(lines, text)
	}
	kv := []string{
		"phone", p.Device, "model", p.Model, "label", p.Label, "security", security, "lines", strings.Join(lines, ", "),
		"state", p.State,
	}
	if r := p.Registration; r != nil {
		kv = append(kv, "registered", fmt.Sprintf("%s from %s since %s", r.Transport, r.Remote, when(r.Since)), "contact", r.Contact, "user agent", r.UserAgent,
			"firmware", r.Load, "other firmware", r.InactiveLoad, "last start", r.LastReset, "register Call-ID", r.RegisterCallID)
	}
	if c := p.LSC; c != nil {
		kv = append(kv, "certificate", fmt.Sprintf("LSC %s, %s, %s, until %s", c.Serial, c.Key, c.State, day(c.NotAfter)))
	} else if p.Declared && p.Security == "encrypted" {
		kv = append(kv, "certificate", "none yet")
	}
	if f := p.ITL; f != nil {
		kv = append(kv, "trust list", fmt.Sprintf("fetched %s, %s", when(f.At), f.Name))
	}
	vpn := p.VPNPolicy
	if v := p.VPN; v != nil {
		vpn = fmt.Sprintf("%s, address %s from %s since %s, %s", v.Policy, v.Address, v.Remote, when(v.Since), v.Link)
	}
	kv = append(kv, "VPN", vpn, "do not disturb", on(p.DND))
	if p.Declared {
		kv = append(kv, "hunt groups", map[bool]string{true: "logged in", false: "logged out"}[p.HuntLogin])
	}
	if len(p.Watches) > 0 {
		var keys []string
		for _, k := range p.Watches {
			text := k.Number + " " + k.Shows
			if !k.Confirmed {
				text += " (not confirmed)"
			}
			keys = append(keys, text)
		}
		kv = append(kv, "watches", strings.Join(keys, ", "))
	}
	pairs(w, kv...)
	if len(p.Files) > 0 {
		fmt.Fprintln(w)
		rows := make([][]string, 0, len(p.Files))
		for _, f := range p.Files {
			rows = append(rows, []string{when(f.At), f.Transport, f.Status, fmt.Sprint(f.Bytes), f.Name})
		}
		table(w, []string{"FETCHED", "OVER", "RESULT", "BYTES", "FILE"}, rows)
	}
	if p.Stand != nil {
		printStand(w, p.Stand)
	}
	if len(p.Boot) > 0 {
		printBoot(w, p.Boot)
	}
	printWarnings(w, p.Warnings)
}

func printStand(w io.Writer, s *phone.Stand) {
	fmt.Fprintln(w)
	rows := make([][]string, 0, len(s.Steps))
	for _, st := range s.Steps {
		rows = append(rows, []string{string(st.Step), st.State, when(st.At), st.Text})
	}
	table(w, []string{"STEP", "STATE", "LAST", "WHAT"}, rows)
	if a := s.Advice; a != nil {
		word := "stuck"
		switch s.State {
		case phone.StateWaiting:
			word = "waiting"
		case phone.StateUnseen:
			word = "not seen"
		case phone.StateRegistered, phone.StateBooting, phone.StateAway:
			word = "note"
		}
		fmt.Fprintf(w, "\n%s: %s\nto do: %s\n", word, a.What, a.Do)
	}
}

func printBoot(w io.Writer, boot []phone.Entry) {
	fmt.Fprintln(w)
	rows := make([][]string, 0, len(boot))
	for _, e := range boot {
		times := ""
		if e.Count > 1 {
			times = fmt.Sprintf("%d×, last %s", e.Count, when(e.Last))
		}
		text := e.Text
		if e.Failed {
			text = "! " + text
		}
		rows = append(rows, []string{when(e.First), string(e.Step), times, text})
	}
	table(w, []string{"WHEN", "STEP", "AGAIN", "WHAT HAPPENED"}, rows)
}

func printLines(w io.Writer, lines []LineInfo) {
	if len(lines) == 0 {
		fmt.Fprintln(w, "no line is declared")
		return
	}
	rows := make([][]string, 0, len(lines))
	for _, l := range lines {
		device := l.Device
		if l.Index > 0 && device != "" {
			device += fmt.Sprintf(" key %d", l.Index)
		}
		rows = append(rows, []string{l.Number, l.Name, device, yes(l.Registered), l.Phase, fmt.Sprint(l.Calls), l.Forward, on(l.DND)})
	}
	table(w, []string{"NUMBER", "NAME", "PHONE", "REGISTERED", "PHASE", "CALLS", "FORWARD", "DND"}, rows)
}

func printLine(w io.Writer, l LineInfo) {
	device := l.Device
	if l.Index > 0 && device != "" {
		device += fmt.Sprintf(", key %d", l.Index)
	}
	pairs(w, "line", l.Number, "name", l.Name, "label", l.Label, "user", l.User, "phone", device, "registered", yes(l.Registered),
		"phase", l.Phase, "off-hook", on(l.OffHook), "calls", fmt.Sprint(l.Calls), "forward all", l.Forward, "do not disturb", on(l.DND),
		"hunt groups", map[bool]string{true: "logged out"}[l.LoggedOut], "messages", messages(l), "voicemail", l.Voicemail, "keys show", l.Shows,
		"watched by", strings.Join(l.Watchers, ", "))
	if len(l.Registrations) > 0 {
		fmt.Fprintln(w)
		rows := make([][]string, 0, len(l.Registrations))
		for _, r := range l.Registrations {
			rows = append(rows, []string{r.Transport, r.Remote, when(r.Since), when(r.Expires), r.Contact, r.UserAgent})
		}
		table(w, []string{"OVER", "FROM", "SINCE", "EXPIRES", "CONTACT", "USER AGENT"}, rows)
	}
}

func messages(l LineInfo) string {
	if l.New+l.Old == 0 {
		return ""
	}
	return fmt.Sprintf("%d new, %d old", l.New, l.Old)
}

func printCerts(w io.Writer, certs []CertInfo) {
	if len(certs) == 0 {
		fmt.Fprintln(w, "no certificate was issued")
		return
	}
	rows := make([][]string, 0, len(certs))
	for _, c := range certs {
		state := c.State
		if left := time.Until(c.NotAfter); c.State == "current" && left < 30*24*time.Hour {
			state += fmt.Sprintf(", %s left", plural(max(0, int(left.Hours()/24)), "day"))
		}
		if c.Reason != "" {
			state += ": " + c.Reason
		}
		rows = append(rows, []string{c.Role, c.Device, c.Serial, c.Key, day(c.NotAfter), state, c.Subject})
	}
	table(w, []string{"ROLE", "PHONE", "SERIAL", "KEY", "UNTIL", "STATE", "SUBJECT"}, rows)
}

func printVPNSessions(w io.Writer, sessions []VPNSessionInfo) {
	if len(sessions) == 0 {
		fmt.Fprintln(w, "nobody is connected")
		return
	}
	rows := make([][]string, 0, len(sessions))
	for _, s := range sessions {
		who := s.Device
		if s.User != "" {
			who = s.User
			if s.Device != "" {
				who += " on " + s.Device
			}
		}
		link := s.Link
		if s.Datagrams != "" {
			link = s.Datagrams
			if s.Payload != "udp" {
				link += " (idle)"
			}
		}
		rtt, loss := "", ""
		if s.RoundTrip > 0 {
			rtt = fmt.Sprintf("%.1f ms", s.RoundTrip)
		}
		if s.Datagrams != "" {
			loss = fmt.Sprintf("%.1f %%", 100*s.LossIn)
		}
		rows = append(rows, []string{s.ID, who, s.Policy, s.Method, strings.TrimSpace(s.Address + " " + s.Address6), s.Remote, s.UserAgent, link, when(s.Since),
			fmt.Sprintf("%s, %d", bytesOf(s.BytesIn), s.PacketsIn), fmt.Sprintf("%s, %d", bytesOf(s.BytesOut), s.PacketsOut), loss, rtt})
	}
	table(w, []string{"SESSION", "WHO", "POLICY", "BY", "ADDRESS", "FROM", "CLIENT", "LINK", "SINCE", "IN", "OUT", "LOSS", "RTT"}, rows)
}

func printCalls(w io.Writer, calls []CallInfo) {
	if len(calls) == 0 {
		fmt.Fprintln(w, "no call")
		return
	}
	party := func(number, name string) string { return strings.TrimSpace(number + " " + name) }
	rows := make([][]string, 0, len(calls))
	for _, c := range calls {
		var media []string
		for _, l := range c.Legs {
			text := l.Codec
			if l.Codec == "" {
				text = "-"
			} else if l.Encrypted {
				text += " SRTP"
			}
			media = append(media, text)
		}
		rows = append(rows, []string{c.ID, party(c.From, c.FromName), party(c.To, c.ToName), c.State, when(c.Started), when(c.Answered), strings.Join(media, " | ")})
	}
	table(w, []string{"CALL", "FROM", "TO", "STATE", "STARTED", "ANSWERED", "AUDIO"}, rows)
}
