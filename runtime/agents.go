package runtime

import (
	"context"
	"errors"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

// makeAgents makes what answers for agents, their skills and models.
func (d *Daemon) makeAgents() {
	record := func(ctx context.Context, c identity.Caller, what string) error {
		return d.store.AppendAudit(ctx, approvals.Audit{At: d.now(), Kind: "agents", Subject: c.Subject(), Detail: what})
	}
	d.agents = agents.New(agents.Config{
		Current: d.current, File: d.live, Now: d.now, Record: record, DropSessions: d.dropSessions, Log: d.subsystem("agents"),
		Nodes: func() []agents.Node {
			var out []agents.Node
			for _, n := range d.nodes.Live() {
				out = append(out, agents.Node{ID: n.ID, Name: n.DisplayName})
			}
			return out
		},
	})
	d.skills = skills.New(skills.Config{Current: d.agents.Current, File: d.live, Now: d.now, Record: record, Log: d.subsystem("skills")})
	d.models = models.New(d.agents.Current)
}

// dropSessions removes every session of an agent. The daemon itself does: whoever may remove the agent may
// remove these.
func (d *Daemon) dropSessions(ctx context.Context, agentID string) error {
	own := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Local: true}
	var left []error
	for _, row := range d.sessions.All() {
		if row.Ref.AgentID != agentID {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := d.sessions.Delete(ctx, own, sessions.DeleteIn{Key: row.Ref.Key}); err != nil {
			left = append(left, err)
		}
	}
	return errors.Join(left...)
}
