package media

// Hears tells whether the party of s is given what the party of o says, and nothing else instead: for the self-check of calls. It does
// not look at directions, mutes and addresses, which the parties decide about.
func (s *Session) Hears(o *Session) bool {
	if s == o || s.engine != o.engine {
		return false
	}
	s.engine.control.Lock()
	defer s.engine.control.Unlock()
	switch {
	case s.closed || o.closed || s.player != nil:
		return false
	case s.peer == o:
		return true
	}
	return s.member != nil && o.member != nil && s.member.mixer == o.member.mixer
}
