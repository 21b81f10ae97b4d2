package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
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
type MigrateOut struct {
	migrate.Report
	// Clients are those that were paired, and whether hanzod lets them in. A dry run and an export have none.
	Clients []MigratedClient `json:"clients,omitzero"`
}

// MigratedClient is a device in one of its roles.
type MigratedClient struct {
	DeviceID string    `json:"deviceId"`
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	LastSeen time.Time `json:"lastSeen,omitzero"`
	// Connects is that its token lets it in; Why says why not.
	Connects bool   `json:"connects"`
	Why      string `json:"why,omitzero"`
}

// migratedClients asks the same code that decides about connections whether the token of each paired device lets it in.
func migratedClients(ctx context.Context, st *store.Store) ([]MigratedClient, error) {
	svc, err := identity.New(st, identity.Auth{Mode: identity.AuthToken}, nil, time.Now)
	if err != nil {
		return nil, err
	}
	devices, err := st.Devices()
	if err != nil {
		return nil, err
	}
	out := []MigratedClient{}
	for _, d := range devices {
		roles := slices.Sorted(maps.Keys(d.Tokens))
		if len(roles) == 0 {
			out = append(out, MigratedClient{DeviceID: d.ID, Name: cmp.Or(d.DisplayName, d.ClientID), Role: string(d.Role), Why: "it has no token: it connects with the shared one, or is paired again"})
		}
		for _, role := range roles {
			t := d.Tokens[role]
			c := MigratedClient{DeviceID: d.ID, Name: cmp.Or(d.DisplayName, d.ClientID), Role: string(role), LastSeen: t.LastUsedAt}
			who, err := svc.Bearer(ctx, t.Token, identity.Peer{})
			switch {
			case !t.RevokedAt.IsZero():
				c.Why = "its token was revoked"
			case err != nil:
				c.Why = err.Error()
			case who.DeviceID != d.ID || who.Role != role:
				c.Why = "its token is that of another device"
			default:
				c.Connects = true
			}
			out = append(out, c)
		}
	}
	return out, nil
}

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
	if !in.Export {
		// Looked at before anything is made.
		if info, err := os.Stat(in.Legacy); err != nil || !info.IsDir() {
			return out, migrate.ErrSource.WithText(in.Legacy + " is no directory that can be read; name the state directory: hanzod migrate DIR").Wrap(err)
		}
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
		out.Report, err = migrate.Export(ctx, st, opts)
		return out, err
	}
	if out.Report, err = migrate.Import(ctx, st, opts); err != nil || in.DryRun {
		return out, err
	}
	out.Clients, err = migratedClients(ctx, st)
	return out, err
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
