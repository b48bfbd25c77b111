package registrar

import (
	"encoding/json"
	"net/netip"
	"time"

	"ringfence/sip/flow"
	"ringfence/sip/transaction"
)

// bucket of local.db.
const bucketName = "sip_bindings"

// saveMargin is how far ahead of its expiry a registration is written, so that most refreshes write nothing.
const saveMargin = 10 * time.Minute

// saved is a record on disk: enough to know after a restart who was there, so that lamps do not go dark and calls to phones
// that are about to come back are not refused as "unknown".
type saved struct {
	Device    string    `json:"device,omitempty"`
	Line      string    `json:"line"`
	Contact   string    `json:"contact"`
	CallID    string    `json:"call_id"`
	UserAgent string    `json:"user_agent,omitempty"`
	Supported []string  `json:"supported,omitempty"`
	Load      string    `json:"load,omitempty"`
	Inactive  string    `json:"inactive_load,omitempty"`
	LastReset string    `json:"last_reset,omitempty"`
	Secure    bool      `json:"secure,omitempty"`
	Transport string    `json:"transport,omitempty"`
	Remote    string    `json:"remote,omitempty"`
	Local     string    `json:"local,omitempty"`
	Granted   int       `json:"granted"`
	Until     time.Time `json:"until"`
}

// save writes a record if what is on disk does not do any more.
func (r *Registrar) save(rec *record) {
	if r.opt.Local == nil {
		return
	}
	r.mu.Lock()
	if r.records[rec.key] != rec {
		r.mu.Unlock()
		r.forget(rec)
		return
	}
	b := rec.primary()
	if rec.saved.After(b.Expires) && rec.savedContact == b.ContactText && rec.savedCallID == b.CallID {
		r.mu.Unlock()
		return
	}
	rec.saved, rec.savedContact, rec.savedCallID = b.Expires.Add(saveMargin), b.ContactText, b.CallID
	s := saved{
		Device: rec.device, Line: b.Line, Contact: b.ContactText, CallID: b.CallID, UserAgent: b.UserAgent, Supported: b.Supported,
		Load: b.Load, Inactive: b.InactiveLoad, LastReset: b.LastReset, Secure: b.Secure,
		Granted: int(rec.granted / time.Second), Until: rec.saved,
	}
	if b.Flow != nil {
		s.Transport, s.Remote, s.Local = b.Flow.Transport(), b.Flow.Remote().String(), b.Flow.Local().String()
	}
	key := rec.key
	r.mu.Unlock()
	if v, err := json.Marshal(s); err == nil {
		r.opt.Local.Put(bucketName, key, v)
	}
}

func (r *Registrar) forget(rec *record) {
	if r.opt.Local != nil {
		r.opt.Local.Delete(bucketName, rec.key)
	}
}

// restore reads the registrations of an earlier process. They are not reachable, and their next REGISTER counts as new. Those
// that do not come back within what they had been granted are gone.
func (r *Registrar) restore() {
	if r.opt.Local == nil {
		return
	}
	now := time.Now()
	var stale []string
	r.mu.Lock()
	r.opt.Local.Scan(bucketName, "", func(key string, v []byte) bool {
		var s saved
		if json.Unmarshal(v, &s) != nil || now.After(s.Until) || !r.restoreOneLocked(key, s, now) {
			stale = append(stale, key)
		}
		return true
	})
	r.mu.Unlock()
	for _, key := range stale {
		r.opt.Local.Delete(bucketName, key)
	}
}

// restoreOneLocked makes a record of what was kept, if the line is still declared so. r.mu is held.
func (r *Registrar) restoreOneLocked(key string, s saved, now time.Time) bool {
	a, ok := r.accountOn(s.Line, s.Device)
	if !ok || a.Device != s.Device {
		return false
	}
	uri, err := transaction.VerbatimURI(s.Contact)
	if err != nil {
		return false
	}
	rec := &record{key: key, device: s.Device, granted: time.Duration(s.Granted) * time.Second, lost: true, saved: s.Until}
	b := &Binding{
		Line: s.Line, Device: s.Device, Index: 1, Contact: uri, ContactText: s.Contact, CallID: s.CallID, UserAgent: s.UserAgent,
		Model: modelOf(s.UserAgent), Cisco: s.Device != "", Secure: s.Secure, Registered: now, Expires: now.Add(rec.granted),
		Supported: r.tags.share(s.Supported), Load: s.Load, InactiveLoad: s.Inactive, LastReset: s.LastReset,
	}
	if s.Transport == "UDP" {
		rec.remote, _ = netip.ParseAddrPort(s.Remote)
		rec.local, _ = netip.ParseAddrPort(s.Local)
	}
	rec.bindings = []*Binding{b}
	rec.savedContact, rec.savedCallID = b.ContactText, b.CallID
	if s.Device != "" {
		d, ok := r.opt.Accounts.Device(s.Device)
		if !ok {
			return false
		}
		rec.bindings = append(rec.bindings, aliases(b, d)...)
	}
	r.indexLocked(rec)
	r.armLocked(rec)
	return true
}

// Reopen makes phones on UDP that were registered with an earlier process reachable again, where they were: they would not
// notice the restart before their next refresh, up to an hour later. open is flow.Manager.Open. Phones on streams come back by
// themselves.
func (r *Registrar) Reopen(open func(remote, local netip.AddrPort) (flow.Flow, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		if !rec.remote.IsValid() || rec.primary().Flow != nil {
			continue
		}
		f, err := open(rec.remote, rec.local)
		if err != nil {
			r.opt.Log.Info("phone not reachable after the restart", "line", rec.primary().Line, "peer", rec.remote.String(), "err", err)
			continue
		}
		flow.Keep(f, rec.primary().Expires.Add(2*keepBinding))
		again := make([]*Binding, len(rec.bindings))
		for i, b := range rec.bindings {
			x := *b
			x.Flow = f
			again[i] = &x
		}
		rec.bindings = again
		rec.lost = false
		r.byFlow[f.ID()] = append(without(r.byFlow[f.ID()], rec), rec)
	}
}

// Reload looks at the declared configuration again: registrations of lines and devices that are no more are ended, secondary
// lines added and removed. Who is affected gets an event, as if registered anew.
func (r *Registrar) Reload() {
	var events []Event
	var dropped []*record
	r.mu.Lock()
	for _, rec := range r.records {
		b := rec.primary()
		a, ok := r.accountOn(b.Line, rec.device)
		if ok = ok && a.Device == rec.device; ok && rec.device != "" {
			var d DeviceInfo
			if d, ok = r.opt.Accounts.Device(rec.device); ok && a.Index == 1 {
				now := append([]*Binding{b}, aliases(b, d)...)
				if !sameLines(rec.bindings, now) {
					gone := missing(rec.bindings, now)
					r.unindexLocked(rec)
					rec.bindings = now
					r.indexLocked(rec)
					if len(gone) > 0 {
						events = append(events, Event{Kind: Gone, Bindings: gone})
					}
					events = append(events, Event{Kind: Fresh, Device: rec.device, Bindings: now})
				}
			} else {
				ok = false
			}
		}
		if !ok {
			events = append(events, Event{Kind: Gone, Device: rec.device, Bindings: rec.bindings})
			dropped = append(dropped, rec)
		}
	}
	for _, rec := range dropped {
		r.dropLocked(rec)
	}
	r.mu.Unlock()
	for _, rec := range dropped {
		r.forget(rec)
	}
	for _, e := range events {
		r.emit(e)
	}
}

func sameLines(a, b []*Binding) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Line != b[i].Line || a[i].Index != b[i].Index {
			return false
		}
	}
	return true
}

// missing returns the bindings of was whose lines are not in now.
func missing(was, now []*Binding) []*Binding {
	var out []*Binding
next:
	for _, x := range was {
		for _, y := range now {
			if x.Line == y.Line {
				continue next
			}
		}
		out = append(out, x)
	}
	return out
}
