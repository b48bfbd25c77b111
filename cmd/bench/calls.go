package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pair is two ordinary lines, one of which calls the other.
type pair struct {
	caller, callee *client
	offer, answer  netip.AddrPort // where they want their audio
	key            string         // of the caller's SRTP; empty for none
	delay          func(time.Duration)

	mu       sync.Mutex
	answered time.Time // when the callee wrote its last 200
	told     netip.AddrPort
}

// call is one that is up, as its caller sees it.
type call struct {
	p            *pair
	callID, from string
	to, target   string
	route        []string
	cseq         int
	remote       netip.AddrPort // where the server wants the caller's audio
	key          string         // of the server's SRTP towards the caller
}

// sdp describes an audio stream, as SRTP if there is a key.
func sdp(at netip.AddrPort, key string) string {
	profile, crypto := "RTP/AVP", ""
	if key != "" {
		profile, crypto = "RTP/SAVP", "a=crypto:1 "+suite+" inline:"+key+"\r\n"
	}
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %[1]s\r\ns=-\r\nc=IN IP4 %[1]s\r\nt=0 0\r\nm=audio %[2]d %[3]s 0 101\r\na=rtpmap:0 PCMU/8000\r\n"+
		"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n%[4]s", at.Addr(), at.Port(), profile, crypto)
}

const suite = "AES_CM_128_HMAC_SHA1_80"

// audioOf reads where a description with one stream wants its audio, and with which key.
func audioOf(body []byte) (at netip.AddrPort, key string, err error) {
	var addr netip.Addr
	var port uint64
	for line := range bytes.Lines(body) {
		text := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(text, "c=IN IP4 "); ok {
			if addr, err = netip.ParseAddr(rest); err != nil {
				return at, "", err
			}
		}
		if rest, ok := strings.CutPrefix(text, "m=audio "); ok {
			rest, _, _ = strings.Cut(rest, " ")
			if port, err = strconv.ParseUint(rest, 10, 16); err != nil {
				return at, "", err
			}
		}
		if _, rest, ok := strings.Cut(text, " "+suite+" inline:"); ok && key == "" {
			key, _, _ = strings.Cut(rest, "|")
		}
	}
	if !addr.IsValid() || port == 0 {
		return at, "", errors.New("no audio in the description")
	}
	return netip.AddrPortFrom(addr, uint16(port)), key, nil
}

// serve makes the callee ring and answer at once.
func (p *pair) serve() {
	c := p.callee
	c.onRequest = func(m *message) {
		if m.method != "INVITE" {
			c.ok(m)
			return
		}
		contact := "Contact: <" + c.contact() + ">"
		tag := "c" + strconv.FormatUint(branches.Add(1), 36)
		if !strings.Contains(m.header("To"), ";tag=") {
			c.write(m.answer(180, "Ringing", tag, "", contact))
		}
		if at, _, err := audioOf(m.body); err == nil {
			p.mu.Lock()
			p.told = at
			p.mu.Unlock()
		}
		p.mu.Lock()
		p.answered = time.Now()
		p.mu.Unlock()
		c.write(m.answer(200, "OK", tag, sdp(p.answer, ""), contact, "Content-Type: application/sdp"))
	}
}

// invite calls and returns when the call is up.
func (p *pair) invite(ctx context.Context) (*call, error) {
	c := p.caller
	uri := "sip:" + p.callee.user + "@" + c.server
	k := &call{p: p, callID: strconv.FormatUint(branches.Add(1), 36) + "@" + c.local, cseq: 1, to: "<" + uri + ">"}
	k.from = "<sip:" + c.user + "@" + c.server + ">;tag=" + strconv.FormatUint(branches.Add(1), 36)
	headers := []string{"Contact: <" + c.contact() + ">", "Content-Type: application/sdp", "Allow: INVITE, ACK, BYE, CANCEL, UPDATE", "User-Agent: bench"}
	body := sdp(p.offer, p.key)
	send := func(extra ...string) []byte {
		b := c.request("INVITE", uri, k.from, k.to, k.callID, k.cseq, body, append(headers[:len(headers):len(headers)], extra...)...)
		c.write(b)
		return b
	}
	sent := send()
	for challenged := false; ; {
		m, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		switch {
		case m.code < 200:
		case m.code == 401 && !challenged:
			challenged = true
			ack(c, sent, m, uri, k)
			auth, err := challengeOf(m)
			if err != nil {
				return nil, err
			}
			k.cseq++
			sent = send(auth.authorization("INVITE", uri, c.user, password))
		case m.code == 200:
			if p.delay != nil {
				p.mu.Lock()
				p.delay(time.Since(p.answered))
				p.mu.Unlock()
			}
			k.to, k.target, k.route = m.header("To"), uriOf(m.header("Contact")), m.headers("Record-Route")
			slices.Reverse(k.route)
			if k.remote, k.key, err = audioOf(m.body); err != nil {
				return nil, err
			}
			c.write(k.request("ACK", k.cseq))
			return k, nil
		default:
			ack(c, sent, m, uri, k)
			return nil, fmt.Errorf("call from %s to %s: %s", c.user, p.callee.user, m.lines[0])
		}
	}
}

// ack acknowledges a refusal: same branch as the INVITE's.
func ack(c *client, sent []byte, m *message, uri string, k *call) {
	via, _, _ := bytes.Cut(sent[bytes.Index(sent, []byte("Via: ")):], []byte("\r\n"))
	c.write(fmt.Appendf(nil, "ACK %s SIP/2.0\r\n%s\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d ACK\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
		uri, via, k.from, m.header("To"), k.callID, k.cseq))
}

// request builds a request in the dialog.
func (k *call) request(method string, cseq int) []byte {
	headers := []string{"Contact: <" + k.p.caller.contact() + ">"}
	for _, r := range k.route {
		headers = append(headers, "Route: "+r)
	}
	return k.p.caller.request(method, k.target, k.from, k.to, k.callID, cseq, "", headers...)
}

func (k *call) bye(ctx context.Context) error {
	k.p.caller.write(k.request("BYE", k.cseq+1))
	m, err := k.p.caller.next(ctx)
	if err == nil && m.code != 200 {
		err = fmt.Errorf("BYE answered %s", m.lines[0])
	}
	return err
}

// pairs makes n pairs of the lines 0 to 2n-1.
func (b *bench) pairs(ctx context.Context, server string, n int) ([]*pair, []*client, error) {
	all, err := b.connectLines(ctx, server, 0, 2*n)
	if err != nil {
		return nil, nil, err
	}
	out := make([]*pair, n)
	for i := range out {
		p := &pair{caller: all[2*i], callee: all[2*i+1]}
		p.offer, p.answer = netip.AddrPortFrom(phoneAddress(2*i), 40000), netip.AddrPortFrom(phoneAddress(2*i+1), 40000)
		p.serve()
		out[i] = p
	}
	return out, all, nil
}

// calls measures INVITE to BYE: digest, ringing, answer, acknowledgement, hanging up; no audio flows. Beside it the same through
// kamailio, which is a proxy and anchors no audio.
func (b *bench) calls(ctx context.Context) (err error) {
	d, err := b.newDaemon(ctx, "calls", b.linesSite())
	if err != nil {
		return err
	}
	ours, delay, err := b.callLoad(ctx, d, daemonAddress)
	also(&err, d)
	if err != nil {
		return err
	}
	ours.Name = "call, INVITE to BYE, over TCP with digest"
	k, err := b.kamailio(ctx)
	if err != nil {
		return err
	}
	var theirs row
	if k != nil {
		theirs, _, err = b.callLoad(ctx, k, referenceAddress)
		also(&err, k)
		if err != nil {
			return fmt.Errorf("kamailio: %w", err)
		}
	}
	ours.beside(theirs, "kamailio (proxy)", 2)
	b.report.add(ours, delay)
	return nil
}

// callLoad makes calls one after the other on 16 pairs, then a few alone to see how fast an answer gets through.
func (b *bench) callLoad(ctx context.Context, d *daemon, server string) (cost, delay row, err error) {
	const atOnce = 16
	pairs, all, err := b.pairs(ctx, server, atOnce)
	if err != nil {
		return cost, delay, err
	}
	defer closeAll(all)
	once := func(p *pair) error {
		k, err := p.invite(ctx)
		if err != nil {
			return err
		}
		return k.bye(ctx)
	}
	before := d.cpu()
	n, took, times, err := load(ctx, b.span(), atOnce, func(w int) error { return once(pairs[w]) })
	if err != nil {
		return cost, delay, err
	}
	cost = row{Value: per(d.cpu()-before, n, time.Millisecond), Unit: "ms CPU",
		Beside: fmt.Sprintf("%s calls/s, p99 %v", figure(float64(n)/took.Seconds()), quantile(times, 0.99).Round(10*time.Microsecond))}
	var answers []time.Duration
	pairs[0].delay = func(d time.Duration) { answers = append(answers, d) }
	for range b.scale(200) {
		if err := once(pairs[0]); err != nil {
			return cost, delay, err
		}
	}
	delay = row{Name: "answer of the callee to the caller, one call at a time", Value: float64(median(answers)) / float64(time.Millisecond),
		Unit: "ms", Goal: 5, Beside: fmt.Sprintf("median; p99 %v", quantile(answers, 0.99).Round(10*time.Microsecond))}
	return cost, delay, nil
}
