package phone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// secure says whether this configuration makes calls with SRTP: encrypted mode only (overview §2).
func (c *Config) secure() bool { return c.Security == 3 }

// codecsFor is the phone's codec list: the model's, less what file and options switch off.
func (p *Phone) codecsFor(c *Config) []audioFormat {
	if p.opt.Codecs != nil {
		var out []audioFormat
		for _, name := range p.opt.Codecs {
			for _, k := range p.man.codecs {
				if codecName(k.rtpmap) == strings.ToUpper(name) {
					out = append(out, k)
				}
			}
		}
		return out
	}
	out := slices.Clone(p.man.codecs)
	if !c.G722 {
		out = slices.DeleteFunc(out, func(k audioFormat) bool { return codecName(k.rtpmap) == "G722" })
	}
	return out
}

func codecName(rtpmap string) string {
	name, _, _ := strings.Cut(strings.ToUpper(rtpmap), "/")
	return name
}

// offer writes a fresh offer: the full codec list, and new keys each time (calls §3, §30).
func (c *Call) offer(direction string) offered {
	o := offered{
		addr: c.l.local.Addr(), port: c.media.port, session: c.session, version: c.version, secure: c.conf.secure(),
		codecs: c.p.codecsFor(c.conf), dtmf: c.conf.AVTPayload, direction: direction,
	}
	c.version++
	if c.of != nil { // a copy has the codec of its call (calls §15)
		c.of.media.mu.Lock()
		name := c.of.media.codec
		c.of.media.mu.Unlock()
		o.codecs = slices.DeleteFunc(slices.Clone(o.codecs), func(k audioFormat) bool { return codecName(k.rtpmap) != name })
	}
	if o.secure {
		for i, s := range c.p.man.suites {
			o.crypto = append(o.crypto, newCrypto(i+1, s))
		}
	}
	return o
}

// audioCodecs are the formats of an m-line that carry audio, and the telephone-event payload.
func audioCodecs(m mediaDesc) (codecs []int, dtmf int) {
	for _, pt := range m.formats {
		switch name := codecName(m.rtpmap[pt]); name {
		case "":
		case "TELEPHONE-EVENT":
			if dtmf == 0 {
				dtmf = pt
			}
		default:
			codecs = append(codecs, pt)
		}
	}
	return codecs, dtmf
}

// checkAnswer settles an offer of this phone with the answer to it, or refuses it.
func (c *Call) checkAnswer(o offered, body []byte, fallback bool) (agreed, error) {
	var a agreed
	d, err := parseSDP(body)
	if err != nil {
		return a, refuse(MediaAnswer, err, "answer cannot be read")
	}
	c.noteVersion(d, body)
	if len(d.media) != 1 {
		return a, refuse(MediaAnswer, nil, "answer with %d m-lines to an offer with 1", len(d.media))
	}
	m := d.media[0]
	switch {
	case m.kind != "audio" || m.port == 0:
		return a, refuse(MediaAnswer, nil, "audio is not accepted")
	case o.secure && m.proto == "RTP/AVP" && !fallback:
		return a, refuse(MediaPlain, nil, "offer of SRTP answered with RTP, and the server does not advertise fallback")
	case o.secure && m.proto != "RTP/SAVP" && m.proto != "RTP/AVP", !o.secure && m.proto != "RTP/AVP":
		return a, refuse(MediaAnswer, nil, "answer with %s", clip(m.proto))
	case !m.addr.IsValid():
		return a, refuse(MediaAnswer, nil, "answer without c=")
	}
	if m.proto == "RTP/SAVP" {
		if len(m.crypto) != 1 {
			return a, refuse(MediaAnswer, nil, "answer with %d usable crypto lines, not 1", len(m.crypto))
		}
		i := slices.IndexFunc(o.crypto, func(l cryptoLine) bool { return l.tag == m.crypto[0].tag })
		if i < 0 || o.crypto[i].suite != m.crypto[0].suite {
			return a, refuse(MediaAnswer, nil, "crypto tag %d with %s was not offered", m.crypto[0].tag, m.crypto[0].suite)
		}
		a.out, a.in = &o.crypto[i], &m.crypto[0]
	}
	codecs, dtmf := audioCodecs(m)
	if len(codecs) == 0 {
		return a, refuse(MediaAnswer, nil, "answer without an audio codec")
	}
	if len(codecs) > 1 {
		c.p.remark("answer with %d audio codecs where one is due", len(codecs))
	}
	a.pt = codecs[0]
	i := slices.IndexFunc(o.codecs, func(k audioFormat) bool { return k.pt == a.pt })
	if i < 0 || codecName(o.codecs[i].rtpmap) != codecName(m.rtpmap[a.pt]) {
		return a, refuse(MediaAnswer, nil, "codec %d %s was not offered", a.pt, clip(m.rtpmap[a.pt]))
	}
	if dtmf != 0 && dtmf != o.dtmf {
		return a, refuse(MediaAnswer, nil, "telephone-event %d, offered as %d", dtmf, o.dtmf)
	}
	if err := c.heldTo(m.direction); err != nil {
		c.p.remark("%v", err)
	}
	if want := answerDirection(o.direction, false); m.direction != want && m.direction != "inactive" &&
		(want == "inactive" || want != "sendrecv" && m.direction == "sendrecv") {
		c.p.remark("offer %s answered %s", o.direction, m.direction)
	}
	a.codec, a.dtmf = codecName(o.codecs[i].rtpmap), dtmf
	a.remote = netip.AddrPortFrom(m.addr.Unmap(), uint16(m.port))
	a.send = o.direction == "sendrecv" && (m.direction == "sendrecv" || m.direction == "recvonly")
	return a, nil
}

// answerTo settles an offer of the other side and makes the answer, or refuses it.
func (c *Call) answerTo(body []byte, holding, fallback bool) (agreed, offered, *mediaDesc, error) {
	var a agreed
	d, err := parseSDP(body)
	if err != nil {
		return a, offered{}, nil, refuse(MediaAnswer, err, "offer cannot be read")
	}
	c.noteVersion(d, body)
	at := slices.IndexFunc(d.media, func(m mediaDesc) bool { return m.kind == "audio" && m.port != 0 })
	if at != 0 {
		return a, offered{}, nil, refuse(MediaAnswer, nil, "offer does not begin with audio")
	}
	m := &d.media[0]
	o := offered{
		addr: c.l.local.Addr(), port: c.media.port, session: c.session, version: c.version,
		direction: answerDirection(m.direction, holding), rejected: d.media[1:],
	}
	secure := c.conf.secure()
	switch {
	case m.proto == "RTP/AVP" && secure && !fallback:
		return a, o, m, refuse(MediaPlain, nil, "plain RTP offered to a phone in encrypted mode")
	case m.proto == "RTP/SAVP" && !secure:
		return a, o, m, refuse(MediaSecure, nil, "SRTP offered to a phone in non-secure mode")
	case m.proto != "RTP/AVP" && m.proto != "RTP/SAVP":
		return a, o, m, refuse(MediaAnswer, nil, "offer of %s", clip(m.proto))
	case !m.addr.IsValid():
		return a, o, m, refuse(MediaAnswer, nil, "offer without c=")
	}
	if m.proto == "RTP/SAVP" {
		i := slices.IndexFunc(m.crypto, func(l cryptoLine) bool { return slices.Contains(c.p.man.suites, l.suite) })
		if i < 0 {
			return a, o, m, refuse(MediaAnswer, nil, "no suite of the offer is one of %s", strings.Join(c.p.man.suites, ", "))
		}
		own := newCrypto(m.crypto[i].tag, m.crypto[i].suite)
		o.secure, o.crypto = true, []cryptoLine{own}
		a.out, a.in = &own, &m.crypto[i]
	}
	codecs, dtmf := audioCodecs(*m)
	mine := c.p.codecsFor(c.conf)
	for _, pt := range codecs {
		i := slices.IndexFunc(mine, func(k audioFormat) bool { return codecName(k.rtpmap) == codecName(m.rtpmap[pt]) })
		if i >= 0 {
			o.codecs = []audioFormat{{pt: pt, rtpmap: mine[i].rtpmap, fmtp: mine[i].fmtp}}
			break
		}
	}
	if len(o.codecs) == 0 {
		return a, o, m, fmt.Errorf("no common codec in %v", m.formats)
	}
	c.version++
	o.dtmf = dtmf
	a.codec, a.pt, a.dtmf = codecName(o.codecs[0].rtpmap), o.codecs[0].pt, dtmf
	a.remote = netip.AddrPortFrom(m.addr.Unmap(), uint16(m.port))
	a.send = o.direction == "sendrecv" || o.direction == "sendonly" && !holding
	return a, o, m, nil
}

// noteVersion holds the other side to calls §27.1: the o= version rises with each change and stays in a refresh.
func (c *Call) noteVersion(d *sessionDesc, body []byte) {
	c.p.mu.Lock()
	sess, ver, old := c.remoteSess, c.remoteVer, c.remoteBody
	c.remoteSess, c.remoteVer, c.remoteBody = d.sessionID, d.version, string(body)
	c.p.mu.Unlock()
	switch {
	case sess == "":
	case sess != d.sessionID:
		c.p.remark("o= session id changed within a call")
	case ver == d.version && old != string(body):
		c.p.remark("session description changed under the same o= version")
	}
}

func (p *Phone) fallback() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.fallback
}
