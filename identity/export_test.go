package identity

// Indexed is how many tokens the lookups hold.
func Indexed(s *Service) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}
