package approvals

import (
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/identity"
)

// Covering returns the grants that would let a run of the caller happen, the one that is used first, and
// the signs of obfuscation that keep rules from allowing it. Nothing is used.
func (s *Service) Covering(c identity.Caller, q policy.Query, r policy.Ruling, env *string) (grants []Covered, signs []string) {
	t := attempt{argv: q.Argv, text: q.Text, nodeID: q.NodeID, by: partyOf(c), tenant: c.Tenant, envHash: env}
	for _, f := range []struct {
		v  string
		to **string
	}{{q.AgentID, &t.agent}, {q.SessionKey, &t.session}, {q.Cwd, &t.cwd}} {
		if f.v != "" {
			*f.to = &f.v
		}
	}
	for _, g := range s.covering(&t, r) {
		grants = append(grants, Covered{ID: g.ID, Text: g.Command})
	}
	return grants, t.suspicious()
}
