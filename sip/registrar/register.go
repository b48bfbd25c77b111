package registrar

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/transaction"
)

// Register answers a REGISTER (sip-registration.md §2-5, §7.1, §12).
func (r *Registrar) Register(tx *transaction.Server) {
	req := tx.Request()
	contacts, err := parseContacts(req)
	if err != nil {
		tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "bad Contact"`))
		return
	}
	if len(contacts) == 1 && !contacts[0].star && contacts[0].standby() {
		// Before authentication, and without any effect: this appliance is the phone's standby. Every reply counts as alive.
		flow.Allow(tx.Flow(), time.Now().Add(standbyKeep))
		tx.Answer(200, sip.NewHeader("Expires", "0"), date())
		return
	}
	who, ok := r.digest(tx)
	if !ok {
		return
	}
	line := req.To().Address.User
	if who.account.Device == "" {
		if line != who.account.Number {
			r.refuse(tx, who, "To is another line")
			return
		}
		r.registerLine(tx, who.account, contacts)
		return
	}
	if why := r.mayUse(tx.Flow(), who.device); why != "" {
		r.refuse(tx, who, why)
		return
	}
	if _, ok := lineOf(who.device, line); !ok {
		r.refuse(tx, who, "To is a line of another device")
		return
	}
	r.registerDevice(tx, who, line, contacts)
}

// date is the header that sets the phone's clock.
func date() sip.Header {
	return sip.NewHeader("Date", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
}

// registerDevice handles a REGISTER of a Cisco phone.
func (r *Registrar) registerDevice(tx *transaction.Server, who caller, line string, contacts []contact) {
	req, f := tx.Request(), tx.Flow()
	r.mu.Lock()
	old := r.records[who.device.Name]
	if old != nil && old.device == "" {
		old = nil
	}
	if old != nil && old.primary().CallID == req.CallID().Value() && req.CSeq().SeqNo < old.cseq {
		r.mu.Unlock()
		tx.Answer(500, sip.NewHeader("Warning", `399 ringfence "CSeq goes back"`))
		return
	}
	if len(contacts) == 0 {
		r.mu.Unlock()
		r.query(tx, who.account.Number)
		return
	}
	c := contacts[0]
	want, said := c.expires(req)
	if !said {
		want = defaultExpires
	}
	switch {
	case c.star && (!said || want != 0):
		r.mu.Unlock()
		tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "* without Expires: 0"`))
		return
	case want == 0:
		r.unregisterDeviceLocked(tx, old, line, who, c)
		return
	case line != who.account.Number:
		r.registerAliasLocked(tx, old, line, want)
		return
	}
	e, rec, rival := r.bindDeviceLocked(old, who, req, f, c, want)
	r.mu.Unlock()
	r.save(rec)
	if rival != "" {
		r.note(e.Device, "two phones use this name: "+f.Remote().Addr().String()+" and "+rival, true)
		r.opt.Log.Info("two phones use one device name", "phone", e.Device, "peer", f.Remote().Addr().String(), "other", rival)
	}

	res := tx.Response(200, "")
	granted := strconv.Itoa(int(rec.granted / time.Second))
	res.AppendHeader(sip.NewHeader("Expires", granted))
	res.AppendHeader(sip.NewHeader("Contact", "<"+c.text+">;expires="+granted))
	res.AppendHeader(date())
	if e.Kind == Fresh || len(req.Body()) > 0 {
		body := &cisco.Response{Code: 200, Options: cisco.ServerOptions()}
		transaction.SetBody(res, cisco.TypeResponse, body.Marshal())
	}
	_ = tx.Respond(res)
	if e.Kind == Fresh {
		b := e.Bindings[0]
		text := "registered from " + f.Remote().Addr().String() + " over " + f.Transport()
		if b.Load != "" {
			text += ", load " + b.Load
		}
		if e.Alarm.Last != "" {
			text += ", last reset " + e.Alarm.Last + " (" + strconv.Itoa(e.Alarm.Code) + ")"
		}
		r.note(e.Device, text, false)
		r.opt.Log.Info("registered", "phone", e.Device, "line", b.Line, "peer", f.Remote().String(), "transport", f.Transport())
	}
	r.emit(e)
}

// bindDeviceLocked makes the bindings of all lines of a device. rival is the address of another phone that uses its name.
// r.mu is held.
func (r *Registrar) bindDeviceLocked(old *record, who caller, req *sip.Request, f flow.Flow, c contact, want time.Duration) (Event, *record, string) {
	now, rival := time.Now(), ""
	rec := old
	if rec == nil {
		rec = &record{key: who.device.Name, device: who.device.Name}
	}
	first := &Binding{
		Line: who.account.Number, Device: rec.device, Index: 1, Contact: c.uri, ContactText: c.text, Flow: f,
		CallID: req.CallID().Value(), UserAgent: bounded(transaction.Header(req, "User-Agent")), Cisco: true, Secure: f.Secure(),
		Registered: now, Supported: r.tags.of(req),
	}
	first.Model = modelOf(first.UserAgent)
	var alarm cisco.ResetReason
	if alarm.Unmarshal(transaction.Header(req, "Reason")) == nil {
		first.Load, first.InactiveLoad = alarm.ActiveLoad, alarm.InactiveLoad
		first.LastReset = fmt.Sprintf("%s (%d)", alarm.Last, alarm.Code)
	}
	e := Event{Kind: Fresh, Device: rec.device, Alarm: alarm}
	if old != nil {
		was := old.primary()
		same := was.Flow != nil && was.Flow.ID() == f.ID() && was.ContactText == c.text
		e.Moved = !same
		if same && old.live && was.CallID == first.CallID {
			e.Kind = Refreshed
			first.Registered = was.Registered
		}
		if first.Load == "" {
			first.Load, first.InactiveLoad, first.LastReset = was.Load, was.InactiveLoad, was.LastReset
		}
		rival = r.rivalLocked(old, f, now)
		r.unindexLocked(old)
	}
	rec.granted = min(max(want, minExpires), r.opt.Expires)
	first.Expires = now.Add(rec.granted)
	rec.cseq, rec.live, rec.lost = req.CSeq().SeqNo, true, false
	rec.bindings = append([]*Binding{first}, aliases(first, who.device)...)
	r.indexLocked(rec)
	r.armLocked(rec)
	flow.Keep(f, first.Expires.Add(2*keepBinding))
	e.Bindings = rec.bindings
	return e, rec, rival
}

// aliases makes the bindings of lines 2 and up: the primary's, with their own number and index (sip-registration.md §5).
func aliases(first *Binding, d DeviceInfo) []*Binding {
	var out []*Binding
	for _, l := range d.Lines {
		if l.Index == 1 || l.Number == first.Line {
			continue
		}
		b := *first
		b.Line, b.Index = l.Number, l.Index
		b.ContactText = withUser(first.ContactText, l.Number)
		u, err := transaction.VerbatimURI(b.ContactText)
		if err != nil {
			continue // cannot be: the primary's was parsed
		}
		b.Contact = u
		out = append(out, &b)
	}
	slices.SortFunc(out, func(a, b *Binding) int { return a.Index - b.Index })
	return out
}

// rivalLocked notices two phones with one name: they keep taking the registration from each other. It returns the address of
// the other one. r.mu is held.
func (r *Registrar) rivalLocked(old *record, f flow.Flow, now time.Time) string {
	was := old.primary()
	if was.Flow == nil || was.Flow.ID() == f.ID() || was.Flow.Remote().Addr() == f.Remote().Addr() || !was.Reachable() {
		return ""
	}
	here, there := f.Remote().Addr().String(), was.Flow.Remote().Addr().String()
	again := old.rivalFrom == here && now.Sub(old.rival) < 10*time.Minute
	old.rival, old.rivalFrom = now, there
	if again {
		return there
	}
	return ""
}

// registerAliasLocked answers a secondary line that registers itself (older loads, bulk registration off): accepted with
// the primary's credentials on the connection where the primary is registered. It releases r.mu.
func (r *Registrar) registerAliasLocked(tx *transaction.Server, rec *record, line string, want time.Duration) {
	var b *Binding
	if rec != nil && rec.primary().Flow != nil && rec.primary().Flow.ID() == tx.Flow().ID() {
		for _, x := range rec.bindings {
			if x.Line == line {
				b = x
			}
		}
	}
	r.mu.Unlock()
	if b == nil {
		tx.Answer(403, sip.NewHeader("Warning", `399 ringfence "line 1 is not registered on this connection"`))
		return
	}
	granted := strconv.Itoa(int(min(max(want, minExpires), r.opt.Expires) / time.Second))
	tx.Answer(200, sip.NewHeader("Expires", granted), sip.NewHeader("Contact", "<"+b.ContactText+">;expires="+granted), date())
}

// unregisterDeviceLocked ends a registration with all its lines. A late goodbye from a connection that the phone has left
// changes nothing. It releases r.mu.
func (r *Registrar) unregisterDeviceLocked(tx *transaction.Server, rec *record, line string, who caller, c contact) {
	var e *Event
	req := tx.Request()
	if rec != nil && line == who.account.Number {
		b := rec.primary()
		if c.star || b.ContactText == c.text || b.CallID == req.CallID().Value() {
			e = &Event{Kind: Gone, Device: rec.device, Bindings: rec.bindings}
			_ = e.Alarm.Unmarshal(transaction.Header(req, "Reason"))
			r.dropLocked(rec)
		}
	}
	r.mu.Unlock()
	tx.Answer(200, sip.NewHeader("Expires", "0"), date())
	if e != nil {
		r.forget(rec)
		text := "unregistered, said goodbye"
		if e.Alarm.Last != "" {
			text += ": " + bounded(e.Alarm.Last)
		}
		r.note(e.Device, text, false)
		r.opt.Log.Info("unregistered", "phone", e.Device, "line", who.account.Number, "err", e.Alarm.Last)
		r.emit(*e)
	}
}

// registerLine handles a REGISTER of a line that is no Cisco phone's: RFC 3261 §10.3, up to MaxContacts places.
func (r *Registrar) registerLine(tx *transaction.Server, a Account, contacts []contact) {
	req, f := tx.Request(), tx.Flow()
	if len(contacts) == 0 {
		r.query(tx, a.Number)
		return
	}
	var events []Event
	var saved []*record
	r.mu.Lock()
	for _, c := range contacts {
		want, said := c.expires(req)
		if !said {
			want = defaultExpires
		}
		if c.star {
			if !said || want != 0 {
				r.mu.Unlock()
				tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "* without Expires: 0"`))
				return
			}
			for _, rec := range r.byLine[a.Number] {
				events = append(events, Event{Kind: Gone, Bindings: rec.bindings})
				r.dropLocked(rec)
				saved = append(saved, rec)
			}
			continue
		}
		rec := r.findLocked(a.Number, req, c)
		if rec != nil && rec.primary().CallID == req.CallID().Value() && req.CSeq().SeqNo < rec.cseq {
			r.mu.Unlock()
			tx.Answer(500)
			return
		}
		if want == 0 {
			if rec != nil {
				events = append(events, Event{Kind: Gone, Bindings: rec.bindings})
				r.dropLocked(rec)
				saved = append(saved, rec)
			}
			continue
		}
		if rec == nil && len(r.byLine[a.Number]) >= MaxContacts {
			r.dropLocked(r.byLine[a.Number][0]) // the one that registered longest ago
		}
		e, rec := r.bindLineLocked(rec, a, req, f, c, want)
		events, saved = append(events, e), append(saved, rec)
	}
	r.mu.Unlock()
	for _, rec := range saved {
		r.save(rec)
	}
	r.query(tx, a.Number)
	for _, e := range events {
		if e.Kind == Fresh {
			r.opt.Log.Info("registered", "line", a.Number, "peer", f.Remote().String(), "transport", f.Transport())
		}
		r.emit(e)
	}
}

// findLocked finds the record that a contact renews: same instance (RFC 5626 §6), same URI, or same Call-ID with a new
// address. r.mu is held.
func (r *Registrar) findLocked(line string, req *sip.Request, c contact) *record {
	for _, rec := range r.byLine[line] {
		b := rec.primary()
		if rec.key == lineKey(line, c) || b.ContactText == c.text || b.CallID == req.CallID().Value() {
			return rec
		}
	}
	return nil
}

// lineKey names a record of a line without device.
func lineKey(line string, c contact) string {
	if i := c.params["+sip.instance"]; i != "" {
		return "line:" + line + ":" + i + ":" + c.params["reg-id"]
	}
	return "line:" + line + ":" + c.text
}

func (r *Registrar) bindLineLocked(rec *record, a Account, req *sip.Request, f flow.Flow, c contact, want time.Duration) (Event, *record) {
	now := time.Now()
	b := &Binding{
		Line: a.Number, Index: 1, Contact: c.uri, ContactText: c.text, Flow: f, CallID: req.CallID().Value(),
		UserAgent: bounded(transaction.Header(req, "User-Agent")), Secure: f.Secure(), Registered: now, Supported: r.tags.of(req),
	}
	e := Event{Kind: Fresh}
	if rec != nil {
		was := rec.primary()
		if was.Flow != nil && was.Flow.ID() == f.ID() && was.ContactText == c.text && rec.live {
			e.Kind, b.Registered = Refreshed, was.Registered
		} else {
			e.Moved = true
		}
		r.unindexLocked(rec)
	} else {
		rec = &record{}
	}
	rec.key = lineKey(a.Number, c)
	rec.granted = min(max(want, minExpires), maxExpires)
	b.Expires = now.Add(rec.granted)
	rec.cseq, rec.live, rec.lost = req.CSeq().SeqNo, true, false
	rec.bindings = []*Binding{b}
	r.indexLocked(rec)
	r.armLocked(rec)
	flow.Keep(f, b.Expires.Add(2*keepBinding))
	e.Bindings = rec.bindings
	return e, rec
}

// query answers 200 with all bindings of a line.
func (r *Registrar) query(tx *transaction.Server, line string) {
	res := tx.Response(200, "")
	now := time.Now()
	for _, b := range r.Lookup(line) {
		left := max(0, int(b.Expires.Sub(now).Round(time.Second)/time.Second))
		res.AppendHeader(sip.NewHeader("Contact", "<"+b.ContactText+">;expires="+strconv.Itoa(left)))
	}
	res.AppendHeader(date())
	_ = tx.Respond(res)
}

// armLocked sets the timer that ends a registration. r.mu is held.
func (r *Registrar) armLocked(rec *record) {
	if rec.timer != nil {
		rec.timer.Stop()
	}
	if r.stopped {
		return
	}
	rec.timer = time.AfterFunc(rec.granted+keepBinding, func() { r.expire(rec) })
}

// expire ends a registration that was not renewed.
func (r *Registrar) expire(rec *record) {
	r.mu.Lock()
	if r.stopped || r.records[rec.key] != rec || time.Until(rec.primary().Expires.Add(keepBinding)) > 0 {
		r.mu.Unlock()
		return
	}
	e := Event{Kind: Gone, Device: rec.device, Bindings: rec.bindings}
	r.dropLocked(rec)
	r.mu.Unlock()
	r.forget(rec)
	r.note(e.Device, "registration expired", true)
	r.opt.Log.Info("registration expired", "phone", e.Device, "line", rec.primary().Line)
	r.emit(e)
}

func (r *Registrar) dropLocked(rec *record) {
	if rec.timer != nil {
		rec.timer.Stop()
	}
	r.unindexLocked(rec)
}

// bounded keeps what strangers say about themselves short.
func bounded(s string) string {
	if len(s) > 128 {
		s = s[:128]
	}
	return s
}
