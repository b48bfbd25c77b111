// Package privacy is the key by which the user of a phone with a shared line hides its calls from the line's other phones
// ("sip-calls" §26): they are not told about them, and may neither step into them nor take them back. The key is the phone's, for
// all its lines, and is kept.
package privacy

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"ringfence/sip/call"
	"ringfence/sip/plan"
	"ringfence/sip/state"
)

// Settings keeps who wants privacy; *state.State does.
type Settings interface {
	Privacy(device string) bool
	SetPrivacy(ctx context.Context, device string, on bool, by state.Origin) error
}

// Switch is the key.
type Switch struct {
	Settings Settings
	Log      *slog.Logger
}

// Key handles the key in a call.
func (s *Switch) Key(_ *call.Leg, k *call.Key) {
	if !shares(k) {
		k.Done(500)
		return
	}
	s.toggle(k)
}

// Idle handles the key of a phone without a call; of one that shares no line it is refused.
func (s *Switch) Idle(k *call.Key) bool {
	if !k.Event.Dialog.Zero() || !shares(k) {
		return false
	}
	k.Accept()
	s.toggle(k)
	return true
}

func shares(k *call.Key) bool {
	return slices.ContainsFunc(k.Manager().Plan().LinesOf(k.Identity.Device), (*plan.Line).Shared)
}

// storeWithin bounds how long a phone waits for what it is told.
const storeWithin = 5 * time.Second

func (s *Switch) toggle(k *call.Key) {
	k.Manager().Go("privacy", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		device := k.Identity.Device
		if err := s.Settings.SetPrivacy(ctx, device, !s.Settings.Privacy(device), state.ByPhone); err != nil {
			s.Log.Error("privacy", "phone", device, "err", err)
			k.Done(500)
			return
		}
		k.Done(200)
	})
}

// Code is the key for phones that have none: its number is called.
func (s *Switch) Code(c *call.Call, _ string) {
	l := c.CallerLeg()
	if l == nil || l.Device == "" || !slices.ContainsFunc(c.Plan().LinesOf(l.Device), (*plan.Line).Shared) {
		c.Refuse(503)
		return
	}
	device := l.Device
	c.Store("privacy", func(ctx context.Context) error {
		return s.Settings.SetPrivacy(ctx, device, !s.Settings.Privacy(device), state.ByPhone)
	})
}
