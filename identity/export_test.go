package identity

// Indexed is how many tokens the lookups hold.
func Indexed(s *Service) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}

// SetCount lets the service believe that so many devices are paired.
func SetCount(s *Service, n int64) { s.count.Store(n) }

// MaxDevices is how many may be.
const MaxDevices = maxDevices
