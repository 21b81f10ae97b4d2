package ops_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
)

func load(tb testing.TB) *ops.Catalogue {
	tb.Helper()
	c, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// Every RPC that is linked in is in the catalogue: none can be added beside it.
func TestEveryRPC(t *testing.T) {
	c := load(t)
	n := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "hanzo.") {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				n++
				name := "/" + string(s.FullName()) + "/" + string(s.Methods().Get(j).Name())
				if op, ok := c.ByMethod(name); !ok || op.Method != name || op.Name() == "" {
					t.Errorf("%s is not in the catalogue", name)
				}
			}
		}
		return true
	})
	if n < 20 {
		t.Errorf("only %d RPCs were found", n)
	}
}

// Facts that make sense: roles, scopes and events are known ones, and nothing is for everybody but
// what says so.
func TestFacts(t *testing.T) {
	roles := map[identity.Role]bool{identity.RoleOperator: true, identity.RoleNode: true, identity.RoleInvited: true, ops.AnyRole: true}
	scopes := map[identity.Scope]bool{}
	for _, s := range identity.AllOperatorScopes {
		scopes[s] = true
	}
	admin := identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes}
	for _, op := range load(t).All() {
		switch {
		case op.Method == "" && op.Legacy == "":
			t.Errorf("%+v has no name", op)
		case !roles[op.Role]:
			t.Errorf("%s: role %q", op.Name(), op.Role)
		case op.Role == identity.RoleOperator && !scopes[op.Scope]:
			t.Errorf("%s: scope %q", op.Name(), op.Scope)
		case op.Role != identity.RoleOperator && op.Scope != "":
			t.Errorf("%s: a scope for the role %s", op.Name(), op.Role)
		case op.Role == ops.AnyRole && op.Legacy != "health":
			t.Errorf("%s is for everybody", op.Name())
		}
		for _, e := range op.Emits {
			if !events.Visible(admin, e) {
				t.Errorf("%s emits %s, which nobody may see", op.Name(), e)
			}
		}
	}
}

// The catalogue is the frozen list: the same names, and for each the same role and scope
// (protocol.md §5).
func TestFrozenList(t *testing.T) {
	c := load(t)
	// The calls of the voice plugin are not the gateway's own.
	plugin := func(m schema.Method) bool {
		return strings.HasPrefix(m.Name, "voicecall.")
	}
	frozen := map[string]schema.Method{}
	for _, m := range schema.Methods() {
		frozen[m.Name] = m
		op, ok := c.ByLegacy(m.Name)
		// The original has the code of this one and does not serve it; here its screens are.
		ours := m.Name == "screen.vnc"
		if m.Name == "connect" || plugin(m) || !m.Wired && !ours {
			if ok {
				t.Errorf("%s is in the catalogue and should not be", m.Name)
			}
			continue
		}
		if !ok {
			t.Errorf("%s is not in the catalogue", m.Name)
			continue
		}
		if string(op.Role) != m.Role || string(op.Scope) != m.Scope {
			t.Errorf("%s: %s %q in the catalogue, %s %q in the list", m.Name, op.Role, op.Scope, m.Role, m.Scope)
		}
		limited := m.Name == "config.apply" || m.Name == "config.patch" || m.Name == "update.run"
		if (op.Rate == ops.RateControlPlane) != limited {
			t.Errorf("%s: rate class %d", m.Name, op.Rate)
		}
	}
	for _, op := range c.All() {
		if _, ok := frozen[op.Legacy]; op.Legacy != "" && !ok {
			t.Errorf("%s is not in the frozen list", op.Legacy)
		}
	}
	if _, ok := c.ByLegacy("no.such"); ok {
		t.Error("a name that is not there is found")
	}
	if _, ok := c.ByMethod("/hanzo.nodes.v1.NodeService/Nope"); ok {
		t.Error("a method that is not there is found")
	}
}
