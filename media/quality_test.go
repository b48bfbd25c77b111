package media

import (
	"math"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// TestOpinion compares with values of the recommendations: a perfect G.711 line has 4.41, G.729 3.9 to 4.1, and so on down.
func TestOpinion(t *testing.T) {
	for _, tc := range []struct {
		codec string
		loss  float64
		delay time.Duration
		want  float64
	}{
		{"PCMU", 0, 0, 4.41}, {"PCMU", 0, 150 * time.Millisecond, 4.33}, {"PCMU", 0, 400 * time.Millisecond, 3.08}, {"PCMU", 0.01, 0, 4.33},
		{"PCMU", 0.05, 0, 3.94}, {"PCMU", 0.2, 0, 2.64}, {"G729", 0, 0, 4.1}, {"G722", 0, 0, 4.18}, {"PCMU", 1, 0, 1.17}, {"PCMU", 1, 2 * time.Second, 1},
	} {
		if got := voiceOf([]Format{{Name: tc.codec}}).opinion(tc.loss, tc.delay); math.Abs(got-tc.want) > 0.06 {
			t.Errorf("%s, %.0f %% lost, %v: %.2f, want %.2f", tc.codec, 100*tc.loss, tc.delay, got, tc.want)
		}
	}
	for last, loss := 5.0, 0.0; loss <= 1; loss += 0.01 {
		got := voices["G722"].opinion(loss, 0)
		if got > last || got < 1 {
			t.Fatalf("%.2f at %.0f %%, %.2f before", got, 100*loss, last)
		}
		last = got
	}
}

// TestQualityOfBothDirections loses every tenth packet of a party, lets it report a loss of a quarter of ours, and reads the feed.
func TestQualityOfBothDirections(t *testing.T) {
	feed := make(chan QualityReport, 1000)
	e := engine(t, func(o *Options) {
		o.ReportEvery = 50 * time.Millisecond
		o.Quality = func(r QualityReport) {
			select {
			case feed <- r:
			default:
			}
		}
	})
	a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	for i := range 50 {
		if i%10 == 5 {
			pa.packet(0, "lost")
			continue
		}
		pa.say(0, "x")
		pb.hear()
	}
	pb.say(0, "y") // so that ours has a sender to report on
	h, _ := pa.hear()
	raw, err := (&rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: h.ssrc, FractionLost: 64, Jitter: 80}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	to := pa.to
	to = addrPortPlusOne(to)
	writeFrom(t, pa.ctl, to, raw)
	var from, back Quality
	timeout := time.After(10 * time.Second)
	for from.MOS == 0 || back.MOS == 0 {
		select {
		case r := <-feed:
			if r.Session == a && r.From.MOS > 0 && r.From.Loss > 0 {
				from = r.From
			}
			if r.Session == a && r.To.MOS > 0 {
				back = r.To
			}
		case <-timeout:
			t.Fatalf("feed has %+v and %+v", from, back)
		}
	}
	if back.Loss != 0.25 || back.Jitter != 10*time.Millisecond || back.MOS > 2.7 || back.MOS < 2 {
		t.Errorf("to the party: %+v", back)
	}
	st := a.Stats().Quality
	if st.WorstTo != back.MOS || st.WorstFrom == 0 {
		t.Errorf("%+v", st)
	}
	a.Close()
	b.Close()
	// At the end, the whole: five of fifty are lost.
	for {
		select {
		case r := <-feed:
			if r.Session != a || !r.Final {
				continue
			}
			if math.Abs(r.From.Loss-0.1) > 0.001 || r.From.MOS > 3.6 || r.From.MOS < 3.2 || r.To.Loss != 0.25 {
				t.Errorf("summary %+v", r)
			}
			if got := a.Stats().Quality; got.From != r.From {
				t.Errorf("kept: %+v", got)
			}
			return
		case <-timeout:
			t.Fatal("no summary")
		}
	}
}

// TestLatePackets: 60 ms behind the fastest is late, a clock that drifts is not.
func TestLatePackets(t *testing.T) {
	r := receiver{patient: 480}
	for i := range 3000 {
		arrival := uint32(160*i) + uint32(i/400) // 40 ppm
		if i%100 == 99 {
			arrival += 500
		}
		r.add(packet{seq: uint16(i), timestamp: uint32(160 * i), ssrc: 1}, arrival, true)
	}
	if r.late != 30 {
		t.Errorf("%d packets were late, want 30", r.late)
	}
}
