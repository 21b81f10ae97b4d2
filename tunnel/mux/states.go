package mux

// States is how many streams of a session are in each state. Their sum is Streams.
type States struct {
	// Opening streams are not known to the other end yet, Open ones go both ways.
	Opening, Open int
	// HalfClosedLocal have said all here, HalfClosedRemote at the other end.
	HalfClosedLocal, HalfClosedRemote int
	// Closing streams have ended, and are not over on the wire yet.
	Closing int
}

// Add adds the streams of another session.
func (n *States) Add(m States) {
	n.Opening += m.Opening
	n.Open += m.Open
	n.HalfClosedLocal += m.HalfClosedLocal
	n.HalfClosedRemote += m.HalfClosedRemote
	n.Closing += m.Closing
}

// States looks at all streams, which takes a moment where there are many.
func (s *Session) States() (n States) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		switch {
		case st.err != nil || st.sendClosed && st.recvEOF:
			n.Closing++
		case !st.opened:
			n.Opening++
		case st.sendClosed:
			n.HalfClosedLocal++
		case st.recvEOF:
			n.HalfClosedRemote++
		default:
			n.Open++
		}
	}
	return n
}
