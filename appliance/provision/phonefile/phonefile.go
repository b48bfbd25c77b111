// Package phonefile renders the files of a phone from the declared document: the device file SEP<MAC>.cnf.xml, dial
// template, soft keys and feature policy (provisioning.md §4-9). It is pure: the same input gives the same bytes, no
// sockets, no clock, no logging.
//
// A phone drops a device file as a whole at the first thing that it cannot accept, without saying why. Therefore files
// come from one fixed template with one element order (§4.3 end), every text is escaped, and Lint looks for the known
// ways to go wrong; appliance/provision runs it before anything is served.
//
// Left out: locale and tone files, ring lists and wallpapers (they need uploads), application dial rules (one rule per
// length of number, which nobody declares), XMLDefault.cnf.xml (adoption of unknown phones).
package phonefile

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ringfence/config"
)

// Features are functions that the PBX offers by key; keys of others are left out of soft keys and feature policies, even
// where the document declares what they need.
type Features uint32

// Features. Redial, hold, resume, transfer, forward all and DND are there always.
const (
	Conference Features = 1 << iota
	Park
	Pickup
	HuntLogin
	MeetMe
	Record
	Divert
	CallBack
	QualityReport
	MaliciousCall
	AbbreviatedDial
)

// Appliance is one that the phone may use, in order of preference: for a pair, the home appliance first.
type Appliance struct {
	Address netip.Addr
	SIP     uint16 // TCP
	SIPS    uint16 // TLS
	TVS     uint16 // 0: none
	CAPF    uint16 // 0: none
}

// Input is what the files of one phone depend on.
type Input struct {
	Doc    *config.Document
	Device string
	// Password is the digest password: the declared one, or the generated one that is kept as state.
	Password string
	// VPNHashes are the values of certHash1 to 10: current and next certificate of every gateway.
	VPNHashes []string
	// Appliances are served to the phone as call servers, TVS and CAPF. From Doc.Node when empty.
	Appliances []Appliance
	// Offers are the functions that the PBX has.
	Offers Features
	// AuthMode is the <capfAuthMode> that CAPF expects of this phone now; 0 is that of Doc.PKI.LSC.Auth.
	AuthMode int
}

// Set is the files of one phone. Config holds the password; whether it may leave the appliance in clear is not decided
// here.
type Set struct {
	Config        []byte // SEP<MAC>.cnf.xml, complete
	Dial          []byte // see DialName
	SoftKeys      []byte // see SoftKeyName
	FeaturePolicy []byte // see FeatureName; nil where the model has none
	Stamps        Stamps
	// Warnings are what the administrator should know though the files are good.
	Warnings []string
}

// Stamps are the versionStamp values of the files, which a service-control notification compares (provisioning.md §1.3).
// A stamp changes exactly when the content of its file does.
type Stamps struct {
	Config, Dialplan, Softkey, Feature string
}

// ZeroStamp stands for a file that does not exist.
const ZeroStamp = "00000000-0000-0000-0000-000000000000"

// Names of the files that the device file points to. They hold the device's name, so that a request for one tells whose
// it is: the digest of its signature depends on the model (tlv.md §3).
func DialName(device string) string    { return "dial-" + device + ".xml" }
func SoftKeyName(device string) string { return "keys-" + device + ".xml" }
func FeatureName(device string) string { return "feat-" + device + ".xml" }

// FromNode is the appliance that a document describes.
func FromNode(n config.Node) Appliance {
	port := func(e config.Endpoint, fallback uint16) uint16 {
		if e.Off() || e.Port() == 0 {
			return fallback
		}
		return e.Port()
	}
	return Appliance{
		Address: n.Address,
		SIP:     port(n.Listen.SIPTCP, 5060),
		SIPS:    port(n.Listen.SIPTLS, 5061),
		TVS:     port(n.Listen.TVS, 0),
		CAPF:    port(n.Listen.CAPF, 0),
	}
}

// phone is the input resolved.
type phone struct {
	Input
	declared *config.Phone
	model    config.PhoneModel
	lines    []*config.Line
	warnings []string
}

// warn keeps a warning once: files are rendered twice, see stamped.
func (p *phone) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.warnings, text) {
		p.warnings = append(p.warnings, text)
	}
}

// Render makes the files of one phone.
func Render(in Input) (*Set, error) {
	p := &phone{Input: in}
	var ok bool
	if p.declared, ok = in.Doc.Phone(in.Device); !ok {
		return nil, fmt.Errorf("phone %s is not declared", in.Device)
	}
	if p.model, ok = config.Model(p.declared.Model); !ok {
		return nil, fmt.Errorf("phone %s: model %q is not known", in.Device, p.declared.Model)
	}
	p.lines = in.Doc.LinesOf(in.Device)
	if len(p.Appliances) == 0 {
		p.Appliances = []Appliance{FromNode(in.Doc.Node)}
	}
	p.Appliances = p.Appliances[:min(len(p.Appliances), 5)] // provisioning.md §4.2

	s := &Set{}
	var err error
	if s.Dial, s.Stamps.Dialplan, err = stamped(p.dialTemplate); err != nil {
		return nil, fmt.Errorf("phone %s: dial template: %w", in.Device, err)
	}
	if s.SoftKeys, s.Stamps.Softkey, err = stamped(p.softKeys); err != nil {
		return nil, fmt.Errorf("phone %s: soft keys: %w", in.Device, err)
	}
	s.Stamps.Feature = ZeroStamp
	if p.usesPolicy() {
		if s.FeaturePolicy, s.Stamps.Feature, err = stamped(p.featurePolicy); err != nil {
			return nil, fmt.Errorf("phone %s: feature policy: %w", in.Device, err)
		}
	}
	if s.Config, s.Stamps.Config, err = stamped(p.device); err != nil {
		return nil, fmt.Errorf("phone %s: device file: %w", in.Device, err)
	}
	s.Warnings = p.warnings
	return s, nil
}

// stamped renders a file without its stamp, derives the stamp from that, and renders it again with it.
func stamped(render func(stamp string) ([]byte, error)) ([]byte, string, error) {
	bare, err := render(ZeroStamp)
	if err != nil {
		return nil, "", err
	}
	stamp := Stamp(bare)
	b, err := render(stamp)
	return b, stamp, err
}

// Stamp derives a UUID (version 8, RFC 9562) from content.
func Stamp(content []byte) string {
	h := sha256.Sum256(content)
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// usesPolicy tells whether the model arranges keys by feature policy instead of soft keys (provisioning.md §14).
func (p *phone) usesPolicy() bool { return p.model.LayoutControl == "featurePolicy" }

// encrypted tells whether the phone uses TLS and SRTP.
func (p *phone) encrypted() bool { return p.declared.Security != config.SecurityNonsecure }

// enrols tells whether the phone gets a certificate of ours: for SIP over TLS, or for the VPN.
func (p *phone) enrols() bool { return p.encrypted() || p.declared.VPN != "" }

// limit cuts s to n characters; provisioning.md gives limits in characters.
func limit(s string, n int) string {
	r := []rune(strings.TrimSpace(s))
	if len(r) > n {
		r = r[:n]
	}
	return strings.TrimSpace(string(r))
}
