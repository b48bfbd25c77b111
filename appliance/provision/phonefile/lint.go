package phonefile

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"ringfence/config"
)

// Lint checks every file of the set as a phone of the model would take it (provisioning.md §4 "Common errors"). The error
// joins all faults.
func (s *Set) Lint(m config.PhoneModel, modules []string) error {
	var errs []error
	for _, f := range []struct {
		kind    string
		content []byte
		check   func([]byte) error
	}{
		{"device file", s.Config, func(b []byte) error { return LintConfig(m, modules, b) }},
		{"dial template", s.Dial, LintDial},
		{"soft keys", s.SoftKeys, LintSoftKeys},
		{"feature policy", s.FeaturePolicy, lintPolicy},
	} {
		if f.content == nil {
			continue
		}
		if err := f.check(f.content); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.kind, err))
		}
	}
	return errors.Join(errs...)
}

// maxConfig bounds a device file; the largest real ones have 60 KiB.
const maxConfig = 256 << 10

// stampPattern is what a versionStamp looks like when we make it.
var stampPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// LintConfig checks a device file.
func LintConfig(m config.PhoneModel, modules []string, b []byte) error {
	if len(b) > maxConfig {
		return fmt.Errorf("%d bytes", len(b))
	}
	root, err := parseXML(b)
	if err != nil {
		return err
	}
	l := &lint{model: m}
	if root.name != "device" {
		return fmt.Errorf("root element is %s, not device", root.name)
	}
	l.known(root)
	for _, path := range []string{"deviceProtocol", "devicePool/dateTimeSetting/timeZone", "sipProfile/sipProxies/registerWithProxy",
		"sipProfile/dialTemplate", "deviceSecurityMode", "transportLayerProtocol", "versionStamp",
		"devicePool/callManagerGroup/members/member/callManager/processNodeName"} {
		if e := root.find(path); e == nil || e.text == "" {
			l.bad("%s is missing or empty", path)
		}
	}
	if s := root.text1("versionStamp"); !stampPattern.MatchString(s) {
		l.bad("versionStamp %q is not a UUID", s)
	}
	if z := root.text1("devicePool/dateTimeSetting/timeZone"); !knownZone(z) {
		l.bad("timeZone %q is not a name that phones know", z)
	}
	l.must(root, "deviceProtocol", "SIP")
	l.must(root, "sipProfile/sipProxies/registerWithProxy", "true")
	l.must(root, "sipProfile/sipCallFeatures/remoteCcEnable", "true")
	l.must(root, "sipProfile/sipStack/remotePartyID", "true")
	l.must(root, "sipProfile/kpml", "0")
	l.security(root)
	for _, name := range []string{"loadInformation", "inactiveLoadInformation"} {
		if s := root.text1(name); strings.HasSuffix(s, ".loads") {
			l.bad("%s ends in .loads", name)
		}
	}
	for _, name := range []string{"webAccess", "sshAccess", "pcPort", "spanToPCPort"} { // inverted: 0 is on
		if e := root.find("vendorConfig/" + name); e != nil && e.text != "0" && e.text != "1" && !(name == "webAccess" && e.text == "2") {
			l.bad("%s is %q; 0 is on, 1 is off", name, e.text)
		}
	}
	label := root.text1("sipProfile/phoneLabel")
	if utf8.RuneCountInString(label) > 12 {
		l.bad("phoneLabel %q has more than 12 characters", label)
	}
	if m.Series == "7900" && strings.Contains(label, " ") {
		l.bad("phoneLabel %q has blanks, which a 7900 does not take", label)
	}
	root.walk(func(e *node, parent *node) {
		if e.name == "sipLines" && (parent == nil || parent.name != "sipProfile") {
			l.bad("sipLines stands outside sipProfile")
		}
	})
	keys := m.LineKeys
	for _, name := range modules {
		if mod, ok := config.Module(name); ok {
			keys += mod.Keys
		}
	}
	if lines := root.find("sipProfile/sipLines"); lines != nil {
		l.lines(lines, keys)
	}
	return errors.Join(l.errs...)
}

// lint collects faults.
type lint struct {
	model config.PhoneModel
	errs  []error
}

func (l *lint) bad(format string, args ...any) { l.errs = append(l.errs, fmt.Errorf(format, args...)) }

func (l *lint) must(root *node, path, want string) {
	if e := root.find(path); e == nil || e.text != want {
		l.bad("%s is not %s", path, want)
	}
}

// known finds elements whose name differs from a known one in letter case alone; phones take them for another element.
func (l *lint) known(root *node) {
	root.walk(func(e, _ *node) {
		if right, ok := spellings[strings.ToLower(e.name)]; ok && right != e.name {
			l.bad("element %s is written %s", e.name, right)
		}
	})
}

func (l *lint) security(root *node) {
	mode, transport := root.text1("deviceSecurityMode"), root.text1("transportLayerProtocol")
	switch {
	case mode != "1" && mode != "2" && mode != "3":
		l.bad("deviceSecurityMode is %q", mode)
	case transport != "1" && transport != "3":
		l.bad("transportLayerProtocol is %q; 1 is TCP, 3 is TLS", transport)
	case (mode == "1") != (transport == "1"):
		l.bad("deviceSecurityMode %s does not go with transportLayerProtocol %s", mode, transport)
	}
}

func (l *lint) lines(lines *node, keys int) {
	buttons, indexes := make(map[int]bool), make(map[int]bool)
	var user, password string
	primary := false
	for _, e := range lines.child {
		if e.name != "line" {
			l.bad("%s among the lines", e.name)
			continue
		}
		button, err := strconv.Atoi(e.attr["button"])
		if err != nil || button < 1 || button > keys {
			l.bad("button %q: the phone has keys 1 to %d", e.attr["button"], keys)
		} else if buttons[button] {
			l.bad("button %d twice", button)
		}
		buttons[button] = true
		if s := e.text1("featureLabel"); utf8.RuneCountInString(s) > 30 {
			l.bad("button %d: label has more than 30 characters", button)
		}
		switch id := e.text1("featureID"); id {
		case "9", "23":
			index, err := strconv.Atoi(e.attr["lineIndex"])
			if err != nil || index < 1 || indexes[index] {
				l.bad("button %d: lineIndex %q", button, e.attr["lineIndex"])
			}
			indexes[index] = true
			if e.text1("proxy") != "USECALLMANAGER" {
				l.bad("button %d: proxy is not USECALLMANAGER", button)
			}
			l.calls(e, button)
			if !primary {
				primary = true
				user, password = e.text1("authName"), e.text1("authPassword")
				if user == "" || password == "" || utf8.RuneCountInString(password) > 30 {
					l.bad("button %d: the first line needs authName and authPassword of at most 30 characters", button)
				}
				continue
			}
			// A phone holds one credential (provisioning.md §5).
			if u, pw := e.text1("authName"), e.text1("authPassword"); u+pw != "" && (u != user || pw != password) {
				l.bad("button %d: a further line has credentials of its own", button)
			}
		case "2", "21", "22":
			if e.text1("speedDialNumber") == "" {
				l.bad("button %d: no speedDialNumber", button)
			}
		case "20":
			if e.text1("serviceURI")+e.text1("secureServiceURI") == "" {
				l.bad("button %d: no serviceURI", button)
			}
		case "":
			l.bad("button %d: no featureID", button)
		}
	}
}

func (l *lint) calls(e *node, button int) {
	calls, err := strconv.Atoi(e.text1("maxNumCalls"))
	if err != nil || calls < 1 || l.model.MaxCalls > 0 && calls > l.model.MaxCalls {
		l.bad("button %d: maxNumCalls %q", button, e.text1("maxNumCalls"))
	}
	if busy, err := strconv.Atoi(e.text1("busyTrigger")); err != nil || busy < 1 || busy > calls {
		l.bad("button %d: busyTrigger %q", button, e.text1("busyTrigger"))
	}
	if n, err := strconv.Atoi(e.text1("callWaiting")); err != nil || !l.encodes("callWaiting", n) {
		l.bad("button %d: callWaiting %q is not in this model's coding", button, e.text1("callWaiting"))
	}
}

func (l *lint) encodes(element string, n int) bool {
	for _, state := range []string{"off", "on", "off_locked", "on_locked"} {
		if v, ok := l.model.Encode(element, state); ok && v == n {
			return true
		}
	}
	return false
}

// LintDial checks a dial template.
func LintDial(b []byte) error {
	l := &lint{}
	if len(b) > MaxDialTemplate {
		l.bad("%d bytes, phones take %d", len(b), MaxDialTemplate)
	}
	root, err := parseXML(b)
	if err != nil {
		return err
	}
	if root.name != "dialTemplate" {
		l.bad("root element is %s", root.name)
	}
	for _, e := range root.child {
		switch e.name {
		case "versionStamp":
		case "TEMPLATE":
			if strings.Trim(e.attr["match"], `0123456789#*.,\`) != "" {
				l.bad("match %q", e.attr["match"])
			}
			if n, err := strconv.Atoi(e.attr["timeout"]); err != nil || n < 0 || n > 60 {
				l.bad("timeout %q", e.attr["timeout"])
			}
		default:
			l.bad("element %s; TEMPLATE is written in upper case", e.name)
		}
	}
	return errors.Join(l.errs...)
}

// LintSoftKeys checks a soft key file.
func LintSoftKeys(b []byte) error {
	root, err := parseXML(b)
	if err != nil {
		return err
	}
	l := &lint{}
	if root.name != "softKeyCfg" {
		l.bad("root element is %s", root.name)
	}
	defined := make(map[string]bool)
	if defs := root.find("typeSoftKey"); defs != nil {
		for _, e := range defs.child {
			defined[e.attr["keyID"]] = true
		}
	}
	if sets := root.find("softKeySets"); sets != nil {
		for _, set := range sets.child {
			if len(set.child) > 16 {
				l.bad("set %s has %d keys, phones take 16", set.attr["id"], len(set.child))
			}
			for _, k := range set.child {
				if !defined[k.attr["keyID"]] {
					l.bad("set %s: key %s is not defined", set.attr["id"], k.attr["keyID"])
				}
			}
		}
	}
	return errors.Join(l.errs...)
}

func lintPolicy(b []byte) error {
	root, err := parseXML(b)
	if err == nil && root.name != "featurePolicy" {
		err = fmt.Errorf("root element is %s", root.name)
	}
	return err
}

// node is an element.
type node struct {
	name  string
	attr  map[string]string
	text  string
	child []*node
}

// find follows a path of names below n; nil if there is none.
func (n *node) find(path string) *node {
	for name := range strings.SplitSeq(path, "/") {
		var next *node
		for _, c := range n.child {
			if c.name == name {
				next = c
				break
			}
		}
		if next == nil {
			return nil
		}
		n = next
	}
	return n
}

func (n *node) text1(path string) string {
	if e := n.find(path); e != nil {
		return e.text
	}
	return ""
}

func (n *node) walk(f func(e, parent *node)) {
	var visit func(e, parent *node)
	visit = func(e, parent *node) {
		f(e, parent)
		for _, c := range e.child {
			visit(c, e)
		}
	}
	visit(n, nil)
}

const maxDepth = 32

// parseXML reads a document strictly: well-formed, one root, no DTD or other instruction than the declaration, no text
// between elements, no element of one name twice where only one counts.
func parseXML(b []byte) (*node, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Strict = true
	top := &node{}
	stack := []*node{top}
	at := func() string {
		line, col := d.InputPos()
		return fmt.Sprintf("line %d column %d", line, col)
	}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("not well-formed: %w", err)
		}
		in := stack[len(stack)-1]
		switch t := t.(type) {
		case xml.StartElement:
			if len(stack) > maxDepth {
				return nil, fmt.Errorf("%s: elements nested too deeply", at())
			}
			if len(stack) == 1 && len(top.child) == 1 {
				return nil, fmt.Errorf("%s: two root elements", at())
			}
			if strings.TrimSpace(in.text) != "" {
				return nil, fmt.Errorf("%s: element %s inside the text of %s", at(), t.Name.Local, in.name)
			}
			e := &node{name: t.Name.Local, attr: make(map[string]string)}
			for _, a := range t.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			// TVS opened twice instead of closed is well-formed up to there; its twin inside shows it.
			if in.name == e.name {
				return nil, fmt.Errorf("%s: %s inside %s", at(), e.name, in.name)
			}
			in.child = append(in.child, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if s := string(t); strings.TrimSpace(s) != "" {
				if len(stack) == 1 || len(in.child) > 0 {
					return nil, fmt.Errorf("%s: text between elements", at())
				}
			}
			in.text += string(t)
		case xml.ProcInst:
			if t.Target != "xml" {
				return nil, fmt.Errorf("%s: processing instruction %s", at(), t.Target)
			}
		case xml.Directive:
			return nil, fmt.Errorf("%s: a document type", at())
		}
	}
	if len(top.child) != 1 {
		return nil, errors.New("no root element")
	}
	return top.child[0], nil
}

// spellings maps the lower-case form of each known element to its spelling.
var spellings = func() map[string]string {
	m := make(map[string]string)
	for name := range strings.FieldsSeq(knownElements) {
		m[strings.ToLower(name)] = name
	}
	for _, o := range vendorOptions {
		m[strings.ToLower(o.name)] = o.name
	}
	return m
}()

// knownElements are the elements of provisioning.md §4.3 outside vendorConfig, and those inside that we do not write.
const knownElements = `device fullConfig deviceProtocol versionStamp ipAddressMode allowAutoConfig dadEnable redirectEnable
echoMultiEnable ipPreferenceModeControl ipMediaAddressFamilyPreference devicePool revertPriority dateTimeSetting
dateTemplate timeZone ntps ntp ntpMode callManagerGroup members member callManager ports sipPort securedSipPort
ethernetPhonePort processNodeName srstInfo connectionMonitorDuration TVS address port vpnGroup mtu failConnectTime
authMethod pswdPersistent autoNetDetect enableHostIDCheck addresses url1 url2 url3 credentials hashAlg certHash1 certHash2
certHash3 certHash4 certHash5 certHash6 certHash7 certHash8 certHash9 certHash10 sipProfile sipProxies registerWithProxy
backupProxy backupProxyPort emergencyProxy emergencyProxyPort outboundProxy outboundProxyPort sipCallFeatures
callForwardURI callPickupURI callPickupListURI callPickupGroupURI meetMeServiceURI abbreviatedDialURI callHoldRingback
semiAttendedTransfer anonymousCallBlock callerIdBlocking remoteCcEnable rfc2543Hold cnfJoinEnabled dndControl
localCfwdEnable retainForwardInformation uriDialingDisplayPreference sipStack sipInviteRetx sipRetx timerInviteExpires
timerRegisterExpires timerRegisterDelta timerKeepAliveExpires timerSubscribeExpires timerSubscribeDelta timerT1 timerT2
maxRedirects remotePartyID userInfo autoAnswerTimer autoAnswerAltBehavior autoAnswerOverride transferOnhookEnabled
enableVad preferredCodec dtmfAvtPayload dtmfDbLevel dtmfOutofBand alwaysUsePrimeLine alwaysUsePrimeLineVoiceMail kpml
phoneLabel stutterMsgWaiting callStats offhookToFirstDigitTimer silentPeriodBetweenCallWaitingBursts
disableLocalSpeedDialConfig startMediaPort stopMediaPort natEnabled natReceivedProcessing natAddress sipLines line
featureID featureLabel proxy displayName autoAnswer autoAnswerEnabled autoAnswerMode callWaiting authName authPassword
contact sharedLine messageWaitingLampPolicy messageWaitingAMWI messagesNumber ringSettingIdle ringSettingActive
forwardCallInfoDisplay callerName callerNumber redirectedNumber dialedNumber maxNumCalls busyTrigger recordingOption
speedDialNumber speedDialIndex serviceURI secureServiceURI featureOptionMask retrievalPrefix externalNumberMask
voipControlPort dscpForAudio dscpVideo ringSettingBusyStationPolicy dialTemplate softKeyFile featurePolicyFile
MissedCallLoggingOption commonProfile phonePassword backgroundImageAccess callLogBlfEnabled defaultBackground
loadInformation inactiveLoadInformation vendorConfig addOnModules addOnModule deviceType deviceLine userLocale uid langCode
winCharSet networkLocale networkLocaleInfo deviceSecurityMode transportLayerProtocol TLSResumptionTimer capfAuthMode
capfList capf phonePort certHash encrConfig sshUserId sshPassword userId ownerId authenticationURL
secureAuthenticationURL messagesURL secureMessagesURL servicesURL secureServicesURL directoryURL secureDirectoryURL
informationURL secureInformationURL idleURL secureIdleURL idleTimeout proxyServerURL phoneServices provisioning
phoneService vendor phonePersonalization autoCallPickupEnable blfAudibleAlertSettingOfIdleStation
blfAudibleAlertSettingOfBusyStation dndCallAlert dndReminderTimer advertiseG722Codec rollover joinAcrossLines
singleButtonBarge defaultWallpaperFile adminPassword sshPort joinAndDirectTransferPolicy loadServer
problemReportUploadURL disableTLSCiphers sdio allCallsOnPrimary voiceVlanAccess cdpEnable applicationURL appButtonTimer
appButtonPriority specialNumbers loggingDisplay forwardingDelay`
