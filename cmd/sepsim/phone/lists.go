package phone

import "slices"

// Entry is a call that came, in one of the phone's call lists.
type Entry struct {
	List   string // missed or received
	Name   string
	Shown  string // number that was displayed
	Number string // that is dialled from the list: the call-back number if there was one (calls §24.3)
}

// maxEntries is what a phone keeps.
const maxEntries = 150

// listLocked notes a call.
func (p *Phone) listLocked(list string, who Party) {
	e := Entry{List: list, Name: who.Name, Shown: who.Number, Number: who.Number}
	if who.Callback != "" {
		e.Number = who.Callback
	}
	if p.entries = append(p.entries, e); len(p.entries) > maxEntries {
		p.entries = slices.Delete(p.entries, 0, 1)
	}
	p.changedLocked()
}

// Lists are the calls that came, oldest first.
func (p *Phone) Lists() []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.entries)
}
