package config

import "fmt"

// watchers judges who may watch a line: words alone, numbers of lines otherwise.
func (c *checker) watchers(l *Line, path string) {
	for i, w := range l.WatchedBy {
		at := fmt.Sprintf("%s.watched_by[%d]", path, i)
		switch {
		case w != "all" && w != "none":
			c.member(at, Digits(w), false)
		case len(l.WatchedBy) > 1:
			c.bad(at, "all or none alone, or numbers", "%s stands beside others", w)
		}
	}
}

// isSwitch tells whether a number is the manual switch of a schedule.
func (c *checker) isSwitch(num Digits) bool {
	for _, s := range c.d.Schedules {
		if s.Override == string(num) {
			return true
		}
	}
	return false
}

// MayWatch says whether a line may see the state of a number (lines[].watched_by). Whatever is no line, a park slot say, may be
// watched by everybody; the lines of one phone by each other.
func (d *Document) MayWatch(watcher, number string) bool {
	l, ok := d.Line(number)
	if !ok || watcher == number {
		return true
	}
	w, ok := d.Line(watcher)
	if !ok {
		return false
	}
	if w.Phone != "" && w.Phone == l.Phone {
		return true
	}
	for _, by := range l.WatchedBy {
		if by == "all" || by == watcher {
			return true
		}
		if x, ok := d.Line(by); ok && x.Phone != "" && x.Phone == w.Phone { // keys belong to the phone, not to one of its lines
			return true
		}
	}
	return false
}

// Switches are the names of the manual switches, each once.
func (d *Document) Switches() []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, s := range d.Schedules {
		if !seen[s.Override] {
			seen[s.Override] = true
			out = append(out, s.Override)
		}
	}
	return out
}
