// Package phone follows each device through its boot: which file it asked for when and what it got, enrolment, VPN,
// registration, errors (the boot record), and from that where it stands and what to do when it is stuck.
//
// The services tell it what happened by Recorder.Note; the texts are for humans, and the rules in rules.go read in them what
// the protocol pages say a retry pattern means (provisioning.md §1.2, §1.3, capf.md §8, sip-registration.md §4, §5). The
// rules look for file names (SEP….cnf.xml.sgn), status numbers (404, 403) and a few plain words, never for whole sentences,
// so that a service may word its notes as it likes.
//
// It leaves out what the device is told (appliance/provision) and adoption of unknown devices.
package phone

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Step of a boot.
type Step string

// Steps in the order in which a phone goes through them; the last four columns of a boot, sip and call, say what happens on
// the way to a registration and after it.
const (
	File     Step = "file"
	Trust    Step = "trust"
	CAPF     Step = "capf"
	TVS      Step = "tvs"
	VPN      Step = "vpn"
	Register Step = "register"
	SIP      Step = "sip"
	Call     Step = "call"
)

// Bounds of the record. A stranger can invent device names, so what he can make us keep has an end.
const (
	maxEntries        = 200 // per declared device; the oldest goes
	maxUnknownEntries = 50  // per device that is not declared
	maxUnknown        = 256 // devices that are not declared; the one with the fewest notes goes, among those the longest silent
	maxText           = 240 // bytes of a note
	tailEntries       = 32  // newest entries, kept in memory: a repeat is looked for in them, and the rules read them

	// together: a repeat within this time is counted, a later one is a new entry. A rejected phone registers again every 2
	// to 3 minutes (sip-registration.md §4).
	together = 5 * time.Minute
)

// Entry is one thing that happened, once or several times.
type Entry struct {
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Count  int       `json:"count"`
	Step   Step      `json:"step"`
	Text   string    `json:"text"`
	Failed bool      `json:"failed,omitempty"`

	class class
}

// Every is the mean time between repeats, 0 when there were none.
func (e *Entry) Every() time.Duration {
	if e.Count < 2 {
		return 0
	}
	return e.Last.Sub(e.First) / time.Duration(e.Count-1)
}

// Local is where records are kept; *store.Local satisfies it. Its methods go to memory, the disk follows later.
type Local interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
	Delete(bucket, key string)
	Scan(bucket, prefix string, fn func(key string, value []byte) bool)
}

const (
	bucketEntries = "boot"         // SEP…/number to Entry
	bucketDevices = "boot-devices" // SEP… to device
)

// Facts are what the rest of the appliance knows of a device.
type Facts struct {
	Declared    bool
	Secure      bool // encrypted mode: enrols, registers over TLS
	VPN         bool // its file holds a VPN
	Registered  bool // now
	Certificate bool // has a current LSC
}

// Options of a Recorder.
type Options struct {
	Local Local
	// Facts of a device; must not block. Nil: every device counts as declared.
	Facts func(device string) Facts
	// Declared is the first of them alone, for where that is all that counts: it is asked of every known device at the start and of
	// every note. Nil: Facts is asked.
	Declared func(device string) bool
	Log      *slog.Logger
}

// Recorder keeps the boot records. Its methods may be called from any goroutine.
type Recorder struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex // guards the rest
	devices map[string]*device
	unknown map[string]struct{} // names that were not declared when last looked at
}

// device is the index entry of a record. Its entries have the numbers Low to Next-1.
type device struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Notes uint64    `json:"notes"`
	Low   uint64    `json:"low"`
	Next  uint64    `json:"next"`
	Ever  bool      `json:"ever,omitempty"` // it has registered once

	tail    []Entry // the newest, ending at Next-1; nil until needed
	barrier uint64  // entries below were before the last registration and take no more repeats
}

// NewRecorder reads the index of what was recorded before.
func NewRecorder(o Options) *Recorder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Facts == nil {
		o.Facts = func(string) Facts { return Facts{Declared: true} }
	}
	if o.Declared == nil {
		o.Declared = func(device string) bool { return o.Facts(device).Declared }
	}
	r := &Recorder{o: o, log: o.Log.With("component", "phone"), devices: map[string]*device{}, unknown: map[string]struct{}{}}
	o.Local.Scan(bucketDevices, "", func(name string, value []byte) bool {
		d := new(device)
		if err := json.Unmarshal(value, d); err != nil || !ValidName(name) || d.Low > d.Next {
			r.log.Error("boot record not readable, begun anew", "phone", name, "err", err)
			o.Local.Delete(bucketDevices, name)
			return true
		}
		r.devices[name] = d
		if !o.Declared(name) {
			r.unknown[name] = struct{}{}
		}
		return true
	})
	r.shrinkLocked("")
	return r
}

var validName = regexp.MustCompile(`^SEP[0-9A-F]{12}$`)

// ValidName tells whether name can be a device's.
func ValidName(name string) bool { return validName.MatchString(name) }

// Note records that something happened to a device. Names that no device can have are ignored.
func (r *Recorder) Note(name, step, text string, failed bool) {
	if !ValidName(name) {
		return
	}
	declared := r.o.Declared(name)
	e := Entry{Count: 1, Step: cleanStep(step), Text: clean(text), Failed: failed}
	e.First = time.Now().Round(0)
	e.Last = e.First

	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[name]
	if d == nil {
		d = &device{First: e.First, Last: e.Last, tail: []Entry{}}
		r.devices[name] = d
		if !declared {
			r.unknown[name] = struct{}{}
			r.shrinkLocked(name)
		}
	}
	if declared {
		delete(r.unknown, name)
	}
	r.addLocked(name, d, e, declared)
}

func (r *Recorder) addLocked(name string, d *device, e Entry, declared bool) {
	r.loadTailLocked(name, d)
	d.Last = e.Last
	d.Notes++
	at := d.Next
	for i := len(d.tail) - 1; i >= 0; i-- {
		number := d.Next - uint64(len(d.tail)-i)
		old := &d.tail[i]
		if number < d.barrier || e.First.Sub(old.Last) > together {
			continue
		}
		if old.Step == e.Step && old.Text == e.Text && old.Failed == e.Failed {
			old.Count++
			old.Last = e.Last
			e, at = *old, number
			break
		}
	}
	if at == d.Next {
		d.Next++
		e.class = classify(&e)
		d.tail = append(d.tail, e)
		if len(d.tail) > tailEntries {
			d.tail = slices.Clone(d.tail[len(d.tail)-tailEntries:])
		}
	}
	if isRegistered(&e) {
		d.barrier, d.Ever = at, true
	}
	limit := uint64(maxEntries)
	if !declared {
		limit = maxUnknownEntries
	}
	for d.Next-d.Low > limit {
		r.o.Local.Delete(bucketEntries, entryKey(name, d.Low))
		d.Low++
	}
	r.putLocked(bucketEntries, entryKey(name, at), e)
	r.putLocked(bucketDevices, name, d)
}

func (r *Recorder) loadTailLocked(name string, d *device) {
	if d.tail != nil {
		return
	}
	d.tail = []Entry{}
	for n := d.Next - min(tailEntries, d.Next-d.Low); n < d.Next; n++ {
		e, _ := r.entry(name, n)
		if isRegistered(&e) {
			d.barrier = n
		}
		e.class = classify(&e)
		d.tail = append(d.tail, e)
	}
}

func (r *Recorder) entry(name string, number uint64) (e Entry, ok bool) {
	raw, ok := r.o.Local.Get(bucketEntries, entryKey(name, number))
	if !ok || json.Unmarshal(raw, &e) != nil {
		return Entry{}, false
	}
	return e, true
}

func (r *Recorder) putLocked(bucket, key string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		r.log.Error("boot record not written", "err", err)
		return
	}
	r.o.Local.Put(bucket, key, b)
}

// shrinkLocked removes records of undeclared devices until few enough are left, but not that of the newcomer. One that asked
// often is a phone that waits to be declared; one that asked once may be a guess.
func (r *Recorder) shrinkLocked(newcomer string) {
	if len(r.unknown) <= maxUnknown {
		return
	}
	for name := range r.unknown {
		if r.o.Declared(name) {
			delete(r.unknown, name)
		}
	}
	for len(r.unknown) > maxUnknown {
		weakest := ""
		for name := range r.unknown {
			d, w := r.devices[name], r.devices[weakest]
			if name == newcomer {
				continue
			}
			if w == nil || d.Notes < w.Notes || d.Notes == w.Notes && d.Last.Before(w.Last) {
				weakest = name
			}
		}
		d := r.devices[weakest]
		for n := d.Low; n < d.Next; n++ {
			r.o.Local.Delete(bucketEntries, entryKey(weakest, n))
		}
		r.o.Local.Delete(bucketDevices, weakest)
		delete(r.unknown, weakest)
		delete(r.devices, weakest)
	}
}

// recent returns the newest entries of a device and whether it has ever registered.
func (r *Recorder) recent(name string) (entries []Entry, ever bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[name]
	if d == nil {
		return nil, false
	}
	r.loadTailLocked(name, d)
	return slices.Clone(d.tail), d.Ever
}

// Ever tells whether a device has ever registered here.
func (r *Recorder) Ever(name string) bool {
	_, ever := r.recent(name)
	return ever
}

// Record returns what happened to a device, in the order in which things happened first.
func (r *Recorder) Record(name string) []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[name]
	if d == nil {
		return nil
	}
	out := make([]Entry, 0, d.Next-d.Low)
	for n := d.Low; n < d.Next; n++ {
		if e, ok := r.entry(name, n); ok {
			out = append(out, e)
		}
	}
	return out
}

// Seen is a device that spoke to the appliance.
type Seen struct {
	Device   string    `json:"device"`
	Declared bool      `json:"declared"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Notes    uint64    `json:"notes"`
}

// Devices lists every device that has a record, by name; those not declared are waiting to be.
func (r *Recorder) Devices() []Seen {
	r.mu.Lock()
	out := make([]Seen, 0, len(r.devices))
	for name, d := range r.devices {
		out = append(out, Seen{Device: name, First: d.First, Last: d.Last, Notes: d.Notes})
	}
	r.mu.Unlock()
	for i := range out {
		out[i].Declared = r.o.Declared(out[i].Device)
	}
	slices.SortFunc(out, func(a, b Seen) int { return strings.Compare(a.Device, b.Device) })
	return out
}

func entryKey(name string, number uint64) string { return fmt.Sprintf("%s/%012d", name, number) }

func cleanStep(step string) Step {
	switch s := Step(step); s {
	case File, Trust, CAPF, TVS, VPN, Register, SIP, Call:
		return s
	}
	return SIP
}

// clean makes text fit for a terminal and a table: names of files and users in it come from the network.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return text
}
