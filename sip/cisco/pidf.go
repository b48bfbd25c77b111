package cisco

import (
	"fmt"
	"strconv"
	"strings"
)

// Activity is what a watched number does (sip-state.md §1).
type Activity int

// Activities; Idle is none of the others.
const (
	Idle Activity = iota
	Alerting
	OnThePhone
	DoNotDisturb
)

func (a Activity) String() string { return [...]string{"idle", "alerting", "on-the-phone", "dnd"}[a] }

// Presence is a PIDF document with Cisco's extensions: of the server in NOTIFY, of the phone in PUBLISH.
type Presence struct {
	Entity   string // sip:2002@10.20.0.5
	Activity Activity
	Open     bool // false: not registered
	Tuple    int  // version counter of the dialog

	// Known tells, after Unmarshal, whether person and activities were there at all: without them a PUBLISH is 400.
	Known bool
}

const pidfRoot = `<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"` +
	` xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid" xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid" entity="`

// Marshal writes the document.
func (p *Presence) Marshal() []byte {
	w := &writer{}
	w.line(pidfRoot, w.text(p.Entity), `">`)
	w.line("<dm:person>")
	w.line("<e:activities>")
	switch p.Activity {
	case Alerting:
		w.line("<ce:alerting />")
	case OnThePhone:
		w.line("<e:on-the-phone />")
	case DoNotDisturb:
		w.line("<ce:dnd />")
	}
	w.line("</e:activities>")
	w.line("</dm:person>")
	w.line(`<tuple id="`, strconv.Itoa(p.Tuple), `">`)
	w.line("<status><basic>", choose(p.Open, "open", "closed"), "</basic></status>")
	w.line("</tuple>")
	w.line("</presence>")
	return w.bytes()
}

// Unmarshal reads the document. Any prefix is taken; "available" and nothing at all are Idle.
func (p *Presence) Unmarshal(b []byte) error {
	root, err := parse(b)
	if err != nil {
		return fmt.Errorf("pidf: %w", err)
	}
	if root.name != "presence" {
		return fmt.Errorf("pidf: root element %.40q", root.name)
	}
	*p = Presence{Entity: root.attr("entity")}
	person := root.child("person")
	activities := person.child("activities")
	p.Known = activities.name != ""
	switch {
	case activities.has("alerting"):
		p.Activity = Alerting
	case activities.has("on-the-phone"):
		p.Activity = OnThePhone
	case activities.has("dnd"):
		p.Activity = DoNotDisturb
	}
	t := root.child("tuple")
	p.Tuple, _ = strconv.Atoi(t.attr("id"))
	p.Open = strings.EqualFold(t.child("status").child("basic").text, "open")
	return nil
}

// DialogInfo is RFC 4235 as far as it is used: a phone's off-hook notice (sip-state.md §3), and the lamps of other vendors'
// phones.
type DialogInfo struct {
	Version int
	Full    bool // else partial
	Entity  string
	Dialogs []Dialog
}

// Dialog is one dialog of a DialogInfo.
type Dialog struct {
	ID        string
	Direction string // "", initiator, recipient
	CallID    string
	LocalTag  string // of whoever has the dialog; with RemoteTag it names a call of a shared line (sip-calls.md §26)
	RemoteTag string
	State     string // trying, early, confirmed, terminated

	Local, Remote *Participant // nil: not told
}

// Participant is one end of a Dialog.
type Participant struct {
	Name string
	URI  string // "": withheld
	Held bool   // RFC 4235 §4.1.6.2: +sip.rendering is no
}

func (p *Participant) write(w *writer, name string) {
	if p == nil {
		return
	}
	w.line("<", name, ">")
	if p.URI != "" {
		w.line(`<identity display="`, w.text(p.Name), `">`, w.text(p.URI), "</identity>")
		if name == "local" {
			w.line(`<target uri="`, w.text(p.URI), `"><param pname="+sip.rendering" pvalue="`, choose(p.Held, "no", "yes"), `"/></target>`)
		}
	}
	w.line("</", name, ">")
}

func participant(n *node) *Participant {
	if n.name == "" {
		return nil
	}
	p := &Participant{Name: n.child("identity").attr("display"), URI: n.child("identity").text}
	for _, c := range n.child("target").children {
		if c.name == "param" && c.attr("pname") == "+sip.rendering" {
			p.Held = c.attr("pvalue") == "no"
		}
	}
	return p
}

// Marshal writes the document.
func (d *DialogInfo) Marshal() []byte {
	w := &writer{}
	w.line(`<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="`, strconv.Itoa(d.Version), `" state="`,
		choose(d.Full, "full", "partial"), `" entity="`, w.text(d.Entity), `">`)
	for _, x := range d.Dialogs {
		open := `<dialog id="` + w.text(x.ID) + `"`
		if x.CallID != "" {
			open += ` call-id="` + w.text(x.CallID) + `"`
		}
		if x.LocalTag != "" {
			open += ` local-tag="` + w.text(x.LocalTag) + `"`
		}
		if x.RemoteTag != "" {
			open += ` remote-tag="` + w.text(x.RemoteTag) + `"`
		}
		if x.Direction != "" {
			open += ` direction="` + w.text(x.Direction) + `"`
		}
		w.line(open, ">")
		w.element("state", x.State)
		x.Local.write(w, "local")
		x.Remote.write(w, "remote")
		w.line("</dialog>")
	}
	w.line("</dialog-info>")
	return w.bytes()
}

// Unmarshal reads the document; entity must be there.
func (d *DialogInfo) Unmarshal(b []byte) error {
	root, err := parse(b)
	if err != nil {
		return fmt.Errorf("dialog-info: %w", err)
	}
	if root.name != "dialog-info" {
		return fmt.Errorf("dialog-info: root element %.40q", root.name)
	}
	*d = DialogInfo{Entity: root.attr("entity"), Full: root.attr("state") == "full"}
	d.Version, _ = strconv.Atoi(root.attr("version"))
	if d.Entity == "" {
		return fmt.Errorf("dialog-info: no entity")
	}
	for _, c := range root.children {
		if c.name == "dialog" {
			d.Dialogs = append(d.Dialogs, Dialog{
				ID: c.attr("id"), Direction: c.attr("direction"), CallID: c.attr("call-id"), State: c.child("state").text,
				LocalTag: c.attr("local-tag"), RemoteTag: c.attr("remote-tag"),
				Local: participant(c.child("local")), Remote: participant(c.child("remote")),
			})
		}
	}
	return nil
}
