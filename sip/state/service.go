package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// ServiceControl tells a Cisco phone to do something (sip-registration.md §6): restart, reset, check-version, apply-config,
// prt-report. Without force it is refused with ErrInCall while the device has a call. It returns when the phone has answered.
//
// stamps may be nil: what Options.Stamps says, else zeros, which make the phone download everything again.
func (s *State) ServiceControl(ctx context.Context, device, action string, stamps *cisco.Stamps, force bool) error {
	info, ok := s.opt.Accounts.Device(device)
	if !ok {
		return ErrUnknownDevice
	}
	b := s.primary(device)
	if b == nil {
		return ErrNotRegistered
	}
	m := &cisco.ServiceControl{Action: action, RegisterCallID: b.CallID}
	switch action {
	case "prt-report":
		if len(b.Model) >= 4 && (strings.HasPrefix(b.Model, "79") || strings.HasPrefix(b.Model, "69")) {
			return fmt.Errorf("model %s sends no problem reports", b.Model) // sip-registration.md §11
		}
	case "call-preservation":
	case "restart", "reset", "check-version", "apply-config":
		if !force && s.InCall(device) {
			return ErrInCall
		}
		if stamps == nil {
			stamps = &cisco.Stamps{}
			if action != "restart" && action != "reset" && s.opt.Stamps != nil {
				*stamps, _ = s.opt.Stamps(device)
			}
		}
		m.Stamps = stamps
		if action == "apply-config" {
			m.Extra = applyLines(b, info)
		}
	default:
		return fmt.Errorf("unknown action %q", action)
	}
	result := make(chan error, 1)
	s.control(b, m, result)
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// applyLines are what apply-config needs besides the stamps: the phone compares them with what it has and decides.
func applyLines(b *registrar.Binding, info registrar.DeviceInfo) []cisco.Param {
	load := info.Load
	if load == "" {
		load = b.Load
	}
	return []cisco.Param{
		{Name: "CUCMResult", Value: "config_applied"}, {Name: "LoadId", Value: load}, {Name: "LoadServer", Value: host(b.Flow)},
		{Name: "LogServer", Value: host(b.Flow)},
	}
}

// control sends a service-control NOTIFY. The phone refuses it (400) unless the RegisterCallId is that of its registration.
func (s *State) control(b *registrar.Binding, m *cisco.ServiceControl, result chan<- error) {
	req := request(sip.NOTIFY, b, "server")
	req.AppendHeader(sip.NewHeader("Event", "service-control"))
	req.AppendHeader(sip.NewHeader("Subscription-State", "active"))
	transaction.SetBody(req, cisco.TypeServiceControl, m.Marshal())
	tell := func(err error) {
		if result != nil {
			result <- err
		}
	}
	_, err := s.opt.Transactions.Request(b.Flow, req, func(res *sip.Response, err error) {
		switch {
		case err != nil:
			tell(err)
		case res.StatusCode >= 300:
			err := fmt.Errorf("phone answered %d %s", res.StatusCode, transaction.Header(res, "Warning"))
			s.opt.Log.Info("service control refused", "phone", b.Device, "action", m.Action, "err", err)
			if s.opt.Note != nil {
				s.opt.Note(b.Device, "register", "refused to "+m.Action+": "+err.Error(), false)
			}
			tell(err)
		case res.StatusCode >= 200:
			if s.opt.Note != nil {
				s.opt.Note(b.Device, "register", "told to "+m.Action, false)
			}
			tell(nil)
		}
	})
	if err != nil {
		tell(err)
	}
}

// Rollout says how ServiceControlAll goes about many phones.
type Rollout struct {
	Action string
	Stamps *cisco.Stamps
	Force  bool          // also phones in a call; else those are waited for
	Wait   time.Duration // how long a phone in a call is waited for; 0: it is left out with ErrInCall
	Every  time.Duration // pause between two phones; 100 ms when 0, so that a thousand do not fetch their files at once
	// Report is told about each phone as it is done with, Busy about each that is waited for; both may be nil and must not block.
	Report func(device string, err error)
	Busy   func(device string)
}

// idlePoll is how often a phone in a call is looked at.
const idlePoll = time.Second

// ServiceControlAll does ServiceControl for many devices, one after the other. Phones in a call come last. It returns when all
// are done or ctx has ended, with the number of phones that obeyed.
func (s *State) ServiceControlAll(ctx context.Context, devices []string, r Rollout) (int, error) {
	if r.Every <= 0 {
		r.Every = 100 * time.Millisecond
	}
	report := func(device string, err error) {
		if r.Report != nil {
			r.Report(device, err)
		}
	}
	obeyed := 0
	one := func(device string) error {
		err := s.ServiceControl(ctx, device, r.Action, r.Stamps, r.Force)
		if err == nil {
			obeyed++
		}
		return err
	}
	var busy []string
	for i, device := range devices {
		if i > 0 && !sleep(ctx, r.Every) {
			return obeyed, ctx.Err()
		}
		err := one(device)
		if errors.Is(err, ErrInCall) && r.Wait > 0 {
			busy = append(busy, device)
			if r.Busy != nil {
				r.Busy(device)
			}
			continue
		}
		report(device, err)
	}
	for until := time.Now().Add(r.Wait); len(busy) > 0; {
		if !sleep(ctx, idlePoll) {
			return obeyed, ctx.Err()
		}
		late := !time.Now().Before(until)
		var still []string
		for _, device := range busy {
			err := one(device)
			if errors.Is(err, ErrInCall) && !late {
				still = append(still, device)
				continue
			}
			report(device, err)
		}
		busy = still
	}
	return obeyed, nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
