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

// declared is the document in the shapes in which the services ask for it. It is immutable.
type declared struct {
	doc     *config.Document
	phones  map[string]*config.Phone
	lines   map[string]*config.Line
	users   map[string]*config.User
	ofPhone map[string][]*config.Line // by index
}

func newDeclared(doc *config.Document) *declared {
	d := &declared{doc: doc, phones: map[string]*config.Phone{}, lines: map[string]*config.Line{}, users: map[string]*config.User{},
		ofPhone: map[string][]*config.Line{}}
	for i := range doc.Users {
		d.users[doc.Users[i].ID] = &doc.Users[i]
	}
	for i := range doc.Phones {
		d.phones[doc.Phones[i].Device] = &doc.Phones[i]
	}
	for i := range doc.Lines {
		l := &doc.Lines[i]
		d.lines[string(l.Number)] = l
		if l.Phone != "" {
			d.ofPhone[l.Phone] = append(d.ofPhone[l.Phone], l)
		}
	}
	for _, ls := range d.ofPhone {
		for i := 1; i < len(ls); i++ { // few lines, mostly in order already
			for j := i; j > 0 && ls[j].Index < ls[j-1].Index; j-- {
				ls[j], ls[j-1] = ls[j-1], ls[j]
			}
		}
	}
	return d
}

// name is what others see of a line.
func (d *declared) name(l *config.Line) string {
	if l.CallerID.Name != "" {
		return l.CallerID.Name
	}
	if u := d.users[l.User]; u != nil {
		return u.Name
	}
	return ""
}

func (d *declared) account(l *config.Line) registrar.Account {
	a := registrar.Account{Number: string(l.Number), Device: l.Phone, Index: l.Index, Name: d.name(l), Forward: string(l.Forward),
		Voicemail: string(l.Voicemail), MaxCalls: l.MaxCalls, BusyAt: l.BusyAt}
	if a.Voicemail == "" {
		a.Voicemail = string(d.doc.Services.Voicemail)
	}
	return a
}

// Line implements registrar.Accounts.
func (d *declared) Line(number string) (registrar.Account, bool) {
	l, ok := d.lines[number]
	if !ok {
		return registrar.Account{}, false
	}
	return d.account(l), true
}

// Device implements registrar.Accounts.
func (d *declared) Device(name string) (registrar.DeviceInfo, bool) {
	p, ok := d.phones[name]
	if !ok {
		return registrar.DeviceInfo{}, false
	}
	info := registrar.DeviceInfo{Name: name, Model: p.Model, Encrypted: p.Security == config.SecurityEncrypted, DNDReject: true, HuntLogin: true}
	for _, l := range d.ofPhone[name] {
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

// enrolment is what is declared about a device's certificate. A phone in non-secure mode has none.
func (d *declared) enrolment(device string) (pki.DevicePolicy, bool) {
	p, ok := d.phones[device]
	if !ok || p.Security != config.SecurityEncrypted {
		return pki.DevicePolicy{}, false
	}
	key := p.LSCKey
	if key == "" {
		key = d.doc.PKI.LSC.Key
	}
	if key == "" || key == config.KeyAuto {
		// The encrypted device file is sealed to an RSA key (enc.md), and every model makes RSA 2048.
		key = config.KeyRSA2048
	}
	policy := pki.DevicePolicy{Key: capf.KeyKind(key), Code: p.CAPFCode.Reveal()}
	switch d.doc.PKI.LSC.Auth {
	case config.CAPFCode:
		policy.Auth = capf.AuthCodeOrCertificate
	case config.CAPFLSC, config.CAPFMIC:
		policy.Auth = capf.AuthCertificate
	default:
		policy.Auth = capf.AuthNone
	}
	return policy, true
}

// passwords knows the SIP password of every phone and line: the declared one, else for a phone a generated one that is kept as
// state under phone/DEVICE/password, so that nobody has to think of one.
type passwords struct {
	now   func() *declared
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
	for device, ph := range p.now().phones {
		if !ph.Password.Empty() {
			continue
		}
		if _, ok := p.state.Get(passwordKey(device)); !ok {
			// Letters and digits need no escaping anywhere; above 20 characters some 7900 loads are doubted
			// (provisioning.md §15). 20 of base 32 are 100 bits.
			set[passwordKey(device)] = []byte(rand.Text()[:20])
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
	d := p.now()
	if ph, ok := d.phones[account]; ok {
		if !ph.Password.Empty() {
			return ph.Password.Reveal(), true
		}
		b, ok := p.state.Get(passwordKey(account))
		return string(b), ok
	}
	if l, ok := d.lines[account]; ok && l.Phone == "" && !l.Password.Empty() {
		return l.Password.Reveal(), true
	}
	return "", false
}

// vpn checks a user's VPN password and says which policy the user has. Unknown users cost the same comparison.
func (p *passwords) vpn(user, password string) (policy string, ok bool) {
	d := p.now()
	want, policy := "", ""
	if u := d.users[user]; u != nil && u.VPN != "" {
		want, policy = u.Password.Reveal(), u.VPN
	}
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(password))
	return policy, subtle.ConstantTimeCompare(a[:], b[:]) == 1 && want != ""
}
