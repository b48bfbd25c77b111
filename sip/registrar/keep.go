package registrar

import (
	"encoding/json"
	"time"

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
	a, ok := r.opt.Accounts.Line(s.Line)
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
		Supported: s.Supported, Load: s.Load, InactiveLoad: s.Inactive, LastReset: s.LastReset,
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
