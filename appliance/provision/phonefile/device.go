package phonefile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ringfence/config"
)

// device renders SEP<MAC>.cnf.xml in the element order of the working sample (provisioning.md §4.3 end). Values that are
// not derived from the document are the defaults of §4.3; a comment stands where we differ.
func (p *phone) device(stamp string) ([]byte, error) {
	if p.Password == "" && len(p.lines) > 0 {
		return nil, errors.New("no password")
	}
	zone, exact, err := zoneName(p.Doc.Site.TimeZone)
	if err != nil {
		return nil, err
	}
	if !exact {
		p.warn("phones know no zone that is certainly %s; they get %q, check their clock", p.Doc.Site.TimeZone, zone)
	}
	w := newWriter()
	w.begin("device")
	w.flag("fullConfig", true)
	w.el("deviceProtocol", "SIP")
	w.num("ipAddressMode", 0)
	w.flag("allowAutoConfig", true)
	w.flag("dadEnable", true)
	w.flag("redirectEnable", false)
	w.flag("echoMultiEnable", false)
	w.num("ipPreferenceModeControl", 0)
	w.num("ipMediaAddressFamilyPreference", 0)
	p.devicePool(w, zone)
	p.tvs(w)
	p.vpnGroup(w)
	p.sipProfile(w)
	w.el("MissedCallLoggingOption", strings.Repeat("1", len(p.lines)))
	if p.usesPolicy() {
		w.el("featurePolicyFile", FeatureName(p.Device))
	}
	w.in("commonProfile", func() {
		w.el("phonePassword", "")
		w.flag("backgroundImageAccess", true)
		w.num("callLogBlfEnabled", p.encode("callLogBlfEnabled", "on"))
	})
	p.vendorConfig(w)
	w.el("versionStamp", stamp)
	if p.declared.Load != "" {
		w.el("loadInformation", p.declared.Load)
	}
	p.addOnModules(w)
	p.phoneServices(w)
	w.in("userLocale", func() { // the built-in one: locale packages are uploads
		w.el("name", "")
		w.num("uid", 1)
		w.el("langCode", "en_US")
		w.el("version", "")
		w.el("winCharSet", "utf-8")
	})
	w.el("networkLocale", "")
	w.in("networkLocaleInfo", func() {
		w.el("name", "")
		w.el("version", "")
	})
	mode, transport := 1, 1
	if p.encrypted() {
		mode, transport = 3, 3
	}
	w.num("deviceSecurityMode", mode)
	w.num("idleTimeout", 0)
	for _, name := range []string{"authenticationURL", "secureAuthenticationURL", "messagesURL", "secureMessagesURL",
		"servicesURL", "secureServicesURL", "directoryURL", "secureDirectoryURL"} {
		w.el(name, "")
	}
	if p.model.Series == "7900" {
		w.el("informationURL", "")
		w.el("secureInformationURL", "")
	}
	w.el("idleURL", "")
	w.el("secureIdleURL", "")
	w.el("proxyServerURL", "")
	w.num("transportLayerProtocol", transport)
	w.num("TLSResumptionTimer", 3600)
	w.num("phonePersonalization", 1)
	w.flag("autoCallPickupEnable", true)
	w.num("blfAudibleAlertSettingOfIdleStation", 0)
	w.num("blfAudibleAlertSettingOfBusyStation", 0)
	w.num("dndCallAlert", 1)
	w.num("dndReminderTimer", 5)
	w.num("advertiseG722Codec", 2)
	w.num("rollover", 0)
	w.num("joinAcrossLines", 0)
	p.capf(w)
	w.el("certHash", "")
	w.flag("encrConfig", p.encrypted())
	w.el("userId", "")
	w.el("ownerId", "")
	w.end()
	return w.bytes(), nil
}

func (p *phone) devicePool(w *writer, zone string) {
	w.in("devicePool", func() {
		w.in("dateTimeSetting", func() {
			w.el("dateTemplate", p.Doc.Site.Date)
			w.el("timeZone", zone)
			w.in("ntps", func() {
				hosts := p.Doc.Site.NTP
				if len(hosts) == 0 {
					for _, a := range p.Appliances {
						hosts = append(hosts, config.Host(a.Address.String()))
					}
				}
				for _, h := range hosts {
					w.in("ntp", func() {
						w.el("name", string(h))
						w.el("ntpMode", "unicast")
					})
				}
			})
		})
		w.in("callManagerGroup", func() {
			w.in("members", func() {
				for i, a := range p.Appliances {
					w.in("member", func() {
						w.in("callManager", func() {
							w.in("ports", func() {
								w.num("sipPort", int(a.SIP))
								w.num("securedSipPort", int(a.SIPS))
							})
							w.el("processNodeName", a.Address.String())
						})
					}, "priority", strconv.Itoa(i))
				}
			})
		})
	})
}

// tvs names the servers that vouch for certificates which the trust list does not hold.
func (p *phone) tvs(w *writer) {
	servers := slices.DeleteFunc(slices.Clone(p.Appliances), func(a Appliance) bool { return a.TVS == 0 })
	if len(servers) == 0 {
		return
	}
	w.in("TVS", func() {
		w.in("members", func() {
			for i, a := range servers {
				w.in("member", func() {
					w.num("port", int(a.TVS))
					w.el("address", a.Address.String())
				}, "priority", strconv.Itoa(i))
			}
		})
	})
}

// vpnGroup is written for phones that may log in from outside. At start they ping their TFTP server and open the tunnel
// when nothing answers (autoNetDetect).
func (p *phone) vpnGroup(w *writer) {
	if p.declared.VPN == "" || !p.Doc.VPN.Enabled || !p.model.VPN {
		return
	}
	policy, ok := p.Doc.Policy(p.declared.VPN)
	if !ok || len(p.Doc.VPN.Hosts) == 0 {
		p.warn("it may use the VPN, but vpn.hosts names no address: its file has no VPN")
		return
	}
	method, path := 0, "svc" // user and password: the policy is the person's
	switch {
	case slices.Contains(policy.Auth, config.VPNCertificate):
		method, path = 2, policy.ID
	case !p.declared.VPNPass.Empty():
		method, path = 1, policy.ID // the password alone, and the phone's own name
	}
	w.in("vpnGroup", func() {
		w.num("mtu", policy.MTU)
		w.num("failConnectTime", 30)
		w.num("authMethod", method)
		w.num("pswdPersistent", 1)
		w.num("autoNetDetect", 1)
		w.num("enableHostIDCheck", 0)
		w.in("addresses", func() {
			for i, host := range p.Doc.VPN.Hosts[:min(len(p.Doc.VPN.Hosts), 3)] {
				w.el(fmt.Sprintf("url%d", i+1), "https://"+host+"/"+path)
			}
		})
		w.in("credentials", func() {
			w.num("hashAlg", 0) // SHA-1, the only documented value (certhash.md)
			for i, h := range p.VPNHashes[:min(len(p.VPNHashes), 10)] {
				w.el(fmt.Sprintf("certHash%d", i+1), h)
			}
		})
	})
}

func (p *phone) addOnModules(w *writer) {
	if len(p.declared.Modules) == 0 {
		return
	}
	w.in("addOnModules", func() {
		for i, name := range p.declared.Modules {
			m, ok := config.Module(name)
			if !ok {
				continue
			}
			w.in("addOnModule", func() {
				w.el("deviceType", name)
				w.num("deviceLine", m.Keys)
			}, "idx", strconv.Itoa(i+1))
		}
	})
}

// phoneServices are the menus that need no server.
func (p *phone) phoneServices(w *writer) {
	w.in("phoneServices", func() {
		w.num("provisioning", 2)
		for _, s := range []struct{ kind, name, url string }{
			{"1", "Missed Calls", "Application:Cisco/MissedCalls"},
			{"1", "Received Calls", "Application:Cisco/ReceivedCalls"},
			{"1", "Placed Calls", "Application:Cisco/PlacedCalls"},
			{"2", "Voicemail", "Application:Cisco/Voicemail"},
		} {
			w.in("phoneService", func() {
				w.el("name", s.name)
				w.el("url", s.url)
				w.el("vendor", "")
				w.el("version", "")
			}, "type", s.kind, "category", "0")
		}
	}, "useHTTPS", "false")
}

// capfAuthModes are the values of capfAuthMode (provisioning.md §4.3): what proof CAPF asks for.
var capfAuthModes = map[config.CAPFAuth]int{
	config.CAPFCode: 1, config.CAPFNullString: 2, config.CAPFLSC: 3, config.CAPFMIC: 4,
}

func (p *phone) capf(w *writer) {
	servers := slices.DeleteFunc(slices.Clone(p.Appliances), func(a Appliance) bool { return a.CAPF == 0 })
	if !p.enrols() || len(servers) == 0 {
		w.num("capfAuthMode", 0)
		w.el("capfList", "")
		return
	}
	mode, ok := capfAuthModes[p.Doc.PKI.LSC.Auth]
	switch {
	case p.AuthMode != 0:
		mode = p.AuthMode
	case !ok:
		mode = 2
	}
	w.num("capfAuthMode", mode)
	w.in("capfList", func() {
		for _, a := range servers {
			w.in("capf", func() {
				w.num("phonePort", int(a.CAPF))
				w.el("processNodeName", a.Address.String())
			})
		}
	})
}

// encode gives the number of an element whose coding differs between series. The same number means different things: 1 is
// on for a 7900 and off for a 9971 (provisioning.md §4).
func (p *phone) encode(element, state string) int {
	n, _ := p.model.Encode(element, state)
	return n
}
