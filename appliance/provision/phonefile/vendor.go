package phonefile

import (
	"slices"
	"strings"
)

// option is one element of vendorConfig with its value and who knows it: series (8800), models (8861), nobody for all.
type option struct {
	name, value string
	models      string
}

// vendorOptions are the model options in the order of provisioning.md §4.3 with its defaults, except where a comment says
// otherwise. Left out are those that are undocumented, disputed (voiceVlanAccess), or need a value that nobody declares.
var vendorOptions = []option{
	{"disableSpeaker", "false", ""},
	{"disableSpeakerAndHeadset", "false", ""},
	{"enableMuteFeature", "false", ""},
	{"enableGroupListen", "true", ""},
	{"g722CodecSupport", "2", ""},
	{"holdResumeKey", "0", "7800 8800"},
	{"recentsSoftKey", "1", "7800"},
	{"handsetWidebandEnable", "2", ""},
	{"headsetWidebandEnable", "2", ""},
	{"headsetWidebandUIControl", "1", ""},
	{"handsetWidebandUIControl", "1", ""},
	{"settingsAccess", "1", ""},
	{"videoCapability", "0", ""},
	{"separateMute", "0", "9900"},
	{"hideVideoByDefault", "0", "8900 9900"},
	{"ciscoCamera", "0", ""},
	// Off (the switch is inverted). With an empty authenticationURL a phone whose web server is on takes every push from
	// everybody.
	{"webAccess", "1", ""},
	{"webProtocol", "0", ""},
	{"tls12Only", "0", ""},
	{"webAdmin", "1", "8821"},
	{"sshAccess", "1", ""}, // off (inverted)
	{"displayRefreshRate", "0", ""},
	{"daysDisplayNotActive", "1,7", ""},
	{"displayOnTime", "08:00", ""},
	{"displayOnDuration", "10:00", ""},
	{"displayIdleTimeout", "00:10", ""},
	{"displayOnWhenIncomingCall", "1", ""},
	{"daysBacklightNotActive", "1,7", ""},
	{"backlightOnTime", "08:00", ""},
	{"backlightOnDuration", "10:00", ""},
	{"backlightIdleTimeout", "00:10", ""},
	{"backlightOnWhenIncomingCall", "1", ""},
	{"recordingTone", "0", ""},
	{"recordingToneLocalVolume", "100", ""},
	{"recordingToneRemoteVolume", "50", ""},
	{"recordingToneDuration", "", ""},
	{"moreKeyReversionTimer", "5", ""},
	{"autoSelectLineEnable", "1", ""},
	{"autoCallSelect", "1", ""},
	{"incomingCallToastTimer", "5", ""},
	{"minimumRingVolume", "", ""},
	{"adminConfigurableRinger", "0", ""},
	{"simplifiedNewCall", "0", "7800 8800 8900 9900"},
	{"actionableAlert", "0", "7800 8800 8900 9900"},
	{"softKeyControl", "1", "7800 8800"}, // soft key file; 9900 models are arranged by feature policy
	{"softKeyControl", "0", "9900"},
	{"peerFirmwareSharing", "1", ""},
	{"detectCMConnectionFailure", "0", ""},
	{"rtcp", "1", ""},
	{"videoRtcp", "1", ""},
	{"garp", "0", ""},
	{"bluetooth", "1", "8845 8851 8861 8865 8945 9951 9971"},
	{"bluetoothProfile", "0,1", "8845 8851 8861 8865 8945 9951 9971"},
	{"btpbap", "0", "8845 8851 8861 8865 8945 9951 9971"},
	{"bthfu", "0", "8845 8851 8861 8865 8945 9951 9971"},
	{"wifi", "1", "8861 8865 9971"},
	{"usb1", "1", ""},
	{"usb2", "1", ""},
	{"usbClasses", "0,1,2", ""},
	{"ehookEnable", "0", ""},
	{"kemOneColumn", "0", ""},
	{"lineMode", "0", "7800 8800"},
	{"callParkMonitor", "1", "7800 8800"},
	{"showCallHistoryForSelectedLine", "0", ""},
	{"dialToneFromReleaseKey", "0", ""},
	{"markCallAsSpam", "0", "7800 8800"}, // off: nobody listens to the report
	{"lowerYourVoiceAlert", "0", "7800 8800"},
	{"dfBit", "0", ""},
	{"pcPort", "0", ""},       // on (inverted)
	{"spanToPCPort", "1", ""}, // off (inverted)
	{"enableCdpSwPort", "1", ""},
	{"enableCdpPcPort", "0", ""},
	{"enableLldpSwPort", "1", ""},
	{"enableLldpPcPort", "0", ""},
	{"powerNegotiation", "0", ""},
	{"eapAuthentication", "1", ""},
	{"accessContacts", "1", "8821"},
	{"accessFavorites", "1", "8821"},
	{"accessVoicemail", "1", "8821"},
	{"accessApps", "1", "8821"},
	{"homeScreen", "1", "8821"},
	{"sendKeyAction", "1", "8821"},
	{"outOfRangeAlert", "1", "8821"},
	{"scanningMode", "2", "8821"},
	{"powerOffWhenCharging", "0", "8821"},
}

func (p *phone) vendorConfig(w *writer) {
	w.in("vendorConfig", func() {
		for _, o := range vendorOptions {
			if o.models != "" {
				who := strings.Fields(o.models)
				if !slices.Contains(who, p.model.Series) && !slices.Contains(who, p.model.Model) {
					continue
				}
			}
			w.el(o.name, o.value)
		}
	})
}
