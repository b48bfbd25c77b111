package boot

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestArguments(t *testing.T) {
	got := arguments("BOOT_IMAGE=x quiet rf.slot=b rf.disk=c12a7328-f81f-11d2-ba4b-00a0c93ec93b rf.recovery=1\n")
	if got["slot"] != "b" || got["recovery"] != "1" || len(got) != 3 {
		t.Errorf("%v", got)
	}
}

func TestOEMStrings(t *testing.T) {
	b := append([]byte{11, 5, 1, 0, 2}, "first\x00ringfence:address=192.0.2.1/24\x00\x00"...)
	if got, want := oemStrings(b), []string{"first", "ringfence:address=192.0.2.1/24"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, bad := range [][]byte{nil, {11, 200, 0, 0, 1}} {
		if got := oemStrings(bad); got != nil {
			t.Errorf("% x: %q", bad, got)
		}
	}
}

func TestParseStatic(t *testing.T) {
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{"192.0.2.10/24,192.0.2.1,192.0.2.53,192.0.2.54", true}, {"192.0.2.10/24", true}, {"192.0.2.10/24 192.0.2.1", true},
		{"192.0.2.10", false}, {"", false}, {"192.0.2.10/24,x", false}, {"2001:db8::1/64", false}, {"192.0.2.10/24,192.0.2.1,y", false},
	} {
		a, err := parseStatic(c.text)
		if (err == nil) != c.ok || err == nil && a.Address.String() != "192.0.2.10/24" {
			t.Errorf("%q: %+v, %v", c.text, a, err)
		}
	}
}

func TestSaneClock(t *testing.T) {
	built := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	later := built.AddDate(1, 0, 0)
	for _, c := range []struct {
		name         string
		clock, known time.Time
		want         time.Time
		doubtful     bool
	}{
		{"right", later, time.Time{}, later, false},
		{"1970", time.Unix(0, 0), time.Time{}, built, true},
		{"1970, but it was later here", time.Unix(0, 0), later, later, true},
		{"2099", built.AddDate(73, 0, 0), time.Time{}, built, true},
		{"2099 was written down as well", time.Unix(0, 0), built.AddDate(73, 0, 0), built, true},
		{"went back a day since", later.AddDate(0, 0, -1), later, later, true},
	} {
		got, why := sane(c.clock, built, c.known)
		if !got.Equal(c.want) || (why != "") != c.doubtful {
			t.Errorf("%s: %s %q, want %s", c.name, got, why, c.want)
		}
	}
}

func TestGate(t *testing.T) {
	began := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	fine := observation{answers: true, address: true, link: true, phones: []string{"SEP1", "SEP2"}}
	but := func(change func(*observation)) observation { o := fine; change(&o); return o }
	many := make([]string, 20)
	for i := range many {
		many[i] = string(rune('a' + i))
	}
	for _, c := range []struct {
		name  string
		gate  gate
		see   observation
		late  bool
		want  verdict
		lacks string
	}{
		{"proven slot, all is well", gate{}, fine, false, gateCommit, ""},
		{"proven slot, a service is down", gate{}, but(func(o *observation) { o.down = []string{"vpn"} }), false, gateCommit, ""},
		{"proven slot never gives up", gate{}, observation{}, true, gateWait, "does not answer"},
		{"trial, all is well", gate{trial: true, had: true, phones: []string{"SEP1", "SEP2"}}, fine, false, gateCommit, ""},
		{"trial, a service is down", gate{trial: true}, but(func(o *observation) { o.down = []string{"vpn"} }), false, gateWait, "vpn"},
		{"trial, down for too long", gate{trial: true}, but(func(o *observation) { o.down = []string{"vpn"} }), true, gateGiveUp, "vpn"},
		{"trial, disk is read-only", gate{trial: true}, but(func(o *observation) { o.readable = errors.New("read-only") }), true, gateGiveUp, "read-only"},
		{"trial, the address is gone", gate{trial: true, had: true}, but(func(o *observation) { o.address = false }), true, gateGiveUp, "address"},
		{"trial, the cable is out", gate{trial: true, had: true, phones: []string{"SEP9"}}, but(func(o *observation) { o.address, o.link, o.phones = false, false, nil }), true, gateCommit, ""},
		{"trial, phones do not come back", gate{trial: true, phones: []string{"SEP1", "SEP3"}}, fine, true, gateGiveUp, "1 of 2 phones"},
		{"trial, nine tenths of the phones are back", gate{trial: true, phones: many}, but(func(o *observation) { o.phones = many[:18] }), false, gateCommit, ""},
		{"trial, fewer than that", gate{trial: true, phones: many}, but(func(o *observation) { o.phones = many[:17] }), true, gateGiveUp, "17 of 20"},
	} {
		g := c.gate
		g.deadline = began.Add(gateDeadline)
		now := began
		if c.late {
			now = began.Add(gateDeadline + time.Second)
		}
		var got verdict
		var lacks string
		for range gateRounds {
			if got, lacks = g.round(now, c.see); got != gateWait {
				break
			}
		}
		if got != c.want || !strings.Contains(lacks, c.lacks) {
			t.Errorf("%s: %d %q, want %d %q", c.name, got, lacks, c.want, c.lacks)
		}
	}
}

func TestGateWantsRoundsInARow(t *testing.T) {
	g := gate{trial: true, deadline: time.Unix(1<<40, 0)}
	good, bad := observation{answers: true}, observation{}
	for i, c := range []struct {
		see  observation
		want verdict
	}{{good, gateWait}, {good, gateWait}, {bad, gateWait}, {good, gateWait}, {good, gateWait}, {good, gateCommit}, {good, gateWait}} {
		if got, _ := g.round(time.Now(), c.see); got != c.want {
			t.Errorf("round %d: %d, want %d", i, got, c.want)
		}
	}
}

func TestCrashesOfLate(t *testing.T) {
	var d daemon
	at := time.Now()
	for i := range crashMost - 1 {
		if n, often, pause := d.crashed(at.Add(time.Duration(i)*time.Second), true); often || n != i+1 || pause != crashPause {
			t.Errorf("crash %d: %d, %v, %s", i+1, n, often, pause)
		}
	}
	if _, often, _ := d.crashed(at.Add(crashSpan/2), true); !often {
		t.Error("too many in a short time, and nothing follows")
	}
	if n, often, _ := d.crashed(at.Add(10*crashSpan), true); often || n != 1 {
		t.Errorf("long after: %d, %v", n, often)
	}
}

func TestCrashesOfAProvenRelease(t *testing.T) {
	var d daemon
	at, began := time.Now(), time.Now()
	for i := range provenMost {
		n, often, pause := d.crashed(at, false)
		if n != i+1 || often != (i == provenMost-1) {
			t.Fatalf("crash %d: %d, %v", i+1, n, often)
		}
		at = at.Add(pause)
	}
	if took := at.Sub(began); took < 2*time.Minute || took > provenSpan {
		t.Errorf("given up after %s: a switch may keep a port closed for half a minute", took)
	}
}

func TestScreen(t *testing.T) {
	st := Status{Version: "1.2.3", Phase: "running", Slot: "a", Slots: "slot=a a=3 b=0", Committed: true, TestKeys: true, DataSize: 1 << 30, DataFree: 1 << 29,
		Links:  []Link{{Name: "eth0", MAC: "52:54:00:12:34:56", Up: true, Addresses: []string{"192.0.2.10/24"}}, {Name: "eth1", MAC: "52:54:00:12:34:57"}},
		Update: &Outcome{Version: "1.2.4", State: Returned}}
	d := DaemonStatus{Name: "hall", Address: "192.0.2.99", Phones: 3, Registered: []string{"SEP1"}, Down: []string{"vpn (no rights)"}}
	text := render(st, d)
	for _, want := range []string{"Ringfence 1.2.3   hall", "192.0.2.10/24", "no cable", "1 of 3 registered", "! built with TEST keys", "! the update to 1.2.4 did not prove itself",
		"! not up: vpn", "node.address 192.0.2.99 is no address", "512 of 1024 MB free", "running, not everything is up"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := render(Status{Phase: "starting"}, DaemonStatus{}); !strings.Contains(text, "not configured yet") || !strings.Contains(text, "no network card") {
		t.Errorf("at the start:\n%s", text)
	}
}

func TestLinesKeepTheLast(t *testing.T) {
	var l lines
	for range 3 * linesKept {
		_, _ = l.Write([]byte("one\ntw"))
		_, _ = l.Write([]byte("o\n"))
	}
	if got := l.tail(3); !slices.Equal(got, []string{"two", "one", "two"}) || len(l.last) != linesKept {
		t.Errorf("%q of %d", got, len(l.last))
	}
}
