package live

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config"
)

// Effect is what a change of the configuration takes.
type Effect uint8

// The effects, from the least to the most.
const (
	EffectNone    Effect = iota // nothing that runs has to know
	EffectHot                   // it counts from the next use on, or what it concerns is told
	EffectRestart               // the daemon has to start anew
)

func (e Effect) String() string { return [...]string{"none", "hot", "restart"}[e] }

// effects is the reload table (control-plane.md §4 "Reload on file change"): the first prefix of a path
// decides, and what has none takes a restart. Beyond the original's table stand keys that hanzod reads at
// each use, where the original starts anew without need: see the row "config-reload" of the deviations.
var effects = []struct {
	prefix string
	effect Effect
}{
	{"gateway.remote", EffectNone}, {"gateway.reload", EffectNone}, {"diagnostics", EffectNone},
	{"gateway.channelHealthCheckMinutes", EffectHot}, {"gateway.nodes", EffectHot}, {"gateway.tools", EffectHot},
	{"gateway.marketplace", EffectNone}, {"gateway.requestRateLimit", EffectNone},
	{"hooks", EffectHot}, {"models", EffectHot}, {"agent", EffectHot}, {"cron", EffectHot}, {"browser", EffectHot},
	{"meta", EffectNone}, {"identity", EffectHot}, {"wizard", EffectNone},
	{"logging.file", EffectRestart}, {"logging.maxFileBytes", EffectRestart}, {"logging.consoleStyle", EffectRestart},
	{"logging", EffectHot}, {"audit", EffectHot}, {"checkpoints", EffectHot}, {"agents", EffectHot}, {"tools", EffectHot}, {"bindings", EffectHot},
	{"audio", EffectHot}, {"routing", EffectHot}, {"messages", EffectHot}, {"session", EffectHot},
	{"talk", EffectHot}, {"skills", EffectHot}, {"secrets", EffectHot}, {"ui", EffectHot},
	{"commands", EffectHot}, {"approvals", EffectHot}, {"memory", EffectHot}, {"broadcast", EffectHot}, {"auth", EffectHot},
	{"media", EffectHot}, {"acp", EffectHot}, {"update", EffectHot}, {"cli", EffectNone}, {"channels", EffectHot}, {"web", EffectHot},
	{"tunnel", EffectHot},
	{"nodeHost.chat", EffectHot}, {"nodeHost.dev", EffectHot}, {"nodeHost.commands", EffectHot}, {"nodeHost.checkpoints", EffectHot}, {"uplinks", EffectHot},
	{"$schema", EffectNone},
}

// EffectOf is what a change of one path takes.
func EffectOf(path string) Effect {
	for _, e := range effects {
		if within(path, e.prefix) {
			return e.effect
		}
	}
	return EffectRestart
}

// within reports whether a path is a prefix, or below it.
func within(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// Plan is what becomes of a change.
type Plan struct {
	// Changed are the paths whose values differ, sorted; at most maxChanged of them.
	Changed []string
	// Restart are those that take a restart.
	Restart []string
	Effect  Effect
	// Mode is gateway.reload.mode, which may keep a change from taking effect.
	Mode string
}

// maxChanged bounds the paths that a plan names.
const maxChanged = 1000

// planOf reads the table for what differs. mode is that of the new configuration.
func planOf(changed []string, mode string) Plan {
	p := Plan{Changed: changed, Mode: mode}
	for _, path := range changed {
		e := EffectOf(path)
		p.Effect = max(p.Effect, e)
		if e == EffectRestart {
			p.Restart = append(p.Restart, path)
		}
	}
	if len(p.Changed) > maxChanged {
		p.Changed = p.Changed[:maxChanged]
	}
	return p
}

// planBetween is the plan of a change from one configuration to another.
func planBetween(old, next *config.Config) Plan {
	changed := config.Changed(old, next)
	if old.CanvasHost != next.CanvasHost && !touches(changed, []string{"canvasHost"}) {
		changed = append(changed, "canvasHost.root") // it lies in the workspace of an agent, where nobody says
	}
	return planOf(changed, next.Gateway.Reload.Mode)
}

// touches reports whether one of the changed paths is at, below or above a prefix.
func touches(changed, prefixes []string) bool {
	return slices.ContainsFunc(changed, func(path string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return within(path, prefix) || within(prefix, path) })
	})
}
