package system

import (
	"context"
	"math"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// healthSessions and statusSessions are how many sessions an agent's summary names (control-plane.md §1).
	healthSessions = 5
	statusSessions = 10
	// maxPercent is the most that a session shows of what its model can look at (control-plane.md §1).
	maxPercent = 999
)

// Session is one session as status shows it. Texts that are empty and pointers that are nil are not known.
type Session struct {
	AgentID, Key, Kind, ID                 string
	UpdatedAt                              time.Time
	Thinking, Verbose, Reasoning, Elevated string
	SystemSent, Aborted                    *bool
	Input, Output, CacheRead, CacheWrite   *int64
	Total                                  *int64
	// TotalFresh says that Total is that of the last run.
	TotalFresh *bool
	Model      string
	// Context is how many tokens the model can look at.
	Context *int64
}

// Age is how long ago the session changed; ok is false when nobody knows.
func (s Session) Age(now time.Time) (age time.Duration, ok bool) {
	if s.UpdatedAt.IsZero() {
		return 0, false
	}
	return max(now.Sub(s.UpdatedAt), 0), true
}

// Fresh reports whether Total is there and that of the last run.
func (s Session) Fresh() bool { return s.Total != nil && (s.TotalFresh == nil || *s.TotalFresh) }

// Remaining is how many tokens are left, and Percent the share that is used; nil when nobody knows.
func (s Session) Remaining() (left *int64, percent *int) {
	if !s.Fresh() || s.Context == nil {
		return nil, nil
	}
	n := max(*s.Context-*s.Total, 0)
	if *s.Context <= 0 {
		return &n, nil
	}
	p := int(min(math.Floor(float64(*s.Total)/float64(*s.Context)*100+0.5), maxPercent))
	return &n, &p
}

// Flags are short texts for what is set otherwise than usual, in the order of the original.
func (s Session) Flags() []string {
	var out []string
	for _, f := range []struct{ name, value string }{
		{"think:", s.Thinking}, {"verbose:", s.Verbose}, {"reasoning:", s.Reasoning}, {"elevated:", s.Elevated},
	} {
		if f.value != "" {
			out = append(out, f.name+f.value)
		}
	}
	if s.SystemSent != nil && *s.SystemSent {
		out = append(out, "system")
	}
	if s.Aborted != nil && *s.Aborted {
		out = append(out, "aborted")
	}
	if s.ID != "" {
		out = append(out, "id:"+s.ID)
	}
	return out
}

// Defaults are what new sessions of the default agent start with; empty where nobody may know.
type Defaults struct {
	Model   string
	Context *int64
}

// agents are the configured agents with so many of their sessions.
func (s *Service) agents(recent int) ([]Agent, string) {
	agents, def := s.cfg.Facts.Agents()
	if s.cfg.Facts.Sessions == nil {
		return agents, def
	}
	out := make([]Agent, len(agents))
	for i, a := range agents {
		out[i] = a
		out[i].SessionCount, out[i].Recent = s.cfg.Facts.Sessions(a.ID, recent)
	}
	return out, def
}

// Status summarises the daemon. Paths and what sessions are about are for admins.
func (s *Service) Status(_ context.Context, c identity.Caller) (Status, error) {
	f := s.cfg.Facts
	agents, def := s.agents(statusSessions)
	st := Status{
		At: s.cfg.Now(), Version: s.cfg.Version, PID: s.pid, Uptime: s.Uptime(), AuthMode: s.cfg.AuthMode,
		Listen: f.Listen(), Connections: f.Connections(), NodesConnected: f.NodesConnected(),
		NodesKnown: f.NodesKnown(), ApprovalsPending: f.ApprovalsPending(),
		DefaultAgentID: def, Agents: agents, Admin: c.Has(identity.ScopeAdmin), HeartbeatsOn: true,
	}
	if f.Remote != nil {
		st.GRPCListen, st.TLSFingerprint = f.Remote()
	}
	if f.ConfigFault != nil {
		if st.ConfigFault = f.ConfigFault(); st.ConfigFault != "" && !st.Admin {
			st.ConfigFault = "the configuration file is not in use" // the reasons name files
		}
	}
	if f.ConfigPending != nil {
		st.ConfigPending = f.ConfigPending()
	}
	if f.PolicyFault != nil {
		st.PolicyFault = f.PolicyFault()
	}
	if f.HeartbeatsOn != nil {
		st.HeartbeatsOn = f.HeartbeatsOn()
	}
	if s.cfg.Queue != nil {
		queued, err := s.cfg.Queue.QueuedEvents(s.cfg.MainSession())
		if err != nil {
			return Status{}, err
		}
		for _, e := range queued {
			st.QueuedEvents = append(st.QueuedEvents, e.Text)
		}
	}
	if st.Admin {
		st.StateDir, st.ConfigPath, st.Socket = s.cfg.StateDir, s.cfg.ConfigPath, s.cfg.Socket
		if f.Defaults != nil {
			st.Defaults = f.Defaults(def)
		}
		return st, nil
	}
	st.Agents = make([]Agent, len(agents))
	for i, a := range agents {
		st.Agents[i] = a
		st.Agents[i].SessionsPath, st.Agents[i].Recent = "", nil
	}
	return st, nil
}
