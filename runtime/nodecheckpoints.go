package runtime

import (
	"context"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/nodes/host/checkpoints"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// sessionFile keeps what was said and run on a node, in its state directory.
const sessionFile = "session.log"

// checkpoints is what serves those of this machine. A restore writes where files may be written.
func (n *nodeHost) checkpoints() *checkpoints.Module {
	return checkpoints.New(checkpoints.Config{
		Policy: n.file, Session: n.session, Env: runEnv, Log: n.log, Now: n.now,
		Dir: func() string {
			dir, err := filepath.Abs(workspaceOf(n.o))
			if err != nil {
				return workspaceOf(n.o)
			}
			return dir
		},
		Writable: func(ctx context.Context, dir string) error {
			e, err := n.offered.Stat(ctx, dir)
			if err == nil && !e.Writable {
				err = files.ErrReadOnly
			}
			return err
		},
		Getenv: os.Getenv,
		Instance: func() checkpoints.Instance {
			return checkpoints.Instance{DisplayName: n.cfg.DisplayName, Commands: n.host.Commands(), Capabilities: n.host.Caps()}
		},
	})
}
