package state

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/task"
	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// Bounds of subscriptions (sip-state.md §2): a phone subscribes to each number of its call lists.
const (
	maxPerFlow       = 400
	maxSubscriptions = 200000
	minSubscription  = time.Minute
	maxSubscription  = time.Hour
)

const allowEvents = "presence, dialog, message-summary, as-feature-event"

// Subscribe answers a SUBSCRIBE outside of a dialog by somebody authenticated.
func (s *State) Subscribe(tx *transaction.Server, id registrar.Identity) {
	req, f := tx.Request(), tx.Flow()
	d := &dialog{event: event(req), number: req.Recipient.User, f: f, watcher: id.Line}
	if d.number == "" {
		d.number = req.To().Address.User
	}
	switch d.event {
	case "presence", "dialog":
		d.topic = "p/" + d.number
		if !s.watchable(d.number) {
			tx.Answer(404)
			return
		}
		if s.opt.MayWatch != nil && !s.opt.MayWatch(id.Line, d.number) {
			tx.Answer(403)
			return
		}
	case "message-summary":
		if _, ok := s.ownLine(id, d.number); !ok {
			if a, _ := s.opt.Accounts.Line(id.Line); d.number != a.Voicemail || a.Voicemail == "" {
				tx.Answer(403)
				return
			}
			d.number = id.Line
		}
		d.topic = "m/" + d.number
	case "as-feature-event":
		if _, ok := s.ownLine(id, d.number); !ok {
			tx.Answer(403)
			return
		}
		d.topic = "f/" + d.number
	default:
		tx.Answer(489, sip.NewHeader("Allow-Events", allowEvents))
		return
	}
	want, ok := s.interval(tx)
	if !ok {
		return
	}
	target, err := transaction.VerbatimURI(contactURI(transaction.Header(req, "Contact", "m")))
	if err != nil {
		tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "no Contact"`))
		return
	}
	d.target = target
	d.user = d.number
	to := sip.HeaderClone(req.From()).(*sip.FromHeader)
	d.to = &sip.ToHeader{DisplayName: to.DisplayName, Address: to.Address, Params: to.Params}
	from := sip.HeaderClone(req.To()).(*sip.ToHeader)
	from.Params.Add("tag", tx.Tag())
	d.from = &sip.FromHeader{DisplayName: from.DisplayName, Address: from.Address, Params: from.Params}
	d.callID, d.cseq = req.CallID().Value(), 100
	d.until = time.Now().Add(want)
	held := d.hold()

	s.mu.Lock()
	if len(s.byFlow[f.ID()]) >= maxPerFlow || len(s.byKey) >= maxSubscriptions {
		s.mu.Unlock()
		tx.Answer(403, sip.NewHeader("Warning", `399 ringfence "too many subscriptions"`))
		return
	}
	if d.event == "as-feature-event" {
		for old := range s.topics[d.topic] { // one per line, the newest replaces
			s.dropLocked(old)
		}
	}
	if want > 0 {
		s.addLocked(d)
		s.armLocked(d, want)
	}
	s.mu.Unlock()
	s.accept(tx, d, want, nil)
	if id.Cisco && d.event == "as-feature-event" {
		// Enterprise phones do not use it; one that asks gets its state in the way it knows (sip-state.md §8).
		if info, ok := s.opt.Accounts.Device(id.Device); ok {
			s.Push(s.primary(id.Device), nil, cisco.Request{Bulk: s.bulk(info)})
		}
		return
	}
	if want == 0 {
		s.finish(d, "timeout") // a poll: state once, then over
		return
	}
	s.release(d, held, true)
}

// watchable tells whether a number has a state at all. Phones ask for every number of their call lists.
func (s *State) watchable(number string) bool {
	if _, ok := s.opt.Accounts.Line(number); ok {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, slot := s.slots[number]
	_, sw := s.switches[number]
	return slot || sw
}

// interval reads how long the subscription is to last; ok is false if it was refused.
func (s *State) interval(tx *transaction.Server) (time.Duration, bool) {
	want, said := expires(tx.Request())
	if !said {
		want = maxSubscription
	}
	if want > 0 && want < minSubscription {
		tx.Answer(423, sip.NewHeader("Min-Expires", fmt.Sprint(int(minSubscription/time.Second))))
		return 0, false
	}
	return min(want, maxSubscription), true
}

// accept answers 200, for as-feature-event with the answer to a request in the body.
func (s *State) accept(tx *transaction.Server, d *dialog, want time.Duration, body []byte) {
	res := tx.Response(200, "")
	res.AppendHeader(sip.NewHeader("Expires", fmt.Sprint(int(want/time.Second))))
	res.AppendHeader(sip.NewHeader("Contact", contact(d.f, d.user)))
	if body != nil {
		transaction.SetBody(res, cisco.TypeFeatureEvent, body)
	}
	_ = tx.Respond(res)
}

// armLocked sets the timer that ends a subscription. s.mu is held.
func (s *State) armLocked(d *dialog, after time.Duration) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer = time.AfterFunc(after, func() {
		_ = task.Guard(s.opt.Log, "subscription end", func() {
			d.mu.Lock()
			over := !d.closed.Load() && time.Until(d.until) <= 0
			d.mu.Unlock()
			if over {
				s.finish(d, "timeout")
			}
		})
	})
}

// prolong renews a subscription.
func (s *State) prolong(d *dialog, want time.Duration) {
	d.mu.Lock()
	d.until = time.Now().Add(want)
	d.mu.Unlock()
	s.mu.Lock()
	if !d.closed.Load() {
		s.armLocked(d, want)
	}
	s.mu.Unlock()
}

// finish tells the end of a subscription and forgets it, once.
func (s *State) finish(d *dialog, reason string) {
	if !s.drop(d) {
		return
	}
	d.mu.Lock()
	req := d.requestLocked("terminated;reason=" + reason)
	if reason != "rejected" {
		_, kind, body := s.render(d)
		transaction.SetBody(req, kind, body)
	}
	d.mu.Unlock()
	_, _ = s.opt.Transactions.Request(d.f, req, nil)
}

// contactURI takes the URI out of a Contact value. Parameters after it may hold other URIs (+sip.instance="<urn:...>"), a
// display name before it may hold anything.
func contactURI(v string) string {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch {
		case quoted && v[i] == '\\':
			i++
		case v[i] == '"':
			quoted = !quoted
		case !quoted && v[i] == '<':
			uri, _, ok := strings.Cut(v[i+1:], ">")
			if !ok {
				return ""
			}
			return uri
		}
	}
	v, _, _ = strings.Cut(v, ";")
	return strings.TrimSpace(v)
}

// Resubscribe answers a SUBSCRIBE within a dialog; false: no such subscription on this connection.
func (s *State) Resubscribe(tx *transaction.Server) bool {
	req := tx.Request()
	tag, _ := req.To().Params.Get("tag")
	s.mu.Lock()
	d := s.byKey[dialogKey{req.CallID().Value(), tag}]
	s.mu.Unlock()
	if d == nil || d.f.ID() != tx.Flow().ID() {
		return false
	}
	want, ok := s.interval(tx)
	if !ok {
		return true
	}
	if d.event == "as-feature-event" && len(req.Body()) > 0 {
		s.featureRequest(tx, d, want)
		return true
	}
	if want > 0 {
		s.prolong(d, want)
	}
	s.accept(tx, d, want, nil)
	if want == 0 {
		s.finish(d, "timeout")
	} else {
		s.refresh(d, true)
	}
	return true
}

// featureRequest carries out what another vendor's phone sets (sip-state.md §8).
func (s *State) featureRequest(tx *transaction.Server, d *dialog, want time.Duration) {
	var r cisco.FeatureEvent
	if err := r.Unmarshal(tx.Request().Body()); err != nil {
		tx.Answer(489)
		return
	}
	held := d.hold()
	ctx, cancel := context.WithTimeout(context.Background(), settingTime)
	defer cancel()
	var err error
	answer := cisco.FeatureEvent{}
	switch {
	case r.SetDND != nil:
		answer.Response = "SetDoNotDisturbResponse"
		err = s.SetDND(ctx, s.DeviceOf(d.number), r.SetDND.On, ByPhone)
	case r.SetForward != nil && r.SetForward.Type == "forwardImmediate":
		answer.Response = "SetForwardingResponse"
		target := ""
		if r.SetForward.On {
			target = r.SetForward.Target
		}
		err = s.SetForward(ctx, d.number, target, ByPhone)
	default:
		tx.Answer(489)
		s.release(d, held, false)
		return
	}
	if err != nil {
		tx.Answer(403)
	} else {
		if want > 0 {
			s.prolong(d, want)
		}
		s.accept(tx, d, want, answer.Marshal())
	}
	s.release(d, held, false)
	if want == 0 {
		s.finish(d, "timeout")
	}
}

// featureBody is what a feature subscription shows: both events at first, then the one that changed.
func (s *State) featureBody(d *dialog) (key, contentType string, body []byte) {
	on, target := s.DND(s.DeviceOf(d.number)), s.Forward(d.number)
	dnd := &cisco.FeatureEvent{DND: &cisco.FeatureDND{On: on}}
	forward := &cisco.FeatureEvent{Forward: &cisco.FeatureForward{Type: "forwardImmediate", On: target != "", Target: target}}
	left, right := fmt.Sprintf("dnd %v", on), "forward "+target
	key = left + " " + right
	switch {
	case strings.HasPrefix(d.shown, left+" ") && d.shown != key:
		return key, cisco.TypeFeatureEvent, forward.Marshal()
	case strings.HasSuffix(d.shown, " "+right) && d.shown != key:
		return key, cisco.TypeFeatureEvent, dnd.Marshal()
	}
	contentType, body = cisco.Join(
		cisco.Part{Type: cisco.TypeFeatureEvent, Body: dnd.Marshal()}, cisco.Part{Type: cisco.TypeFeatureEvent, Body: forward.Marshal()},
	)
	return key, contentType, body
}
