package callrecord

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
)

// columns of the CSV: one row per leg, since a call may have any number of them.
var columns = []string{
	"record", "common", "kind", "from", "dialled", "to", "started", "answered", "ended", "talked_seconds", "result", "cause", "ended_by", "diversions",
	"leg", "line", "device", "direction", "leg_started", "leg_answered", "leg_ended", "leg_cause", "codec", "encrypted",
	"phone_received", "phone_lost", "phone_late", "phone_jitter", "phone_mos", "appliance_in", "appliance_out", "appliance_lost", "appliance_jitter_ms",
	"notes",
}

// CSV writes records as comma separated values, a row for each leg, with a head line. Times are RFC 3339 in zone.
func CSV(w io.Writer, records []Record, zone *time.Location) error {
	c := csv.NewWriter(w)
	if err := c.Write(columns); err != nil {
		return err
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.In(zone).Format(time.RFC3339)
	}
	for _, r := range records {
		var ways []string
		for _, v := range r.Ways {
			ways = append(ways, v.Line+" "+v.Reason)
		}
		head := []string{
			r.ID, r.Common, r.Kind, r.From, r.Dialled, r.To, at(r.Started), at(r.Answered), at(r.Ended), number(r.Talked), r.Result, r.Cause,
			r.EndedBy, strings.Join(ways, "; "),
		}
		for _, l := range r.Legs {
			row := append(append([]string(nil), head...), l.ID, l.Line, l.Device, l.Direction, at(l.Started), at(l.Answered), at(l.Ended), l.Cause, l.Codec,
				strconv.FormatBool(l.Encrypted))
			if q := l.Heard; q != nil {
				row = append(row, strconv.Itoa(q.Packets), strconv.Itoa(q.Lost), strconv.Itoa(q.Late), strconv.Itoa(q.Jitter), q.MOS())
			} else {
				row = append(row, "", "", "", "", "")
			}
			row = append(row, strconv.FormatUint(l.Here.In, 10), strconv.FormatUint(l.Here.Out, 10), strconv.FormatInt(l.Here.Lost, 10), number(l.Here.JitterMS),
				strings.Join(r.Notes, "; "))
			for i := range row {
				row[i] = plain(row[i])
			}
			if err := c.Write(row); err != nil {
				return err
			}
		}
	}
	c.Flush()
	return c.Error()
}

// plain keeps a spreadsheet from taking a dialled text for a formula.
func plain(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		if _, err := strconv.ParseFloat(s, 64); err != nil || s[0] == '+' {
			return "'" + s
		}
	}
	return s
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// MOS is the phone's estimate of how well it was heard, under the names that loads have for it.
func (q *Quality) MOS() string {
	for _, name := range []string{"MOSlq", "MLQK", "MOScq"} {
		if v := q.More[name]; v != "" {
			return v
		}
	}
	return ""
}

// JSON writes records as JSON, one object a line.
func JSON(w io.Writer, records []Record) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range records {
		if err := e.Encode(&records[i]); err != nil {
			return err
		}
	}
	return nil
}

// Anonymous replaces numbers and names that own does not know by what they begin with.
func Anonymous(records []Record, own func(number string) bool) []Record {
	hide := func(n string) string {
		if n == "" || own(n) {
			return n
		}
		if len(n) <= 4 {
			return "****"
		}
		return n[:len(n)-4] + "****"
	}
	out := make([]Record, len(records))
	for i, r := range records {
		if hide(r.From) != r.From {
			r.FromName = ""
		}
		if hide(r.To) != r.To {
			r.ToName = ""
		}
		r.From, r.Dialled, r.To = hide(r.From), hide(r.Dialled), hide(r.To)
		legs := make([]Leg, len(r.Legs))
		for j, l := range r.Legs {
			if hide(l.Line) != l.Line {
				l.Name = ""
			}
			l.Line = hide(l.Line)
			legs[j] = l
		}
		r.Legs = legs
		out[i] = r
	}
	return out
}
