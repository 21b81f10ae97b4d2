package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/store"
)

const (
	// workDir is where a restore prepares the new state, within the state directory: so moving it into place
	// is renaming, also where that directory is a volume of its own.
	workDir = ".restore"
	newDir  = workDir + "/new"
	// planName is written when the new state is whole and verified. From then on the restore is finished by
	// whoever comes next; before, it never happened.
	planName = workDir + "/plan.json"
	// asidePrefix begins the directories that keep the state that a restore replaced.
	asidePrefix = "replaced-"
	// maxPlan bounds the plan in bytes.
	maxPlan = maxManifest
)

// ErrUnfinished is a restore that was cut off after its new state was whole.
var ErrUnfinished = errs.Define(errs.Conflict, "backup.unfinished", "a restore was cut off; \"hanzod run\" or \"hanzod restore\" finishes it")

// managed are the files that a state consists of. A restore moves them aside, also those that the backup does
// not hold; what else lies in the directory stays.
var managed = append([]string{store.FileName, store.FileName + ".new", "audit.head", "config.json"}, beside...)

// plan is what is left to do of a restore. Names have slashes and lie below the state directory.
type plan struct {
	// Aside is the directory for the old files.
	Aside string `json:"aside"`
	// New are the files to move from newDir/state, Old those that only go aside.
	New []string `json:"new"`
	Old []string `json:"old"`
	// Outside are the files of outside/, which are kept for people.
	Outside []string `json:"outside,omitempty"`
}

// RestoreIn says what is to be restored, and where.
type RestoreIn struct {
	Archive  io.Reader
	StateDir string
	Now      func() time.Time
	Log      *slog.Logger
	// DryRun does all but changing the state directory: the state is made and checked in a temporary one.
	DryRun bool
	// Progress may be nil.
	Progress func(done, all int64)
}

// RestoreOut says what was restored.
type RestoreOut struct {
	Manifest Manifest
	// Aside keeps the old files, "" when there were none; Moved are their names.
	Aside string
	Moved []string
	// Ended is what was open in the backup and is not any more.
	Ended Ended
	// Devices counts those that the restored store knows.
	Devices int
	// Outside is the directory with the files that belong elsewhere, "" without such files.
	Outside string
	// Schema is that of the restored database, which may be newer than that of the backup.
	Schema uint64
}

// Ended counts what a restore ended, since it might happen a second time.
type Ended struct{ Approvals, Grants, Runs, Invites int }

// Restore verifies a backup and puts it in the place of the state, whose old files it keeps beside it. It
// fails with store.ErrLocked while a daemon uses the directory. Ended at any moment, it leaves the old state,
// or the new one, which Finish then puts in place.
func Restore(ctx context.Context, in RestoreIn) (RestoreOut, error) {
	if in.DryRun {
		return dryRun(ctx, in)
	}
	var out RestoreOut
	if err := os.MkdirAll(in.StateDir, 0o700); err != nil {
		return out, err
	}
	release, err := store.Lock(in.StateDir)
	if err != nil {
		return out, err
	}
	defer func() { _ = release() }() // the process ends soon
	root, err := os.OpenRoot(in.StateDir)
	if err != nil {
		return out, err
	}
	defer root.Close()
	if _, err := finish(root); err != nil {
		return out, err
	}
	step()
	if err := root.RemoveAll(workDir); err != nil {
		return out, err
	}
	if err := root.MkdirAll(newDir, 0o700); err != nil {
		return out, err
	}
	fresh, err := root.OpenRoot(newDir)
	if err != nil {
		return out, err
	}
	defer fresh.Close()
	out, err = prepare(ctx, in, fresh, filepath.Join(in.StateDir, newDir))
	if err != nil {
		return out, errors.Join(err, root.RemoveAll(workDir))
	}
	step()
	p, err := planFor(root, out.Manifest, in.Now())
	if err != nil {
		return out, errors.Join(err, root.RemoveAll(workDir))
	}
	if err := writePlan(root, p); err != nil {
		return out, err
	}
	if out.Moved, err = apply(root, p); err != nil {
		return out, ErrUnfinished.Wrap(err)
	}
	if len(out.Moved) > 0 {
		out.Aside = filepath.Join(in.StateDir, p.Aside)
	}
	if len(p.Outside) > 0 {
		out.Outside = filepath.Join(in.StateDir, p.Aside+".outside")
	}
	return out, nil
}

func dryRun(ctx context.Context, in RestoreIn) (out RestoreOut, err error) {
	dir, err := os.MkdirTemp("", "hanzod-backup-")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return out, err
	}
	defer root.Close()
	out, err = prepare(ctx, in, root, dir)
	if err != nil || in.StateDir == "" {
		return out, err
	}
	state, err := os.OpenRoot(in.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer state.Close()
	p, err := planFor(state, out.Manifest, in.Now())
	if err != nil {
		return out, err
	}
	for _, name := range slices.Concat(p.New, p.Old) {
		if _, err := state.Lstat(filepath.FromSlash(name)); err == nil {
			out.Moved = append(out.Moved, name)
		}
	}
	return out, nil
}

// prepare extracts a backup, verifies it, and makes it fit to be used again.
func prepare(ctx context.Context, in RestoreIn, into *os.Root, dir string) (RestoreOut, error) {
	var out RestoreOut
	m, err := Read(ctx, in.Archive, into, func(m Manifest) error { return Room(dir, m.Total()) }, in.Progress)
	if err != nil {
		return out, err
	}
	out.Manifest = m
	state := filepath.Join(dir, strings.TrimSuffix(statePrefix, "/"))
	now := in.Now()
	log := in.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	st, err := store.Open(ctx, state, store.Options{
		Now: in.Now, Log: log,
		Audit: store.AuditLimits{MaxRows: 1 << 40, MaxBytes: 1 << 50}, // the daemon prunes, by its configuration
	})
	switch {
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrForeign):
		return out, bad("its database is damaged").Wrap(err)
	case errors.Is(err, store.ErrNewer):
		return out, ErrNewer.Wrap(err)
	case err != nil:
		return out, err
	}
	if err := reset(ctx, st, m, now, &out); err != nil {
		return out, errors.Join(err, st.Close())
	}
	if err := st.Close(); err != nil {
		return out, err
	}
	// Its lock is not part of it. That of the directory is, and goes on.
	if err := into.Remove(filepath.FromSlash(statePrefix + "hanzod.lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	return out, syncTree(into)
}

// reset checks a database and ends in it what could happen a second time.
func reset(ctx context.Context, st *store.Store, m Manifest, now time.Time, out *RestoreOut) error {
	if err := st.Check(ctx); err != nil {
		return bad("its database does not hold together").Wrap(err)
	}
	ends, err := st.AuditEnds()
	if err != nil {
		return err
	}
	exam, err := st.Examine(ctx)
	if err != nil {
		return err
	}
	out.Schema = exam.Schema
	if m.Schema == exam.Schema && m.AuditHead != "" && ends.Head.String() != m.AuditHead {
		return bad("its audit log ends at another row than its manifest says")
	}
	devices, err := st.Devices()
	if err != nil {
		return err
	}
	out.Devices = len(devices)
	if out.Ended.Runs, err = runs.EndRestored(ctx, st, now); err != nil {
		return err
	}
	if out.Ended.Invites, err = identity.EndRestored(ctx, st); err != nil {
		return err
	}
	ended, err := approvals.EndRestored(ctx, st, identity.Internal(), approvals.RestoredIn{
		At: now, Taken: m.Taken, Backup: m.AuditHead,
		Others: fmt.Sprintf("%d runs were lost, %d invites removed", out.Ended.Runs, out.Ended.Invites),
	})
	out.Ended.Approvals, out.Ended.Grants = ended.Approvals, ended.Grants
	return err
}

// planFor says which files move.
func planFor(root *os.Root, m Manifest, now time.Time) (plan, error) {
	p := plan{Aside: asidePrefix + now.UTC().Format("20060102T150405Z"), New: m.state()}
	p.New = append(p.New, "audit.head")
	ready, err := prepared(root)
	if err != nil {
		return p, err
	}
	named := make(map[string]bool, len(p.New))
	for _, name := range p.New {
		named[name] = true
	}
	for _, name := range ready {
		if !named[name] {
			p.New = append(p.New, name)
		}
	}
	for n := 1; ; n++ {
		if _, err := root.Lstat(p.Aside); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return p, err
		}
		p.Aside = fmt.Sprintf("%s%s-%d", asidePrefix, now.UTC().Format("20060102T150405Z"), n)
	}
	// What could not be moved must be known before the plan is made: after that, nothing goes back.
	for _, name := range p.New {
		if _, err := root.Lstat(filepath.FromSlash(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p, ErrFile.WithText(name + " of the present state is not where a restore can move it: make its directory a plain one").Wrap(err)
		}
	}
	for _, name := range managed {
		if slices.Contains(p.New, name) {
			continue
		}
		if _, err := root.Lstat(filepath.FromSlash(name)); err == nil {
			p.Old = append(p.Old, name)
		}
	}
	dirs, err := sessionDirs(root)
	if err != nil {
		return p, err
	}
	p.Old = append(p.Old, dirs...)
	for _, f := range m.Files {
		if rel, ok := strings.CutPrefix(f.Name, outPrefix); ok {
			p.Outside = append(p.Outside, rel)
		}
	}
	return p, nil
}

// writePlan makes the restore happen: once it is on disk, nothing goes back.
func writePlan(root *os.Root, p plan) error {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	tmp := planName + ".tmp"
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := errors.Join(syncDir(root, workDir), syncDir(root, ".")); err != nil {
		return err
	}
	step()
	if err := root.Rename(tmp, planName); err != nil {
		return err
	}
	step()
	return syncDir(root, workDir)
}

// apply moves the files. It may be cut off anywhere and done again: a file is moved aside only while its
// successor still waits.
func apply(root *os.Root, p plan) (moved []string, err error) {
	if err := root.MkdirAll(p.Aside, 0o700); err != nil {
		return nil, err
	}
	dirs := map[string]bool{".": true, p.Aside: true, workDir: true}
	away := func(name string) error {
		from, to := filepath.FromSlash(name), filepath.FromSlash(p.Aside+"/"+name)
		if _, err := root.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if err := root.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		dirs[path.Dir(p.Aside+"/"+name)], dirs[path.Dir(name)] = true, true
		step()
		return root.Rename(from, to)
	}
	for _, name := range p.Old {
		if _, err := root.Lstat(filepath.FromSlash(p.Aside + "/" + name)); err == nil {
			continue // what is in its place by now is new
		}
		if err := away(name); err != nil {
			return nil, err
		}
	}
	for _, name := range p.New {
		from := filepath.FromSlash(newDir + "/" + statePrefix + name)
		if _, err := root.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue // it is in its place
		} else if err != nil {
			return nil, err
		}
		if err := away(name); err != nil {
			return nil, err
		}
		if err := root.MkdirAll(filepath.FromSlash(path.Dir(name)), 0o700); err != nil {
			return nil, err
		}
		dirs[path.Dir(name)] = true
		step()
		if err := root.Rename(from, filepath.FromSlash(name)); err != nil {
			return nil, err
		}
	}
	for _, name := range p.Outside {
		from, to := filepath.FromSlash(newDir+"/"+outPrefix+name), filepath.FromSlash(p.Aside+".outside/"+name)
		if _, err := root.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, err
		}
		if err := root.Rename(from, to); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Concat(p.Old, p.New) {
		if _, err := root.Lstat(filepath.FromSlash(p.Aside + "/" + name)); err == nil {
			moved = append(moved, name)
		}
	}
	for dir := range dirs {
		if err := syncDir(root, dir); err != nil {
			return moved, err
		}
	}
	step()
	// The plan goes first: without it, the rest is a restore that never happened.
	if err := root.Remove(planName); err != nil {
		return moved, err
	}
	if err := syncDir(root, workDir); err != nil {
		return moved, err
	}
	step()
	if len(moved) == 0 {
		_ = root.Remove(p.Aside) // empty: there was no state before
	}
	return moved, root.RemoveAll(workDir)
}

// step is called before each change to a state directory. Tests end the restore there.
var step = func() {}

// Pending reports whether a restore of a state directory waits to be finished.
func Pending(stateDir string) bool {
	_, err := os.Lstat(filepath.Join(stateDir, filepath.FromSlash(planName)))
	return err == nil
}

// Finish ends a restore that was cut off after its new state was whole, and returns the directory with the
// old files. Without one it does nothing and returns "". It fails with store.ErrLocked while a daemon uses the
// directory.
func Finish(stateDir string) (aside string, err error) {
	if !Pending(stateDir) {
		return "", nil
	}
	release, err := store.Lock(stateDir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, release()) }()
	root, err := os.OpenRoot(stateDir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	p, err := finish(root)
	if err != nil || p.Aside == "" {
		return "", err
	}
	return filepath.Join(stateDir, p.Aside), nil
}

// finish does what is left of a restore.
func finish(root *os.Root) (plan, error) {
	var p plan
	f, err := root.Open(planName)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, ErrUnfinished.Wrap(err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPlan))
	if err := errors.Join(err, f.Close()); err != nil {
		return p, ErrUnfinished.Wrap(err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, ErrUnfinished.Wrap(err)
	}
	if !strings.HasPrefix(p.Aside, asidePrefix) || !filepath.IsLocal(p.Aside) {
		return p, ErrUnfinished.WithText(ErrUnfinished.Text + ": its plan names another directory")
	}
	for _, name := range slices.Concat(p.New, p.Old, p.Outside) {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return p, ErrUnfinished.WithText(ErrUnfinished.Text + ": its plan names files elsewhere")
		}
	}
	if _, err := apply(root, p); err != nil {
		return p, ErrUnfinished.Wrap(err)
	}
	return p, nil
}

// syncTree makes all files and directories of a new state durable.
func syncTree(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return syncDir(root, name)
		}
		f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// syncDir makes the entries of a directory durable. Windows has no way to; NTFS journals its entries.
func syncDir(root *os.Root, name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
