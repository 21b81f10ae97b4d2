package bindings

// Permits is how many descriptors exposures hold, and how many they may (tunnel.md §4.10).
type Permits struct{ Used, Limit int }

// Permits returns those of the process.
func (s *Service) Permits() Permits { return Permits{} }

// Share returns those of a tunnel.
func (s *Service) Share(_ string) Permits { return Permits{} }
