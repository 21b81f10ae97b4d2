package runtime

import (
	"context"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/nodes/host/agent"
	"github.com/hanzoai/hanzod/nodes/host/checkpoints"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// sessionFile keeps what was said and run on a node, in its state directory.
const sessionFile = "session.log"

// checkpoints is what serves those of this machine. A restore writes where files may be written.
func (n *nodeHost) checkpoints() *checkpoints.Module {
	if err := checkpoint.Recover(workspaceOf(n.o)); err != nil {
		n.log.Error("what was in the workspace before a restore that was cut off could not be put back", "workspace", workspaceOf(n.o), "err", err)
	}
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
		Getenv: storeEnv,
		Settings: func() (s checkpoints.Settings) {
			if n.o.Current != nil {
				c := n.o.Current().NodeHost.Checkpoints
				s.Protocols, s.Limits.File, s.Limits.Archive = c.Protocols, c.MaxFileBytes, c.MaxBytes
			}
			return s
		},
		Instance: func() checkpoints.Instance {
			if n.o.Tunnel != nil {
				return checkpoints.Instance{
					ID: n.cfg.NodeID, DisplayName: n.cfg.DisplayName, Platform: agent.BridgePlatform(),
					Commands: hanzotunnel.BridgeFirst(n.host.Commands()), Capabilities: capsOf(n.o.Security),
				}
			}
			return checkpoints.Instance{DisplayName: n.cfg.DisplayName, Commands: n.host.Commands(), Capabilities: n.host.Caps()}
		},
	})
}

// storeEnv reads the variables of a store of checkpoints by the names that the bridge has for them (tunnel.md §1.15);
// those of ours count before them, and keys may stand in files.
func storeEnv(name string) string {
	ours := "HANZOD_" + name
	switch name {
	case "S3_ACCESS_KEY", "S3_SECRET_KEY":
		_, key, err := config.Environ(nil).Secret(ours)
		if err != nil {
			return "" // what needs the key says that there is none
		}
		return key.Reveal()
	case "S3_ENDPOINT_URL", "S3_BUCKET":
		return config.Environ(nil).Value(ours)
	}
	return os.Getenv(name)
}
