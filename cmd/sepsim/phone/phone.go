package phone

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ringfence/internal/task"
)

// Phone is one simulated phone. Its methods may be called from any goroutine; Boot, Register, Unregister and Stop one at a
// time. Stop must be called at the end.
type Phone struct {
	opt   Options
	man   manners
	mac   string // twelve lower-case hexadecimal digits
	log   *slog.Logger
	tasks *task.Group

	eventMu sync.Mutex // keeps events in order; never taken while mu is held
	silent  bool       // under eventMu: switched off, nothing is told any more

	mu       sync.Mutex // guards everything below and the calls
	flash    *flash
	network  Network
	tunnel   *tunnel
	trust    trustState
	config   *Config
	stale    bool
	refusals map[Kind]int
	remarks  []string
	wake     chan struct{} // closed and replaced at each change; see changedLocked

	link     *link
	reg      registration
	display  display
	calls    []*Call
	copies   []*Call // by the built-in bridge
	fresh    []*Call // ringing calls that WaitIncoming has not handed out
	rules    []dialRule
	pressed  []*Press // the last ones
	missed   int
	entries  []Entry // calls that came
	stream   pageStream
	seq      int // running number of Call-IDs
	hookSeq  int
	pubSeq   int
	pubTag   string
	services int // service-control notices obeyed

	wire     []*message // of the server, newest last
	wireLost int        // those before
	history  map[string]*subscription
	standby  string // member that answers keep-alives
}

// New makes a phone that is switched off. It reads the flash; nothing is sent before Boot.
func New(opt Options) (*Phone, error) {
	if err := opt.validate(); err != nil {
		return nil, fmt.Errorf("phone: %w", err)
	}
	fl, err := openFlash(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("phone %s: %w", opt.Device, err)
	}
	p := &Phone{
		opt: opt, man: models[opt.Model], mac: strings.ToLower(opt.Device[3:]),
		log:   opt.Log.With("phone", opt.Device),
		flash: fl, refusals: make(map[Kind]int), wake: make(chan struct{}),
	}
	if opt.MaxTLS != 0 {
		p.man.maxTLS, p.man.rsaKX = opt.MaxTLS, false
	}
	if opt.Suites != nil {
		p.man.suites = opt.Suites
	}
	p.network = opt.Net
	if p.network == nil {
		p.network = hostNetwork{local: opt.Local}
	}
	p.tasks = task.NewGroup(context.Background(), p.log)
	if err := p.loadTrust(); err != nil {
		return nil, fmt.Errorf("phone %s: %w", opt.Device, err)
	}
	if len(fl.config) > 0 {
		if p.config, err = parseConfig(fl.config, p.man); err != nil {
			return nil, fmt.Errorf("phone %s: stored configuration: %w", opt.Device, err)
		}
	}
	return p, nil
}

// Stop hangs up, closes every connection and ends every goroutine, without a word to the server: the plug is pulled. No
// event is told after it returned.
// Unregister first for a phone that says goodbye.
func (p *Phone) Stop() {
	p.mu.Lock()
	l, t := p.link, p.tunnel
	p.link, p.tunnel = nil, nil
	calls := append(p.calls, p.copies...)
	p.calls, p.copies = nil, nil
	p.mu.Unlock()
	for _, c := range calls {
		p.mu.Lock()
		if c.ackTimer != nil {
			c.ackTimer.Stop()
		}
		p.mu.Unlock()
		c.media.close()
	}
	if l != nil {
		l.close(errStopped)
	}
	if t != nil {
		t.close()
	}
	p.tasks.Stop()
	p.eventMu.Lock()
	p.silent = true
	p.eventMu.Unlock()
}

var errStopped = errors.New("phone is switched off")

// Config is the device file in force, nil before the first was accepted.
func (p *Phone) Config() *Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config
}

// Stale says that the last Boot kept the old configuration because the new one was refused.
func (p *Phone) Stale() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stale
}

// LSC is the phone's own certificate, nil before enrolment.
func (p *Phone) LSC() *x509.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flash.lsc == nil {
		return nil
	}
	return p.flash.lsc.Leaf
}

// Device is the phone's name.
func (p *Phone) Device() string { return p.opt.Device }

func (p *Phone) net() Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tunnel != nil {
		return p.tunnel
	}
	return p.network
}

func (p *Phone) event(step, text string, err error) {
	e := Event{Time: time.Now(), Step: step, Text: text, Err: err}
	if err != nil {
		p.log.Info("phone step", "step", step, "text", text, "err", err)
	} else {
		p.log.Debug("phone step", "step", step, "text", text)
	}
	if p.opt.Events == nil {
		return
	}
	p.eventMu.Lock()
	defer p.eventMu.Unlock()
	if p.silent {
		return // a timer that was already running when the phone was switched off
	}
	p.opt.Events(e)
}

// refused counts a refusal, tells it, and returns it as the error of the step.
func (p *Phone) refused(step string, r *Refusal) *Refusal {
	p.mu.Lock()
	p.refusals[r.Kind]++
	p.changedLocked()
	p.mu.Unlock()
	p.event(step, "refused", r)
	return r
}

// changedLocked wakes everybody who waits for a change of state. p.mu is held.
func (p *Phone) changedLocked() {
	close(p.wake)
	p.wake = make(chan struct{})
}

// Wait returns when ok, called with the phone's state steady, says true, or with ctx's error. ok may use every method of
// the phone that does not wait.
func (p *Phone) Wait(ctx context.Context, ok func() bool) error {
	for {
		p.mu.Lock()
		wake := p.wake
		p.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hexString returns n random bytes as lower-case hexadecimal digits.
func hexString(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// callID makes a Call-ID as the phones write it: MAC, running number, two random words, own address.
func (p *Phone) callID(host string) string {
	p.mu.Lock()
	p.seq++
	n := p.seq
	p.mu.Unlock()
	return fmt.Sprintf("%s-%s%04x-%s-%s@%s", p.mac[:8], p.mac[8:], n&0xffff, hexString(4), hexString(4), host)
}

// tag makes a From tag: MAC and random digits.
func (p *Phone) tag() string { return p.mac + hexString(6) + "-" + hexString(4) }

// Certificate is the phone's own certificate with its key, empty before enrolment.
func (p *Phone) Certificate() tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flash.lsc == nil {
		return tls.Certificate{}
	}
	return *p.flash.lsc
}
