package memory

import "testing"

const mb = 1 << 20

func TestRoomSuitsTheSize(t *testing.T) {
	for _, c := range []struct {
		name string
		live uint64
		want int
	}{
		{"at the very start", 1 * mb, 300},
		{"idle", 10 * mb, 120},
		{"hundreds of phones", 20 * mb, 60},
		{"thousands of phones", 250 * mb, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p policy
			if got := p.look(sample{live: c.live}).percent; got != c.want {
				t.Errorf("room of %d %%, want %d", got, c.want)
			}
			if got := p.look(sample{live: c.live + c.live/20}).percent; got != 0 {
				t.Errorf("a change of a twentieth sets the room to %d %%", got)
			}
		})
	}
}

func TestPagesGoBackWhenALoadIsOver(t *testing.T) {
	var p policy
	s := sample{live: 100 * mb, garbage: 30 * mb, free: 40 * mb}
	step := func(allocated uint64) bool {
		s.allocated += allocated
		return p.look(s).release
	}
	for i := range 20 {
		if step(200 * mb) {
			t.Fatalf("released in second %d of the load", i)
		}
	}
	if step(1 * mb) {
		t.Fatal("released after one calm second")
	}
	if !step(1 * mb) {
		t.Fatal("not released after two calm seconds")
	}
	for i := range 600 {
		// What is left is steady: refreshes. The runtime's own collections are enough for that.
		if step(1 * mb) {
			t.Fatalf("released again in second %d of a steady trickle", i)
		}
	}
	s.free, s.garbage = 2*mb, 3*mb
	step(300 * mb)
	for range 10 {
		if step(0) {
			t.Fatal("a collection for pages that are not worth one")
		}
	}
}
