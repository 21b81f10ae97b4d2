package host

import "context"

// SpawnOnly replaces the running of commands.
func (h *Host) SpawnOnly(fn func(argv []string, cwd string)) {
	h.spawn = func(_ context.Context, j job) outcome {
		fn(j.argv, j.cwd)
		zero := 0
		return outcome{ExitCode: &zero, Success: true}
	}
}

// BeforeSpawn is called when all checks but the last are done.
func (h *Host) BeforeSpawn(fn func()) { h.beforeSpawn = fn }
