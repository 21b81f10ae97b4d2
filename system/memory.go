package system

import (
	"context"

	"github.com/hanzoai/hanzod/identity"
)

// Memory says whether what an agent remembers can be searched.
type Memory struct {
	AgentID string
	// Provider is what makes embeddings, "none" without such a thing.
	Provider string
	OK       bool
	// Fault says why not, in the words of the original.
	Fault string
}

// Memory looks at the memory of the default agent. No agent of this hanzod remembers anything yet, so that there
// is nothing to search; it never fails as a call (control-plane.md §1).
func (s *Service) Memory(context.Context, identity.Caller) (Memory, error) {
	_, def := s.cfg.Facts.Agents()
	return Memory{AgentID: def, Provider: "none", Fault: "memory embeddings unavailable"}, nil
}
