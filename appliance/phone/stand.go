package phone

import "time"

// Where a device stands as a whole.
const (
	StateUnseen     = "unseen"     // never asked for anything
	StateWaiting    = "waiting"    // asks, but is not declared
	StateBooting    = "booting"    // on its way, nothing wrong so far
	StateStuck      = "stuck"      // see Advice
	StateRegistered = "registered" // ready; an Advice is a warning
	StateAway       = "away"       // was registered and said goodbye
)

// What a step of a boot has come to.
const (
	StepDone    = "done"
	StepFailed  = "failed"
	StepMissing = "missing"
	StepSkipped = "not needed"
)

// StepStand is one step of a device's boot.
type StepStand struct {
	Step  Step      `json:"step"`
	State string    `json:"state"`
	At    time.Time `json:"at,omitzero"`
	Text  string    `json:"text,omitempty"` // what was noted last
}

// Advice says what is wrong and what to do.
type Advice struct {
	Rule string `json:"rule"`
	Page string `json:"page"` // of the protocol documents
	Step Step   `json:"step"`
	What string `json:"what"`
	Do   string `json:"do"`
	Seen *Entry `json:"seen,omitempty"` // the entry that shows it
}

// Stand is where a device is in its boot.
type Stand struct {
	Device  string      `json:"device"`
	State   string      `json:"state"`
	Since   time.Time   `json:"since,omitzero"` // last registration when registered, else the last sign of life
	Missing Step        `json:"missing,omitempty"`
	Steps   []StepStand `json:"steps"`
	Advice  *Advice     `json:"advice,omitempty"`
}

// bootOrder are the steps that end in a registration.
var bootOrder = []Step{File, Trust, CAPF, VPN, Register}

// Stand tells where a device is in its boot and, when it is stuck, what to do.
func (r *Recorder) Stand(device string) Stand {
	recent, ever := r.recent(device)
	return judge(device, r.o.Facts(device), recent, ever, time.Now())
}

// judge is Stand without clock and store.
func judge(device string, known Facts, record []Entry, ever bool, now time.Time) Stand {
	f := gather(device, known, record, ever, now)
	s := Stand{Device: device, State: StateBooting, Since: f.newest}
	for _, step := range bootOrder {
		st := f.step(step)
		if s.Missing == "" && (st.State == StepMissing || st.State == StepFailed) {
			s.Missing = step
		}
		s.Steps = append(s.Steps, st)
	}
	if len(record) == 0 && !known.Registered {
		s.State = StateUnseen
		if known.Declared {
			a := unseen
			s.Advice = &a
		}
		return s
	}
	if known.Registered {
		s.State, s.Missing = StateRegistered, ""
		if f.registered != nil {
			s.Since = f.registered.Last
		}
	}
	for _, rule := range rules {
		if known.Registered && !rule.warn {
			continue
		}
		seen := rule.match(f)
		if seen == nil {
			continue
		}
		e := *seen
		s.Advice = &Advice{Rule: rule.name, Page: rule.page, Step: rule.step, What: rule.what, Do: rule.do, Seen: &e}
		switch {
		case known.Registered || rule.warn:
		case !known.Declared:
			s.State = StateWaiting
		case rule.state != "":
			s.State, s.Missing = rule.state, ""
		default:
			s.State = StateStuck
			s.Missing = rule.step
		}
		break
	}
	return s
}

// step tells what one step has come to. A registered phone has done what it needed, even if the record no longer shows it.
func (f *facts) step(step Step) StepStand {
	st := StepStand{Step: step, State: StepMissing}
	e := f.any(step)
	switch step {
	case File:
		if d := later(f.deviceFile, f.refused); d != nil {
			e = d
		}
	case Trust:
		if f.trust != nil {
			e = f.trust
		}
	}
	if e != nil {
		st.At, st.Text, st.State = e.Last, e.Text, StepDone
		if e.Failed {
			st.State = StepFailed
		}
	}
	switch {
	case f.Registered:
		if st.State != StepDone {
			st.State = StepDone
			if step == CAPF && !f.Secure || step == VPN && f.any(VPN) == nil {
				st.State = StepSkipped
			}
		}
	case step == Register && e != nil && !isRegistered(e) && (!e.Failed || isGone(e)),
		step == File && f.deviceFile == nil && f.refused == nil:
		st.State = StepMissing
	case step == CAPF && st.State == StepMissing && (!f.Secure || f.Certificate),
		// The trust list of an earlier boot holds as well.
		step == Trust && st.State == StepMissing && (f.accepted != nil || f.any(CAPF, Register) != nil),
		// A phone inside the network opens no VPN even when it has one.
		step == VPN && st.State == StepMissing:
		st.State = StepSkipped
	}
	return st
}
