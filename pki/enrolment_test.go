package pki_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ringfence/pki"
	"ringfence/pki/capf"
)

func TestEveryKeyKind(t *testing.T) {
	kinds := []capf.KeyKind{capf.RSA2048, capf.RSA3072, capf.RSA4096, capf.P256, capf.P384, capf.P521}
	policy := make(map[string]pki.DevicePolicy)
	for i, k := range kinds {
		policy[fmt.Sprintf("SEP00112233440%d", i)] = pki.DevicePolicy{Key: k}
	}
	b := serve(t, policy)
	for device, p := range policy {
		res, err := (&capf.Client{Device: device}).Run(t.Context(), b.dial(t))
		if err != nil || res.Reason != capf.ReasonDone || res.Operation != capf.Install {
			t.Errorf("%s: %+v, %v", p.Key, res, err)
			continue
		}
		cert, ok := b.CurrentLSC(device)
		if !ok || !bytes.Equal(cert.Raw, res.Certificate) || capf.KindOf(cert.PublicKey) != p.Key {
			t.Errorf("%s: current certificate differs from the phone's", p.Key)
		}
		// What phones do at every start from now on.
		res, err = (&capf.Client{Device: device}).Run(t.Context(), b.dial(t))
		if err != nil || res.Reason != capf.ReasonNothing || res.Operation != capf.None {
			t.Errorf("%s again: %+v, %v", p.Key, res, err)
		}
	}
	b.settled(t)
	if s := b.Stats(); s.Installed != 6 || s.Idle != 6 || s.Refused != 0 || s.Lost != 0 {
		t.Errorf("counters %+v", s)
	}
}

func TestWrongCodesAreThrottled(t *testing.T) {
	b := serve(t, map[string]pki.DevicePolicy{phone: {Auth: capf.AuthCode, Code: "123456", Key: capf.P256}})
	try := func(code string) capf.Reason {
		t.Helper()
		res, err := (&capf.Client{Device: phone, Password: code}).Run(t.Context(), b.dial(t))
		if err != nil {
			t.Fatal(err)
		}
		return res.Reason
	}
	for range 7 {
		if got := try(""); got != capf.ReasonRefused {
			t.Fatalf("no code: reason %d", got)
		}
	}
	for range 5 {
		if got := try("111111"); got != capf.ReasonRefused {
			t.Fatalf("wrong code: reason %d", got)
		}
	}
	if got := try("123456"); got != capf.ReasonRefused {
		t.Errorf("right code after five wrong ones: reason %d", got)
	}
	b.settled(t)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.notes, func(n string) bool { return strings.Contains(n, "too many wrong codes") }) {
		t.Errorf("the boot record says %q", b.notes)
	}
	for _, n := range b.notes {
		if strings.Contains(n, "123456") || strings.Contains(n, "111111") {
			t.Errorf("the boot record holds a code: %q", n)
		}
	}
}

func TestCodeIsSpentOnSuccess(t *testing.T) {
	policy := map[string]pki.DevicePolicy{phone: {Auth: capf.AuthCode, Code: "123456", Key: capf.P256}}
	b := serve(t, policy)
	try := func(code string) capf.Reason {
		t.Helper()
		res, err := (&capf.Client{Device: phone, Password: code}).Run(t.Context(), b.dial(t))
		if err != nil {
			t.Fatal(err)
		}
		return res.Reason
	}
	// A phone that fails to store has not spent it.
	client := &capf.Client{Device: phone, Password: "123456", Store: func([]byte, crypto.Signer) error { return errors.New("no room") }}
	if res, err := client.Run(t.Context(), b.dial(t)); err != nil || res.Reason != capf.ReasonRefused {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := try("123456"); got != capf.ReasonDone {
		t.Fatalf("reason %d", got)
	}
	if err := b.Schedule(t.Context(), phone, capf.Install, "test"); err != nil {
		t.Fatal(err)
	}
	if got := try("123456"); got != capf.ReasonRefused {
		t.Errorf("the code enrolled twice: reason %d", got)
	}
	b.mu.Lock()
	policy[phone] = pki.DevicePolicy{Auth: capf.AuthCode, Code: "654321", Key: capf.P256}
	b.mu.Unlock()
	if got := try("654321"); got != capf.ReasonDone {
		t.Errorf("a new code: reason %d", got)
	}
}

// Sessions of many phones at once, as after a power cut.
func TestManyPhonesAtOnce(t *testing.T) {
	const n = 100
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	policy := make(map[string]pki.DevicePolicy)
	for i := range n {
		policy[fmt.Sprintf("SEP%012X", i)] = pki.DevicePolicy{Key: capf.P256}
	}
	b := serve(t, policy)
	var wg sync.WaitGroup
	var failed atomic.Int32
	for device := range policy {
		wg.Go(func() {
			c, err := b.connect(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			client := &capf.Client{Device: device, GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil }}
			if res, err := client.Run(t.Context(), c); err != nil || res.Reason != capf.ReasonDone {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), n)
	}
	for device := range policy {
		if _, ok := b.CurrentLSC(device); !ok {
			t.Errorf("%s has no certificate", device)
		}
	}
}
