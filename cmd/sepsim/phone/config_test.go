package phone

import (
	"strings"
	"testing"
)

func sampleConfig(replace ...string) string {
	values := []string{"@sip@", "5060", "@sips@", "5061", "@tvs@", "2445", "@vpn@", "", "@contact@", "", "@vendor@", "", "@mode@", "1",
		"@transport@", "1", "@capfmode@", "2", "@capf@", "", "@encr@", "false"}
	return strings.NewReplacer(replace...).Replace(strings.NewReplacer(values...).Replace(deviceTemplate))
}

// Each fault makes the phone drop all of the file (provisioning §4).
func TestConfigFaults(t *testing.T) {
	if _, err := parseConfig([]byte(sampleConfig()), models["8851"]); err != nil {
		t.Fatalf("the sample itself: %v", err)
	}
	for _, tc := range []struct{ name, model, old, new string }{
		{"two root elements", "8851", "</device>\n", "</device>\n<device/>\n"},
		{"document type", "8851", "<device>", "<!DOCTYPE device><device>"},
		{"comment inside a tag", "8851", "<fullConfig>", "<fullConfig <!-- x -->>"},
		{"unescaped ampersand", "8851", "<displayName>Ada", "<displayName>A & B"},
		{"element opened twice", "8851", "</TVS>", "<TVS>"},
		{"another root", "8851", "device>", "phone>"},
		{"wrong letter case", "8851", "deviceSecurityMode>", "deviceSecuritymode>"},
		{"wrong letter case of an option", "8851", "<webAccess>0</webAccess>", "<softkeyControl>1</softkeyControl>"},
		{"proxy with an address", "8851", "USECALLMANAGER", "192.0.2.1"},
		{"label of 31 characters", "8851", "<featureLabel>301", "<featureLabel>" + strings.Repeat("x", 31)},
		{"phone label of 13 characters", "8851", "<phoneLabel>Desk", "<phoneLabel>Front desk no"},
		{"phone label with a blank on a 7965", "7965", "<phoneLabel>Desk", "<phoneLabel>My desk"},
		{"TLS in non-secure mode", "8851", "<transportLayerProtocol>1", "<transportLayerProtocol>3"},
		{"TCP in encrypted mode", "8851", "<deviceSecurityMode>1", "<deviceSecurityMode>3"},
		{"UDP", "8851", "<transportLayerProtocol>1", "<transportLayerProtocol>2"},
		{"no security mode", "8851", "<deviceSecurityMode>1</deviceSecurityMode>", ""},
		{"key above the model's", "8851", `button="3"`, `button="6"`},
		{"same key twice", "8851", `button="3"`, `button="2"`},
		{"same line index twice", "8851", `lineIndex="2"`, `lineIndex="1"`},
		{"no line with index 1", "8851", `lineIndex="1"`, `lineIndex="3"`},
		{"lines outside sipProfile", "8851", "<sipLines>", "</sipProfile><sipProfile><sipLines>"},
		{"no call server", "8851", "<processNodeName>127.0.0.1</processNodeName>\n    </callManager>", "</callManager>"},
		{"member priority 7", "8851", `<members><member priority="0"><callManager>`, `<members><member priority="7"><callManager>`},
		{"not registering", "8851", "<registerWithProxy>true", "<registerWithProxy>false"},
		{"busy trigger above the calls", "8851", "<busyTrigger>2", "<busyTrigger>6"},
		{"port out of range", "8851", "<sipPort>5060", "<sipPort>70000"},
		{"SCCP", "8851", "<deviceProtocol>SIP", "<deviceProtocol>SCCP"},
		{"password of 31 characters", "8851", "k7Qm2Vx9Rt", strings.Repeat("x", 31)},
		{"nothing", "8851", sampleConfig(), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := sampleConfig(tc.old, tc.new)
			if b == sampleConfig() {
				t.Fatal("nothing was replaced")
			}
			c, err := parseConfig([]byte(b), models[tc.model])
			if err == nil {
				t.Errorf("accepted: %+v", c)
			}
		})
	}
	// Unknown well-formed elements are borne (provisioning §4.3).
	if _, err := parseConfig([]byte(sampleConfig("<fullConfig>", "<ctiid>7</ctiid><fullConfig>")), models["8851"]); err != nil {
		t.Error(err)
	}
}

func TestConfigValues(t *testing.T) {
	c, err := parseConfig([]byte(sampleConfig("<vendorConfig>", "<advertiseG722Codec>0</advertiseG722Codec><vendorConfig>",
		"<fullConfig>", "<vpnGroup><mtu>1290</mtu><authMethod>2</authMethod><addresses><url1>https://vpn.example.com/svc</url1></addresses><credentials><certHash1>YDXfSng5J7WqmKttrChP2npBKvY=</certHash1></credentials></vpnGroup><fullConfig>")), models["8851"])
	if err != nil {
		t.Fatal(err)
	}
	if c.Members[0].SIPPort != 5060 || c.TVS[0].Port != 2445 || c.VPN == nil || len(c.VPN.Hashes) != 1 || !c.VPN.AutoNetDetect || c.G722 ||
		c.Keys[0] != (Key{Button: 3, Feature: 21, Label: "Ben", Number: "302", OptionMask: 1}) {
		t.Errorf("%+v", c)
	}
	if u, p := c.digest(models["8851"]); u != "301" || p != "k7Qm2Vx9Rt" {
		t.Errorf("credentials %s", u)
	}
	// Credentials of its own on line 2 spoil the primary's (provisioning §5).
	c, err = parseConfig([]byte(sampleConfig("<name>311</name>", "<name>311</name><authName>311</authName><authPassword>x</authPassword>")), models["8851"])
	if err != nil {
		t.Fatal(err)
	}
	if u, _ := c.digest(models["8851"]); u != "311" {
		t.Errorf("credentials %s", u)
	}
	// Without authName a 7965 takes the line's name, an 8851 nothing (overview §4).
	c, _ = parseConfig([]byte(sampleConfig("<authName>301</authName>", "")), models["8851"])
	if u, _ := c.digest(models["7965"]); u != "301" {
		t.Errorf("7965: %q", u)
	}
	if u, _ := c.digest(models["8851"]); u != "" {
		t.Errorf("8851: %q", u)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(sampleConfig()))
	f.Add([]byte(`<device><fullConfig>false</fullConfig><certHash>x</certHash><encrConfig>true</encrConfig></device>`))
	f.Add([]byte("<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><device>\x80!</device>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b, models["8851"])
		if err == nil && c.Full {
			c.digest(models["8851"])
		}
		_, _ = parseDialTemplate(b)
	})
}
