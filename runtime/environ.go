package runtime

import (
	"log/slog"
	"os"

	"github.com/hanzoai/hanzod/config"
)

// warnEnviron names the variables that look as if they were for hanzod and are not. Their values may be
// secrets under a wrong name, so they are not shown.
func warnEnviron(log *slog.Logger) {
	for _, s := range config.Strays(os.Environ()) {
		args := []any{"variable", s.Name, "help", "hanzod help environment"}
		if s.Meant != "" {
			args = append(args, "meant", s.Meant)
		}
		log.Warn("the environment has a variable that hanzod does not know, and that has no effect", args...)
	}
}
