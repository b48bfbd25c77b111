package config

import (
	"testing"
	"time"
)

func TestHours(t *testing.T) {
	s := Schedule{ID: "open", Zone: "Europe/Berlin", Weekly: "mon-fri 08:30-17:30; sat 09:00-24:00", Except: []string{"2026-12-24..2027-01-01", "2026-05-01"}}
	h, err := s.Hours("UTC")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at   string
		open bool
	}{
		{"2026-12-23T08:30:00+01:00", true},
		{"2026-12-23T08:29:59+01:00", false},
		{"2026-12-23T17:30:00+01:00", false},
		{"2026-12-23T16:29:59Z", true}, // of another zone
		{"2026-12-24T10:00:00+01:00", false},
		{"2026-12-23T23:30:00Z", false}, // already the 24th in Berlin
		{"2027-01-01T10:00:00+01:00", false},
		{"2027-01-04T10:00:00+01:00", true},
		{"2026-05-01T10:00:00+02:00", false},
		{"2026-07-03T06:30:00Z", true}, // summer time
		{"2026-07-04T21:59:00Z", true}, // Saturday, a minute before midnight
		{"2026-07-05T10:00:00+02:00", false},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		if err != nil {
			t.Fatal(err)
		}
		if open, why := h.Open(at); open != tc.open || why == "" {
			t.Errorf("%s: open %v (%s), want %v", tc.at, open, why, tc.open)
		}
	}
	for _, bad := range []Schedule{{Weekly: "never"}, {Weekly: "mon 08:00-09:00", Zone: "Nowhere"}, {Weekly: "mon 08:00-09:00", Except: []string{"soon"}}} {
		if _, err := bad.Hours("UTC"); err == nil {
			t.Errorf("%+v compiles", bad)
		}
	}
}
