package approvals

import (
	"context"

	"github.com/hanzoai/hanzod/identity"
)

// NodeAnswer is what a person at a node answered there (nodes-approvals.md §3.19), as the node says.
type NodeAnswer struct {
	NodeID, NodeName string
	RunID            string
	SessionKey       string
	Command          string
	Decision         Decision
	// By says what they answered with, "companion app".
	By string
}

// NodeAnswered records an answer that was given at a node, about a run that came without an approval. The
// node has its own rules and needs none of ours for it; this is for the log. The caller is the node.
func (s *Service) NodeAnswered(ctx context.Context, c identity.Caller, in NodeAnswer) error {
	name := in.NodeName
	if name == "" {
		name = in.NodeID
	}
	by := in.By
	if by == "" {
		by = "somebody"
	}
	return s.store.AppendAudit(ctx, Audit{
		At: s.now(), Kind: AuditDecision, Subject: c.Subject(), NodeID: in.NodeID, Command: in.Command,
		SessionKey: in.SessionKey, Decision: in.Decision, Reason: "node", Detail: by + " on " + name + " answered (run " + in.RunID + ")",
	})
}
