// Package identity says who is calling: devices and their signatures, tokens, roles, scopes, and
// the Caller that every decision takes as an argument.
//
// It imports errs only. Its Service reads and writes through the Store interface and owns no
// goroutine.
package identity

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// Role is the side of the gateway that a connection stands on.
type Role string

// The roles. RoleInvited is who presents an invite: it may enrol and nothing else, and no connection
// has it.
const (
	RoleOperator Role = "operator"
	RoleNode     Role = "node"
	RoleInvited  Role = "invited"
)

// Scope is one permission of an operator.
type Scope string

// The scopes of operators (protocol.md §5).
const (
	ScopeAdmin       Scope = "operator.admin"
	ScopeRead        Scope = "operator.read"
	ScopeWrite       Scope = "operator.write"
	ScopeApprovals   Scope = "operator.approvals"
	ScopePairing     Scope = "operator.pairing"
	ScopeTalkSecrets Scope = "operator.talk.secrets"
)

// AllOperatorScopes is what the owner of the daemon holds.
var AllOperatorScopes = []Scope{ScopeAdmin, ScopeRead, ScopeWrite, ScopeApprovals, ScopePairing}

// Door is the way in.
type Door uint8

// The doors. DoorInternal is the daemon itself.
const (
	DoorInternal Door = iota
	DoorGRPC
	DoorREST
	DoorLegacy
	DoorTunnel
)

func (d Door) String() string {
	return [...]string{"internal", "grpc", "rest", "legacy", "tunnel"}[d]
}

// Caller is who is making a call, as far as the daemon has verified it. It is passed by value and
// never changed once a door has made it.
type Caller struct {
	Door   Door
	Role   Role
	Scopes []Scope
	// DeviceID is the verified device, empty without one.
	DeviceID string
	// Paired says that the device is paired: what the caller may ends with the pairing.
	Paired bool
	// TokenID names the device token that let the caller in, empty when something else did. It is no
	// secret.
	TokenID string
	// InviteID is the invite of a caller with RoleInvited.
	InviteID string
	// ConnID is the connection; unique per connection, empty for calls without one.
	ConnID string
	// NodeID is the registry id of a caller with role node.
	NodeID string
	// Tenant is the organisation of a caller that an identity service vouches for; empty for callers of the
	// gateway's owner, who sees what is of every tenant.
	Tenant string
	// Expires is when the token ends that the identity service gave the caller; zero for credentials without an end. What lasts
	// longer than a call ends then.
	Expires time.Time
	// Principal is what an approval is bound to when there is no device: the local user
	// ("local:1000"), or the connection ("conn:…"), which nobody else can be.
	Principal string
	// ClientID, ClientMode and DisplayName are what the client says of itself: for showing, never
	// for deciding.
	ClientID    string
	ClientMode  string
	DisplayName string
	// Local says that the caller runs on this machine.
	Local    bool
	RemoteIP string
}

// LooksLikeDevice reports whether a text has the form of a device id, a SHA-256 in hex, whatever its
// letters' case. Who names itself so without a proof is taken at its word nowhere.
func LooksLikeDevice(id string) bool {
	return len(id) == 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F')
	})
}

// Has reports whether an operator holds the scope. Admin holds every scope, write implies read. A
// node holds none.
func (c Caller) Has(s Scope) bool {
	if c.Role != RoleOperator {
		return false
	}
	for _, h := range c.Scopes {
		if h == s || h == ScopeAdmin || (h == ScopeWrite && s == ScopeRead) {
			return true
		}
	}
	return false
}

// NodeTenant is the tenant in the registry's id of a node, empty for nodes of the gateway's owner.
func NodeTenant(nodeID string) string {
	head, _, qualified := strings.Cut(nodeID, "/")
	if !qualified {
		return ""
	}
	tenant, err := url.PathUnescape(head)
	if err != nil {
		return head // what is no id of a tenant belongs to none that has credentials
	}
	return tenant
}

// QualifiedNode is the registry's id of a node of a tenant: ids of two tenants never meet.
func QualifiedNode(tenant, id string) string {
	if tenant == "" {
		return id
	}
	return url.PathEscape(tenant) + "/" + id
}

// Decides reports whether the caller is shown, and may decide about, the devices and requests of a tenant:
// who has a tenant about its own, the gateway's owner about all.
func (c Caller) Decides(tenant string) bool { return c.Tenant == "" || c.Tenant == tenant }

// SeesNode reports whether a node is there for the caller: those of another tenant are not, by no door.
func (c Caller) SeesNode(nodeID string) bool {
	t := NodeTenant(nodeID)
	return c.Tenant == "" || t == "" || t == c.Tenant
}

// lacks returns the first of the scopes that the caller may not give away, "" when there is none: an
// operator gives what it holds, and no other role than its own unless it is an admin.
func (c Caller) lacks(role Role, scopes []Scope) Scope {
	if c.Has(ScopeAdmin) {
		return ""
	}
	if role != RoleOperator || c.Role != RoleOperator {
		return ScopeAdmin
	}
	for _, s := range scopes {
		if !scopeHeld(RoleOperator, s, c.Scopes) {
			return s
		}
	}
	return ""
}

// Name is what to show for the caller.
func (c Caller) Name() string {
	if c.DisplayName != "" {
		return c.DisplayName
	}
	if c.ClientID != "" {
		return c.ClientID
	}
	return c.Principal
}

// Subject is what an act of the caller is recorded under: facts the daemon has verified only.
func (c Caller) Subject() string {
	if c.DeviceID != "" {
		return "device:" + c.DeviceID
	}
	return c.Principal
}

// Internal is the daemon acting for itself.
func Internal() Caller {
	return Caller{Door: DoorInternal, Role: RoleOperator, Scopes: AllOperatorScopes, Principal: "hanzod", Local: true}
}

// ScopesAllow reports whether the held scopes contain the wanted ones for a role (protocol.md
// §4.7, scope containment). An empty wish always passes.
func ScopesAllow(role Role, wanted, held []Scope) bool {
	for _, w := range wanted {
		if !scopeHeld(role, w, held) {
			return false
		}
	}
	return true
}

func scopeHeld(role Role, w Scope, held []Scope) bool {
	if slices.Contains(held, w) {
		return true
	}
	if role != RoleOperator {
		return false
	}
	if slices.Contains(held, ScopeAdmin) && strings.HasPrefix(string(w), "operator.") {
		return true
	}
	return w == ScopeRead && slices.Contains(held, ScopeWrite)
}

// scopesFor are the scopes that mean anything in a role: those of operators are for operators alone, so
// that what is approved for a node is not found again when it comes as an operator.
func scopesFor(role Role, scopes []Scope) []Scope {
	if role == RoleOperator {
		return scopes
	}
	return slices.DeleteFunc(slices.Clone(scopes), func(s Scope) bool { return strings.HasPrefix(string(s), "operator.") })
}

// SortedScopes returns the scopes sorted and without repeats.
func SortedScopes(in []Scope) []Scope {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// Union appends to a what b has more, keeping order.
func Union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}
