// Package callback is the key CallBack ("sip-calls" §18): a user who has found somebody busy, or hears it ring, is told when the
// line is free, and dials it by one key.
//
//	key in a call that rings, or was refused busy within 30 s: the call ends, screen "activated"
//	target was busy (in a call, off-hook, do-not-disturb) and is free now, and the user is free: Play:Callback.raw, screen "available"
//	Dial: the screen is closed, the phone dials; Cancel: the wish is gone; Exit: it is kept, for the next time
//	key without a call: screen with the state
//
// One wish per line; a new one replaces the old. Wishes are durable and expire. A target that was idle has to be busy once
// before it counts as having become free. Only lines can be watched.
package callback

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ringfence/internal/task"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
)

// Application is the number by which answers to the screens are told from others.
const Application = 2

// Prefix of the wishes' keys; the line of the user follows.
const Prefix = "callback/"

// refusedFor is how long a call that was refused busy can still be named.
const refusedFor = 30 * time.Second

const maxRefused = 1000

// Store is where wishes are kept.
type Store interface {
	Write(ctx context.Context, set map[string][]byte, del ...string) error
	Scan(prefix string, fn func(key string, value []byte) bool)
}

// Options of Wishes.
type Options struct {
	Store Store
	// Free tells whether a line could be called now: registered, no call, on-hook, no do-not-disturb.
	Free func(line string) bool
	// MayWatch tells whether a line may know the state of a number; nil is yes.
	MayWatch func(line, number string) bool
	Keep     func() time.Duration
	Log      *slog.Logger
}

// wish is what a user wants.
type wish struct {
	Line   string    `json:"line"`
	Device string    `json:"device"`
	Index  int       `json:"index"`  // of the line on the device
	Number string    `json:"number"` // as it is dialled
	Target string    `json:"target"` // line that is watched
	Until  time.Time `json:"until"`
	Busy   bool      `json:"busy"` // the target was busy since
}

type refusal struct {
	number, target string
	at             time.Time
}

// Wishes are all that wait.
type Wishes struct {
	opt Options
	// Manager is set once the call manager is made.
	Manager *call.Manager
	tasks   *task.Group

	mu      sync.Mutex
	wishes  map[string]*wish           // by line of the user
	refused map[cisco.DialogID]refusal // calls that found somebody busy
	writes  map[string][]func()        // lines whose wish is to be stored, and what comes then
	wake    chan struct{}
}

// New reads the wishes that are kept.
func New(o Options) *Wishes {
	o.Log = o.Log.With("component", "callback")
	w := &Wishes{
		opt: o, tasks: task.NewGroup(context.Background(), o.Log), wishes: map[string]*wish{}, refused: map[cisco.DialogID]refusal{},
		writes: map[string][]func(){}, wake: make(chan struct{}, 1),
	}
	if o.Store != nil {
		o.Store.Scan(Prefix, func(key string, value []byte) bool {
			var x wish
			if err := json.Unmarshal(value, &x); err != nil || x.Line == "" {
				o.Log.Error("stored wish", "key", key, "err", err)
				return true
			}
			w.wishes[x.Line] = &x
			return true
		})
	}
	w.tasks.Go("callback store", w.store)
	return w
}

// Stop ends the writing of wishes.
func (w *Wishes) Stop() { w.tasks.Stop() }

// Refused is the entry for call.Options.Busy: the call can be named for a while.
func (w *Wishes) Refused(c *call.Call, l *call.Leg) {
	if !l.Cisco {
		return
	}
	r := refusal{number: c.Dialled(), at: time.Now()}
	if t, ok := c.Plan().Line(plan.Normalize(r.number)); ok {
		r.target = t.Number
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, old := range w.refused {
		if r.at.Sub(old.at) > refusedFor {
			delete(w.refused, id)
		}
	}
	if len(w.refused) < maxRefused {
		w.refused[l.DialogID()] = r
	}
}

// Key is the entry for call.Options.Keys: a call that rings still.
func (w *Wishes) Key(c *call.Call, l *call.Leg, k *call.Key) {
	k.Done(200)
	number := c.Dialled()
	target := ""
	if t, ok := c.Plan().Line(plan.Normalize(number)); ok {
		target = t.Number
	}
	if c.Other(l) == nil && l == c.CallerLeg() {
		c.Refuse(500) // as the phones know it ("sip-calls" §18)
	}
	w.wish(k, number, target)
}

// Idle is the entry for call.Options.IdleKeys: no call, or one that was refused.
func (w *Wishes) Idle(k *call.Key) bool {
	if k.Event.Dialog.Zero() {
		k.Accept()
		k.Done(200)
		w.show(k.Identity.Line, k.Identity.Device, w.status(k.Identity.Line))
		return true
	}
	w.mu.Lock()
	id := k.Event.Dialog
	r, ok := w.refused[id]
	for other, x := range w.refused {
		// A phone may have forgotten our tag, since there is no dialog.
		if id.RemoteTag == "" && other.CallID == id.CallID && other.LocalTag == id.LocalTag {
			id, r, ok = other, x, true
		}
	}
	delete(w.refused, id)
	w.mu.Unlock()
	if !ok || time.Since(r.at) > refusedFor {
		return false
	}
	k.Accept()
	k.Done(200)
	w.wish(k, r.number, r.target)
	return true
}

// wish notes what a user wants and says so.
func (w *Wishes) wish(k *call.Key, number, target string) {
	line, device := k.Identity.Line, k.Identity.Device
	if target == "" || target == line || w.opt.MayWatch != nil && !w.opt.MayWatch(line, target) {
		w.show(line, device, screen{text: "Unable to activate callback on " + number + ".", keys: []string{"Exit"}})
		return
	}
	index := 1
	if b := k.Binding(); b != nil {
		index = b.Index
	}
	x := &wish{Line: line, Device: device, Index: index, Number: number, Target: target, Until: time.Now().Add(w.opt.Keep()), Busy: !w.opt.Free(target)}
	w.mu.Lock()
	w.wishes[line] = x
	w.mu.Unlock()
	w.opt.Log.Info("callback activated", "line", line, "phone", device, "dialled", number)
	w.save(line, func() { w.show(line, device, w.status(line)) })
}

func (w *Wishes) status(line string) screen {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.wishes[line]
	if x == nil || time.Now().After(x.Until) {
		return screen{text: "CallBack is not activated.", keys: []string{"Exit"}}
	}
	return screen{text: "CallBack is activated on " + x.Number + ".\n\nPress Cancel to deactivate.\nPress Exit to quit this screen.", keys: []string{"Exit", "Cancel"}}
}

// Changed is told that the state of a line may have changed: the target of a wish, or the user's own line.
func (w *Wishes) Changed(line string) {
	now := time.Now()
	w.mu.Lock()
	var all []*wish
	for _, x := range w.wishes {
		if x.Target == line || x.Line == line || w.sameDevice(x, line) {
			all = append(all, x)
		}
	}
	w.mu.Unlock()
	for _, x := range all {
		w.look(x, now)
	}
}

// sameDevice tells whether a line is another one of the user's phone.
func (w *Wishes) sameDevice(x *wish, line string) bool {
	l, ok := w.Manager.Plan().Line(line)
	return ok && l.Device == x.Device && x.Device != ""
}

// look announces a wish if it is time.
func (w *Wishes) look(x *wish, now time.Time) {
	if now.After(x.Until) {
		w.drop(x)
		return
	}
	if !w.opt.Free(x.Target) {
		w.mu.Lock()
		changed := !x.Busy
		x.Busy = true
		w.mu.Unlock()
		if changed {
			w.save(x.Line)
		}
		return
	}
	b := w.Manager.Binding(x.Line, x.Device)
	if b == nil || !w.Manager.Idle(x.Device, w.Manager.Plan().NumbersOf(x.Device)) {
		return // later
	}
	w.mu.Lock()
	due := x.Busy && w.wishes[x.Line] == x
	x.Busy = false
	w.mu.Unlock()
	if !due {
		return
	}
	w.save(x.Line)
	w.opt.Log.Info("callback: line is free", "line", x.Line, "phone", x.Device, "dialled", x.Number)
	w.Manager.PushScreen(b, 0, 0, cisco.Execute("Play:Callback.raw"))
	w.show(x.Line, x.Device, screen{
		text: x.Number + " is now available at " + now.Format("15:04:05 02/01/06") + ".\n\nPress Dial to call.\nPress Cancel to deactivate.\nPress Exit to quit this screen.",
		keys: []string{"Exit", "Cancel", "Dial"},
	})
}

// Choices takes what a user has answered to a screen.
func (w *Wishes) Choices(id registrar.Identity, choice string) bool {
	w.mu.Lock()
	var x *wish
	for _, y := range w.wishes {
		if y.Device == id.Device && id.Device != "" && (x == nil || y.Line == id.Line) {
			x = y
		}
	}
	w.mu.Unlock()
	choice = strings.TrimSpace(choice)
	if x == nil || choice != "Dial" && choice != "Cancel" {
		return false
	}
	w.drop(x)
	b := w.Manager.Binding(x.Line, x.Device)
	w.Manager.PushScreen(b, 0, 0, cisco.Execute("Init:Services"))
	if choice == "Dial" {
		w.Manager.Push(b, cisco.Request{Initiate: &cisco.InitiateCall{Number: x.Number, Line: x.Index}})
	}
	return true
}

func (w *Wishes) drop(x *wish) {
	w.mu.Lock()
	if w.wishes[x.Line] == x {
		delete(w.wishes, x.Line)
	}
	w.mu.Unlock()
	w.save(x.Line)
}

// save has the wish of a line stored, or removed, as it is when its turn comes; then is called after that.
func (w *Wishes) save(line string, then ...func()) {
	w.mu.Lock()
	w.writes[line] = append(w.writes[line], then...)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

const storeWithin = 5 * time.Second

func (w *Wishes) store(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		set, del := map[string][]byte{}, []string{}
		var after []func()
		for line, then := range w.writes {
			after = append(after, then...)
			x := w.wishes[line]
			if x == nil {
				del = append(del, Prefix+line)
				continue
			}
			if b, err := json.Marshal(x); err == nil {
				set[Prefix+line] = b
			}
		}
		clear(w.writes)
		w.mu.Unlock()
		if w.opt.Store != nil {
			wctx, cancel := context.WithTimeout(ctx, storeWithin)
			if err := w.opt.Store.Write(wctx, set, del...); err != nil && ctx.Err() == nil {
				w.opt.Log.Error("wishes cannot be stored", "err", err)
			}
			cancel()
		}
		for _, f := range after {
			_ = task.Guard(w.opt.Log, "callback", f)
		}
	}
}

// screen is a text with its keys.
type screen struct {
	text string
	keys []string
}

// show puts a screen on a phone. Keys have other places on 7900s ("sip-calls" §18).
func (w *Wishes) show(line, device string, s screen) {
	b := w.Manager.Binding(line, device)
	if b == nil {
		return
	}
	places := map[string]int{"Exit": 1, "Cancel": 2, "Dial": 3}
	if strings.HasPrefix(b.Model, "79") {
		places = map[string]int{"Dial": 1, "Cancel": 2, "Exit": 3}
	}
	t := cisco.TextScreen{Title: "CallBack", Text: s.text, Prompt: "Please select"}
	for _, name := range s.keys {
		url := "SoftKey:Exit"
		if name != "Exit" {
			url = "UserCallData:2:0:0:0:" + name
		}
		t.Keys = append(t.Keys, cisco.ScreenKey{Name: name, Position: places[name], URL: url})
	}
	w.Manager.PushScreen(b, Application, 0, t.Marshal())
}
