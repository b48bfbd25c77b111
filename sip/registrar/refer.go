package registrar

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/transaction"
)

// tokens hands out the right to come back, at a limited rate (sip-registration.md §7.3).
type tokens struct {
	mu    sync.Mutex
	level float64
	at    time.Time
}

const tokensPerSecond = 10

func newTokens() tokens { return tokens{level: tokensPerSecond, at: time.Now()} }

func (t *tokens) take(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.level = min(tokensPerSecond, t.level+now.Sub(t.at).Seconds()*tokensPerSecond)
	t.at = now
	if t.level < 1 {
		return false
	}
	t.level--
	return true
}

// Refer answers those REFERs of phones that need no registration: alarms, the answer to a request of ours, access point
// reports, and the request to come back. It returns false for any other.
func (r *Registrar) Refer(tx *transaction.Server) bool {
	req := tx.Request()
	target := strings.Trim(transaction.Header(req, "Refer-To", "r"), " \t")
	if strings.EqualFold(strings.Trim(target, "<>"), cisco.TokenRegistration) {
		r.token(tx)
		return true
	}
	ct := transaction.Header(req, "Content-Type", "c")
	kind, _, _ := strings.Cut(ct, ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case cisco.TypeAlarm:
		r.alarm(tx)
		return true
	case cisco.TypeResponse:
		tx.Answer(202)
		return true
	case cisco.TypeRequest:
		var m cisco.Request
		if m.Unmarshal(req.Body()) == nil && m.Location {
			tx.Answer(202) // anything else makes the phone repeat it (sip-overview.md §6.4)
			return true
		}
	}
	return false
}

// token says whether a phone may move to this appliance.
func (r *Registrar) token(tx *transaction.Server) {
	ready := r.opt.Ready == nil || r.opt.Ready()
	if ready && r.tokens.take(time.Now()) {
		tx.Answer(202)
		return
	}
	wait := 2 + rand.IntN(9) // apart, so that they do not all ask again at once
	if !ready {
		wait += 4
	}
	tx.Answer(503, sip.NewHeader("Retry-After", strconv.Itoa(wait)))
}

// alarm stores what a phone reports about itself. It may come before registration, so it is believed only as a remark on a
// device that is declared.
func (r *Registrar) alarm(tx *transaction.Server) {
	tx.Answer(202)
	var a cisco.Alarm
	if a.Unmarshal(tx.Request().Body()) != nil {
		return
	}
	device := a.Get("DeviceName")
	if _, ok := r.opt.Accounts.Device(device); !ok {
		return
	}
	text := "alarm " + bounded(a.Name)
	for _, name := range []string{"ReasonForOutOfService", "LastProtocolEventSent", "CTL_Signature", "ITL_Signature", "StatusCode"} {
		if v := a.Get(name); v != "" {
			text += ", " + name + " " + bounded(v)
		}
	}
	if id, ok := r.ByFlow(tx.Flow()); !ok || id.Device != device {
		text += " (before registration, from " + tx.Flow().Remote().Addr().String() + ")"
	}
	r.note(device, text, false)
}
