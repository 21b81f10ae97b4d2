package runtime

import (
	"log/slog"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/config"
)

// safeBins are the filters that an agent runs unlisted on this machine, as the configuration says.
func (d *Daemon) safeBins(agentID string) policy.SafeBins {
	return safeBinsOf(d.current().SafeBins(agentID))
}

func safeBinsOf(c config.SafeBins) policy.SafeBins {
	out := policy.SafeBins{Bins: c.Bins, TrustedDirs: c.TrustedDirs}
	if out.Bins == nil {
		out.Bins = shell.DefaultSafeBins
	}
	if len(c.Profiles) > 0 {
		out.Profiles = make(map[string]shell.Profile, len(c.Profiles))
		for name, p := range c.Profiles {
			out.Profiles[name] = shell.Profile{
				MinPositional: p.MinPositional, MaxPositional: p.MaxPositional, AllowedValueFlags: p.AllowedValueFlags, DeniedFlags: p.DeniedFlags,
			}
		}
	}
	return out
}

// warnSafeBins says what of the configuration will have no effect.
func warnSafeBins(cfg *config.Config, log *slog.Logger) {
	for _, id := range cfg.AgentIDs() {
		b := safeBinsOf(cfg.SafeBins(id))
		for _, problem := range (shell.List{SafeBins: b.Bins, Profiles: b.Profiles}).SafeBinProblems() {
			log.Warn("an entry of tools.exec.safeBins has no effect", "agent", id, "why", problem)
		}
	}
}
