package appliance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"ringfence/config"
)

// document reads and checks the declared document. Its notices are logged: they say what is declared and not served.
func (a *appliance) document() (*config.Document, error) {
	doc, notices, err := config.Load(a.ConfigPath)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		a.log.Info("configuration", "notice", n.String())
	}
	return doc, nil
}

// listenFault explains why a listener could not be had, and what to do.
func listenFault(service string, at config.Endpoint, err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return fmt.Errorf("%s: %w", service, err)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: port %d needs rights that this process does not have: run as root, give it CAP_NET_BIND_SERVICE, or choose a port above 1023 (%w)", service, at.Port(), err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: another process listens at %s already: stop it or choose another port (%w)", service, at, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this machine does not have the address %s: correct it in the configuration (%w)", service, at.Addr(), err)
	}
	return fmt.Errorf("%s: %w", service, err)
}
