package call_test

import (
	"strings"
	"testing"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

// TestSecurityOfBothLegs: "Encrypted" only where both are, and only after it was agreed ("sip-calls" §1.4).
func TestSecurityOfBothLegs(t *testing.T) {
	for _, tc := range []struct {
		ada, dan string
		srtp     call.SRTP
		status   int
		caller   string // Call-Info security in the 200
		callee   string // in the INVITE, then in the UPDATE if there is one
		protos   string // of the answer to the caller and the offer to the callee
	}{
		{"TCP", "TCP", call.PreferSRTP, 200, "NotAuthenticated", "NotAuthenticated", "RTP/AVP RTP/AVP"},
		{"TLS", "TCP", call.PreferSRTP, 200, "NotAuthenticated", "NotAuthenticated", "RTP/SAVP RTP/AVP"},
		{"TCP", "TLS", call.PreferSRTP, 200, "NotAuthenticated", "NotAuthenticated", "RTP/AVP RTP/SAVP"},
		{"TLS", "TLS", call.PreferSRTP, 200, "Encrypted", "Authenticated Encrypted", "RTP/SAVP RTP/SAVP"},
		{"TLS", "TLS", call.RequireSRTP, 200, "Encrypted", "Authenticated Encrypted", "RTP/SAVP RTP/SAVP"},
		{"TLS", "TCP", call.RequireSRTP, 488, "", "", ""},
		{"TCP", "TLS", call.RequireSRTP, 488, "", "", ""},
		{"TLS", "TLS", call.NeverSRTP, 488, "", "", ""}, // the phone offers SAVP and fall-back is not announced
	} {
		name := tc.ada + " " + tc.dan + " " + map[call.SRTP]string{call.PreferSRTP: "prefer", call.RequireSRTP: "require", call.NeverSRTP: "never"}[tc.srtp]
		t.Run(name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada := w.Phone("301", tc.ada, func(p *calltest.Phone) { p.NoFallback = true })
				w.Phone("302", tc.dan)
				c := ada.Call("302")
				after(3 * time.Second)
				status(t, c, tc.status)
				if tc.status != 200 {
					return
				}
				security := func(m calltest.Message) string {
					_, v, _ := strings.Cut(m.Header("Call-Info"), "security=")
					return v
				}
				if got := security(w.Last("301 < 200 INVITE")); got != tc.caller {
					t.Errorf("caller sees %s, want %s", got, tc.caller)
				}
				seen := security(w.Last("302 < INVITE"))
				for _, m := range w.Find("302 < UPDATE") {
					seen += " " + security(m)
				}
				if seen != tc.callee {
					t.Errorf("callee sees %s, want %s", seen, tc.callee)
				}
				proto := func(m calltest.Message) string {
					return strings.Fields(strings.SplitN(m.Body(), "m=audio ", 2)[1])[1]
				}
				if got := proto(w.Last("301 < 200 INVITE")) + " " + proto(w.Last("302 < INVITE")); got != tc.protos {
					t.Errorf("transports %s, want %s", got, tc.protos)
				}
				c.Bye()
				settle()
			}, func(_ *config.Document, o *call.Options) { o.SRTP = tc.srtp })
		})
	}
}

// TestPlainAfterRefusal: a phone over TLS that cannot encrypt audio is asked again without.
func TestPlainAfterRefusal(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TLS")
		w.Phone("304", "TLS", func(p *calltest.Phone) { p.Security = sdp.Plain })
		c := ada.Call("304")
		after(5 * time.Second)
		status(t, c, 200)
		if n := len(w.Find("304 < INVITE")); n != 2 {
			t.Errorf("%d INVITEs", n)
		}
		if body := w.Last("304 < INVITE").Body(); !strings.Contains(body, "RTP/AVP") || strings.Contains(body, "crypto") {
			t.Errorf("second offer %s", body)
		}
		c.Bye()
		settle()
	})
}

// TestFallback: both ends announced X-cisco-srtp-fallback, so an encrypted offer that cannot be used is answered in clear.
func TestFallback(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TLS", func(p *calltest.Phone) { p.Suites = "F8_128_HMAC_SHA1_80" })
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(3 * time.Second)
		status(t, c, 200)
		answer := w.Last("301 < 200 INVITE")
		if !strings.Contains(answer.Body(), "RTP/AVP 9") || !strings.Contains(answer.Header("Supported"), "X-cisco-srtp-fallback") {
			t.Errorf("answered\n%s", answer.Text)
		}
		c.Bye()
		settle()
	})
}

func TestPhonesOf79x1GetTheShortTag(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TLS")
		w.Phone("302", "TLS", func(p *calltest.Phone) { p.Model = "7961" })
		c := ada.Call("302")
		after(3 * time.Second)
		body := w.Last("302 < INVITE").Body()
		if strings.Count(body, "a=crypto:") != 1 || !strings.Contains(body, "AES_CM_128_HMAC_SHA1_32") {
			t.Error(body)
		}
		c.Bye()
		settle()
	})
}

// TestKeysAreNewInEveryOffer: hold and resume re-key ("sip-calls" §30).
func TestKeysAreNewInEveryOffer(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TLS")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(3 * time.Second)
		c.Hold("")
		after(time.Second)
		c.Resume()
		after(time.Second)
		seen := map[string]bool{}
		for _, m := range w.Find("301 < 200 INVITE") {
			_, key, _ := strings.Cut(m.Body(), "inline:")
			key, _, _ = strings.Cut(key, "\r\n")
			if key == "" || seen[key] {
				t.Errorf("key %q twice or missing", key)
			}
			seen[key] = true
			if strings.Count(m.Body(), "a=crypto") != 1 {
				t.Errorf("more than one suite in the answer:\n%s", m.Body())
			}
		}
		if len(seen) != 3 {
			t.Errorf("%d answers", len(seen))
		}
		c.Bye()
		settle()
	})
}
