package ops

import "github.com/hanzoai/hanzod/identity"

const (
	read      = identity.ScopeRead
	write     = identity.ScopeWrite
	approvals = identity.ScopeApprovals
	pairing   = identity.ScopePairing
	admin     = identity.ScopeAdmin
)

// legacyOnly lists the frozen legacy methods that no RPC carries yet (protocol.md §5,
// control-plane.md §0). A method leaves this table when its RPC arrives.
var legacyOnly = []Operation{
	// Secrets, first questions, updates (secrets, wizard, system).

	// What needs an agent.
	{Legacy: "agent", Role: identity.RoleOperator, Scope: write},
	{Legacy: "agent.wait", Role: identity.RoleOperator, Scope: write},
	{Legacy: "chat.send", Role: identity.RoleOperator, Scope: write},
	{Legacy: "chat.abort", Role: identity.RoleOperator, Scope: write},
	{Legacy: "browser.request", Role: identity.RoleOperator, Scope: write},

	// A capability of the connection itself.
	{Legacy: "node.canvas.capability.refresh", Role: identity.RoleNode},
}
