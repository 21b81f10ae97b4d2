package identity

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var memberGrants = []MemberGrant{
	{Users: []string{"Ann@example.com"}, Role: RoleOperator, Scopes: []Scope{ScopeRead}},
	{Groups: []string{"group:ops"}, Role: RoleOperator, Scopes: []Scope{ScopeWrite, ScopeApprovals}},
	{Tags: []string{"tag:ci"}, Role: RoleOperator, Scopes: []Scope{ScopeRead}},
	{Tags: []string{"tag:worker"}, Role: RoleNode},
	{Users: []string{"tagged-devices", ""}, Role: RoleOperator, Scopes: []Scope{ScopeAdmin}},
}

func TestMap(t *testing.T) {
	for _, c := range []struct {
		name           string
		m              Member
		operator, node bool
		has, lacks     []Scope
		principal      string
	}{
		{"login", Member{Login: "ann@EXAMPLE.com"}, true, false, []Scope{ScopeRead}, []Scope{ScopeWrite, ScopeAdmin}, "tailnet:ann@EXAMPLE.com"},
		{"login and group", Member{Login: "ann@example.com", Groups: []string{"group:ops"}}, true, false, []Scope{ScopeRead, ScopeWrite, ScopeApprovals}, []Scope{ScopeAdmin}, "tailnet:ann@example.com"},
		{"another login", Member{Login: "bob@example.com"}, false, false, nil, []Scope{ScopeRead}, "tailnet:bob@example.com"},
		{"a login that holds another", Member{Login: "xann@example.com"}, false, false, nil, []Scope{ScopeRead}, "tailnet:xann@example.com"},
		{"tag", Member{Tags: []string{"tag:ci"}, Machine: "ci.x.ts.net"}, true, false, []Scope{ScopeRead}, []Scope{ScopeWrite}, "tailnet:tag:ci@ci.x.ts.net"},
		{"tags", Member{Tags: []string{"tag:ci", "tag:worker"}, Machine: "w"}, true, true, []Scope{ScopeRead}, nil, "tailnet:tag:ci,tag:worker@w"},
		{"tag with a login", Member{Login: "ann@example.com", Tags: []string{"tag:other"}, Machine: "o"}, false, false, nil, []Scope{ScopeRead}, "tailnet:tag:other@o"},
		{"a login like a tag", Member{Login: "tag:ci"}, false, false, nil, []Scope{ScopeRead}, "tailnet:tag:ci"},
		{"nobody", Member{Addr: "100.64.0.9"}, false, false, nil, []Scope{ScopeRead}, "tailnet:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Map(memberGrants, c.m)
			if m.May(RoleOperator) != c.operator || m.May(RoleNode) != c.node || m.May(RoleInvited) {
				t.Errorf("operator %v, node %v", m.May(RoleOperator), m.May(RoleNode))
			}
			if m.Principal() != c.principal {
				t.Errorf("it is %s", m.Principal())
			}
			caller, err := m.Caller(RoleOperator)
			if (err == nil) != c.operator {
				t.Error(err)
			}
			for _, s := range c.has {
				if !caller.Has(s) {
					t.Errorf("it lacks %s", s)
				}
			}
			for _, s := range c.lacks {
				if caller.Has(s) {
					t.Errorf("it has %s", s)
				}
			}
			if err != nil && (!errors.Is(err, ErrMember) || c.m.Login != "" && len(c.m.Tags) == 0 && !strings.Contains(err.Error(), c.m.Login)) {
				t.Errorf("the refusal is %q", err)
			}
		})
	}
}

func TestBound(t *testing.T) {
	held := func(scopes ...Scope) *Member {
		return Map([]MemberGrant{{Users: []string{"a"}, Role: RoleOperator, Scopes: scopes}}, Member{Login: "a"})
	}
	for _, c := range []struct {
		m      *Member
		wanted []Scope
		want   []Scope
	}{
		{held(ScopeRead), []Scope{ScopeAdmin}, []Scope{ScopeRead}},
		{held(ScopeRead), []Scope{ScopeWrite}, []Scope{ScopeRead}},
		{held(ScopeRead), []Scope{ScopeApprovals}, nil},
		{held(ScopeAdmin), []Scope{ScopeRead}, []Scope{ScopeRead}},
		{held(ScopeAdmin), []Scope{ScopeAdmin, ScopeRead}, []Scope{ScopeAdmin, ScopeRead}},
		{held(ScopeWrite), []Scope{ScopeRead}, []Scope{ScopeRead}},
		{held(ScopeAdmin), nil, nil},
		{held(), []Scope{ScopeAdmin}, nil},
	} {
		got := c.m.bound(c.wanted)
		if strings.Join(texts(got), ",") != strings.Join(texts(c.want), ",") {
			t.Errorf("%v of %v is %v, not %v", c.wanted, c.m.scopes, got, c.want)
		}
		if !ScopesAllow(RoleOperator, got, c.m.scopes) {
			t.Errorf("%v is beyond %v", got, c.m.scopes)
		}
	}
}

func texts(s []Scope) []string {
	var out []string
	for _, x := range s {
		out = append(out, string(x))
	}
	return out
}

type standing map[string]bool

func (s standing) Stands(p string) bool { return s[p] }

// A principal of the tailnet stands as long as the tailnet says so, others whatever it says.
func TestMemberStands(t *testing.T) {
	known := standing{"tailnet:ann": true}
	s := &Service{auth: Auth{Members: known}, now: time.Now}
	for principal, ok := range map[string]bool{"tailnet:ann": true, "tailnet:bob": false, "local:1000": true, "": true} {
		if err := s.Standing(Caller{Principal: principal}); (err == nil) != ok {
			t.Errorf("%q: %v", principal, err)
		}
	}
	s.auth.Members = nil
	if s.Standing(Caller{Principal: "tailnet:ann"}) == nil {
		t.Error("somebody of the tailnet stands while there is none")
	}
}

// Over the tailnet a token gives no more than the mapping, and nobody gets in with one alone.
func TestMemberBearer(t *testing.T) {
	s := &Service{auth: Auth{Mode: AuthToken, Secret: secretText("right")}, now: time.Now}
	s.makeLimits()
	from := func(m Member, counts bool) Peer {
		return Peer{Client: netip.MustParseAddr("100.64.0.9"), Member: Map(memberGrants, m), MemberCounts: counts}
	}
	ann, bob, worker := Member{Login: "ann@example.com"}, Member{Login: "bob@example.com"}, Member{Tags: []string{"tag:worker"}}
	for _, c := range []struct {
		name, token string
		from        Peer
		want        error
		scopes      int
	}{
		{"ann", "", from(ann, true), nil, 1},
		{"a page of ann", "", from(ann, false), ErrBearerRequired, 0},
		{"ann with the secret", "right", from(ann, true), nil, 1},
		{"ann with a wrong one", "wrong", from(ann, true), ErrBearerNotAccepted, 0},
		{"bob", "", from(bob, true), ErrMember, 0},
		{"bob with the secret", "right", from(bob, true), ErrMember, 0},
		{"a node", "", from(worker, true), ErrMember, 0},
		{"a node with the secret", "right", from(worker, true), ErrMember, 0},
	} {
		got, err := s.Bearer(context.Background(), c.token, c.from)
		if !errors.Is(err, c.want) || len(got.Scopes) != c.scopes || got.Has(ScopeWrite) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

type secretText string

func (s secretText) Equal(c string) bool { return string(s) == c }
