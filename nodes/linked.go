package nodes

import (
	"maps"
	"slices"
)

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

// Offers says whether a node is linked and what it may serve has a command.
func (s *Service) Offers(id, command string) bool {
	e, ok := s.reg.get(id)
	return ok && slices.Contains(e.node.Commands, command)
}

// SetExposed changes what a linked node shows as exposed; one that is not linked is left alone.
func (s *Service) SetExposed(id string, exposed []Exposed) {
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	old := s.reg.cur.Load().live
	e, ok := old[id]
	if !ok {
		return
	}
	changed := *e
	changed.node.Exposed = exposed
	next := maps.Clone(old)
	next[id] = &changed
	s.reg.cur.Store(&snapshot{live: next})
}
