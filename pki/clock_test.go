package pki

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

func TestClockBeforeTheFirstRelease(t *testing.T) {
	state := newMemory()
	o := testOptions(state, filepath.Join(t.TempDir(), "pki.key"), &clock{t: time.Unix(1000, 0)})
	_, err := Open(t.Context(), o)
	if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "1970-01-01") {
		t.Errorf("first start in 1970: got %v, want %v with the date", err, ErrClock)
	}
	if len(state.m) != 0 {
		t.Error("something was written")
	}
}

func TestClockJumps(t *testing.T) {
	day := 24 * time.Hour
	for _, tc := range []struct {
		name  string
		jump  time.Duration
		built time.Time
		want  string
	}{
		{"none", 0, time.Time{}, ""},
		{"back by a little", -5 * time.Minute, time.Time{}, ""},
		{"back by an hour", -time.Hour, time.Time{}, "it was later already"},
		{"back to the start of the epoch", time.Unix(0, 0).Sub(testTime), time.Time{}, "1970-01-01"},
		{"before the build", day, testTime.Add(2 * day), "made after"},
		{"ahead by a year, switched off", 365 * day, time.Time{}, ""},
		{"ahead by ten years", 3650 * day, time.Time{}, "two years after"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := open(t, func(o *Options) { o.Built = tc.built })
			f.clock.Add(tc.jump)
			f.reopen(t) // an appliance whose clock is wrong still serves
			if _, err := f.Identity(RoleCCM); err != nil {
				t.Errorf("role certificate: %v", err)
			}
			before := len(f.state.m)
			_, _, err := f.IssueLSC(t.Context(), phone, ecKey(t).Public())
			if tc.want == "" {
				if err != nil {
					t.Errorf("not issued: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %v that says %q", err, ErrClock, tc.want)
			}
			if len(f.state.m) != before {
				t.Error("something was written")
			}
			if w := f.Warnings(); len(w) == 0 || !strings.Contains(w[0], tc.want) {
				t.Errorf("warnings %q do not explain it", w)
			}
			if tc.jump > 0 && tc.built.IsZero() {
				if err := f.AcceptClock(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, _, err := f.IssueLSC(t.Context(), phone, ecKey(t).Public()); err != nil {
					t.Errorf("after the time was accepted: %v", err)
				}
			}
		})
	}
}

// An appliance that only verifies still learns that time goes by.
func TestClockIsRememberedDaily(t *testing.T) {
	f := open(t)
	for range 5 * 365 {
		f.clock.Add(24 * time.Hour)
		if err := f.CheckClock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if f.state.groups != 5*365 {
		t.Errorf("%d writes in five years, want one a day", f.state.groups)
	}
	if err := f.CheckClock(t.Context()); err != nil || f.state.groups != 5*365 {
		t.Errorf("twice a day: %v, %d writes", err, f.state.groups)
	}
}

// An appliance whose clock is wrong goes on knowing its phones, and plans nothing for them; once the administrator says that the
// time is right it does what is due.
func TestPhonesAreKnownWhileTheClockIsWrong(t *testing.T) {
	for name, at := range map[string]time.Time{"1970": time.Unix(1000, 0), "ten years ahead": testTime.Add(10 * year)} {
		f := open(t)
		lsc := f.install(t, phone, ecKey(t))
		f.clock.Add(at.Sub(f.clock.Now()))
		f.reopen(t)
		if _, err := f.VerifyDevice(lsc, nil, phone); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if op, why := f.Due(phone, ""); op != capf.None {
			t.Errorf("%s: %s is due: %s", name, op, why)
		}
		if got := f.Moment(); got.Sub(testTime).Abs() > time.Hour {
			t.Errorf("%s: judged by %s", name, got)
		}
		err := f.AcceptClock(t.Context())
		if name == "1970" {
			if !errors.Is(err, ErrClock) {
				t.Errorf("accepted 1970: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.VerifyDevice(lsc, nil, phone); err == nil {
			t.Error("a certificate that ended years ago still proves its phone")
		}
		if op, _ := f.Due(phone, ""); op != capf.Install {
			t.Error("no renewal is due after ten years")
		}
		if _, _, err := f.IssueLSC(t.Context(), phone, ecKey(t).Public()); err != nil {
			t.Errorf("not issued at an accepted time: %v", err)
		}
	}
}
