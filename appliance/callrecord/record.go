// Package callrecord keeps what became of each call: one record per call, with its legs, their causes and the quality at both
// ends ("sip-calls" §31), for as long as the document says.
//
// A record is durable: it is written to the store, together with others that end in the same moment. A call whose parties talk
// has an open record from then on, so that a call that is cut by a power failure is known, too: the next start closes it.
//
//	talks -----> record, open
//	ends  -----> record              crash: the next start closes what is open, with the end "appliance stopped"
//	keep_days -> gone
//
// Calls that share a party, by transfer, conference or park, name each other under Related, and have Common in common: the
// oldest call that one of their parties was in.
//
// It leaves out: what trunks know, and accounts.
package callrecord

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// Record is a call that is over, or, when Open, one whose parties talk.
type Record struct {
	ID       string    `json:"id"`   // unique over restarts: the start in milliseconds, base 36, and the call's short name
	Call     string    `json:"call"` // short name, as in logs: C17
	Node     string    `json:"appliance"`
	Kind     string    `json:"kind"` // call, conference, parked ...
	Common   string    `json:"common"`
	Related  []string  `json:"related,omitempty"`
	From     string    `json:"from"`
	FromName string    `json:"from_name,omitempty"`
	Dialled  string    `json:"dialled"`
	To       string    `json:"to,omitempty"` // line that answered
	ToName   string    `json:"to_name,omitempty"`
	Started  time.Time `json:"started"`
	Answered time.Time `json:"answered,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	Talked   float64   `json:"talked_seconds"`
	Result   string    `json:"result"`             // answered, busy, no answer, cancelled, failed, open
	Cause    string    `json:"cause,omitempty"`    // what the caller was told, or why it ended
	EndedBy  string    `json:"ended_by,omitempty"` // line that hung up
	Ways     []Way     `json:"diversions,omitempty"`
	Legs     []Leg     `json:"legs"`
	Notes    []string  `json:"notes,omitempty"` // references that features have left: a recording, a malicious call
	Open     bool      `json:"open,omitempty"`
}

// Way is one redirection.
type Way struct {
	Line   string `json:"line"`
	Reason string `json:"reason"`
}

// Leg is one phone's part.
type Leg struct {
	ID        string    `json:"id"`
	Line      string    `json:"line"`
	Name      string    `json:"name,omitempty"`
	Device    string    `json:"device,omitempty"`
	Direction string    `json:"direction"` // in: the phone placed the call
	CallID    string    `json:"sip_call_id,omitempty"`
	Started   time.Time `json:"started"`
	Answered  time.Time `json:"answered,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	Cause     string    `json:"cause,omitempty"`
	Codec     string    `json:"codec,omitempty"`
	Encrypted bool      `json:"encrypted"`
	Direct    bool      `json:"direct,omitempty"`         // audio went to the other phone without us, at least for a while
	Heard     *Quality  `json:"phone_received,omitempty"` // by the phone's own word
	Said      *Quality  `json:"phone_sent,omitempty"`
	Here      Counts    `json:"appliance"` // as the appliance saw the audio
}

// Quality is what a phone reports about one direction of its audio.
type Quality struct {
	Seconds int               `json:"seconds"`
	Packets int               `json:"packets"`
	Octets  int               `json:"octets"`
	Late    int               `json:"late"`
	Lost    int               `json:"lost"`
	Jitter  int               `json:"jitter"` // in the phone's own unit
	More    map[string]string `json:"more,omitempty"`
}

// Counts is what the appliance has counted.
type Counts struct {
	In       uint64  `json:"packets_in"`
	Out      uint64  `json:"packets_out"`
	Lost     int64   `json:"lost"`
	JitterMS float64 `json:"jitter_ms"`
	RTTms    float64 `json:"round_trip_ms,omitempty"`
}

// idOf makes the name of a call's record.
func idOf(i call.Info, node string) string {
	return strconv.FormatInt(i.Started.UnixMilli(), 36) + "." + i.ID + "@" + node
}

// marshal writes the record, without what a phone has said in many words if it is too large, and at the end with its first legs
// alone.
func (r *Record) marshal() []byte {
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxBytes {
		small := *r
		small.Legs = slices.Clone(r.Legs)
		for i := range small.Legs {
			small.Legs[i].Heard, small.Legs[i].Said = small.Legs[i].Heard.short(), small.Legs[i].Said.short()
		}
		for b, err = json.Marshal(small); err == nil && len(b) > maxBytes && len(small.Legs) > 2; b, err = json.Marshal(small) {
			small.Legs = small.Legs[:len(small.Legs)/2]
		}
	}
	if err != nil {
		panic(err) // no field can fail
	}
	return b
}

func (q *Quality) short() *Quality {
	if q == nil {
		return nil
	}
	c := *q
	c.More = nil
	return &c
}

// of makes the record of a call. ids tells the record of another call by its short name.
func of(i call.Info, node string, ids func(short string) string) Record {
	r := Record{
		ID: idOf(i, node), Call: i.ID, Node: node, Kind: "call", From: i.From, Dialled: i.Dialled, Started: i.Started.UTC(), Answered: utc(i.Answered),
	}
	switch i.State {
	case "calling", "ringing", "talking", "transferring", "ending":
	default:
		r.Kind = i.State
	}
	r.Common = r.ID
	for _, w := range i.Ways {
		r.Ways = append(r.Ways, Way{w.Line, w.Reason})
	}
	seen := map[string]bool{i.ID: true}
	for _, l := range i.Legs {
		r.Legs = append(r.Legs, legOf(l))
		if l.Ended.After(r.Ended) {
			r.Ended = l.Ended.UTC()
		}
		switch {
		case l.Incoming && (r.From == "" || r.From == l.Line):
			r.From, r.FromName = l.Line, l.Name
		case !l.Incoming && !l.Answered.IsZero():
			r.To, r.ToName = l.Line, l.Name
		}
		for _, t := range l.Through {
			if !seen[t] {
				seen[t] = true
				id := ids(t)
				r.Related = append(r.Related, id)
				if older(id, r.Common) {
					r.Common = id
				}
			}
		}
	}
	r.judge()
	return r
}

// older compares the starts in two names.
func older(a, b string) bool {
	start := func(id string) int64 {
		text, _, _ := strings.Cut(id, ".")
		n, err := strconv.ParseInt(text, 36, 64)
		if err != nil {
			return 1 << 62
		}
		return n
	}
	return start(a) < start(b)
}

// judge works out how the call went.
func (r *Record) judge() {
	var caller Leg
	for _, l := range r.Legs {
		if l.Direction == "in" && l.Line == r.From && caller.ID == "" {
			caller = l
		}
		if l.Cause == "hung up" && r.EndedBy == "" {
			r.EndedBy = l.Line
		}
	}
	r.Cause = caller.Cause
	switch {
	case !r.Answered.IsZero():
		r.Result = "answered"
		if !r.Ended.IsZero() {
			r.Talked = r.Ended.Sub(r.Answered).Seconds()
		}
		if r.Cause == "" && r.EndedBy != "" {
			r.Cause = "hung up"
		}
	case !caller.Answered.IsZero(): // a feature that answered itself
		r.Result, r.Talked = "answered", r.Ended.Sub(caller.Answered).Seconds()
	case caller.Cause == "cancelled":
		r.Result = "cancelled"
	case caller.Cause == "486", caller.Cause == "600", caller.Cause == "603":
		r.Result = "busy"
	case caller.Cause == "480":
		r.Result = "no answer"
	default:
		r.Result = "failed"
	}
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

func legOf(l call.LegInfo) Leg {
	x := Leg{
		ID: l.ID, Line: l.Line, Name: l.Name, Device: l.Device, Direction: "out", CallID: l.CallID, Started: l.Created.UTC(),
		Answered: utc(l.Answered), Ended: utc(l.Ended), Cause: l.End, Codec: l.Codec, Encrypted: l.Secure, Direct: l.Direct,
		Here: Counts{
			In: l.Media.Rx.Packets, Out: l.Media.Tx.Packets, Lost: l.Media.Rx.Lost, JitterMS: ms(l.Media.Rx.Jitter), RTTms: ms(l.Media.Remote.RTT),
		},
	}
	if l.Incoming {
		x.Direction = "in"
	}
	if l.HasStats {
		x.Heard, x.Said = quality(l.RxStat), quality(l.TxStat)
	}
	return x
}

func ms(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

func quality(s cisco.Stats) *Quality {
	if s.Packets == 0 && s.Seconds == 0 && len(s.Params) == 0 {
		return nil
	}
	q := &Quality{Seconds: s.Seconds, Packets: s.Packets, Octets: s.Octets, Late: s.Late, Lost: s.Lost, Jitter: s.Jitter}
	for _, p := range s.Params {
		if q.More == nil {
			q.More = map[string]string{}
		}
		if len(q.More) < maxParams {
			q.More[p.Name] = p.Value
		}
	}
	return q
}

// maxParams bounds what a phone can make a record hold.
const maxParams = 40
