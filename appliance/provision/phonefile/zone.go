package phonefile

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the image has no zone files
)

//go:embed time-zones.json
var zonesJSON []byte

// zone is one of the exact names that phones know. A wrong name leaves the phone on a wrong clock without an error.
type zone struct {
	Name     string   `json:"name"`
	DST      bool     `json:"observes_dst"`
	Offset   int      `json:"utc_offset_minutes"`
	Disputed bool     `json:"disputed"` // sources disagree about its offset
	IANA     []string `json:"iana"`
}

var zones = sync.OnceValue(func() []zone {
	var t struct{ Zones []zone }
	if err := json.Unmarshal(zonesJSON, &t); err != nil {
		panic(fmt.Sprintf("phonefile: embedded time-zones.json: %v", err))
	}
	return t.Zones
})

// knownZone tells whether phones know a zone by exactly this name.
func knownZone(name string) bool {
	return slices.ContainsFunc(zones(), func(z zone) bool { return z.Name == name })
}

// zoneName finds the phones' name of an IANA zone: first one that is listed for it, then an undisputed one with the same
// clock, then a disputed one. exact is false where the phone's clock may be wrong.
func zoneName(iana string) (name string, exact bool, err error) {
	if iana == "" {
		iana = "UTC"
	}
	want, err := clock(iana)
	if err != nil {
		return "", false, fmt.Errorf("time zone: %w", err)
	}
	best, score := zone{}, -1
	for _, z := range zones() {
		s := 0
		if !z.Disputed {
			s += 4 // for central Europe this prefers W. Europe over the zones listed for Paris or Prague
		}
		switch listed := slices.Contains(z.IANA, iana); {
		case listed:
			s += 2
		default:
			have, err := clock(z.IANA[0])
			if err != nil || have != want {
				continue
			}
			if area(z.IANA[0]) == area(iana) {
				s++
			}
		}
		if s > score {
			best, score = z, s
		}
	}
	if score >= 0 {
		return best.Name, !best.Disputed, nil
	}
	// No zone keeps this clock: the nearest by its winter offset, without summer time if there is one.
	winter := time.Duration(min(want[0], want[182])) * time.Second
	for _, z := range zones() {
		d := (time.Duration(z.Offset)*time.Minute - winter).Abs()
		s := 10000 - 2*int(d/time.Minute)
		if !z.DST {
			s++
		}
		if s > score {
			best, score = z, s
		}
	}
	return best.Name, false, nil
}

// year is the offset of a zone on each day of a year, in seconds.
type year [365]int

var clocks sync.Map // IANA name to year; only names that exist, so it is bounded

// clock returns the offsets of a zone. The year is fixed so that the same document gives the same file.
func clock(iana string) (year, error) {
	if c, ok := clocks.Load(iana); ok {
		return c.(year), nil
	}
	var c year
	loc, err := time.LoadLocation(iana)
	if err != nil {
		return c, err
	}
	for day := range c {
		_, c[day] = time.Date(2026, 1, 1+day, 12, 0, 0, 0, time.UTC).In(loc).Zone()
	}
	clocks.Store(iana, c)
	return c, nil
}

func area(iana string) string {
	a, _, _ := strings.Cut(iana, "/")
	return a
}
