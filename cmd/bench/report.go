package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a run found.
type report struct {
	Machine string             `json:"machine"`
	At      time.Time          `json:"at"`
	Rows    []row              `json:"rows"`
	Others  map[string]float64 `json:"others"` // cores used by other programs, by part
	Micro   []string           `json:"micro,omitempty"`

	part string
}

// row is one figure.
type row struct {
	Part   string  `json:"part"`
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Goal   float64 `json:"goal,omitempty"` // at most
	Beside string  `json:"beside,omitempty"`
	// Reference is what another program needs for the same, or an anchor measured in the same run.
	Reference float64 `json:"reference,omitempty"`
	Than      string  `json:"than,omitempty"` // what the reference is
}

func (r *report) add(rows ...row) {
	for _, x := range rows {
		x.Part = r.part
		r.Rows = append(r.Rows, x)
	}
}

// beside sets another program's figure for the same beside x, and as goal so many times that. Without a figure it says so.
func (x *row) beside(theirs row, program string, times float64) {
	if theirs.Value == 0 {
		x.Beside += "; " + program + " is not installed"
		return
	}
	x.Reference, x.Than, x.Goal = theirs.Value, program, times*theirs.Value
	x.Beside += "; " + program + " " + theirs.Beside
}

func (r *report) write(file string) error {
	r.At = time.Now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// table is the report for people.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n", r.Machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tmeasured\tgoal\tof goal\treference\tof reference\tremarks")
	last := ""
	for _, x := range r.Rows {
		if x.Part != last {
			last = x.Part
			fmt.Fprintf(w, "%s\t\t\t\t\t\tother programs used %.1f cores meanwhile\n", strings.ToUpper(x.Part), r.Others[x.Part])
		}
		cell := [4]string{}
		if x.Goal != 0 {
			cell[0], cell[1] = "<= "+figure(x.Goal), figure(x.Value/x.Goal)
		}
		if x.Reference != 0 {
			cell[2], cell[3] = x.Than+" "+figure(x.Reference), figure(x.Value/x.Reference)
		}
		measured := figure(x.Value) + " " + x.Unit
		if x.Unit == "" {
			measured = ""
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Name, measured, cell[0], cell[1], cell[2], cell[3], x.Beside)
	}
	w.Flush()
	if len(r.Micro) > 0 {
		b.WriteString("\nGo benchmarks of the packages:\n")
		for _, line := range r.Micro {
			b.WriteString("  " + line + "\n")
		}
	}
	return b.String()
}

// figure writes a number with three digits that count.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0:
		return "-" + figure(-v)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// per is d divided among n, in a unit.
func per(d time.Duration, n int, unit time.Duration) float64 {
	if n == 0 {
		return 0
	}
	return float64(d) / float64(n) / float64(unit)
}

const kib, mib = 1 << 10, 1 << 20
