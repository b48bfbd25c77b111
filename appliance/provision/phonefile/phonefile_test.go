package phonefile

import (
	"bytes"
	"encoding/xml"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	phone8851 = "SEP001122AA0001"
	phone7965 = "SEP001122AA0002"
	phone9971 = "SEP001122AA0003"
)

func endpoint(s string) config.Endpoint { return config.Endpoint{AddrPort: netip.MustParseAddrPort(s)} }

// document declares three phones as a loaded file would, defaults filled in.
func document() *config.Document {
	line := func(number, user, phone string, index int) config.Line {
		return config.Line{Number: config.Digits(number), User: user, Phone: phone, Index: index, MaxCalls: 4, BusyAt: 2, Record: config.RecordOnDemand}
	}
	d := &config.Document{
		Node: config.Node{
			Name:    "ringfence",
			Address: netip.MustParseAddr("192.0.2.10"),
			Listen: config.Listen{
				SIPTCP: endpoint("0.0.0.0:5060"), SIPTLS: endpoint("0.0.0.0:5061"),
				TVS: endpoint("0.0.0.0:2445"), CAPF: endpoint("0.0.0.0:3804"),
			},
		},
		Site: config.Site{Name: "Example & Sons", Domain: "pbx.example.net", TimeZone: "Europe/Berlin", Language: "en", Date: "D.M.Y"},
		SIP:  config.SIP{RegisterExpires: config.Duration(120 * time.Second)},
		PKI:  config.PKI{LSC: config.LSCPolicy{Key: config.KeyAuto, Auth: config.CAPFNullString}, ITLVersion: config.ITLAuto},
		VPN: config.VPN{Enabled: true, Hosts: []string{"vpn.example.net", "203.0.113.7:8443"},
			Policies: []config.VPNPolicy{{ID: "phones", Pool: netip.MustParsePrefix("198.51.100.0/24"), MTU: 1290, Auth: []config.VPNAuth{config.VPNCertificate, config.VPNPassword}}}},
		Numbering: config.Numbering{Extensions: "3XX", OutsidePrefix: "9", Emergency: []config.Digits{"911", "112"}},
		Users: []config.User{
			{ID: "ada", Name: "Ada <Lovelace>", SpeedDials: map[string]config.Digits{"1": "302"}},
			{ID: "bob", Name: "Bob"},
		},
		Phones: []config.Phone{
			{Device: phone8851, Model: "8851", Label: "Front desk", Security: config.SecurityEncrypted, VPN: "phones", Modules: []string{"BEKEM"},
				Keys: []config.Key{{Label: "Bob", BLF: "303"}, {Speed: "95550100"}, {Label: "Slot 1", Park: "381"}, {Label: "Menu", URL: "https://www.example.net/menu?a=1&b=2"}}},
			{Device: phone7965, Model: "7965", Label: "Work shop", Security: config.SecurityNonsecure, Load: "SIP45.9-4-2SR3-1S",
				Keys: []config.Key{{BLF: "301"}, {Label: "News", URL: "http://www.example.net/news"}}},
			{Device: phone9971, Model: "9971", Security: config.SecurityEncrypted},
		},
		Lines: []config.Line{
			line("301", "ada", phone8851, 1), line("302", "ada", phone8851, 2),
			line("303", "bob", phone7965, 1), line("304", "bob", phone7965, 2),
			line("305", "", phone9971, 1),
		},
		Parking:  []config.ParkLot{{ID: "default", Slots: "381-389"}},
		Groups:   []config.Group{{Number: "370", Members: []config.Digits{"301", "303"}, LoginRequired: true}},
		Services: config.Services{Voicemail: "399", EchoTest: "700", Codes: map[string]string{"forward_on": "*72"}},
	}
	d.Lines[1].Label = `Sales "<&>" ` + strings.Repeat("x", 30)
	d.Lines[1].Voicemail = "398"
	d.Lines[0].Pickup.MayPick = []int{1}
	return d
}

func input(d *config.Document, device string) Input {
	return Input{Doc: d, Device: device, Password: "k7Qm2Vx9Rt", VPNHashes: []string{"YDXfSng5J7WqmKttrChP2npBKvY=", "JajiplTcUIVH8R39ujO4ne7XNWs="}}
}

func render(t testing.TB, in Input) *Set {
	t.Helper()
	s, err := Render(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Fatalf("%s line %d:\ngot  %s\nwant %s", name, i+1, g[i], w[i])
			}
		}
		t.Fatalf("%s: %d lines, want %d", name, len(g), len(w))
	}
}

func TestGolden(t *testing.T) {
	d := document()
	for _, device := range []string{phone8851, phone7965, phone9971} {
		in := input(d, device)
		s := render(t, in)
		p, _ := d.Phone(device)
		m, _ := config.Model(p.Model)
		if err := s.Lint(m, p.Modules); err != nil {
			t.Errorf("%s: lint: %v", device, err)
		}
		golden(t, m.Model+".cnf.xml", s.Config)
		golden(t, m.Model+"-dial.xml", s.Dial)
		golden(t, m.Model+"-keys.xml", s.SoftKeys)
		if s.FeaturePolicy != nil {
			golden(t, m.Model+"-feat.xml", s.FeaturePolicy)
		}
		in.Offers = ^Features(0)
		golden(t, m.Model+"-keys-all.xml", render(t, in).SoftKeys)
	}
}

// TestElementOrder compares the order of top-level elements with that of the working sample (provisioning.md §4.3 end).
func TestElementOrder(t *testing.T) {
	order := strings.Fields(`fullConfig deviceProtocol ipAddressMode devicePool TVS vpnGroup sipProfile MissedCallLoggingOption
		featurePolicyFile commonProfile vendorConfig versionStamp loadInformation addOnModules phoneServices userLocale networkLocale
		networkLocaleInfo deviceSecurityMode idleTimeout authenticationURL transportLayerProtocol TLSResumptionTimer phonePersonalization
		capfAuthMode capfList certHash encrConfig userId ownerId`)
	for _, device := range []string{phone8851, phone7965, phone9971} {
		root, err := parseXML(render(t, input(document(), device)).Config)
		if err != nil {
			t.Fatal(err)
		}
		last, seen := 0, make(map[string]bool)
		for _, e := range root.child {
			if seen[e.name] {
				t.Errorf("%s: %s twice", device, e.name)
			}
			seen[e.name] = true
			if i := slices.Index(order, e.name); i >= 0 {
				if i < last {
					t.Errorf("%s: %s stands after %s", device, e.name, order[last])
				}
				last = i
			}
		}
	}
}

func TestSecurityModes(t *testing.T) {
	for _, c := range []struct{ device, mode, transport, encr, capf string }{
		{phone8851, "3", "3", "true", "2"},
		{phone7965, "1", "1", "false", "0"},
	} {
		root, err := parseXML(render(t, input(document(), c.device)).Config)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{"deviceSecurityMode": c.mode, "transportLayerProtocol": c.transport, "encrConfig": c.encr, "capfAuthMode": c.capf, "certHash": ""} {
			if got := root.text1(path); got != want {
				t.Errorf("%s: %s is %q, want %q", c.device, path, got, want)
			}
		}
	}
}

func TestOneCredential(t *testing.T) {
	b := render(t, input(document(), phone8851)).Config
	if n := bytes.Count(b, []byte("k7Qm2Vx9Rt")); n != 1 {
		t.Errorf("password stands %d times", n)
	}
	if n := bytes.Count(b, []byte("<authName>301</authName>")); n != 1 || bytes.Count(b, []byte("<authName>")) != 1 {
		t.Error("not exactly the primary's authName")
	}
}

func TestStampsFollowContent(t *testing.T) {
	base := render(t, input(document(), phone8851))
	if again := render(t, input(document(), phone8851)); again.Stamps != base.Stamps || !bytes.Equal(again.Config, base.Config) {
		t.Error("same document, other files")
	}
	if !bytes.Contains(base.Config, []byte("<versionStamp>"+base.Stamps.Config+"</versionStamp>")) ||
		!bytes.Contains(base.Dial, []byte("<versionStamp>"+base.Stamps.Dialplan+"</versionStamp>")) ||
		!bytes.Contains(base.SoftKeys, []byte("<versionStamp>"+base.Stamps.Softkey+"</versionStamp>")) {
		t.Error("stamps are not those in the files")
	}
	for _, c := range []struct {
		name                  string
		change                func(*config.Document, *Input)
		config, dial, softkey bool // what changes
	}{
		{"label", func(d *config.Document, _ *Input) { d.Phones[0].Label = "Desk" }, true, false, false},
		{"password", func(_ *config.Document, in *Input) { in.Password = "other12345" }, true, false, false},
		{"emergency number", func(d *config.Document, _ *Input) { d.Numbering.Emergency = nil }, false, true, false},
		{"offered feature", func(_ *config.Document, in *Input) { in.Offers = Pickup }, false, false, true},
		{"another phone's label", func(d *config.Document, _ *Input) { d.Phones[1].Label = "x" }, false, false, false},
		{"gateway certificate", func(_ *config.Document, in *Input) { in.VPNHashes = in.VPNHashes[:1] }, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := document()
			in := input(d, phone8851)
			c.change(d, &in)
			s := render(t, in).Stamps
			if (s.Config != base.Stamps.Config) != c.config || (s.Dialplan != base.Stamps.Dialplan) != c.dial || (s.Softkey != base.Stamps.Softkey) != c.softkey {
				t.Errorf("got %+v, before %+v", s, base.Stamps)
			}
		})
	}
}

// TestHostileTexts declares texts full of markup: the files stay well-formed and say what was declared.
func TestHostileTexts(t *testing.T) {
	for _, text := range []string{`</featureLabel><x>`, `&amp;`, "a\x00b\x07c", "\xff\xfe", `"'<!--]]>`, "Zoë\u2028Ünï", "tab\tand\nline"} {
		d := document()
		d.Lines[0].Label, d.Users[0].Name, d.Site.Name, d.Phones[0].Label = text, text, text, text
		d.Phones[0].Keys[0].Label = text
		s := render(t, input(d, phone8851))
		for _, b := range [][]byte{s.Config, s.Dial, s.SoftKeys} {
			if _, err := parseXML(b); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
		root, err := parseXML(s.Config)
		if err != nil {
			continue
		}
		if got := len(root.find("sipProfile/sipLines").child); got != 6 {
			t.Errorf("%q: %d lines", text, got)
		}
	}
}

func TestLabelsAreCut(t *testing.T) {
	d := document()
	d.Phones[1].Label = "ab cd ef gh ij kl"
	root, err := parseXML(render(t, input(d, phone7965)).Config)
	if err != nil {
		t.Fatal(err)
	}
	if got := root.text1("sipProfile/phoneLabel"); got != "abcdefghijkl" {
		t.Errorf("7900 label %q", got)
	}
}

func TestRefusals(t *testing.T) {
	d := document()
	if _, err := Render(input(d, "SEP00112233FFFF")); err == nil {
		t.Error("an undeclared phone got files")
	}
	in := input(d, phone8851)
	in.Password = ""
	if _, err := Render(in); err == nil {
		t.Error("a phone without password got a file")
	}
	d.Phones[0].Model = "1234"
	if _, err := Render(input(d, phone8851)); err == nil {
		t.Error("an unknown model got a file")
	}
}

// TestEveryModel renders and lints each model with as many lines and keys as it has.
func TestEveryModel(t *testing.T) {
	for _, m := range config.Models() {
		for _, security := range []config.SecurityMode{config.SecurityEncrypted, config.SecurityNonsecure} {
			d := document()
			d.Phones[0] = config.Phone{Device: phone8851, Model: m.Model, Security: security}
			for range max(0, m.LineKeys-2) {
				d.Phones[0].Keys = append(d.Phones[0].Keys, config.Key{BLF: "303"})
			}
			if m.LineKeys == 1 {
				d.Lines = slices.Delete(d.Lines, 1, 2)
			}
			if m.VPN {
				d.Phones[0].VPN = "phones"
			}
			in := input(d, phone8851)
			in.Offers = ^Features(0)
			s := render(t, in)
			if err := s.Lint(m, nil); err != nil {
				t.Errorf("%s %s: %v", m.Model, security, err)
			}
			if got := bytes.Contains(s.Config, []byte("<vpnGroup>")); got != m.VPN {
				t.Errorf("%s: vpnGroup %v, the model has VPN %v", m.Model, got, m.VPN)
			}
		}
	}
}

func TestPairIsListedInOrder(t *testing.T) {
	in := input(document(), phone8851)
	in.Appliances = []Appliance{
		{Address: netip.MustParseAddr("192.0.2.10"), SIP: 5060, SIPS: 5061, TVS: 2445, CAPF: 3804},
		{Address: netip.MustParseAddr("192.0.2.11"), SIP: 5070, SIPS: 5071, TVS: 2445},
	}
	root, err := parseXML(render(t, in).Config)
	if err != nil {
		t.Fatal(err)
	}
	members := root.find("devicePool/callManagerGroup/members").child
	if len(members) != 2 || members[1].attr["priority"] != "1" || members[1].text1("callManager/ports/securedSipPort") != "5071" {
		t.Errorf("members: %d", len(members))
	}
	if got := len(root.find("TVS/members").child); got != 2 {
		t.Errorf("%d TVS", got)
	}
	if got := len(root.find("capfList").child); got != 1 {
		t.Errorf("%d CAPF", got)
	}
}

func TestZoneNames(t *testing.T) {
	for _, c := range []struct {
		iana, want string
		exact      bool
	}{
		{"Europe/Berlin", "W. Europe Standard/Daylight Time", true},
		{"Europe/Paris", "W. Europe Standard/Daylight Time", true}, // not Romance, whose offset is disputed
		{"Europe/Zurich", "W. Europe Standard/Daylight Time", true},
		{"Europe/Prague", "W. Europe Standard/Daylight Time", true},
		{"Europe/London", "GMT Standard/Daylight Time", true},
		{"America/New_York", "Eastern Standard/Daylight Time", true},
		{"America/Detroit", "Eastern Standard/Daylight Time", true},
		{"America/Phoenix", "US Mountain Standard Time", true},
		{"Asia/Tokyo", "Tokyo Standard Time", true},
		{"Asia/Seoul", "Tokyo Standard Time", true},
		{"Asia/Kolkata", "India Standard Time", true},
		{"Australia/Sydney", "AUS Eastern Standard/Daylight Time", true},
		{"Pacific/Auckland", "New Zealand Standard/Daylight Time", true},
		{"UTC", "Greenwich Standard Time", true},
		{"", "Greenwich Standard Time", true},
		{"Europe/Athens", "GTB Standard/Daylight Time", false},
		{"Asia/Kathmandu", "India Standard Time", false},
	} {
		got, exact, err := zoneName(c.iana)
		if err != nil || got != c.want || exact != c.exact {
			t.Errorf("%s: got %q %v %v, want %q %v", c.iana, got, exact, err, c.want, c.exact)
		}
	}
	if _, _, err := zoneName("Mars/Olympus"); err == nil {
		t.Error("a zone that does not exist")
	}
	for _, z := range zones() {
		if len(z.IANA) == 0 {
			t.Errorf("%s has no IANA zone", z.Name)
		}
	}
}

// lintConfig lints the 8851's file after replacing old by new in it.
func lintConfig(t *testing.T, model string, old, replacement string) error {
	t.Helper()
	device := map[string]string{"8851": phone8851, "7965": phone7965}[model]
	d := document()
	p, _ := d.Phone(device)
	b := render(t, input(d, device)).Config
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("file does not hold %q", old)
	}
	m, _ := config.Model(model)
	return LintConfig(m, p.Modules, bytes.Replace(b, []byte(old), []byte(replacement), 1))
}

func TestLintRows(t *testing.T) {
	for _, c := range []struct{ name, model, old, new, want string }{
		{"unescaped ampersand", "8851", "Front desk", "R & D", "not well-formed"},
		{"comment inside a tag", "8851", "<kpml>", "<kpml <!-- x -->>", "not well-formed"},
		{"two root elements", "8851", "</device>\n", "</device>\n<device></device>", "two root"},
		{"TVS opened twice", "8851", "</TVS>", "<TVS>", ""},
		{"document type", "8851", "<device>", "<!DOCTYPE device><device>", "document type"},
		{"text between elements", "8851", "<kpml>", "x<kpml>", "text between"},
		{"case of MissedCallLoggingOption", "8851", "<MissedCallLoggingOption>11</MissedCallLoggingOption>", "<missedCallLoggingOption>11</missedCallLoggingOption>", "written MissedCallLoggingOption"},
		{"case of alwaysUsePrimeLineVoiceMail", "8851", "<alwaysUsePrimeLineVoiceMail>false</alwaysUsePrimeLineVoiceMail>", "<alwaysUsePrimeLineVoicemail>false</alwaysUsePrimeLineVoicemail>", "written alwaysUsePrimeLineVoiceMail"},
		{"case of softKeyControl", "8851", "<softKeyControl>1</softKeyControl>", "<softkeyControl>1</softkeyControl>", "written softKeyControl"},
		{"case of TLSResumptionTimer", "8851", "<TLSResumptionTimer>3600</TLSResumptionTimer>", "<tlsResumptionTimer>3600</tlsResumptionTimer>", "written TLSResumptionTimer"},
		{"proxy with an address", "8851", "<proxy>USECALLMANAGER</proxy>", "<proxy>192.0.2.10</proxy>", "proxy is not"},
		{"kpml on", "8851", "<kpml>0</kpml>", "<kpml>1</kpml>", "kpml is not 0"},
		{"credentials on a second line", "8851", "<name>302</name>", "<name>302</name><authName>302</authName><authPassword>x</authPassword>", "credentials of its own"},
		{"no password", "8851", "<authPassword>k7Qm2Vx9Rt</authPassword>", "<authPassword></authPassword>", "needs authName"},
		{"password of 31", "8851", "k7Qm2Vx9Rt", strings.Repeat("x", 31), "at most 30"},
		{"label of 31", "8851", "<featureLabel>Bob</featureLabel>", "<featureLabel>" + strings.Repeat("x", 31) + "</featureLabel>", "more than 30"},
		{"phone label of 13", "8851", "<phoneLabel>Front desk</phoneLabel>", "<phoneLabel>1234567890123</phoneLabel>", "more than 12"},
		{"blank in the label of a 7900", "7965", "<phoneLabel>Workshop</phoneLabel>", "<phoneLabel>Work shop</phoneLabel>", "blanks"},
		{"time zone not exact", "8851", "W. Europe Standard/Daylight Time", "W. Europe Standard Time", "timeZone"},
		{"non-secure with TLS", "8851", "<deviceSecurityMode>3<", "<deviceSecurityMode>1<", "does not go with"},
		{"encrypted with TCP", "8851", "<transportLayerProtocol>3<", "<transportLayerProtocol>1<", "does not go with"},
		{"UDP", "7965", "<transportLayerProtocol>1<", "<transportLayerProtocol>2<", "transportLayerProtocol"},
		{"button above the keys", "7965", `button="4"`, `button="7"`, "keys 1 to 6"},
		{"button twice", "8851", `button="3"`, `button="1"`, "button 1 twice"},
		{"lineIndex twice", "8851", `lineIndex="2"`, `lineIndex="1"`, "lineIndex"},
		{"switch that is inverted", "8851", "<pcPort>0</pcPort>", "<pcPort>true</pcPort>", "0 is on"},
		{"sipLines outside sipProfile", "8851", "<vendorConfig>", "<vendorConfig><sipLines></sipLines>", "outside sipProfile"},
		{"load with .loads", "7965", "SIP45.9-4-2SR3-1S", "SIP45.9-4-2SR3-1S.loads", "ends in .loads"},
		{"BLF without number", "8851", "<speedDialNumber>303</speedDialNumber>", "", "no speedDialNumber"},
		{"busy trigger above calls", "8851", "<busyTrigger>2</busyTrigger>", "<busyTrigger>5</busyTrigger>", "busyTrigger"},
		{"more calls than the model", "7965", "<maxNumCalls>4</maxNumCalls>", "<maxNumCalls>51</maxNumCalls>", "maxNumCalls"},
		{"call waiting of another series", "8851", "<callWaiting>1</callWaiting>", "<callWaiting>3</callWaiting>", "coding"},
		{"stamp missing", "8851", "<versionStamp>", "<versionStamp>x", "not a UUID"},
		{"not UTF-8", "8851", "Front desk", "Caf\xe9", "UTF-8"},
		{"remote control off", "8851", "<remoteCcEnable>true<", "<remoteCcEnable>false<", "remoteCcEnable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := lintConfig(t, c.model, c.old, c.new); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLintOtherFiles(t *testing.T) {
	s := render(t, input(document(), phone8851))
	if err := LintDial(append(bytes.Clone(s.Dial), bytes.Repeat([]byte("\n"), MaxDialTemplate)...)); err == nil {
		t.Error("a dial template above 8191 bytes passed")
	}
	for _, c := range []struct{ old, new string }{{"TEMPLATE match", "template match"}, {`match="3..`, `match="3[2-9]`}, {`timeout="0"`, `timeout="now"`}} {
		b := bytes.Replace(s.Dial, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(b, s.Dial) {
			t.Fatalf("template does not hold %q", c.old)
		}
		if err := LintDial(b); err == nil {
			t.Errorf("%s passed", c.new)
		}
	}
	if err := LintSoftKeys(bytes.Replace(s.SoftKeys, []byte(`<softKey keyID="Redial"`), []byte(`<softKey keyID="Redail"`), 1)); err == nil {
		t.Error("an undefined soft key passed")
	}
}

func FuzzLint(f *testing.F) {
	s := render(f, input(document(), phone8851))
	for _, b := range [][]byte{s.Config, s.Dial, s.SoftKeys} {
		f.Add(b)
	}
	m, _ := config.Model("8851")
	f.Fuzz(func(t *testing.T, b []byte) {
		if LintConfig(m, nil, b) == nil {
			if err := xml.Unmarshal(b, new(struct{})); err != nil {
				t.Errorf("passed, but %v", err)
			}
		}
		_ = LintDial(b)
		_ = LintSoftKeys(b)
	})
}

func BenchmarkRender(b *testing.B) {
	in := input(document(), phone8851)
	for b.Loop() {
		if _, err := Render(in); err != nil {
			b.Fatal(err)
		}
	}
}
