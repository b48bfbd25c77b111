// Package feature puts the features of phones into the call manager: each family has a package of its own below, and is made of
// the operations of package call.
package feature

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/feature/autoanswer"
	"ringfence/sip/feature/callback"
	"ringfence/sip/feature/conference"
	"ringfence/sip/feature/divert"
	"ringfence/sip/feature/malicious"
	"ringfence/sip/feature/page"
	"ringfence/sip/feature/park"
	"ringfence/sip/feature/pickup"
	"ringfence/sip/feature/privacy"
	"ringfence/sip/feature/quality"
	"ringfence/sip/feature/record"
	"ringfence/sip/feature/transfer"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
)

// Store is durable state.
type Store interface {
	Write(ctx context.Context, set map[string][]byte, del ...string) error
	Scan(prefix string, fn func(key string, value []byte) bool)
}

// Options are what features need besides calls.
type Options struct {
	Doc   *config.Document
	Store Store                          // what outlives the process; nil keeps nothing
	Lamp  func(number string, busy bool) // shows numbers that are no line's as free or busy
	Free  func(line string) bool         // tells whether a line could be called now
	// MayWatch tells whether a line may know the state of a number; nil is yes.
	MayWatch func(line, number string) bool
	// Recordings keeps calls that are recorded; nil records none.
	Recordings *record.Recordings
	// Refer notes in the record of a call that something belongs to it. May be nil.
	Refer   func(call, text string)
	Privacy privacy.Settings // who hides calls on shared lines; nil: the key is not served
	Log     *slog.Logger
}

// Features is what has state of its own.
type Features struct {
	Park      *park.Lots
	Rooms     *conference.Rooms
	Callback  *callback.Wishes
	Malicious *malicious.Traces
	Quality   *quality.Tool
	Pages     *page.Pages

	notices *pickup.Notices
	doc     atomic.Pointer[config.Document]
}

// Install fills the hooks of the options of a call manager. Attach must follow.
func Install(o *call.Options, fo Options) *Features {
	if fo.Log == nil {
		fo.Log = slog.New(slog.DiscardHandler)
	}
	log := fo.Log
	f := &Features{
		Park: park.New(fo.Doc, fo.Lamp, log), Rooms: conference.New(conference.OptionsOf(fo.Doc), log), notices: pickup.NewNotices(),
		Malicious: malicious.New(fo.Store, fo.Refer, log), Pages: page.New(fo.Doc, log),
	}
	f.doc.Store(fo.Doc)
	f.Quality = quality.New(fo.Store, func() string { return f.doc.Load().Features.QualityURL }, log)
	f.Callback = callback.New(callback.Options{
		Store: fo.Store, Free: fo.Free, MayWatch: fo.MayWatch, Log: log,
		Keep: func() time.Duration { return time.Duration(max(1, f.doc.Load().Features.CallbackHours)) * time.Hour },
	})
	o.Refer = transfer.Handle
	o.Recall = func() time.Duration { return time.Duration(f.doc.Load().Features.TransferRecall) * time.Second }
	o.Services = pickup.Services()
	o.Services["meetme"] = f.Rooms.MeetMe
	o.Numbers = map[plan.ObjectKind]func(*call.Call, plan.Object){plan.ParkSlot: f.Park.Retrieve, plan.Page: f.Pages.Dialled, plan.Room: f.Rooms.Dialled}
	o.Keys = map[string]func(*call.Call, *call.Leg, *call.Key){
		"Park": f.Park.Key, "ParkMonitor": f.Park.Key, "Join": f.Rooms.Join, "IDivert": divert.Key, "MCID": f.Malicious.Key,
		"CallBack": f.Callback.Key,
	}
	for _, key := range []string{"Conference", "ConfList", "ConfDetails", "RmLastConf"} {
		o.Keys[key] = f.Rooms.Key
	}
	o.LegKeys = map[string]func(*call.Leg, *call.Key){"Select": f.Rooms.Select, "Unselect": f.Rooms.Select, "QRT": f.Quality.Key}
	o.IdleKeys = map[string]func(*call.Key) bool{"QRT": f.Quality.Idle, "CallBack": f.Callback.Idle, "Cancel": f.Rooms.Cancel}
	o.Choices = func(id registrar.Identity, d cisco.DataPassthrough, choice string) bool {
		if d.Application == callback.Application {
			return f.Callback.Choices(id, choice)
		}
		return f.Rooms.Choices(id, d, choice)
	}
	if fo.Privacy != nil {
		key := &privacy.Switch{Settings: fo.Privacy, Log: log}
		o.LegKeys["Privacy"], o.IdleKeys["Privacy"] = key.Key, key.Idle
		o.Services["privacy"] = key.Code
		f.Rooms.Private = fo.Privacy.Privacy
	}
	o.Join = f.Rooms.Enter
	o.MayPress = f.Rooms.MayPress
	o.Rang, o.Alerting, o.Busy = autoanswer.Rang, f.notices.Alerting, f.Callback.Refused
	o.Down = func(l *call.Leg, i call.LegInfo) {
		f.Quality.Down(l, i)
		f.Malicious.Down(l)
		f.Rooms.Down(l)
	}
	if r := fo.Recordings; r != nil {
		o.LegKeys["StartRecording"], o.LegKeys["StopRecording"], o.Up = r.Key, r.Key, r.Up
		rooms, down := o.MayPress, o.Down
		o.MayPress = func(l *call.Leg, event string) bool { return r.MayPress(l, event) && rooms(l, event) }
		o.Down = func(l *call.Leg, i call.LegInfo) {
			r.Down(l)
			down(l, i)
		}
	}
	o.ReferServices = map[string]func(*call.Call, *call.Leg, *call.Referral, string){"dpark": f.Park.Directed, "park": f.Park.Directed}
	return f
}

// Attach gives the features the manager that was made with them.
func (f *Features) Attach(m *call.Manager) { f.notices.Manager, f.Callback.Manager = m, m }

// Changed tells that the state of a line may have changed.
func (f *Features) Changed(line string) { f.Callback.Changed(line) }

// Stop ends what runs beside the calls.
func (f *Features) Stop() { f.Callback.Stop() }

// Reload takes a new document.
func (f *Features) Reload(d *config.Document) {
	f.doc.Store(d)
	f.Park.Reload(d)
	f.Rooms.Reload(conference.OptionsOf(d))
	f.Pages.Reload(d)
}
