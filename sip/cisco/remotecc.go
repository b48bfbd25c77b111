package cisco

import (
	"fmt"
	"strconv"
	"strings"
)

// Request is the document x-cisco-remotecc-request with its one request element. Exactly one field is set; Unknown holds the
// name of an element that is none of ours.
//
//	<x-cisco-remotecc-request>
//	<dndupdate> | <hlogupdate> | <cfwdallupdate> | <bulkupdate> | <privacyreq> | <statuslineupdatereq> | <playtonereq> | <answercallreq>
//	| <initiatecallreq> | <holdretrievereq> | <notifyreq> | <datapassthroughreq>            server to phone
//	| <softkeyeventmsg> | <bulkregisterreq> | <optionsind> | <x-cisco-location>             phone to server
//	</x-cisco-remotecc-request>
type Request struct {
	DND          *DNDUpdate
	HuntLogin    *HuntLoginUpdate
	Privacy      *PrivacyUpdate
	Forward      *ForwardUpdate
	Bulk         *BulkUpdate
	StatusLine   *StatusLine
	PlayTone     *PlayTone
	Answer       *AnswerCall
	Initiate     *InitiateCall
	HoldRetrieve *HoldRetrieve
	Notify       *NotifyReq
	Data         *DataPassthrough
	Softkey      *SoftkeyEvent
	BulkRegister *BulkRegister
	Options      *OptionsInd
	Location     bool
	Unknown      string
}

// DialogID names a call as the phone sees it: LocalTag is the phone's tag, in both directions (sip-calls.md §1.1 rule 2).
type DialogID struct{ CallID, LocalTag, RemoteTag string }

// Zero tells whether no call is named.
func (d DialogID) Zero() bool { return d == DialogID{} }

// DNDUpdate shows do-not-disturb (sip-state.md §4.2). With Reject the server refuses calls, else the phone rings silently.
type DNDUpdate struct{ On, Reject bool }

// HuntLoginUpdate shows the hunt group login (sip-state.md §6).
type HuntLoginUpdate struct{ On bool }

// PrivacyUpdate shows whether the phone's calls are hidden from the other phones of its lines (sip-calls.md §26).
type PrivacyUpdate struct{ On bool }

// ForwardUpdate shows forward-all of one line (sip-state.md §5); an empty Target clears it.
type ForwardUpdate struct {
	Line        int
	Target      string
	ToVoicemail bool
}

// BulkUpdate is the initial state of all lines (sip-state.md §9).
type BulkUpdate struct{ Lines []BulkLine }

// BulkLine is one line of a BulkUpdate.
type BulkLine struct {
	Line        int
	New, Old    int // messages
	Target      string
	ToVoicemail bool
}

// StatusLine shows a text (sip-calls.md §1.2). Line 0 is the whole phone.
type StatusLine struct {
	Dialog   DialogID
	Text     string
	Seconds  int
	Line     int
	Priority int
}

// PlayTone plays a tone; DtZipZip is the one in use.
type PlayTone struct {
	Dialog DialogID
	Tone   string
}

// AnswerCall lets the phone answer a ringing call.
type AnswerCall struct{ Dialog DialogID }

// HoldRetrieve takes a held call off hold.
type HoldRetrieve struct{ Dialog DialogID }

// NotifyReq tells the phone that a feature has finished (sip-calls.md §8).
type NotifyReq struct {
	Dialog          DialogID
	Feature, Status string
}

// InitiateCall lets the phone dial.
type InitiateCall struct {
	Number string
	Line   int
}

// DataPassthrough goes with a second part of TypeCM: an object of the phone's XML interface, or the user's choice back.
type DataPassthrough struct {
	Application, ConfID int
	Transaction         int
}

// SoftkeyEvent is a key that the phone leaves to the server (sip-overview.md §6.4).
type SoftkeyEvent struct {
	Event                 string // HLog, Park, Conference ...
	Dialog, Consult, Join DialogID
	Line, Participant     int
	State                 bool
	UserData              string
	SoftkeyID             int
	Application           int
}

// BulkRegister asks for all lines with one REGISTER.
type BulkRegister struct{}

// Usage says how states of one kind are told: unsolicited, by subscription.
type Usage struct{ Unsolicited, Subscribe bool }

// OptionsInd is the negotiation in REGISTER and its 200 (sip-registration.md §2): the phone says what it can, the server what
// it will use.
type OptionsInd struct {
	CombineMax              int
	CombineRemotecc         bool
	CombineServiceControl   bool
	Hook, Shared, BLF       Usage
	Join                    bool
	ForwardAnyLine          bool
	forwardAnyLineConfirmed bool // the server writes the value Yes, the phone none
}

// ServerOptions is what the server answers, in the form of 22.8.1 (sip-registration.md §3).
func ServerOptions() *OptionsInd {
	return &OptionsInd{
		CombineMax: 6, CombineRemotecc: true, CombineServiceControl: true,
		Hook: Usage{Unsolicited: true}, Shared: Usage{Unsolicited: true}, BLF: Usage{Unsolicited: true, Subscribe: true},
		Join: true, ForwardAnyLine: true, forwardAnyLineConfirmed: true,
	}
}

// PhoneOptions is what a current phone offers (sip-registration.md §2).
func PhoneOptions() *OptionsInd {
	both := Usage{Unsolicited: true, Subscribe: true}
	return &OptionsInd{
		CombineMax: 6, CombineRemotecc: true, CombineServiceControl: true, Hook: both, Shared: both, BLF: both,
		Join: true, ForwardAnyLine: true,
	}
}

// Marshal writes the document.
func (r *Request) Marshal() []byte {
	w := &writer{}
	w.line("<x-cisco-remotecc-request>")
	switch {
	case r.DND != nil:
		w.line("<dndupdate>")
		w.element("state", choose(r.DND.On, "enable", "disable"))
		w.element("option", choose(r.DND.Reject, "callreject", "ringeroff"))
		w.line("</dndupdate>")
	case r.HuntLogin != nil:
		w.line("<hlogupdate>")
		w.element("status", choose(r.HuntLogin.On, "on", "off"))
		w.line("</hlogupdate>")
	case r.Privacy != nil:
		w.line("<privacyreq>")
		w.element("status", choose(r.Privacy.On, "true", "false"))
		w.line("</privacyreq>")
	case r.Forward != nil:
		w.line("<cfwdallupdate>")
		w.number("linenumber", r.Forward.Line)
		w.element("fwdaddress", r.Forward.Target)
		w.element("tovoicemail", choose(r.Forward.ToVoicemail, "on", "off"))
		w.line("</cfwdallupdate>")
	case r.Bulk != nil:
		r.Bulk.write(w)
	case r.StatusLine != nil:
		w.line("<statuslineupdatereq>")
		w.element("action", "notify_display")
		w.dialog("dialogid", r.StatusLine.Dialog, false)
		w.element("statustext", r.StatusLine.Text)
		w.number("displaytimeout", r.StatusLine.Seconds)
		w.number("linenumber", r.StatusLine.Line)
		w.number("priority", r.StatusLine.Priority)
		w.line("</statuslineupdatereq>")
	case r.PlayTone != nil:
		w.line("<playtonereq>")
		w.dialog("dialogid", r.PlayTone.Dialog, false)
		w.element("tonetype", r.PlayTone.Tone)
		w.element("direction", "all")
		w.line("</playtonereq>")
	case r.Answer != nil:
		w.line("<answercallreq>")
		w.dialog("dialogid", r.Answer.Dialog, true)
		w.line("</answercallreq>")
	case r.HoldRetrieve != nil:
		w.line("<holdretrievereq>")
		w.dialog("dialogid", r.HoldRetrieve.Dialog, true)
		w.line("</holdretrievereq>")
	case r.Notify != nil:
		w.line("<notifyreq>")
		w.dialog("dialogid", r.Notify.Dialog, true)
		w.element("feature", r.Notify.Feature)
		w.element("status", r.Notify.Status)
		w.line("</notifyreq>")
	case r.Initiate != nil:
		w.line("<initiatecallreq>")
		w.element("dialstring", r.Initiate.Number)
		w.number("linenumber", r.Initiate.Line)
		w.element("globalcallid", "")
		w.line("</initiatecallreq>")
	case r.Data != nil:
		r.Data.write(w)
	case r.Softkey != nil:
		r.Softkey.write(w)
	case r.BulkRegister != nil:
		w.line("<bulkregisterreq>")
		w.line(`<contact all="true">`)
		w.line("<register></register>")
		w.line("</contact>")
		w.line("</bulkregisterreq>")
	case r.Options != nil:
		r.Options.write(w, "<%s></%s>")
	case r.Location:
		w.line("<x-cisco-location></x-cisco-location>")
	}
	w.line("</x-cisco-remotecc-request>")
	return w.bytes()
}

// Unmarshal reads the document.
func (r *Request) Unmarshal(b []byte) error {
	root, err := parse(b)
	if err != nil {
		return fmt.Errorf("remotecc request: %w", err)
	}
	if root.name == "x-cisco-location" {
		*r = Request{Location: true}
		return nil
	}
	if root.name != "x-cisco-remotecc-request" {
		return fmt.Errorf("remotecc request: root element %.40q", root.name)
	}
	*r = Request{}
	if len(root.children) == 0 {
		return fmt.Errorf("remotecc request: empty")
	}
	n := root.children[0]
	switch n.name {
	case "dndupdate":
		r.DND = &DNDUpdate{On: n.child("state").text == "enable", Reject: n.child("option").text == "callreject"}
	case "hlogupdate":
		r.HuntLogin = &HuntLoginUpdate{On: n.child("status").text == "on"}
	case "privacyreq":
		r.Privacy = &PrivacyUpdate{On: n.child("status").text == "true"}
	case "cfwdallupdate":
		r.Forward = &ForwardUpdate{
			Line: n.number("linenumber"), Target: n.child("fwdaddress").text, ToVoicemail: n.child("tovoicemail").text == "on",
		}
	case "bulkupdate":
		r.Bulk = &BulkUpdate{}
		r.Bulk.read(n)
	case "statuslineupdatereq":
		r.StatusLine = &StatusLine{
			Dialog: dialog(n, "dialogid"), Text: n.child("statustext").text, Seconds: n.number("displaytimeout"),
			Line: n.number("linenumber"), Priority: n.number("priority"),
		}
	case "playtonereq":
		r.PlayTone = &PlayTone{Dialog: dialog(n, "dialogid"), Tone: n.child("tonetype").text}
	case "answercallreq":
		r.Answer = &AnswerCall{dialog(n, "dialogid")}
	case "holdretrievereq":
		r.HoldRetrieve = &HoldRetrieve{dialog(n, "dialogid")}
	case "notifyreq":
		r.Notify = &NotifyReq{Dialog: dialog(n, "dialogid"), Feature: n.child("feature").text, Status: n.child("status").text}
	case "initiatecallreq":
		r.Initiate = &InitiateCall{Number: n.child("dialstring").text, Line: n.number("linenumber")}
	case "datapassthroughreq":
		r.Data = &DataPassthrough{
			Application: n.number("applicationid"), ConfID: n.number("confid"), Transaction: n.number("transactionid"),
		}
	case "softkeyeventmsg":
		r.Softkey = &SoftkeyEvent{}
		r.Softkey.read(n)
	case "bulkregisterreq":
		r.BulkRegister = &BulkRegister{}
	case "optionsind":
		r.Options = &OptionsInd{}
		r.Options.read(n)
	case "x-cisco-location":
		r.Location = true
	default:
		r.Unknown = n.name
	}
	return nil
}

func choose(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

// dialog writes a dialog id; one that names no call only if it must be there.
func (w *writer) dialog(name string, d DialogID, always bool) {
	if d.Zero() && !always {
		return
	}
	w.line("<", name, ">")
	w.element("callid", d.CallID)
	w.element("localtag", d.LocalTag)
	w.element("remotetag", d.RemoteTag)
	w.line("</", name, ">")
}

func dialog(n *node, name string) DialogID {
	d := n.child(name)
	return DialogID{CallID: d.child("callid").text, LocalTag: d.child("localtag").text, RemoteTag: d.child("remotetag").text}
}

func (u *BulkUpdate) write(w *writer) {
	w.line("<bulkupdate>")
	for _, l := range u.Lines {
		w.line(`<contact line="`, strconv.Itoa(l.Line), `">`)
		w.element("mwi", choose(l.New > 0, "yes", "no"))
		w.line("<emwi>")
		w.line(`<voice-msg new="`, strconv.Itoa(l.New), `" old="`, strconv.Itoa(l.Old), `" />`)
		w.line("</emwi>")
		w.line("<cfwdallupdate>")
		w.element("fwdaddress", l.Target)
		w.element("tovoicemail", choose(l.ToVoicemail, "on", "off"))
		w.line("</cfwdallupdate>")
		w.line("</contact>")
	}
	w.line("</bulkupdate>")
}

func (u *BulkUpdate) read(n *node) {
	for _, c := range n.children {
		if c.name != "contact" {
			continue
		}
		l := BulkLine{}
		l.Line, _ = strconv.Atoi(c.attr("line"))
		vm := c.child("emwi").child("voice-msg")
		l.New, _ = strconv.Atoi(vm.attr("new"))
		l.Old, _ = strconv.Atoi(vm.attr("old"))
		if l.New == 0 && c.child("mwi").text == "yes" {
			l.New = 1 // without counters all that is known
		}
		f := c.child("cfwdallupdate")
		l.Target, l.ToVoicemail = f.child("fwdaddress").text, f.child("tovoicemail").text == "on"
		u.Lines = append(u.Lines, l)
	}
}

func (d *DataPassthrough) write(w *writer) {
	w.line("<datapassthroughreq>")
	w.number("applicationid", d.Application)
	w.number("transactionid", d.Transaction)
	w.element("stationsequence", "StationSequenceLast")
	w.number("displaypriority", 2)
	w.number("appinstance", 0)
	w.number("routingid", 0)
	w.number("confid", d.ConfID)
	w.line("</datapassthroughreq>")
}

func (s *SoftkeyEvent) write(w *writer) {
	w.line("<softkeyeventmsg>")
	w.element("softkeyevent", s.Event)
	w.dialog("dialogid", s.Dialog, true)
	w.number("linenumber", s.Line)
	w.number("participantnum", s.Participant)
	w.dialog("consultdialogid", s.Consult, true)
	w.element("state", choose(s.State, "true", "false"))
	w.dialog("joindialogid", s.Join, true)
	w.line("<eventdata>")
	w.element("invocationtype", "explicit")
	w.line("</eventdata>")
	w.element("userdata", s.UserData)
	w.number("softkeyid", s.SoftkeyID)
	w.number("applicationid", s.Application)
	w.line("</softkeyeventmsg>")
}

func (s *SoftkeyEvent) read(n *node) {
	s.Event = n.child("softkeyevent").text
	s.Dialog, s.Consult, s.Join = dialog(n, "dialogid"), dialog(n, "consultdialogid"), dialog(n, "joindialogid")
	s.Line, s.Participant = n.number("linenumber"), n.number("participantnum")
	s.State = n.child("state").text == "true"
	s.UserData = n.child("userdata").text
	s.SoftkeyID, s.Application = n.number("softkeyid"), n.number("applicationid")
}

// write writes the element; empty is how elements without content look, "<%s></%s>" of phones, "<%s />" of servers.
func (o *OptionsInd) write(w *writer, empty string) {
	e := func(name string) string {
		if strings.Count(empty, "%s") == 2 {
			return fmt.Sprintf(empty, name, name)
		}
		return fmt.Sprintf(empty, name)
	}
	usage := func(open, name string, u Usage) {
		if u == (Usage{}) {
			return
		}
		s := open
		if u.Unsolicited {
			s += e("unot")
		}
		if u.Subscribe {
			s += e("sub")
		}
		w.line(s, "</", name, ">")
	}
	w.line("<optionsind>")
	if o.CombineMax > 0 {
		w.line(`<combine max="`, strconv.Itoa(o.CombineMax), `">`)
		if o.CombineRemotecc {
			w.line("<remotecc>", e("status"), "</remotecc>")
		}
		if o.CombineServiceControl {
			w.line(e("service-control"))
		}
		w.line("</combine>")
	}
	usage(`<dialog usage="hook status">`, "dialog", o.Hook)
	usage(`<dialog usage="shared line">`, "dialog", o.Shared)
	usage(`<presence usage="blf speed dial">`, "presence", o.BLF)
	if o.Join {
		w.line("<joinreq></joinreq>")
	}
	if o.ForwardAnyLine {
		w.element("cfwdall-anyline", choose(o.forwardAnyLineConfirmed, "Yes", ""))
	}
	w.line("</optionsind>")
}

func (o *OptionsInd) read(n *node) {
	usage := func(c *node) Usage { return Usage{Unsolicited: c.has("unot"), Subscribe: c.has("sub")} }
	for _, c := range n.children {
		switch c.name {
		case "combine":
			o.CombineMax, _ = strconv.Atoi(c.attr("max"))
			o.CombineRemotecc, o.CombineServiceControl = c.has("remotecc"), c.has("service-control")
		case "dialog":
			switch c.attr("usage") {
			case "hook status":
				o.Hook = usage(c)
			case "shared line":
				o.Shared = usage(c)
			}
		case "presence":
			if c.attr("usage") == "blf speed dial" {
				o.BLF = usage(c)
			}
		case "joinreq":
			o.Join = true
		case "cfwdall-anyline":
			o.ForwardAnyLine, o.forwardAnyLineConfirmed = true, strings.EqualFold(c.text, "Yes")
		}
	}
}

// Response is the document x-cisco-remotecc-response: the result of a request, or with Options the body of the 200 to REGISTER.
type Response struct {
	Code    int
	Options *OptionsInd
}

// Marshal writes the document.
func (r *Response) Marshal() []byte {
	w := &writer{}
	w.line("<x-cisco-remotecc-response>")
	w.line("<response>")
	w.number("code", r.Code)
	if r.Options != nil {
		r.Options.write(w, "<%s />")
	}
	w.line("</response>")
	w.line("</x-cisco-remotecc-response>")
	return w.bytes()
}

// Unmarshal reads the document.
func (r *Response) Unmarshal(b []byte) error {
	root, err := parse(b)
	if err != nil {
		return fmt.Errorf("remotecc response: %w", err)
	}
	if root.name != "x-cisco-remotecc-response" {
		return fmt.Errorf("remotecc response: root element %.40q", root.name)
	}
	n := root.child("response")
	*r = Response{Code: n.number("code")}
	if o := n.child("optionsind"); o.name != "" {
		r.Options = &OptionsInd{}
		r.Options.read(o)
	}
	return nil
}
