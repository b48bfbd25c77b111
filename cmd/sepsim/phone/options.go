package phone

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"time"
)

// The steps of a phone's first morning, as the boot record of the appliance names them.
const (
	StepFile     = "file"
	StepTrust    = "trust"
	StepCAPF     = "capf"
	StepTVS      = "tvs"
	StepVPN      = "vpn"
	StepRegister = "register"
	StepSIP      = "sip"
	StepCall     = "call"
)

// Event tells what the phone did or suffered. Err is set when the step failed; it wraps a *Refusal when the phone refused
// something of its peer.
type Event struct {
	Time time.Time
	Step string
	Text string
	Err  error
}

// String is the event as one line.
func (e Event) String() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Step, e.Text, e.Err)
	}
	return e.Step + ": " + e.Text
}

// Options describe one phone. Device, Model, Server and Dir are required.
type Options struct {
	Device string     // SEP and the MAC in upper-case hexadecimal
	Model  string     // 8851, 7965, …
	Server netip.Addr // provisioning server, as DHCP would tell
	Dir    string     // persistent flash: lists, LSC and key, last configuration

	// Ports are fixed in real phones: 6970, 6971 and 69. Zero keeps them.
	HTTPPort, HTTPSPort, TFTPPort int

	// Local is the phone's own address on the host network; the address of the route to the server when unset.
	Local netip.Addr
	// Net is where packets go when the phone is in the office; the machine's own stack when nil.
	Net Network

	// Outside says that the phone is not in the office whatever answers: with a VPN group in its last configuration and
	// autoNetDetect 1 it opens the VPN.
	Outside bool
	// VPNUser and VPNPassword are what the user types for authMethod 0 and 1.
	VPNUser, VPNPassword string

	// MIC is the manufacturing certificate, if the phone has one.
	MIC *tls.Certificate
	// CAPFCode is what the user types for capfAuthMode 1.
	CAPFCode string

	// Suites are the SRTP suites in order of preference; the model's when nil.
	Suites []string
	// Codecs are the names of the audio codecs in order of preference (PCMU, PCMA, G722); all of the model's when nil.
	Codecs []string
	// ToneHz is the tone that calls send, 1004 Hz when zero.
	ToneHz float64
	// MaxTLS lowers or raises the model's highest TLS version.
	MaxTLS uint16

	// BridgeStatus is what the phone answers the server that wants a copy of a call, in place of giving one.
	BridgeStatus int

	// StayDown keeps the phone from connecting again after a lost connection and from obeying restart and reset.
	StayDown bool

	Timers Timers
	Log    *slog.Logger
	// Events receives each event, in order; it must not block and must not call the phone.
	Events func(Event)
}

// Timers are the phone's patience. Zero values take the defaults of the pages.
type Timers struct {
	Transaction time.Duration // SIP request without final answer: 32 s
	Connect     time.Duration // TCP and TLS set-up: 10 s
	TFTP        time.Duration // first wait for a TFTP packet: 500 ms, doubling, 5 times
	HTTP        time.Duration // one file: 10 s
	CAPFRetry   time.Duration // between attempts at a broken enrolment: 30 s, 3 attempts
	KeepRetry   time.Duration // between attempts to reach a member again: 1 s, doubling to 30 s
	KeepAlive   time.Duration // between keep-alives to the other members; the configuration's when 0
}

func (t *Timers) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Transaction, 32*time.Second)
	set(&t.Connect, 10*time.Second)
	set(&t.TFTP, 500*time.Millisecond)
	set(&t.HTTP, 10*time.Second)
	set(&t.CAPFRetry, 30*time.Second)
	set(&t.KeepRetry, time.Second)
}

var deviceName = regexp.MustCompile(`^SEP[0-9A-F]{12}$`)

func (o *Options) validate() error {
	switch {
	case !deviceName.MatchString(o.Device):
		return fmt.Errorf("device %q: not SEP and twelve upper-case hexadecimal digits", o.Device)
	case !o.Server.IsValid():
		return errors.New("no server address")
	case o.Dir == "":
		return errors.New("no directory for the phone's flash")
	}
	if _, ok := models[o.Model]; !ok {
		return fmt.Errorf("model %q: not known", o.Model)
	}
	port := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	port(&o.HTTPPort, 6970)
	port(&o.HTTPSPort, 6971)
	port(&o.TFTPPort, 69)
	if o.ToneHz == 0 {
		o.ToneHz = 1004
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Timers.fill()
	return nil
}
