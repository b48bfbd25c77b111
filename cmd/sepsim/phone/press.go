package phone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Press is a soft key that was pressed. Where the phone did not ask for norefersub, its REFER has made a subscription, and
// the server's NOTIFYs about it are kept (calls §1.1 rule 6).
type Press struct {
	p                           *Phone
	name                        string
	callID, localTag, remoteTag string
	silent, over                bool // under Phone.mu
	seq                         int
	reports                     []Report
}

// Report is one NOTIFY about a key.
type Report struct {
	State string // Subscription-State
	Code  int    // of a remotecc response, 0 for none
	Park  string // event of a parked call: parked, reminder, retrieved, forwarded, abandoned, error
	Slot  string // that it is about
}

// reporting are the keys whose REFER makes a subscription: Conference of a CP-8865NR trace, ParkMonitor by its page (calls
// §1.1 rule 6, §10). Which others do is not known; all but these ask for norefersub here.
var reporting = map[string]bool{"Conference": true, "ParkMonitor": true}

// Press sends a soft key event and returns as soon as it is accepted. call and consult may be nil.
func (p *Phone) Press(ctx context.Context, name string, call, consult *Call) (*Press, error) {
	k := &Press{p: p, name: name, callID: p.newCallID(), localTag: p.tag(), silent: !reporting[name]}
	p.mu.Lock()
	p.pressed = append(p.pressed, k)
	if len(p.pressed) > maxNotices {
		p.pressed = slices.Delete(p.pressed, 0, 1)
	}
	p.mu.Unlock()
	return k, p.softKey(ctx, k, call, consult)
}

func (p *Phone) newCallID() string {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l == nil {
		return p.callID("0.0.0.0")
	}
	return p.callID(l.local.Addr().String())
}

// Reports are the NOTIFYs so far.
func (k *Press) Reports() []Report {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	return slices.Clone(k.reports)
}

// WaitCode waits for the end of the subscription and returns the code of its report: 200 done, 500 failed.
func (k *Press) WaitCode(ctx context.Context) (int, error) {
	if k.silent {
		return 0, errors.New("the phone asked not to be told")
	}
	var last Report
	err := k.p.Wait(ctx, func() bool {
		k.p.mu.Lock()
		defer k.p.mu.Unlock()
		if len(k.reports) > 0 {
			last = k.reports[len(k.reports)-1]
		}
		return k.over
	})
	if err != nil {
		return 0, fmt.Errorf("%s: not told how it went: %w", k.name, err)
	}
	return last.Code, nil
}

// WaitPark waits for an event of the parked call and returns its slot.
func (k *Press) WaitPark(ctx context.Context, event string) (slot string, err error) {
	err = k.p.Wait(ctx, func() bool {
		for _, r := range k.Reports() {
			if r.Park == event {
				slot = r.Slot
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("%s: not told %q, but %+v: %w", k.name, event, k.Reports(), err)
	}
	return slot, nil
}

// serveKeyReport takes a NOTIFY in the subscription of a key; false if it is in none.
func (p *Phone) serveKeyReport(l *link, m *message) bool {
	to, from := nameAddrOf(m.get("To")), nameAddrOf(m.get("From"))
	p.mu.Lock()
	var k *Press
	for _, x := range p.pressed {
		if x.callID == m.get("Call-ID") && x.localTag == to.param("tag") {
			k = x
		}
	}
	p.mu.Unlock()
	if k == nil {
		return false
	}
	bad := func(kind Kind, status int, text string, format string, args ...any) bool {
		p.refused(StepSIP, refuse(kind, nil, "report about "+k.name+": "+format, args...))
		p.respond(l, m, status, text, "")
		return true
	}
	seq, _ := m.cseq()
	p.mu.Lock()
	wrong := k.remoteTag != "" && k.remoteTag != from.param("tag")
	over, silent, old := k.over, k.silent, seq <= k.seq
	if k.remoteTag == "" {
		k.remoteTag = from.param("tag") // overtook the 202
	}
	k.seq = max(k.seq, seq)
	p.mu.Unlock()
	state := m.get("Subscription-State")
	switch {
	case wrong:
		return bad(NotifyDialog, 481, "Subscription Does Not Exist", "From tag %q", clip(from.param("tag")))
	case silent:
		return bad(NotifyDialog, 481, "Subscription Does Not Exist", "though the phone asked not to be told")
	case over:
		return bad(NotifyDialog, 481, "Subscription Does Not Exist", "after its end")
	case old:
		return bad(NotifyDialog, 500, "Server Internal Error", "CSeq %d after %d", seq, k.seq)
	case !strings.EqualFold(strings.TrimSpace(m.get("Event")), "refer"):
		return bad(NotifyEvent, 489, "Bad Event", "Event %q", clip(m.get("Event")))
	case state == "":
		return bad(NotifyState, 400, "Bad Request", "no Subscription-State")
	}
	r := Report{State: state}
	kind, _, _ := strings.Cut(m.get("Content-Type"), ";")
	if err := r.read(strings.ToLower(strings.TrimSpace(kind)), m.body); err != nil {
		return bad(NotifyBody, 400, "Bad Request", "%v", err)
	}
	p.respond(l, m, 200, "OK", "")
	p.mu.Lock()
	k.reports = append(k.reports, r)
	k.over = strings.HasPrefix(state, "terminated")
	p.changedLocked()
	p.mu.Unlock()
	p.event(StepSIP, fmt.Sprintf("%s: %+v", k.name, r), nil)
	return true
}

// parkSpaces are the name spaces of the park notice; the misspelling is part of the interface (calls §10).
var parkSpaces = []string{`xmlns="urn:ietf:parmams:xml:ns:dialog-info"`, `xmlns:call="urn:x-cisco:parmams:xml:ns:dialog-info:dialog:callinfo-dialog"`}

func (r *Report) read(kind string, body []byte) error {
	switch {
	case len(body) == 0:
		return nil
	case kind == typeResponse:
		root, err := parseXML(body)
		if err != nil {
			return err
		}
		if r.Code, err = strconv.Atoi(root.get("response/code")); err != nil || root.name != "x-cisco-remotecc-response" {
			return fmt.Errorf("response %q", clip(string(body)))
		}
		return nil
	case kind != typeDialog:
		return fmt.Errorf("body of type %q", kind)
	}
	root, err := parseXML(body)
	if err != nil {
		return err
	}
	for _, s := range parkSpaces {
		if !strings.Contains(string(body), s) {
			return fmt.Errorf("park notice without %s", s)
		}
	}
	d := root.child("dialog")
	slot, _, _ := strings.Cut(root.attrs["entity"], "@")
	r.Park, r.Slot = d.get("park/event"), slot
	confirmed := r.Park == "parked" || r.Park == "reminder"
	switch {
	case root.name != "dialog-info" || d == nil || d.attrs["id"] != slot || strings.HasPrefix(slot, "sip:"):
		return fmt.Errorf("park notice about %q", clip(root.attrs["entity"]))
	case userOf(d.get("local/identity")) != slot || userOf(d.get("remote/identity")) != slot:
		return fmt.Errorf("park notice of %s with other identities", slot)
	case !slices.Contains([]string{"parked", "reminder", "retrieved", "forwarded", "abandoned", "error"}, r.Park):
		return fmt.Errorf("park event %q", clip(r.Park))
	case confirmed != (d.get("state") == "confirmed"), confirmed != strings.HasPrefix(r.State, "active"):
		return fmt.Errorf("park event %s with state %q in a subscription %q", r.Park, clip(d.get("state")), r.State)
	}
	if _, err := strconv.Atoi(root.attrs["version"]); err != nil {
		return fmt.Errorf("park notice version %q", clip(root.attrs["version"]))
	}
	return nil
}
