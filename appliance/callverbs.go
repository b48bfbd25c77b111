package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/sip/feature/malicious"
	qrt "ringfence/sip/feature/quality"
)

// callVerbs show what users have reported by key.
func callVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "call malicious", Short: "calls that were reported by the MCID key", Print: printMalicious},
		{Name: "call quality", Short: "calls that were reported by the QRT key, with their figures", Print: printQuality},
	}
}

func (a *appliance) callHandlers(h map[string]admin.Handler) {
	maps.Copy(h, map[string]admin.Handler{
		"call malicious": func(context.Context, admin.Request) (any, error) {
			return append([]malicious.Record{}, a.features.Malicious.List()...), nil
		},
		"call quality": func(context.Context, admin.Request) (any, error) {
			return append([]qrt.Report{}, a.features.Quality.List()...), nil
		},
	})
}

func printMalicious(w io.Writer, answer json.RawMessage) error {
	var list []malicious.Record
	if err := json.Unmarshal(answer, &list); err != nil {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no call was reported")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tLINE\tPARTY\tNAME\tWITHHELD\tCALL")
	for _, r := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%t\t%s\n", r.Time.Local().Format(time.DateTime), r.Line, r.Party, r.Name, r.Withheld, r.Call)
	}
	return t.Flush()
}

func printQuality(w io.Writer, answer json.RawMessage) error {
	var list []qrt.Report
	if err := json.Unmarshal(answer, &list); err != nil {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no call was reported")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tPHONE\tLINE\tPARTY\tCODEC\tPHONE RECEIVED\tLOST HERE")
	for _, r := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%d of %d\n", r.Time.Local().Format(time.DateTime), r.Device, r.Line, r.Shown, r.Codec, r.Rx, r.Lost, r.Received)
	}
	return t.Flush()
}
