package conference

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// The list of a conference is a menu of the phone ("sip-calls" §6). A key with the action Select sends its own word first and
// then the number of the highlighted guest, in two requests; the word is remembered between them, for each phone.

// listApplication is the number by which answers to the list are told from others.
const listApplication = 1

type menu struct {
	XMLName xml.Name   `xml:"CiscoIPPhoneMenu"`
	Title   string     `xml:"Title"`
	Items   []menuItem `xml:"MenuItem"`
	Prompt  string     `xml:"Prompt"`
	Keys    []menuKey  `xml:"SoftKeyItem"`
}

type menuItem struct {
	Name string `xml:"Name"`
	URL  string `xml:"URL"`
}

type menuKey struct {
	Name     string `xml:"Name"`
	Position int    `xml:"Position"`
	URL      string `xml:"URL"`
}

// menu pushes the list to an administrator's phone.
func (r *room) menu(g *call.Guest) {
	r.shown[g.Leg.Device] = g.Leg
	text := r.list(strings.HasPrefix(g.Leg.Model, "79"))
	data := (&cisco.Request{Data: &cisco.DataPassthrough{Application: listApplication, ConfID: r.id}}).Marshal()
	g.Leg.PushParts(nil, cisco.Part{Type: cisco.TypeRequest, Body: data}, cisco.Part{Type: cisco.TypeCM, Body: text})
}

// closeMenu takes the list off the screen of a phone.
func closeMenu(l *call.Leg) {
	data := (&cisco.Request{Data: &cisco.DataPassthrough{}}).Marshal()
	l.PushParts(nil, cisco.Part{Type: cisco.TypeRequest, Body: data}, cisco.Part{Type: cisco.TypeCM, Body: cisco.Execute("Init:Services")})
}

// list writes the menu: who came last stands first. The keys of 7900s have other places.
func (r *room) list(old bool) []byte {
	m := menu{Title: "Conference", Prompt: "Please select"}
	guests := r.Guests()
	for i := len(guests) - 1; i >= 0; i-- {
		g := guests[i]
		m.Items = append(m.Items, menuItem{Name: label(g), URL: fmt.Sprintf("UserCallData:%d:0:%d:0:%d", listApplication, r.id, g.Number)})
	}
	key := func(name, action string) menuKey {
		return menuKey{Name: name, URL: fmt.Sprintf("UserCallDataSoftKey:%s:%d:0:%d:0:%s", action, listApplication, r.id, name)}
	}
	exit := menuKey{Name: "Exit", URL: "SoftKey:Exit"}
	m.Keys = []menuKey{exit, key("Remove", "Select"), key("Mute", "Select"), key("Update", "Update")}
	if old {
		m.Keys = []menuKey{key("Remove", "Select"), key("Mute", "Select"), exit, key("Update", "Update")}
	}
	for i := range m.Keys {
		m.Keys[i].Position = i + 1
	}
	body, err := xml.MarshalIndent(m, "", "")
	if err != nil {
		return nil // plain strings always marshal
	}
	return append([]byte(xml.Header), body...)
}

func label(g *call.Guest) string {
	text := g.Leg.Line.Name
	if text == "" {
		text = g.Leg.Line.Number
	}
	if g.Leg.Withheld() {
		text = "Anonymous " + strconv.Itoa(g.Number)
	}
	switch {
	case g.Muted():
		return "- " + text
	case g.Talking():
		return "+ " + text
	}
	return text
}

// chosen is a choice in the list. Only administrators choose.
func (r *room) chosen(device, choice string) {
	g := r.guestOf(device)
	if g == nil || !g.Admin {
		return
	}
	switch choice = strings.TrimSpace(choice); choice {
	case "Mute", "Remove":
		r.choice[device] = choice
		return
	case "Update":
		delete(r.choice, device)
		r.menu(g)
		return
	}
	action := r.choice[device]
	delete(r.choice, device)
	number, err := strconv.Atoi(choice)
	if err != nil {
		return
	}
	for _, o := range r.Guests() {
		if o.Number != number {
			continue
		}
		if action == "Remove" {
			r.Drop(o)
		} else {
			o.Mute(!o.Muted())
		}
	}
	if r.GuestOf(g.Leg) != nil { // neither removed nor in a call of two now
		r.menu(g)
	}
}
