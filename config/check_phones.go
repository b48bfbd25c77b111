package config

import (
	"fmt"
	"slices"
	"strings"
)

func (c *checker) phones() {
	seen := map[string]string{}
	for i := range c.d.Phones {
		p := &c.d.Phones[i]
		path := fmt.Sprintf("phones[%d]", i)
		c.duplicate(seen, p.Device, path+".device", "phone")
		if p.VPN != "" {
			c.policy(path+".vpn", p.VPN)
		}
		if strings.HasSuffix(p.Load, ".loads") {
			c.bad(path+".load", "write "+strings.TrimSuffix(p.Load, ".loads"), "load ends in .loads, which phones append themselves")
		}
		if p.Security == SecurityNonsecure {
			hint := "set security: encrypted where the phone can be enrolled"
			if m, ok := Model(p.Model); ok && m.OldTLS() {
				hint += "; model " + m.Model + " also needs node.listen.legacy_tls: [" + strings.Join(legacyNeeds, ", ") + "]"
			}
			c.note(path+".security", hint, "phone %s is non-secure: its password goes in clear in its device file, and so do its calls", p.Device)
		}
		if (c.d.PKI.LSC.Auth == CAPFCode) != !p.CAPFCode.Empty() && p.Security == SecurityEncrypted {
			if p.CAPFCode.Empty() {
				c.note(path, "add capf_code:, or give it one by ringfence cert enroll "+p.Device+" --code, or set pki.lsc.auth: null_string", "phone %s cannot enrol: pki.lsc.auth is code and none is declared", p.Device)
			} else {
				c.note(path+".capf_code", "set pki.lsc.auth: code", "capf_code of phone %s is not asked for: pki.lsc.auth is %s", p.Device, c.d.PKI.LSC.Auth)
			}
		}
		if m, ok := Model(p.Model); ok {
			c.model(p, m, path)
		} else if p.Model != "" {
			c.unknownModel(path+".model", p.Model)
		}
	}
}

func (c *checker) unknownModel(path, name string) {
	hint := "one of " + strings.Join(modelNames(), ", ")
	digits := strings.TrimRight(strings.TrimPrefix(strings.ToUpper(name), "CP-"), "GS/-K9NR")
	if _, ok := Model(digits); ok {
		hint = `write model: "` + digits + `"`
	} else if near := nearest(name, modelNames()); near != "" {
		hint = "did you mean " + near + "? Known are " + strings.Join(modelNames(), ", ")
	}
	c.bad(path, hint, "there is no model %q", clip(name))
}

// model judges what a phone asks of its model.
func (c *checker) model(p *Phone, m PhoneModel, path string) {
	if p.VPN != "" && !m.VPN {
		c.bad(path+".vpn", "remove vpn: here, or use a model that has one", "model %s has no VPN client", m.Model)
	}
	if m.Series == "7900" && strings.ContainsRune(p.Label, ' ') {
		c.bad(path+".label", "leave the spaces out", "model %s shows no label with spaces", m.Model)
	}
	if p.LSCKey.EC() && !m.ECCertificates {
		c.bad(path+".lsc_key", "rsa2048", "model %s cannot use a certificate with an EC key", m.Model)
	} else if p.LSCKey.EC() && p.Security == SecurityEncrypted {
		c.note(path+".lsc_key", "rsa2048", "an EC key cannot open the encrypted device file: phone %s with %s gets its file over HTTPS on port 6971 alone, and only if its firmware shows its certificate there, which no phone is known to do", p.Device, p.LSCKey)
	}
	c.modules(p, m, path)
	lines := c.d.LinesOf(p.Device)
	total := m.LineKeys
	for _, name := range p.Modules {
		mod, _ := Module(name)
		total += mod.Keys
	}
	if n := len(lines) + len(p.Keys); n > total {
		at := path + ".keys"
		if first := total - len(lines); len(p.Keys) > 0 && first >= 0 {
			at = fmt.Sprintf("%s.keys[%d]", path, first)
		} else if len(p.Keys) == 0 {
			at = path + ".model"
		}
		hint := fmt.Sprintf("remove %d", n-total)
		if len(m.ExpansionModules) > 0 {
			hint += ", or add modules: [" + m.ExpansionModules[0] + "]"
		}
		c.bad(at, hint, "model %s has %d keys, %d lines and %d further keys are declared", m.Model, total, len(lines), len(p.Keys))
	}
	if len(lines) == 0 && c.whole("lines") && c.whole("phones") {
		if len(p.Keys) > 0 {
			c.bad(path+".keys", "add a line with phone: "+p.Device, "phone %s has keys but no line to dial with", p.Device)
		} else {
			c.note(path, "add a line with phone: "+p.Device, "phone %s has no line: it gets its files but cannot register", p.Device)
		}
	}
}

func (c *checker) modules(p *Phone, m PhoneModel, path string) {
	for i, name := range p.Modules {
		at := fmt.Sprintf("%s.modules[%d]", path, i)
		mod, known := Module(name)
		switch {
		case !known:
		case len(m.ExpansionModules) == 0:
			c.bad(at, "remove modules:", "model %s takes no expansion modules", m.Model)
		case !slices.Contains(m.ExpansionModules, name):
			c.bad(at, "one of "+strings.Join(m.ExpansionModules, ", "), "module %s does not fit model %s", name, m.Model)
		case i >= 3:
			c.bad(at, "remove it", "a phone takes at most three modules")
		case m.Series == "8800" && name != p.Modules[0]:
			c.bad(at, "write "+p.Modules[0], "all modules of an 8800 are of one kind")
		case mod.NeedsLoad:
			c.note(at, "", "module %s needs firmware that this release does not hand out", name)
		}
	}
}

// EC tells whether a key is on an elliptic curve.
func (k KeyKind) EC() bool { return k == KeyP256 || k == KeyP384 || k == KeyP521 }

// LSCKey is the kind of key that the certificate of a phone gets: its own choice or that of pki.lsc, where auto is RSA 2048
// and models that cannot use EC keys fall back to that.
func (d *Document) LSCKey(p *Phone) KeyKind {
	k := d.PKI.LSC.Key
	if p.LSCKey != "" {
		k = p.LSCKey
	}
	m, ok := Model(p.Model)
	if k == KeyAuto || k == "" || k.EC() && !(ok && m.ECCertificates) {
		return KeyRSA2048
	}
	return k
}

func (c *checker) lines() {
	for i := range c.d.Lines {
		l := &c.d.Lines[i]
		if l.Number != "" { // else it has a fault of its own
			c.line(l, fmt.Sprintf("lines[%d]", i))
		}
	}
	c.indexes()
}

func (c *checker) line(l *Line, path string) {
	if l.User != "" {
		if _, ok := c.d.User(l.User); !ok && c.whole("users") {
			var ids []string
			for _, u := range c.d.Users {
				ids = append(ids, u.ID)
			}
			c.missing(path+".user", "user", l.User, ids, "users")
		}
	}
	if u, ok := c.d.User(l.User); ok && l.CallerID.Name == "" && l.Phone != "" && len([]rune(u.Name)) > 30 {
		c.bad(path, "add caller_id: {name: ...} of at most 30", "phones show names of up to 30 characters, that of %s has %d", u.ID, len([]rune(u.Name)))
	}
	if l.BusyAt > l.MaxCalls {
		c.bad(path+".busy_at", fmt.Sprintf("at most max_calls, %d", l.MaxCalls), "busy_at is %d: the line would never be busy", l.BusyAt)
	}
	c.lineRights(l, path)
	c.watchers(l, path)
	c.shared(l, path)
	if l.ParkLot != "" && c.whole("parking") {
		var lots []string
		for _, p := range c.d.Parking {
			lots = append(lots, p.ID)
		}
		if !slices.Contains(lots, l.ParkLot) {
			c.missing(path+".park_lot", "park lot", l.ParkLot, lots, "parking")
		}
	}
	if l.Phone == "" {
		if l.Password.Empty() && !c.ix.faulty(c.f, path+".password") {
			c.bad(path+".number", "add password: for its softphone, or phone: of the device that shows it", "line %s has neither a phone nor a password", l.Number)
		}
		if _, ok := c.ix.marks[path+".index"]; ok && l.Index != 1 {
			c.bad(path+".index", "remove index:, or add phone:", "line %s has an index but no phone", l.Number)
		}
		return
	}
	if !l.Password.Empty() {
		c.bad(path+".password", "remove it; phones[].password may set that of the phone", "line %s is on phone %s, which has one password for all its lines", l.Number, l.Phone)
	}
	p, ok := c.d.Phone(l.Phone)
	if !ok {
		if c.whole("phones") {
			var names []string
			for _, p := range c.d.Phones {
				names = append(names, p.Device)
			}
			c.missing(path+".phone", "phone", l.Phone, names, "phones")
		}
		return
	}
	if m, ok := Model(p.Model); ok && m.MaxCalls > 0 && l.MaxCalls > m.MaxCalls {
		c.bad(path+".max_calls", fmt.Sprintf("at most %d", m.MaxCalls), "model %s takes %d calls on a line, max_calls is %d", m.Model, m.MaxCalls, l.MaxCalls)
	}
}

// builtinRights are the rights that exist without any route naming them.
var builtinRights = []string{"internal", "local", "national", "international", "premium"}

func (c *checker) rights() []string {
	known := slices.Clone(builtinRights)
	for _, r := range c.d.RoutesOut {
		if !slices.Contains(known, r.Right) {
			known = append(known, r.Right)
		}
	}
	return known
}

func (c *checker) lineRights(l *Line, path string) {
	known := c.rights()
	for j, r := range l.Rights {
		if at := fmt.Sprintf("%s.rights[%d]", path, j); slices.Contains(l.Rights[:j], r) {
			c.bad(at, "remove one", "right %s is given twice", r)
		} else if !slices.Contains(known, r) && c.whole("routes_out") {
			c.missing(at, "right", r, known, "routes_out as right:")
		}
	}
}

// indexes judges the places of lines on their phones: from 1, unique, without gap (provisioning §5).
func (c *checker) indexes() {
	if !c.whole("lines") {
		return
	}
	type place struct{ number, phone string }
	paths := map[place]string{}
	for i, l := range c.d.Lines {
		paths[place{string(l.Number), l.Phone}] = fmt.Sprintf("lines[%d]", i)
		for j, s := range l.Shared {
			paths[place{string(l.Number), s.Phone}] = fmt.Sprintf("lines[%d].shared[%d]", i, j)
		}
	}
	for i := range c.d.Phones {
		p := &c.d.Phones[i]
		free := 1
		for j, l := range c.d.LinesOf(p.Device) {
			path := paths[place{string(l.Number), l.Phone}] + ".index"
			switch {
			case j > 0 && l.Index == c.d.LinesOf(p.Device)[j-1].Index:
				prev := c.d.LinesOf(p.Device)[j-1]
				c.bad(path, fmt.Sprintf("give one of them index: %d", len(c.d.LinesOf(p.Device))), "lines %s and %s both have index %d on phone %s", prev.Number, l.Number, l.Index, p.Device)
				continue
			case l.Index > free:
				c.bad(path, fmt.Sprintf("write index: %d", free), "phone %s has no line with index %d", p.Device, free)
			}
			free = l.Index + 1
		}
	}
}
