package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// directLegs lists how many legs of the only call have direct audio, and the packets that the appliance has relayed for it.
func (d *daemon) directLegs() (direct int, packets uint64) {
	var calls []struct {
		Legs []struct {
			Direct  bool `json:"direct"`
			Packets struct {
				In uint64 `json:"in"`
			} `json:"packets"`
		} `json:"legs"`
	}
	d.json(&calls, "call", "list")
	if len(calls) == 1 {
		for _, l := range calls[0].Legs {
			if l.Direct {
				direct++
			}
			packets += l.Packets.In
		}
	}
	return direct, packets
}

// TestDirectMedia is "sip-calls" §27.2 with real audio: two phones send each other SRTP without the appliance, whose relay then stands still;
// on hold the held one hears music of the appliance; after that it is direct again. Quality comes from the phones themselves.
func TestDirectMedia(t *testing.T) {
	feature.Proves(t, "CAL-5")
	for name, security := range map[string]string{"encrypted": "encrypted", "in clear": "nonsecure"} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(three, "lines:\n", "sip: {direct_media: true}\nlines:\n", 1)
			if security == "nonsecure" {
				text = strings.ReplaceAll(text, "    model: \"88", "    security: nonsecure\n    model: \"88")
			}
			d := newDaemon(t, text)
			ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
			d.ready(ada)
			d.ready(ben)
			ca, cb := connect(t, ada, ben, "302")
			ctx := within(t, 60*time.Second)
			direct := func() {
				t.Helper()
				eventually(t, 10*time.Second, "the phones have each other's address", func() bool {
					for p, other := range map[*phone.Phone]int{ada: 2, ben: 1} {
						addr, body := d.site.phoneAddress(other).String(), ""
						for _, m := range p.Received(0) {
							if b := m.Body(); strings.HasPrefix(b, "v=0") {
								body = b
							}
						}
						if !strings.Contains(body, "\r\nc=IN IP4 "+addr+"\r\n") {
							return false
						}
					}
					return true
				})
			}
			direct()
			update := false
			for _, m := range ada.Received(0) {
				update = update || m.Method() == "UPDATE" && strings.Contains(m.Body(), d.site.phoneAddress(2).String())
			}
			if !update {
				t.Error("ada got no UPDATE with ben's description")
			}
			ca.ResetAudio()
			cb.ResetAudio()
			hear(t, ca, cb)
			if (ca.Audio().Suite != "") != (security == "encrypted") {
				t.Errorf("suite %q", ca.Audio().Suite)
			}
			n, before := d.directLegs()
			hear(t, ca, cb)
			if _, now := d.directLegs(); n != 2 || now != before {
				t.Errorf("%d direct legs; the appliance relayed %d packets and then %d", n, before, now)
			}
			if err := ca.Hold(ctx); err != nil {
				t.Fatal(err)
			}
			if err := cb.WaitPackets(ctx, 50); err != nil {
				t.Errorf("ben hears no music: %v", err)
			}
			if _, now := d.directLegs(); now == before {
				t.Log("nothing was relayed on hold yet")
			}
			if err := ca.Resume(ctx); err != nil {
				t.Fatal(err)
			}
			direct()
			hear(t, ca, cb)
			if err := ca.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
			over(t, ca, cb)
			d.quiet()
			var records []struct {
				Legs []struct {
					Direct bool `json:"direct"`
					Heard  *struct {
						Packets uint64 `json:"packets"`
					} `json:"phone_received"`
				} `json:"legs"`
			}
			eventually(t, 10*time.Second, "the call has a record", func() bool {
				d.json(&records, "call", "history")
				return len(records) == 1
			})
			for _, l := range records[0].Legs {
				if !l.Direct || l.Heard == nil {
					t.Errorf("record of a leg: %+v", l)
				}
			}
			unharmed(t, ada, ben)
		})
	}
}
