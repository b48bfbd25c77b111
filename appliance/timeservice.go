package appliance

import (
	"context"
	"errors"
	"os"
	"syscall"

	"ringfence/appliance/netsvc"
	"ringfence/appliance/supervise"
	"ringfence/config"
)

// timeService answers phones that ask for the time. Where the port may not be taken, or a time server of this machine has it
// already, the daemon goes on without, and status says so.
func (a *appliance) timeService(listen config.Endpoint) supervise.Service {
	return supervise.Service{
		Name: "ntp", Required: true,
		Start: func(context.Context) error {
			a.noTime.Store(nil)
			s, err := netsvc.NewNTP(netsvc.NTPOptions{Address: listen.String(), Log: a.log})
			switch {
			case err == nil:
				a.clock.p.Store(s)
			case errors.Is(err, syscall.EADDRINUSE):
				// Then phones get the time from that other program.
				a.log.Info("time is served by another program of this machine", "listener", listen.String())
			case errors.Is(err, os.ErrPermission):
				why := listenFault("ntp", listen, err).Error()
				a.noTime.Store(&why)
				a.log.Warn("no time service", "err", why)
			default:
				return listenFault("ntp", listen, err)
			}
			return nil
		},
		Run: func(ctx context.Context) error {
			if s := a.clock.get(); s != nil {
				return s.Run(ctx)
			}
			<-ctx.Done()
			return nil
		},
		Stop: func(context.Context) error {
			if s := a.clock.p.Swap(nil); s != nil {
				s.Stop()
			}
			return nil
		},
	}
}
