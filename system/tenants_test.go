package system_test

import (
	"testing"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system"
)

// Who has a tenant is shown who of it is there, and the gateway; and one tenant's clients do not take the place of
// another's by naming themselves alike.
func TestPresenceOfTenants(t *testing.T) {
	table := system.NewPresence(system.Presence{Host: "gw", Mode: "gateway"}, time.Now)
	for _, tenant := range []string{"acme", "beta", ""} {
		table.Join(system.Party{DisplayName: "of " + tenant, InstanceID: "same", Mode: "ui", Role: identity.RoleOperator, Tenant: tenant})
	}
	all := table.List()
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	e := events.Event{Name: "presence", Payload: system.PresenceChanged{Entries: all}}
	for tenant, want := range map[string]int{"": 4, "acme": 2, "gamma": 1} {
		c := identity.Caller{Role: identity.RoleOperator, Tenant: tenant}
		got, ok := e.For(c).Payload.(system.PresenceChanged)
		if !ok || len(got.Entries) != want || len(system.Shown(c, all)) != want {
			t.Errorf("%q: %+v", tenant, got.Entries)
		}
	}
	if len(all) != 4 || len(table.List()) != 4 {
		t.Error("the list was changed")
	}
}
