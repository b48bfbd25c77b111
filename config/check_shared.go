package config

import (
	"fmt"
	"slices"
)

// shared judges the further phones of a line (sip-calls §26).
func (c *checker) shared(l *Line, path string) {
	if len(l.Shared) > 0 && l.Phone == "" {
		c.bad(path+".shared", "add phone:, the first of them", "line %s is shared but has no phone", l.Number)
		return
	}
	seen := []string{l.Phone}
	for j, s := range l.Shared {
		at := fmt.Sprintf("%s.shared[%d].phone", path, j)
		if s.Phone == "" {
			continue // has a fault of its own
		}
		if slices.Contains(seen, s.Phone) {
			c.bad(at, "remove one", "line %s is on phone %s already", l.Number, s.Phone)
			continue
		}
		seen = append(seen, s.Phone)
		p, ok := c.d.Phone(s.Phone)
		if !ok {
			if c.whole("phones") {
				var names []string
				for _, p := range c.d.Phones {
					names = append(names, p.Device)
				}
				c.missing(at, "phone", s.Phone, names, "phones")
			}
			continue
		}
		if m, ok := Model(p.Model); ok && m.MaxCalls > 0 && l.MaxCalls > m.MaxCalls {
			c.bad(path+".max_calls", fmt.Sprintf("at most %d", m.MaxCalls), "model %s takes %d calls on a line, max_calls is %d", m.Model, m.MaxCalls, l.MaxCalls)
		}
	}
	if len(l.Shared) > maxShared {
		c.bad(path+".shared", fmt.Sprintf("at most %d", maxShared), "line %s is on %d phones", l.Number, len(l.Shared)+1)
	}
}

// maxShared bounds what one call has to ring, and what each change has to be told to.
const maxShared = 24
