package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/secrets"
)

type secretsReloaded struct {
	OK           bool `json:"ok"`
	WarningCount int  `json:"warningCount"`
}

// SecretsReloadFromLegacy reads secrets.reload, whose parameters are ignored.
func SecretsReloadFromLegacy(wire.Value) (secrets.ReloadIn, error) { return secrets.ReloadIn{}, nil }

// SecretsReloadToLegacy writes the result of secrets.reload.
func SecretsReloadToLegacy(out secrets.ReloadOut) any { return secretsReloaded{true, out.Warnings} }

type secretsResolve struct {
	CommandName string   `json:"commandName"`
	TargetIDs   []string `json:"targetIds"`
}

type secretAssignment struct {
	Path         string            `json:"path"`
	PathSegments wire.List[string] `json:"pathSegments"`
	Value        string            `json:"value"`
}

type secretsResolved struct {
	OK               bool                        `json:"ok"`
	Assignments      wire.List[secretAssignment] `json:"assignments"`
	Diagnostics      wire.List[string]           `json:"diagnostics"`
	InactiveRefPaths wire.List[string]           `json:"inactiveRefPaths"`
}

// SecretsResolveFromLegacy reads secrets.resolve.
func SecretsResolveFromLegacy(p wire.Value) (secrets.ResolveIn, error) {
	var in secretsResolve
	if err := wire.Decode(p, &in); err != nil {
		return secrets.ResolveIn{}, err
	}
	return secrets.ResolveIn{Command: in.CommandName, Targets: in.TargetIDs}, nil
}

// SecretsResolveToLegacy writes the result of secrets.resolve: here the values leave the daemon.
func SecretsResolveToLegacy(out secrets.ResolveOut) any {
	r := secretsResolved{OK: true, Diagnostics: out.Diagnostics, InactiveRefPaths: out.Inactive}
	for _, a := range out.Assignments {
		r.Assignments = append(r.Assignments, secretAssignment{a.Path, a.Segments, a.Value.Reveal()})
	}
	return r
}
