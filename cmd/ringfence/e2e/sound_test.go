package e2e

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
	"ringfence/media/codec"
)

// toneFile writes a second of a tone, loud enough to be measured and a whole number of waves long: a WAV of 16 kHz, or G.722 if it is called so.
func toneFile(t *testing.T, name string, hz float64, seconds int) string {
	t.Helper()
	pcm := make([]int16, 16000*seconds)
	for i := range pcm {
		pcm[i] = int16(8000 * math.Sin(2*math.Pi*hz*float64(i)/16000))
	}
	var b bytes.Buffer
	if strings.HasSuffix(name, ".g722") {
		b.Write(codec.NewG722Encoder().Encode(nil, pcm))
	} else {
		b.WriteString("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data")
		_ = binary.Write(&b, binary.LittleEndian, uint32(2*len(pcm)))
		_ = binary.Write(&b, binary.LittleEndian, pcm)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMusicOnHold: who is put on hold hears the music of the line that did it, from files, without a gap where a file ends; callers of a
// hunt group hear the group's.
func TestMusicOnHold(t *testing.T) {
	feature.Proves(t, "ADM-13")
	text := strings.Replace(three, `  - {number: "302",`, `  - {number: "302", music: opera,`, 1)
	if text == three {
		t.Fatal("the document has no line 302 of that form")
	}
	d := newDaemon(t, text+"groups:\n  - {number: \"370\", name: Sales, members: [\"302\"], music: jingle, login_required: false}\n")
	d.verb("sound", "add", "default", toneFile(t, "house.wav", 500, 1))
	d.verb("sound", "add", "opera", toneFile(t, "aria.wav", 700, 1))
	d.verb("sound", "add", "opera", toneFile(t, "b.g722", 700, 1))
	d.verb("sound", "add", "jingle", toneFile(t, "jingle.wav", 900, 1))
	if out, code := d.try("sound", "add", "opera", os.Args[0]); code == 0 {
		t.Errorf("a program is taken as a sound: %s", out)
	}
	if list := d.verb("sound", "list"); !strings.Contains(list, "aria.wav, b.g722") {
		t.Errorf("sounds:\n%s", list)
	}
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ada)
	d.ready(ben)
	ctx := within(t, 90*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	for _, side := range []struct {
		holder, held *phone.Call
		hz           float64
	}{{ca, cb, 500}, {cb, ca, 700}} {
		if err := side.holder.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		if err := side.held.WaitTone(ctx, side.hz); err != nil {
			t.Error(err)
		}
		side.held.ResetAudio()
		if err := side.held.WaitPackets(ctx, side.held.Audio().Received+175); err != nil { // 3.5 s: the files end three times
			t.Fatal(err)
		}
		if pcm := side.held.Samples(3 * time.Second); quietest(pcm) < 0.5 {
			t.Errorf("the music of %.0f Hz has a gap: the quietest 5 ms have %.2f of the level", side.hz, quietest(pcm))
		}
		if err := side.holder.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	live := []struct {
		ID string `json:"id"`
	}{}
	d.json(&live, "call", "list")
	if len(live) != 1 {
		t.Fatalf("calls %+v", live)
	}
	eventually(t, 15*time.Second, "the call of now is shown with its quality", func() bool {
		out := d.verb("call", "show", live[0].ID)
		return strings.Contains(out, "SRTP A") && strings.Contains(out, "MOS 4.") && strings.Contains(out, "from the phone") && strings.Contains(out, "SEP001122AA0002")
	})
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)

	ca, cb = connect(t, ada, ben, "370")
	if err := cb.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ca.WaitTone(ctx, 900); err != nil {
		t.Error(err)
	}
	d.verb("sound", "remove", "jingle")
	if err := cb.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	hear(t, ca, cb)
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben)
}

// quietest is the level of the quietest 5 ms of a sound, as a share of the level of all.
func quietest(pcm []int16) float64 {
	level := func(pcm []int16) float64 {
		sum := 0.0
		for _, s := range pcm {
			sum += float64(s) * float64(s)
		}
		return math.Sqrt(sum / float64(max(len(pcm), 1)))
	}
	all, least := level(pcm), math.Inf(1)
	for i := 0; i+40 <= len(pcm); i += 40 {
		least = min(least, level(pcm[i:i+40]))
	}
	return least / max(all, 1)
}

// TestPlayToPhones plays files to phones from the command line: a sound to a group, whose lines are shown as busy, at once with another
// group; a file to lines by their numbers. Each ends by itself or when told to.
func TestPlayToPhones(t *testing.T) {
	feature.Proves(t, "STR-8")
	d := newDaemon(t, three+`
paging:
  - {number: "391", name: Floor, members: ["302"], codec: G.711, mark_busy: true}
  - {number: "392", name: Yard, members: ["302", "303"], port: 20490}
`)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	eventually(t, 10*time.Second, "ada's lamp of ben is idle", func() bool { return ada.BLF("302") == phone.LampIdle })
	d.verb("sound", "add", "gong", toneFile(t, "gong.g722", 800, 30))
	d.verb("sound", "add", "bell", toneFile(t, "bell.wav", 1000, 4))
	if out := d.verb("page", "play", "Floor", "gong", "--text", "Fire drill", "--volume", "80"); !strings.Contains(out, "1 phones play it: SEP001122AA0002") {
		t.Error(out)
	}
	// The other group has ben too, who listens already.
	if out := d.verb("page", "play", "392", "bell"); !strings.Contains(out, "1 phones play it: SEP001122AA0003") {
		t.Error(out)
	}
	hearsPage(t, "cleo", cleo, 1000)
	hearsPage(t, "ben", ben, 800)
	if s := ben.Stream(); s.Codec != "G.711" || s.Volume != 80 || s.Foreign+s.OtherPT > 0 {
		t.Errorf("ben plays %+v", s)
	}
	eventually(t, 10*time.Second, "ada's lamp shows ben as busy", func() bool { return ada.BLF("302") == phone.LampBusy })
	for _, c := range [][]string{{"page", "play", "391", "bell"}, {"page", "play", "391", "none"}, {"page", "play", "399", "bell"}, {"page", "play", "302", "../secret.wav"}} {
		if out, code := d.try(c...); code == 0 {
			t.Errorf("%v: %s", c, out)
		}
	}
	eventually(t, 20*time.Second, "cleo's page ends by itself", func() bool { s := cleo.Stream(); return !s.Running && s.Stops == 1 })
	d.verb("page", "stop", "391")
	eventually(t, 10*time.Second, "ben's page has ended", func() bool { s := ben.Stream(); return !s.Running && s.Stops == 1 })
	eventually(t, 10*time.Second, "ada's lamp of ben is idle again", func() bool { return ada.BLF("302") == phone.LampIdle })

	if out := d.verb("page", "play", "302,303", toneFile(t, "file.wav", 1200, 3)); !strings.Contains(out, "2 phones") {
		t.Error(out)
	}
	hearsPage(t, "ben", ben, 1200)
	hearsPage(t, "cleo", cleo, 1200)
	eventually(t, 20*time.Second, "both have been told to stop", func() bool { return ben.Stream().Stops == 2 && cleo.Stream().Stops == 2 })
	d.quiet()
	unharmed(t, ada, ben, cleo)
}
