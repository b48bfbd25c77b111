//go:build !race

package cbc

import "testing"

// The race detector allocates.
func TestNoAllocations(t *testing.T) {
	kinds(t, func(t *testing.T, iv []byte) {
		s, o := pair(t, iv)
		buf, payload := make([]byte, 0, 2048), text(1290)
		if n := testing.AllocsPerRun(100, func() {
			record := s.Seal(buf, head, payload)
			if _, err := o.Open(head, record); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%v allocations for a record sealed and opened", n)
		}
	})
}
