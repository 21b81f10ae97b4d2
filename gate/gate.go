// Package gate decides whether a caller may ask for an operation. Every door calls Admit before
// any handler; there is no other authorisation.
//
// It imports errs, identity and ops, and owns no goroutine.
package gate

import (
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
)

// The refusals. Field "role" or "scope" says which.
var (
	ErrRole  = errs.Define(errs.Denied, "gate.role", "this operation is not for the caller's role")
	ErrScope = errs.Define(errs.Denied, "gate.scope", "the caller lacks a scope")
)

// Gate admits calls. It is immutable and safe for concurrent use.
type Gate struct{}

// New returns the gate.
func New() *Gate { return &Gate{} }

// Admit returns nil when the caller may ask for the operation. A nil operation is one that does
// not exist: it is treated as one for admins, so that nobody else learns which names exist
// (protocol.md §2.4: authorisation precedes lookup).
func (g *Gate) Admit(c identity.Caller, op *ops.Operation) error {
	role, scope := identity.RoleOperator, identity.ScopeAdmin
	if op != nil {
		role, scope = op.Role, op.Scope
	}
	if c.Role != identity.RoleOperator && c.Role != identity.RoleNode && role != identity.RoleInvited {
		return ErrRole.With("role", string(c.Role))
	}
	if role == ops.AnyRole {
		return nil
	}
	if c.Role != role {
		return ErrRole.With("role", string(c.Role)).
			WithText("this operation is not for the role " + string(c.Role))
	}
	if scope != "" && !c.Has(scope) {
		return ErrScope.With("scope", string(scope)).
			WithText("the caller lacks the scope " + string(scope))
	}
	return nil
}
