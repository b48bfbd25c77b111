package cisco

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type message interface {
	Marshal() []byte
	Unmarshal([]byte) error
}

var unexported = cmpopts.EquateComparable(OptionsInd{})

// TestGoldens compares with the examples of the protocol pages, byte for byte, and reads them back.
func TestGoldens(t *testing.T) {
	dialogID := DialogID{CallID: "497b1f120beadc62@10.20.0.5", LocalTag: "ph565855970", RemoteTag: "as1ec073bd"}
	options20 := ServerOptions()
	options20.BLF.Subscribe, options20.ForwardAnyLine, options20.forwardAnyLineConfirmed = false, false, false
	for _, tt := range []struct {
		file string
		m    message
		into message
	}{
		{"dndupdate.xml", &Request{DND: &DNDUpdate{On: true, Reject: true}}, &Request{}},
		{"hlogupdate.xml", &Request{HuntLogin: &HuntLoginUpdate{On: true}}, &Request{}},
		{"cfwdallupdate.xml", &Request{Forward: &ForwardUpdate{Line: 1, Target: "2003"}}, &Request{}},
		{"bulkupdate.xml", &Request{Bulk: &BulkUpdate{Lines: []BulkLine{
			{Line: 1, New: 3, Old: 1}, {Line: 2, Target: "8500", ToVoicemail: true},
		}}}, &Request{}},
		{"answercallreq.xml", &Request{Answer: &AnswerCall{dialogID}}, &Request{}},
		{"pidf-alerting.xml", &Presence{Entity: "sip:2002@10.20.0.5", Activity: Alerting, Open: true, Tuple: 4, Known: true}, &Presence{}},
		{"offhook.xml", &DialogInfo{Version: 1, Entity: "sip:2001@10.20.0.5", Dialogs: []Dialog{{ID: "2001", State: "trying"}}}, &DialogInfo{}},
		{"shared.xml", &DialogInfo{Version: 3, Full: true, Entity: "sip:302@192.0.2.10", Dialogs: []Dialog{
			{ID: "L7", CallID: "001122aa-0001@192.0.2.51", LocalTag: "ph1", RemoteTag: "rf1", Direction: "initiator", State: "confirmed",
				Local: &Participant{URI: "sip:302@192.0.2.10", Held: true}, Remote: &Participant{Name: "Ada <&>", URI: "sip:301@192.0.2.10"}},
			{ID: "L9", CallID: "rf-2@192.0.2.10", LocalTag: "ph2", RemoteTag: "rf2", Direction: "recipient", State: "terminated"},
		}}, &DialogInfo{}},
		{"privacyreq.xml", &Request{Privacy: &PrivacyUpdate{On: true}}, &Request{}},
		{"mwi.txt", &MessageSummary{New: 2, Account: "sip:8500@10.20.0.5"}, &MessageSummary{}},
		{"service-control.txt", &ServiceControl{
			Action: "restart", RegisterCallID: "02aa11bb-22c10002-0a1b2c3d-4e5f6071@10.20.4.31", Stamps: &Stamps{},
		}, &ServiceControl{}},
		{"optionsind-20.xml", &Response{Code: 200, Options: options20}, &Response{}},
		{"optionsind-22.xml", &Response{Code: 200, Options: ServerOptions()}, &Response{}},
		{"feature-dnd.xml", &FeatureEvent{DND: &FeatureDND{On: true}}, &FeatureEvent{}},
		{"feature-forward.xml", &FeatureEvent{Forward: &FeatureForward{Type: "forwardImmediate", On: true, Target: "2003"}}, &FeatureEvent{}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			want := golden(t, tt.file)
			if d := cmp.Diff(string(tt.m.Marshal()), string(want)); d != "" {
				t.Errorf("Marshal (-got +want):\n%s", d)
			}
			if err := tt.into.Unmarshal(want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.into, tt.m, unexported); d != "" {
				t.Errorf("Unmarshal (-got +want):\n%s", d)
			}
			// Phones and servers write either line end.
			lf := bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n"))
			if err := tt.into.Unmarshal(lf); err != nil {
				t.Errorf("with LF: %v", err)
			}
		})
	}
}

func TestFromPhones(t *testing.T) {
	t.Run("publish", func(t *testing.T) {
		var p Presence
		if err := p.Unmarshal(golden(t, "publish-dnd.xml")); err != nil || p.Activity != DoNotDisturb || !p.Known || p.Entity != "sip:02AA11BB22C1@10.20.0.5" {
			t.Errorf("%+v, %v", p, err)
		}
	})
	for name, tt := range map[string]struct {
		xml   string
		want  Activity
		known bool
	}{
		"available":          {`<presence><person><activities><available/></activities></person></presence>`, Idle, true},
		"empty activities":   {`<presence><person><activities></activities></person></presence>`, Idle, true},
		"other prefixes":     {`<a:presence xmlns:a="x"><b:person xmlns:b="y"><c:activities xmlns:c="z"><d:dnd xmlns:d="w"/></c:activities></b:person></a:presence>`, DoNotDisturb, true},
		"no person":          {`<presence><tuple/></presence>`, Idle, false},
		"person without any": {`<presence><person/></presence>`, Idle, false},
	} {
		t.Run("publish "+name, func(t *testing.T) {
			var p Presence
			if err := p.Unmarshal([]byte(tt.xml)); err != nil || p.Activity != tt.want || p.Known != tt.known {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
	t.Run("softkey HLog", func(t *testing.T) {
		var r Request
		if err := r.Unmarshal(golden(t, "softkey-hlog.xml")); err != nil || r.Softkey == nil || r.Softkey.Event != "HLog" || !r.Softkey.Dialog.Zero() {
			t.Errorf("%+v, %v", r.Softkey, err)
		}
	})
	t.Run("softkey Conference", func(t *testing.T) {
		want := &SoftkeyEvent{
			Event:   "Conference",
			Dialog:  DialogID{"001122aa-00010007-1991b55f-00f90001@192.0.2.51", "001122aa000100333f1eb5d4-68650001", "as71aa0001"},
			Consult: DialogID{"001122aa-00010008-415a60f5-7c350001@192.0.2.51", "001122aa00010035620001-69db0001", "as76aa0002"},
		}
		var r, again Request
		if err := r.Unmarshal(golden(t, "softkey-conference.xml")); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.Softkey, want); d != "" {
			t.Error(d)
		}
		if err := again.Unmarshal(r.Marshal()); err != nil || !cmp.Equal(again.Softkey, want) {
			t.Errorf("written and read again: %+v, %v", again.Softkey, err)
		}
	})
	t.Run("register body", func(t *testing.T) {
		requests, _, err := Requests("multipart/mixed;boundary=uniqueBoundary", golden(t, "register-body.txt"))
		if err != nil || len(requests) != 2 || requests[0].BulkRegister == nil {
			t.Fatalf("%+v, %v", requests, err)
		}
		if d := cmp.Diff(requests[1].Options, PhoneOptions(), unexported); d != "" {
			t.Error(d)
		}
	})
	t.Run("menu answer", func(t *testing.T) {
		requests, cm, err := Requests(`multipart/mixed; boundary="uniqueBoundary"`, golden(t, "menu-answer.txt"))
		if err != nil || len(requests) != 1 || requests[0].Data == nil || requests[0].Data.ConfID != 17 || requests[0].Data.Application != 1 || cm != "3" {
			t.Errorf("%+v %q, %v", requests, cm, err)
		}
	})
	t.Run("alarm", func(t *testing.T) {
		var a Alarm
		if err := a.Unmarshal(golden(t, "alarm.xml")); err != nil || a.Name != "DeviceTLInfo" || a.Get("DeviceName") != "SEP02AA11BB22C1" ||
			a.Get("IPv6Address") != "" || a.Get("StatusCode") != "1" || len(a.Params) != 8 {
			t.Errorf("%+v, %v", a, err)
		}
	})
	t.Run("location", func(t *testing.T) {
		for _, x := range []string{"<x-cisco-location/>", "<x-cisco-remotecc-request><x-cisco-location>a</x-cisco-location></x-cisco-remotecc-request>"} {
			var r Request
			if err := r.Unmarshal([]byte(x)); err != nil || !r.Location {
				t.Errorf("%s: %+v, %v", x, r, err)
			}
		}
	})
	t.Run("unknown element", func(t *testing.T) {
		var r Request
		if err := r.Unmarshal([]byte("<x-cisco-remotecc-request><newthing/></x-cisco-remotecc-request>")); err != nil || r.Unknown != "newthing" {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestMultipartWritesWhatPagesShow(t *testing.T) {
	want := golden(t, "menu-push.txt")
	parts, err := Split("multipart/mixed; boundary=uniqueBoundary", want)
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	var r Request
	if err := r.Unmarshal(parts[0].Body); err != nil || r.Data == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	contentType, got := Join(Part{TypeRequest, r.Marshal()}, parts[1])
	if d := cmp.Diff(string(got), string(want)); d != "" {
		t.Errorf("(-got +want):\n%s", d)
	}
	if contentType != "multipart/mixed;boundary=uniqueBoundary" {
		t.Errorf("content type %s", contentType)
	}
}

func TestSplit(t *testing.T) {
	body := "preamble\r\n--b1\r\nContent-Type: A/B; x=y\r\nContent-Disposition: session\r\n\r\none --b1 more\r\n--b1\r\n\r\ntwo\r\n\r\n--b1--\r\n"
	want := []Part{{"a/b", []byte("one --b1 more")}, {"text/plain", []byte("two\r\n")}}
	for _, ct := range []string{"multipart/mixed;boundary=b1", `multipart/mixed; boundary="b1"`, "Multipart/Mixed ; boundary=b1"} {
		got, err := Split(ct, []byte(body))
		if d := cmp.Diff(got, want); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", ct, err, d)
		}
	}
	if got, err := Split("text/plain; charset=utf-8", []byte("x")); err != nil || len(got) != 1 || got[0].Type != "text/plain" {
		t.Errorf("single: %v, %v", got, err)
	}
	for name, tt := range map[string]struct{ ct, body string }{
		"no boundary":    {"multipart/mixed", body},
		"wrong boundary": {"multipart/mixed;boundary=zz", body},
		"no end":         {"multipart/mixed;boundary=b1", "--b1\r\n\r\nx\r\n"},
		"no part":        {"multipart/mixed;boundary=b1", "--b1--\r\n"},
		"too many parts": {"multipart/mixed;boundary=b1", strings.Repeat("--b1\r\n\r\nx\r\n", 50) + "--b1--"},
	} {
		if got, err := Split(tt.ct, []byte(tt.body)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTexts(t *testing.T) {
	for _, tt := range []struct{ name, text, want, encoding string }{
		{"plain", "From 2003 to 2002", "From 2003 to 2002", "UTF-8"},
		{"escaped", `Smith & "Söhne" <x>`, "Smith &amp; &quot;Söhne&quot; &lt;x&gt;", "UTF-8"},
		{"phrase", Phrase('!') + " 381", "\x80! 381", "iso-8859-1"},
		{"phrase and other letters", Phrase('!') + " Zoë 北", "\x80! Zo\xeb &#21271;", "iso-8859-1"},
		{"control characters", "a\x00b\x1b", "a?b?", "UTF-8"},
		{"invalid UTF-8 that is no phrase", "a\xffb", "a?b", "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := (&Request{StatusLine: &StatusLine{Text: tt.text, Seconds: 10}}).Marshal()
			if !bytes.Contains(b, []byte("<statustext>"+tt.want+"</statustext>")) || !bytes.Contains(b, []byte(`encoding="`+tt.encoding+`"`)) {
				t.Errorf("wrote %q", b)
			}
			var r Request
			if err := r.Unmarshal(b); err != nil {
				t.Fatal(err)
			}
			if want := strings.NewReplacer("\x00", "?", "\x1b", "?", "\xff", "?").Replace(tt.text); r.StatusLine.Text != want {
				t.Errorf("read %q, want %q", r.StatusLine.Text, want)
			}
		})
	}
	t.Run("raw phrase in a document that says UTF-8", func(t *testing.T) {
		var r Request
		x := "<?xml version=\"1.0\" encoding=\"UTF-8\"?><x-cisco-remotecc-request><statuslineupdatereq><statustext>\x80! 381</statustext></statuslineupdatereq></x-cisco-remotecc-request>"
		if err := r.Unmarshal([]byte(x)); err != nil || r.StatusLine.Text != "\x80! 381" {
			t.Errorf("%+v, %v", r.StatusLine, err)
		}
	})
}

func TestResetReason(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   ResetReason
	}{
		{`SIP;cause=200;text="cisco-alarm:25 Name=SEP02AA11BB22C1 ActiveLoad=sip88xx.14-1-1-0001-136.loads InactiveLoad=sip88xx.12-8-1-0001-455.loads Last=initialized"`,
			ResetReason{25, "SEP02AA11BB22C1", "sip88xx.14-1-1-0001-136", "sip88xx.12-8-1-0001-455", "initialized"}},
		{`SIP;cause=200;text="cisco-alarm:14 Name=SEP02AA11BB22C1 Load=SIP45.9-4-2SR3-1S.loads Last=cm-closed-tcp"`,
			ResetReason{14, "SEP02AA11BB22C1", "SIP45.9-4-2SR3-1S", "", "cm-closed-tcp"}},
	} {
		var r ResetReason
		if err := r.Unmarshal(tt.header); err != nil || r != tt.want {
			t.Errorf("got %+v, %v\nwant %+v", r, err, tt.want)
		}
		if got := r.Marshal(); got != tt.header {
			t.Errorf("got  %s\nwant %s", got, tt.header)
		}
	}
	for _, h := range []string{"", "Q.850;cause=16", `SIP;cause=200;text="Call completed elsewhere"`, "SIP;cause=200", strings.Repeat("SIP;text=", 1000)} {
		if err := new(ResetReason).Unmarshal(h); err == nil {
			t.Errorf("%q is taken for a reset reason", h)
		}
	}
}

func TestCallInfo(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   CallInfo
		again  string
	}{
		{"<urn:x-cisco-remotecc:callinfo>; security= NotAuthenticated; orientation= from; gci= 1-1",
			CallInfo{"callinfo", []Param{{"security", "NotAuthenticated"}, {"orientation", "from"}, {"gci", "1-1"}}},
			"<urn:x-cisco-remotecc:callinfo>; security=NotAuthenticated; orientation=from; gci=1-1"},
		{`<urn:x-cisco-remotecc:callinfo>; orientation=from; security=NotAuthenticated; huntpiloturi="%22Ring%20All%22 <sip:370@192.0.2.10>"`,
			CallInfo{"callinfo", []Param{{"orientation", "from"}, {"security", "NotAuthenticated"}, {"huntpiloturi", "%22Ring%20All%22 <sip:370@192.0.2.10>"}}}, ""},
		{"<urn:x-cisco-remotecc:hold>; reason= transfer; isVoip", CallInfo{"hold", []Param{{"reason", "transfer"}, {"isVoip", ""}}},
			"<urn:x-cisco-remotecc:hold>; reason=transfer; isVoip"},
	} {
		var c CallInfo
		if err := c.Unmarshal(tt.header); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, tt.want); d != "" {
			t.Error(d)
		}
		if tt.again == "" {
			tt.again = tt.header
		}
		if got := c.Marshal(); got != tt.again {
			t.Errorf("got  %s\nwant %s", got, tt.again)
		}
	}
	if got := HuntPilot("Ring All", "370", "192.0.2.10"); got != "%22Ring%20All%22 <sip:370@192.0.2.10>" {
		t.Errorf("hunt pilot %s", got)
	}
	for _, h := range []string{"", "<http://x>", "<urn:x-cisco-remotecc:>", "urn:x-cisco-remotecc:hold"} {
		if err := new(CallInfo).Unmarshal(h); err == nil {
			t.Errorf("%q is taken for Call-Info", h)
		}
	}
}

func TestStats(t *testing.T) {
	const rx = `Dur=61,Pkt=3050,Oct=488000,LatePkt=2,LostPkt=5,AvgJit=3,VQMetrics="CCR=0.0021;ICR=0.0000;VoRxCodec=G722;MOSlq=4.1200"`
	var s Stats
	s.Unmarshal(rx)
	want := Stats{61, 3050, 488000, 2, 5, 3, []Param{{"CCR", "0.0021"}, {"ICR", "0.0000"}, {"VoRxCodec", "G722"}, {"MOSlq", "4.1200"}}}
	if d := cmp.Diff(s, want); d != "" {
		t.Error(d)
	}
	if got := s.Marshal(true); got != rx {
		t.Errorf("got  %s\nwant %s", got, rx)
	}
	s.Unmarshal(`Dur=x, pkt=7 ,New=a,VQMetrics="MLQK=;CCR=1`)
	if want := (Stats{Packets: 7, Params: []Param{{"New", "a"}, {"MLQK", ""}, {"CCR", "1"}}}); !cmp.Equal(s, want) {
		t.Errorf("lenient: %+v", s)
	}
}

func TestServiceURI(t *testing.T) {
	for user, want := range map[string]ServiceURI{
		"x-cisco-serviceuri-cfwdall-2003":  {"cfwdall", "2003"},
		"x-cisco-serviceuri-cfwdall":       {"cfwdall", ""},
		"X-Cisco-ServiceURI-blfpickup-*98": {"blfpickup", "*98"},
	} {
		if got, ok := ParseServiceURI(user); !ok || got != want {
			t.Errorf("%s: %+v, %v", user, got, ok)
		}
	}
	for _, user := range []string{"", "2001", "x-cisco-serviceuri-", "x-cisco-serviceuri"} {
		if got, ok := ParseServiceURI(user); ok {
			t.Errorf("%s: %+v", user, got)
		}
	}
	if got := (ServiceURI{"dpark", "381"}).String(); got != "x-cisco-serviceuri-dpark-381" {
		t.Error(got)
	}
}

func TestHostileDocuments(t *testing.T) {
	for name, x := range map[string]string{
		"deep":           strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100),
		"many":           "<a>" + strings.Repeat("<b/>", 10000) + "</a>",
		"long":           "<a>" + strings.Repeat(" ", 70000) + "</a>",
		"entity":         `<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>`,
		"two roots":      "<a/><b/>",
		"nothing":        "",
		"text only":      "hello",
		"unclosed":       "<a><b></a>",
		"declaration":    "<?xml version='1.0'",
		"NUL":            "<a>\x00</a>",
		"long attribute": `<a x="` + strings.Repeat("y", 70000) + `"/>`,
	} {
		if _, err := parse([]byte(x)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzDocument feeds every decoder; what one takes it must be able to write and to read again unchanged.
func FuzzDocument(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.*")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, pair := range [][2]message{
			{&Request{}, &Request{}}, {&Response{}, &Response{}}, {&Presence{}, &Presence{}}, {&DialogInfo{}, &DialogInfo{}},
			{&Alarm{}, &Alarm{}}, {&ServiceControl{}, &ServiceControl{}}, {&MessageSummary{}, &MessageSummary{}}, {&FeatureEvent{}, &FeatureEvent{}},
		} {
			if pair[0].Unmarshal(b) != nil {
				continue
			}
			if r, ok := pair[0].(*Request); ok && r.Unknown != "" {
				continue
			}
			out := pair[0].Marshal()
			if err := pair[1].Unmarshal(out); err != nil {
				t.Fatalf("%T: own output refused: %v\n%q", pair[0], err, out)
			}
		}
		_, _, _ = Requests("multipart/mixed;boundary=uniqueBoundary", b)
	})
}

// FuzzHeader feeds the decoders of header values.
func FuzzHeader(f *testing.F) {
	f.Add("<urn:x-cisco-remotecc:callinfo>; security= NotAuthenticated")
	f.Add(`SIP;cause=200;text="cisco-alarm:25 Name=SEP02AA11BB22C1 Load=a.loads Last=initialized"`)
	f.Add(`Dur=61,Pkt=3050,VQMetrics="CCR=0.0021;MOSlq=4.1`)
	f.Add("x-cisco-serviceuri-cfwdall-2003")
	f.Fuzz(func(t *testing.T, s string) {
		var c CallInfo
		if c.Unmarshal(s) == nil {
			if err := new(CallInfo).Unmarshal(c.Marshal()); err != nil {
				t.Fatalf("own output refused: %v", err)
			}
		}
		_ = new(ResetReason).Unmarshal(s)
		var st Stats
		st.Unmarshal(s)
		st.Marshal(true)
		if u, ok := ParseServiceURI(s); ok {
			if again, ok := ParseServiceURI(u.String()); !ok || again != u {
				t.Fatalf("%+v becomes %+v", u, again)
			}
		}
		_, _ = Split(s, []byte(s))
	})
}
