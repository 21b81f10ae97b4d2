package live

import (
	"context"
	"errors"

	"github.com/hanzoai/hanzod/config"
)

// Secrets hears whether the secrets of the configuration could be read when it was read anew.
type Secrets interface {
	Failed(ctx context.Context, err error)
	Worked(ctx context.Context)
}

// SwapSecrets puts a configuration into force that differs from old in its secrets alone, as
// config.Config.Resolved makes it. Where a secret takes a restart, that is planned. It returns false, with
// nothing done, when old is not in force any more.
func (s *Service) SwapSecrets(old, fresh *config.Config) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Current() != old {
		return false
	}
	plan := planOf(rotated(old, fresh), old.Gateway.Reload.Mode)
	s.cur.Store(fresh)
	s.tellSubscribers(old, fresh, plan.Changed)
	if len(plan.Changed) == 0 {
		return true
	}
	s.cfg.Log.Info("other secrets are in force", "changed", plan.Changed)
	if plan.Effect == EffectRestart {
		// What the old secret let in ends with the restart.
		s.restart(RestartIn{Reason: "secrets changed"})
	}
	s.publish(plan.Changed, plan.Effect)
	return true
}

// rotated are the paths of secrets whose values differ.
func rotated(old, fresh *config.Config) []string {
	before := map[string]config.Secret{}
	for _, r := range old.SecretRefs {
		before[r.Path] = r.Value
	}
	var out []string
	for _, r := range fresh.SecretRefs {
		if r.Value.Reveal() != before[r.Path].Reveal() {
			out = append(out, r.Path)
		}
	}
	return out
}

// tellSecrets tells whoever wants to know whether secrets could be read.
func (s *Service) tellSecrets(ctx context.Context, err error) {
	if s.cfg.Secrets == nil {
		return
	}
	if invalid, ok := errors.AsType[*config.Invalid](err); ok && len(invalid.Unresolved) > 0 {
		s.cfg.Secrets.Failed(ctx, err)
	} else if err == nil {
		s.cfg.Secrets.Worked(ctx)
	}
}
