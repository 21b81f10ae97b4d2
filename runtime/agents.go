package runtime

import (
	"context"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
)

// makeAgents makes what answers for agents, their skills and models.
func (d *Daemon) makeAgents() {
	record := func(ctx context.Context, c identity.Caller, what string) error {
		return d.store.AppendAudit(ctx, approvals.Audit{At: d.now(), Kind: "agents", Subject: c.Subject(), Detail: what})
	}
	d.agents = agents.New(agents.Config{
		Current: d.current, File: d.live, Now: d.now, Record: record, Log: d.subsystem("agents"),
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
