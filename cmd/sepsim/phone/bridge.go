package phone

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/pion/rtp"
)

// The labels of the two copies of a call (calls §15).
const (
	labelNear = "X-relay-nearend"
	labelFar  = "X-relay-farend"
)

// serveJoin takes an INVITE of the server for a copy of a call by the built-in bridge (calls §15). The phone does not ring, and
// takes nothing that the page does not have: the names of the call as it sees them, a label, an inactive stream, and the codec of
// the call, encrypted where the call is.
func (p *Phone) serveJoin(l *link, m *message) {
	reject := func(status int, text, format string, args ...any) {
		p.refused(StepCall, refuse(Bridge, nil, format, args...))
		res := m.answer(status, text, p.tag())
		res.add("Server", "%s", p.man.agent)
		_ = l.send(res)
	}
	if p.opt.BridgeStatus != 0 {
		res := m.answer(p.opt.BridgeStatus, "Not Here", p.tag())
		res.add("Server", "%s", p.man.agent)
		_ = l.send(res)
		return
	}
	f := strings.Split(m.get("Join"), ";")
	id := dialogID{callID: strings.TrimSpace(f[0])}
	for _, x := range f[1:] {
		switch k, v, _ := strings.Cut(strings.TrimSpace(x), "="); k {
		case "from-tag":
			id.localTag = v
		case "to-tag":
			id.remoteTag = v
		}
	}
	main := p.callByDialog(id)
	if main == nil || id.remoteTag == "" || main.State() != Connected && main.State() != Held {
		reject(481, "Call Leg/Transaction Does Not Exist", "Join names no call: %s", clip(m.get("Join")))
		return
	}
	label := ""
	for line := range strings.SplitSeq(string(m.body), "\r\n") {
		if v, ok := strings.CutPrefix(line, "a=label:"); ok {
			label = v
		}
	}
	d, err := parseSDP(m.body)
	main.media.mu.Lock()
	codec, suite := main.media.codec, main.media.suite
	main.media.mu.Unlock()
	p.mu.Lock()
	taken := slices.ContainsFunc(p.copies, func(c *Call) bool { return c.of == main && c.label == label })
	p.mu.Unlock()
	switch {
	case err != nil || len(d.media) != 1 || d.media[0].kind != "audio":
		reject(488, "Not Acceptable Here", "copy without one stream: %v", err)
		return
	case !main.line.Recording:
		reject(488, "Not Acceptable Here", "recordingOption of line %d is not enable", main.line.Index)
		return
	case label != labelNear && label != labelFar:
		reject(488, "Not Acceptable Here", "label %q", clip(label))
		return
	case d.media[0].direction != "inactive":
		reject(488, "Not Acceptable Here", "copy is asked for as %s", d.media[0].direction)
		return
	case suite != "" && d.media[0].proto != "RTP/SAVP":
		reject(488, "Not Acceptable Here", "copy in clear of a call that is not")
		return
	case taken:
		reject(486, "Busy Here", "a second copy %s", label)
		return
	}
	if codecs, _ := audioCodecs(d.media[0]); len(codecs) != 1 || codecName(d.media[0].rtpmap[codecs[0]]) != codec {
		reject(488, "Not Acceptable Here", "the codec of the call is %s, the copy's %v", codec, d.media[0].rtpmap)
		return
	}
	c := p.newCall(l, main.conf, main.line)
	c.of, c.label = main, label
	c.incoming, c.state = true, Connected
	c.callID, c.localTag, c.remoteTag = m.get("Call-ID"), p.tag(), nameAddrOf(m.get("From")).param("tag")
	c.localURI, c.remoteURI = m.get("To"), stripTag(m.get("From"))
	c.target = nameAddrOf(m.get("Contact")).uri
	c.remoteSeq, _ = m.cseq()
	c.cseq = 100
	c.media.copy = true
	if err := c.media.open(main.conf, l.local.Addr()); err != nil {
		reject(500, "Server Internal Error", "%v", err)
		return
	}
	a, o, _, err := c.answerTo(m.body, false, p.fallback())
	if err == nil {
		err = c.media.set(a)
	}
	if err != nil {
		c.media.close()
		reject(488, "Not Acceptable Here", "%v", err)
		return
	}
	p.mu.Lock()
	c.noteLocked(m)
	invoker := c.info["record-invoker"]
	p.copies = append(p.copies, c)
	p.changedLocked()
	p.mu.Unlock()
	if _, ok := c.info["isvoip"]; !ok || invoker != "user" && invoker != "auto" {
		p.remark("copy of a call with Call-Info %s", clip(m.get("Call-Info")))
	}
	main.media.mu.Lock()
	if label == labelNear {
		main.media.near = append(main.media.near, c.media)
	} else {
		main.media.far = append(main.media.far, c.media)
	}
	main.media.mu.Unlock()
	res := c.response(m, 200, "OK")
	res.with("application/sdp", o.String())
	c.sentOK(res)
	_ = l.send(res)
	p.event(StepCall, "copy "+label+" of a call", nil)
}

// unlink takes a copy off its call.
func (c *Call) unlink() {
	if c.of == nil {
		return
	}
	m := c.of.media
	m.mu.Lock()
	gone := func(x *media) bool { return x == c.media }
	m.near, m.far = slices.DeleteFunc(slices.Clone(m.near), gone), slices.DeleteFunc(slices.Clone(m.far), gone)
	m.mu.Unlock()
}

// Copies are the calls to which the built-in bridge copies this one.
func (c *Call) Copies() []*Call {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	var out []*Call
	for _, x := range c.p.copies {
		if x.of == c {
			out = append(out, x)
		}
	}
	return out
}

// Recorded says that the Record key is lit and stops: both copies are sent.
func (c *Call) Recorded() bool {
	n := 0
	for _, x := range c.Copies() {
		x.media.mu.Lock()
		if x.media.sendOK {
			n++
		}
		x.media.mu.Unlock()
	}
	return n == 2
}

// Label is which copy of a call this is.
func (c *Call) Label() string { return c.label }

// pass sends a packet of the call on as a copy. The lock of the call's media is held.
func (m *media) pass(name string, p *rtp.Packet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !m.sendOK || m.codec != name || m.remote.Port() == 0 {
		return
	}
	if d := p.Timestamp - m.passed; m.sent == 0 || d > sampleRate {
		m.offset = m.stamp - p.Timestamp
	}
	m.passed = p.Timestamp
	m.seq++
	out := rtp.Packet{
		Header:  rtp.Header{Version: 2, PayloadType: uint8(m.pt), SequenceNumber: m.seq, Timestamp: p.Timestamp + m.offset, SSRC: m.ssrc, Marker: m.sent == 0},
		Payload: p.Payload,
	}
	b, err := out.Marshal()
	if err != nil {
		return
	}
	if m.out != nil {
		if b, err = m.out.EncryptRTP(nil, b, nil); err != nil {
			return
		}
	}
	if _, err := m.rtp.WriteTo(b, net.UDPAddrFromAddrPort(m.remote)); err == nil {
		m.sent++
		m.octets += len(p.Payload)
	}
}

// heldTo says what is wrong with the answer to the offer of a copy: it is to be taken, and nothing to be sent back.
func (c *Call) heldTo(direction string) error {
	if c.of != nil && direction != "recvonly" {
		return fmt.Errorf("copy %s answered %s, not recvonly", c.label, direction)
	}
	return nil
}
