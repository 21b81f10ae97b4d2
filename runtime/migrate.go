package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/migrate"
	"github.com/hanzoai/hanzod/store"
)

// MigrateIn says what is to be migrated.
type MigrateIn struct {
	// Legacy is the directory of the original: the source of an import, the target of an export.
	Legacy string
	// StateDir and Config are ours; LegacyConfig is the configuration file of the original when it is elsewhere.
	StateDir, Config, LegacyConfig string
	// Home is the home directory.
	Home     string
	Export   bool
	DryRun   bool
	Progress func(part string, done, total int64)
}

// MigrateOut is what a migration did, for people and as JSON.
type MigrateOut = migrate.Report

// Migrate imports a directory of the original into a state directory that no daemon uses, or exports it. The store
// of a dry run is a copy in a temporary directory.
func Migrate(ctx context.Context, in MigrateIn) (out MigrateOut, err error) {
	held, err := store.WhoHolds(in.StateDir)
	if err != nil {
		return out, fmt.Errorf("look for a running daemon: %w", err)
	}
	if held.Held {
		return out, store.ErrLocked.WithText(fmt.Sprintf("a daemon (pid %d) uses %s; stop it first: hanzod service stop, or Ctrl-C where it runs", held.PID, in.StateDir))
	}
	dir := in.StateDir
	if _, err := os.Stat(filepath.Join(dir, store.FileName)); errors.Is(err, os.ErrNotExist) && in.Export {
		return out, fmt.Errorf("there is no state of hanzod in %s; name its directory with --state-dir", dir)
	}
	if in.DryRun {
		var drop func() error
		if dir, drop, err = storeCopy(ctx, in.StateDir); err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, drop()) }()
	}
	st, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	opts := migrate.Options{
		Source: in.Legacy, Target: in.StateDir, Config: in.LegacyConfig, ConfigTo: in.Config, Home: in.Home, DryRun: in.DryRun, Now: time.Now,
	}
	if in.Progress != nil {
		opts.Progress = func(p migrate.Progress) { in.Progress(p.Part, p.Done, p.Total) }
	}
	if in.Export {
		opts.Source, opts.Target, opts.Config = in.StateDir, in.Legacy, in.Config
		return migrate.Export(ctx, st, opts)
	}
	return migrate.Import(ctx, st, opts)
}

// storeCopy copies the database of a state directory, where there is one, to a temporary directory.
func storeCopy(ctx context.Context, stateDir string) (dir string, drop func() error, err error) {
	if dir, err = os.MkdirTemp("", "hanzod-migrate-"); err != nil {
		return "", nil, err
	}
	drop = func() error { return os.RemoveAll(dir) }
	if _, err := os.Stat(filepath.Join(stateDir, store.FileName)); errors.Is(err, os.ErrNotExist) {
		return dir, drop, nil
	}
	f, err := os.OpenFile(filepath.Join(dir, store.FileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = store.SnapshotDir(ctx, stateDir, f, func(int64) error { return nil })
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return dir, drop, nil
}

// AbandonMigration ends an import that was cut off, with what it brought so far.
func AbandonMigration(stateDir string) error {
	release, err := store.Lock(stateDir)
	if err != nil {
		return err
	}
	return errors.Join(migrate.Abandon(stateDir), release())
}

// ErrMigrating is an import that was begun and did not end.
var ErrMigrating = errs.Define(errs.Conflict, "migrate.unfinished", "an import was begun and did not end")

// FinishedMigration fails with ErrMigrating when an import into a state directory was begun and did not end.
func FinishedMigration(stateDir string) error {
	source, err := migrate.Unfinished(stateDir)
	if err == nil && source != "" {
		err = ErrMigrating.WithText(fmt.Sprintf("an import of %s was begun and did not end; finish it: hanzod migrate %s (or end it with what it brought: hanzod migrate --abandon)", source, source))
	}
	return err
}
