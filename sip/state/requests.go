package state

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// settingTime bounds how long a phone waits for its setting to be durable.
const settingTime = 5 * time.Second

// event returns the package that an Event header names.
func event(req *sip.Request) string {
	kind, _, _ := strings.Cut(transaction.Header(req, "Event", "o"), ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// Notify answers an unsolicited NOTIFY of a phone whose registration on this connection is alive: off-hook notices
// (sip-state.md §3), results of our requests, everything else 489.
func (s *State) Notify(tx *transaction.Server, id registrar.Identity) {
	switch event(tx.Request()) {
	case "dialog":
		s.hookNotice(tx, id)
	case "refer":
		tx.Answer(200)
	default:
		tx.Answer(489, sip.NewHeader("Allow-Events", "dialog, refer"))
	}
}

// hookNotice counts off-hook and on-hook. The line is that of the entity: some models shorten From and To to one character.
func (s *State) hookNotice(tx *transaction.Server, id registrar.Identity) {
	var info cisco.DialogInfo
	if err := info.Unmarshal(tx.Request().Body()); err != nil {
		tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "dialog-info"`))
		return
	}
	line, ok := s.ownLine(id, userOf(info.Entity))
	if !ok {
		code := 489
		if _, known := s.opt.Accounts.Line(userOf(info.Entity)); known {
			code = 403 // somebody else's
		}
		tx.Answer(code)
		return
	}
	s.mu.Lock()
	for _, d := range info.Dialogs {
		switch d.State {
		case "trying":
			s.hook[line]++
			s.hookSince[line] = time.Now()
		case "terminated":
			if s.hook[line]--; s.hook[line] <= 0 {
				delete(s.hook, line)
			}
		}
	}
	s.changedLocked(Change{Kind: LineChanged, Line: line, Origin: ByPhone}, "p/"+line)
	s.mu.Unlock()
	tx.Answer(200)
}

// userOf takes the user part out of sip:2001@host.
func userOf(uri string) string {
	_, rest, ok := strings.Cut(uri, ":")
	if !ok {
		rest = uri
	}
	user, _, _ := strings.Cut(rest, "@")
	return user
}

// ownLine returns the line if it belongs to whoever sent the request.
func (s *State) ownLine(id registrar.Identity, line string) (string, bool) {
	if a, ok := s.opt.Accounts.Line(line); ok && (id.Device != "" && a.Device == id.Device || id.Device == "" && line == id.Line) {
		return line, true
	}
	if id.Device != "" { // one that it shares
		for _, l := range s.linesOf(id.Device) {
			if l.Number == line {
				return line, true
			}
		}
	}
	return "", false
}

// Publish answers a PUBLISH of do-not-disturb (sip-state.md §4.1). The device is that of the connection: From carries a MAC
// address or a line name, and neither proves anything.
func (s *State) Publish(tx *transaction.Server, id registrar.Identity) {
	req := tx.Request()
	if event(req) != "presence" {
		tx.Answer(489, sip.NewHeader("Allow-Events", "presence"))
		return
	}
	device := id.Device
	if device == "" {
		device = id.Line
	}
	want, said := expires(req)
	if !said {
		want = time.Hour
	}
	tag := transaction.Header(req, "SIP-If-Match")
	s.mu.Lock()
	current, known := s.etags[device]
	s.mu.Unlock()
	if tag != "" && (!known || tag != fmt.Sprint(current)) || tag == "" && len(req.Body()) == 0 {
		tx.Answer(412) // the phone publishes anew: so it learns of our restart
		return
	}
	if want > 0 && want < time.Minute {
		tx.Answer(423, sip.NewHeader("Min-Expires", "60"))
		return
	}
	if len(req.Body()) > 0 {
		var p cisco.Presence
		if err := p.Unmarshal(req.Body()); err != nil || !p.Known && id.Cisco {
			tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "pidf without person/activities"`))
			return
		}
		if p.Known { // a softphone may publish more than we want to know
			ctx, cancel := context.WithTimeout(context.Background(), settingTime)
			err := s.SetDND(ctx, device, p.Activity == cisco.DoNotDisturb, ByPhone)
			cancel()
			if err != nil {
				tx.Answer(500)
				return
			}
		}
	}
	s.mu.Lock()
	next := s.etags[device] + 1
	if want == 0 {
		delete(s.etags, device)
	} else {
		s.etags[device] = next
	}
	s.mu.Unlock()
	granted := int(min(want, time.Hour) / time.Second)
	tx.Answer(200, sip.NewHeader("Expires", fmt.Sprint(granted)), sip.NewHeader("SIP-ETag", fmt.Sprint(next)))
}

// HuntKey handles the softkey HLog: it toggles the login of the device and tells the phone (sip-state.md §6). The REFER has
// been understood; a repeated one (same Call-ID and CSeq) does not toggle again.
func (s *State) HuntKey(tx *transaction.Server, id registrar.Identity) {
	if id.Device == "" {
		tx.Answer(603)
		return
	}
	tx.Answer(202)
	ctx, cancel := context.WithTimeout(context.Background(), settingTime)
	defer cancel()
	code := 200
	if s.SetHuntLogin(ctx, id.Device, !s.HuntLogin(id.Device), ByPhone) != nil {
		code = 500 // logged there; the lamp stays as it was
	}
	s.FinishRefer(tx, code)
}

// expires reads an Expires header.
func expires(req *sip.Request) (time.Duration, bool) {
	v := strings.TrimSpace(transaction.Header(req, "Expires"))
	if v == "" || len(v) > 10 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return time.Duration(min(n, 1<<31)) * time.Second, true
}
