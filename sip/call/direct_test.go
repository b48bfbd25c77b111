package call_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

// straight lets all lines have direct media.
func straight(d *config.Document, _ *call.Options) { d.SIP.DirectMedia = true }

// hears is where a phone sends its audio: the number of another phone, or "server".
func hears(p *calltest.Phone) string {
	a, _ := p.Last().Get().Neg.Agreed()
	switch host := a.Remote.RTP.Addr(); {
	case host == calltest.Server:
		return "server"
	case host.IsValid():
		return fmt.Sprint(host.As4()[3])
	}
	return ""
}

// apart checks whom two phones send to, and that each sends with the key and the number that the other expects.
func apart(t *testing.T, ada, ben *calltest.Phone, want bool) {
	t.Helper()
	a, _ := ada.Last().Get().Neg.Agreed()
	b, _ := ben.Last().Get().Neg.Agreed()
	if !want {
		if hears(ada) != "server" || hears(ben) != "server" {
			t.Errorf("audio goes to %s and %s, want the server", hears(ada), hears(ben))
		}
		return
	}
	if a.Remote.RTP != netip.AddrPortFrom(ben.Address(), 17904) || b.Remote.RTP != netip.AddrPortFrom(ada.Address(), 17904) {
		t.Errorf("audio goes to %v and %v", a.Remote.RTP, b.Remote.RTP)
	}
	if !a.Remote.SendKey.Equal(b.Remote.RecvKey) || !b.Remote.SendKey.Equal(a.Remote.RecvKey) || a.Secure != b.Secure {
		t.Error("keys of the two do not fit")
	}
	if a.Remote.Send[0].PT != b.Remote.Receive[0].PT || b.Remote.Send[0].PT != a.Remote.Receive[0].PT {
		t.Errorf("numbers: %v %v, %v %v", a.Remote.Send, b.Remote.Receive, b.Remote.Send, a.Remote.Receive)
	}
}

// TestDirectMedia is the picture of "sip-calls" §27.2: both phones are given the other one's description by UPDATE; a hold brings the
// audio back, so that music is heard, and after it the phones talk directly again.
func TestDirectMedia(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben := w.Phone("301", transport), w.Phone("302", transport)
				c := ada.Call("302")
				after(5 * time.Second)
				apart(t, ada, ben, true)
				second := w.Last("301 < UPDATE")
				if !strings.Contains(second.Body(), "c=IN IP4 "+ben.Address().String()) || !strings.Contains(second.Body(), "IN IP4 192.0.2.10\r\n") {
					t.Errorf("UPDATE with\n%s", second.Body())
				}
				if transport == "TLS" && !strings.Contains(w.Last("302 < ACK").Body(), "c=IN IP4 "+ada.Address().String()) {
					t.Errorf("ACK with\n%s", w.Last("302 < ACK").Body())
				}
				if i := w.Manager.Snapshot(); !i[0].Legs[0].Direct || !i[0].Legs[1].Direct || i[0].Legs[0].Secure != (transport == "TLS") {
					t.Errorf("%+v", i)
				}
				c.Hold("")
				after(3 * time.Second)
				apart(t, ada, ben, false)
				c.Resume()
				after(3 * time.Second)
				apart(t, ada, ben, true)
				after(100 * time.Second) // silence here does not end the call
				if ben.Alive() != 1 {
					t.Error("the call has ended")
				}
				c.Bye()
				settle()
			}, straight)
		})
	}
}

// TestDirectMediaWithoutUpdate: a phone that does not know UPDATE is asked by INVITE.
func TestDirectMediaWithoutUpdate(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, dan := w.Phone("301", "TCP"), w.Phone("304", "TCP")
		c := ada.Call("304")
		after(5 * time.Second)
		apart(t, ada, dan, true)
		if len(w.Find("304 < UPDATE")) != 0 || len(w.Find("304 < INVITE")) != 2 {
			t.Error(strings.Join(w.Ladder(), "\n"))
		}
		after(45 * time.Second) // the probe repeats the description
		apart(t, ada, dan, true)
		c.Bye()
		settle()
	}, straight)
}

// TestNoDirectMedia: each condition by itself keeps the audio here.
func TestNoDirectMedia(t *testing.T) {
	for name, tc := range map[string]struct {
		edit edit
		ben  func(*calltest.Phone)
		tls  bool
	}{
		"not declared":       {edit: func(*config.Document, *call.Options) {}},
		"not for this line":  {edit: func(d *config.Document, _ *call.Options) { d.SIP.DirectMedia, d.Lines[1].DirectMedia = true, "off" }},
		"for one line alone": {edit: func(d *config.Document, _ *call.Options) { d.Lines[1].DirectMedia = "on" }},
		"no path": {edit: func(d *config.Document, o *call.Options) {
			d.SIP.DirectMedia = true
			o.DirectPath = func(a, b netip.Addr) bool { return false }
		}},
		"behind a translator": {ben: func(p *calltest.Phone) { p.Audio = netip.MustParseAddrPort("10.0.0.7:17904") }},
		"encrypted and not":   {tls: true, ben: func(p *calltest.Phone) { p.Security = sdp.Plain }},
		"another codec":       {ben: func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.PCMA} }},
	} {
		t.Run(name, func(t *testing.T) {
			e := tc.edit
			if e == nil {
				e = straight
			}
			scene(t, func(t *testing.T, w *calltest.World) {
				transport := "TCP"
				if tc.tls {
					transport = "TLS"
				}
				ada := w.Phone("301", transport, func(p *calltest.Phone) {
					if name == "another codec" {
						p.Codecs = []sdp.Codec{sdp.G722}
					}
				})
				ben := w.Phone("302", "TCP", func(p *calltest.Phone) {
					if tc.ben != nil {
						tc.ben(p)
					}
				})
				c := ada.Call("302")
				after(5 * time.Second)
				apart(t, ada, ben, false)
				c.Bye()
				settle()
			}, e)
		})
	}
}

// TestDirectMediaRefused: whichever phone does not want it, by whatever code, both go on with us.
func TestDirectMediaRefused(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		for _, who := range []string{"301", "302"} {
			for _, code := range []int{488, 500, 491} {
				t.Run(fmt.Sprint(transport, who, code), func(t *testing.T) {
					scene(t, func(t *testing.T, w *calltest.World) {
						tries := 0
						refuse := func(req *sip.Request) int {
							_, in := req.To().Params.Get("tag")
							if in && (req.Method == sip.INVITE || len(req.Body()) > 0) && !strings.Contains(string(req.Body()), "c=IN IP4 192.0.2.10") {
								if tries++; code != 491 || tries == 1 {
									return code
								}
							}
							return 0
						}
						phones := map[string]*calltest.Phone{}
						for _, n := range []string{"301", "302"} {
							phones[n] = w.Phone(n, transport, func(p *calltest.Phone) {
								if n == who {
									p.Intercept = refuse
								}
							})
						}
						c := phones["301"].Call("302")
						after(15 * time.Second)
						apart(t, phones["301"], phones["302"], code == 491)
						if tries == 0 || code != 491 && tries > 1 {
							t.Errorf("%d attempts", tries)
						}
						c.Bye()
						settle()
					}, straight)
				})
			}
		}
	}
}

// TestAnchor: a feature that needs the sound has it.
func TestAnchor(t *testing.T) {
	var leg *call.Leg
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TLS"), w.Phone("302", "TLS")
		c := ada.Call("302")
		after(5 * time.Second)
		apart(t, ada, ben, true)
		var release func()
		c.Refer("anything") // shows us the leg
		after(time.Second)
		leg.Do(func() { release = leg.Anchor() })
		after(time.Second)
		apart(t, ada, ben, false)
		leg.Do(func() { release(); release() })
		after(time.Second)
		apart(t, ada, ben, true)
		c.Bye()
		settle()
	}, straight, func(_ *config.Document, o *call.Options) {
		o.Refer = func(_ *call.Call, l *call.Leg, r *call.Referral) {
			leg = l
			r.Refuse(603)
		}
	})
}

// TestDirectMediaAndTransfer: who is left talks with whom it is sent to, directly again.
func TestDirectMediaAndTransfer(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben, cleo := w.Phone("301", transport), w.Phone("302", transport), w.Phone("303", transport)
				c := ada.Call("302")
				after(5 * time.Second)
				c.Hold("transfer")
				after(time.Second)
				d := ada.Call("303")
				after(5 * time.Second)
				apart(t, ada, cleo, true)
				c.ReferTo(d)
				after(10 * time.Second)
				apart(t, ben, cleo, true)
				ben.Last().Reinvite(media.Both, "")
				after(5 * time.Second)
				apart(t, ben, cleo, true)
				ben.Last().Bye()
				settle()
			}, straight)
		})
	}
}

func TestTortureDirectMedia(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			calltest.Torture(t, engine, transport, func(w *calltest.World) {
				ada := w.Phone("301", transport)
				w.Phone("302", transport)
				c := ada.Call("302")
				after(5 * time.Second)
				c.Hold("")
				after(2 * time.Second)
				c.Resume()
				after(5 * time.Second)
				c.Bye()
			}, straight)
		})
	}
}
