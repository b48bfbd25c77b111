package appliance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"sync"

	"ringfence/config"
	"ringfence/pki"
	"ringfence/pki/capf"
	"ringfence/sip/registrar"
)

// declared is the document in the shapes in which the SIP rooms and CAPF ask for it.
type declared struct{ *config.Document }

// accounts are the lines and phones of the document in force.
type accounts struct{ doc func() *config.Document }

// Line implements registrar.Accounts.
func (a accounts) Line(number string) (registrar.Account, bool) {
	return declared{a.doc()}.Line(number)
}

// Device implements registrar.Accounts.
func (a accounts) Device(name string) (registrar.DeviceInfo, bool) {
	return declared{a.doc()}.Device(name)
}

// name is what others see of a line.
func (d declared) name(l *config.Line) string {
	if l.CallerID.Name != "" {
		return l.CallerID.Name
	}
	if u, ok := d.User(l.User); ok {
		return u.Name
	}
	return ""
}

func (d declared) account(l *config.Line) registrar.Account {
	a := registrar.Account{Number: string(l.Number), Device: l.Phone, Index: l.Index, Name: d.name(l), Forward: string(l.Forward),
		Voicemail: string(l.Voicemail), MaxCalls: l.MaxCalls, BusyAt: l.BusyAt, Shared: len(l.Shared) > 0}
	if a.Voicemail == "" {
		a.Voicemail = string(d.Services.Voicemail)
	}
	return a
}

// Line implements registrar.Accounts.
func (d declared) Line(number string) (registrar.Account, bool) {
	l, ok := d.Document.Line(number)
	if !ok {
		return registrar.Account{}, false
	}
	return d.account(l), true
}

// Device implements registrar.Accounts.
func (d declared) Device(name string) (registrar.DeviceInfo, bool) {
	p, ok := d.Phone(name)
	if !ok {
		return registrar.DeviceInfo{}, false
	}
	info := registrar.DeviceInfo{Name: name, Model: p.Model, Encrypted: p.Security == config.SecurityEncrypted, DNDReject: p.DND != "silent", HuntLogin: true,
		Load: p.Load}
	for _, l := range d.LinesOf(name) {
		info.Lines = append(info.Lines, d.account(l))
		if l.Index == 1 {
			info.HuntLogin = l.HuntLogin
		}
	}
	for _, k := range p.Keys {
		for _, n := range []config.Digits{k.BLF, k.Park} {
			if n != "" {
				info.Watch = append(info.Watch, string(n))
			}
		}
	}
	return info, true
}

// enrolment is what is declared about a device's certificate. A phone in non-secure mode has one only for the VPN.
func (d declared) enrolment(device string) (pki.DevicePolicy, bool) {
	p, ok := d.Phone(device)
	if !ok || p.Security != config.SecurityEncrypted && p.VPN == "" {
		return pki.DevicePolicy{}, false
	}
	policy := pki.DevicePolicy{Key: capf.KeyKind(d.LSCKey(p)), Code: p.CAPFCode.Reveal()}
	switch d.PKI.LSC.Auth {
	case config.CAPFCode:
		policy.Auth = capf.AuthCodeOrCertificate
	case config.CAPFLSC:
		policy.Auth = capf.AuthCertificate
	case config.CAPFMIC:
		policy.Auth = capf.AuthMIC
	default:
		policy.Auth = capf.AuthNone
	}
	switch d.PKI.LSC.SessionProof {
	case "required":
	case "waived":
		policy.WaiveSession = true
	default:
		policy.WaiveSession = len(d.PKI.MICRoots) == 0 // nobody could judge it, and every renewal would fail
	}
	return policy, true
}

// passwords knows the SIP password of every phone and line: the declared one, else for a phone a generated one that is kept as
// state under phone/DEVICE/password, so that nobody has to think of one.
type passwords struct {
	doc   func() *config.Document
	state interface {
		Get(key string) ([]byte, bool)
		Write(ctx context.Context, set map[string][]byte, del ...string) error
	}
	mu sync.Mutex // one generation at a time
}

// generate makes the missing passwords. It is called before anything that could ask is started, and after each reload.
func (p *passwords) generate(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := map[string][]byte{}
	for _, ph := range p.doc().Phones {
		if !ph.Password.Empty() {
			continue
		}
		if _, ok := p.state.Get(passwordKey(ph.Device)); !ok {
			// Letters and digits need no escaping anywhere; above 20 characters some 7900 loads are doubted
			// (provisioning.md §15). 20 of base 32 are 100 bits.
			set[passwordKey(ph.Device)] = []byte(rand.Text()[:20])
		}
	}
	if len(set) == 0 {
		return nil
	}
	if err := p.state.Write(ctx, set); err != nil {
		return fmt.Errorf("keep generated passwords: %w", err)
	}
	return nil
}

func passwordKey(device string) string { return "phone/" + device + "/password" }

// of returns the password of a device (by name) or of a line without phone (by number).
func (p *passwords) of(account string) (string, bool) {
	doc := p.doc()
	if ph, ok := doc.Phone(account); ok {
		if !ph.Password.Empty() {
			return ph.Password.Reveal(), true
		}
		b, ok := p.state.Get(passwordKey(account))
		return string(b), ok
	}
	if l, ok := doc.Line(account); ok && l.Phone == "" && !l.Password.Empty() {
		return l.Password.Reveal(), true
	}
	return "", false
}

// vpn checks the VPN password of a user, or of a phone that names itself, and says which policy it has. Unknown names cost the same
// comparison.
func (p *passwords) vpn(name, password string) (policy string, ok bool) {
	want := ""
	if u, found := p.doc().User(name); found && u.VPN != "" {
		want, policy = u.Password.Reveal(), u.VPN
	} else if ph, found := p.doc().Phone(name); found && ph.VPN != "" {
		want, policy = ph.VPNPass.Reveal(), ph.VPN
	}
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(password))
	return policy, subtle.ConstantTimeCompare(a[:], b[:]) == 1 && want != ""
}

// vpnOwner finds the only phone with this VPN password, for phones that send no name. People always have one.
func (p *passwords) vpnOwner(password string) (device string, ok bool) {
	given := sha256.Sum256([]byte(password))
	for _, ph := range p.doc().Phones {
		has := sha256.Sum256([]byte(ph.VPNPass.Reveal()))
		if subtle.ConstantTimeCompare(has[:], given[:]) != 1 || ph.VPNPass.Empty() || ph.VPN == "" {
			continue
		}
		if device != "" {
			return "", false
		}
		device = ph.Device
	}
	return device, device != ""
}
