package nodes

// LinkedAs is the kind of link that holds an id at the moment, empty for none.
func (s *Service) LinkedAs(id string) LinkKind {
	e, ok := s.reg.get(id)
	switch {
	case !ok:
		return ""
	case e.node.Link == "":
		return LinkWebSocket
	}
	return e.node.Link
}
