package config

import (
	"cmp"
	"slices"
)

// lookup finds the parts of a document by name.
type lookup struct {
	users  map[string]*User
	phones map[string]*Phone
	lines  map[string]*Line
	onDev  map[string][]*Line // sorted by index
}

// link builds the lookup. The first of two of the same name counts; a document with two never passes the checks.
func (d *Document) link() {
	l := &lookup{users: map[string]*User{}, phones: map[string]*Phone{}, lines: map[string]*Line{}, onDev: map[string][]*Line{}}
	for i := range d.Users {
		if u := &d.Users[i]; l.users[u.ID] == nil {
			l.users[u.ID] = u
		}
	}
	for i := range d.Phones {
		if p := &d.Phones[i]; l.phones[p.Device] == nil {
			l.phones[p.Device] = p
		}
	}
	for i := range d.Lines {
		n := &d.Lines[i]
		if l.lines[string(n.Number)] == nil {
			l.lines[string(n.Number)] = n
		}
		if n.Phone != "" {
			l.onDev[n.Phone] = append(l.onDev[n.Phone], n)
		}
		for _, s := range n.Shared {
			there := *n // the same line, in its place on the other phone
			there.Phone, there.Index = s.Phone, s.Index
			l.onDev[s.Phone] = append(l.onDev[s.Phone], &there)
		}
	}
	for _, lines := range l.onDev {
		slices.SortStableFunc(lines, func(a, b *Line) int { return cmp.Compare(a.Index, b.Index) })
	}
	d.lookup = l
}

// table is the lookup of a loaded document, or one made for the call where a document was put together in code.
func (d *Document) table() *lookup {
	if d.lookup != nil {
		return d.lookup
	}
	t := *d
	t.link()
	return t.lookup
}

// User finds a user by id.
func (d *Document) User(id string) (*User, bool) {
	u, ok := d.table().users[id]
	return u, ok
}

// Phone finds a phone by device name.
func (d *Document) Phone(device string) (*Phone, bool) {
	p, ok := d.table().phones[device]
	return p, ok
}

// Line finds a line by number.
func (d *Document) Line(number string) (*Line, bool) {
	l, ok := d.table().lines[number]
	return l, ok
}

// LinesOf lists the lines of a phone in the order of their indexes: Phone and Index of a shared line are those of its place on
// that phone. The caller must not change the slice.
func (d *Document) LinesOf(device string) []*Line { return d.table().onDev[device] }

// Policy finds a VPN policy by id.
func (d *Document) Policy(id string) (*VPNPolicy, bool) {
	i := slices.IndexFunc(d.VPN.Policies, func(p VPNPolicy) bool { return p.ID == id })
	if i < 0 {
		return nil, false
	}
	return &d.VPN.Policies[i], true
}

// Position tells where the value at path stands, as in lines[2].number, or the nearest thing around it.
func (d *Document) Position(path string) (Position, bool) {
	if d.index == nil {
		return Position{}, false
	}
	m, ok := d.index.find(path)
	return m.val.position(), ok
}
