package e2e

import (
	"math"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// echoOf calls baresip until the caller hears himself. Its bridge device sometimes sends nothing for a whole call, and its echo has
// gaps when the machine is busy, so the tone need not be all that is heard.
func echoOf(t *testing.T, d *daemon, p *phone.Phone) *phone.Call {
	t.Helper()
	for range 4 {
		c, err := p.Call(within(t, 10*time.Second), "303")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitState(within(t, 20*time.Second), phone.Connected); err != nil {
			t.Fatal(err)
		}
		c.SetTone(600)
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if a := c.Audio(); math.Abs(a.Hz-600) < 6 && a.Share > 0.5 {
				return c
			}
		}
		t.Logf("no echo: %v", c.Audio())
		if err := c.Hangup(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		over(t, c)
		d.quiet()
	}
	t.Fatal("the caller does not hear the echo")
	return nil
}

// TestPhonesWithoutACommonCodec: a phone with A-law alone calls Debian's baresip, which has another codec alone and echoes what
// it has decoded. The appliance translates both ways, so the caller hears the tone that it says; with SRTP on its own leg.
func TestPhonesWithoutACommonCodec(t *testing.T) {
	feature.Proves(t, "CAL-6")
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1, func(o *phone.Options) { o.Codecs = []string{"PCMA"} })
	d.ready(ada)
	h := newHost(t)
	for _, codec := range []string{"G722/16000/1", "PCMU/8000/1"} {
		t.Run(codec, func(t *testing.T) {
			(&host{t, h.pid}).baresipWith(d, "tcp", codec, true)
			c := echoOf(t, d, ada)
			if a := c.Audio(); a.Codec != "PCMA" || a.Suite == "" {
				t.Errorf("ada's audio is %v", a)
			}
			var calls []struct {
				Legs []struct {
					Codec   string `json:"codec"`
					Packets struct {
						From *struct {
							MOS float64 `json:"mos"`
						} `json:"from"`
					} `json:"packets"`
				} `json:"legs"`
			}
			d.json(&calls, "call", "list")
			want := map[string]string{"G722/16000/1": "G722", "PCMU/8000/1": "PCMU"}[codec]
			if len(calls) != 1 || len(calls[0].Legs) != 2 || calls[0].Legs[0].Codec != "PCMA" || calls[0].Legs[1].Codec != want {
				t.Errorf("call list says %+v, want PCMA and %s", calls, want)
			}
			for _, l := range calls[0].Legs {
				if q := l.Packets.From; q == nil || q.MOS < 1 || q.MOS > 4.5 {
					t.Errorf("quality of a leg: %+v", q)
				}
			}
			if err := c.Hangup(within(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			over(t, c)
			d.quiet()
		})
	}
	unharmed(t, ada)
}
