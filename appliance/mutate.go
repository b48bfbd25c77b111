//go:build mutation

package appliance

import (
	"os"

	"ringfence/sip/call"
	"ringfence/sip/plan"
)

// mutate breaks one feature, the one that the environment names in RINGFENCE_MUTATE: whatever asks for it is answered with 603. It is built
// for `make test-mutation` alone, which shows that the tests of the feature notice, and no others.
func mutate(o *call.Options) {
	keys := func(names ...string) {
		for _, n := range names {
			delete(o.Keys, n) // a key without handler is answered 603
			delete(o.LegKeys, n)
			delete(o.IdleKeys, n)
		}
	}
	number := func(kinds ...plan.ObjectKind) {
		for _, k := range kinds {
			o.Numbers[k] = func(c *call.Call, _ plan.Object) { c.Refuse(603) }
		}
	}
	services := func(names ...string) {
		for _, n := range names {
			o.Services[n] = func(c *call.Call, _ string) { c.Refuse(603) }
		}
	}
	switch os.Getenv("RINGFENCE_MUTATE") {
	case "transfer":
		o.Refer = func(c *call.Call, l *call.Leg, r *call.Referral) {
			if d := c.Route(l, r.Target); r.Replaces == nil && d.Kind == plan.Service {
				if f := o.ReferServices[d.Service.Name]; f != nil { // not a transfer, but what its key calls
					r.Accept()
					f(c, l, r, d.Service.Arg)
					return
				}
			}
			r.Refuse(603)
		}
	case "park":
		keys("Park", "ParkMonitor")
		number(plan.ParkSlot)
		delete(o.ReferServices, "dpark")
	case "conference":
		keys("Conference", "ConfList", "ConfDetails", "RmLastConf")
	case "join":
		keys("Join", "Select", "Unselect")
	case "divert":
		keys("IDivert")
	case "malicious":
		keys("MCID")
	case "quality":
		keys("QRT")
	case "callback":
		keys("CallBack")
	case "pickup":
		services("pickup", "gpickup", "opickup", "blfpickup")
	case "notice":
		o.Alerting = nil
	case "autoanswer":
		o.Rang = nil
	case "page":
		number(plan.Page)
	case "mailbox":
		number(plan.Mailbox, plan.Built)
	case "meetme":
		services("meetme")
		number(plan.Room)
	case "shared":
		o.Join = nil
	}
}
