package appliance

import (
	"context"
	"math"
	"path/filepath"
	"time"

	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/feature"
	"ringfence/sip/feature/record"
	"ringfence/sip/plan"
	"ringfence/sip/state"
)

// setupCalls puts the back-to-back user agent behind the SIP server.
func (a *appliance) setupCalls() error {
	a.plan.Store(plan.Compile(a.doc()))
	policy := call.PreferSRTP
	switch a.doc().SIP.SRTP {
	case config.SRTPRequire:
		policy = call.RequireSRTP
	case config.SRTPNever:
		policy = call.NeverSRTP
	}
	o := call.Options{
		Log: a.log, Transactions: a.sip.Transactions(), Bindings: a.sip.Registrar(), State: a.sip.State(), Media: a.media,
		Plan: a.plan.Load, Address: a.doc().Node.Address, SRTP: policy,
		SessionExpires: a.doc().SIP.SessionExpires.D(), Note: a.recorder.Note, DirectPath: a.directPath,
	}
	if err := a.setupRecords(); err != nil {
		return err
	}
	o.Began, o.Ended = a.records.Began, a.records.Ended
	st := a.sip.State()
	var err error
	a.tapes, err = record.New(context.Background(), record.Options{
		Dir: filepath.Join(a.StateDir, "recordings"), Store: a.store, Policy: func() config.Recording { return a.doc().Features.Recording }, Refer: a.records.Refer, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.features = feature.Install(&o, feature.Options{Doc: a.doc(), Store: a.store, Lamp: st.SetSlot, Free: a.free, MayWatch: a.mayWatch, Privacy: st, Recordings: a.tapes, Refer: a.records.Refer, Log: a.log})
	o.Appear = st.SetAppearance
	o.Field = st.Field
	o.SetField = func(ctx context.Context, line, name, value string) error {
		return st.SetField(ctx, line, name, value, state.ByPlan)
	}
	a.sounds = newSounds(filepath.Join(a.StateDir, "sounds"), a.media, a.log)
	o.Music = a.sounds.music
	if err := a.setupMailboxes(&o); err != nil {
		return err
	}
	mutate(&o)
	if a.calls, err = call.New(o); err != nil {
		return err
	}
	a.features.Attach(a.calls)
	a.calls.Go("recordings", a.tapes.Run)
	a.after("features", func() error { a.features.Stop(); return nil })
	st.Watch(a.lineChanged)
	a.after("calls", func() error { a.calls.Stop(); return nil })
	a.sip.SetCalls(a.calls)
	a.sip.State().DeclareSwitches(a.doc().Switches()...)
	return nil
}

// free tells whether a line could be called now, as far as its phone has told.
func (a *appliance) free(line string) bool {
	l := a.sip.State().Line(line)
	return l.Registered && l.Calls == 0 && !l.OffHook && !l.DND
}

// lineChanged passes the state's feed on to the features.
func (a *appliance) lineChanged(c state.Change) {
	switch c.Kind {
	case state.LineChanged:
		a.features.Changed(c.Line)
	case state.DNDChanged:
		for _, n := range a.plan.Load().NumbersOf(c.Device) {
			a.features.Changed(n)
		}
	}
}

func (a *appliance) callInfos() []admin.CallInfo {
	var out []admin.CallInfo
	for _, c := range a.calls.Snapshot() {
		info := admin.CallInfo{ID: c.ID, To: c.Dialled, State: c.State, Started: c.Started, Answered: c.Answered}
		for _, l := range c.Legs {
			if l.Incoming && info.From == "" {
				info.From, info.FromName = l.Line, l.Name
			}
			if !l.Incoming && l.Line == c.Dialled {
				info.ToName = l.Name
			}
			info.Legs = append(info.Legs, legInfo(l))
		}
		out = append(out, info)
	}
	return out
}

func legInfo(l call.LegInfo) admin.LegInfo {
	info := admin.LegInfo{Line: l.Line, Device: l.Device, Direction: "out", State: l.State, Codec: l.Codec, Encrypted: l.Secure, Direct: l.Direct, Packets: packets(l.Media)}
	if l.Secure {
		info.Suite = l.Media.Suite.String()
	}
	if l.Incoming {
		info.Direction = "in"
	}
	if l.Held {
		info.State = "held"
	}
	return info
}

func packets(s media.Stats) admin.Flow {
	return admin.Flow{
		In: s.Rx.Packets, Out: s.Tx.Packets, Lost: uint64(max(s.Rx.Lost, 0)), Late: s.Rx.Late,
		From: quality(s.Quality.From, s.Quality.WorstFrom), To: quality(s.Quality.To, s.Quality.WorstTo),
	}
}

func quality(q media.Quality, worst float64) *admin.Quality {
	if q.MOS == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 { return math.Round(float64(d)/1e5) / 10 }
	return &admin.Quality{MOS: q.MOS, Worst: worst, Loss: math.Round(1e4*q.Loss) / 100, Jitter: ms(q.Jitter), Delay: ms(q.Delay)}
}
