package call

// Hearing lists for each leg that is up the legs whose voices its party is given, as the media sees it: for self-checks and tests, which
// compare it with what displays say.
func (m *Manager) Hearing() map[string][]string {
	out := map[string][]string{}
	for _, i := range m.Snapshot() {
		for _, a := range i.Legs {
			if a.session == nil || a.State != "up" {
				continue
			}
			out[a.ID] = nil
			for _, b := range i.Legs {
				if b.session != nil && b.State == "up" && a.session.Hears(b.session) {
					out[a.ID] = append(out[a.ID], b.ID)
				}
			}
		}
	}
	return out
}
