package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ringfence/trust"
)

const maxDialTemplate = 8191 // provisioning §6: a bigger one is dropped silently

// Boot does everything from power to an accepted configuration: VPN if the phone is outside, trust lists, device file with
// enrolment if that is due, and what the file names. It does not register.
//
//	lists ─► device file ─► full ─────────────────────────────► accepted ─► further files
//	             ▲            │ stub
//	             │            ├─ certHash is the LSC's ─► .enc.sgn ─► full
//	             └─ refetch ──┴─ another, or none ─► CAPF
//
// A file that is refused leaves the old configuration in force (Stale); Boot fails only when there is none.
func (p *Phone) Boot(ctx context.Context) error {
	if err := p.goOutside(ctx); err != nil {
		p.event(StepVPN, "no tunnel", err)
		return fmt.Errorf("boot %s: %w", p.opt.Device, err)
	}
	ctlFirst := p.man.series == "7900" || p.man.series == "6900"
	if ctlFirst {
		_ = p.fetchCTL(ctx)
	}
	_ = p.fetchITL(ctx) // the reason was told; what is in force decides what happens next
	if err := ctx.Err(); err != nil {
		return err
	}
	enrolled, err := p.configure(ctx)
	if err != nil {
		p.mu.Lock()
		old := p.config != nil
		p.stale = true
		p.mu.Unlock()
		if !old || ctx.Err() != nil {
			return fmt.Errorf("boot %s: %w", p.opt.Device, err)
		}
		p.event(StepFile, "going on with the old configuration", err)
		return nil
	}
	p.further(ctx, !ctlFirst)
	p.mu.Lock()
	c := p.config
	p.mu.Unlock()
	if !enrolled && len(c.CAPF) > 0 && c.CAPFMode > 0 {
		// capf §8: a phone contacts CAPF at every start when its configuration lists one.
		if _, err := p.enrol(ctx, c, false); err != nil {
			p.event(StepCAPF, "session at start-up", err)
		}
	}
	return ctx.Err()
}

// configure gets a configuration and puts it in force. It tells whether CAPF was used on the way.
func (p *Phone) configure(ctx context.Context) (enrolled bool, err error) {
	p.mu.Lock()
	sealed := p.flash.state.Encrypted && p.flash.lsc != nil
	p.mu.Unlock()
	if len(p.fileSigners()) == 0 {
		sealed = false
	}
	remembered := sealed // not yet confirmed by a stub
	for range 6 {        // remembered, stub, CAPF, stub, sealed file: more is a server in disorder
		xml, c, err := p.deviceFile(ctx, sealed)
		switch {
		case err != nil && remembered && ctx.Err() == nil:
			p.event(StepFile, "encrypted file not usable, asking for the stub", err)
			sealed, remembered = false, false
			continue
		case err != nil:
			p.event(StepFile, "no configuration", err)
			return enrolled, err
		case c.Full:
			return enrolled, p.accept(xml, c)
		}
		if own := p.ownHash(); own != "" && strings.EqualFold(own, c.CertHash) {
			sealed = true
			continue
		}
		if enrolled {
			return enrolled, errors.New("after enrolment the stub still names another certificate")
		}
		what := "no certificate yet"
		if c.CertHash != "" {
			what = "the stub names another certificate"
		}
		p.event(StepCAPF, what+": enrolment is due", nil)
		enrolled = true
		if _, err := p.enrol(ctx, c, true); err != nil {
			p.event(StepCAPF, "enrolment", err)
			return enrolled, err
		}
		sealed = false
	}
	return enrolled, errors.New("the files lead in a circle")
}

// ownHash is the MD5 of the LSC, else of the MIC, for which the file may be encrypted (enc.md).
func (p *Phone) ownHash() string {
	id := p.identity()
	if id == nil {
		return ""
	}
	return trust.ConfigHash(id.Certificate[0])
}

func (p *Phone) accept(xml []byte, c *Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config, p.stale = c, false
	p.changedLocked()
	return p.flash.storeConfig(xml, c.Encrypted)
}

// further fetches what a phone asks for only after it has accepted its configuration (provisioning §1.1). Each may be
// missing; a refused one is told and the phone goes on.
func (p *Phone) further(ctx context.Context, ctl bool) {
	p.mu.Lock()
	c := p.config
	p.mu.Unlock()
	get := func(name string) []byte {
		if name == "" || ctx.Err() != nil {
			return nil
		}
		b, err := p.signed(ctx, name)
		switch {
		case errors.Is(err, errNotFound):
			p.event(StepFile, name+": none on the server", nil)
			return nil
		case err != nil:
			p.event(StepFile, name, err)
			return nil
		}
		p.event(StepFile, fmt.Sprintf("%s: %d bytes", name, len(b)), nil)
		return b
	}
	if c.UserLocale != "" && p.man.jar != "" && c.UserLocale != "English_United_States" {
		get(c.UserLocale + "/" + p.man.jar)
	}
	if c.NetworkLocale != "" && c.NetworkLocale != "United_States" {
		get(c.NetworkLocale + "/g3-tones.xml")
	} else {
		get("g3-tones.xml")
	}
	newer := p.man.series == "7800" || p.man.series == "8800"
	if newer {
		get("AppDialRules.xml")
	}
	if ctl {
		_ = p.fetchCTL(ctx)
	}
	if newer {
		get("defaultheadsetconfig.json")
	}
	p.useDialTemplate(c.DialTemplate, get(c.DialTemplate))
	p.useSoftKeys(c.SoftKeys, get(c.SoftKeys))
	if p.man.series == "8900" || p.man.series == "9900" {
		get(c.FeaturePolicy)
	}
}
