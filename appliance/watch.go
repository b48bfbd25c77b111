package appliance

import (
	"fmt"
	"strings"

	"ringfence/appliance/provision/phonefile"
	"ringfence/config"
)

// What the state of lines takes from the configuration and from the rest of the appliance.

// mayWatch is lines[].watched_by.
func (a *appliance) mayWatch(watcher, number string) bool { return a.doc().MayWatch(watcher, number) }

// mayCome says whether phones that are registered elsewhere may move here: when everything that they need is up
// (sip-registration.md §7.3). Until then they are told to ask again.
func (a *appliance) mayCome() bool {
	if a.supervisor == nil {
		return false
	}
	for _, h := range a.supervisor.Health() {
		switch h.Name {
		case "http", "https", "tftp", "media", "sip":
			if !h.Up {
				return false
			}
		}
	}
	return true
}

// declaredField answers the fields of a line that only the configuration knows (sip-options.md §4).
func (a *appliance) declaredField(number, field string) (string, bool) {
	d := a.doc()
	l, ok := d.Line(number)
	if !ok {
		return "", false
	}
	switch field {
	case "callgroup":
		return numbers(l.Pickup.MemberOf), true
	case "pickupgroup":
		return numbers(l.Pickup.MayPick), true
	case "context":
		return strings.Join(l.Rights, ","), true
	case "codecs":
		return "", true // whatever both ends have
	case "language":
		if u, ok := d.User(l.User); ok && u.Language != "" {
			return u.Language, true
		}
		return d.Site.Language, true
	case "mailbox":
		if l.Voicemail == "" && d.Services.Voicemail == "" {
			return "", true
		}
		return number, true
	case "srtp":
		p, ok := d.Phone(l.Phone)
		return yesNo(ok && p.Security == "encrypted"), true
	case "subscribe", "register":
		info, ok := declared{d}.Device(l.Phone)
		if !ok || l.Index != 1 {
			return "", true
		}
		if field == "subscribe" {
			return strings.Join(info.Watch, ","), true
		}
		var others []string
		for _, x := range info.Lines {
			if x.Index != 1 {
				others = append(others, x.Number)
			}
		}
		return strings.Join(others, ","), true
	}
	return "", false
}

func numbers(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// callServers are the appliances that phones are told to use, the preferred one first; nil is this one alone. The others listen on
// the same ports.
func callServers(d *config.Document) []phonefile.Appliance {
	var out []phonefile.Appliance
	for _, address := range d.Site.Appliances {
		x := phonefile.FromNode(d.Node)
		x.Address = address
		out = append(out, x)
	}
	return out
}
