package system

import (
	"slices"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func TestSessionFigures(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	yes, no := true, false
	for name, c := range map[string]struct {
		s       Session
		fresh   bool
		left    *int64
		percent int
	}{
		"nothing known": {Session{}, false, nil, -1},
		"no total":      {Session{Context: n(100)}, false, nil, -1},
		"old total":     {Session{Context: n(100), Total: n(10), TotalFresh: &no}, false, nil, -1},
		"fresh":         {Session{Context: n(200000), Total: n(1000), TotalFresh: &yes}, true, n(199000), 1},
		"rounded":       {Session{Context: n(200), Total: n(1)}, true, n(199), 1},
		"over":          {Session{Context: n(100), Total: n(100000)}, true, n(0), 999},
		"no window":     {Session{Context: n(0), Total: n(5)}, true, n(0), -1},
	} {
		left, percent := c.s.Remaining()
		if c.s.Fresh() != c.fresh || (left == nil) != (c.left == nil) || (left != nil && *left != *c.left) || (percent == nil) != (c.percent < 0) || (percent != nil && *percent != c.percent) {
			t.Errorf("%s: %v %v %v", name, c.s.Fresh(), left, percent)
		}
	}
	s := Session{Thinking: "low", Verbose: "on", Reasoning: "stream", Elevated: "ask", SystemSent: &yes, Aborted: &yes, ID: "x"}
	if got := s.Flags(); !slices.Equal(got, []string{"think:low", "verbose:on", "reasoning:stream", "elevated:ask", "system", "aborted", "id:x"}) {
		t.Error(got)
	}
	s = Session{SystemSent: &no, Aborted: &no, UpdatedAt: time.UnixMilli(5)}
	if got := s.Flags(); len(got) != 0 {
		t.Error(got)
	}
	if d, ok := s.Age(time.UnixMilli(3)); d != 0 || !ok {
		t.Error(d, ok)
	}
}

// What sessions are about is for admins alone.
func TestStatusIsRedacted(t *testing.T) {
	zero := func() int { return 0 }
	asked := 0
	s := New(Config{
		StateDir: "/s", ConfigPath: "/c", Socket: "/sock", Bus: events.New(time.Now), Now: time.Now, Presence: NewPresence(Presence{}, time.Now),
		Queue: &queue{events: []QueuedEvent{{Text: "one"}}},
		Facts: Facts{
			Connections: zero, NodesConnected: zero, NodesKnown: zero, ApprovalsPending: zero, Listen: func() []string { return nil },
			Agents: func() ([]Agent, string) { return []Agent{{ID: "main", SessionsPath: "/p"}}, "main" },
			Sessions: func(agent string, recent int) (int, []Session) {
				asked = recent
				return 7, []Session{{Key: "agent:" + agent + ":main"}}
			},
			Defaults: func(string) Defaults { return Defaults{Model: "m"} },
		},
	})
	admin := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}
	st, err := s.Status(t.Context(), admin)
	if err != nil || asked != statusSessions || st.Agents[0].SessionCount != 7 || len(st.Agents[0].Recent) != 1 || st.Agents[0].SessionsPath != "/p" || st.Defaults.Model != "m" ||
		st.StateDir != "/s" || !slices.Equal(st.QueuedEvents, []string{"one"}) {
		t.Errorf("%+v %v", st, err)
	}
	st, err = s.Status(t.Context(), identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}})
	if err != nil || st.Agents[0].SessionCount != 7 || st.Agents[0].Recent != nil || st.Agents[0].SessionsPath != "" || st.Defaults.Model != "" || st.StateDir != "" {
		t.Errorf("%+v %v", st, err)
	}
	h, err := s.Health(t.Context(), identity.Caller{}, true)
	if err != nil || asked != healthSessions || len(h.Agents[0].Recent) != 1 {
		t.Errorf("%+v %v", h, err)
	}
}
