// Package migrate brings a state directory of the original over to hanzod, and back.
//
// It may import leaves and domains, and declares what it needs of the store; cmd/hanzod reaches it through
// runtime. No daemon runs meanwhile: the caller holds the lock of the state directory. One goroutine calls Import or
// Export; both only ever read their source.
//
// # Rules
//
// What is imported is noted in migration.json of the state directory, by hash, so that an import can be repeated:
// what is as the last import left it follows the source, and what was changed here since stays, with a row in the
// report. An import that was cut off is begun again and passes over what is there already; until it has ended,
// Unfinished tells the daemon not to start on half of it. An export notes the same in the directory that it writes.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
)

// The errors of a migration. Faults of single things are rows of the report instead.
var (
	ErrSource = errs.Define(errs.Invalid, "migrate.source", "the directory to read is not there or cannot be read")
	ErrTarget = errs.Define(errs.Invalid, "migrate.target", "the directory to write cannot be used")
	ErrUnread = errs.Define(errs.Conflict, "migrate.unread", "migration.json cannot be read")
)

// Options say what is to be moved, and where.
type Options struct {
	// Source is the directory that is read: of the original for Import, the state directory of hanzod for Export.
	Source string
	// Target is the directory that is written: the state directory for Import, a new or empty directory, or one
	// that an export made, for Export.
	Target string
	// Config is the configuration file: of the original when it is not in its state directory, for Import; ours
	// when it is not in the state directory, for Export.
	Config string
	// ConfigTo is our configuration file, for Import.
	ConfigTo string
	// Home is the home directory, where the original keeps a few files whatever its state directory is
	// (config.md §1); "" looks for nothing there.
	Home string
	// DryRun says what would happen and writes nothing at all. The store is then a copy that goes away.
	DryRun bool
	// Progress hears how far it is, at most ten times a second; nil hears nothing.
	Progress func(Progress)
	// Now is the time that is written down.
	Now func() time.Time
}

// Progress is how far a migration is.
type Progress struct {
	Part        string // as in Finding
	Done, Total int64  // bytes
}

// Store is what a migration reads and writes of the store.
type Store interface {
	sessionStore
	Devices() ([]identity.Device, error)
	ChangeDevices(context.Context, func(identity.Tx) error) error
	Pairings() ([]nodes.PairingRequest, []nodes.Pairing, error)
	ReplacePairings(ctx context.Context, put []nodes.Pairing, remove []string) error
	Registrations() ([]nodes.Registration, error)
	ReplaceRegistrations(ctx context.Context, put []nodes.Registration, remove []string) error
	VoiceWake() ([]string, error)
	SetVoiceWake(context.Context, []string) error
	CronJobs() ([]cron.Job, error)
	CronRuns(cron.Find) ([]cron.Entry, int, error)
	WriteCron(context.Context, cron.Change) error
}

// run is one import or export under way.
type run struct {
	Options
	source *os.Root // never written to
	target *os.Root // nil in a dry run whose target is not there yet
	store  Store
	report Report
	// config is that of the source, of the state directory where it is exported; without a file, or with one that
	// does not hold, it is all defaults.
	config *config.Config
	// last are the notes of the target: what migrations into it wrote. imported are those of the state directory.
	last, imported manifest
	notesName      string // the file of last, in target
	pace           pace
}

// part is one kind of thing that is moved.
type part struct {
	name string
	in   func(context.Context, *run) error
	out  func(context.Context, *run) error
}

// parts are moved in this order: what lets clients in comes before what they work with, and the configuration last of
// all but sessions, which are most of it.
var parts = []part{
	{partDevices, importDevices, exportDevices},
	{partNodes, importNodes, exportNodes},
	{partPush, importPush, exportPush},
	{partVoiceWake, importVoiceWake, exportVoiceWake},
	{partApprovals, importApprovals, exportApprovals},
	{partCron, importCron, exportCron},
	{partFiles, importFiles, exportFiles},
	{partConfig, importConfig, exportConfig},
	{partSessions, importSessions, exportSessions},
}

// Import brings a directory of the original into the state directory whose store is open. What single things
// failed is in the report; an error ended the whole, and a second Import goes on from there.
func Import(ctx context.Context, st Store, opts Options) (Report, error) {
	return do(ctx, st, opts, manifestName, func(p part) func(context.Context, *run) error { return p.in })
}

// Export writes the state directory whose store is open as a directory of the original.
func Export(ctx context.Context, st Store, opts Options) (Report, error) {
	if err := exportable(opts.Target); err != nil {
		return Report{}, err
	}
	return do(ctx, st, opts, exportName, func(p part) func(context.Context, *run) error { return p.out })
}

func do(ctx context.Context, st Store, opts Options, notes string, way func(part) func(context.Context, *run) error) (Report, error) {
	began := opts.Now()
	r := &run{Options: opts, store: st, notesName: notes}
	r.report = Report{Source: opts.Source, Target: opts.Target, DryRun: opts.DryRun, Findings: []Finding{}}
	if err := r.open(); err != nil {
		return r.report, err
	}
	defer r.close()
	if !opts.DryRun {
		r.last.State, r.last.Source, r.last.At = stateImporting, opts.Source, began.UTC()
		if err := r.saveNotes(); err != nil {
			return r.report, err
		}
	}
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return r.report, err
		}
		f := way(p)
		if f == nil {
			continue
		}
		if err := f(ctx, r); err != nil {
			return r.report, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	r.report.Took = opts.Now().Sub(began)
	if opts.DryRun {
		return r.report, nil
	}
	r.last.State, r.last.Pending = stateDone, nil
	return r.report, r.saveNotes()
}

// open opens both directories and reads the notes. The target is made.
func (r *run) open() (err error) {
	if err := apart(r.Source, r.Target); err != nil {
		return err
	}
	if st, err := os.Stat(r.Source); err != nil || !st.IsDir() {
		return ErrSource.WithText(fmt.Sprintf("%s is no directory that can be read; name the state directory: hanzod migrate DIR", r.Source)).Wrap(err)
	}
	if r.source, err = os.OpenRoot(r.Source); err != nil {
		return ErrSource.WithText(fmt.Sprintf("%s cannot be read: run this as its owner", r.Source)).Wrap(err)
	}
	if !r.DryRun {
		if err := os.MkdirAll(r.Target, 0o700); err != nil {
			return errors.Join(ErrTarget.WithText(fmt.Sprintf("%s cannot be made", r.Target)).Wrap(err), r.source.Close())
		}
	}
	if r.target, err = os.OpenRoot(r.Target); err != nil && (!r.DryRun || !errors.Is(err, fs.ErrNotExist)) {
		return errors.Join(ErrTarget.WithText(fmt.Sprintf("%s cannot be opened", r.Target)).Wrap(err), r.source.Close())
	} else if err != nil {
		r.target = nil
	}
	r.config = r.load()
	if r.last, err = readManifest(r.target, r.notesName); err == nil {
		r.imported, err = readManifest(r.source, manifestName)
	}
	if err != nil {
		r.close()
	}
	return err
}

func (r *run) close() {
	_ = r.source.Close() // only read
	if r.target != nil {
		_ = r.target.Close() // each file was synced
	}
}

// apart refuses directories of which one is in the other: copying would not end.
func apart(source, target string) error {
	resolve := func(dir string) string {
		rest := ""
		for { // what is there of it, links followed
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				return filepath.Join(real, rest)
			}
			up := filepath.Dir(dir)
			if up == dir {
				return filepath.Join(dir, rest)
			}
			dir, rest = up, filepath.Join(filepath.Base(dir), rest)
		}
	}
	s, t := resolve(source), resolve(target)
	if s == t || within(s, t) || within(t, s) {
		return ErrTarget.WithText(fmt.Sprintf("%s and %s are in one another; name a directory beside", source, target))
	}
	return nil
}

// within reports whether a path is in a directory.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// exportable refuses a directory that holds something that no export wrote.
func exportable(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ErrTarget.WithText(fmt.Sprintf("%s cannot be read", dir)).Wrap(err)
	}
	if len(names) == 0 {
		return nil
	}
	if st, err := os.Lstat(filepath.Join(dir, exportName)); err == nil && st.Mode().IsRegular() {
		return nil
	}
	return ErrTarget.WithText(fmt.Sprintf("%s holds something that no export wrote; name a new directory", dir))
}
