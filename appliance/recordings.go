package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/sip/feature/record"
)

// recordingVerbs list recordings of calls and give them out.
func recordingVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "recording list", Args: "[NUMBER]", Max: 1, Short: "recordings of calls, of all lines or with one of them", Print: printRecordings},
		{Name: "recording export", Args: "RECORDING FILE", Min: 2, Max: 2, Change: true, Short: "write the sound of a recording to a file or into a folder", Print: printText,
			Help: "The file is WAV of two channels: left who sits at the line, right whoever is heard there. The daemon writes it, never over another file.",
			Prepare: func(req *admin.Request) (err error) {
				req.Args[1], err = filepath.Abs(req.Args[1])
				return err
			}},
		{Name: "recording delete", Args: "RECORDING", Min: 1, Max: 1, Change: true, Short: "delete a recording", Print: printText},
		{Name: "recording pause", Args: "NUMBER on|off", Min: 2, Max: 2, Change: true, Short: "leave out what is said now in the recorded calls of a line", Print: printText},
	}
}

func (a *appliance) recordingHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{
		"recording list": func(_ context.Context, r admin.Request) (any, error) {
			number := ""
			if len(r.Args) == 1 {
				number = r.Args[0]
			}
			return append([]record.Entry{}, a.tapes.List(number)...), nil
		},
		"recording export": a.recordingExport, "recording delete": a.recordingDelete, "recording pause": a.recordingPause,
	}
}

func printRecordings(w io.Writer, answer json.RawMessage) error {
	var all []record.Entry
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no recording")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "RECORDING\tBEGAN\tLINE\t\tOTHER PARTY\tLENGTH\tBY\tCALL")
	for _, e := range all {
		way, length := "to", "goes on"
		if e.Incoming {
			way = "from"
		}
		if !e.Pending {
			length = time.Duration(e.Seconds * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(tw, "%s\t%s\t%s %s\t%s\t%s %s\t%s\t%s\t%s\n", e.ID, e.At.Local().Format(time.DateTime), e.Line, e.Name, way, e.Party, e.PartyName, length, e.By, e.Call)
	}
	return tw.Flush()
}

// recordingFault says what is wrong in words for an administrator.
func recordingFault(id string, err error) error {
	switch {
	case errors.Is(err, record.ErrRunning):
		return admin.Refuse("recording %s is being made; it ends with its call", id)
	case errors.Is(err, fs.ErrExist):
		return admin.Refuse("the file is there already; name another")
	case errors.Is(err, fs.ErrNotExist):
		return admin.Refuse("there is no recording %s, or no folder for the file; ringfence recording list shows the recordings", id)
	}
	return admin.Refuse("recording %s: %v", id, err)
}

func (a *appliance) recordingExport(_ context.Context, r admin.Request) (any, error) {
	name, size, err := a.tapes.Export(r.Args[0], r.Args[1])
	if err != nil {
		return nil, recordingFault(r.Args[0], err)
	}
	a.log.Info("recording is given out", "recording", r.Args[0], "user", r.Peer.UID)
	return say("%s: %d bytes", name, size)
}

func (a *appliance) recordingDelete(ctx context.Context, r admin.Request) (any, error) {
	if err := a.tapes.Delete(ctx, r.Args[0]); err != nil {
		return nil, recordingFault(r.Args[0], err)
	}
	a.log.Info("recording is deleted", "recording", r.Args[0], "user", r.Peer.UID)
	return say("recording %s is deleted", r.Args[0])
}

func (a *appliance) recordingPause(_ context.Context, r admin.Request) (any, error) {
	if r.Args[1] != "on" && r.Args[1] != "off" {
		return nil, admin.Usage("%q is neither on nor off", r.Args[1])
	}
	n := a.tapes.Pause(r.Args[0], r.Args[1] == "on")
	if n == 0 {
		return nil, admin.Refuse("no call of %s is recorded at this moment", r.Args[0])
	}
	if r.Args[1] == "on" {
		return say("what is said at %s is not recorded until the pause is off", r.Args[0])
	}
	return say("the calls of %s are recorded again", r.Args[0])
}
