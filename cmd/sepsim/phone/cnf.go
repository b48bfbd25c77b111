package phone

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Config is what the phone takes from its device file (provisioning §4). A stub (enc.md) fills only Full, Load, CAPF*,
// CertHash and Encrypted.
type Config struct {
	Full         bool
	VersionStamp string
	Members      []Member
	TVS          []Node
	VPN          *VPNGroup

	Lines     []Line
	Keys      []Key
	Label     string
	Forward   string // user part for call forward all
	CallStats bool
	Semi      bool // semiAttendedTransfer
	OldHold   bool // rfc2543Hold

	RegisterExpires, RegisterDelta, InviteExpires int
	KeepAlive                                     int // of the standby, seconds

	AVTPayload          int
	MediaFirst, MediaTo int
	G722                bool
	KPML                int

	DialTemplate, SoftKeys, FeaturePolicy string
	UserLocale, NetworkLocale             string
	Load                                  string

	Security  int // deviceSecurityMode: 1 non-secure, 2 and 3 TLS
	Transport int // transportLayerProtocol: 1 TCP, 3 TLS

	CAPFMode  int
	CAPF      []Node
	CertHash  string
	Encrypted bool
}

// Node is a host and a port.
type Node struct {
	Host string
	Port int
}

// Member is one call server of the group.
type Member struct {
	Priority            int
	Host                string
	SIPPort, SecurePort int
}

// VPNGroup is how the phone reaches home from outside.
type VPNGroup struct {
	MTU, FailConnectTime, AuthMethod int
	AutoNetDetect, HostIDCheck       bool
	URLs                             []string
	HashAlg                          int
	Hashes                           []string
}

// Line is a featureID 9 or 23 key.
type Line struct {
	Button, Index          int
	Name, Display, Label   string
	AuthName, AuthPassword string
	Contact                string
	MaxCalls, BusyTrigger  int
	AutoAnswer             int
	Recording              bool // by the built-in bridge
	Messages               string
	Shared                 bool // other phones have it too
}

// Key is any other line key.
type Key struct {
	Button, Feature int
	Label, Number   string
	OptionMask      int
}

// fileFault makes the phone drop the whole file.
type fileFault struct{ text string }

func (f *fileFault) Error() string { return f.text }

func fault(format string, args ...any) error { return &fileFault{fmt.Sprintf(format, args...)} }

// parseConfig reads a device file or stub. Any fault drops all of it, as the phone does.
func parseConfig(b []byte, m manners) (*Config, error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, err
	}
	if root.name != "device" {
		return nil, fault("root element <%s>", root.name)
	}
	err = root.walk(func(e *element) error {
		if want, ok := elementNames[strings.ToLower(e.name)]; ok && want != e.name {
			return fault("<%s> is spelled <%s>", e.name, want)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := reader{root: root}
	c := &Config{
		Full:      strings.EqualFold(cmp.Or(root.get("fullConfig"), "true"), "true"),
		CAPFMode:  r.number("capfAuthMode", 0, 0, 4),
		CertHash:  root.get("certHash"),
		Encrypted: r.flag("encrConfig", false),
		Load:      root.get("loadInformation"),
	}
	for _, e := range root.child("capfList").all("capf") {
		n := reader{root: e}
		c.CAPF = append(c.CAPF, Node{Host: n.must("processNodeName"), Port: n.number("phonePort", 3804, 1, 65535)})
		r.join(n.err)
	}
	if len(c.CAPF) > 5 {
		r.fail("%d capf entries", len(c.CAPF))
	}
	if c.Full {
		r.full(c, m)
	}
	return c, r.err
}

// reader takes typed values out of a document and keeps the first fault.
type reader struct {
	root *element
	err  error
}

func (r *reader) fail(format string, args ...any) { r.join(fault(format, args...)) }

func (r *reader) join(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) number(path string, def, low, high int) int {
	s := r.root.get(path)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		r.fail("%s is %q, not %d to %d", path, s, low, high)
		return def
	}
	return n
}

func (r *reader) flag(path string, def bool) bool {
	switch s := r.root.get(path); strings.ToLower(s) {
	case "":
		return def
	case "true", "1":
		return true
	case "false", "0":
		return false
	default:
		r.fail("%s is %q, not true or false", path, s)
		return def
	}
}

func (r *reader) must(path string) string {
	s := r.root.get(path)
	if s == "" {
		r.fail("%s is missing", path)
	}
	return s
}

func (r *reader) limited(path string, most int) string {
	s := r.root.get(path)
	if n := len([]rune(s)); n > most {
		r.fail("%s has %d characters, more than %d", path, n, most)
	}
	return s
}

// full reads what only a full configuration has.
func (r *reader) full(c *Config, m manners) {
	if p := r.must("deviceProtocol"); p != "SIP" && p != "" {
		r.fail("deviceProtocol is %q", p)
	}
	c.VersionStamp = r.limited("versionStamp", 64)
	r.members(c)
	for _, e := range r.root.at("TVS/members").all("member") {
		n := reader{root: e}
		c.TVS = append(c.TVS, Node{Host: n.must("address"), Port: n.number("port", 2445, 1, 65535)})
		r.join(n.err)
	}
	if e := r.root.child("vpnGroup"); e != nil {
		c.VPN = r.vpn(e)
	}
	if r.root.at("sipProfile") == nil {
		r.fail("sipProfile is missing")
		return
	}
	if !r.flag("sipProfile/sipProxies/registerWithProxy", false) {
		r.fail("sipProfile/sipProxies/registerWithProxy is not true")
	}
	c.Forward = cmp.Or(r.root.get("sipProfile/sipCallFeatures/callForwardURI"), "x-cisco-serviceuri-cfwdall")
	c.Semi = r.flag("sipProfile/sipCallFeatures/semiAttendedTransfer", true)
	c.OldHold = r.flag("sipProfile/sipCallFeatures/rfc2543Hold", false)
	c.CallStats = r.flag("sipProfile/callStats", false)
	c.RegisterExpires = r.number("sipProfile/sipStack/timerRegisterExpires", 3600, 60, 86400)
	c.RegisterDelta = r.number("sipProfile/sipStack/timerRegisterDelta", 5, 0, 600)
	c.KeepAlive = r.number("sipProfile/sipStack/timerKeepAliveExpires", 120, 60, 3600)
	c.InviteExpires = r.number("sipProfile/sipStack/timerInviteExpires", 180, 60, 3600)
	c.AVTPayload = r.number("sipProfile/dtmfAvtPayload", 101, 96, 127)
	c.MediaFirst = r.number("sipProfile/startMediaPort", 16384, 1024, 65534)
	c.MediaTo = r.number("sipProfile/stopMediaPort", 32766, 1024, 65535)
	if c.MediaTo <= c.MediaFirst {
		r.fail("stopMediaPort is not above startMediaPort")
	}
	c.KPML = r.number("sipProfile/kpml", 0, 0, 3)
	c.Label = r.limited("sipProfile/phoneLabel", 12)
	if m.series == "7900" && strings.Contains(c.Label, " ") {
		r.fail("phoneLabel %q has a blank", c.Label)
	}
	c.DialTemplate = r.root.get("sipProfile/dialTemplate")
	c.SoftKeys = r.root.get("sipProfile/softKeyFile")
	c.FeaturePolicy = r.root.get("featurePolicyFile")
	c.UserLocale = r.root.get("userLocale/name")
	c.NetworkLocale = r.root.get("networkLocaleInfo/name")
	c.G722 = r.number("advertiseG722Codec", 2, 0, 2) != 0 && r.number("vendorConfig/g722CodecSupport", 0, 0, 2) != 1
	c.Security = r.number("deviceSecurityMode", 0, 1, 3)
	c.Transport = r.number("transportLayerProtocol", 0, 1, 4)
	switch {
	case c.Security == 0 || c.Transport == 0:
		r.fail("deviceSecurityMode or transportLayerProtocol is missing")
	case c.Transport == 2 || c.Transport == 4:
		r.fail("transportLayerProtocol is %d", c.Transport)
	case (c.Security > 1) != (c.Transport == 3):
		r.fail("deviceSecurityMode %d with transportLayerProtocol %d", c.Security, c.Transport)
	}
	r.lines(c, m)
}

func (r *reader) members(c *Config) {
	seen := make(map[int]bool)
	for _, e := range r.root.at("devicePool/callManagerGroup/members").all("member") {
		n := reader{root: e}
		prio, err := strconv.Atoi(e.attrs["priority"])
		if err != nil || prio < 0 || prio > 4 || seen[prio] {
			r.fail("member priority %q", e.attrs["priority"])
		}
		seen[prio] = true
		c.Members = append(c.Members, Member{
			Priority: prio, Host: n.must("callManager/processNodeName"),
			SIPPort:    n.number("callManager/ports/sipPort", 5060, 1, 65535),
			SecurePort: n.number("callManager/ports/securedSipPort", 5061, 1, 65535),
		})
		r.join(n.err)
	}
	if len(c.Members) == 0 {
		r.fail("no call server")
	}
	if r.root.at("devicePool/dateTimeSetting") == nil {
		r.fail("devicePool/dateTimeSetting is missing")
	}
	slices.SortStableFunc(c.Members, func(a, b Member) int { return a.Priority - b.Priority })
}

func (r *reader) vpn(e *element) *VPNGroup {
	n := reader{root: e}
	v := &VPNGroup{
		MTU:             n.number("mtu", 1290, 256, 1500),
		FailConnectTime: n.number("failConnectTime", 30, 1, 600),
		AuthMethod:      n.number("authMethod", 0, 0, 2),
		AutoNetDetect:   n.flag("autoNetDetect", true),
		HostIDCheck:     n.flag("enableHostIDCheck", false),
		HashAlg:         n.number("credentials/hashAlg", 0, 0, 1),
	}
	for i := 1; i <= 3; i++ {
		if u := n.limited("addresses/url"+strconv.Itoa(i), 255); u != "" {
			v.URLs = append(v.URLs, u)
		}
	}
	for i := 1; i <= 10; i++ {
		if h := n.root.get("credentials/certHash" + strconv.Itoa(i)); h != "" {
			v.Hashes = append(v.Hashes, h)
		}
	}
	r.join(n.err)
	return v
}

func (r *reader) lines(c *Config, m manners) {
	keys := m.lineKeys
	for _, e := range r.root.child("addOnModules").all("addOnModule") {
		n := reader{root: e}
		keys += n.number("deviceLine", 0, 1, 36)
		r.join(n.err)
	}
	buttons, indexes := make(map[int]bool), make(map[int]bool)
	for _, e := range r.root.at("sipProfile/sipLines").all("line") {
		n := reader{root: e}
		button, err := strconv.Atoi(e.attrs["button"])
		if err != nil || button < 1 || button > keys || buttons[button] {
			r.fail("line key %q of a phone with %d keys", e.attrs["button"], keys)
		}
		buttons[button] = true
		feature := n.number("featureID", 0, 1, 255)
		label := n.limited("featureLabel", 30)
		if feature != 9 && feature != 23 {
			c.Keys = append(c.Keys, Key{
				Button: button, Feature: feature, Label: label, Number: n.limited("speedDialNumber", 255),
				OptionMask: n.number("featureOptionMask", 0, 0, 255),
			})
			r.join(n.err)
			continue
		}
		index, err := strconv.Atoi(e.attrs["lineIndex"])
		if err != nil || index < 1 || indexes[index] {
			r.fail("lineIndex %q", e.attrs["lineIndex"])
		}
		indexes[index] = true
		if proxy := n.root.get("proxy"); proxy != "USECALLMANAGER" {
			r.fail("proxy is %q: the line would never register", proxy)
		}
		l := Line{
			Button: button, Index: index, Name: n.must("name"), Display: n.limited("displayName", 30), Label: label,
			AuthName: n.limited("authName", 30), AuthPassword: n.limited("authPassword", 30),
			Contact: n.limited("contact", 64), Messages: n.root.get("messagesNumber"),
			MaxCalls: n.number("maxNumCalls", 5, 1, 200), BusyTrigger: n.number("busyTrigger", 4, 1, 200),
			AutoAnswer: n.number("autoAnswer/autoAnswerEnabled", 0, 0, 3), Shared: n.root.get("sharedLine") == "true", Recording: n.root.get("recordingOption") == "enable",
		}
		if l.BusyTrigger > l.MaxCalls {
			n.fail("busyTrigger %d above maxNumCalls %d", l.BusyTrigger, l.MaxCalls)
		}
		c.Lines = append(c.Lines, l)
		r.join(n.err)
	}
	slices.SortFunc(c.Lines, func(a, b Line) int { return a.Index - b.Index })
	if r.err == nil && (len(c.Lines) == 0 || c.Lines[0].Index != 1) {
		r.join(errors.New("no line with lineIndex 1"))
	}
}

// digest gives the one credential that a phone holds. Values of its own on a secondary line displace the primary's, which
// makes the phone answer with the wrong user (provisioning §5).
func (c *Config) digest(m manners) (user, password string) {
	user, password = c.Lines[0].AuthName, c.Lines[0].AuthPassword
	if user == "" && m.series == "7900" {
		user = c.Lines[0].Name // overview §4: the 7900 falls back to the line name, an 8841 sends an empty user
	}
	for _, l := range c.Lines[1:] {
		if l.AuthName != "" && l.AuthName != user {
			user, password = l.AuthName, l.AuthPassword
		}
	}
	return user, password
}
