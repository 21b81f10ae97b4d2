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

// Ended is closed when the link that a node has now ends, or a newer one takes its place; ok is false when it has none.
func (s *Service) Ended(id string) (ended <-chan struct{}, ok bool) {
	e, ok := s.reg.get(id)
	if !ok {
		return nil, false
	}
	return e.own.ended, true
}

// Offers says whether a node is linked and what it may serve has a command.
func (s *Service) Offers(id, command string) bool {
	e, ok := s.reg.get(id)
	return ok && slices.Contains(e.node.Commands, command)
}

// SetExposed changes what a linked node shows as exposed; one that is not linked is left alone.
func (s *Service) SetExposed(id string, exposed []Exposed) {
	s.change(id, func(n *Node) bool { n.Exposed = exposed; return true })
}

// SetSession notes the technician session that a linked node is in tunnel mode for, empty for heartbeat mode, and tells
// who follows nodes. One that is not linked is left alone.
func (s *Service) SetSession(id, session string) {
	if n, ok := s.change(id, func(n *Node) bool {
		old := n.Session
		n.Session = session
		return old != session
	}); ok {
		s.bus.Publish("node.mode", Changed{Node: n})
	}
}

// change makes another one of a linked node; ok is false when it is not linked, or do left it as it was.
func (s *Service) change(id string, do func(*Node) bool) (n Node, ok bool) {
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	old := s.reg.cur.Load().live
	e, ok := old[id]
	if !ok {
		return Node{}, false
	}
	changed := *e
	if !do(&changed.node) {
		return Node{}, false
	}
	next := maps.Clone(old)
	next[id] = &changed
	s.reg.cur.Store(&snapshot{live: next})
	return changed.node, true
}

// Channeled says whether the link that a node has now carries channels beside it.
func (s *Service) Channeled(id string) bool {
	e, ok := s.reg.get(id)
	return ok && channeled(e)
}
