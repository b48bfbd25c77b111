package bounded

import (
	"fmt"
	"slices"
	"testing"
)

type keys []string

func (k keys) Scan(_ string, fn func(string, []byte) bool) {
	for _, x := range k {
		if !fn(x, nil) {
			return
		}
	}
}

func TestSurplus(t *testing.T) {
	for _, c := range []struct {
		have int
		want []string
	}{{0, nil}, {2, nil}, {3, []string{"k0"}}, {5, []string{"k0", "k1", "k2"}}} {
		var k keys
		for i := range c.have {
			k = append(k, fmt.Sprint("k", i))
		}
		if got := Surplus(k, "k", 3); !slices.Equal(got, c.want) {
			t.Errorf("%d records: %q go, want %q", c.have, got, c.want)
		}
	}
}
