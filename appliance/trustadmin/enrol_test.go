package trustadmin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ringfence/cmd/sepsim/phone"
	"ringfence/config"
	"ringfence/pki/capf"
)

// install gives a phone a certificate without a phone.
func (w *world) install(device string) {
	w.t.Helper()
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		w.t.Fatal(err)
	}
	_, serial, err := w.ca.IssueLSC(w.t.Context(), device, key.Public())
	if err == nil {
		err = w.ca.ConfirmLSC(w.t.Context(), device, serial)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// many adds phones and lines of two models, and a group.
func (w *world) many(n int) {
	d := *w.document()
	d.Groups = []config.Group{{Number: "500", Name: "Sales", Members: []config.Digits{"310", "311", "302"}}}
	d.PKI.LSC.Key = config.KeyP256
	for i := range n {
		device, model := fmt.Sprintf("SEP001122BB00%02d", i), "8841"
		if i%2 == 1 {
			model = "8851"
		}
		d.Phones = append(d.Phones, config.Phone{Device: device, Model: model, Label: "Room <" + fmt.Sprint(i) + ">", Security: config.SecurityEncrypted})
		d.Lines = append(d.Lines, config.Line{Number: config.Digits(fmt.Sprint(310 + i)), Phone: device, Index: 1, MaxCalls: 4, BusyAt: 2})
	}
	w.setDoc(&d)
}

func TestEnrollMany(t *testing.T) {
	w := newWorld(t)
	w.many(4)
	run := w.verbs()
	const b0, b1, b2, b3 = "SEP001122BB0000", "SEP001122BB0001", "SEP001122BB0002", "SEP001122BB0003"
	for _, d := range []string{desk, hall, b0, b1, b2} {
		w.install(d)
	}
	w.keep.o.Registered = func(d string) bool { return d == b0 || d == b1 }
	var told []string
	w.keep.o.Restart = func(_ context.Context, d string) error { told = append(told, d); return nil }
	for _, tc := range []struct {
		args, answer string
		code         int
	}{
		{"--model 8851", "go with --all", 2},
		{"--all --model 12345", "is no model", 2},
		{"--all --group 999", "is not declared", 1},
		{"--all --code-is 1234", "--code makes one for each", 2},
		{"--all --valid soon", "takes days", 2},
		{"--all --dry-run", "6 phones would get a new certificate at their next start: " + desk, 0},
		{"--all --dry-run --model 8851", "3 phones would get a new certificate at their next start: " + desk + ", " + b1 + ", " + b3 + "\n3 were not chosen", 0},
		{"--all --dry-run --group 500", "3 phones would get", 0},
		{"--all --dry-run --group Sales --model 8851", "1 phones would get a new certificate at their next start: " + b1, 0},
		{"--all --dry-run --issuer old", "0 phones would get", 0},
		{"--all --dry-run --issuer EXAMPLE", "5 phones would get", 0},
		{"--all --dry-run --expiring 60d", "1 phones would get a new certificate at their next start: " + b3 + "\n5 have one that is good", 0},
	} {
		code, out, errs := run(append([]string{"cert", "enroll"}, strings.Fields(tc.args)...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.answer) {
			t.Errorf("%s: exit %d, %s%s; want %d, %q", tc.args, code, out, errs, tc.code, tc.answer)
		}
	}
	if _, ok := w.ca.Scheduled(b1); ok {
		t.Error("a dry run has scheduled")
	}
	if _, out, _ := run("cert", "progress"); !strings.Contains(out, "no cert enroll --all yet") || !strings.Contains(out, b3) || strings.Contains(out, b0) {
		t.Errorf("progress: %s", out)
	}
	if code, out, errs := run("cert", "enroll", "--all", "--group", "500", "--now"); code != 0 || !strings.Contains(out, "2 were told to restart now") || len(told) != 2 {
		t.Fatalf("exit %d, %s%s, told %v", code, out, errs, told)
	}
	w.install(b0)
	_, out, _ := run("cert", "progress", "--json")
	var p Progress
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.What != "group 500" || p.Total != 3 || p.Done != 1 || len(p.Phones) != 3 {
		t.Errorf("%v, %+v", err, p)
	}
	for _, x := range p.Phones {
		if x.Ordered != (x.Device == b1 || x.Device == hall) || x.Registered != (x.Device == b1) || x.Ends.IsZero() != (x.Device == b3) {
			t.Errorf("%+v", x)
		}
	}
	if _, out, _ := run("cert", "progress"); !strings.Contains(out, "1 of 3 phones are done  [######......") || !strings.Contains(out, "ringfence phone restart "+b1) {
		t.Errorf("progress: %s", out)
	}
}

// A code that an administrator gave is what lets the phone in, once; without it, it is refused.
func TestEnrollByCode(t *testing.T) {
	w := newWorld(t)
	w.many(2)
	run := w.verbs()
	code, out, errs := run("cert", "enroll", desk, "--code-is", "4711")
	if code != 0 || !strings.Contains(out, "4711") || !strings.Contains(out, "█") {
		t.Fatalf("exit %d, %s%s", code, out, errs)
	}
	for _, args := range [][]string{{"cert", "enroll", hall, "--code-is", "12"}, {"cert", "codes", hall}} {
		if code, _, errs := run(args...); code != 1 {
			t.Errorf("%v: exit %d, %s", args, code, errs)
		}
	}
	try := func(typed string) *phone.Phone {
		t.Helper()
		p := w.phone(desk, "8851", t.TempDir(), func(o *phone.Options) { o.CAPFCode = typed })
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		_ = p.Boot(ctx)
		return p
	}
	if p := try(""); p.LSC() != nil {
		t.Error("enrolled without a code")
	}
	if p := try("4712"); p.LSC() != nil || p.Refusals()[phone.CAPFRefused] == 0 {
		t.Errorf("enrolled with a wrong code: %v", p.Refusals())
	}
	p := try("4711")
	if p.LSC() == nil {
		t.Fatalf("not enrolled with the right code: %v", p.Refusals())
	}
	w.content(p) // and goes on without
	if p := try("4711"); p.LSC() != nil {
		t.Error("the code is good twice")
	}

	// Codes for many, as text and to be printed.
	if code, out, errs := run("cert", "enroll", "--all", "--model", "8841", "--code", "--valid", "3d"); code != 0 || strings.Contains(out, "█") || !strings.Contains(out, hall) {
		t.Fatalf("exit %d, %s%s", code, out, errs)
	}
	var c Codes
	if _, out, _ := run("cert", "codes", "--json"); json.Unmarshal([]byte(out), &c) != nil || len(c.Codes) != 2 || c.Codes[0].Device != hall || len(c.Codes[0].Code) != 8 ||
		c.Codes[0].Code == c.Codes[1].Code || c.Codes[1].Lines[0] != "310" {
		t.Errorf("codes %+v", c)
	}
	_, page, _ := run("cert", "codes", "--html")
	for _, want := range []string{"<!DOCTYPE html>", "<svg", c.Codes[1].Code, "Room &lt;0&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if _, out, _ := run("cert", "codes", hall); !strings.Contains(out, "▄") || !strings.Contains(out, c.Codes[0].Code) {
		t.Errorf("one code: %s", out)
	}
}
