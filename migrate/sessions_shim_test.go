package migrate

import (
	"os"

	"github.com/hanzoai/hanzod/config"
)

func testRun(source, target *os.Root, s Store, cfg *config.Config, noted *manifest) *run {
	return &run{source: source, target: target, store: s, config: cfg, last: *noted}
}
func saveNoted(r *run, noted *manifest) { *noted = r.last }
