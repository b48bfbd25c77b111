package trustadmin

import (
	"testing"

	"ringfence/pki"
)

// What TVS needs to find a certificate, beside the connection.
func BenchmarkLookup(b *testing.B) {
	w := newWorld(b)
	id, err := w.ca.Identity(pki.RoleCCM)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, ok := w.keep.Lookup(id.Leaf.Raw); !ok {
			b.Fatal("unknown")
		}
	}
}

// From a change of the certificates to a phone's new list, signed and recorded on disk. The keys of the change are not in it.
func BenchmarkListAfterChange(b *testing.B) {
	w := newWorld(b)
	w.hold(desk)
	w.hold(hall)
	for b.Loop() {
		b.StopTimer()
		w.rotate(pki.RoleTFTPEC)
		b.StartTimer()
		w.hold(desk)
		b.StopTimer()
		w.hold(hall)
		for w.ca.Stage(pki.RoleTFTPEC) != "" {
			if err := w.ca.Force(b.Context(), pki.RoleTFTPEC, "bench", "bench"); err != nil {
				b.Fatal(err)
			}
			w.tick()
		}
		b.StartTimer()
	}
}
