package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/callrecord"
	"ringfence/sip/trace"
)

// This file keeps the records of calls and answers the verbs about them and about their SIP messages.

func (a *appliance) setupRecords() error {
	var err error
	a.records, err = callrecord.New(context.Background(), callrecord.Options{
		Store: a.store, Node: a.doc().Node.Name, Log: a.log,
		Keep: func() time.Duration { return time.Duration(a.doc().Records.KeepDays) * 24 * time.Hour },
	})
	if err != nil {
		return err
	}
	a.records.Start()
	a.after("call records", func() error { a.records.Stop(); return nil })
	if to := a.doc().Records.Homer; to != "" {
		h, err := newHomer(to, a.log)
		if err != nil {
			return fmt.Errorf("records.homer: %w", err)
		}
		a.sip.Traces().Tap(h.take)
		a.after("homer", h.stop)
	}
	return nil
}

func recordVerbs() []admin.Verb {
	choose := []admin.Flag{
		{Name: "line", Usage: "calls of a number"}, {Name: "device", Usage: "calls of a phone"}, {Name: "result", Usage: "answered, busy, \"no answer\", cancelled or failed"},
		{Name: "since", Usage: "not before: 2026-12-24T18:00, or 90m or 7d ago"}, {Name: "until", Usage: "before"},
	}
	return []admin.Verb{
		{Name: "call history", Short: "calls that are over, the newest last", Print: printHistory, Flags: append(choose, admin.Flag{Name: "limit", Usage: "so many at most, 50 unless told"})},
		{Name: "call show", Args: "CALL", Min: 1, Max: 1, Short: "one call, of now or before: its legs, why they ended, quality at both ends", Print: printRecord},
		{Name: "call export", Short: "records of calls as CSV, a row for each leg, or as JSON, one a line", Print: printText,
			Flags: append(choose, admin.Flag{Name: "format", Usage: "csv or json"}, admin.Flag{Name: "anonymous", Usage: "numbers and names of others are hidden", Bool: true})},
		{Name: "call trace", Args: "CALL", Min: 1, Max: 1, Short: "the SIP messages of a recent call as a ladder, secrets removed", Print: printTrace,
			Flags: []admin.Flag{{Name: "messages", Usage: "whole messages", Bool: true}, {Name: "pcapng", Usage: "write a capture file as well"}}},
	}
}

func (a *appliance) recordHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{"call history": a.callHistory, "call show": a.callShow, "call export": a.callExport, "call trace": a.callTrace}
}

// query reads the flags that choose records.
func (a *appliance) query(r admin.Request) (q callrecord.Query, err error) {
	q.Line, q.Device, q.Result = r.Flags["line"], r.Flags["device"], r.Flags["result"]
	for name, at := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		text := r.Flags[name]
		if text == "" {
			continue
		}
		if days, ok := strings.CutSuffix(text, "d"); ok {
			if n, err := strconv.Atoi(days); err == nil && n >= 0 {
				*at = time.Now().AddDate(0, 0, -n)
				continue
			}
		}
		if d, err := time.ParseDuration(text); err == nil {
			*at = time.Now().Add(-d)
			continue
		}
		if *at, err = a.timeOf(text); err != nil {
			return q, err
		}
	}
	return q, nil
}

func (a *appliance) callHistory(_ context.Context, r admin.Request) (any, error) {
	q, err := a.query(r)
	if err != nil {
		return nil, err
	}
	q.Limit = 50
	if text := r.Flags["limit"]; text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
			return nil, admin.Usage("--limit %q is no number of calls", text)
		}
	}
	if found := a.records.Find(q); found != nil {
		return found, nil
	}
	return []callrecord.Record{}, nil
}

func printHistory(w io.Writer, answer json.RawMessage) error {
	var all []callrecord.Record
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no call")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "STARTED\tFROM\tDIALLED\tTO\tRESULT\tTALKED\tCAUSE\tCALL")
	for _, r := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Started.Local().Format("2006-01-02 15:04:05"), strings.TrimSpace(r.From+" "+r.FromName), r.Dialled,
			strings.TrimSpace(r.To+" "+r.ToName), r.Result, talked(r), r.Cause, r.ID)
	}
	return tw.Flush()
}

func talked(r callrecord.Record) string {
	if r.Talked == 0 {
		return "-"
	}
	return time.Duration(r.Talked * float64(time.Second)).Round(time.Second).String()
}

func (a *appliance) callShow(_ context.Context, r admin.Request) (any, error) {
	for _, c := range a.callInfos() {
		if c.ID == r.Args[0] {
			return c, nil
		}
	}
	rec, ok := a.records.Get(r.Args[0])
	if !ok {
		return nil, noRecord(r.Args[0])
	}
	return rec, nil
}

func noRecord(name string) error {
	return admin.Refuse("there is no record of call %s; ringfence call history lists calls that are over, call list those of this moment", name)
}

// printLive shows a call of this moment.
func printLive(w io.Writer, c admin.CallInfo) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "call\t%s\nfrom\t%s\ndialled\t%s\nstate\t%s\nstarted\t%s\n", c.ID, strings.TrimSpace(c.From+" "+c.FromName), strings.TrimSpace(c.To+" "+c.ToName),
		c.State, c.Started.Local().Format("2006-01-02 15:04:05.000"))
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, l := range c.Legs {
		security := "clear"
		if l.Encrypted {
			security = strings.TrimSpace("SRTP " + l.Suite)
		}
		if l.Direct {
			security += ", direct"
		}
		fmt.Fprintf(w, "\nleg %s, %s, %s, %s %s\n", strings.TrimSpace(l.Line+" "+l.Device), l.Direction, l.State, l.Codec, security)
		tw := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
		direction := func(name string, packets uint64, q *admin.Quality) {
			text := "quality not known yet"
			if q != nil {
				text = fmt.Sprintf("MOS %.2f, worst %.2f, loss %.2f %%, jitter %.1f ms, delay %.0f ms", q.MOS, q.Worst, q.Loss, q.Jitter, q.Delay)
			}
			fmt.Fprintf(tw, "  %s\t%d packets\t%s\n", name, packets, text)
		}
		direction("from the phone", l.Packets.In, l.Packets.From)
		direction("to the phone", l.Packets.Out, l.Packets.To)
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func printRecord(w io.Writer, answer json.RawMessage) error {
	var live struct {
		State string `json:"state"`
	}
	if json.Unmarshal(answer, &live) == nil && live.State != "" {
		var c admin.CallInfo
		if err := json.Unmarshal(answer, &c); err != nil {
			return err
		}
		return printLive(w, c)
	}
	var r callrecord.Record
	if err := json.Unmarshal(answer, &r); err != nil {
		return err
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Local().Format("2006-01-02 15:04:05.000")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, value)
		}
	}
	row("call", r.ID)
	row("kind", r.Kind)
	row("from", strings.TrimSpace(r.From+" "+r.FromName))
	row("dialled", r.Dialled)
	row("answered by", strings.TrimSpace(r.To+" "+r.ToName))
	row("started", at(r.Started))
	row("answered", at(r.Answered))
	row("ended", at(r.Ended))
	row("talked", talked(r))
	row("result", strings.TrimSuffix(r.Result+", "+r.Cause, ", "))
	row("hung up by", r.EndedBy)
	for _, v := range r.Ways {
		row("sent on by", v.Line+" "+v.Reason)
	}
	row("related", strings.Join(r.Related, ", "))
	for _, n := range r.Notes {
		row("note", n)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, l := range r.Legs {
		security := "clear"
		if l.Encrypted {
			security = "SRTP"
		}
		fmt.Fprintf(w, "\nleg %s: %s %s, %s, %s %s\n", l.ID, strings.TrimSpace(l.Line+" "+l.Name), l.Device, l.Direction, l.Codec, security)
		tw := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "  from\t%s\n  answered\t%s\n  until\t%s\t%s\n", at(l.Started), at(l.Answered), at(l.Ended), l.Cause)
		if q := l.Heard; q != nil {
			fmt.Fprintf(tw, "  phone received\t%d packets, %d lost, %d late, jitter %d\t%s\n", q.Packets, q.Lost, q.Late, q.Jitter, mos(q))
		}
		if q := l.Said; q != nil {
			fmt.Fprintf(tw, "  phone sent\t%d packets\n", q.Packets)
		}
		fmt.Fprintf(tw, "  appliance\t%d packets in, %d out, %d lost, jitter %.1f ms\n", l.Here.In, l.Here.Out, l.Here.Lost, l.Here.JitterMS)
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func mos(q *callrecord.Quality) string {
	if v := q.MOS(); v != "" {
		return "MOS " + v
	}
	return ""
}

func (a *appliance) callExport(_ context.Context, r admin.Request) (any, error) {
	q, err := a.query(r)
	if err != nil {
		return nil, err
	}
	found := a.records.Find(q)
	if r.Flags["anonymous"] != "" {
		p := a.plan.Load()
		found = callrecord.Anonymous(found, func(number string) bool { _, ok := p.Line(number); return ok })
	}
	var b bytes.Buffer
	switch r.Flags["format"] {
	case "", "csv":
		zone, zerr := time.LoadLocation(a.doc().Site.TimeZone)
		if zerr != nil {
			zone = time.UTC
		}
		err = callrecord.CSV(&b, found, zone)
	case "json":
		err = callrecord.JSON(&b, found)
	default:
		return nil, admin.Usage("%q is neither csv nor json", r.Flags["format"])
	}
	return textAnswer{b.String()}, err
}

// traceAnswer is the ladder of a call, with its capture where that was asked for.
type traceAnswer struct {
	Call     string         `json:"call"`
	Ladder   string         `json:"ladder"`
	Messages []traceMessage `json:"messages"`
	File     string         `json:"file,omitempty"`
	Pcapng   []byte         `json:"pcapng,omitempty"`
	Whole    bool           `json:"whole,omitempty"` // print the messages
}

type traceMessage struct {
	At        time.Time `json:"at"`
	Sent      bool      `json:"sent"` // by the appliance
	Line      string    `json:"line"`
	Transport string    `json:"transport"`
	Peer      string    `json:"peer"`
	Text      string    `json:"text"`
}

// callTrace finds the messages of a call that goes on or has a record.
func (a *appliance) callTrace(_ context.Context, r admin.Request) (any, error) {
	name := r.Args[0]
	var ids []string
	for _, c := range a.calls.Snapshot() {
		if c.ID == name {
			for _, l := range c.Legs {
				ids = append(ids, l.CallID)
			}
		}
	}
	if ids == nil {
		rec, ok := a.records.Get(name)
		if !ok {
			return nil, noRecord(name)
		}
		for _, l := range rec.Legs {
			ids = append(ids, l.CallID)
		}
	}
	entries := a.sip.Traces().Merged(ids...)
	if len(entries) == 0 {
		return nil, admin.Refuse("the messages of call %s are no longer kept", name)
	}
	out := traceAnswer{Call: name, Whole: r.Flags["messages"] != "", File: r.Flags["pcapng"]}
	var b bytes.Buffer
	if err := trace.Ladder(&b, entries); err != nil {
		return nil, err
	}
	out.Ladder = b.String()
	for _, e := range entries {
		out.Messages = append(out.Messages, traceMessage{e.At, e.Out, e.Party, e.Transport, e.Peer, e.Text})
	}
	if out.File != "" {
		b.Reset()
		if err := trace.Pcapng(&b, "Ringfence "+a.Version, entries); err != nil {
			return nil, err
		}
		out.Pcapng = b.Bytes()
	}
	return out, nil
}

// printTrace shows the ladder, and writes the capture where the administrator is.
func printTrace(w io.Writer, answer json.RawMessage) error {
	var t traceAnswer
	if err := json.Unmarshal(answer, &t); err != nil {
		return err
	}
	if _, err := io.WriteString(w, t.Ladder); err != nil {
		return err
	}
	if t.Whole {
		for _, m := range t.Messages {
			way := "from"
			if m.Sent {
				way = "to"
			}
			fmt.Fprintf(w, "\n%s %s %s %s %s\n%s", m.At.Local().Format("15:04:05.000"), way, m.Line, m.Transport, m.Peer, strings.ReplaceAll(m.Text, "\r\n", "\n"))
		}
	}
	if t.File == "" {
		return nil
	}
	f, err := os.OpenFile(t.File, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(t.Pcapng)
	return errors.Join(err, f.Close())
}
