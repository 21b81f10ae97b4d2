package gate_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
)

// held are the sets of scopes that matter: none, each alone, all but admin, all.
func held() [][]identity.Scope {
	out := [][]identity.Scope{nil, {identity.ScopeTalkSecrets}, {"operator.write "}, {"OPERATOR.ADMIN"}, {"operator.*"}, {""}}
	for _, s := range identity.AllOperatorScopes {
		out = append(out, []identity.Scope{s})
	}
	return append(out, identity.AllOperatorScopes[1:], identity.AllOperatorScopes)
}

// implied is the table of protocol.md §5, written down again: the scopes that let a caller in.
var implied = map[identity.Scope][]identity.Scope{
	identity.ScopeRead:      {identity.ScopeRead, identity.ScopeWrite, identity.ScopeAdmin},
	identity.ScopeWrite:     {identity.ScopeWrite, identity.ScopeAdmin},
	identity.ScopeApprovals: {identity.ScopeApprovals, identity.ScopeAdmin},
	identity.ScopePairing:   {identity.ScopePairing, identity.ScopeAdmin},
	identity.ScopeAdmin:     {identity.ScopeAdmin},
}

func overlap(have, want []identity.Scope) bool {
	for _, h := range have {
		if slices.Contains(want, h) {
			return true
		}
	}
	return false
}

// Every operation with every role and every set of scopes.
func TestAdmit(t *testing.T) {
	c, err := ops.Load()
	if err != nil {
		t.Fatal(err)
	}
	g := gate.New()
	all := append(c.All(), nil) // nil: no such operation
	for _, op := range all {
		name, role, scope := "unknown", identity.RoleOperator, identity.ScopeAdmin
		if op != nil {
			name, role, scope = op.Name(), op.Role, op.Scope
		}
		for _, who := range []identity.Role{identity.RoleOperator, identity.RoleNode, "", "any", "admin", "Operator"} {
			for _, s := range held() {
				caller := identity.Caller{Role: who, Scopes: s}
				got := g.Admit(caller, op)
				var want *errs.Error
				switch {
				case who != identity.RoleOperator && who != identity.RoleNode:
					want = gate.ErrRole
				case role == ops.AnyRole:
				case who != role:
					want = gate.ErrRole
				case role == identity.RoleOperator && !overlap(s, implied[scope]):
					want = gate.ErrScope
				}
				if want == nil && got != nil || want != nil && !errors.Is(got, want) {
					t.Errorf("%s for %q with %v: %v", name, who, s, got)
				}
				if e, ok := errs.As(got); ok {
					if e.Class != errs.Denied || (e.Field("role") == "") == (e.Field("scope") == "") && who != "" {
						t.Errorf("%s for %q: %+v", name, who, e)
					}
					if e.Field("scope") != "" && e.Field("scope") != fmt.Sprint(scope) {
						t.Errorf("%s names the scope %s", name, e.Field("scope"))
					}
				}
			}
		}
	}
}

// Nobody in particular is let into nothing but by role.
func TestZeroCaller(t *testing.T) {
	if err := gate.New().Admit(identity.Caller{}, &ops.Operation{Role: ops.AnyRole}); !errors.Is(err, gate.ErrRole) {
		t.Errorf("got %v", err)
	}
	if err := gate.New().Admit(identity.Caller{}, &ops.Operation{}); err == nil {
		t.Error("a caller without a role passes an operation without one")
	}
}
