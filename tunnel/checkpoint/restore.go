package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Errors of a restore.
var (
	// ErrRefused is a workspace that is not restored into; nothing was changed.
	ErrRefused = errs.Define(errs.Conflict, "checkpoint.refused", "the checkpoint is not restored here")
	// ErrStep is a step that failed; what was there before is there again when the report says so.
	ErrStep = errs.Define(errs.Conflict, "checkpoint.step", "the checkpoint could not be restored")
)

// RestoreOptions of Restore. Dir and Document are required, and Open when the document has attachments.
type RestoreOptions struct {
	Dir      string
	Document *Document
	// Open opens the plain content of an attachment.
	Open Opener
	// Force replaces what is in the directory, whatever it is: it is deleted once the checkpoint stands.
	Force bool
	// DryRun looks and checks, and changes nothing.
	DryRun bool
	// Allow is asked before git is run for the restore. An error refuses.
	Allow func(argv []string) error
	// Protocols are those of remotes, the package's when nil.
	Protocols []string
	// FetchTime bounds what comes from a remote, 10 minutes when zero; that of a document of the bridge has 60 s.
	FetchTime time.Duration
	Limits    Limits
	Temp      string
	Env       []string
	Progress  func(Step)
}

// Report says what became of each step, in order.
type Report struct {
	Steps []Step `json:"steps"`
	// RolledBack says that what was there before a failed step is there again.
	RolledBack bool `json:"rolledBack"`
	DryRun     bool `json:"dryRun"`
	// Notes are those of the checkpoint: what it does not hold.
	Notes []string `json:"notes,omitempty"`
}

// Failed returns the step that failed, or nil.
func (r *Report) Failed() *Step {
	for i := range r.Steps {
		if r.Steps[i].State == StepFailed {
			return &r.Steps[i]
		}
	}
	return nil
}

// one restore at a time: two in the same directory would undo each other.
var one sync.Mutex

// Restore makes a workspace of a checkpoint. Nothing is changed unless the directory is empty, a repository without
// changes, or o.Force is set, and every attachment has its checksum. The report is there with an error too: ErrRefused,
// ErrDocument and its relatives, or ErrStep. A repository without changes keeps what git ignores in it, its other
// branches and its stashes.
func Restore(ctx context.Context, o RestoreOptions) (*Report, error) {
	one.Lock()
	defer one.Unlock()
	if o.Progress == nil {
		o.Progress = func(Step) {}
	}
	if o.FetchTime <= 0 {
		o.FetchTime = workTime
	}
	if o.Allow == nil {
		o.Allow = func([]string) error { return nil }
	}
	if o.Limits.File <= 0 {
		o.Limits.File = o.Limits.orDefault().Archive // who saved it may have allowed more than is usual
	}
	r := &restore{o: o, d: o.Document, x: o.Document.Hanzo, report: &Report{DryRun: o.DryRun}, limits: o.Limits.orDefault()}
	if r.x == nil || r.x.Kind == KindNone {
		r.x = nil
	} else {
		r.report.Notes = r.x.Notes
	}
	err := r.all(ctx)
	return r.report, err
}

type restore struct {
	o      RestoreOptions
	d      *Document
	x      *Extension // nil for what version 1 alone holds
	git    *git
	limits Limits
	report *Report
	got    *Checkpoint // the attachments
	root   *os.Root

	state  dirState
	undo   func() error // puts back what was there
	done   func() error // ends what undo needs
	remote string
}

type dirState int

const (
	dirEmpty dirState = iota
	dirClean          // a repository without changes
	dirOther
)

// step runs one of the restore and keeps what became of it.
func (r *restore) step(name string, run func() (string, error)) error {
	r.o.Progress(Step{Name: name, State: StepRunning})
	detail, err := run()
	s := Step{Name: name, State: StepOK, Detail: detail}
	switch {
	case err != nil:
		s.State, s.Detail = StepFailed, err.Error()
	case strings.HasPrefix(detail, skippedMark):
		s.State, s.Detail = StepSkipped, strings.TrimPrefix(detail, skippedMark)
	}
	r.report.Steps = append(r.report.Steps, s)
	r.o.Progress(s)
	return err
}

// skippedMark begins what a step says that had nothing to do.
const skippedMark = "\x00"

func (r *restore) all(ctx context.Context) (err error) {
	if err := r.step("preflight", func() (string, error) { return r.preflight(ctx) }); err != nil {
		return ErrRefused.Wrap(err)
	}
	if r.x != nil {
		if err := r.step("attachments", func() (string, error) { return r.fetch(ctx) }); err != nil {
			if e, ok := errs.As(err); ok && e.Code == ErrDocument.Code {
				return err
			}
			return ErrRefused.Wrap(err)
		}
		defer r.got.Close()
	}
	if r.o.DryRun {
		return nil
	}
	var steps []func(context.Context) error
	switch {
	case r.x == nil && !r.named():
		return r.step("workspace", func() (string, error) { return skippedMark + "the checkpoint has none", nil })
	case r.x == nil:
		steps = []func(context.Context) error{r.first}
	case r.x.Kind == KindDirectory:
		steps = []func(context.Context) error{r.unpack, r.verifyDirectory}
	default:
		steps = []func(context.Context) error{r.base, r.checkout, r.staged, r.removed, r.unpack, r.marks, r.stashes, r.verify}
	}
	if r.root, err = os.OpenRoot(r.o.Dir); err != nil {
		return ErrRefused.Wrap(err)
	}
	defer r.root.Close()
	if err := r.begin(ctx); err != nil {
		return ErrRefused.Wrap(err)
	}
	for _, run := range steps {
		if err = run(ctx); err != nil {
			break
		}
	}
	if err != nil {
		undone := r.undo()
		r.report.RolledBack = undone == nil
		if undone != nil {
			r.report.Steps = append(r.report.Steps, Step{"rollback", StepFailed, undone.Error()})
		} else {
			r.report.Steps = append(r.report.Steps, Step{"rollback", StepOK, "what was there before is there again"})
		}
		if ctx.Err() != nil {
			return ErrStep.Wrap(ctx.Err())
		}
		return ErrStep.Wrap(err)
	}
	return r.done()
}

// preflight decides whether there may be a restore.
func (r *restore) preflight(ctx context.Context) (string, error) {
	info, err := os.Lstat(r.o.Dir)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		info, err = os.Stat(r.o.Dir)
	}
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", r.o.Dir)
	}
	if r.x != nil && r.x.Encryption != "" {
		return "", errors.New("it is encrypted: restore it through the daemon that holds the key")
	}
	if r.o.DryRun {
		// It changes nothing, and sees what a restore that was cut off left.
	} else if err := Recover(r.o.Dir); err != nil {
		return "", fmt.Errorf("what an earlier restore left cannot be put back: %w", err)
	}
	if r.x == nil && !r.named() {
		return "the checkpoint has no workspace", nil
	}
	needsGit := r.x == nil || r.x.Kind == KindGit
	r.remote = r.d.Workspace.RemoteURL
	if needsGit {
		if r.git, err = newGit(r.o.Dir, r.o.Env, r.o.Protocols); err != nil {
			return "", err
		}
		if err := r.o.Allow(r.argv()); err != nil {
			return "", err
		}
		if r.x == nil || len(r.x.Needs) > 0 {
			if err := checkRemote(r.remote, r.o.Protocols); err != nil {
				return "", err
			}
		}
		if r.x == nil {
			if err := checkRef(r.d.Workspace.Branch); err != nil {
				return "", err
			}
		}
	}
	r.state, err = lookAt(ctx, r.o.Dir, r.o.Env)
	if err != nil {
		return "", err
	}
	what := map[dirState]string{dirEmpty: "the directory is empty", dirClean: "the repository has no changes", dirOther: "what is there is replaced"}[r.state]
	if r.state == dirClean && r.x != nil && (r.x.Kind != KindGit || r.x.Head == "") {
		r.state = dirOther
	}
	if r.state == dirOther && !r.o.Force {
		return "", errors.New("the workspace is not empty and not a repository without changes; commit or move what is there, or force the restore, which replaces it")
	}
	return what, nil
}

// named tells whether a document of version 1 says where its repository is.
func (r *restore) named() bool { return r.d.Workspace.RemoteURL != "" && r.d.Workspace.Branch != "" }

// argv is the command that stands for the restore before the policy of the machine.
func (r *restore) argv() []string {
	if r.remote == "" || r.x != nil && len(r.x.Needs) == 0 {
		return []string{"git", "init", "."}
	}
	branch := r.d.Workspace.Branch
	if branch == "" {
		return []string{"git", "clone", "--", r.remote, "."}
	}
	return []string{"git", "clone", "--depth=1", "-b", branch, "--", r.remote, "."}
}

// lookAt says what is in a directory.
func lookAt(ctx context.Context, dir string, env []string) (dirState, error) {
	f, err := os.Open(dir)
	if err != nil {
		return dirOther, err
	}
	names, err := f.Readdirnames(1)
	_ = f.Close() // only read
	if len(names) == 0 {
		if errors.Is(err, io.EOF) {
			return dirEmpty, nil
		}
		return dirOther, err
	}
	// A .git file leads to a repository elsewhere, which is not ours to move.
	if info, err := os.Lstat(filepath.Join(dir, ".git")); err != nil || !info.IsDir() {
		return dirOther, nil //nolint:nilerr // no repository is an answer
	}
	g, err := newGit(dir, env, nil)
	if err != nil {
		return dirOther, err
	}
	if err := g.fence(ctx); err != nil {
		return dirOther, err
	}
	top, err := g.ask(ctx, askTime, "rev-parse", "--show-toplevel")
	if err != nil || !sameDir(strings.TrimSuffix(top, "\n"), dir) {
		return dirOther, nil //nolint:nilerr // git says that it is none
	}
	out, err := g.ask(ctx, workTime, "status", "--porcelain=v2", "-z", "--untracked-files=normal", "--ignore-submodules=dirty")
	if err != nil || out != "" || g.text(ctx, askTime, "rev-parse", "-q", "--verify", "HEAD^{commit}") == "" {
		return dirOther, nil //nolint:nilerr // as above
	}
	return dirClean, nil
}

// fetch brings the attachments here and looks through them.
func (r *restore) fetch(ctx context.Context) (string, error) {
	c, err := newCheckpoint(r.o.Temp)
	if err != nil {
		return "", err
	}
	r.got = c
	var total int64
	for _, a := range r.x.Attachments {
		in, err := r.o.Open(ctx, a)
		if err != nil {
			_ = c.Close()
			return "", fmt.Errorf("the attachment %s: %w", a.Name, err)
		}
		err = c.keep(a.Name, &contextReader{ctx, Verify(in, a.Size, a.SHA256, a.Name)})
		_ = in.Close() // only read
		if err != nil {
			_ = c.Close()
			return "", err
		}
		total += a.Size
	}
	if err := r.entries(ctx, func(entry, io.Reader) error { return nil }); err != nil {
		_ = c.Close()
		return "", err
	}
	if len(r.x.Attachments) == 0 {
		return skippedMark + "there are none", nil
	}
	return fmt.Sprintf("%d with %d bytes, each with its checksum", len(r.x.Attachments), total), nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// entries goes through the archived files.
func (r *restore) entries(ctx context.Context, visit func(entry, io.Reader) error) error {
	if _, ok := r.d.Attachment(AttachFiles); !ok {
		return nil
	}
	f, err := os.Open(filepath.Join(r.got.dir, AttachFiles))
	if err != nil {
		return err
	}
	defer f.Close()
	return walkArchive(ctx, f, r.limits, visit)
}

// begin makes sure that there is a way back.
func (r *restore) begin(ctx context.Context) error {
	if r.state == dirClean {
		return r.beginClean(ctx)
	}
	// What is there goes into a directory of the workspace itself: the same file system, and renames alone.
	temp, err := os.MkdirTemp(r.o.Dir, workPrefix+"*")
	if err != nil {
		return err
	}
	old := filepath.Join(temp, "old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(temp, "lock"))
	if err != nil {
		return err
	}
	r.undo = func() error { return putBack(r.o.Dir, temp, unlock) }
	if err := moveAll(r.o.Dir, old, filepath.Base(temp)); err != nil {
		return errors.Join(err, r.undo())
	}
	r.done = func() error {
		unlock()
		return os.RemoveAll(temp)
	}
	return nil
}

// moveAll renames what is in one directory into another, but for one name.
func moveAll(from, to, but string) error {
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name() == but {
			continue
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// putBack takes away what a restore made and puts back what was there. What was not moved yet when moving failed has
// its name in no other place and stays.
func putBack(dir, temp string, unlock func()) error {
	defer unlock()
	old := filepath.Join(temp, "old")
	if _, err := os.Stat(filepath.Join(temp, "moved")); err == nil {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.Name() != filepath.Base(temp) {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	if err := moveAll(old, dir, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unlock() // open files cannot be removed everywhere
	return os.RemoveAll(temp)
}

// Recover puts back what was in a directory before a restore that was cut off, as by a crash. While another process
// restores there it fails and changes nothing. Into a repository without changes a restore goes step by step; there
// ORIG_HEAD names the commit from before.
func Recover(dir string) error {
	left, err := filepath.Glob(filepath.Join(globQuote(dir), workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, temp := range left {
		if info, err := os.Lstat(temp); err != nil || !info.IsDir() {
			continue
		}
		unlock, err := lock(filepath.Join(temp, "lock"))
		if err != nil {
			return fmt.Errorf("another restore is under way there: %w", err)
		}
		err = putBack(dir, temp, unlock)
		if err != nil {
			return err
		}
	}
	return nil
}

func globQuote(s string) string {
	if filepath.Separator == '\\' {
		return s
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// beginClean remembers where a repository without changes stands. ORIG_HEAD leads back after a crash.
func (r *restore) beginClean(ctx context.Context) error {
	g := r.git
	if err := g.fence(ctx); err != nil {
		return err
	}
	head, err := g.ask(ctx, askTime, "rev-parse", "--verify", "HEAD^{commit}")
	if err != nil {
		return err
	}
	head = strings.TrimSpace(head)
	if format := g.text(ctx, askTime, "rev-parse", "--show-object-format"); r.x != nil && format != r.x.ObjectFormat {
		return fmt.Errorf("the repository here has %s, that of the checkpoint %s; restore into an empty directory", format, r.x.ObjectFormat)
	}
	branch := g.text(ctx, askTime, "symbolic-ref", "-q", "HEAD")
	refs, err := g.ask(ctx, askTime, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads")
	if err != nil {
		return err
	}
	before := map[string]string{}
	for _, line := range nonEmptyLines(strings.TrimSpace(refs)) {
		oid, name, _ := strings.Cut(line, " ")
		before[name] = oid
	}
	known, err := g.ask(ctx, workTime, "ls-files", "-z")
	if err != nil {
		return err
	}
	mine := map[string]bool{}
	for _, name := range split0(known) {
		mine[name] = true
	}
	// What git ignores here stays as it is.
	var made []string
	if r.x != nil {
		if err := r.entries(ctx, func(e entry, _ io.Reader) error {
			if _, err := r.root.Lstat(filepath.FromSlash(e.name)); err == nil && !mine[e.name] && !r.o.Force && e.kind != tar.TypeDir {
				return fmt.Errorf("%s is here already, and git ignores it; move it away, or force the restore", e.name)
			}
			if !mine[e.name] {
				made = append(made, e.name)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if _, err := g.ask(ctx, askTime, "update-ref", "ORIG_HEAD", head); err != nil {
		return err
	}
	stashes := g.stashes(ctx)
	r.undo = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTime)
		defer cancel()
		p := &place{root: r.root, dirs: map[string]bool{}}
		for _, name := range made {
			if err := p.remove(name); err != nil {
				return err
			}
		}
		for range max(len(g.stashes(ctx))-len(stashes), 0) {
			if _, err := g.ask(ctx, askTime, "stash", "drop", "-q"); err != nil {
				return err
			}
		}
		if _, err := g.ask(ctx, askTime, "update-ref", "--no-deref", "HEAD", head); err != nil {
			return err
		}
		refs, err := g.ask(ctx, askTime, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads")
		if err != nil {
			return err
		}
		for _, line := range nonEmptyLines(strings.TrimSpace(refs)) {
			oid, name, _ := strings.Cut(line, " ")
			if before[name] == "" {
				if _, err := g.ask(ctx, askTime, "update-ref", "-d", name); err != nil {
					return err
				}
			} else if oid != before[name] {
				if _, err := g.ask(ctx, askTime, "update-ref", name, before[name]); err != nil {
					return err
				}
			}
		}
		if _, err := g.ask(ctx, workTime, "reset", "-q", "--hard", head); err != nil {
			return err
		}
		if branch != "" {
			_, err = g.ask(ctx, askTime, "symbolic-ref", "HEAD", branch)
		}
		return err
	}
	r.done = func() error { return nil }
	return nil
}

func (g *git) stashes(ctx context.Context) []string {
	if g.text(ctx, askTime, "rev-parse", "-q", "--verify", "refs/stash") == "" {
		return nil
	}
	out, err := g.ask(ctx, askTime, "log", "-g", "--format=%H", "refs/stash", "--")
	if err != nil {
		return nil
	}
	return nonEmptyLines(strings.TrimSpace(out))
}

// fresh makes an empty repository, in which nothing of a template runs.
func (r *restore) fresh(ctx context.Context) error {
	if err := r.mark(); err != nil {
		return err
	}
	args := []string{"init", "-q", "--template="}
	if r.x.ObjectFormat == "sha256" {
		args = append(args, "--object-format=sha256")
	}
	if r.x.Branch != "" {
		args = append(args, "--initial-branch="+r.x.Branch)
	}
	if _, err := r.git.ask(ctx, askTime, append(args, ".")...); err != nil {
		return err
	}
	for name, value := range r.x.Settings {
		if _, err := r.git.ask(ctx, askTime, "config", "--local", name, value); err != nil {
			return err
		}
	}
	if checkRemote(r.remote, r.o.Protocols) == nil {
		if _, err := r.git.ask(ctx, askTime, "remote", "add", "--", "origin", r.remote); err != nil {
			return err
		}
	}
	if len(r.x.Shallow) > 0 {
		if err := r.root.WriteFile(filepath.Join(".git", "shallow"), []byte(strings.Join(r.x.Shallow, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	exclude := r.x.Exclude
	if err := r.root.MkdirAll(filepath.Join(".git", "info"), 0o777); err != nil {
		return err
	}
	return r.root.WriteFile(filepath.Join(".git", "info", "exclude"), []byte(exclude), 0o644)
}

// mark says that everything in the directory beside what was put aside is of the restore.
func (r *restore) mark() error {
	left, err := filepath.Glob(filepath.Join(globQuote(r.o.Dir), workPrefix+"*"))
	if err != nil || len(left) != 1 {
		return errors.Join(err, errors.New("what was there before is not put aside"))
	}
	return os.WriteFile(filepath.Join(left[0], "moved"), nil, 0o600)
}

// base gets the commits: those that the bundle needs from the remote, then the bundle.
func (r *restore) base(ctx context.Context) error {
	return r.step("base", func() (string, error) {
		if r.state != dirClean {
			if err := r.fresh(ctx); err != nil {
				return "", err
			}
		}
		var said []string
		if missing := r.missing(ctx, r.x.Needs); len(missing) > 0 {
			from := "--"
			args := []string{"fetch", "-q", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", from, r.remote, "+refs/heads/*:refs/remotes/origin/*"}
			if r.state == dirClean && bare(r.git.text(ctx, askTime, "remote", "get-url", "origin")) != r.remote {
				args[len(args)-1] = "+refs/heads/*:refs/hanzo/fetched/*"
			}
			if err := r.git.run(ctx, r.o.FetchTime, nil, io.Discard, args...); err != nil {
				if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
					return "", fmt.Errorf("the remote %s did not answer within %s", bare(r.remote), r.o.FetchTime)
				}
				return "", err
			}
			if missing = r.missing(ctx, r.x.Needs); len(missing) > 0 {
				return "", fmt.Errorf("the remote %s has the commit %s no more, on which the checkpoint builds", bare(r.remote), missing[0])
			}
			said = append(said, "fetched from "+bare(r.remote))
		}
		if a, ok := r.d.Attachment(AttachBundle); ok {
			if _, err := r.git.ask(ctx, workTime, "bundle", "unbundle", filepath.Join(r.got.dir, AttachBundle)); err != nil {
				return "", err
			}
			said = append(said, fmt.Sprintf("bundle of %d bytes", a.Size))
		}
		var want []string
		if r.x.Head != "" {
			want = append(want, r.x.Head)
		}
		for _, b := range slices.Concat(r.x.Branches, r.x.Stashes) {
			want = append(want, b.Commit)
		}
		if missing := r.missing(ctx, want); len(missing) > 0 {
			return "", fmt.Errorf("the commit %s is neither in the checkpoint nor at its remote", missing[0])
		}
		if len(said) == 0 {
			return skippedMark + "every commit is here", nil
		}
		return strings.Join(said, ", "), nil
	})
}

// missing returns which commits are not here.
func (r *restore) missing(ctx context.Context, commits []string) []string {
	if len(commits) == 0 {
		return nil
	}
	out, err := r.git.feed(ctx, workTime, strings.NewReader(strings.Join(commits, "\n")+"\n"), "cat-file", "--batch-check=%(objectname) %(objecttype)")
	if err != nil {
		return commits
	}
	var missing []string
	for i, line := range nonEmptyLines(strings.TrimSpace(out)) {
		if !strings.HasSuffix(line, " commit") && i < len(commits) {
			missing = append(missing, commits[i])
		}
	}
	return missing
}

// checkout sets the branches and what is checked out.
func (r *restore) checkout(ctx context.Context) error {
	return r.step("checkout", func() (string, error) {
		g, x := r.git, r.x
		if r.state == dirClean {
			if _, err := g.ask(ctx, workTime, "checkout", "-q", "--no-overwrite-ignore", "--detach", x.Head); err != nil {
				return "", err
			}
		}
		kept := 0
		for _, b := range x.Branches {
			ref := "refs/heads/" + b.Name
			has := g.text(ctx, askTime, "rev-parse", "-q", "--verify", ref)
			if has == b.Commit {
				continue
			}
			if has != "" && !r.o.Force {
				if _, err := g.ask(ctx, workTime, "merge-base", "--is-ancestor", has, b.Commit); err != nil {
					if b.Name == x.Branch {
						return "", fmt.Errorf("the branch %s here has commits that the checkpoint has not; push or rename it, or force the restore", b.Name)
					}
					kept++
					continue
				}
			}
			if _, err := g.ask(ctx, askTime, "update-ref", ref, b.Commit); err != nil {
				return "", err
			}
		}
		var err error
		switch {
		case x.Branch != "":
			_, err = g.ask(ctx, askTime, "symbolic-ref", "HEAD", "refs/heads/"+x.Branch)
		case x.Head != "":
			_, err = g.ask(ctx, askTime, "update-ref", "--no-deref", "HEAD", x.Head)
		}
		if err != nil {
			return "", err
		}
		if x.Head != "" {
			if now := g.text(ctx, askTime, "rev-parse", "-q", "--verify", "HEAD^{commit}"); now != x.Head {
				return "", fmt.Errorf("HEAD is %s, not %s", now, x.Head)
			}
			if r.state != dirClean {
				if _, err := g.ask(ctx, workTime, "read-tree", x.Head); err != nil {
					return "", err
				}
			}
		}
		if x.Branch != "" && x.Upstream != "" && g.text(ctx, askTime, "remote", "get-url", "origin") != "" {
			for key, value := range map[string]string{"remote": "origin", "merge": "refs/heads/" + x.Upstream} {
				if _, err := g.ask(ctx, askTime, "config", "--local", "branch."+x.Branch+"."+key, value); err != nil {
					return "", err
				}
			}
		}
		switch {
		case x.Head == "":
			return "the branch " + x.Branch + " without a commit", nil
		case kept > 0:
			return fmt.Sprintf("%s; %d other branches stay as they are here", x.Head, kept), nil
		}
		return x.Head, nil
	})
}

// staged makes the index, then the files of it.
func (r *restore) staged(ctx context.Context) error {
	return r.step("staged", func() (string, error) {
		g := r.git
		said := skippedMark + "nothing was staged"
		if a, ok := r.d.Attachment(AttachStaged); ok {
			f, err := os.Open(filepath.Join(r.got.dir, AttachStaged))
			if err != nil {
				return "", err
			}
			defer f.Close()
			// In a repository that was there the files follow the index one by one.
			args := []string{"apply", "--cached", "--whitespace=nowarn", "-"}
			if r.state == dirClean {
				args = []string{"apply", "--index", "--whitespace=nowarn", "-"}
			}
			if _, err := g.feed(ctx, workTime, f, args...); err != nil {
				return "", err
			}
			said = fmt.Sprintf("%d bytes of diff", a.Size)
		}
		if err := r.flag(ctx, "--skip-worktree", r.x.SkipWorktree); err != nil {
			return "", err
		}
		if r.state != dirClean {
			if _, err := g.ask(ctx, workTime, "checkout-index", "-q", "-a", "-f"); err != nil {
				return "", err
			}
			return said, nil
		}
		p := &place{root: r.root, dirs: map[string]bool{}}
		for _, name := range r.x.SkipWorktree {
			if err := p.remove(string(name)); err != nil {
				return "", err
			}
		}
		return said, nil
	})
}

// flag sets a mark of the index.
func (r *restore) flag(ctx context.Context, mark string, paths []Path) error {
	if len(paths) == 0 {
		return nil
	}
	_, err := r.git.feed(ctx, workTime, strings.NewReader(zeroed(paths)), "update-index", mark, "-z", "--stdin")
	return err
}

func zeroed(paths []Path) string {
	var b strings.Builder
	for _, p := range paths {
		b.WriteString(string(p) + "\x00")
	}
	return b.String()
}

func (r *restore) removed(context.Context) error {
	if len(r.x.Removed) == 0 {
		return nil
	}
	return r.step("removed", func() (string, error) {
		p := &place{root: r.root, dirs: map[string]bool{}}
		for _, name := range r.x.Removed {
			if err := p.remove(string(name)); err != nil {
				return "", err
			}
		}
		return strconv.Itoa(len(r.x.Removed)) + " files", nil
	})
}

// unpack writes the archived files, links last so that nothing is written through them.
func (r *restore) unpack(ctx context.Context) error {
	return r.step("files", func() (string, error) {
		if r.x.Kind == KindDirectory {
			if err := r.mark(); err != nil {
				return "", err
			}
		}
		p := &place{root: r.root, dirs: map[string]bool{}}
		var links []entry
		n := 0
		err := r.entries(ctx, func(e entry, content io.Reader) error {
			n++
			if e.kind == tar.TypeSymlink {
				links = append(links, e)
				return nil
			}
			return p.put(e, content)
		})
		for _, e := range links {
			if err == nil {
				err = p.put(e, nil)
			}
		}
		if n == 0 && err == nil {
			return skippedMark + "there are none", nil
		}
		return strconv.Itoa(n), err
	})
}

// marks sets those of the index that need the files.
func (r *restore) marks(ctx context.Context) error {
	if len(r.x.IntentToAdd)+len(r.x.AssumeUnchanged) == 0 {
		return nil
	}
	return r.step("marks", func() (string, error) {
		if len(r.x.IntentToAdd) > 0 {
			if _, err := r.git.feed(ctx, workTime, strings.NewReader(zeroed(r.x.IntentToAdd)), "add", "-f", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul"); err != nil {
				return "", err
			}
		}
		return "", r.flag(ctx, "--assume-unchanged", r.x.AssumeUnchanged)
	})
}

func (r *restore) stashes(ctx context.Context) error {
	if len(r.x.Stashes) == 0 {
		return nil
	}
	return r.step("stashes", func() (string, error) {
		has := r.git.stashes(ctx)
		n := 0
		for _, s := range slices.Backward(r.x.Stashes) {
			if slices.Contains(has, s.Commit) {
				continue
			}
			message := s.Name
			if message == "" {
				message = "stash of the checkpoint"
			}
			if _, err := r.git.ask(ctx, askTime, "stash", "store", "-q", "-m", message, s.Commit); err != nil {
				return "", err
			}
			n++
		}
		return strconv.Itoa(n), nil
	})
}

// verify compares the workspace with what was captured.
func (r *restore) verify(ctx context.Context) error {
	return r.step("verify", func() (string, error) {
		g := r.git
		if err := g.run(ctx, workTime, nil, io.Discard, "update-index", "-q", "--refresh"); err != nil && exitOf(err) != 1 {
			return "", err // 1: there are changes
		}
		if r.x.Tree == "" {
			return skippedMark + "the checkpoint has no checksum of the workspace", nil
		}
		out, err := g.ask(ctx, workTime, "ls-files", "-s", "-z")
		if err != nil {
			return "", err
		}
		var names []string
		for _, line := range split0(out) {
			if meta, name, ok := strings.Cut(line, "\t"); ok && !strings.HasPrefix(meta, "160000 ") && !slices.Contains(names[max(len(names)-1, 0):], name) {
				names = append(names, name)
			}
		}
		if out, err = g.ask(ctx, workTime, "ls-files", "--others", "--exclude-standard", "-z"); err != nil {
			return "", err
		}
		for _, name := range split0(out) {
			if !strings.HasPrefix(name, workPrefix) && !strings.HasSuffix(name, "/") {
				names = append(names, name)
			}
		}
		return r.compare(ctx, names)
	})
}

func (r *restore) verifyDirectory(ctx context.Context) error {
	return r.step("verify", func() (string, error) {
		names, err := listDir(r.root)
		if err != nil {
			return "", err
		}
		return r.compare(ctx, names)
	})
}

func (r *restore) compare(ctx context.Context, names []string) (string, error) {
	t, err := hashTree(ctx, r.root, names)
	if err != nil {
		return "", err
	}
	if len(t) != r.x.Files || t.sum() != r.x.Tree {
		return "", fmt.Errorf("the workspace has %d files and is not what was saved (%d files)", len(t), r.x.Files)
	}
	return fmt.Sprintf("%d files are what was saved", len(t)), nil
}
