package e2e

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// studio is house with recordings: ada's calls by key, cleo's always, dan's never; ben's phone gives no copies.
var studio = strings.NewReplacer(
	`number: "303", user: cleo,`, `number: "303", record: always, user: cleo,`, `number: "304", user: dan,`, `number: "304", record: never, user: dan,`,
).Replace(house) + "features:\n  recording: {by: {{.RecordBy}}, warning_seconds: {{.Warning}}}\n"

func studioWith(by, warning string) string {
	return strings.NewReplacer("{{.RecordBy}}", by, "{{.Warning}}", warning).Replace(studio)
}

type recording struct {
	ID        string  `json:"id"`
	Line      string  `json:"line"`
	Name      string  `json:"name"`
	Party     string  `json:"party"`
	PartyName string  `json:"party_name"`
	Incoming  bool    `json:"incoming"`
	Call      string  `json:"call"`
	Seconds   float64 `json:"seconds"`
	By        string  `json:"by"`
	Auto      bool    `json:"automatic"`
	Pending   bool    `json:"pending"`
}

// recordings waits until there are n, none of them under way.
func (d *daemon) recordings(n int) (list []recording) {
	d.t.Helper()
	eventually(d.t, 10*time.Second, "recordings are whole", func() bool {
		d.json(&list, "recording", "list")
		return len(list) == n && !slices.ContainsFunc(list, func(r recording) bool { return r.Pending })
	})
	return list
}

// track is one channel of a recording, 8000 samples a second.
type track []int16

// voices exports a recording and reads it.
func (d *daemon) voices(r recording) (left, right track) {
	d.t.Helper()
	dir := d.t.TempDir()
	d.verb("recording", "export", r.ID, dir)
	files, _ := filepath.Glob(filepath.Join(dir, "*.wav"))
	if len(files) != 1 || !strings.Contains(files[0], "_"+r.Line+"_") || !strings.Contains(files[0], "_"+r.Party+"_") {
		d.t.Fatalf("exported %v of %+v", files, r)
	}
	b, err := os.ReadFile(files[0])
	if err != nil || len(b) < 44 || string(b[:4]) != "RIFF" || binary.LittleEndian.Uint16(b[22:]) != 2 || binary.LittleEndian.Uint32(b[24:]) != 16000 ||
		int(binary.LittleEndian.Uint32(b[40:])) != len(b)-44 {
		d.t.Fatalf("not a WAV file of two channels: %v, %d bytes", err, len(b))
	}
	for at := 44; at+8 <= len(b); at += 8 {
		left = append(left, int16(binary.LittleEndian.Uint16(b[at:])))
		right = append(right, int16(binary.LittleEndian.Uint16(b[at+2:])))
	}
	return left, right
}

// from is where a tone is heard for a fifth of a second after a place, or -1.
func (s track) from(hz float64, after int) int {
	const window = 1600
	for at := max(after, 0); after >= 0 && at+window <= len(s); at += 400 {
		if phone.ToneShare(s[at:at+window], hz) > 0.6 {
			return at
		}
	}
	return -1
}

// quiet is the longest silence, in seconds.
func (s track) quiet() float64 {
	longest, run := 0, 0
	for _, x := range s {
		if run++; x > 200 || x < -200 {
			run = 0
		}
		longest = max(longest, run)
	}
	return float64(longest) / 8000
}

func TestRecording(t *testing.T) {
	d := newDaemon(t, studioWith("phone", "0"))
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	ben := d.newPhone("SEP001122AA0002", "8841", 2, func(o *phone.Options) { o.BridgeStatus = 488 })
	cleo, dan := d.newPhone("SEP001122AA0003", "7965", 3), d.newPhone("SEP001122AA0004", "7841", 4)
	all := []*phone.Phone{ada, ben, cleo, dan}
	for _, p := range all {
		d.ready(p)
	}
	ctx := within(t, 240*time.Second)
	made := 0
	run := func(name string, f func(t *testing.T)) {
		if !t.Failed() {
			ctx = within(t, 60*time.Second)
			t.Run(name, f)
		}
	}
	press := func(t *testing.T, p *phone.Phone, key string, c *phone.Call) {
		t.Helper()
		if err := p.SoftKey(ctx, key, c, nil); err != nil {
			t.Fatal(err)
		}
	}
	recorded := func(t *testing.T, c *phone.Call) []*phone.Call {
		t.Helper()
		eventually(t, 10*time.Second, "the key is lit", c.Recorded)
		return c.Copies()
	}
	hangup := func(t *testing.T, c *phone.Call, others ...*phone.Call) {
		t.Helper()
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, append(others, c)...)
		d.quiet()
		unharmed(t, all...)
	}
	last := func(t *testing.T) recording {
		t.Helper()
		made++
		return d.recordings(made)[made-1]
	}

	run("by key", func(t *testing.T) {
		feature.Proves(t, "REC-1", "REC-2", "REC-3", "REC-4", "REC-11")
		ca, cb := connect(t, ada, ben, "302")
		if err := ada.SoftKey(ctx, "StopRecording", ca, nil); err == nil || !strings.Contains(err.Error(), "603") {
			t.Errorf("end of no recording: %v, want 603", err)
		}
		press(t, ada, "StartRecording", ca)
		copies := recorded(t, ca)
		if copies[0].Label() != "X-relay-nearend" || copies[1].Label() != "X-relay-farend" {
			t.Errorf("copies %s, %s: want near, then far", copies[0].Label(), copies[1].Label())
		}
		press(t, ada, "StartRecording", ca) // again: nothing
		hear(t, ca, cb)
		for _, c := range copies {
			if got := c.CallInfo("record-invoker"); got != "user" {
				t.Errorf("record-invoker is %q", got)
			}
			if a := c.Audio(); a.Sent == 0 || a.Received != 0 || a.Suite == "" {
				t.Errorf("copy %s is not a stream one way, encrypted as its call: %v", c.Label(), a)
			}
		}
		d.verb("recording", "pause", "301", "on")
		ca.SetTone(2100) // the number of a card
		if err := cb.WaitTone(ctx, 2100); err != nil {
			t.Fatal(err)
		}
		pause(ctx, time.Second)
		ca.SetTone(600)
		if err := cb.WaitTone(ctx, 600); err != nil {
			t.Fatal(err)
		}
		d.verb("recording", "pause", "301", "off")
		pause(ctx, 500*time.Millisecond)
		press(t, ada, "StopRecording", ca)
		over(t, copies...)
		for _, c := range copies {
			if !strings.Contains(c.Reason(), "other side") {
				t.Errorf("copy %s ended by %q, want BYE of the server", c.Label(), c.Reason())
			}
		}
		hear(t, ca, cb) // the call goes on
		r := last(t)
		if r.Line != "301" || r.Name != "Ada" || r.Party != "302" || r.PartyName != "Ben <&> Söhne" || r.By != "phone" || r.Auto || r.Incoming || r.Seconds < 2 {
			t.Errorf("%+v", r)
		}
		left, right := d.voices(r)
		if left.from(600, 0) < 0 || right.from(1500, 0) < 0 || left.from(1500, 0) >= 0 || right.from(600, 0) >= 0 {
			t.Errorf("voices: ada left %d, ben right %d", left.from(600, 0), right.from(1500, 0))
		}
		if left.from(2100, 0) >= 0 || left.quiet() < 1 || right.quiet() < 1 {
			t.Errorf("the pause is recorded: tone at %d, silence %v and %v s", left.from(2100, 0), left.quiet(), right.quiet())
		}
		hangup(t, ca, cb)
		list := d.history(1)
		var rec struct{ Notes []string }
		d.json(&rec, "call", "show", list[len(list)-1].ID)
		if !slices.Contains(rec.Notes, "recording "+r.ID) {
			t.Errorf("the call's record refers to %q, not to recording %s", rec.Notes, r.ID)
		}
	})

	run("the call ends", func(t *testing.T) {
		feature.Proves(t, "REC-6")
		ca, cb := connect(t, ada, ben, "302")
		press(t, ada, "StartRecording", ca)
		copies := recorded(t, ca)
		hear(t, ca, cb)
		if err := cb.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, append(copies, ca)...)
		d.quiet()
		if left, right := d.voices(last(t)); left.from(600, 0) < 0 || right.from(1500, 0) < 0 {
			t.Error("the voices are not in the file")
		}
	})

	run("always", func(t *testing.T) {
		feature.Proves(t, "REC-7")
		cd, cc := connect(t, dan, cleo, "303")
		copies := recorded(t, cc)
		if got := copies[0].CallInfo("record-invoker"); got != "auto" {
			t.Errorf("record-invoker is %q", got)
		}
		if err := dan.SoftKey(ctx, "StartRecording", cd, nil); err == nil || !strings.Contains(err.Error(), "603") {
			t.Errorf("recording by a line that may not: %v, want 603", err)
		}
		hear(t, cd, cc)
		hangup(t, cd, cc)
		over(t, copies...)
		r := last(t)
		if r.Line != "303" || r.Party != "304" || !r.Auto || !r.Incoming {
			t.Errorf("%+v", r)
		}
		if left, right := d.voices(r); left.from(1500, 0) < 0 || right.from(600, 0) < 0 {
			t.Error("the voices are not in the file")
		}
		if out, code := d.try("recording", "export", "none", t.TempDir()); code == 0 {
			t.Error(out)
		}
		d.verb("recording", "delete", r.ID)
		made--
		d.recordings(made)
	})

	run("hold, transfer, conference", func(t *testing.T) {
		feature.Proves(t, "REC-8")
		ca, cb := connect(t, ada, ben, "302")
		press(t, ada, "StartRecording", ca)
		copies := recorded(t, ca)
		hear(t, ca, cb)
		if err := ca.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		pause(ctx, time.Second)
		if err := ca.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		hear(t, ca, cb)
		cb.SetTone(0)
		if err := cb.BlindTransfer(ctx, "304"); err != nil {
			t.Fatal(err)
		}
		cd := answer(t, dan)
		over(t, cb)
		cd.SetTone(1900)
		if err := ca.WaitTone(ctx, 1900); err != nil {
			t.Fatal(err)
		}
		second, cb := consult(t, ca, "conference", "302", ben)
		conference(t, ada, ca, second)
		over(t, second)
		ca.SetTone(0)
		cd.SetTone(0)
		cb.SetTone(1100)
		if err := ca.WaitStrongest(ctx, 1100); err != nil {
			t.Fatal(err)
		}
		pause(ctx, 700*time.Millisecond)
		if !ca.Recorded() {
			t.Fatal("the recording has ended")
		}
		for _, c := range []*phone.Call{cb, cd} {
			if err := c.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
		}
		hangup(t, ca, cb, cd)
		over(t, copies...)
		left, right := d.voices(last(t))
		first := right.from(1500, 0)
		moved := right.from(1900, first)
		room := right.from(1100, moved)
		if left.from(600, 0) < 0 || first < 0 || moved < 0 || room < 0 || left.quiet() < 0.9 {
			t.Errorf("ada %d, ben %d, dan after the transfer %d, ben in the conference %d, silence %v s", left.from(600, 0), first, moved, room, left.quiet())
		}
		if right.from(600, 0) >= 0 {
			t.Error("ada is heard on the side of the others")
		}
	})

	run("refused", func(t *testing.T) {
		feature.Proves(t, "REC-12")
		cb, ca := connect(t, ben, ada, "301")
		press(t, ben, "StartRecording", cb)
		notified(t, ben, "Recording failed")
		if n := len(cb.Copies()); n != 0 {
			t.Errorf("%d copies are left", n)
		}
		hear(t, cb, ca)
		hangup(t, cb, ca)
		d.recordings(made)
	})

	run("by the appliance, with a warning", func(t *testing.T) {
		feature.Proves(t, "REC-9")
		d.write(studioWith("either", "1"))
		d.verb("config", "reload")
		cb, ca := connect(t, ben, ada, "301")
		cb.SetTone(0)
		press(t, ben, "StartRecording", cb)
		notified(t, ben, "Recording")
		hearTone(t, ctx, ca, "warning", 1400)
		hearTone(t, ctx, ca, "second warning", 1400)
		if !slices.Contains(ben.Tones(), "DtZipZip") {
			t.Errorf("ben's phone plays %q", ben.Tones())
		}
		cb.SetTone(600)
		ca.SetTone(1500)
		hearTone(t, ctx, ca, "ben between the warnings", 600)
		hearTone(t, ctx, cb, "ada", 1500)
		pause(ctx, 500*time.Millisecond)
		press(t, ben, "StartRecording", cb) // the key of a phone that sends no copies ends it as well
		r := last(t)
		hear(t, cb, ca)
		hangup(t, cb, ca)
		if r.By != "appliance" || r.Line != "302" || r.Party != "301" {
			t.Errorf("%+v", r)
		}
		if left, right := d.voices(r); left.from(600, 0) < 0 || right.from(1500, 0) < 0 {
			t.Errorf("ben left %d, ada right %d", left.from(600, 0), right.from(1500, 0))
		}
		// And with the phone's own copies both are warned as well.
		cd, cc := connect(t, dan, cleo, "303")
		copies := recorded(t, cc)
		cc.SetTone(0)
		hearTone(t, ctx, cd, "warning", 1400)
		hangup(t, cd, cc)
		over(t, copies...)
		last(t)
	})
}

// A power cut leaves what was recorded until then.
func TestRecordingSurvivesPowerCut(t *testing.T) {
	d := newDaemon(t, studioWith("appliance", "0"))
	cleo, dan := d.newPhone("SEP001122AA0003", "7965", 3), d.newPhone("SEP001122AA0004", "7841", 4)
	for _, p := range []*phone.Phone{cleo, dan} {
		d.ready(p)
	}
	ctx := within(t, 60*time.Second)
	cd, cc := connect(t, dan, cleo, "303")
	hear(t, cd, cc)
	pause(ctx, 6*time.Second) // two times as long as anything waits for the disk
	if n := len(cc.Copies()); n != 0 {
		t.Errorf("the phone was asked for %d copies", n)
	}
	cleo.Stop()
	dan.Stop()
	d.kill()
	d.start()
	r := d.recordings(1)[0]
	if r.Line != "303" || r.Seconds < 2 {
		t.Errorf("%+v", r)
	}
	if left, right := d.voices(r); left.from(1500, 0) < 0 || right.from(600, 0) < 0 {
		t.Error("the voices are not in the file")
	}
}

// The phones talk directly, and go on doing so while one of them sends its copies; where the appliance records, the audio comes to
// it and goes back to the direct way after that.
func TestRecordingDirectMedia(t *testing.T) {
	feature.Proves(t, "REC-5")
	text := strings.Replace(studioWith("either", "0"), "lines:\n", "sip: {direct_media: true}\nlines:\n", 1)
	d := newDaemon(t, text)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	ben := d.newPhone("SEP001122AA0002", "8841", 2, func(o *phone.Options) { o.BridgeStatus = 486 })
	d.ready(ada)
	d.ready(ben)
	ctx := within(t, 60*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	// way tells how many legs of the call are direct, and what the appliance has relayed for it.
	way := func() (direct int, packets uint64) {
		var calls []struct {
			State string
			Legs  []struct {
				Direct  bool
				Packets struct{ In uint64 }
			}
		}
		d.json(&calls, "call", "list")
		for _, c := range calls {
			for _, l := range c.Legs {
				if c.State == "recording" {
					continue
				}
				packets += l.Packets.In
				if l.Direct {
					direct++
				}
			}
		}
		return direct, packets
	}
	// still tells whether the appliance relays nothing for a while.
	still := func() bool {
		n, before := way()
		pause(ctx, 300*time.Millisecond)
		_, now := way()
		return n == 2 && now == before
	}
	eventually(t, 10*time.Second, "the phones talk directly", still)
	if err := ada.SoftKey(ctx, "StartRecording", ca, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the key is lit", ca.Recorded)
	copies := ca.Copies()
	hear(t, ca, cb)
	_, before := way()
	hear(t, ca, cb)
	if n, now := way(); n != 2 || now != before {
		t.Errorf("%d legs are direct; the appliance relayed %d packets and then %d", n, before, now)
	}
	if err := ada.SoftKey(ctx, "StopRecording", ca, nil); err != nil {
		t.Fatal(err)
	}
	over(t, copies...)
	r := d.recordings(1)[0]
	if left, right := d.voices(r); r.By != "phone" || left.from(600, 0) < 0 || right.from(1500, 0) < 0 {
		t.Errorf("by %s, ada left %d, ben right %d", r.By, left.from(600, 0), right.from(1500, 0))
	}
	// Ben's phone gives no copies.
	if err := ben.SoftKey(ctx, "StartRecording", cb, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the audio comes to the appliance", func() bool { return !still() })
	hear(t, ca, cb)
	if err := ben.SoftKey(ctx, "StartRecording", cb, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "the phones talk directly again", still)
	hear(t, ca, cb)
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben)
	r = d.recordings(2)[1]
	if left, right := d.voices(r); r.By != "appliance" || left.from(1500, 0) < 0 || right.from(600, 0) < 0 {
		t.Errorf("by %s, ben left %d, ada right %d", r.By, left.from(1500, 0), right.from(600, 0))
	}
}
