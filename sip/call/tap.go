package call

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/cisco"
	"ringfence/sip/sdp"
)

// Tap is two calls to a phone whose built-in bridge copies a conversation of its own into them ("sip-calls" §15): what its user
// says into the near one, what the user hears into the far one. The conversation itself is not touched, so that phones may go on
// talking directly.
//
//	asked --200--> inverted --200 with the phone's offer, ACK with our answer--> copying
//	  |               |
//	  '--refused, 5 s without an answer, either call ends, Stop--> over: both are hung up
//
// The far call is asked for as soon as the near one is answered. Each begins inactive, with the label that says which copy it is
// to be, and a re-INVITE without a description then lets the phone offer its stream. A Tap has an owner of its own; Stop and
// Pause may be called from anywhere.
type Tap struct {
	*owner
	m         *Manager
	o         TapOptions
	spec      inviteSpec
	near, far *Leg
	line      string
	rec       *media.Recorder
	paused    bool
	copying   int
	over      bool
	started   time.Time
}

// TapOptions say what becomes of the copies.
type TapOptions struct {
	Auto bool   // the server began it, not the user by key
	Dir  string // of the file
	// Began is called, in the tap's goroutine, when both copies come.
	Began func()
	// Over is called once, in the tap's goroutine: why is empty for an orderly end, recorded tells whether Done follows or came.
	Over func(why string, recorded bool)
	// Done gets the file, in a goroutine of the recorder's.
	Done func(media.Recording, error)
}

// tapSpec is what an INVITE for a copy asks for.
type tapSpec struct {
	label   string
	join    string // the conversation, as Join names it
	invoker string
	secure  bool // the conversation is encrypted, so its copy must be, too
}

// tapStep bounds each step of a Tap ("sip-calls" §15).
const tapStep = 5 * time.Second

// Faults of Tap.
var (
	ErrNoBridge = errors.New("the phone has no built-in bridge")
	errCodec    = errors.New("the codec of the call cannot be recorded")
)

// Tap asks the leg's phone for copies of its conversation and records them. It is called in the goroutine of the leg's owner.
func (l *Leg) Tap(o TapOptions) (*Tap, error) {
	a, ok := l.neg.Agreed()
	b := l.m.bindingOf(l.Line.Number, l.Device)
	switch {
	case !ok || l.state != up:
		return nil, errGone
	case !l.Cisco || b == nil:
		return nil, ErrNoBridge
	case !slices.Contains(RoomCodecs, a.Codec):
		return nil, errCodec
	}
	id := l.DialogID()
	ts := &tapSpec{join: id.CallID + ";from-tag=" + id.LocalTag + ";to-tag=" + id.RemoteTag, invoker: "user", secure: a.Secure}
	if o.Auto {
		ts.invoker = "auto"
	}
	t := &Tap{m: l.m, o: o, line: l.Line.Number, started: time.Now(), spec: inviteSpec{binding: b, codecs: []sdp.Codec{a.Codec}, ptime: a.PTime, tap: ts}}
	if !l.m.startOwner(&t.owner, t) {
		return nil, errors.New("too many calls")
	}
	for _, leg := range []**Leg{&t.near, &t.far} {
		x := l.m.newOutgoing(b, l.Line)
		x.left = true // no lamp shows it
		x.peer, x.security = Identity{Name: "Record"}, x.level()
		*leg = x
	}
	t.adopt(t.near)
	t.near.post(func() { t.ask(t.near, "X-relay-nearend") })
	l.m.tasks.Go("recording", t.run, t.cleanup)
	return t, nil
}

// ask begins one of the two calls.
func (t *Tap) ask(l *Leg, label string) {
	if t.over {
		t.forget(l)
		return
	}
	spec, ts := t.spec, *t.spec.tap
	ts.label = label
	spec.tap = &ts
	if err := l.start(spec); err != nil {
		t.forget(l)
		t.end(err.Error())
		return
	}
	l.after(&l.ringLimit, tapStep, func() { t.end("the phone does not answer") })
}

// forget gives back a leg that never got as far as a message.
func (t *Tap) forget(l *Leg) {
	delete(t.legs, l)
	l.h = frozen{}
	l.closeMedia()
	if l.d != nil {
		l.finish()
	}
}

func (t *Tap) ringing(*Leg, int) {}

// answered: the phone has found the conversation, and is to offer its copy.
func (t *Tap) answered(l *Leg) {
	if t.over {
		l.Hangup()
		return
	}
	l.after(&l.ringLimit, tapStep, func() { t.end("the phone does not send its copy") })
	t.invert(l)
	if l == t.near {
		t.adopt(t.far)
		t.ask(t.far, "X-relay-farend")
	}
}

// comes: the phone sends a copy from now on.
func (t *Tap) comes(l *Leg) {
	l.ringLimit.stop()
	if t.rec == nil && t.near.media != nil && t.far.media != nil {
		r, err := t.m.opt.Media.Record(media.RecordOptions{Dir: t.o.Dir, Done: t.o.Done}, t.near.media, t.far.media)
		if err != nil {
			t.end(err.Error())
			return
		}
		t.rec = r
		r.Pause(t.paused)
	}
	if t.copying++; t.copying == 2 && t.o.Began != nil {
		t.o.Began()
	}
}

func (t *Tap) failed(_ *Leg, f failure) {
	why := "the phone cannot be reached"
	if f.code != 0 {
		why = "the phone refuses: " + strconv.Itoa(f.code)
	}
	t.end(why)
}

func (t *Tap) agreed(*Leg)               {}
func (t *Tap) canceled(*Leg)             {}
func (t *Tap) held(*Leg)                 {}
func (t *Tap) refer(_ *Leg, r *Referral) { r.Refuse(603) }
func (t *Tap) key(_ *Leg, k *Key)        { k.Done(500) }
func (t *Tap) down(*Leg)                 {}

// ended: the phone has ended one of the copies, which is the end of both.
func (t *Tap) ended(l *Leg) {
	if l.why != "" && l.why != "hung up" {
		t.end(l.why)
		return
	}
	t.end("")
}

func (t *Tap) stop() { t.end("") }

// end hangs up what there is.
func (t *Tap) end(why string) {
	if t.over {
		return
	}
	t.over = true
	if t.rec != nil {
		t.rec.Stop()
	}
	for l := range t.legs {
		if l.client == nil {
			t.forget(l)
			continue
		}
		l.ringLimit.stop()
		l.Hangup()
	}
	t.o.Over(why, t.rec != nil)
}

// Stop ends the copies.
func (t *Tap) Stop() { t.insist(message{run: func() { t.end("") }}) }

// Pause puts silence in their place.
func (t *Tap) Pause(on bool) {
	t.insist(message{run: func() {
		if t.paused = on; t.rec != nil {
			t.rec.Pause(on)
		}
	}})
}

// info shows the copies while they are there. They make no call record of their own: the conversation's refers to the file.
func (t *Tap) info() Info {
	i := Info{ID: t.id, State: "recording", From: t.line, Started: t.started}
	if len(t.legs) > 0 {
		i.Legs = t.list()
	}
	return i
}

// invert lets the phone of a copy make the offer: a re-INVITE without a description, whose answer goes with the ACK.
func (t *Tap) invert(l *Leg) {
	op := &operation{method: sip.INVITE, empty: true, by: t}
	op.done = func(code int) {
		if code >= 300 {
			t.failed(l, failure{code: code})
			return
		}
		if err := l.takeCopy(); err != nil {
			t.end(err.Error())
			return
		}
		t.comes(l)
	}
	l.operate(op, nil)
}

// takeCopy answers the phone's offer: what it sends is taken, nothing is sent.
func (l *Leg) takeCopy() error {
	local := l.local(l.spec.codecs, 0)
	local.Direction, local.Events = media.Receive, false
	answer, agreed, err := l.neg.Answer(l.op.offer, local)
	if err == nil {
		err = l.apply(agreed)
	}
	if err != nil {
		l.ack(nil)
		return err
	}
	l.ack(answer.Marshal())
	return nil
}

// callInfo is the Call-Info of a call for a copy.
func (s *tapSpec) callInfo() *cisco.CallInfo {
	return &cisco.CallInfo{Feature: "callinfo", Params: []cisco.Param{{Name: "isVoip"}, {Name: "record-invoker", Value: s.invoker}}}
}

// RecordHere records what the party of the leg says and hears, as it passes through this appliance. done gets the file, in a
// goroutine of the recorder's.
func (l *Leg) RecordHere(dir string, done func(media.Recording, error)) (*media.Recorder, error) {
	if l.media == nil || !l.talking() {
		return nil, errGone
	}
	if a, ok := l.neg.Agreed(); !ok || !slices.Contains(RoomCodecs, a.Codec) {
		return nil, errCodec
	}
	return l.m.opt.Media.RecordParty(media.RecordOptions{Dir: dir, Done: done}, l.media)
}

// Warn lets everybody that the leg's party talks with hear a short sound instead of it.
func (l *Leg) Warn(sound func() media.Source) {
	switch h := l.h.(type) {
	case *Call:
		if o := h.Other(l); o != nil {
			o.interrupt(sound())
		}
	case *Room:
		h.mixer.Play(sound())
	}
}

// interrupt lets the party hear a sound, and then again what it heard.
func (l *Leg) interrupt(sound media.Source) {
	if l.media == nil || l.hears != nothing {
		return // it has music, or hears it ring
	}
	p := l.m.opt.Media.NewPlayer(sound, func() {
		l.post(func() {
			if l.hears == nothing && l.media != nil {
				_ = l.media.Play(nil)
			}
		})
	})
	if err := l.media.Play(p); err != nil {
		l.log.Debug("play", "err", err)
	}
}

// Peer is what the phone shows as the other party.
func (l *Leg) Peer() Identity { return l.peer }

// CallName names the call that the leg is in, as listings and records do.
func (l *Leg) CallName() string { return l.last }
