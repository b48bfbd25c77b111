package phonefile

import (
	"slices"
	"strconv"
	"strings"

	"ringfence/config"
)

// softKey is a definition of provisioning.md §8.
type softKey struct {
	id               string
	tag, event, help int
	only7900         bool // elsewhere there is a hard key or nothing
}

var softKeyTable = []softKey{
	{"Undefined", 0, 0, 0, false},
	{"Redial", 1, 1, 301, false},
	{"NewCall", 2, 2, 302, false},
	{"Hold", 3, 3, 303, false},
	{"Transfer", 4, 4, 304, false},
	{"CFwdAll", 5, 5, 305, false},
	{"<<", 8, 8, 308, false},
	{"EndCall", 9, 9, 309, false},
	{"Resume", 10, 10, 310, false},
	{"Answer", 11, 11, 311, false},
	{"Confrn", 13, 13, 313, false},
	{"Park", 14, 14, 314, false},
	{"Join", 15, 15, 315, true},
	{"MeetMe", 16, 16, 316, false},
	{"PickUp", 17, 17, 317, false},
	{"GPickUp", 18, 18, 318, false},
	{"RmLstC", 57, 19, 319, true},
	{"DND", 63, 69, 369, true},
	{"CallBack", 65, 20, 320, false},
	{"Barge", 67, 21, 321, false}, // these two by the numbers of their phrases (sip-calls §1.3); not verified on hardware
	{"QRT", 75, 22, 322, false},
	{"MCID", 76, 27, 327, false},
	{"Select", 78, 29, 329, true},
	{"ConfList", 79, 30, 330, false},
	{"iDivert", 80, 31, 331, false},
	{"cBarge", 81, 32, 332, false},
	{"OPickUp", 91, 34, 334, false},
	{"HLog", 92, 35, 335, true},
	{"AbbrDial", 7740, 71, 371, false},
	{"Record", 7747, 74, 374, false},
}

// softKeySets are all keys that a set may show, in display order; a phone gets those that are offered to it. Transfer and
// Confrn are listed for models with hard keys too, which work only where the set allows them. ! marks a key that its set
// must have even where the function is not offered.
var softKeySets = []struct {
	id   string
	keys []string
}{
	{"On Hook", []string{"Redial", "NewCall", "CFwdAll", "DND", "PickUp", "GPickUp", "OPickUp", "HLog", "MeetMe", "CallBack", "QRT"}},
	{"Off Hook", []string{"Redial", "EndCall", "CFwdAll", "PickUp", "GPickUp", "OPickUp", "AbbrDial", "DND", "HLog"}},
	{"Off Hook With Feature", []string{"Redial", "EndCall", "AbbrDial", "DND"}},
	{"Digits After First", []string{"<<", "EndCall", "AbbrDial", "DND"}},
	{"Ring Out", []string{"EndCall", "CallBack", "DND"}},
	{"Connected", []string{"Hold", "EndCall", "Transfer", "Confrn", "Park", "Record", "iDivert", "ConfList", "RmLstC", "Select", "Join", "DND", "HLog", "QRT", "MCID"}},
	{"Connected No Feature", []string{"EndCall"}},
	{"Connected Transfer", []string{"EndCall", "Transfer", "CallBack", "QRT"}},
	{"Connected Conference", []string{"EndCall", "!Confrn", "ConfList", "DND", "QRT"}},
	{"On Hold", []string{"Resume", "NewCall", "iDivert", "Select", "Join", "DND"}},
	{"Ring In", []string{"Answer", "iDivert", "DND"}},
	{"Remote In Use", []string{"Barge", "cBarge"}},
}

// has tells whether a function is both declared for this phone and offered by the PBX.
func (p *phone) has(f Features) bool {
	if p.Offers&f == 0 {
		return false
	}
	line := func(test func(*config.Line) bool) bool { return slices.ContainsFunc(p.lines, test) }
	switch f {
	case Park:
		return len(p.Doc.Parking) > 0
	case Pickup:
		return line(func(l *config.Line) bool { return len(l.Pickup.MayPick) > 0 })
	case HuntLogin:
		return line(func(l *config.Line) bool {
			return slices.ContainsFunc(p.Doc.Groups, func(g config.Group) bool {
				return g.LoginRequired && slices.Contains(g.Members, l.Number)
			})
		})
	case MeetMe:
		return len(p.Doc.Rooms) > 0
	case Record:
		return line(func(l *config.Line) bool { return l.Record == config.RecordOnDemand })
	case AbbreviatedDial:
		return line(func(l *config.Line) bool {
			u, ok := p.Doc.User(l.User)
			return ok && len(u.SpeedDials) > 0
		})
	}
	return true
}

// hasOtherPickup tells whether a line has another pickup group beside its own.
func (p *phone) hasOtherPickup() bool {
	return p.Offers&Pickup != 0 && slices.ContainsFunc(p.lines, func(l *config.Line) bool { return len(l.Pickup.Other) > 0 })
}

// barges tells whether the phone may step into calls of a line that it shares, in that way.
func (p *phone) barges(how string) bool {
	return slices.ContainsFunc(p.lines, func(l *config.Line) bool { return len(l.Shared) > 0 && l.Barge == how })
}

// shows tells whether this phone gets a soft key.
func (p *phone) shows(k softKey) bool {
	if k.only7900 && p.model.Series != "7900" {
		return false
	}
	switch k.id {
	case "Confrn", "ConfList", "RmLstC", "Select", "Join":
		return p.has(Conference)
	case "Park":
		return p.has(Park)
	case "PickUp", "GPickUp":
		return p.has(Pickup)
	case "OPickUp":
		return p.hasOtherPickup()
	case "HLog":
		return p.has(HuntLogin)
	case "MeetMe":
		return p.has(MeetMe)
	case "Record":
		return p.has(Record)
	case "iDivert":
		return p.has(Divert)
	case "CallBack":
		return p.has(CallBack)
	case "QRT":
		return p.has(QualityReport)
	case "MCID":
		return p.has(MaliciousCall)
	case "AbbrDial":
		return p.has(AbbreviatedDial)
	case "Barge":
		return p.barges("barge")
	case "cBarge":
		return p.barges("cbarge")
	}
	return true
}

// softKeys renders the soft key file.
func (p *phone) softKeys(stamp string) ([]byte, error) {
	w := newWriter()
	shown := make(map[string]bool)
	w.in("softKeyCfg", func() {
		w.el("versionStamp", stamp)
		w.in("typeSoftKey", func() {
			for _, k := range softKeyTable {
				shown[k.id] = p.shows(k)
				if !shown[k.id] && k.id != "Confrn" {
					continue
				}
				w.in("softKeyDef", func() {
					w.num("tag", k.tag)
					w.num("eventID", k.event)
					w.num("helpID", k.help)
				}, "keyID", k.id)
			}
		})
		w.in("softKeySets", func() {
			for _, set := range softKeySets {
				w.in("softKeySet", func() {
					n := 0
					for _, id := range set.keys {
						id, must := strings.CutPrefix(id, "!")
						if (shown[id] || must) && n < 16 {
							w.leaf("softKey", "keyID", id)
							n++
						}
					}
				}, "id", set.id)
			}
		})
	})
	return w.bytes(), nil
}

// featurePolicy renders the feature policy of models that have no soft key file (provisioning.md §9).
func (p *phone) featurePolicy(stamp string) ([]byte, error) {
	w := newWriter()
	w.in("featurePolicy", func() {
		w.el("versionStamp", stamp)
		for i, f := range []struct {
			name   string
			enable bool
		}{
			{"Forward All", true},
			{"Park", p.has(Park)},
			{"Divert (Alerting)", p.has(Divert)},
			{"Conference Details", p.has(Conference)},
			{"Speed Dial", p.has(AbbreviatedDial)},
			{"Call Back", p.has(CallBack)},
			{"Redial", true},
			{"Barge", p.barges("barge") || p.barges("cbarge")},
			{"Divert (Connected)", p.has(Divert)},
			{"Call PickUp", p.has(Pickup)},
			{"Other Call PickUp", p.hasOtherPickup()},
			{"Group Call PickUp", p.has(Pickup)},
			{"Mobility", false},
			{"Meet Me", p.has(MeetMe)},
			{"Quality Reporting Tool", p.has(QualityReport)},
			{"Malicious Caller ID", p.has(MaliciousCall)},
		} {
			w.in("featureDef", func() {
				w.el("id", strconv.Itoa(i+1))
				w.flag("enable", f.enable)
			}, "name", f.name)
		}
	}, "name", limit(p.Doc.Site.Name, 64))
	return w.bytes(), nil
}
