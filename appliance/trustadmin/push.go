package trustadmin

import (
	"context"
	"time"

	"ringfence/pki"
)

const (
	pushMost  = 64                     // phones that are told at one tick
	pushPause = 100 * time.Millisecond // between two of them, so that they do not all fetch their files at once
	pushAgain = 24 * time.Hour         // a phone that was told and did not come is told again
	pushWait  = 10 * time.Second       // for one phone's answer
)

// Between these hours of the site's day phones are restarted for a renewal that nobody ordered.
const nightBegins, nightEnds = 1, 5

// push tells registered phones for which a rotation waits to fetch their files anew, one after the other. A phone in a call
// stays on the list and is told at a later tick.
func (k *Keeper) push(ctx context.Context) {
	policy := k.o.Doc().PKI.RestartPhones
	if k.o.Restart == nil || policy == "never" {
		return
	}
	type want struct {
		device string
		since  time.Time
	}
	var list []want
	at := map[string]int{}
	for _, p := range k.o.Authority.Rotations(k.Fetched) {
		if p.By == pki.ByRenewal && policy != "at_once" && !k.night() {
			continue
		}
		for _, d := range p.Missing {
			i, known := at[d]
			if !known {
				i = len(list)
				at[d] = i
				list = append(list, want{device: d})
			}
			if p.Since.After(list[i].since) {
				list[i].since = p.Since
			}
		}
	}
	for device := range k.told {
		if _, wanted := at[device]; !wanted {
			delete(k.told, device)
		}
	}
	n := 0
	for _, w := range list {
		if told, ok := k.told[w.device]; ok && !told.Before(w.since) && k.o.Now().Sub(told) < pushAgain {
			continue
		}
		if k.o.Registered != nil && !k.o.Registered(w.device) {
			continue
		}
		if n++; n > pushMost {
			k.Nudge()
			return
		}
		if n > 1 && !pause(ctx, pushPause) {
			return
		}
		one, cancel := context.WithTimeout(ctx, pushWait)
		at := k.o.Now()
		err := k.o.Restart(one, w.device)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.log.Debug("phone not told to fetch its trust list", "phone", w.device, "err", err)
		default:
			k.told[w.device] = at
			k.log.Info("phone told to fetch its trust list", "phone", w.device)
		}
	}
}

// night tells whether it is night where the phones are.
func (k *Keeper) night() bool {
	zone, err := time.LoadLocation(k.o.Doc().Site.TimeZone)
	if err != nil {
		zone = time.Local
	}
	h := k.o.Now().In(zone).Hour()
	return h >= nightBegins && h < nightEnds
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
