package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/sip/state"
)

// Verbs about what phones show and who watches it (sip-options.md §4, §6).

func stateVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "line dnd", Args: "NUMBER [on|off]", Min: 1, Max: 2, Short: "show or set do-not-disturb of a line, which is that of its phone", Change: true, Print: printField},
		{Name: "line hunt", Args: "NUMBER [on|off]", Min: 1, Max: 2, Short: "show or set the log-in to hunt groups of a line, which is that of its phone", Change: true, Print: printField},
		{Name: "line messages", Args: "NUMBER [NEW [OLD]]", Min: 1, Max: 3, Short: "show or set how many messages a line has, for a mailbox elsewhere", Change: true, Print: printField},
		{Name: "line get", Args: "NUMBER [FIELD]", Min: 1, Max: 2, Short: "fields of a line by the names that dial plans know", Print: printFields,
			Help: "Fields: " + strings.Join(state.FieldNames(), ", ") + ".\nOlder names (vmexten, regcallid, ciscodevicename, ...) are known, too."},
		{Name: "line set", Args: "NUMBER FIELD VALUE", Min: 3, Max: 3, Short: "set a field of a line: callforward, donotdisturb, huntgroup", Change: true, Print: printField},
		{Name: "line check-sync", Args: "NUMBER", Min: 1, Max: 1, Short: "ask another vendor's phone to look for a new configuration", Change: true, Print: printText},
		pingVerb(),
		{Name: "watch list", Args: "[NUMBER|DEVICE]", Max: 1, Short: "who watches whom, what was shown and what the phone has confirmed", Print: printWatchers},
		{Name: "watch refresh", Args: "DEVICE|NUMBER", Min: 1, Max: 1, Short: "send a phone its initial state and lamps again, or everybody the lamp of a number", Change: true, Print: printText},
		{Name: "watch check", Short: "compare what phones show with dialogs and registrations now, and repair it", Change: true, Print: printCheck},
		{Name: "switch list", Short: "the manual switches", Print: printSwitches},
		{Name: "switch set", Args: "NAME on|off", Min: 2, Max: 2, Short: "turn a manual switch on or off", Change: true, Print: printText},
	}
}

func (a *appliance) stateHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{
		"line dnd": a.lineToggle("donotdisturb"), "line hunt": a.lineToggle("huntgroup"), "line messages": a.lineMessages,
		"line get": a.lineGet, "line set": a.lineSet, "line check-sync": a.lineCheckSync, "line ping": a.linePing,
		"watch list": a.watchList, "watch refresh": a.watchRefresh, "watch check": a.watchCheck,
		"switch list": a.switchList, "switch set": a.switchSet,
	}
}

// fieldAnswer is one field of a line.
type fieldAnswer struct {
	Line  string `json:"line"`
	Field string `json:"field"`
	Value string `json:"value"`
}

func printField(w io.Writer, answer json.RawMessage) error {
	var f fieldAnswer
	if err := json.Unmarshal(answer, &f); err != nil {
		return err
	}
	value := f.Value
	if value == "" {
		value = "empty"
	}
	_, err := fmt.Fprintf(w, "line %s: %s is %s\n", f.Line, f.Field, value)
	return err
}

func printFields(w io.Writer, answer json.RawMessage) error {
	var all []fieldAnswer
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 1 {
		_, err := fmt.Fprintln(w, all[0].Value) // for scripts: the value alone
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range all {
		fmt.Fprintf(tw, "%s\t%s\n", f.Field, f.Value)
	}
	return tw.Flush()
}

// knownLine refuses a line that is not declared as line show does.
func (a *appliance) knownLine(ctx context.Context, number string) error {
	if _, ok := a.doc().Line(number); ok {
		return nil
	}
	_, err := a.sources().Handlers()["line show"](ctx, admin.Request{Args: []string{number}})
	return err
}

func (a *appliance) field(line, name string) (any, error) {
	v, ok := a.sip.State().Field(line, name)
	if !ok {
		return nil, admin.Refuse("a line has no field %q; there are %s", name, strings.Join(state.FieldNames(), ", "))
	}
	return fieldAnswer{line, name, v}, nil
}

func (a *appliance) lineToggle(name string) admin.Handler {
	return func(ctx context.Context, r admin.Request) (any, error) {
		number := r.Args[0]
		if err := a.knownLine(ctx, number); err != nil {
			return nil, err
		}
		if len(r.Args) == 2 {
			if r.Args[1] != "on" && r.Args[1] != "off" {
				return nil, admin.Usage("%q is neither on nor off", r.Args[1])
			}
			if err := a.sip.State().SetField(ctx, number, name, r.Args[1], state.ByAdmin); err != nil {
				return nil, admin.Refuse("line %s: %v", number, err)
			}
		}
		return a.field(number, name)
	}
}

// messagesPrefix is where the numbers of messages lie that line messages was told.
const messagesPrefix = "messages/"

// restoreMessages lights the lamps of mailboxes elsewhere as they were. Mailboxes of this appliance know better, and come after it.
func (a *appliance) restoreMessages() {
	a.store.Scan(messagesPrefix, func(key string, value []byte) bool {
		var unheard, heard int
		if _, err := fmt.Sscanf(string(value), "%d/%d", &unheard, &heard); err == nil {
			a.sip.State().SetMessages(strings.TrimPrefix(key, messagesPrefix), unheard, heard)
		}
		return true
	})
}

func (a *appliance) lineMessages(ctx context.Context, r admin.Request) (any, error) {
	number := r.Args[0]
	if err := a.knownLine(ctx, number); err != nil {
		return nil, err
	}
	if len(r.Args) > 1 {
		var n [2]int
		for i, text := range r.Args[1:] {
			v, err := strconv.Atoi(text)
			if err != nil || v < 0 || v > 9999 {
				return nil, admin.Usage("%q is no number of messages", text)
			}
			n[i] = v
		}
		// Whoever has told it, as the mailbox elsewhere, does not tell it again after a restart.
		if err := a.store.Write(ctx, map[string][]byte{messagesPrefix + number: fmt.Appendf(nil, "%d/%d", n[0], n[1])}); err != nil {
			return nil, err
		}
		a.sip.State().SetMessages(number, n[0], n[1])
	}
	return a.field(number, "messages")
}

func (a *appliance) lineGet(ctx context.Context, r admin.Request) (any, error) {
	number := r.Args[0]
	if err := a.knownLine(ctx, number); err != nil {
		return nil, err
	}
	if len(r.Args) == 2 {
		f, err := a.field(number, r.Args[1])
		return []any{f}, err
	}
	var out []any
	for _, name := range state.FieldNames() {
		f, err := a.field(number, name)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (a *appliance) lineSet(ctx context.Context, r admin.Request) (any, error) {
	number, name, value := r.Args[0], strings.ToLower(r.Args[1]), r.Args[2]
	if err := a.knownLine(ctx, number); err != nil {
		return nil, err
	}
	if name == "callforward" && value != "" {
		if code, why := a.plan.Load().Callable(number, value); code != 0 {
			return nil, admin.Refuse("line %s may not be forwarded to %s: %s", number, value, why)
		}
	}
	switch err := a.sip.State().SetField(ctx, number, name, value, state.ByAdmin); {
	case errors.Is(err, state.ErrUnknownField):
		return a.field(number, name) // refuses, with the names that there are
	case err != nil:
		return nil, admin.Refuse("line %s: %v", number, err)
	}
	return a.field(number, name)
}

func (a *appliance) lineCheckSync(ctx context.Context, r admin.Request) (any, error) {
	number := r.Args[0]
	if err := a.knownLine(ctx, number); err != nil {
		return nil, err
	}
	if l, _ := a.doc().Line(number); l.Phone != "" {
		return nil, admin.Refuse("line %s is on phone %s, which takes ringfence phone check-version", number, l.Phone)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	n, err := a.sip.State().CheckSync(ctx, number)
	if err != nil {
		return nil, admin.Refuse("line %s: %v", number, err)
	}
	return say("%d phones of line %s look for a new configuration", n, number)
}

// WatcherInfo is one who watches a number.
type WatcherInfo struct {
	Number    string    `json:"number"`
	Shows     string    `json:"shows"` // what it is to show now
	Watcher   string    `json:"watcher"`
	Device    string    `json:"device,omitempty"`
	By        string    `json:"by"` // key, or the event of a subscription
	Confirmed bool      `json:"confirmed"`
	Expires   time.Time `json:"expires,omitzero"`
}

// watchers lists who watches what: all, who watches a number, or what a device watches.
func (a *appliance) watchers(of string) []WatcherInfo {
	out := []WatcherInfo{}
	for _, w := range a.sip.Watchers() {
		device := a.sip.State().DeviceOf(w.Watcher)
		if of != "" && of != w.Number && of != device {
			continue
		}
		i := WatcherInfo{Number: w.Number, Watcher: w.Watcher, By: w.Event, Confirmed: w.Shown != "" && w.Shown == w.Acknowledged, Expires: w.Expires}
		if device != w.Watcher {
			i.Device = device
		}
		if w.Device != "" {
			i.By = "key"
		}
		i.Shows = a.sip.State().Line(w.Number).Shows
		if w.Event == "message-summary" {
			i.Shows, _ = a.sip.State().Field(w.Number, "messages")
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(x, y WatcherInfo) int {
		for _, c := range []int{strings.Compare(x.Number, y.Number), strings.Compare(x.Watcher, y.Watcher), strings.Compare(x.By, y.By)} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return out
}

func (a *appliance) watchList(ctx context.Context, r admin.Request) (any, error) {
	if len(r.Args) == 0 {
		return a.watchers(""), nil
	}
	of := r.Args[0]
	if device, err := a.declaredPhone(ctx, r); err == nil {
		of = device
	} else if !a.sip.State().Line(of).Known {
		return nil, admin.Refuse("%s is neither a phone nor a number that has a state", of)
	}
	return a.watchers(of), nil
}

func printWatchers(w io.Writer, answer json.RawMessage) error {
	var all []WatcherInfo
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nobody watches")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NUMBER\tSHOWS\tWATCHED BY\tPHONE\tAS\tCONFIRMED\tUNTIL")
	for _, x := range all {
		device, until := x.Device, "-"
		if device == "" {
			device = "-"
		}
		if !x.Expires.IsZero() {
			until = x.Expires.Local().Format(time.TimeOnly)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Number, x.Shows, x.Watcher, device, x.By, yesNo(x.Confirmed), until)
	}
	return tw.Flush()
}

func (a *appliance) watchRefresh(ctx context.Context, r admin.Request) (any, error) {
	if device, err := a.declaredPhone(ctx, r); err == nil {
		if err := a.controlFault(device, a.sip.State().Resync(device)); err != nil {
			return nil, admin.Refuse("%v", err)
		}
		return say("phone %s gets its state and lamps again", device)
	}
	number := r.Args[0]
	if !a.sip.State().Line(number).Known {
		return nil, admin.Refuse("%s is neither a phone nor a number that has a state", number)
	}
	return say("the state of %s was sent to %d watchers", number, a.sip.State().Refresh(number))
}

func (a *appliance) watchCheck(context.Context, admin.Request) (any, error) {
	return a.sip.State().Check(), nil
}

func printCheck(w io.Writer, answer json.RawMessage) error {
	var r state.Report
	if err := json.Unmarshal(answer, &r); err != nil {
		return err
	}
	fmt.Fprintf(w, "%d lines registered, %d legs of calls, %d lamps compared\n", r.Lines, r.Legs, r.Lamps)
	for _, text := range r.Repaired {
		fmt.Fprintf(w, "repaired: %s\n", text)
	}
	for _, text := range r.Unsure {
		fmt.Fprintf(w, "not confirmed by the phone: %s\n", text)
	}
	if len(r.Repaired)+len(r.Unsure) == 0 {
		fmt.Fprintln(w, "everything is shown as it is")
	}
	return nil
}

// SwitchInfo is a manual switch.
type SwitchInfo struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
}

func (a *appliance) switchList(context.Context, admin.Request) (any, error) {
	out := []SwitchInfo{}
	for _, name := range a.sip.State().Switches() {
		out = append(out, SwitchInfo{name, a.sip.State().Switch(name)})
	}
	return out, nil
}

func printSwitches(w io.Writer, answer json.RawMessage) error {
	var all []SwitchInfo
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "no schedule has a manual switch")
	}
	for _, s := range all {
		fmt.Fprintf(w, "%s is %s\n", s.Name, onOff(s.On))
	}
	return nil
}

func (a *appliance) switchSet(ctx context.Context, r admin.Request) (any, error) {
	if r.Args[1] != "on" && r.Args[1] != "off" {
		return nil, admin.Usage("%q is neither on nor off", r.Args[1])
	}
	switch err := a.sip.State().SetSwitch(ctx, r.Args[0], r.Args[1] == "on", state.ByAdmin); {
	case errors.Is(err, state.ErrUnknownSwitch):
		return nil, admin.Refuse("there is no switch %q; switches are the override: of schedules", r.Args[0])
	case err != nil:
		return nil, admin.Refuse("switch %s: %v", r.Args[0], err)
	}
	return say("switch %s is %s", r.Args[0], r.Args[1])
}
