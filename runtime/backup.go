package runtime

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system"
)

// BackupSource is what a backup of a state directory is made of while no daemon uses it. The configuration
// may be nil when it cannot be read: then its file alone goes in.
func BackupSource(stateDir, configPath string, cfg *config.Config) backup.Source {
	src := backup.Source{
		StateDir: stateDir, Config: configPath, Hanzod: Version, Now: time.Now,
		Snapshot: func(ctx context.Context, w io.Writer, room func(int64) error) (store.Snapshot, error) {
			return store.SnapshotDir(ctx, stateDir, w, room)
		},
	}
	if cfg != nil {
		src.Includes = cfg.Includes
	}
	return src
}

// backup writes a backup of this daemon, for the local operator and nobody else: it holds every secret.
func (d *Daemon) backup(ctx context.Context, c identity.Caller, w io.Writer, progress func(done, all int64)) error {
	if c.Door != identity.DoorGRPC || !c.Local || !c.Has(identity.ScopeAdmin) {
		return system.ErrBackupLocal
	}
	if !d.backingUp.TryLock() {
		return system.ErrBackupBusy
	}
	defer d.backingUp.Unlock()
	// What cannot be recorded does not leave, and the backup holds the row of itself.
	record, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	if err := d.store.AppendAudit(record, approvals.Audit{At: d.now(), Kind: "backup", Subject: c.Subject(), Detail: "a backup with all secrets was made"}); err != nil {
		return err
	}
	// The file may include others by now than when the daemon started.
	includes := d.cfg.Includes
	if cfg, err := config.Load(d.load); err == nil {
		includes = cfg.Includes
	}
	_, err := backup.Write(ctx, w, backup.Source{
		StateDir: d.cfg.StateDir, Config: d.cfg.Path, Includes: includes, Snapshot: d.store.Snapshot,
		Hold: d.store.Transcripts().Hold, Hanzod: Version, Running: true, Now: d.now,
	}, progress)
	return err
}

// FetchBackup writes a backup that the daemon of a state directory makes, asked over its socket.
func FetchBackup(ctx context.Context, stateDir string, w io.Writer, progress func(done, all int64)) error {
	c, err := client.Dial(ctx, client.Options{Socket: client.SocketPath(stateDir), ClientName: "hanzod"})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.System.Backup(ctx, &systemv1.BackupRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return err
		}
		progress(int64(m.GetDone()), int64(m.GetAll()))
	}
}
