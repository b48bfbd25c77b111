package media

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/media/codec"
)

type outcome struct {
	r   Recording
	err error
}

func recordInto(o RecordOptions) (RecordOptions, chan outcome) {
	done := make(chan outcome, 2)
	o.Done = func(r Recording, err error) { done <- outcome{r, err} }
	return o, done
}

func ended(t *testing.T, done chan outcome) outcome {
	t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(20 * time.Second):
		t.Fatal("the recording does not end")
	}
	return outcome{}
}

// talk lets both parties say a tone each for some frames, in real time.
func talk(t *testing.T, pa, pb *party, frames int) {
	t.Helper()
	g := coderOf(g722)
	for i := range frames {
		pa.say(0, string(codec.EncodeULaw(nil, sine(400, 6000, 8000, 160*i))))
		pb.say(9, string(encode(g.kind, &g.enc, nil, sine(1100, 6000, 16000, 320*i))))
		time.Sleep(20 * time.Millisecond)
	}
}

// TestRecorder records a conversation: one party left, the other right, in a file that is called by its content and that ffmpeg can
// read.
func TestRecorder(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{g722})
	o, done := recordInto(RecordOptions{Dir: t.TempDir()})
	r, err := e.Record(o, a, b)
	if err != nil {
		t.Fatal(err)
	}
	talk(t, pa, pb, 50)
	r.Stop()
	r.Stop()
	got := ended(t, done)
	if got.err != nil || got.r.Lost != 0 || got.r.Length < 800*time.Millisecond {
		t.Fatalf("%+v", got)
	}
	data, err := os.ReadFile(got.r.File)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != got.r.Hash || filepath.Base(got.r.File) != got.r.Hash+".wav" {
		t.Errorf("%s is called %s", hex.EncodeToString(sum[:]), got.r.File)
	}
	var side [2][]int16
	for at := wavHeaderLen; at+4 <= len(data); at += 4 {
		for c := range side {
			side[c] = append(side[c], int16(uint16(data[at+2*c])|uint16(data[at+2*c+1])<<8))
		}
	}
	// The loudest half second, wherever a busy machine has put it.
	for c, hz := range []float64{400, 1100} {
		best, loud := 0.0, 0.0
		for from := 0; from+1600 <= len(side[c]); from += 800 {
			if share, amplitude := loudness(side[c][from:from+1600], hz, 16000); share > best {
				best, loud = share, amplitude
			}
		}
		if best < 0.98 || math.Abs(loud-6000) > 600 {
			t.Errorf("channel %d: %.0f %% is the tone of %v Hz, amplitude %.0f", c, 100*best, hz, loud)
		}
	}
	if _, err := exec.LookPath("ffprobe"); err == nil {
		out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=sample_rate,channels,codec_name", "-of", "csv=p=0", got.r.File).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "pcm_s16le,16000,2" {
			t.Errorf("ffprobe says %q, %v", out, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(o.Dir, "*"+partSuffix)); len(left) > 0 || len(a.rx.taps) > 0 {
		t.Errorf("left behind: %v, %d ears", left, len(a.rx.taps))
	}
}

// full is a file on a disk that is full after some octets.
type full struct {
	*os.File
	left int
}

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.left {
		n, _ := f.File.Write(b[:f.left])
		f.left = 0
		return n, syscall.ENOSPC
	}
	f.left -= len(b)
	return f.File.Write(b)
}

// TestFullDiskEndsARecording: what was written is whole, the conversation goes on.
func TestFullDiskEndsARecording(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	for _, tc := range []struct {
		name string
		room int
	}{{"after a while", wavHeaderLen + 40001}, {"at once", wavHeaderLen}} {
		t.Run(tc.name, func(t *testing.T) {
			o, done := recordInto(RecordOptions{Dir: t.TempDir()})
			o.create = func(name string) (recordFile, error) {
				f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
				return &full{f, tc.room}, err
			}
			if _, err := e.Record(o, a, b); err != nil {
				t.Fatal(err)
			}
			got := ended(t, done)
			if !errors.Is(got.err, syscall.ENOSPC) {
				t.Fatalf("%+v", got)
			}
			files, _ := os.ReadDir(o.Dir)
			if tc.room == wavHeaderLen {
				if len(files) != 0 || got.r.File != "" {
					t.Errorf("nothing was written, yet %v, %+v", files, got.r)
				}
			} else if want := 40000 * time.Second / recordRate; got.r.Length != want || len(files) != 1 {
				t.Errorf("%v is whole in %v, want %v", got.r.Length, files, want)
			}
			pa.say(0, "still here")
			pb.expect(0, "still here")
		})
	}
	if _, err := e.Record(RecordOptions{Dir: "/does/not/exist"}, a, b); err == nil {
		t.Error("recorded into nowhere")
	}
}

// TestSlowDisk: what the disk could not take is silence of the same length.
func TestSlowDisk(t *testing.T) {
	e := engine(t)
	a, _, _, _ := pair(t, e, []Format{pcmu}, []Format{pcmu})
	m, err := Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	r := &Recorder{engine: e, monitor: m, blocks: make(chan []byte, 2)}
	frames := recordBlock / frameOctets
	for range 4 * frames {
		r.tick(nil, 0)
	}
	if len(r.blocks) != 2 || r.gap != 2*recordBlock {
		t.Fatalf("%d blocks wait, %d octets are missing", len(r.blocks), r.gap)
	}
	<-r.blocks
	<-r.blocks
	for range frames {
		r.tick(nil, 0)
	}
	if b := <-r.blocks; b == nil {
		t.Error("silence comes before the block")
	}
	if b := <-r.blocks; b != nil || r.gap != recordBlock {
		t.Errorf("%d octets, and %d are missing still", len(b), r.gap)
	}
}

// TestRecoverAfterACrash: a file without lengths in its header becomes a recording; what is no recording is removed.
func TestRecoverAfterACrash(t *testing.T) {
	dir := t.TempDir()
	for name, octets := range map[string]int{"aa.part": wavHeaderLen + 64003, "bb.part": wavHeaderLen, "cc.part": 3, "other.wav": 10} {
		b := append(wavHeader(2, sampleRate, 0), make([]byte, 70000)...)
		if err := os.WriteFile(filepath.Join(dir, name), b[:octets], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Recover(dir)
	if err != nil || len(list) != 1 || list[0].Length != time.Second {
		t.Fatalf("%+v, %v", list, err)
	}
	f, err := os.Open(list[0].File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if pcm, err := ReadWAV(f); err != nil || len(pcm) != 16000 {
		t.Errorf("%d samples, %v", len(pcm), err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("left: %v", files)
	}
}

// TestEngineStopEndsRecordings: nothing is lost but what had not reached the recorder's queue.
func TestEngineStopEndsRecordings(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{g722})
	o, done := recordInto(RecordOptions{Dir: t.TempDir()})
	if _, err := e.Record(o, a, nil); err != nil {
		t.Fatal(err)
	}
	talk(t, pa, pb, 40)
	e.Stop()
	if got := ended(t, done); got.err != nil || got.r.Length < 400*time.Millisecond {
		t.Errorf("%+v", got)
	}
}

// TestRecordParty: one party alone, left what it says and right what it hears, be that the other party or a sound.
func TestRecordParty(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{g722})
	o, done := recordInto(RecordOptions{Dir: t.TempDir()})
	r, err := e.RecordParty(o, a)
	if err != nil {
		t.Fatal(err)
	}
	talk(t, pa, pb, 40)
	r.Pause(true)
	talk(t, pa, pb, 15)
	r.Pause(false)
	if err := a.Play(e.NewPlayer(&Loop{Samples: sine(2000, 6000, 16000, 1600)}, nil)); err != nil {
		t.Fatal(err)
	}
	talk(t, pa, pb, 40)
	r.Stop()
	got := ended(t, done)
	if got.err != nil {
		t.Fatalf("%+v", got)
	}
	data, err := os.ReadFile(got.r.File)
	if err != nil {
		t.Fatal(err)
	}
	var side [2][]int16
	for at := wavHeaderLen; at+4 <= len(data); at += 4 {
		for c := range side {
			side[c] = append(side[c], int16(uint16(data[at+2*c])|uint16(data[at+2*c+1])<<8))
		}
	}
	has := func(c int, hz float64) bool {
		for from := 0; from+1600 <= len(side[c]); from += 400 {
			if share, _ := loudness(side[c][from:from+1600], hz, 16000); share > 0.9 {
				return true
			}
		}
		return false
	}
	for _, x := range []struct {
		side int
		hz   float64
		want bool
	}{{0, 400, true}, {0, 1100, false}, {0, 2000, false}, {1, 1100, true}, {1, 2000, true}, {1, 400, false}} {
		if has(x.side, x.hz) != x.want {
			t.Errorf("channel %d holds %v Hz: %v", x.side, x.hz, !x.want)
		}
	}
	longest, run := 0, 0
	for _, s := range side[0] {
		if run++; s > 200 || s < -200 {
			run = 0
		}
		longest = max(longest, run)
	}
	if longest < 1600 {
		t.Errorf("the pause is %d samples of silence", longest)
	}
	if len(a.rx.taps) > 0 || len(a.tx.taps) > 0 {
		t.Errorf("left behind: %d and %d ears", len(a.rx.taps), len(a.tx.taps))
	}
}
