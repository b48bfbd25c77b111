package transaction

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
)

const invite = `
INVITE sip:302@10.20.0.5 SIP/2.0
Via: SIP/2.0/UDP 10.20.4.31:51234;branch=z9hG4bKinv1
From: <sip:301@10.20.0.5>;tag=phone1
To: <sip:302@10.20.0.5>
Call-ID: call1@10.20.4.31
CSeq: 101 INVITE
Contact: <sip:301@10.20.4.31:51234>
`

func variant(raw string, oldnew ...string) string { return strings.NewReplacer(oldnew...).Replace(raw) }

// bench is a layer with one flow and what its user was told.
type bench struct {
	t    *testing.T
	l    *Layer
	f    *siptest.Flow
	txs  []*Server
	acks []*sip.Request
}

func newBench(t *testing.T, transport string) *bench {
	b := &bench{t: t, f: siptest.NewFlow("a", transport)}
	b.l = New(Options{
		OnRequest: func(s *Server) { b.txs = append(b.txs, s) },
		OnAck:     func(_ flow.Flow, ack *sip.Request) { b.acks = append(b.acks, ack) },
	})
	return b
}

func (b *bench) receive(raw string) { b.l.Receive(b.f, siptest.Message(b.t, raw)) }

func (b *bench) sent(want ...string) {
	b.t.Helper()
	got := siptest.Lines(b.f.Sent())
	if d := cmp.Diff(got, want); d != "" && len(got)+len(want) > 0 {
		b.t.Errorf("sent (-got +want):\n%s", d)
	}
}

func TestInviteServerBusyOverUDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "UDP")
		b.receive(invite)
		b.sent("100 INVITE")
		tx := b.txs[0]
		var ended []error
		tx.OnEnd(func(err error) { ended = append(ended, err) })
		if err := tx.Respond(tx.Response(180, "")); err != nil {
			t.Fatal(err)
		}
		b.sent("180 INVITE")
		b.receive(invite) // a retransmission gets the last answer
		b.sent("180 INVITE")
		tx.Answer(486)
		b.sent("486 INVITE")
		time.Sleep(1600 * time.Millisecond) // T1, then doubled
		synctest.Wait()
		b.sent("486 INVITE", "486 INVITE")
		// Cisco phones leave the To tag out of this ACK.
		b.receive(variant(invite, "INVITE sip", "ACK sip", "101 INVITE", "101 ACK"))
		time.Sleep(time.Minute)
		synctest.Wait()
		b.sent()
		if len(ended) != 1 || ended[0] != nil || b.l.Count() != 0 || len(b.acks) != 0 {
			t.Errorf("ended %v, count %d, acks %d; want one nil, 0, 0", ended, b.l.Count(), len(b.acks))
		}
		if err := tx.Respond(tx.Response(200, "")); !errors.Is(err, ErrEnded) {
			t.Errorf("second final answer: %v", err)
		}
	})
}

func TestFinalWithoutAck(t *testing.T) {
	for _, tt := range []struct {
		name, transport string
		code            int
		repeats         int
	}{
		{"refused over TCP", "TCP", 486, 0},
		{"accepted over TCP", "TCP", 200, 0},
		// After 0.5 1.5 3.5 7.5 11.5 15.5 19.5 23.5 27.5 s: 500 ms doubling to T2.
		{"refused over UDP", "UDP", 486, 9},
		{"accepted over UDP", "UDP", 200, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, tt.transport)
				b.receive(invite)
				ends := make(chan error, 10)
				b.txs[0].OnEnd(func(err error) { ends <- err })
				b.txs[0].Answer(tt.code)
				time.Sleep(31 * time.Second)
				synctest.Wait()
				want := []string{"100 INVITE"}
				for range tt.repeats + 1 {
					want = append(want, fmt.Sprintf("%d INVITE", tt.code))
				}
				b.sent(want...)
				if len(ends) != 0 {
					t.Errorf("ended after 31 s: %v", <-ends)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if len(ends) != 1 || b.l.Count() != 0 {
					t.Fatalf("after 64*T1: ended %d times, count %d; want 1, 0", len(ends), b.l.Count())
				}
				if err := <-ends; !errors.Is(err, ErrTimeout) {
					t.Errorf("ended with %v, want ErrTimeout", err)
				}
			})
		})
	}
}

func TestInviteServerAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "UDP")
		b.receive(invite)
		b.txs[0].Answer(200)
		b.sent("100 INVITE", "200 INVITE")
		b.receive(invite) // absorbed in accepted (RFC 6026): the 200 is repeated by timer only
		b.sent()
		// The ACK to a 2xx has its own branch.
		ack := variant(invite, "INVITE sip", "ACK sip", "101 INVITE", "101 ACK", "z9hG4bKinv1", "z9hG4bKack1", "302@10.20.0.5>\n", "302@10.20.0.5>;tag="+b.txs[0].Tag()+"\n")
		b.receive(ack)
		b.receive(ack)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.sent()
		if len(b.acks) != 2 || b.l.Count() != 0 {
			t.Errorf("%d ACKs handed up, %d transactions; want 2, 0", len(b.acks), b.l.Count())
		}
	})
}

func TestCancel(t *testing.T) {
	cancel := variant(invite, "INVITE sip", "CANCEL sip", "101 INVITE", "101 CANCEL")
	t.Run("without handler", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(invite)
		b.receive(cancel)
		b.sent("100 INVITE", "200 CANCEL", "487 INVITE")
	})
	t.Run("with handler", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(invite)
		n := 0
		b.txs[0].OnCancel(func(*sip.Request) { n++; b.txs[0].Answer(487) })
		b.receive(cancel)
		b.receive(cancel)
		b.sent("100 INVITE", "200 CANCEL", "487 INVITE", "200 CANCEL")
		if n != 1 {
			t.Errorf("handler called %d times", n)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(invite)
		b.txs[0].OnCancel(func(*sip.Request) { t.Error("handler called after the final answer") })
		b.txs[0].Answer(200)
		b.receive(cancel)
		b.sent("100 INVITE", "200 INVITE", "200 CANCEL")
	})
	t.Run("of nothing", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(cancel)
		b.sent("481 CANCEL")
	})
	t.Run("from another flow", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(invite)
		b.txs[0].OnCancel(func(*sip.Request) { t.Error("a stranger cancelled the call") })
		other := siptest.NewFlow("b", "TCP")
		b.l.Receive(other, siptest.Message(t, cancel))
		if got := siptest.Lines(other.Sent()); !cmp.Equal(got, []string{"481 CANCEL"}) {
			t.Errorf("answered %v", got)
		}
	})
}

func TestDismiss(t *testing.T) {
	for _, method := range []string{"INVITE", "REGISTER"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "UDP")
			b.l.opt.OnRequest = func(s *Server) {
				b.txs = append(b.txs, s)
				s.Dismiss(s.Response(401, ""))
			}
			raw := variant(invite, "INVITE", method)
			b.receive(raw)
			if b.l.Count() != 0 {
				t.Errorf("%d transactions kept", b.l.Count())
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			b.sent("401 " + method) // not repeated
			b.receive(raw)
			b.sent("401 " + method)
			if method == "INVITE" {
				b.receive(variant(raw, "INVITE sip", "ACK sip", "101 INVITE", "101 ACK"))
				b.sent()
			}
			if err := b.txs[0].Respond(b.txs[0].Response(200, "")); !errors.Is(err, ErrEnded) {
				t.Errorf("answered after that: %v", err)
			}
		})
	}
}

func TestOtherServer(t *testing.T) {
	options := variant(invite, "INVITE", "OPTIONS")
	t.Run("over UDP the answer is repeated for 32 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "UDP")
			b.receive(options)
			b.receive(options)
			b.sent()
			b.txs[0].Answer(200)
			b.receive(options)
			b.sent("200 OPTIONS", "200 OPTIONS")
			time.Sleep(33 * time.Second)
			synctest.Wait()
			b.receive(options)
			if len(b.txs) != 2 {
				t.Errorf("%d transactions, want 2: the first is over after 64*T1", len(b.txs))
			}
		})
	})
	t.Run("over TCP it is over at once", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(options)
		b.txs[0].Answer(200)
		if b.l.Count() != 0 {
			t.Errorf("%d transactions left", b.l.Count())
		}
	})
	t.Run("never answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "TCP")
			b.receive(options)
			var end error
			b.txs[0].OnEnd(func(err error) { end = err })
			time.Sleep(33 * time.Second)
			synctest.Wait()
			b.sent()
			if !errors.Is(end, ErrTimeout) || b.l.Count() != 0 {
				t.Errorf("end %v, count %d", end, b.l.Count())
			}
		})
	})
	t.Run("a panic is 500", func(t *testing.T) {
		f := siptest.NewFlow("a", "TCP")
		l := New(Options{OnRequest: func(*Server) { panic("boom") }})
		l.Receive(f, siptest.Message(t, options))
		if got := siptest.Lines(f.Sent()); !cmp.Equal(got, []string{"500 OPTIONS"}) {
			t.Errorf("answered %v", got)
		}
	})
	t.Run("another SIP version is 505", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.receive(variant(options, "SIP/2.0\nVia", "SIP/7.0\nVia"))
		b.sent("505 OPTIONS")
	})
	t.Run("too many are 503 with Retry-After", func(t *testing.T) {
		b := newBench(t, "TCP")
		b.l.opt.MaxPerFlow = 1
		b.receive(options)
		b.receive(variant(options, "z9hG4bKinv1", "z9hG4bKinv2"))
		sent := b.f.Sent()
		if len(sent) != 1 || sent[0].(*sip.Response).StatusCode != 503 || Header(sent[0], "Retry-After") == "" {
			t.Errorf("sent %v", siptest.Lines(sent))
		}
	})
}

// answer builds the answer of a peer to a request that was sent.
func answer(t *testing.T, req *sip.Request, code int, toTag string) *sip.Response {
	t.Helper()
	res := sip.NewResponseFromRequest(req, code, "Answer", nil)
	res.To().Params.Add("tag", toTag)
	m, err := sip.ParseMessage([]byte(res.String()))
	if err != nil {
		t.Fatal(err)
	}
	return m.(*sip.Response)
}

type told struct {
	codes []int
	errs  []error
}

func (x *told) handle(res *sip.Response, err error) {
	if err != nil {
		x.errs = append(x.errs, err)
	} else {
		x.codes = append(x.codes, res.StatusCode)
	}
}

func outgoing(t *testing.T, method string) *sip.Request {
	req := siptest.Request(t, variant(invite, "INVITE", method, "Via: SIP/2.0/UDP 10.20.4.31:51234;branch=z9hG4bKinv1\n", "Via: SIP/2.0/UDP x\n"))
	req.RemoveHeader("Via")
	return req
}

func TestInviteClient(t *testing.T) {
	t.Run("refused: ACK by the layer, again for a repeated answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "UDP")
			var x told
			c, err := b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(1600 * time.Millisecond)
			synctest.Wait()
			b.sent("INVITE", "INVITE", "INVITE") // 0, 0.5, 1.5 s
			b.l.Receive(b.f, answer(t, c.Request(), 180, "p"))
			time.Sleep(time.Minute)
			synctest.Wait()
			b.sent() // ringing may last
			busy := answer(t, c.Request(), 486, "p")
			b.l.Receive(b.f, busy)
			b.l.Receive(b.f, busy)
			b.sent("ACK", "ACK")
			time.Sleep(time.Minute)
			synctest.Wait()
			if d := cmp.Diff(x.codes, []int{180, 486}); d != "" || len(x.errs) != 0 || b.l.Count() != 0 {
				t.Errorf("codes %s errs %v count %d", d, x.errs, b.l.Count())
			}
		})
	})
	t.Run("accepted: the user's ACK is repeated for a repeated 200", func(t *testing.T) {
		b := newBench(t, "TCP")
		var x told
		c, _ := b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
		ok := answer(t, c.Request(), 200, "p")
		b.l.Receive(b.f, ok)
		ack := outgoing(t, "ACK")
		if err := c.Ack(ack); err != nil {
			t.Fatal(err)
		}
		b.l.Receive(b.f, ok)
		b.l.Receive(b.f, answer(t, c.Request(), 200, "another fork"))
		b.sent("INVITE", "ACK", "ACK")
		if d := cmp.Diff(x.codes, []int{200}); d != "" {
			t.Error(d)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "TCP")
			var x told
			_, _ = b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
			time.Sleep(33 * time.Second)
			synctest.Wait()
			b.sent("INVITE")
			if len(x.errs) != 1 || !errors.Is(x.errs[0], ErrTimeout) || b.l.Count() != 0 {
				t.Errorf("errs %v count %d", x.errs, b.l.Count())
			}
		})
	})
}

func TestClientCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "TCP")
		var x told
		c, _ := b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
		c.Cancel(sip.NewHeader("Reason", "SIP;cause=200"))
		c.Cancel()
		b.sent("INVITE") // not before a provisional answer (RFC 3261 §9.1)
		b.l.Receive(b.f, answer(t, c.Request(), 180, "p"))
		sent := b.f.Sent()
		if got := siptest.Lines(sent); !cmp.Equal(got, []string{"CANCEL"}) {
			t.Fatalf("sent %v", got)
		}
		cancel := sent[0].(*sip.Request)
		branch := func(r *sip.Request) string { return r.Via().Params.GetOr("branch", "") }
		if branch(cancel) != branch(c.Request()) || cancel.CSeq().SeqNo != 101 || Header(cancel, "Reason") != "SIP;cause=200" {
			t.Errorf("CANCEL is\n%s", cancel)
		}
		b.l.Receive(b.f, answer(t, cancel, 200, "p"))
		b.l.Receive(b.f, answer(t, c.Request(), 487, "p"))
		b.sent("ACK")
		if d := cmp.Diff(x.codes, []int{180, 487}); d != "" {
			t.Error(d)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.l.Count() != 0 {
			t.Errorf("%d transactions left", b.l.Count())
		}
	})
}

func TestClientCancelUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "TCP")
		var x told
		c, _ := b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
		b.l.Receive(b.f, answer(t, c.Request(), 180, "p"))
		time.Sleep(time.Minute)
		c.Cancel()
		time.Sleep(33 * time.Second)
		synctest.Wait()
		if len(x.errs) != 1 || !errors.Is(x.errs[0], ErrTimeout) || b.l.Count() != 0 {
			t.Errorf("errs %v count %d", x.errs, b.l.Count())
		}
	})
}

func TestOtherClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "UDP")
		var x told
		_, _ = b.l.Request(b.f, outgoing(t, "NOTIFY"), x.handle)
		time.Sleep(33 * time.Second)
		synctest.Wait()
		want := make([]string, 11) // 0 .5 1.5 3.5 7.5 11.5 15.5 19.5 23.5 27.5 31.5 s
		for i := range want {
			want[i] = "NOTIFY"
		}
		b.sent(want...)
		if len(x.errs) != 1 || !errors.Is(x.errs[0], ErrTimeout) {
			t.Errorf("errs %v", x.errs)
		}
	})
}

func TestStrayResponses(t *testing.T) {
	b := newBench(t, "TCP")
	var x told
	c, _ := b.l.Request(b.f, outgoing(t, "NOTIFY"), x.handle)
	ok := answer(t, c.Request(), 200, "p")
	other := siptest.NewFlow("b", "TCP")
	b.l.Receive(other, ok)
	stray := answer(t, c.Request(), 200, "p")
	stray.Via().Params.Add("branch", "z9hG4bKother")
	b.l.Receive(b.f, stray)
	if len(x.codes)+len(x.errs) != 0 {
		t.Fatalf("answers of strangers were taken: %v %v", x.codes, x.errs)
	}
	b.l.Receive(b.f, ok)
	b.l.Receive(b.f, ok)
	if d := cmp.Diff(x.codes, []int{200}); d != "" {
		t.Error(d)
	}
}

func TestFlowClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "TCP")
		var x told
		_, _ = b.l.Request(b.f, outgoing(t, "INVITE"), x.handle)
		b.receive(invite)
		var end error
		b.txs[0].OnEnd(func(err error) { end = err })
		b.f.Close(nil)
		b.l.FlowClosed(b.f, nil)
		if len(x.errs) != 1 || !errors.Is(x.errs[0], ErrFlowClosed) || !errors.Is(end, ErrFlowClosed) || b.l.Count() != 0 {
			t.Errorf("client %v, server %v, count %d", x.errs, end, b.l.Count())
		}
		if _, err := b.l.Request(b.f, outgoing(t, "NOTIFY"), x.handle); !errors.Is(err, ErrFlowClosed) {
			t.Errorf("request on a closed flow: %v", err)
		}
		b.receive(invite) // a message still on its way leaves nothing behind
		if b.l.Count() != 0 || len(b.l.flows) != 0 {
			t.Errorf("count %d, tables %d", b.l.Count(), len(b.l.flows))
		}
	})
}

func TestRFC2543Branch(t *testing.T) {
	b := newBench(t, "TCP")
	old := variant(invite, ";branch=z9hG4bKinv1", "")
	b.receive(old)
	b.receive(old)
	b.receive(variant(old, "101 INVITE", "102 INVITE"))
	if len(b.txs) != 2 {
		t.Errorf("%d transactions, want 2", len(b.txs))
	}
	b.txs[0].Answer(486)
	b.receive(variant(old, "INVITE sip", "ACK sip", "101 INVITE", "101 ACK"))
	if b.l.Count() != 1 {
		t.Errorf("%d transactions left, want 1", b.l.Count())
	}
}

func TestVerbatimURI(t *testing.T) {
	for _, text := range []string{
		"sip:2001@10.20.4.31:51234;transport=tcp",
		"sip:8a854224-0000-93da-8e71-6a2796f20001@192.0.2.51:50210;transport=tls",
		"SIP:2001@10.20.4.31;lr;x=",
		"sip:2001@[2001:db8::1]:5060;transport=tcp",
		"sip:10.20.4.31",
		"sip:%32001:pw@h;a=%20?x=y&z",
	} {
		u, err := VerbatimURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		req := sip.NewRequest(sip.NOTIFY, u)
		if got := strings.Fields(req.StartLine())[1]; got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}
