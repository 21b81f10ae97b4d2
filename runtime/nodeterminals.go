package runtime

import (
	"context"
	"log/slog"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
	hostterminals "github.com/hanzoai/hanzod/nodes/host/terminals"
)

// terminalsEnd is how long the programs of terminals may take to end when a node host stops; they are killed then.
const terminalsEnd = 3 * time.Second

// hostTerminals are the terminals of this machine, opened in dir where a request names no directory; end ends
// them.
func hostTerminals(p host.Policy, dir string, log *slog.Logger) (m *hostterminals.Module, end func()) {
	m = hostterminals.New(hostterminals.Config{Policy: p, Env: runEnv, Dir: dir, Log: log})
	return m, func() {
		ctx, cancel := context.WithTimeout(context.Background(), terminalsEnd)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			log.Warn("the programs of some terminals did not end", "err", err)
		}
	}
}
