package config

import (
	"fmt"
	"slices"
	"strings"
)

// appliances judges site.appliances: what phones move between must contain this one.
func (c *checker) appliances() {
	list := c.d.Site.Appliances
	if len(list) == 0 {
		return
	}
	if len(list) > 5 {
		c.bad("site.appliances", "at most 5", "phones know at most 5 call servers, %d are declared", len(list))
	}
	var texts []string
	for i, a := range list {
		at := fmt.Sprintf("site.appliances[%d]", i)
		texts = append(texts, a.String())
		switch {
		case !a.Is4() || a.IsUnspecified():
			c.bad(at, "an IPv4 address", "%s is no address that phones can be told", a)
		case slices.Contains(list[:i], a):
			c.bad(at, "remove one", "%s stands there twice", a)
		}
	}
	if own := c.d.Node.Address; own.IsValid() && !slices.Contains(list, own) {
		c.bad("site.appliances", "add "+own.String(), "node.address %s is none of %s", own, strings.Join(texts, ", "))
	}
	if len(list) > 1 && slices.ContainsFunc(c.d.Phones, func(p Phone) bool { return p.Security == SecurityEncrypted }) {
		c.note("site.appliances", "non-secure phones do so already", "encrypted phones move to another appliance only when their trust list holds its certificate, which it does not yet")
	}
}
