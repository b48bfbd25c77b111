package config

import (
	"slices"
	"strings"
	"time"
)

// weekly is an interval of the week: days from Monday, minutes from midnight.
type weekly struct {
	days       []time.Weekday
	open, shut int
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

const weeklyHint = "days and times like mon-fri 08:30-17:30, several joined by ;"

// parseWeekly reads intervals like mon-fri 08:30-17:30; sat 09:00-12:00.
func parseWeekly(s string) ([]weekly, error) {
	var out []weekly
	for part := range strings.SplitSeq(s, ";") {
		words := strings.Fields(part)
		if len(words) != 2 {
			return nil, faultf(weeklyHint, "%q is not a weekly time", clip(strings.TrimSpace(part)))
		}
		var w weekly
		for days := range strings.SplitSeq(words[0], ",") {
			from, to, ranged := strings.Cut(strings.ToLower(days), "-")
			if !ranged {
				to = from
			}
			a, z := slices.Index(dayNames, from), slices.Index(dayNames, to)
			if a < 0 || z < 0 {
				return nil, faultf("mon, tue, wed, thu, fri, sat, sun, or a range like mon-fri", "%q are not days", clip(days))
			}
			for d := a; ; d = (d + 1) % 7 {
				w.days = append(w.days, time.Weekday(d))
				if d == z {
					break
				}
			}
		}
		from, to, _ := strings.Cut(words[1], "-")
		var ok1, ok2 bool
		w.open, ok1 = clock(from)
		w.shut, ok2 = clock(to)
		switch {
		case !ok1 || !ok2:
			return nil, faultf(weeklyHint, "%q is not a time from and to", clip(words[1]))
		case w.open == w.shut:
			return nil, faultf("a time to that is later; the whole day is 00:00-24:00", "the time %s is empty", words[1])
		case w.open > w.shut:
			return nil, faultf("split it at midnight: mon 22:00-24:00; tue 00:00-06:00", "the time %s ends before it starts", words[1])
		}
		out = append(out, w)
	}
	return out, nil
}

// clock reads 08:30 as minutes from midnight; 24:00 is the end of the day.
func clock(s string) (int, bool) {
	if s == "24:00" {
		return 24 * 60, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil && len(s) == 5
}

// parseDays reads a day 2026-12-24 or a range 2026-12-24..2027-01-01, both ends included.
func parseDays(s string) (first, last time.Time, err error) {
	a, z, ranged := strings.Cut(s, "..")
	if !ranged {
		z = a
	}
	first, err1 := time.Parse(time.DateOnly, a)
	last, err2 := time.Parse(time.DateOnly, z)
	switch {
	case err1 != nil || err2 != nil:
		err = faultf("2026-12-24 or 2026-12-24..2027-01-01", "%q is not a day or a range of days", clip(s))
	case last.Before(first):
		err = faultf("write "+z+".."+a, "the range %s ends before it starts", clip(s))
	}
	return first, last, err
}
