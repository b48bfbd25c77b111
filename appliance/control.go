package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"ringfence/appliance/admin"
	"ringfence/appliance/certadmin"
	"ringfence/appliance/trustadmin"
	"ringfence/config"
	"ringfence/sip/state"
)

// Verbs are all commands that the daemon answers: admin's, which only look, and those that give orders.
func Verbs() []admin.Verb {
	onOff := "on|off"
	verbs := append(admin.Verbs(),
		admin.Verb{Name: "config show", Args: "[REVISION]", Max: 1, Short: "the configuration in force, secrets hidden", Print: printText,
			Flags: []admin.Flag{{Name: "raw", Usage: "with secrets, as it was applied", Bool: true}}},
		admin.Verb{Name: "config history", Short: "the stored revisions", Print: printText},
		admin.Verb{Name: "config diff", Args: "[REVISION]", Max: 1, Short: "what a revision changed", Print: printText},
		admin.Verb{Name: "config apply", Args: "FILE", Min: 1, Max: 1, Short: "make a document the next revision", Change: true, Print: printEffect,
			Flags: []admin.Flag{{Name: "comment", Usage: "kept with the revision"}}, Prepare: readDocument},
		admin.Verb{Name: "config reload", Short: "read the file of run --config again", Change: true, Print: printEffect},
		admin.Verb{Name: "phone adopt", Args: "DEVICE", Min: 1, Max: 1, Short: "declare a phone that waits, with its first line, as the next revision", Change: true, Print: printEffect,
			Flags: []admin.Flag{{Name: "model", Usage: "number of the model: 8851"}, {Name: "line", Usage: "number that it shows"}, {Name: "name", Usage: "name of the line"},
				{Name: "nonsecure", Usage: "TCP and RTP, password in clear", Bool: true}}},
		admin.Verb{Name: "line forward", Args: "NUMBER [TARGET|off|reset]", Min: 1, Max: 2, Short: "show, set or clear where all calls of a line go, or go back to what is declared", Change: true, Print: printText},
		admin.Verb{Name: "phone dnd", Args: "DEVICE [" + onOff + "]", Min: 1, Max: 2, Short: "show or set do-not-disturb", Change: true, Print: printText},
		admin.Verb{Name: "phone hunt", Args: "DEVICE [" + onOff + "]", Min: 1, Max: 2, Short: "show or set the log-in to hunt groups", Change: true, Print: printText},
		admin.Verb{Name: "plan explain", Short: "what would become of a call, step by step", Print: printText,
			Flags: []admin.Flag{{Name: "from", Usage: "calling line"}, {Name: "dial", Usage: "number dialled"},
				{Name: "at", Usage: "another time: 2026-12-24T18:00, in the site's zone"}, {Name: "trunk", Usage: "the call comes from this trunk"}}},
	)
	verbs = append(verbs, vpnVerbs()...)
	verbs = append(verbs, backupVerb())
	verbs = append(verbs, callVerbs()...)
	verbs = append(verbs, trustadmin.Verbs()...)
	verbs = append(verbs, certadmin.Verbs()...)
	verbs = append(verbs, machineVerbs()...)
	verbs = append(verbs, hostVerbs()...)
	verbs = append(verbs, stateVerbs()...)
	verbs = append(verbs, recordVerbs()...)
	verbs = append(verbs, voicemailVerbs()...)
	verbs = append(verbs, recordingVerbs()...)
	verbs = append(verbs, soundVerbs()...)
	verbs = append(verbs, rolloutVerbs()...)
	subject := func(v admin.Verb) string { s, _, _ := strings.Cut(v.Name, " "); return s }
	order := map[string]int{}
	for _, v := range append([]admin.Verb{{Name: "config"}}, verbs...) {
		if _, ok := order[subject(v)]; !ok {
			order[subject(v)] = len(order)
		}
	}
	slices.SortStableFunc(verbs, func(x, y admin.Verb) int { return order[subject(x)] - order[subject(y)] })
	return verbs
}

// textAnswer is the answer of verbs that have one thing to say.
type textAnswer struct {
	Text string `json:"text"`
}

func say(format string, args ...any) (any, error) {
	return textAnswer{fmt.Sprintf(format, args...)}, nil
}

func printText(w io.Writer, answer json.RawMessage) error {
	var t textAnswer
	if err := json.Unmarshal(answer, &t); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, strings.TrimRight(t.Text, "\n"))
	return err
}

func printEffect(w io.Writer, answer json.RawMessage) error {
	var e Effect
	if err := json.Unmarshal(answer, &e); err != nil {
		return err
	}
	if len(e.Changes) == 0 {
		fmt.Fprintln(w, "nothing has changed")
	}
	for _, c := range e.Changes {
		fmt.Fprintln(w, c)
	}
	if e.Revision != "" {
		fmt.Fprintln(w, e.Revision)
	}
	if len(e.AtStart) > 0 {
		fmt.Fprintf(w, "takes effect when the daemon is started again: %s\n", strings.Join(e.AtStart, ", "))
	}
	if e.Host != "" {
		fmt.Fprintln(w, e.Host)
	}
	if len(e.Phones) > 0 {
		fmt.Fprintf(w, "phones with other files now, which they read when restarted (ringfence phone restart): %s\n", strings.Join(e.Phones, ", "))
	}
	return nil
}

// readDocument puts the content of the file that the administrator named into the request.
func readDocument(req *admin.Request) error {
	b, err := os.ReadFile(req.Args[0])
	if err != nil {
		return err
	}
	req.Args[0] = string(b)
	return nil
}

// handlers answer Verbs.
func (a *appliance) handlers() map[string]admin.Handler {
	h := a.sources().Handlers()
	maps.Copy(h, a.trust.Handlers())
	maps.Copy(h, a.certKeeper().Handlers())
	a.callHandlers(h)
	maps.Copy(h, a.vpnHandlers())
	maps.Copy(h, a.machineHandlers())
	maps.Copy(h, a.hostHandlers())
	maps.Copy(h, map[string]admin.Handler{
		"config show": a.configShow, "config history": a.configHistory, "config diff": a.configDiff, "config apply": a.configApply,
		"config reload": a.configReload, "line forward": a.lineForward, "phone adopt": a.phoneAdopt, "phone dnd": a.phoneDND, "phone hunt": a.phoneHunt,
		"plan explain": a.planExplain, "backup": a.backup,
	})
	maps.Copy(h, a.stateHandlers())
	maps.Copy(h, a.recordHandlers())
	maps.Copy(h, a.voicemailHandlers())
	maps.Copy(h, a.recordingHandlers())
	maps.Copy(h, a.soundHandlers())
	maps.Copy(h, a.rolloutHandlers())
	return h
}

func (a *appliance) configShow(_ context.Context, r admin.Request) (any, error) {
	if a.source.Revisions() == nil {
		return nil, admin.Refuse("the configuration is %s: read and edit it there, then ringfence config reload", a.source)
	}
	number, err := a.revision(r)
	if err != nil {
		return nil, err
	}
	if r.Flags["raw"] != "" {
		b, err := a.source.Revisions().Raw(number)
		return textAnswer{string(b)}, err
	}
	text, err := a.source.Revisions().Show(number)
	return textAnswer{text}, err
}

// revision is the number that was asked for, else the newest.
func (a *appliance) revision(r admin.Request) (int, error) {
	if a.source.Revisions() == nil {
		return 0, admin.Refuse("the configuration is %s; it has no revisions", a.source)
	}
	if len(r.Args) == 0 {
		_, rev := a.source.Revisions().Current()
		return rev.Number, nil
	}
	n, err := strconv.Atoi(r.Args[0])
	if err != nil {
		return 0, admin.Usage("%q is no number of a revision", r.Args[0])
	}
	return n, nil
}

func (a *appliance) configHistory(context.Context, admin.Request) (any, error) {
	if a.source.Revisions() == nil {
		return nil, admin.Refuse("the configuration is %s; it has no revisions", a.source)
	}
	var b strings.Builder
	for _, r := range a.source.Revisions().List() {
		fmt.Fprintln(&b, r)
	}
	return textAnswer{b.String()}, nil
}

func (a *appliance) configDiff(_ context.Context, r admin.Request) (any, error) {
	number, err := a.revision(r)
	if err != nil {
		return nil, err
	}
	text, err := a.source.Revisions().Difference(number)
	return textAnswer{text}, err
}

func (a *appliance) configApply(ctx context.Context, r admin.Request) (any, error) {
	revision, diff, err := a.source.Apply(ctx, author(r.Peer), r.Flags["comment"], []byte(r.Args[0]))
	if err != nil {
		return nil, refusal(err)
	}
	doc, _ := a.source.Revisions().Current()
	a.say(a.source.Revisions().Notices())
	e, err := a.switchTo(ctx, doc)
	e.Revision, e.Diff = revision.String(), diff
	return e, err
}

func (a *appliance) configReload(ctx context.Context, _ admin.Request) (any, error) {
	if a.source.Revisions() != nil {
		return nil, admin.Refuse("the configuration is stored (%s): change it with config apply or config edit", a.source)
	}
	doc, notices, err := a.source.Load()
	if err != nil {
		return nil, refusal(err)
	}
	a.say(notices)
	return a.switchTo(ctx, doc)
}

// refusal makes the faults of a document, and a file that is the authority, answers to the administrator.
func refusal(err error) error {
	if _, ok := errors.AsType[config.Errors](err); ok {
		return admin.Refuse("%v\nnothing was changed", err)
	}
	return admin.Refuse("%v", err)
}

func author(p admin.Peer) string {
	if u, err := user.LookupId(strconv.Itoa(p.UID)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(p.UID)
}

func (a *appliance) lineForward(ctx context.Context, r admin.Request) (any, error) {
	number := r.Args[0]
	if _, ok := a.doc().Line(number); !ok {
		_, err := a.sources().Handlers()["line show"](ctx, admin.Request{Args: r.Args[:1]})
		return nil, err
	}
	if len(r.Args) == 2 && r.Args[1] == "reset" {
		if err := a.sip.State().ResetForward(ctx, number, state.ByAdmin); err != nil {
			return nil, admin.Refuse("line %s: %v", number, err)
		}
	} else if len(r.Args) == 2 {
		target := r.Args[1]
		if target == "" {
			return nil, admin.Refuse("line %s: an empty number is no target; say off to end forwarding", number)
		}
		if target == "off" {
			target = ""
		} else if code, why := a.plan.Load().Callable(number, target); code != 0 {
			return nil, admin.Refuse("line %s may not be forwarded to %s: %s", number, target, why)
		}
		if err := a.sip.State().SetForward(ctx, number, target, state.ByAdmin); err != nil {
			return nil, admin.Refuse("line %s: %v", number, err)
		}
	}
	if to := a.sip.State().Forward(number); to != "" {
		return say("line %s is forwarded to %s", number, to)
	}
	return say("line %s is not forwarded", number)
}

// declaredPhone is the device that a request names.
func (a *appliance) declaredPhone(ctx context.Context, r admin.Request) (string, error) {
	device := strings.ToUpper(r.Args[0])
	for _, name := range []string{device, "SEP" + strings.NewReplacer(":", "", "-", "", ".", "").Replace(device)} {
		if _, ok := a.doc().Phone(name); ok {
			return name, nil
		}
	}
	if _, err := a.sources().Handlers()["phone show"](ctx, admin.Request{Args: r.Args[:1]}); err != nil {
		return "", err
	}
	return "", admin.Refuse("phone %s is not declared", device)
}

func (a *appliance) toggle(ctx context.Context, r admin.Request, set func(ctx context.Context, device string, on bool, by state.Origin) error) (string, error) {
	device, err := a.declaredPhone(ctx, r)
	if err != nil || len(r.Args) == 1 {
		return device, err
	}
	if r.Args[1] != "on" && r.Args[1] != "off" {
		return "", admin.Usage("%q is neither on nor off", r.Args[1])
	}
	if err := set(ctx, device, r.Args[1] == "on", state.ByAdmin); err != nil {
		return "", admin.Refuse("phone %s: %v", device, err)
	}
	return device, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (a *appliance) phoneDND(ctx context.Context, r admin.Request) (any, error) {
	device, err := a.toggle(ctx, r, a.sip.State().SetDND)
	if err != nil {
		return nil, err
	}
	return say("do-not-disturb of %s is %s", device, onOff(a.sip.State().DND(device)))
}

func (a *appliance) phoneHunt(ctx context.Context, r admin.Request) (any, error) {
	device, err := a.toggle(ctx, r, a.sip.State().SetHuntLogin)
	if err != nil {
		return nil, err
	}
	return say("hunt-group log-in of %s is %s", device, onOff(a.sip.State().HuntLogin(device)))
}
