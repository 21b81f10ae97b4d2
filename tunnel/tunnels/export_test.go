package tunnels

import "time"

// Hurry makes the times of a service shorter that are not 0.
func (s *Service) Hurry(hello, ping, pong, ticket, dial time.Duration) {
	for _, c := range []struct {
		to   *time.Duration
		from time.Duration
	}{{&s.times.hello, hello}, {&s.times.ping, ping}, {&s.times.pong, pong}, {&s.times.ticket, ticket}, {&s.times.dial, dial}} {
		if c.from != 0 {
			*c.to = c.from
		}
	}
}

// Left counts what the service remembers of tunnels that are there.
func (s *Service) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tunnels) + len(s.byOwner) + len(s.grants)
}

// MaxEnds is how many ended tunnels are remembered.
const MaxEnds = maxEnds

// Forgets reports how many of n ended ids are remembered.
func Forgets(n int) int {
	e := newEnds()
	for i := range n {
		e.add(string(rune('a'+i%26))+time.Duration(i).String(), owner{})
	}
	return len(e.owners)
}
