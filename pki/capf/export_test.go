package capf

// SetSessionID has a server give every session one id: recorded proofs are bound to theirs.
func (s *Server) SetSessionID(id uint32) { s.newID = func() uint32 { return id } }
