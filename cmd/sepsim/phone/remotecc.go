package phone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Content types of remote call control (overview §6.1).
const (
	typeRequest  = "application/x-cisco-remotecc-request+xml"
	typeResponse = "application/x-cisco-remotecc-response+xml"
	typeCM       = "application/x-cisco-remotecc-cm+xml"
	typeDialog   = "application/dialog-info+xml"
	typePIDF     = "application/pidf+xml"
)

// part is one body of a message.
type part struct {
	kind string
	body []byte
}

// partsOf splits a multipart/mixed body, or gives the single one (overview §6.2).
func partsOf(m *message) ([]part, error) {
	ct := m.get("Content-Type")
	kind, params, _ := strings.Cut(ct, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if kind != "multipart/mixed" {
		return []part{{kind, m.body}}, nil
	}
	boundary := ""
	for _, f := range splitOutside(params, ';') {
		if k, v, _ := strings.Cut(f, "="); strings.EqualFold(strings.TrimSpace(k), "boundary") {
			boundary = unquote(strings.TrimSpace(v))
		}
	}
	if boundary == "" {
		return nil, errors.New("multipart without boundary")
	}
	mark := []byte("--" + boundary)
	rest := m.body
	if !bytes.HasPrefix(rest, mark) {
		return nil, errors.New("multipart does not begin with its boundary")
	}
	var out []part
	for {
		rest = rest[len(mark):]
		if bytes.HasPrefix(rest, []byte("--")) {
			return out, nil
		}
		if !bytes.HasPrefix(rest, []byte("\r\n")) {
			return nil, errors.New("boundary line does not end in CRLF")
		}
		end := bytes.Index(rest, append([]byte("\r\n"), mark...))
		if end < 0 {
			return nil, errors.New("multipart without closing boundary")
		}
		// A part without headers begins with the empty line at once.
		head, body, ok := bytes.Cut(rest[2:max(end, 2)], []byte("\r\n\r\n"))
		if !ok {
			return nil, errors.New("part without an empty line after its headers")
		}
		p := part{body: body}
		for _, line := range strings.Split(string(head), "\r\n") {
			if k, v, _ := strings.Cut(line, ":"); strings.EqualFold(strings.TrimSpace(k), "Content-Type") {
				v, _, _ = strings.Cut(v, ";")
				p.kind = strings.ToLower(strings.TrimSpace(v))
			}
		}
		out = append(out, p)
		rest = rest[end+2:]
	}
}

// dialogID names a call in a request of the server: tags as the phone sees them (calls §1.1 rule 2).
type dialogID struct{ callID, localTag, remoteTag string }

func dialogIDOf(e *element) dialogID {
	return dialogID{e.get("callid"), e.get("localtag"), e.get("remotetag")}
}

// serveRefer handles a REFER from the server: remote call control, or nothing that a phone knows.
func (p *Phone) serveRefer(l *link, m *message) {
	parts, err := partsOf(m)
	if err == nil && len(parts) > maxCombine {
		err = fmt.Errorf("%d parts, more than the %d of combine max", len(parts), maxCombine)
	}
	var roots []*element
	var screen *Screen
	var urls []string
	var stream *element
	for _, part := range parts {
		if err != nil {
			break
		}
		switch part.kind {
		case typeRequest:
			var root *element
			if root, err = parseXML(part.body); err == nil {
				if root.name != "x-cisco-remotecc-request" || len(root.kids) != 1 {
					err = fmt.Errorf("<%s> with %d requests where one is due", root.name, len(root.kids))
				}
				roots = append(roots, root)
			}
		case typeCM:
			if root, bad := parseXML(part.body); bad == nil && (root.name == "startMedia" || root.name == "stopMedia") {
				stream = root
				_, _, err = parseStream(root)
				continue
			}
			if screen, urls, err = parseScreen(part.body); err == nil {
				p.mu.Lock()
				p.display.screens = keep(p.display.screens, string(part.body))
				p.mu.Unlock()
			}
		case typeResponse, "text/plain":
		default:
			err = fmt.Errorf("body of type %q", part.kind)
		}
	}
	if err != nil {
		p.refused(StepSIP, refuse(RemoteCC, err, "REFER"))
		p.respond(l, m, 400, "Bad Request", err.Error())
		return
	}
	if !m.token("Require", "norefersub") {
		p.remark("REFER without Require: norefersub")
	}
	if m.get("Refer-To") == "" || m.get("Content-Id") == "" {
		p.remark("REFER without Refer-To or Content-Id")
	}
	// Requests about a call are looked up before the answer: a dialog that is gone is answered so (calls §1.2).
	for _, root := range roots {
		req := root.kids[0]
		if e := req.child("dialogid"); e != nil && e.get("callid") != "" {
			if p.callByDialog(dialogIDOf(e)) == nil {
				p.refused(StepSIP, refuse(RemoteCC, nil, "%s for a dialog that the phone does not have", req.name))
				p.respond(l, m, 481, "Call Leg/Transaction Does Not Exist", "")
				return
			}
		}
	}
	if stream != nil {
		s, start, _ := parseStream(stream)
		if !start {
			p.stopStream()
		} else if err := p.playStream(s, l.local.Addr()); err != nil {
			p.respond(l, m, 500, "Server Internal Error", err.Error())
			return
		}
	}
	p.respond(l, m, 202, "Accepted", "")
	if screen != nil || len(urls) > 0 {
		p.mu.Lock()
		p.showLocked(screen, urls)
		p.mu.Unlock()
	}
	for _, root := range roots {
		p.command(root.kids[0])
	}
}

// command obeys one request of the server.
func (p *Phone) command(req *element) {
	switch req.name {
	case "holdretrievereq", "answercallreq":
		c := p.callByDialog(dialogIDOf(req.child("dialogid")))
		if c == nil {
			return
		}
		p.tasks.Go("phone command", c.obey(req.name))
		return
	case "initiatecallreq":
		n, _ := strconv.Atoi(req.get("linenumber"))
		number := req.get("dialstring")
		if number == "" {
			p.remark("initiatecallreq without dialstring")
			return
		}
		p.tasks.Go("phone command", func(ctx context.Context) {
			if _, err := p.CallFrom(ctx, max(n, 1), number); err != nil {
				p.event(StepCall, "initiatecallreq", err)
			}
		})
		return
	case "bulkupdate", "dndupdate", "hlogupdate", "cfwdallupdate", "statuslineupdatereq", "playtonereq", "notifyreq", "privacyreq":
	case "datapassthroughreq", "holdreversionreq", "monitorcallreq",
		"linekeyupdate", "talkbackreq", "dialdtmfreq", "dndrequest":
		return
	default:
		p.remark("unknown request <%s>", req.name)
		return
	}
	p.mu.Lock()
	d := &p.display
	text := ""
	switch req.name {
	case "dndupdate":
		d.dnd, d.dndMode = req.get("state") == "enable", req.get("option")
		text = "do not disturb " + req.get("state")
	case "hlogupdate":
		d.hunt, d.huntSet = req.get("status") == "on", true
		text = "hunt login " + req.get("status")
	case "cfwdallupdate":
		n, _ := strconv.Atoi(req.get("linenumber"))
		text = d.forward(n, req)
	case "bulkupdate":
		for _, contact := range req.all("contact") {
			n, _ := strconv.Atoi(contact.attrs["line"])
			s := d.lines[n]
			if s == nil {
				continue
			}
			s.Message = contact.get("mwi") == "yes"
			if e := contact.at("emwi/voice-msg"); e != nil {
				s.New, _ = strconv.Atoi(e.attrs["new"])
				s.Old, _ = strconv.Atoi(e.attrs["old"])
			}
			if e := contact.child("cfwdallupdate"); e != nil {
				d.forward(n, e)
			}
		}
		p.reg.bulk = true
		text = "line states received"
	case "notifyreq":
		text = req.get("feature") + " " + req.get("status")
		d.finished = keep(d.finished, text)
	case "privacyreq":
		d.private = req.get("status") == "true"
		text = "privacy " + req.get("status")
	case "statuslineupdatereq":
		d.notices = keep(d.notices, req.get("statustext"))
		text = "status line: " + req.get("statustext")
	case "playtonereq":
		d.tones = keep(d.tones, req.get("tonetype"))
		text = "tone " + req.get("tonetype")
	}
	p.changedLocked()
	p.mu.Unlock()
	p.event(StepSIP, text, nil)
}

func (d *display) forward(line int, e *element) string {
	s := d.lines[line]
	if s == nil {
		return "forward of a line that the phone does not have"
	}
	s.Forward, s.ToVoicemail = e.get("fwdaddress"), e.get("tovoicemail") == "on"
	if s.Forward == "" {
		return fmt.Sprintf("line %d is not forwarded", line)
	}
	return fmt.Sprintf("line %d is forwarded to %s", line, s.Forward)
}
