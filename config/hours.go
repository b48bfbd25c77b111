package config

import (
	"fmt"
	"slices"
	"time"
)

// Hours are the compiled open hours of a Schedule (dialplan §2).
type Hours struct {
	ID     string
	Switch string // name of the manual switch, or ""
	zone   *time.Location
	weekly []weekly
	except [][2]time.Time // first and last day, as days of UTC
}

// Hours compiles a schedule; siteZone counts where the schedule names none.
func (s *Schedule) Hours(siteZone string) (*Hours, error) {
	name := s.Zone
	if name == "" {
		name = siteZone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("schedule %s: %w", s.ID, err)
	}
	h := &Hours{ID: s.ID, Switch: s.Override, zone: zone}
	if h.weekly, err = parseWeekly(s.Weekly); err != nil {
		return nil, fmt.Errorf("schedule %s: %w", s.ID, err)
	}
	for _, e := range s.Except {
		first, last, err := parseDays(e)
		if err != nil {
			return nil, fmt.Errorf("schedule %s: %w", s.ID, err)
		}
		h.except = append(h.except, [2]time.Time{first, last})
	}
	return h, nil
}

// Open tells whether it is open at a time, and why.
func (h *Hours) Open(at time.Time) (open bool, why string) {
	at = at.In(h.zone)
	day := time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC)
	for _, e := range h.except {
		if !day.Before(e[0]) && !day.After(e[1]) {
			return false, day.Format(time.DateOnly) + " is excepted"
		}
	}
	minute := at.Hour()*60 + at.Minute()
	for _, w := range h.weekly {
		if slices.Contains(w.days, at.Weekday()) && minute >= w.open && minute < w.shut {
			return true, at.Format("Mon 15:04") + " is within the hours"
		}
	}
	return false, at.Format("Mon 15:04") + " is outside the hours"
}

// IsNumber tells whether the name of a switch is a number that can be dialled.
func IsNumber(name string) bool {
	d, err := parseDigits(name)
	return err == nil && d != ""
}
