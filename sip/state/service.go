package state

import (
	"context"
	"fmt"

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
	if _, ok := s.opt.Accounts.Device(device); !ok {
		return ErrUnknownDevice
	}
	b := s.primary(device)
	if b == nil {
		return ErrNotRegistered
	}
	m := &cisco.ServiceControl{Action: action, RegisterCallID: b.CallID}
	switch action {
	case "prt-report", "call-preservation":
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
