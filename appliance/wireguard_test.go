package appliance

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"

	"ringfence/appliance/store"
	"ringfence/pki"
	"ringfence/vpn"
)

// WireGuard's keys are sealed; those that an earlier release kept in clear are sealed at the next start.
func TestWireGuardKeysAreSealed(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s, err := store.Open(store.Options{Dir: dir, Appliance: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ca, err := pki.Open(ctx, pki.Options{State: s, KeyFile: filepath.Join(dir, "pki.key"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a := &appliance{store: s, ca: ca, log: slog.New(slog.DiscardHandler)}
	own, psk, peer := newWireGuardKey(), newWireGuardKey(), newWireGuardKey().Public()
	const pad = wireguardPeer + "pad/"
	if err := s.Write(ctx, map[string][]byte{wireguardKey: own[:], pad + "key": peer[:], pad + "psk": psk[:], pad + "user": []byte("ada")}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if err := a.sealWireGuard(ctx); err != nil {
			t.Fatal(err)
		}
		for key, secret := range map[string][]byte{wireguardKey: own[:], pad + "psk": psk[:]} {
			if b, ok := s.Get(key); !ok || bytes.Contains(b, secret[:16]) {
				t.Errorf("round %d: %s is kept in clear", round, key)
			}
		}
		if got, err := a.wireguardSecret(wireguardKey); err != nil || got != own {
			t.Errorf("round %d: own key is lost: %v", round, err)
		}
		want := vpn.WireGuardPeer{Name: "pad", User: "ada", Key: peer, PSK: psk}
		if all := a.storedPeers(); len(all) != 1 || all[0] != want {
			t.Errorf("round %d: got %d devices, want %s as it was made", round, len(all), want.Name)
		}
	}
	// A sealed secret is good under its own name only, and a device whose secret cannot be opened is none.
	b, _ := s.Get(wireguardKey)
	if err := s.Write(ctx, map[string][]byte{pad + "psk": b}); err != nil {
		t.Fatal(err)
	}
	if all := a.storedPeers(); len(all) != 0 {
		t.Errorf("a device without its pre-shared key is served: %d", len(all))
	}
}
