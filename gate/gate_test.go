package gate_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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
	g, calls := gate.New(), 0
	nodesToo := map[string]bool{}
	all := append(c.All(), nil) // nil: no such operation
	for _, op := range all {
		name, role, scope := "unknown", identity.RoleOperator, identity.ScopeAdmin
		suffices := implied[scope]
		if op != nil {
			name, role, scope = op.Name(), op.Role, op.Scope
			suffices = slices.Concat(implied[scope], implied[op.OrScope])
			if op.OrScope == "" {
				suffices = implied[scope]
			}
		}
		for _, who := range []identity.Role{identity.RoleOperator, identity.RoleNode, "", "any", "admin", "Operator"} {
			for _, s := range held() {
				calls++
				caller := identity.Caller{Role: who, Scopes: s, ConnID: fmt.Sprint(calls)} // nobody calls too often
				got := g.Admit(caller, op)
				var want *errs.Error
				switch {
				case who != identity.RoleOperator && who != identity.RoleNode:
					want = gate.ErrRole
				case role == ops.AnyRole:
				case who == identity.RoleNode && op != nil && op.OrNode:
					nodesToo[name] = true
				case who != role:
					want = gate.ErrRole
				case role == identity.RoleOperator && !overlap(s, suffices):
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
	// Nodes get into one operation of operators: their carriers are tunnels too (tunnel.md §5.4).
	if len(nodesToo) != 1 || !nodesToo["/hanzo.tunnel.v1.TunnelService/Carry"] {
		t.Errorf("nodes may call %v", nodesToo)
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

// Writes of the configuration are limited for each caller, all of them together, from the first one on.
func TestControlPlaneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		catalogue, err := ops.Load()
		if err != nil {
			t.Fatal(err)
		}
		apply, _ := catalogue.ByLegacy("config.apply")
		patch, _ := catalogue.ByLegacy("config.patch")
		set, _ := catalogue.ByLegacy("config.set")
		g := gate.New()
		admin := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}
		caller := func(device, address, conn string, local bool) identity.Caller {
			c := admin
			c.DeviceID, c.RemoteIP, c.ConnID, c.Local = device, address, conn, local
			return c
		}
		a := caller("device-a", "", "1", true)
		for i, op := range []*ops.Operation{apply, patch, apply} {
			if err := g.Admit(a, op); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
		a.ConnID = "2" // another connection is the same device
		err = g.Admit(a, patch)
		e, ok := errs.As(err)
		if !ok || !errors.Is(err, gate.ErrRate) || e.Class != errs.Exhausted || e.Fields["retryAfterMs"] != int64(57_000) {
			t.Fatalf("the fourth call: %#v", err)
		}
		for _, other := range []identity.Caller{
			caller("device-b", "", "3", true), caller("device-a", "192.0.2.1", "4", false), caller("", "192.0.2.1", "5", false),
			caller("", "", "6", false), caller("", "", "7", false),
		} {
			for range 3 {
				if err := g.Admit(other, apply); err != nil {
					t.Errorf("%+v: %v", other, err)
				}
			}
			if err := g.Admit(other, apply); !errors.Is(err, gate.ErrRate) {
				t.Errorf("%+v: %v", other, err)
			}
		}
		if err := g.Admit(a, set); err != nil {
			t.Errorf("an operation without a limit: %v", err)
		}
		if err := g.Admit(identity.Caller{Role: identity.RoleOperator, DeviceID: "device-a", Local: true}, apply); !errors.Is(err, gate.ErrScope) {
			t.Errorf("without the scope: %v", err)
		}
		time.Sleep(57*time.Second - time.Millisecond)
		if err := g.Admit(a, apply); !errors.Is(err, gate.ErrRate) {
			t.Errorf("before the window is over: %v", err)
		}
		time.Sleep(time.Millisecond)
		if err := g.Admit(a, apply); err != nil {
			t.Errorf("in the next window: %v", err)
		}
	})
}

// However many callers there are, the gate stays small, and those who called last are counted.
func TestControlPlaneManyCallers(t *testing.T) {
	op := &ops.Operation{Role: identity.RoleOperator, Scope: identity.ScopeAdmin, Rate: ops.RateControlPlane}
	g := gate.New()
	admin := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}
	for i := range 5000 {
		admin.DeviceID = fmt.Sprint(i)
		for range 3 {
			if err := g.Admit(admin, op); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := g.Callers(); n > 1024 {
		t.Errorf("%d callers are counted", n)
	}
	if err := g.Admit(admin, op); !errors.Is(err, gate.ErrRate) {
		t.Errorf("the last caller is forgotten: %v", err)
	}
}
