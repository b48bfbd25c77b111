// Package feature puts the features of phones into the call manager: each family has a package of its own below, and is made of
// the operations of package call.
package feature

import (
	"log/slog"
	"sync/atomic"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/feature/conference"
	"ringfence/sip/feature/park"
	"ringfence/sip/feature/pickup"
	"ringfence/sip/feature/transfer"
	"ringfence/sip/plan"
)

// Features is what has state of its own.
type Features struct {
	Park  *park.Lots
	Rooms *conference.Rooms

	doc atomic.Pointer[config.Document]
}

// Install fills the hooks of the options of a call manager; lamp shows numbers that are no line's as free or busy.
func Install(o *call.Options, d *config.Document, lamp func(number string, busy bool), log *slog.Logger) *Features {
	f := &Features{Park: park.New(d, lamp, log), Rooms: conference.New(conference.OptionsOf(d), log)}
	f.doc.Store(d)
	o.Refer = transfer.Handle
	o.Recall = func() time.Duration { return time.Duration(f.doc.Load().Features.TransferRecall) * time.Second }
	o.Services = pickup.Services()
	o.Numbers = map[plan.ObjectKind]func(*call.Call, plan.Object){plan.ParkSlot: f.Park.Retrieve}
	o.Keys = map[string]func(*call.Call, *call.Leg, *call.Key){"Park": f.Park.Key, "ParkMonitor": f.Park.Key}
	for _, key := range []string{"Conference", "ConfList", "ConfDetails", "RmLastConf"} {
		o.Keys[key] = f.Rooms.Key
	}
	o.Choices, o.MayPress = f.Rooms.Choices, f.Rooms.MayPress
	o.ReferServices = map[string]func(*call.Call, *call.Leg, *call.Referral, string){"dpark": f.Park.Directed}
	return f
}

// Reload takes a new document.
func (f *Features) Reload(d *config.Document) {
	f.doc.Store(d)
	f.Park.Reload(d)
	f.Rooms.Reload(conference.OptionsOf(d))
}
