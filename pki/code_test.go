package pki

import (
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

// A code that an administrator gives is sealed at rest, good once and for a while, and replaced by the next one.
func TestOneTimeCodes(t *testing.T) {
	f := open(t)
	const device = "SEP001122AA0001"
	policy := func(string) (DevicePolicy, bool) {
		p := DevicePolicy{Auth: capf.AuthNone}
		if c, ok := f.Code(device); ok {
			p.Auth, p.Code = capf.AuthCode, c.Digits
		}
		return p, true
	}
	e := NewEnrolment(f.Authority, policy)
	if e.AuthMode(device) != 2 {
		t.Fatalf("mode %d without a code", e.AuthMode(device))
	}
	c, err := f.SetCode(t.Context(), device, "", "alice", time.Hour)
	if err != nil || len(c.Digits) != codeDigits || strings.Trim(c.Digits, "0123456789") != "" {
		t.Fatalf("%+v, %v", c, err)
	}
	if s, ok := f.Scheduled(device); !ok || s.Operation != capf.Install || s.By != "alice" {
		t.Errorf("scheduled: %+v", s)
	}
	for k, v := range f.state.m {
		if strings.Contains(string(v), c.Digits) {
			t.Errorf("%s holds the code in clear", k)
		}
	}
	if got, ok := f.Code(device); !ok || got.Digits != c.Digits || got.By != "alice" || got.Device != device {
		t.Errorf("%+v, %v", got, ok)
	}
	if e.AuthMode(device) != 1 {
		t.Errorf("mode %d with a code", e.AuthMode(device))
	}
	d, _ := e.Device(device)
	if d.Auth != capf.AuthCode || d.Code == nil || d.Code("00000") || !d.Code(c.Digits) {
		t.Errorf("device %+v", d)
	}
	again, err := f.SetCode(t.Context(), device, "4711", "bob", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ = e.Device(device); d.Code(c.Digits) || !d.Code(again.Digits) {
		t.Error("the code before is still good")
	}
	// The enrolment spends it.
	key, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	_, serial, err := e.Issue(t.Context(), device, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Confirm(t.Context(), device, serial, true); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Code(device); ok {
		t.Error("the code is good twice")
	}
	if e.AuthMode(device) != 3 {
		t.Errorf("mode %d after the enrolment", e.AuthMode(device))
	}
	// The same digits cannot be given again: they would be spent from the beginning.
	if _, err := f.SetCode(t.Context(), device, "4711", "bob", time.Hour); err == nil {
		t.Error("spent digits are given again")
	}
	if _, err := f.SetCode(t.Context(), device, "", "bob", time.Hour); err != nil {
		t.Error(err)
	}
	f.clock.Add(time.Hour + time.Minute)
	if _, ok := f.Code(device); ok {
		t.Error("good after its time")
	}
	for digits, valid := range map[string]time.Duration{"123": time.Hour, "1234567890123456": time.Hour, "12a4": time.Hour, "1234": 0} {
		if _, err := f.SetCode(t.Context(), device, digits, "x", valid); err == nil {
			t.Errorf("%q for %v is taken", digits, valid)
		}
	}
	if _, err := f.SetCode(t.Context(), "a/b", "", "x", time.Hour); err == nil {
		t.Error("a device without name")
	}
}
