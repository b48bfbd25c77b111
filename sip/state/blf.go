package state

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/task"
	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
)

// device is a registered Cisco phone with its BLF keys.
type device struct {
	name    string
	binding *registrar.Binding // of the primary line
	keys    []*dialog          // in the order of the declaration
	shared  []*dialog          // of its shared lines

	mu      sync.Mutex
	next    int // first key that was not sent in this round
	round   int // 1 first lamps, 2 repeated once
	pumping bool
	again   bool
	timer   *time.Timer
	stopped bool
}

func (d *device) all() []*dialog { return append(slices.Clone(d.keys), d.shared...) }

// window is how many first lamps are under way to one phone at a time: phones still booting drop what they cannot queue
// (sip-state.md §1).
const window = 6

// maxKeys bounds the watched numbers of one phone; the largest have some 100 keys with all expansion modules.
const maxKeys = 200

// burst sends the initial state after a registration (sip-registration.md §1): one REFER with do-not-disturb, hunt login and
// all lines, then a NOTIFY per BLF key, paced and repeated once, then check-version if the phone came because another
// appliance failed.
func (s *State) burst(e registrar.Event) {
	b := e.Bindings[0]
	info, ok := s.opt.Accounts.Device(e.Device)
	if !ok {
		return
	}
	d := &device{name: e.Device, binding: b, round: 1}
	for _, number := range s.watched(info, b.Line) {
		k := &dialog{
			event: "presence", topic: "p/" + number, number: number, f: b.Flow, target: b.Contact, watcher: b.Line, dev: d,
			to: &sip.ToHeader{Address: b.Contact}, user: number,
		}
		k.freshLocked()
		d.keys = append(d.keys, k)
	}
	for _, number := range s.sharedLines(info) {
		for _, x := range e.Bindings {
			if x.Line == number {
				k := &dialog{
					event: "dialog", topic: "s/" + number, number: number, f: x.Flow, target: x.Contact, watcher: number, dev: d,
					to: &sip.ToHeader{Address: x.Contact}, user: number,
				}
				k.freshLocked()
				d.shared = append(d.shared, k)
			}
		}
	}
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	s.dropDeviceLocked(e.Device)
	s.devices[e.Device] = d
	for _, k := range d.all() {
		s.addLocked(k)
	}
	s.mu.Unlock()

	s.pushInitial(b, info)
	for _, k := range d.shared {
		s.refresh(k, false)
	}
	s.pump(d)
	d.mu.Lock()
	if !d.stopped && len(d.keys) > 0 {
		wait := s.opt.Repeat + time.Duration(rand.Int64N(int64(s.opt.Repeat)/4+1))
		d.timer = time.AfterFunc(wait, func() {
			_ = task.Guard(s.opt.Log, "lamps again", func() {
				d.mu.Lock()
				d.round, d.next = 2, 0
				d.mu.Unlock()
				s.pump(d)
			})
		})
	}
	d.mu.Unlock()
	if s.opt.Stamps != nil && e.Alarm.TookOver() {
		if stamps, ok := s.opt.Stamps(e.Device); ok {
			s.control(b, &cisco.ServiceControl{Action: "check-version", RegisterCallID: b.CallID, Stamps: &stamps}, nil)
		}
	}
}

// watched returns the numbers of a device's BLF keys that it may see, each once.
func (s *State) watched(info registrar.DeviceInfo, line string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, number := range info.Watch {
		if seen[number] || len(out) == maxKeys || s.opt.MayWatch != nil && !s.opt.MayWatch(line, number) {
			continue
		}
		seen[number] = true
		out = append(out, number)
	}
	return out
}

// Reload makes a changed configuration count: registrations of what is no more are ended, lines added, devices whose lines
// or keys are declared otherwise now get their initial state again, and who may not watch a number any more is told so.
func (s *State) Reload() {
	s.opt.Registrar.Reload()
	s.mu.Lock()
	all := make(map[string]*device, len(s.devices))
	for name, d := range s.devices {
		all[name] = d
	}
	s.mu.Unlock()
	for name, d := range all {
		info, ok := s.opt.Accounts.Device(name)
		if !ok {
			continue // the registrar ends it
		}
		watched := s.watched(info, d.binding.Line)
		same := len(watched) == len(d.keys)
		for i := 0; same && i < len(watched); i++ {
			same = watched[i] == d.keys[i].number
		}
		shared := s.sharedLines(info)
		same = same && len(shared) == len(d.shared)
		for i := 0; same && i < len(shared); i++ {
			same = slices.ContainsFunc(d.shared, func(k *dialog) bool { return k.number == shared[i] })
		}
		if !same {
			_ = s.Resync(name) // a phone that is not there gets it when it comes
		}
	}
	s.endForbidden()
}

// endForbidden ends the subscriptions whose watcher has lost the right to them.
func (s *State) endForbidden() {
	if s.opt.MayWatch == nil {
		return
	}
	s.mu.Lock()
	var all []*dialog
	for _, d := range s.byKey {
		if d.event == "presence" || d.event == "dialog" {
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	for _, d := range all {
		if !s.opt.MayWatch(d.watcher, d.number) {
			s.finish(d, "rejected") // its body would tell the state once more, so finish sends none for this reason
		}
	}
}

// pushInitial sends the REFER of the burst; if the phone refuses it, the same once more in single ones.
func (s *State) pushInitial(b *registrar.Binding, info registrar.DeviceInfo) {
	requests := []cisco.Request{
		{DND: s.dndUpdate(info.Name)},
		{HuntLogin: &cisco.HuntLoginUpdate{On: s.HuntLogin(info.Name)}},
		{Bulk: s.bulk(info)},
	}
	if len(s.sharedLines(info)) > 0 {
		requests = append(requests, cisco.Request{Privacy: &cisco.PrivacyUpdate{On: s.Privacy(info.Name)}})
	}
	s.Push(b, func(code int, err error) {
		if code >= 300 {
			for _, r := range requests {
				s.Push(b, nil, r)
			}
		}
	}, requests...)
}

// bulk is the state of all lines of a device: all, or old lamps and arrows stay after a fail-over (sip-state.md §9).
func (s *State) bulk(info registrar.DeviceInfo) *cisco.BulkUpdate {
	u := &cisco.BulkUpdate{}
	for _, l := range info.Lines {
		unheard, heard := s.Messages(l.Number)
		target := s.Forward(l.Number)
		u.Lines = append(u.Lines, cisco.BulkLine{
			Line: l.Index, New: unheard, Old: heard, Target: target, ToVoicemail: target != "" && target == l.Voicemail,
		})
	}
	return u
}

// pump sends first lamps while fewer than window are under way.
func (s *State) pump(d *device) {
	d.mu.Lock()
	if d.pumping {
		d.again = true
		d.mu.Unlock()
		return
	}
	d.pumping = true
	for {
		d.again = false
		for d.next < len(d.keys) && !d.stopped && d.underway() < window {
			k, force := d.keys[d.next], d.round == 2
			d.next++
			d.mu.Unlock()
			s.refresh(k, force)
			d.mu.Lock()
		}
		if !d.again {
			break
		}
	}
	d.pumping = false
	d.mu.Unlock()
}

// underway counts NOTIFYs without answer among the keys of this round.
func (d *device) underway() int {
	n := 0
	for _, k := range d.keys[:d.next] {
		k.mu.Lock()
		if k.outstanding {
			n++
		}
		k.mu.Unlock()
	}
	return n
}

// stop ends the timer; s.mu is held, so nothing here may take it.
func (d *device) stop() {
	d.mu.Lock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Unlock()
}

// dropDeviceLocked ends the lamps of a device. s.mu is held.
func (s *State) dropDeviceLocked(name string) {
	d := s.devices[name]
	if d == nil {
		return
	}
	delete(s.devices, name)
	d.stop()
	for _, k := range d.all() {
		s.dropLocked(k)
	}
}

// Resync sends the initial state of a device again.
func (s *State) Resync(name string) error {
	if _, ok := s.opt.Accounts.Device(name); !ok {
		return ErrUnknownDevice
	}
	b := s.primary(name)
	if b == nil {
		return ErrNotRegistered
	}
	s.burst(registrar.Event{Kind: registrar.Fresh, Device: name, Bindings: s.opt.Registrar.Device(name)})
	return nil
}

// Refresh sends everybody who watches a number its state again and returns how many that are.
func (s *State) Refresh(number string) int {
	s.mu.Lock()
	var all []*dialog
	for _, topic := range []string{"p/", "m/", "f/"} {
		for d := range s.topics[topic+number] {
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	for _, d := range all {
		s.refresh(d, true)
	}
	return len(all)
}

// Watcher is one who watches a number.
type Watcher struct {
	Number, Watcher, Device, Event string
	Shown, Acknowledged            string
	Expires                        time.Time // zero for BLF keys
}

// Watchers lists who watches what.
func (s *State) Watchers() []Watcher {
	s.mu.Lock()
	var all []*dialog
	for _, t := range s.topics {
		for d := range t {
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	out := make([]Watcher, 0, len(all))
	for _, d := range all {
		w := Watcher{Number: d.number, Watcher: d.watcher, Event: d.event}
		if d.dev != nil {
			w.Device = d.dev.name
		}
		d.mu.Lock()
		w.Shown, w.Acknowledged, w.Expires = d.shown, d.acked, d.until
		d.mu.Unlock()
		out = append(out, w)
	}
	return out
}
