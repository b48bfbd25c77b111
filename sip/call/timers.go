package call

import (
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/transaction"
)

// Session timers, RFC 4028: whoever was chosen refreshes the session, and the other ends it when no refresh comes.

// minSession is the shortest interval taken (RFC 4028 §5).
const minSession = 90 * time.Second

// maxSession bounds what a phone may insist on.
const maxSession = 24 * time.Hour

func itoa(n int) string { return strconv.Itoa(n) }

// sessionExpires reads the header of a message: interval and refresher ("uac", "uas" or "").
func sessionExpires(m sip.Message) (time.Duration, string) {
	text := transaction.Header(m, "Session-Expires", "x")
	value, params, _ := strings.Cut(text, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31)
	if err != nil || n == 0 {
		return 0, ""
	}
	refresher := ""
	for p := range strings.SplitSeq(params, ";") {
		if k, v, _ := strings.Cut(strings.TrimSpace(p), "="); strings.EqualFold(k, "refresher") {
			refresher = strings.ToLower(strings.TrimSpace(v))
		}
	}
	return time.Duration(n) * time.Second, refresher
}

func sessionHeader(d time.Duration, refresher string) sip.Header {
	text := strconv.Itoa(int(d / time.Second))
	if refresher != "" {
		text += ";refresher=" + refresher
	}
	return sip.NewHeader("Session-Expires", text)
}

// tooShort tells whether an INVITE asks for an interval that is refused with 422 and our minimum.
func tooShort(req *sip.Request) bool {
	d, _ := sessionExpires(req)
	return d > 0 && d < minSession
}

// minSE reads what a refusal of our interval asks for.
func minSE(res *sip.Response) time.Duration {
	text, _, _ := strings.Cut(transaction.Header(res, "Min-SE"), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// offers is the interval that we ask for.
func (l *Leg) offers() time.Duration { return max(l.m.opt.SessionExpires, l.longer) }

func minimum() sip.Header { return sip.NewHeader("Min-SE", strconv.Itoa(int(minSession/time.Second))) }

// timersOffer asks for a timer in an INVITE, of phones that know them: Cisco phones do not, and live without.
func (l *Leg) timersOffer(req *sip.Request) {
	if l.m.opt.SessionExpires >= minSession && l.spec.binding.Supports("timer") {
		req.AppendHeader(sessionHeader(l.offers(), ""))
		req.AppendHeader(minimum())
	}
}

// timersRefresh repeats what was agreed in a request of ours.
func (l *Leg) timersRefresh(req *sip.Request) {
	if l.interval == 0 {
		return
	}
	who := "uas"
	if l.weAsk {
		who = "uac"
	}
	req.AppendHeader(sessionHeader(l.interval, who))
	req.AppendHeader(minimum())
}

// timersAnswered takes a 2xx to a request of ours. In that transaction we are the uac.
func (l *Leg) timersAnswered(res *sip.Response) {
	d, refresher := sessionExpires(res)
	if d < minSession {
		if l.interval > 0 && l.weAsk {
			l.watch()
		}
		return
	}
	l.interval, l.weAsk = d, refresher != "uas"
	l.watch()
}

// timersAccept answers the wish of a request of the phone. In that transaction we are the uas. A phone that knows timers
// refreshes by itself, unless it wants us to; one that does not is refreshed by us.
func (l *Leg) timersAccept(req *sip.Request, res *sip.Response) {
	d, refresher := sessionExpires(req)
	if d < minSession || l.m.opt.SessionExpires == 0 {
		return
	}
	l.interval, l.weAsk = d, refresher == "uas"
	if !l.d.Supported["timer"] {
		l.weAsk = true
	}
	who := "uac"
	if l.weAsk {
		who = "uas"
	} else {
		res.AppendHeader(sip.NewHeader("Require", "timer"))
	}
	res.AppendHeader(sessionHeader(d, who))
	l.watch()
}

// watch sets the timer: half the interval if we refresh; if the phone does, a little before the end (RFC 4028 §10).
func (l *Leg) watch() {
	if l.weAsk {
		l.after(&l.expiry, l.interval/2, func() {
			l.refresh = true
			l.pump()
			l.watch()
		})
		return
	}
	l.after(&l.expiry, l.interval-min(32*time.Second, l.interval/3), func() {
		l.why = "session expired"
		l.lost()
	})
}
