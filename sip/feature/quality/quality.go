// Package quality is the key QRT, the quality reporting tool ("sip-calls" §17). Pressed in a call it marks the phone's leg: at
// its end the figures that the phone reports are stored, and the phone opens the questionnaire that the document names. Pressed
// without a call it opens the questionnaire at once.
package quality

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/feature/internal/bounded"
)

// Store is where reports are kept.
type Store interface {
	Write(ctx context.Context, set map[string][]byte, del ...string) error
	Scan(prefix string, fn func(key string, value []byte) bool)
}

// Report is what is known about a call that a user complained of.
type Report struct {
	Time   time.Time `json:"time"`
	Line   string    `json:"line"`
	Device string    `json:"device"`
	Shown  string    `json:"shown"` // other party, as the phone has shown it
	Codec  string    `json:"codec,omitempty"`
	// What the phone says (RTP-RxStat, RTP-TxStat) and what we have measured.
	Phone    bool   `json:"phone"` // false: the phone sent no figures
	Rx       string `json:"rx,omitempty"`
	Tx       string `json:"tx,omitempty"`
	Received uint64 `json:"received"` // packets from the phone
	Lost     int64  `json:"lost"`
}

// Prefix of the reports' keys.
const Prefix = "quality/"

// Tool holds the marks.
type Tool struct {
	store Store
	url   func() string
	log   *slog.Logger

	mu     sync.Mutex
	marked map[*call.Leg]bool
}

// New returns the tool; url is the questionnaire, "" for none.
func New(s Store, url func() string, log *slog.Logger) *Tool {
	return &Tool{store: s, url: url, log: log.With("component", "quality"), marked: map[*call.Leg]bool{}}
}

// Key marks a leg.
func (t *Tool) Key(l *call.Leg, k *call.Key) {
	t.mu.Lock()
	t.marked[l] = true
	t.mu.Unlock()
	k.Done(200)
	l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{
		Dialog: k.Dialog(), Text: "Quality Reporting Tool is active", Seconds: 5, Priority: 1,
	}})
}

// Idle is the key without a call.
func (t *Tool) Idle(k *call.Key) bool {
	if !k.Event.Dialog.Zero() {
		return false
	}
	k.Accept()
	k.Done(200)
	t.ask(k.Manager(), k.Identity.Line, k.Identity.Device)
	return true
}

// ask opens the questionnaire.
func (t *Tool) ask(m *call.Manager, line, device string) {
	u := t.url()
	if u == "" {
		return
	}
	mark := "?"
	if strings.Contains(u, "?") {
		mark = "&"
	}
	m.PushScreen(m.Binding(line, device), 0, 0, cisco.Execute(u+mark+"name="+url.QueryEscape(device)))
}

const storeWithin = 5 * time.Second

// Down is told about legs that are over.
func (t *Tool) Down(l *call.Leg, i call.LegInfo) {
	t.mu.Lock()
	marked := t.marked[l]
	delete(t.marked, l)
	t.mu.Unlock()
	if !marked {
		return
	}
	r := Report{
		Time: time.Now().UTC(), Line: i.Line, Device: i.Device, Shown: i.Shows, Codec: i.Codec, Phone: i.HasStats,
		Received: i.Media.Rx.Packets, Lost: int64(i.Media.Rx.Lost),
	}
	if i.HasStats {
		r.Rx, r.Tx = i.RxStat.Marshal(true), i.TxStat.Marshal(false)
	}
	t.log.Info("quality report", "phone", r.Device, "line", r.Line, "rx", r.Rx, "tx", r.Tx)
	t.ask(l.Manager(), i.Line, i.Device)
	b, err := json.Marshal(r)
	if err != nil || t.store == nil {
		return
	}
	key := Prefix + r.Time.Format("20060102T150405.000000000") + "-" + l.ID
	l.Manager().Go("quality report", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		if err := t.store.Write(ctx, map[string][]byte{key: b}, bounded.Surplus(t.store, Prefix, bounded.Max)...); err != nil {
			t.log.Error("quality report", "phone", r.Device, "err", err)
		}
	})
}

// List reads the reports, the oldest first.
func (t *Tool) List() []Report {
	var out []Report
	t.store.Scan(Prefix, func(_ string, v []byte) bool {
		var r Report
		if json.Unmarshal(v, &r) == nil {
			out = append(out, r)
		}
		return true
	})
	return out
}
