package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/internal/task"
	"ringfence/sip/state"
)

// Service control by command: one phone at once, or many in a roll-out that runs by itself and can be looked at and stopped.

// Bounds of roll-outs.
const (
	keptRollouts    = 20
	maxRollouts     = 4 // running at once
	rolloutPause    = 100 * time.Millisecond
	rolloutPatience = 30 * time.Minute // for phones in a call
)

// RolloutInfo is a roll-out as it stands.
type RolloutInfo struct {
	Number  int            `json:"number"`
	Action  string         `json:"action"`
	Started time.Time      `json:"started"`
	Ended   time.Time      `json:"ended,omitzero"`
	Stopped bool           `json:"stopped,omitempty"`
	Total   int            `json:"phones"`
	Obeyed  int            `json:"obeyed"`
	Busy    int            `json:"waiting_in_call"`
	Failed  int            `json:"failed"`
	Phones  []RolloutPhone `json:"details,omitempty"`
}

// RolloutPhone is one phone of it.
type RolloutPhone struct {
	Device string `json:"device"`
	State  string `json:"state"` // waiting, in call, done, failed
	Error  string `json:"error,omitempty"`
}

type rollout struct {
	info   RolloutInfo
	index  map[string]int // in info.Phones
	cancel context.CancelFunc
}

// rollouts are those that run and the last that have ended.
type rollouts struct {
	tasks *task.Group

	mu   sync.Mutex
	next int
	all  []*rollout // oldest first
}

func newRollouts(log *slog.Logger) *rollouts {
	return &rollouts{tasks: task.NewGroup(context.Background(), log)}
}

// begin starts a roll-out; run does it.
func (rs *rollouts) begin(action string, devices []string, run func(ctx context.Context, report func(device string, err error), busy func(device string))) (RolloutInfo, error) {
	rs.mu.Lock()
	running := 0
	for _, r := range rs.all {
		if r.info.Ended.IsZero() {
			running++
		}
	}
	if running >= maxRollouts {
		rs.mu.Unlock()
		return RolloutInfo{}, admin.Refuse("%d roll-outs are running; ringfence phone rollout NUMBER --stop ends one", running)
	}
	rs.next++
	ctx, cancel := context.WithCancel(rs.tasks.Context())
	r := &rollout{cancel: cancel, index: make(map[string]int), info: RolloutInfo{Number: rs.next, Action: action, Started: time.Now(), Total: len(devices)}}
	for i, d := range devices {
		r.index[d] = i
		r.info.Phones = append(r.info.Phones, RolloutPhone{Device: d, State: "waiting"})
	}
	if rs.all = append(rs.all, r); len(rs.all) > keptRollouts {
		rs.all = slices.DeleteFunc(rs.all, func(x *rollout) bool { return len(rs.all) > keptRollouts && x == rs.all[0] && !x.info.Ended.IsZero() })
	}
	info := r.info
	rs.mu.Unlock()
	set := func(device, state string, err error) {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		p := &r.info.Phones[r.index[device]]
		if p.State = state; err != nil {
			p.Error = err.Error()
		}
	}
	rs.tasks.Go("roll-out", func(context.Context) {
		run(ctx, func(device string, err error) {
			if err != nil {
				set(device, "failed", err)
			} else {
				set(device, "done", nil)
			}
		}, func(device string) { set(device, "in call", nil) })
	}, func(error) {
		rs.mu.Lock()
		r.info.Ended, r.info.Stopped = time.Now(), ctx.Err() != nil
		rs.mu.Unlock()
		cancel()
	})
	info.Phones = nil
	return info, nil
}

// snapshot counts; rs.mu is held.
func (r *rollout) snapshotLocked(details bool) RolloutInfo {
	info := r.info
	for _, p := range info.Phones {
		switch p.State {
		case "done":
			info.Obeyed++
		case "failed":
			info.Failed++
		case "in call":
			info.Busy++
		}
	}
	if info.Phones = nil; details {
		info.Phones = slices.Clone(r.info.Phones)
	}
	return info
}

// rolloutActions are the verbs and what the phone is told (sip-registration.md §6).
var rolloutActions = []struct{ verb, action, short string }{
	{"restart", "restart", "make phones read their files again"},
	{"reset", "reset", "make phones boot"},
	{"check-version", "check-version", "make phones compare their files with the present ones, and read what differs"},
	{"apply-config", "apply-config", "make phones take what has changed, restarting only if they must"},
	{"report", "prt-report", "make phones send a problem report (7800 and 8800 series)"},
}

func rolloutVerbs() []admin.Verb {
	flags := []admin.Flag{
		{Name: "all", Usage: "every declared phone", Bool: true},
		{Name: "group", Usage: "phones of the members of a hunt group, by its number"},
		{Name: "model", Usage: "phones of a model: 8851"},
		{Name: "filter", Usage: "phones with this in device, label, numbers, firmware, user agent or address; with ! in front those without"},
		{Name: "force", Usage: "also while a phone is in a call", Bool: true},
		{Name: "every", Usage: "pause between two phones; 100ms"},
		{Name: "wait", Usage: "how long a phone in a call is waited for; 30m"},
	}
	var verbs []admin.Verb
	for _, x := range rolloutActions {
		verbs = append(verbs, admin.Verb{Name: "phone " + x.verb, Args: "[DEVICE ...]", Max: 10000, Short: x.short, Change: true, Print: printRollout, Flags: flags,
			Help: "One DEVICE alone is told at once and its answer awaited. Several, or a selection by flags, are told one after the other while the\n" +
				"command returns; ringfence phone rollout NUMBER shows how far it is. Flags together select the phones that all of them select."})
	}
	return append(verbs,
		admin.Verb{Name: "phone rollouts", Short: "orders to many phones: those that run and the last that have ended", Print: printRollouts},
		admin.Verb{Name: "phone rollout", Args: "NUMBER", Min: 1, Max: 1, Short: "an order to many phones, phone by phone", Change: true, Print: printRollout,
			Flags: []admin.Flag{{Name: "stop", Usage: "tell no further phone", Bool: true}}},
	)
}

func (a *appliance) rolloutHandlers() map[string]admin.Handler {
	h := map[string]admin.Handler{"phone rollouts": a.phoneRollouts, "phone rollout": a.phoneRollout}
	for _, x := range rolloutActions {
		h["phone "+x.verb] = a.serviceControl(x.action)
	}
	return h
}

func (a *appliance) serviceControl(action string) admin.Handler {
	return func(ctx context.Context, r admin.Request) (any, error) {
		force := r.Flags["force"] != ""
		selected := r.Flags["all"] != "" || r.Flags["group"] != "" || r.Flags["model"] != "" || r.Flags["filter"] != ""
		if len(r.Args) == 1 && !selected {
			return a.controlOne(ctx, r, action, force)
		}
		every, err := flagDuration(r, "every", rolloutPause)
		if err != nil {
			return nil, err
		}
		wait, err := flagDuration(r, "wait", rolloutPatience)
		if err != nil {
			return nil, err
		}
		devices, err := a.selectPhones(ctx, r, selected)
		if err != nil {
			return nil, err
		}
		return a.rollouts.begin(action, devices, func(ctx context.Context, report func(string, error), busy func(string)) {
			_, _ = a.sip.State().ServiceControlAll(ctx, devices, state.Rollout{Action: action, Force: force, Wait: wait, Every: every,
				Report: func(device string, err error) { report(device, a.controlFault(device, err)) }, Busy: busy})
		})
	}
}

func flagDuration(r admin.Request, name string, otherwise time.Duration) (time.Duration, error) {
	v := r.Flags[name]
	if v == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > 24*time.Hour {
		return 0, admin.Usage("--%s %q is no time like 500ms, 2s or 10m", name, v)
	}
	return max(d, time.Millisecond), nil
}

func (a *appliance) controlOne(ctx context.Context, r admin.Request, action string, force bool) (any, error) {
	device, err := a.declaredPhone(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := a.controlFault(device, a.sip.State().ServiceControl(ctx, device, action, nil, force)); err != nil {
		return nil, admin.Refuse("%v", err)
	}
	return say("phone %s was told to %s", device, action)
}

// controlFault says in plain words why a phone was not told.
func (a *appliance) controlFault(device string, err error) error {
	switch {
	case errors.Is(err, state.ErrInCall):
		return fmt.Errorf("phone %s is in a call; --force does it all the same", device)
	case errors.Is(err, state.ErrNotRegistered):
		return fmt.Errorf("phone %s is not registered, so that it cannot be told anything; ringfence phone show %s says where it stands", device, device)
	case err != nil:
		return fmt.Errorf("phone %s: %w", device, err)
	}
	return nil
}

// selectPhones returns the devices that arguments and flags mean, in the order of the document.
func (a *appliance) selectPhones(ctx context.Context, r admin.Request, selected bool) ([]string, error) {
	if len(r.Args) == 0 && !selected {
		return nil, admin.Usage("which phones? name them, or select by --all, --group, --model or --filter")
	}
	named := map[string]bool{}
	for _, arg := range r.Args {
		device, err := a.declaredPhone(ctx, admin.Request{Args: []string{arg}})
		if err != nil {
			return nil, err
		}
		named[device] = true
	}
	var members map[string]bool
	if g := r.Flags["group"]; g != "" {
		if members = a.groupPhones(g); members == nil {
			return nil, admin.Refuse("hunt group %s is not declared", g)
		}
	}
	filter := strings.ToLower(r.Flags["filter"])
	filter, without := strings.CutPrefix(filter, "!")
	var out []string
	for i := range a.doc().Phones {
		p := &a.doc().Phones[i]
		switch {
		case len(named) > 0 && !named[p.Device],
			members != nil && !members[p.Device],
			r.Flags["model"] != "" && p.Model != r.Flags["model"],
			filter != "" && strings.Contains(strings.ToLower(a.described(p.Device)), filter) == without:
			continue
		}
		out = append(out, p.Device)
	}
	if len(out) == 0 {
		return nil, admin.Refuse("no declared phone is selected")
	}
	return out, nil
}

// groupPhones are the phones of the members of a hunt group, nil when there is none.
func (a *appliance) groupPhones(number string) map[string]bool {
	d := a.doc()
	var out map[string]bool
	seen := map[string]bool{}
	var walk func(number string)
	walk = func(number string) {
		if seen[number] {
			return
		}
		seen[number] = true
		for _, g := range d.Groups {
			if string(g.Number) != number {
				continue
			}
			if out == nil {
				out = map[string]bool{}
			}
			for _, m := range g.Members {
				if l, ok := d.Line(string(m)); ok && l.Phone != "" {
					out[l.Phone] = true
				}
				walk(string(m))
			}
		}
	}
	walk(number)
	return out
}

// described is the text that --filter searches.
func (a *appliance) described(device string) string {
	words := []string{device}
	if p, ok := a.doc().Phone(device); ok {
		words = append(words, p.Model, p.Label, string(p.Security))
	}
	for _, l := range a.doc().LinesOf(device) {
		words = append(words, string(l.Number), l.Label, declared{a.doc()}.name(l))
	}
	if all := a.sip.Registrar().Device(device); len(all) > 0 {
		words = append(words, all[0].Load, all[0].UserAgent)
		if f := all[0].Flow; f != nil {
			words = append(words, f.Remote().Addr().String())
		}
	}
	return strings.Join(words, "\n")
}

func (a *appliance) phoneRollouts(context.Context, admin.Request) (any, error) {
	a.rollouts.mu.Lock()
	defer a.rollouts.mu.Unlock()
	out := []RolloutInfo{}
	for _, r := range a.rollouts.all {
		out = append(out, r.snapshotLocked(false))
	}
	return out, nil
}

func (a *appliance) phoneRollout(_ context.Context, r admin.Request) (any, error) {
	n, err := strconv.Atoi(r.Args[0])
	if err != nil {
		return nil, admin.Usage("%q is no number of a roll-out", r.Args[0])
	}
	a.rollouts.mu.Lock()
	defer a.rollouts.mu.Unlock()
	for _, x := range a.rollouts.all {
		if x.info.Number != n {
			continue
		}
		if r.Flags["stop"] != "" && x.info.Ended.IsZero() {
			x.cancel()
		}
		return x.snapshotLocked(true), nil
	}
	return nil, admin.Refuse("there is no roll-out %d; ringfence phone rollouts lists them", n)
}

func (r RolloutInfo) progress() string {
	text := fmt.Sprintf("%d of %d phones obeyed", r.Obeyed, r.Total)
	for _, x := range []struct {
		n    int
		what string
	}{{r.Failed, "not"}, {r.Busy, "in a call"}, {r.Total - r.Obeyed - r.Failed - r.Busy, "to come"}} {
		if x.n > 0 {
			text += fmt.Sprintf(", %d %s", x.n, x.what)
		}
	}
	switch {
	case r.Stopped:
		text += "; stopped"
	case !r.Ended.IsZero():
		text += "; ended after " + r.Ended.Sub(r.Started).Round(time.Second).String()
	}
	return text
}

// printRollout prints a roll-out, or the answer of an order to one phone.
func printRollout(w io.Writer, answer json.RawMessage) error {
	var r RolloutInfo
	if err := json.Unmarshal(answer, &r); err != nil {
		return err
	}
	if r.Number == 0 {
		return printText(w, answer)
	}
	fmt.Fprintf(w, "roll-out %d, %s: %s\n", r.Number, r.Action, r.progress())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range r.Phones {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", p.Device, p.State, p.Error)
	}
	if len(r.Phones) == 0 {
		fmt.Fprintf(w, "ringfence phone rollout %d shows how far it is\n", r.Number)
	}
	return tw.Flush()
}

func printRollouts(w io.Writer, answer json.RawMessage) error {
	var all []RolloutInfo
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "none since the daemon was started")
	}
	slices.SortFunc(all, func(x, y RolloutInfo) int { return cmp.Compare(y.Number, x.Number) })
	for _, r := range all {
		fmt.Fprintf(w, "%d  %s  %s: %s\n", r.Number, r.Started.Local().Format(time.DateTime), r.Action, r.progress())
	}
	return nil
}
