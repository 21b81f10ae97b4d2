package identity

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/errs"
)

// ErrMember refuses who comes over the tailnet and is not mapped to what it asks for. Its text names who
// that is: the tailnet has proved it.
var ErrMember = errs.Define(errs.Denied, "identity.tailnet", "nothing in gateway.tailnet.grants names who is calling")

// memberPrefix begins the principal of who comes over the tailnet.
const memberPrefix = "tailnet:"

// Member is who the tailnet says is at the other end of a connection, and what it may do here. It is
// found by the connection, never by what came through it, and never changed.
type Member struct {
	// Login is the user, "" for a machine with tags: that belongs to nobody.
	Login string
	// Tags are those of the machine, and Machine is its full name. Groups are those of the user.
	Tags, Groups []string
	Machine      string
	// Addr says where it is, for who is not known to the tailnet.
	Addr string

	// operator and node are the roles it may have, and scopes what it holds as an operator.
	operator, node bool
	scopes         []Scope
}

// MemberGrant gives a role to who is in one of its lists.
type MemberGrant struct {
	// Users are logins, Groups groups of users, and Tags tags of machines with "tag:" in front. Case
	// does not matter.
	Users, Groups, Tags []string
	Role                Role
	// Scopes are for operators.
	Scopes []Scope
}

// names reports whether the grant is for the member. A machine with tags is known by them alone.
func (g MemberGrant) names(m Member) bool {
	if len(m.Tags) > 0 {
		return anyOf(g.Tags, m.Tags...)
	}
	return m.Login != "" && (anyOf(g.Users, m.Login) || anyOf(g.Groups, m.Groups...))
}

func anyOf(list []string, names ...string) bool {
	return slices.ContainsFunc(list, func(l string) bool {
		return l != "" && slices.ContainsFunc(names, func(n string) bool { return NormalMetadata(n) == NormalMetadata(l) })
	})
}

// Map returns the member with what the grants that name it give together. Nothing names it, it may
// nothing.
func Map(grants []MemberGrant, m Member) *Member {
	m.operator, m.node, m.scopes = false, false, nil
	for _, g := range grants {
		if !g.names(m) {
			continue
		}
		switch g.Role {
		case RoleOperator:
			m.operator, m.scopes = true, Union(m.scopes, g.Scopes)
		case RoleNode:
			m.node = true
		}
	}
	return &m
}

// Equal reports whether it is the same member with the same rights.
func (m *Member) Equal(o *Member) bool {
	return m.Principal() == o.Principal() && m.operator == o.operator && m.node == o.node &&
		slices.Equal(SortedScopes(m.scopes), SortedScopes(o.scopes))
}

// May reports whether the member may have a role.
func (m *Member) May(r Role) bool { return r == RoleOperator && m.operator || r == RoleNode && m.node }

// Known reports whether the tailnet knows who it is.
func (m *Member) Known() bool { return m.Login != "" || len(m.Tags) > 0 }

// Principal is what its acts are recorded under: its login, or for a machine with tags these and its
// name.
func (m *Member) Principal() string {
	if len(m.Tags) > 0 {
		return memberPrefix + strings.Join(m.Tags, ",") + "@" + m.Machine
	}
	return memberPrefix + m.Login
}

// Who is Principal for people.
func (m *Member) Who() string { return strings.TrimPrefix(m.Principal(), memberPrefix) }

// Shown adds who it is to a name that a client gives itself.
func (m *Member) Shown(name string) string {
	if name == "" {
		return m.Who()
	}
	return name + " (" + m.Who() + ")"
}

// Refusal says why the member may not have a role; it is an ErrMember.
func (m *Member) Refusal(r Role) error {
	switch {
	case !m.Known():
		return ErrMember.WithText("the tailnet does not know who is at " + m.Addr)
	case m.operator || m.node:
		return ErrMember.WithText(m.Who() + " may not be " + withArticle(r) + " here: no grant of that role in gateway.tailnet.grants names " + m.named())
	}
	return ErrMember.WithText(m.Who() + " may not use this daemon: nothing in gateway.tailnet.grants names " + m.named())
}

func (m *Member) named() string {
	if len(m.Tags) > 0 {
		return "a tag of this machine"
	}
	return "this login"
}

func withArticle(r Role) string {
	if r == RoleOperator {
		return "an operator"
	}
	return "a " + string(r)
}

// bound cuts wanted scopes to what the member holds.
func (m *Member) bound(wanted []Scope) []Scope {
	var out []Scope
	for _, s := range m.scopes {
		if ScopesAllow(RoleOperator, []Scope{s}, wanted) {
			out = append(out, s)
		}
	}
	for _, s := range wanted {
		if ScopesAllow(RoleOperator, []Scope{s}, m.scopes) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Caller is the member as a caller in a role, at a door where who is calling needs no more proof. The
// door fills in which door it is.
func (m *Member) Caller(r Role) (Caller, error) {
	if !m.May(r) {
		return Caller{}, m.Refusal(r)
	}
	c := Caller{Role: r, Principal: m.Principal(), DisplayName: m.Who()}
	if r == RoleOperator {
		c.Scopes = slices.Clone(m.scopes)
	}
	return c, nil
}

// Members asks the tailnet again.
type Members interface {
	// Stands reports whether the tailnet still knows who a principal is, and the grants still name it.
	Stands(principal string) bool
}

// admit is what holds for whoever comes over the tailnet, whatever it presents: the role must be
// mapped, and no scope is beyond the mapping. Where the tailnet's word counts, an operator is its login,
// not a device; a node is its device, which tells it from the others of that login.
func (m *Member) admit(a *Attempt) error {
	switch {
	case !m.May(a.Role):
		return m.Refusal(a.Role)
	case a.Role == RoleNode && a.Device == nil:
		return ErrDeviceRequired
	}
	return nil
}
