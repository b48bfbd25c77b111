package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"sync/atomic"

	"ringfence/appliance/admin"
	"ringfence/appliance/phone"
	"ringfence/appliance/provision"
	"ringfence/appliance/supervise"
	"ringfence/config"
	"ringfence/image/boot"
	"ringfence/pki"
	"ringfence/pki/capf"
	"ringfence/sip"
	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/trust/tvs"
)

// holder is a server that a restart of its service replaces. Nil when the service is down.
type holder[T any] struct{ p atomic.Pointer[T] }

func (h *holder[T]) get() *T { return h.p.Load() }

// runner is what most servers are: made with their listeners bound, then run until the context ends.
type runner interface {
	Run(ctx context.Context) error
	Stop()
}

// server makes a service of a server that make binds. A failure at the first start keeps the daemon from starting: the
// administrator asked for that listener.
func server[T runner](name string, listen config.Endpoint, make func(address string) (T, error)) supervise.Service {
	var current T
	return supervise.Service{
		Name: name, Required: true,
		Start: func(context.Context) (err error) {
			current, err = make(listen.String())
			if err != nil {
				err = listenFault(name, listen, err)
			}
			return err
		},
		Run:  func(ctx context.Context) error { return current.Run(ctx) },
		Stop: func(context.Context) error { current.Stop(); return nil },
	}
}

// addServices names every service in the order in which a phone needs them.
func (a *appliance) addServices(note func(device, step, text string, failed bool)) {
	l := a.doc().Node.Listen
	if !l.TVS.Off() {
		a.supervisor.Add(server("tvs", l.TVS, func(address string) (*tvs.Server, error) {
			cert := a.roles.certificate(pki.RoleTVS)
			return tvs.New(tvs.Options{Address: address, Lookup: a.trust.Lookup, Log: a.log, Note: note, Legacy: l.Legacy("tvs"),
				TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert() }}})
		}))
	}
	if !l.CAPF.Off() {
		a.supervisor.Add(server("capf", l.CAPF, func(address string) (*capf.Server, error) {
			return capf.New(capf.Options{Address: address, Certificate: a.roles.certificate(pki.RoleCAPF), Backend: a.enrolment, Log: a.log, Note: note,
				Legacy: l.Legacy("capf")})
		}))
	}
	if !l.ProvisionHTTP.Off() {
		a.supervisor.Add(server("http", l.ProvisionHTTP, func(address string) (*provision.HTTPServer, error) {
			return provision.NewHTTP(provision.HTTPOptions{Files: a.files, Address: address, CRL: a.ca.CRL, Log: a.log})
		}))
	}
	if !l.ProvisionHTTPS.Off() {
		a.supervisor.Add(server("https", l.ProvisionHTTPS, func(address string) (*provision.HTTPServer, error) {
			return provision.NewHTTP(provision.HTTPOptions{Files: a.files, Address: address, Log: a.log,
				Certificate: a.roles.certificate(pki.RoleTFTPEC), VerifyDevice: a.roles.device})
		}))
	}
	if !l.TFTP.Off() {
		a.supervisor.Add(server("tftp", l.TFTP, func(address string) (*provision.TFTPServer, error) {
			return provision.NewTFTP(provision.TFTPOptions{Files: a.files, Address: address, Log: a.log})
		}))
	}
	if !l.NTP.Off() {
		a.supervisor.Add(a.timeService(l.NTP))
	}
	a.supervisor.Add(supervise.Service{Name: "trust", Run: a.trust.Run})
	if u := a.doc().Node.Update; u.URL != "" {
		if _, err := boot.ReadStatus(); err == nil {
			a.supervisor.Add(a.updateService(u.URL, u.Window, u.Every.D()))
		}
	}
	a.supervisor.Add(supervise.Service{
		Name: "media", Required: true,
		Run: func(ctx context.Context) error { a.media.Start(); <-ctx.Done(); return nil },
	})
	a.supervisor.Add(supervise.Service{
		Name: "sip", Required: true,
		Run:  func(ctx context.Context) error { a.sip.Start(); <-ctx.Done(); return nil },
		Stop: func(context.Context) error { a.calls.Stop(); a.sip.Stop(); return nil },
	})
	if a.doc().VPN.Enabled && !l.VPN.Off() && len(a.doc().VPN.Policies) > 0 {
		a.supervisor.Add(a.vpnService(note))
	}
}

func (a *appliance) setupSIP() error {
	l := a.doc().Node.Listen
	var listen []flow.Listen
	for _, x := range []struct {
		transport string
		at        config.Endpoint
	}{{"TCP", l.SIPTCP}, {"TLS", l.SIPTLS}, {"UDP", l.SIPUDP}} {
		if !x.at.Off() {
			listen = append(listen, flow.Listen{Transport: x.transport, Addr: x.at.AddrPort, Legacy: x.transport == "TLS" && l.Legacy("sip")})
		}
	}
	var err error
	a.sip, err = sip.New(sip.Options{
		Log: a.log, Listen: listen, Certificate: a.roles.certificate(pki.RoleCCM), VerifyClient: a.roles.device,
		MaxMessage: a.doc().SIP.MaxMessageBytes, MaxFlows: a.doc().SIP.MaxFlows, MaxPerSource: a.doc().SIP.MaxFlowsPerIP,
		Accounts: accounts{a.doc}, Password: a.passwords.of, Realm: a.doc().Site.Domain, Expires: a.doc().SIP.RegisterExpires.D(),
		Store: a.store, Local: a.local, Note: a.recorder.Note, MayWatch: a.mayWatch, Ready: a.mayCome, Declared: a.declaredField,
		Fallback: a.doc().SIP.SRTP != config.SRTPRequire,
		Stamps: func(device string) (cisco.Stamps, bool) {
			s, err := a.files.Stamps(device)
			return cisco.Stamps{Config: s.Config, Dialplan: s.Dialplan, Softkey: s.Softkey, FeatureControl: s.Feature}, err == nil
		},
	})
	if err != nil {
		return listenFault("sip", l.SIPTCP, err)
	}
	a.after("sip", func() error { a.sip.Stop(); return nil })
	return a.setupCalls()
}

func (a *appliance) addAdmin(o admin.Options) error {
	s, err := admin.New(o)
	if err != nil {
		return err
	}
	a.after("control socket", func() error { s.Close(); return nil })
	a.supervisor.Add(supervise.Service{Name: "admin", Required: true, Run: s.Run})
	return nil
}

// shutOut ends the connections of a device that proves itself no more.
func (a *appliance) shutOut(device string) {
	if g := a.gateway.get(); g != nil {
		g.Revoke(device)
	}
	for _, b := range a.sip.Registrar().Device(device) {
		if b.Flow != nil {
			b.Flow.Close(errors.New("its certificate was revoked"))
		}
	}
}

// restartPhone makes a registered phone read its files again, unless it is in a call.
func (a *appliance) restartPhone(ctx context.Context, device string) error {
	return a.sip.State().ServiceControl(ctx, device, "restart", nil, false)
}

// reachable tells whether a phone has a connection on which it can be told something.
func (a *appliance) reachable(device string) bool {
	for _, b := range a.sip.Registrar().Device(device) {
		if b.Reachable() {
			return true
		}
	}
	return false
}

// mayEnrol is what is declared about a device's certificate. A phone whose certificate was withdrawn gets no other by itself,
// since a stolen phone asks as well; ringfence cert enroll lets it in again.
func (a *appliance) mayEnrol(device string) (pki.DevicePolicy, bool) {
	if _, asked := a.ca.Scheduled(device); !asked {
		if issued := a.ca.Issued(device); len(issued) > 0 && issued[len(issued)-1].State == pki.Revoked {
			a.recorder.Note(device, "capf", "refused: its certificate was withdrawn; ringfence cert enroll "+device+" lets it in again", true)
			return pki.DevicePolicy{}, false
		}
	}
	policy, ok := declared{a.doc()}.enrolment(device)
	if c, given := a.ca.Code(device); ok && given {
		// Somebody gave this phone a code, which is asked for even where others need none.
		policy.Code = c.Digits
		if policy.Auth != capf.AuthCodeOrCertificate {
			policy.Auth = capf.AuthCode
		}
	}
	return policy, ok
}

// facts is what the boot record needs to know of a device.
func (a *appliance) facts(device string) phone.Facts {
	p, ok := a.doc().Phone(device)
	if !ok {
		return phone.Facts{}
	}
	f := phone.Facts{Declared: true, Secure: p.Security == config.SecurityEncrypted, VPN: p.VPN != ""}
	_, f.Certificate = a.ca.CurrentLSC(device)
	if a.sip != nil {
		for _, b := range a.sip.Registrar().Device(device) {
			f.Registered = f.Registered || b.Reachable()
		}
	}
	return f
}

func addresses(all ...netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}
