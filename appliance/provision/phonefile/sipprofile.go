package phonefile

import (
	"strconv"
	"strings"

	"ringfence/config"
)

// Values of featureID (provisioning.md §5).
const (
	featureSpeedDial = 2
	featureLine      = 9
	featureService   = 20
	featureBLF       = 21
	featurePark      = 22
)

func (p *phone) sipProfile(w *writer) {
	w.in("sipProfile", func() {
		w.in("sipProxies", func() {
			w.flag("registerWithProxy", true)
			for _, name := range []string{"backupProxy", "backupProxyPort", "emergencyProxy", "emergencyProxyPort", "outboundProxy", "outboundProxyPort"} {
				w.el(name, "")
			}
		})
		w.in("sipCallFeatures", func() {
			w.el("callForwardURI", "x-cisco-serviceuri-cfwdall")
			w.el("callPickupURI", "x-cisco-serviceuri-pickup")
			w.el("callPickupListURI", "x-cisco-serviceuri-opickup")
			w.el("callPickupGroupURI", "x-cisco-serviceuri-gpickup")
			w.el("meetMeServiceURI", "x-cisco-serviceuri-meetme")
			w.el("abbreviatedDialURI", "x-cisco-serviceuri-abbrdial")
			w.num("callHoldRingback", 1)
			w.flag("semiAttendedTransfer", true)
			w.num("anonymousCallBlock", p.encode("anonymousCallBlock", "off"))
			w.num("callerIdBlocking", p.encode("callerIdBlocking", "off"))
			w.flag("remoteCcEnable", true) // must be
			w.flag("rfc2543Hold", false)
			w.flag("cnfJoinEnabled", true)
			w.num("dndControl", 0)
			w.flag("localCfwdEnable", true)
			w.flag("retainForwardInformation", false)
			w.num("uriDialingDisplayPreference", 1)
		})
		w.in("sipStack", func() {
			w.num("sipInviteRetx", 6)
			w.num("sipRetx", 10)
			w.num("timerInviteExpires", 180)
			// What the registrar grants anyway, so that phone and server agree about it.
			w.num("timerRegisterExpires", max(60, int(p.Doc.SIP.RegisterExpires.D().Seconds())))
			w.num("timerRegisterDelta", 5)
			w.num("timerKeepAliveExpires", 120)
			w.num("timerSubscribeExpires", 120)
			w.num("timerSubscribeDelta", 5)
			w.num("timerT1", 500)
			w.num("timerT2", 4000)
			w.num("maxRedirects", 70)
			w.flag("remotePartyID", true) // must be
			w.el("userInfo", "Phone")
		})
		w.num("autoAnswerTimer", 1)
		w.flag("autoAnswerAltBehavior", false)
		w.flag("autoAnswerOverride", true)
		w.flag("transferOnhookEnabled", false)
		w.flag("enableVad", false)
		w.el("preferredCodec", "none")
		w.num("dtmfAvtPayload", 101)
		w.num("dtmfDbLevel", 3)
		w.el("dtmfOutofBand", "avt")
		w.flag("alwaysUsePrimeLine", false)
		w.flag("alwaysUsePrimeLineVoiceMail", false)
		w.num("kpml", 0) // otherwise every call dies on its first digit
		w.el("phoneLabel", p.label())
		w.num("stutterMsgWaiting", 0)
		w.flag("callStats", true)
		w.num("offhookToFirstDigitTimer", 15000)
		w.num("silentPeriodBetweenCallWaitingBursts", 10)
		w.flag("disableLocalSpeedDialConfig", false)
		w.num("startMediaPort", 16384)
		w.num("stopMediaPort", 32766)
		w.flag("natEnabled", false)
		w.flag("natReceivedProcessing", false)
		w.el("natAddress", "")
		w.in("sipLines", func() { p.keys(w) })
		w.el("externalNumberMask", "")
		w.num("voipControlPort", 5060)
		w.num("dscpForAudio", 184)
		w.num("dscpVideo", 136)
		w.num("ringSettingBusyStationPolicy", 0)
		w.el("dialTemplate", DialName(p.Device))
		w.el("softKeyFile", SoftKeyName(p.Device))
	})
}

// label is the text at the top of the screen: 12 characters, on a 7900 without blanks.
func (p *phone) label() string {
	s := p.declared.Label
	if s == "" && len(p.lines) > 0 {
		s = string(p.lines[0].Number)
	}
	if p.model.Series == "7900" {
		s = strings.Join(strings.Fields(s), "")
	}
	return limit(s, 12)
}

// keys writes lines first, in the order of their indexes, and then the declared keys: buttons run on over the expansion
// modules.
func (p *phone) keys(w *writer) {
	button := 0
	attrs := func(more ...string) []string {
		button++
		return append([]string{"button", strconv.Itoa(button)}, more...)
	}
	for i, l := range p.lines {
		w.in("line", func() { p.line(w, l, i == 0) }, attrs("lineIndex", strconv.Itoa(l.Index))...)
	}
	for _, k := range p.declared.Keys {
		w.in("line", func() { p.key(w, k) }, attrs()...)
	}
}

// line writes one line. Only the first one carries the credential: a phone holds one, and with another one here it would
// answer the challenge with the wrong user and register for ever (provisioning.md §5).
func (p *phone) line(w *writer, l *config.Line, first bool) {
	label := l.Label
	if label == "" {
		label = string(l.Number)
	}
	w.num("featureID", featureLine)
	w.el("featureLabel", limit(label, 30))
	w.el("proxy", "USECALLMANAGER") // an address here keeps the phone from registering
	w.num("port", 5060)             // also with TLS
	w.el("name", string(l.Number))
	w.el("displayName", limit(p.displayName(l), 30))
	w.in("autoAnswer", func() {
		w.num("autoAnswerEnabled", 0)
		w.el("autoAnswerMode", "")
	})
	w.num("callWaiting", p.encode("callWaiting", "on"))
	if first {
		w.el("authName", string(l.Number))
		w.el("authPassword", p.Password)
	}
	w.flag("sharedLine", len(l.Shared) > 0)
	w.num("messageWaitingLampPolicy", 3)
	w.num("messageWaitingAMWI", 0)
	messages := l.Voicemail
	if messages == "" {
		messages = p.Doc.Services.Voicemail
	}
	w.el("messagesNumber", string(messages))
	w.num("ringSettingIdle", 4)
	w.num("ringSettingActive", 5)
	w.in("forwardCallInfoDisplay", func() {
		for _, name := range []string{"callerName", "callerNumber", "redirectedNumber", "dialedNumber"} {
			w.flag(name, true)
		}
	})
	calls := max(1, l.MaxCalls)
	if p.model.MaxCalls > 0 {
		calls = min(calls, p.model.MaxCalls)
	}
	w.num("maxNumCalls", calls)
	w.num("busyTrigger", min(max(1, l.BusyAt), calls))
	recording := "disable"
	if l.Record != config.RecordNever && p.Offers&Record != 0 {
		recording = "enable"
	}
	w.el("recordingOption", recording)
}

func (p *phone) displayName(l *config.Line) string {
	if l.CallerID.Name != "" {
		return l.CallerID.Name
	}
	if u, ok := p.Doc.User(l.User); ok {
		return u.Name
	}
	return ""
}

// key writes a key that is not a line.
func (p *phone) key(w *writer, k config.Key) {
	label := func(fallback string) {
		s := k.Label
		if s == "" {
			s = fallback
		}
		w.el("featureLabel", limit(s, 30))
	}
	switch {
	case k.BLF != "":
		w.num("featureID", featureBLF)
		label(string(k.BLF))
		w.num("featureOptionMask", 1) // ringing state, and pickup by pressing it
		w.el("speedDialNumber", string(k.BLF))
	case k.Speed != "":
		w.num("featureID", featureSpeedDial)
		label(string(k.Speed))
		w.el("speedDialNumber", string(k.Speed))
	case k.Park != "":
		w.num("featureID", featurePark)
		label(string(k.Park))
		w.el("contact", string(k.Park))
		w.el("speedDialNumber", string(k.Park))
	default:
		w.num("featureID", featureService)
		label(k.URL)
		if strings.HasPrefix(strings.ToLower(k.URL), "https:") {
			w.el("secureServiceURI", k.URL)
		} else {
			w.el("serviceURI", k.URL)
		}
	}
}
