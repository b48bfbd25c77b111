package phone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ringfence/trust"
	"ringfence/trust/tlv"
	"ringfence/trust/tvs"
)

// trustState is whom the phone believes: its lists, and what TVS has said until that runs out.
type trustState struct {
	itl, ctl *tlv.List
	answers  map[[sha256.Size]byte]tvsAnswer
}

type tvsAnswer struct {
	roles []trust.Role
	until time.Time
}

const maxAnswers = 256 // certificates that TVS has vouched for and that the phone remembers

// loadTrust reads the lists in flash. They were checked when they were installed.
func (p *Phone) loadTrust() error {
	p.trust.answers = make(map[[sha256.Size]byte]tvsAnswer)
	for _, f := range []struct {
		b    []byte
		list **tlv.List
		name string
	}{{p.flash.itl, &p.trust.itl, tlv.ITLFile}, {p.flash.ctl, &p.trust.ctl, tlv.CTLFile}} {
		if len(f.b) == 0 {
			continue
		}
		l, err := tlv.Parse(f.b)
		if err != nil {
			return fmt.Errorf("stored %s: %w", f.name, err)
		}
		*f.list = l
	}
	return nil
}

// fetchITL installs the phone's identity trust list: its own file, else the common one (tlv §6).
func (p *Phone) fetchITL(ctx context.Context) error {
	b, err := p.fetch(ctx, "ITL"+p.opt.Device+".tlv")
	if errors.Is(err, errNotFound) {
		b, err = p.fetch(ctx, tlv.ITLFile)
	}
	return p.install(ctx, b, err, tlv.ITLFile)
}

// fetchCTL installs further certificates for this phone, if there are any.
func (p *Phone) fetchCTL(ctx context.Context) error {
	b, err := p.fetch(ctx, "CTL"+p.opt.Device+".tlv")
	return p.install(ctx, b, err, tlv.CTLFile)
}

// install checks a list as tlv §7 says and puts it in force. An error of transport or a refused list leaves the old one in
// force; the phone goes on either way.
func (p *Phone) install(ctx context.Context, b []byte, err error, name string) error {
	p.mu.Lock()
	old := p.trust.itl
	if name == tlv.CTLFile {
		old = p.trust.ctl
	}
	p.mu.Unlock()
	switch {
	case errors.Is(err, errNotFound):
		p.event(StepTrust, name+": none on the server", nil)
		return nil
	case err != nil:
		p.event(StepTrust, name, err)
		return err
	}
	next, err := tlv.Parse(b)
	if err != nil {
		return p.refused(StepTrust, refuse(ListInvalid, err, "%s", name))
	}
	if err := next.Verify(name); err != nil {
		return p.refused(StepTrust, refuse(ListInvalid, err, "%s", name))
	}
	first := old == nil
	if err := tlv.Continues(old, next); err != nil && !released(old) {
		signer, serr := next.Signer()
		if serr != nil || p.askTVS(ctx, signer, "signer of "+name, trust.SAST) != nil {
			return p.refused(StepTrust, refuse(ListContinuity, err, "%s keeps the list in force", name))
		}
	}
	p.mu.Lock()
	if name == tlv.CTLFile {
		p.trust.ctl = next
		err = p.flash.storeCTL(b)
	} else {
		p.trust.itl = next
		err = p.flash.storeITL(b)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s version %s, %d certificates, signer %s", name, next.Version, len(next.Entries), next.SignerName)
	if first {
		text += ", first list (trust on first use)"
	}
	p.event(StepTrust, text, nil)
	return nil
}

// released tells whether a list names no service, after which a phone takes any other (tlv §8, as its maker says of its own
// servers).
func released(l *tlv.List) bool {
	return !slices.ContainsFunc(l.Entries, func(e trust.Entry) bool { return e.Role != trust.SAST })
}

// EraseTrust removes the lists, as a user does in the security menu.
func (p *Phone) EraseTrust() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trust = trustState{answers: make(map[[sha256.Size]byte]tvsAnswer)}
	p.flash.itl, p.flash.ctl = nil, nil
	return errors.Join(p.flash.remove(flashITL), p.flash.remove(flashCTL))
}

func (p *Phone) lists() []*tlv.List {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*tlv.List
	for _, l := range []*tlv.List{p.trust.itl, p.trust.ctl} {
		if l != nil {
			out = append(out, l)
		}
	}
	return out
}

// TrustList is the ITL in force, nil if the phone has none.
func (p *Phone) TrustList() *tlv.List {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trust.itl
}

// fileSigners are the certificates that may sign files; none means that files are asked for in clear.
func (p *Phone) fileSigners() []*x509.Certificate {
	var out []*x509.Certificate
	for _, l := range p.lists() {
		out = append(out, l.FileSigners()...)
	}
	return out
}

// serves are the roles of a list that allow a service.
func serves(want trust.Role) []trust.Role {
	switch want {
	case trust.CCM, trust.TFTP:
		return []trust.Role{want, trust.CCMTFTP}
	}
	return []trust.Role{want}
}

// vouch decides whether a certificate may do what it is met doing: byte for byte in a list with the role, else by TVS if no
// list has it at all (capf §1, tvs).
func (p *Phone) vouch(ctx context.Context, step string, cert *x509.Certificate, want trust.Role, service string) error {
	listed := false
	for _, l := range p.lists() {
		for _, e := range l.Entries {
			if !bytes.Equal(e.Cert.Raw, cert.Raw) {
				continue
			}
			if slices.Contains(serves(want), e.Role) {
				return nil
			}
			listed = true
		}
	}
	if listed {
		return p.refused(step, refuse(ServerRole, nil, "certificate of the %s is listed, but not as %s", service, want))
	}
	if len(p.lists()) == 0 {
		return p.refused(step, refuse(ServerUnknown, nil, "%s: the phone has no trust list", service))
	}
	if want == trust.TVS {
		return p.refused(step, refuse(ServerUnknown, nil, "certificate of the %s is not listed", service))
	}
	if err := p.askTVS(ctx, cert, service, want); err != nil {
		if RefusedAs(err, TVSInvalid) {
			return err
		}
		return p.refused(step, refuse(ServerUnknown, err, "certificate of the %s is not listed", service))
	}
	return nil
}

// askTVS asks the servers of the configuration, one after the other, until one answers (tvs §1). A remembered answer counts
// until its TTL has run out.
func (p *Phone) askTVS(ctx context.Context, cert *x509.Certificate, service string, want trust.Role) error {
	key := sha256.Sum256(cert.Raw)
	p.mu.Lock()
	a, ok := p.trust.answers[key]
	var nodes []Node
	if p.config != nil {
		nodes = p.config.TVS
	}
	p.mu.Unlock()
	if ok && time.Now().Before(a.until) {
		return p.roleOf(a.roles, service, want)
	}
	if len(nodes) == 0 {
		return errors.New("no TVS server is configured")
	}
	var errs []error
	for _, n := range nodes {
		res, err := p.queryTVS(ctx, n, cert)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !res.Valid {
			p.mu.Lock()
			delete(p.trust.answers, key)
			p.mu.Unlock()
			return p.refused(StepTVS, refuse(TVSInvalid, nil, "TVS does not know the certificate of the %s", service))
		}
		p.mu.Lock()
		if len(p.trust.answers) >= maxAnswers {
			clear(p.trust.answers)
		}
		p.trust.answers[key] = tvsAnswer{roles: res.Roles, until: time.Now().Add(res.TTL)}
		p.mu.Unlock()
		if err := p.roleOf(res.Roles, service, want); err != nil {
			return err
		}
		p.event(StepTVS, fmt.Sprintf("TVS vouches for the %s for %s", service, res.TTL), nil)
		return nil
	}
	return fmt.Errorf("no TVS server answers: %w", errors.Join(errs...))
}

func (p *Phone) roleOf(roles []trust.Role, service string, want trust.Role) error {
	for _, r := range serves(want) {
		if slices.Contains(roles, r) {
			return nil
		}
	}
	return p.refused(StepTVS, refuse(TVSInvalid, nil, "TVS knows the certificate of the %s, but not as %s", service, want))
}

func (p *Phone) queryTVS(ctx context.Context, n Node, cert *x509.Certificate) (*tvs.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.Timers.Connect)
	defer cancel()
	host, err := p.net().Lookup(ctx, n.Host)
	if err != nil {
		return nil, err
	}
	c, err := p.dialTLS(ctx, StepTVS, netip.AddrPortFrom(host, uint16(n.Port)), trust.TVS, "TVS server", false)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var refusal *Refusal
	conn := newRecordConn(c, measureTVS, func(text string) {
		refusal = p.refused(StepTVS, refuse(SplitRecord, nil, "TVS: %s", text))
	})
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	q := tvs.Request{Session: randomUint32(), Device: p.man.product + "-" + p.opt.Device, Certificate: cert.Raw}
	b, err := q.Marshal()
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(b); err != nil {
		return nil, fmt.Errorf("tvs: send: %w", err)
	}
	b, err = tvs.ReadMessage(conn)
	if refusal != nil {
		return nil, refusal
	}
	if err != nil {
		return nil, fmt.Errorf("tvs: receive: %w", err)
	}
	var res tvs.Response
	if err := res.Unmarshal(b); err != nil {
		return nil, err
	}
	if res.Session != q.Session {
		return nil, fmt.Errorf("tvs: answer to session %08x, asked as %08x", res.Session, q.Session)
	}
	return &res, nil
}
