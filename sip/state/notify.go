package state

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/transaction"
)

// dialogKey finds a subscription by what the phone repeats in the dialog.
type dialogKey struct{ callID, ourTag string }

// dialog is one series of NOTIFYs to one phone about one topic: a subscription, or the unsolicited kind that Cisco phones take
// for their BLF keys.
//
//	        +-- state differs: NOTIFY -->  outstanding --200--> shown = acknowledged, compare again
//	idle ---+                                   |------ 4xx --> unsolicited: fresh Call-ID at the next change; else: end
//	                                            |--- timeout -> the connection is dead
type dialog struct {
	event, topic, number string
	f                    flow.Flow
	target               sip.Uri
	watcher              string // line that watches
	dev                  *device
	timer                *time.Timer // of a subscription; under State.mu
	to                   *sip.ToHeader
	user                 string // of our Contact
	closed               atomic.Bool

	mu          sync.Mutex
	until       time.Time // end of a subscription
	from        *sip.FromHeader
	callID      string
	cseq        uint32
	version     int
	outstanding bool
	again       bool                    // look again when the answer has come
	force       bool                    // and send even if nothing has changed
	listed      map[string]cisco.Dialog // of a shared line: what the last NOTIFY named
	shown       string                  // what the last NOTIFY said, "" before the first
	acked       string                  // what the phone has confirmed
	failures    int
	tried       time.Time
}

// maxTries is how often a NOTIFY that the phone refuses is sent again by the self-check without a change of state.
const maxTries = 3

// refresh sends a NOTIFY if what is to be shown differs from what was sent, or if forced. It reports whether one is under way.
func (s *State) refresh(d *dialog, force bool) bool {
	d.mu.Lock()
	if d.closed.Load() {
		d.mu.Unlock()
		return false
	}
	if d.outstanding {
		d.again, d.force = true, d.force || force
		d.mu.Unlock()
		return true
	}
	key, contentType, body := s.render(d)
	if key == d.shown && !force {
		d.mu.Unlock()
		return false
	}
	subscription := "active" // unsolicited: without an end
	if d.dev == nil {
		subscription += ";expires=" + d.left()
	}
	req := d.requestLocked(subscription)
	transaction.SetBody(req, contentType, body)
	d.shown, d.outstanding, d.tried = key, true, time.Now()
	d.mu.Unlock()
	s.send(d, req, key)
	return true
}

// hold keeps NOTIFYs back until release: a phone must have its answer before it is told about what it asked for. It reports
// whether release is to be called; if not, a NOTIFY is under way already.
func (d *dialog) hold() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := !d.outstanding
	d.outstanding = true
	return held
}

// release lets NOTIFYs go and sends what is due.
func (s *State) release(d *dialog, held, force bool) {
	d.mu.Lock()
	if held {
		d.outstanding, d.again, d.force = false, false, false
	}
	d.mu.Unlock()
	s.refresh(d, force)
}

func (d *dialog) left() string {
	return fmt.Sprint(max(0, int(time.Until(d.until).Round(time.Second)/time.Second)))
}

// requestLocked builds the next NOTIFY without body. d.mu is held.
func (d *dialog) requestLocked(subscription string) *sip.Request {
	req := sip.NewRequest(sip.NOTIFY, d.target)
	req.AppendHeader(d.from)
	req.AppendHeader(d.to)
	req.AppendHeader(sip.NewHeader("Contact", contact(d.f, d.user)))
	id := sip.CallIDHeader(d.callID)
	req.AppendHeader(&id)
	d.cseq++
	req.AppendHeader(&sip.CSeqHeader{SeqNo: d.cseq, MethodName: sip.NOTIFY})
	req.AppendHeader(sip.NewHeader("Event", d.event))
	req.AppendHeader(sip.NewHeader("Subscription-State", subscription))
	d.version++
	return req
}

func (s *State) send(d *dialog, req *sip.Request, key string) {
	_, err := s.opt.Transactions.Request(d.f, req, func(res *sip.Response, err error) {
		if err != nil {
			s.answered(d, key, 0, err)
		} else if res.StatusCode >= 200 {
			if res.StatusCode >= 300 {
				s.opt.Log.Info("NOTIFY refused", "line", d.watcher, "event", d.event, "number", d.number, "code", res.StatusCode,
					"warning", transaction.Header(res, "Warning"))
			}
			s.answered(d, key, res.StatusCode, nil)
		}
	})
	if err != nil {
		s.answered(d, key, 0, err)
	}
}

// answered takes the answer to a NOTIFY.
func (s *State) answered(d *dialog, key string, code int, err error) {
	d.mu.Lock()
	d.outstanding = false
	again, force := d.again, d.force
	d.again, d.force = false, false
	switch {
	case errors.Is(err, transaction.ErrTimeout) && d.f.Transport() != "UDP":
		d.mu.Unlock()
		d.f.Close(fmt.Errorf("NOTIFY: %w", err)) // sip-state.md §1: a phone that does not answer is not there
		return
	case err != nil || code >= 300 && d.dev == nil:
		d.mu.Unlock()
		s.drop(d)
		return
	case code >= 300:
		d.failures++
		d.freshLocked()
	default:
		d.acked, d.failures = key, 0
	}
	d.mu.Unlock()
	if again {
		s.refresh(d, force)
	}
	if d.dev != nil {
		s.pump(d.dev)
	}
}

// freshLocked gives an unsolicited dialog a new identity. d.mu is held.
func (d *dialog) freshLocked() {
	d.callID, d.cseq = transaction.NewCallID(d.f), 100
	d.from = &sip.FromHeader{
		Address: sip.Uri{Scheme: "sip", User: d.number, Host: host(d.f)}, Params: sip.HeaderParams{{K: "tag", V: transaction.NewTag()}},
	}
}

// shows returns the key of what a dialog is to show now, which differs when the content does.
func (s *State) shows(d *dialog) string {
	switch d.event {
	case "presence", "dialog":
		return s.presenceKey(s.presence(d.number), d.number)
	case "message-summary":
		unheard, heard := s.Messages(d.number)
		return fmt.Sprintf("%d/%d", unheard, heard)
	}
	key, _, _ := s.featureBody(d)
	return key
}

// render returns that key and the body.
func (s *State) render(d *dialog) (key, contentType string, body []byte) {
	switch d.event {
	case "presence":
		p := s.presence(d.number)
		p.Entity, p.Tuple = "sip:"+d.number+"@"+host(d.f), d.version
		return s.presenceKey(p, d.number), cisco.TypePIDF, p.Marshal()
	case "dialog":
		if d.dev != nil {
			return s.renderShared(d)
		}
		p := s.presence(d.number)
		return s.presenceKey(p, d.number), cisco.TypeDialogInfo, dialogInfo(p, d).Marshal()
	case "message-summary":
		unheard, heard := s.Messages(d.number)
		m := cisco.MessageSummary{New: unheard, Old: heard, Urgent: true}
		if a, ok := s.opt.Accounts.Line(d.number); ok && a.Voicemail != "" {
			m.Account = "sip:" + a.Voicemail + "@" + host(d.f)
		}
		return fmt.Sprintf("%d/%d", unheard, heard), cisco.TypeMessageSummary, m.Marshal()
	}
	return s.featureBody(d)
}

// presenceKey tells presences apart; a second call that rings is told although the lamp blinks already (sip-state.md §1).
func (s *State) presenceKey(p cisco.Presence, number string) string {
	key := p.Activity.String()
	if !p.Open {
		key += ", closed"
	}
	if p.Activity == cisco.Alerting {
		s.mu.Lock()
		n := 0
		for _, x := range s.legs[number] {
			if x == Ringing {
				n++
			}
		}
		s.mu.Unlock()
		key += fmt.Sprint(" ", n)
	}
	return key
}

// dialogInfo shows a presence in the form that other vendors' lamps take (RFC 4235).
func dialogInfo(p cisco.Presence, d *dialog) *cisco.DialogInfo {
	info := &cisco.DialogInfo{Version: d.version, Full: true, Entity: "sip:" + d.number + "@" + host(d.f)}
	state := "terminated"
	switch p.Activity {
	case cisco.Alerting:
		state = "early"
	case cisco.OnThePhone, cisco.DoNotDisturb:
		state = "confirmed"
	}
	x := cisco.Dialog{ID: d.number, State: state}
	if state == "early" {
		x.Direction = "recipient"
	}
	info.Dialogs = []cisco.Dialog{x}
	return info
}

// addLocked makes a dialog find its topic's changes. s.mu is held.
func (s *State) addLocked(d *dialog) {
	add := func(m map[string]map[*dialog]bool, k string) {
		if m[k] == nil {
			m[k] = make(map[*dialog]bool)
		}
		m[k][d] = true
	}
	add(s.topics, d.topic)
	if d.dev == nil {
		s.byKey[dialogKey{d.callID, d.from.Params.GetOr("tag", "")}] = d
		add(s.byFlow, d.f.ID())
	}
}

// dropLocked ends a dialog without a word; true for the one call that did. s.mu is held.
func (s *State) dropLocked(d *dialog) bool {
	if d.closed.Swap(true) {
		return false
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	remove := func(m map[string]map[*dialog]bool, k string) {
		if delete(m[k], d); len(m[k]) == 0 {
			delete(m, k)
		}
	}
	remove(s.topics, d.topic)
	if d.dev == nil {
		delete(s.byKey, dialogKey{d.callID, d.from.Params.GetOr("tag", "")})
		remove(s.byFlow, d.f.ID())
	}
	return true
}

func (s *State) drop(d *dialog) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropLocked(d)
}
