package callrecord

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/appliance/store"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

func openStore(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Options{Dir: dir, Appliance: "pbx-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func keeper(t *testing.T, s Store, keep time.Duration) *Keeper {
	t.Helper()
	k, err := New(t.Context(), Options{Store: s, Node: "pbx-1", Keep: func() time.Duration { return keep }})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var nine = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// talk is a call of 301 with 302 that lasted a minute.
func talk(id string, at time.Time) call.Info {
	var rx cisco.Stats
	rx.Unmarshal(`Dur=61,Pkt=3050,Oct=488000,LatePkt=2,LostPkt=5,AvgJit=3,VQMetrics="CCR=0.0021;MOSlq=4.1200"`)
	return call.Info{
		ID: id, State: "ending", Dialled: "302", From: "301", Started: at, Answered: at.Add(4 * time.Second),
		Ways: []plan.Diversion{{Line: "303", Reason: "no-answer"}},
		Legs: []call.LegInfo{
			{ID: "L1", Line: "301", Name: "Ada", Device: "SEP001122AA0001", Incoming: true, Codec: "G722", Secure: true, Created: at,
				Answered: at.Add(4 * time.Second), Ended: at.Add(64 * time.Second), End: "hung up", HasStats: true, RxStat: rx, CallID: "a@192.0.2.51"},
			{ID: "L2", Line: "302", Name: "Ben", Device: "SEP001122AA0002", Created: at, Answered: at.Add(4 * time.Second), Ended: at.Add(64 * time.Second)},
		},
	}
}

func TestRecord(t *testing.T) {
	k := keeper(t, openStore(t, t.TempDir()), 0)
	k.Start()
	defer k.Stop()
	k.Began(talk("C1", nine))
	k.Ended(talk("C1", nine))
	r, ok := k.Get("C1")
	if !ok || r.Open || r.Result != "answered" || r.Talked != 60 || r.From != "301" || r.To != "302" || r.ToName != "Ben" || r.EndedBy != "301" || r.Cause != "hung up" {
		t.Fatalf("%v %+v", ok, r)
	}
	if q := r.Legs[0].Heard; q == nil || q.Packets != 3050 || q.Lost != 5 || q.MOS() != "4.1200" {
		t.Errorf("quality %+v", q)
	}
	if r.Legs[1].Heard != nil || r.Legs[0].Direction != "in" || r.Legs[1].Direction != "out" || r.Ways[0] != (Way{"303", "no-answer"}) {
		t.Errorf("%+v", r)
	}
	if again, ok := k.Get(r.ID); !ok || again.ID != r.ID {
		t.Errorf("by its own name: %v", ok)
	}
	if err := k.Note(t.Context(), "C1", "recording 301-1.wav"); err != nil {
		t.Fatal(err)
	}
	if r, _ = k.Get("C1"); len(r.Notes) != 1 {
		t.Errorf("notes %q", r.Notes)
	}
	if _, ok := k.Get("C2"); ok {
		t.Error("a call that was never made has a record")
	}
}

func TestResults(t *testing.T) {
	for why, want := range map[string]string{"486": "busy", "603": "busy", "480": "no answer", "cancelled": "cancelled", "404": "failed", "503": "failed"} {
		i := talk("C1", nine)
		i.Answered = time.Time{}
		i.Legs = i.Legs[:1]
		i.Legs[0].Answered, i.Legs[0].End = time.Time{}, why
		if r := of(i, "pbx-1", nil); r.Result != want || r.Cause != why || r.Talked != 0 {
			t.Errorf("%s: %s %s", why, r.Result, r.Cause)
		}
	}
}

// TestRelated: calls that share a party name each other (CDR-2).
func TestRelated(t *testing.T) {
	k := keeper(t, openStore(t, t.TempDir()), 0)
	first := talk("C1", nine)
	k.Began(first)
	consult := talk("C2", nine.Add(30*time.Second))
	consult.Legs[1].Through = []string{"C1"}
	k.Ended(first)
	k.Ended(consult)
	a, _ := k.Get("C1")
	b, _ := k.Get("C2")
	if len(b.Related) != 1 || b.Related[0] != a.ID || b.Common != a.ID || a.Common != a.ID {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// TestCrash: nothing of a call is lost when the appliance goes, neither one that was over nor one that went on (CDR-5).
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	k := keeper(t, s, 0)
	k.Began(talk("C1", nine))
	k.Ended(talk("C1", nine))
	k.Began(talk("C2", nine.Add(time.Minute)))
	k.flush(t.Context())
	if err := s.Close(); err != nil { // the keeper is never stopped
		t.Fatal(err)
	}
	k = keeper(t, openStore(t, dir), 0)
	all := k.Find(Query{})
	if len(all) != 2 || all[0].Cause != "hung up" || all[1].Cause != "appliance stopped" || all[1].Open {
		t.Fatalf("%+v", all)
	}
	if r, ok := k.Get("C2"); !ok || r.Open {
		t.Errorf("%v %+v", ok, r)
	}
}

func TestFindAndRetention(t *testing.T) {
	s := openStore(t, t.TempDir())
	k := keeper(t, s, 0)
	now := time.Now()
	for n := range 200 {
		i := talk(fmt.Sprintf("C%d", n), now.Add(time.Duration(n-200)*time.Hour))
		if n%2 == 1 {
			i.Legs[1].Line, i.Dialled = "303", "303"
		}
		k.Ended(i)
	}
	for _, tc := range []struct {
		q    Query
		want int
	}{
		{Query{}, 200}, {Query{Line: "303"}, 100}, {Query{Line: "304"}, 0}, {Query{Limit: 7}, 7}, {Query{Device: "sep001122aa0002"}, 200},
		{Query{Since: now.Add(-10*time.Hour - time.Minute)}, 10}, {Query{Until: now.Add(-10*time.Hour - time.Minute), Line: "302"}, 95}, {Query{Result: "busy"}, 0},
	} {
		got := k.Find(tc.q)
		if len(got) != tc.want {
			t.Errorf("%+v: %d, want %d", tc.q, len(got), tc.want)
		}
		if tc.q.Limit > 0 && got[len(got)-1].Call != "C199" {
			t.Errorf("not the newest: %s", got[len(got)-1].Call)
		}
	}
	k = keeper(t, s, 50*time.Hour+time.Minute)
	k.purge(t.Context())
	if left := k.Find(Query{}); len(left) != 50 || left[0].Call != "C150" {
		t.Errorf("%d records left", len(left))
	}
}

func TestExport(t *testing.T) {
	i := talk("C1", nine)
	i.Dialled = `=cmd|' /C calc'!A0`
	r := of(i, "pbx-1", nil)
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := CSV(&b, []Record{r}, zone); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for n, want := range map[string]string{"started": "2026-03-02T10:00:00+01:00", "talked_seconds": "60", "line": "301", "phone_mos": "4.1200", "dialled": `'=cmd|' /C calc'!A0`, "diversions": "303 no-answer"} {
		for c, name := range rows[0] {
			if name == n && rows[1][c] != want {
				t.Errorf("%s is %q, want %q", n, rows[1][c], want)
			}
		}
	}
	b.Reset()
	if err := JSON(&b, []Record{r, r}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	var back Record
	if err := json.Unmarshal([]byte(lines[1]), &back); err != nil || len(lines) != 2 || back.ID != r.ID {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	r.From, r.FromName, r.Legs[0].Line = "+15550123456", "Somebody", "+15550123456"
	a := Anonymous([]Record{r}, func(n string) bool { return len(n) == 3 })[0]
	if a.From != "+1555012****" || a.FromName != "" || a.Legs[0].Line == r.Legs[0].Line || a.To != "302" || r.FromName == "" {
		t.Errorf("%+v", a)
	}
}

// TestLargeRecord: whatever phones report, a record fits into the store.
func TestLargeRecord(t *testing.T) {
	i := talk("C1", nine)
	for n := range 60 {
		i.Legs[0].RxStat.Params = append(i.Legs[0].RxStat.Params, cisco.Param{Name: fmt.Sprint("p", n), Value: strings.Repeat("x", 100)})
	}
	for len(i.Legs) < 100 {
		i.Legs = append(i.Legs, i.Legs[0])
	}
	k := keeper(t, openStore(t, t.TempDir()), 0)
	k.Ended(i)
	if r, ok := k.Get("C1"); !ok || len(r.Legs) != 100 || len(r.marshal()) > maxBytes {
		t.Errorf("%v, %d legs", ok, len(r.Legs))
	}
}

// broken is a store that refuses for a while.
type broken struct {
	Store
	refuse bool
}

func (b *broken) Write(ctx context.Context, set map[string][]byte, del ...string) error {
	if b.refuse {
		return errors.New("disk full")
	}
	return b.Store.Write(ctx, set, del...)
}

func TestStoreRefuses(t *testing.T) {
	b := &broken{Store: openStore(t, t.TempDir()), refuse: true}
	k := keeper(t, b, 0)
	k.Ended(talk("C1", nine))
	if k.flush(t.Context()) {
		t.Error("flush reports success")
	}
	b.refuse = false
	if _, ok := k.Get("C1"); !ok {
		t.Error("the record is lost")
	}
}

// A reference that comes while the call goes on stands in the open record and in the one that remains.
func TestRefer(t *testing.T) {
	s := openStore(t, t.TempDir())
	k := keeper(t, s, 0)
	k.Began(talk("C1", nine))
	k.Refer("C1", "recording a")
	k.Refer("C1", "recording a")
	if r, _ := k.Get(idOf(talk("C1", nine), "pbx-1")); !r.Open || len(r.Notes) != 1 {
		t.Errorf("open record %+v", r)
	}
	k.Refer("C1", "recording b")
	k.Ended(talk("C1", nine))
	if r, _ := k.Get("C1"); r.Open || strings.Join(r.Notes, ",") != "recording a,recording b" {
		t.Errorf("record %+v", r)
	}
	k.Refer("C2", "before it talks")
	k.Ended(talk("C2", nine.Add(time.Minute)))
	if r, _ := k.Get("C2"); len(r.Notes) != 1 {
		t.Errorf("record %+v", r)
	}
	for range 2 * maxNotes {
		k.Refer("C3", time.Now().String())
	}
	if len(k.notes["C3"]) > maxNotes {
		t.Error("references without a bound")
	}
}
