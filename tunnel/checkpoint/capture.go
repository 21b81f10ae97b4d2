package checkpoint

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1" //nolint:gosec // the name of an object in git
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of what is captured.
type Limits struct {
	// Bundle, Diff and Archive bound the attachments in bytes, Archive by what is in it; File one file of it.
	Bundle, Diff, Archive, File int64
	// Files is how many files are archived.
	Files int
}

// DefaultLimits are those where nothing is said.
var DefaultLimits = Limits{Bundle: 2 << 30, Diff: 512 << 20, Archive: 2 << 30, File: 1 << 30, Files: MaxPaths}

func (l Limits) orDefault() Limits {
	pick := func(v *int64, d int64) {
		if *v <= 0 || *v > MaxAttachment/2 {
			*v = d
		}
	}
	pick(&l.Bundle, DefaultLimits.Bundle)
	pick(&l.Diff, DefaultLimits.Diff)
	pick(&l.Archive, DefaultLimits.Archive)
	pick(&l.File, DefaultLimits.File)
	if l.Files <= 0 || l.Files > MaxPaths {
		l.Files = DefaultLimits.Files
	}
	return l
}

// maxNotes bounds the notes of a checkpoint.
const maxNotes = 100

// ErrCapture is a workspace that cannot be saved whole.
var ErrCapture = errs.Define(errs.Conflict, "checkpoint.capture", "the workspace cannot be saved")

// CaptureOptions of Capture. Dir is required.
type CaptureOptions struct {
	// Dir is the workspace.
	Dir string
	// Instance, DisplayName, Platform, Commands and Capabilities are as registered.
	Instance, DisplayName, Platform string
	Commands, Capabilities          []string
	Session                         Session
	// Archive asks for the files of a directory that is no repository.
	Archive bool
	// Whole puts all history in the bundle, also what the remote has.
	Whole bool
	// Lenient makes a checkpoint of version 1 with a note when the extension cannot be made. Without it that is
	// ErrCapture.
	Lenient bool
	Limits  Limits
	// Temp is where the attachments are kept until Close; "" is the system's.
	Temp string
	// Env is the environment of git, that of this process when nil.
	Env []string
	// Progress is told what is done, step by step. It may be nil and must not block for long.
	Progress func(Step)
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// Capture saves a workspace. It changes nothing in it. A repository that git refuses to read, as one that belongs to
// somebody else, is no repository. The result is to be closed.
func Capture(ctx context.Context, o CaptureOptions) (_ *Checkpoint, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = func(Step) {}
	}
	now := o.Now()
	c, err := newCheckpoint(o.Temp)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	d := &Document{
		Version: Version, CheckpointID: NewID(now), SourceInstanceID: o.Instance, SourceDisplayName: o.DisplayName, Platform: o.Platform,
		Timestamp: Timestamp(now), Session: o.Session, Config: Config{o.Commands, o.Capabilities},
	}
	c.Document = d
	w := &capture{o: o, limits: o.Limits.orDefault(), c: c, x: &Extension{Format: 1, Kind: KindNone}}
	if err := w.all(ctx); err != nil {
		return nil, err
	}
	d.Hanzo = w.x
	if err := d.Hanzo.check(); err != nil {
		if !o.Lenient {
			return nil, ErrCapture.Wrap(err)
		}
		d.Hanzo = &Extension{Format: 1, Kind: KindNone, Notes: []string{"the workspace is not saved: " + err.Error()}}
	}
	if c.Raw, err = d.Marshal(); err != nil {
		return nil, err
	}
	if len(c.Raw) > MaxDocument {
		return nil, ErrCapture.Wrap(fmt.Errorf("its document would be larger than %d bytes", MaxDocument))
	}
	return c, nil
}

// capture is one under way.
type capture struct {
	o      CaptureOptions
	limits Limits
	c      *Checkpoint
	x      *Extension
	git    *git
	left   int // notes not written
}

func (w *capture) note(format string, args ...any) {
	if len(w.x.Notes) >= maxNotes {
		w.left++
		return
	}
	w.x.Notes = append(w.x.Notes, fmt.Sprintf(format, args...))
}

func (w *capture) all(ctx context.Context) error {
	if info, err := os.Stat(w.o.Dir); err != nil || !info.IsDir() {
		if w.o.Lenient {
			return nil
		}
		return ErrCapture.Wrap(fmt.Errorf("%s is not a directory", w.o.Dir))
	}
	g, gitErr := newGit(w.o.Dir, w.o.Env, nil)
	inside := false
	if gitErr == nil {
		w.git = g
		if inside = g.text(ctx, testTime, "rev-parse", "--is-inside-work-tree") == "true"; inside {
			if err := g.fence(ctx); err != nil {
				return ErrCapture.Wrap(err)
			}
			w.first(ctx)
		}
	}
	var err error
	switch {
	case inside:
		err = w.repository(ctx)
	case w.o.Archive:
		err = w.directory(ctx)
	default:
		if gitErr != nil {
			w.note("the workspace is not saved: %v", gitErr)
		}
		return nil
	}
	if err == nil {
		if w.left > 0 {
			w.x.Notes = append(w.x.Notes, fmt.Sprintf("and %d more", w.left))
		}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !w.o.Lenient {
		if e, ok := errs.As(err); ok && e.Code != "" {
			return err
		}
		return ErrCapture.Wrap(err)
	}
	w.x = &Extension{Format: 1, Kind: KindNone, Notes: []string{"the workspace is not saved beyond what version 1 holds: " + err.Error()}}
	return nil
}

// first fills what version 1 has.
func (w *capture) first(ctx context.Context) {
	ws := &w.c.Document.Workspace
	ws.Repository = true
	ws.Branch = w.git.text(ctx, askTime, "branch", "--show-current")
	ws.RemoteURL = bare(w.git.text(ctx, askTime, "remote", "get-url", "origin"))
	ws.Log = nonEmptyLines(w.git.text(ctx, askTime, "log", "--oneline", "-20"))
	ws.Untracked = nonEmptyLines(w.git.text(ctx, askTime, "ls-files", "--others", "--exclude-standard"))
	if len(ws.Untracked) > MaxPaths {
		ws.Untracked = ws.Untracked[:MaxPaths]
	}
	var end tail
	end.most = 4*MaxDiffText + 8
	if err := w.git.run(ctx, askTime, nil, &end, "diff", "--binary", "--no-ext-diff", "--no-textconv", "HEAD"); err == nil {
		ws.Diff = diffText(string(end.b))
	}
}

// diffText is a diff as a member of the document: whole with its last newline, or cut as the bridge cuts it.
func diffText(diff string) string {
	diff = valid(diff)
	if whole := lastChars(diff, MaxDiffText); whole == diff {
		return diff
	}
	return lastChars(strings.TrimSpace(diff), MaxDiffText)
}

func nonEmptyLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// step tells of one and runs it.
func (w *capture) step(name string, run func() (string, error)) error {
	w.o.Progress(Step{Name: name, State: StepRunning})
	detail, err := run()
	if err != nil {
		w.o.Progress(Step{Name: name, State: StepFailed, Detail: err.Error()})
		return err
	}
	w.o.Progress(Step{Name: name, State: StepOK, Detail: detail})
	return nil
}

// repository saves a git work tree.
func (w *capture) repository(ctx context.Context) error {
	g, x := w.git, w.x
	top, err := g.ask(ctx, askTime, "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	if !sameDir(strings.TrimSuffix(top, "\n"), w.o.Dir) {
		w.note("the workspace lies below the top of its repository, whose other files are not its own: only what version 1 holds is saved")
		return nil
	}
	x.Kind = KindGit
	x.ObjectFormat = g.text(ctx, askTime, "rev-parse", "--show-object-format")
	x.Head = g.text(ctx, askTime, "rev-parse", "-q", "--verify", "HEAD^{commit}")
	x.Branch = g.text(ctx, askTime, "symbolic-ref", "-q", "--short", "HEAD")
	if x.Branch != "" && checkRef(x.Branch) != nil {
		return fmt.Errorf("the branch %q cannot be saved; rename it", x.Branch)
	}
	if up, ok := strings.CutPrefix(g.text(ctx, askTime, "rev-parse", "-q", "--abbrev-ref", "@{upstream}"), "origin/"); ok && checkRef(up) == nil {
		x.Upstream = up
	}
	for name, fits := range settings {
		if v := g.text(ctx, askTime, "config", "--local", "--get", name); v != "" && fits(v) {
			if x.Settings == nil {
				x.Settings = map[string]string{}
			}
			x.Settings[name] = v
		}
	}
	w.exclude(ctx)
	if err := w.step("bundle", func() (string, error) { return w.bundle(ctx) }); err != nil {
		return err
	}
	before, err := g.ask(ctx, workTime, "ls-files", "-s", "-z")
	if err != nil {
		return err
	}
	plain := []string{"diff", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"}
	unmerged := split0(g.text(ctx, askTime, "diff", "--name-only", "-z", "--diff-filter=U"))
	if len(unmerged) > 0 {
		w.note("a merge is under way: its files are saved as they are, and that it is under way is not")
	}
	if err := w.step("diffs", func() (string, error) {
		staged, err := w.attach(AttachStaged, w.limits.Diff, func(out io.Writer) error {
			return g.run(ctx, workTime, nil, out, append(plain, "--cached", "--diff-filter=u")...)
		})
		if err != nil {
			return "", err
		}
		unstaged, err := w.attach(AttachUnstaged, w.limits.Diff, func(out io.Writer) error {
			return g.run(ctx, workTime, nil, out, append(plain, "--ignore-submodules=dirty", "--diff-filter=u")...)
		})
		return fmt.Sprintf("%d bytes staged, %d not", staged, unstaged), err
	}); err != nil {
		return err
	}
	if err := w.step("files", func() (string, error) { return w.files(ctx, before) }); err != nil {
		return err
	}
	after, err := g.ask(ctx, workTime, "ls-files", "-s", "-z")
	if err != nil {
		return err
	}
	if before != after || x.Head != g.text(ctx, askTime, "rev-parse", "-q", "--verify", "HEAD^{commit}") {
		return errors.New("somebody worked with git in it meanwhile; try again")
	}
	return nil
}

func sameDir(a, b string) bool {
	ai, err := os.Stat(a)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b)
	return err == nil && os.SameFile(ai, bi)
}

func (w *capture) exclude(ctx context.Context) {
	path := w.git.text(ctx, askTime, "rev-parse", "--git-path", "info/exclude")
	if path == "" {
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.o.Dir, path)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > MaxExclude {
		return
	}
	raw, err := os.ReadFile(path)
	if err == nil && string(raw) == valid(string(raw)) {
		w.x.Exclude = string(raw)
	}
}

// attach makes an attachment of what fill writes. An empty one is left out.
func (w *capture) attach(name string, most int64, fill func(io.Writer) error) (int64, error) {
	path := filepath.Join(w.c.dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	h := sha256.New()
	out := &limited{w: io.MultiWriter(f, h), most: most, name: name}
	err = fill(out)
	if out.over {
		err = fmt.Errorf("%s would be larger than %d bytes", name, most)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil || out.n == 0 {
		os.Remove(path)
		return 0, err
	}
	w.x.Attachments = append(w.x.Attachments, Attachment{Name: name, Size: out.n, SHA256: hex.EncodeToString(h.Sum(nil))})
	return out.n, nil
}

type limited struct {
	w       io.Writer
	n, most int64
	name    string
	over    bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.n+int64(len(p)) > l.most {
		l.over = true
		return 0, errTooMuch
	}
	n, err := l.w.Write(p)
	l.n += int64(n)
	return n, err
}

// bundle saves the commits that the remote has not.
func (w *capture) bundle(ctx context.Context) (string, error) {
	g, x := w.git, w.x
	out, err := g.ask(ctx, askTime, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads")
	if err != nil {
		return "", err
	}
	for _, line := range nonEmptyLines(strings.TrimSpace(out)) {
		oid, name, _ := strings.Cut(line, " ")
		name = strings.TrimPrefix(name, "refs/heads/")
		if checkRef(name) != nil || len(x.Branches) == MaxRefs {
			w.note("the branch %q is not saved", name)
			continue
		}
		x.Branches = append(x.Branches, Ref{name, oid})
	}
	if g.text(ctx, askTime, "rev-parse", "-q", "--verify", "refs/stash") != "" {
		out, err := g.ask(ctx, askTime, "log", "-g", "-z", fmt.Sprintf("-%d", MaxRefs), "--format=%H%x09%gs", "refs/stash", "--")
		if err != nil {
			return "", err
		}
		for _, line := range split0(out) {
			oid, message, _ := strings.Cut(line, "\t")
			x.Stashes = append(x.Stashes, Ref{headBytes(valid(message), maxText), oid})
		}
	}
	var tips []string
	if x.Head != "" {
		tips = append(tips, x.Head)
	}
	for _, r := range slices.Concat(x.Branches, x.Stashes) {
		if !slices.Contains(tips, r.Commit) {
			tips = append(tips, r.Commit)
		}
	}
	if len(tips) == 0 {
		return "no commit yet", nil
	}
	// What a remote on this machine has, another machine cannot get.
	var has []string
	if p := remoteOf(w.c.Document.Workspace.RemoteURL); p != "" && p != "file" && !w.o.Whole {
		out, err := g.ask(ctx, askTime, "for-each-ref", "--format=%(objectname)", "refs/remotes/origin")
		if err != nil {
			return "", err
		}
		has = nonEmptyLines(strings.TrimSpace(out))
		slices.Sort(has)
		has = slices.Compact(has)
	}
	if g.text(ctx, askTime, "rev-parse", "--is-shallow-repository") == "true" {
		path := g.text(ctx, askTime, "rev-parse", "--git-path", "shallow")
		if !filepath.IsAbs(path) {
			path = filepath.Join(w.o.Dir, path)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if len(has) == 0 {
			x.Shallow = strings.Fields(string(raw))
		}
	}
	var revs strings.Builder
	for _, t := range tips {
		revs.WriteString(t + "\n")
	}
	if len(has) > 0 {
		for _, t := range has {
			revs.WriteString("^" + t + "\n")
		}
		out, err := g.feed(ctx, workTime, strings.NewReader(revs.String()), "rev-list", "--boundary", "--stdin")
		if err != nil {
			return "", err
		}
		mine := 0
		for _, line := range nonEmptyLines(strings.TrimSpace(out)) {
			if oid, ok := strings.CutPrefix(line, "-"); ok {
				x.Needs = append(x.Needs, oid)
			} else {
				mine++
			}
		}
		if mine == 0 {
			x.Needs = tips
			return "the remote has every commit", nil
		}
	}
	n, err := w.attach(AttachBundle, w.limits.Bundle, func(out io.Writer) error {
		head := "# v2 git bundle\n"
		if x.ObjectFormat == "sha256" {
			head = "# v3 git bundle\n@object-format=sha256\n"
		}
		for _, oid := range x.Needs {
			head += "-" + oid + " \n"
		}
		for _, r := range x.Branches {
			head += r.Commit + " refs/heads/" + r.Name + "\n"
		}
		for i, r := range x.Stashes {
			head += fmt.Sprintf("%s refs/hanzo/stash/%d\n", r.Commit, i)
		}
		if x.Head != "" {
			head += x.Head + " HEAD\n"
		}
		if _, err := io.WriteString(out, head+"\n"); err != nil {
			return err
		}
		return g.run(ctx, workTime, strings.NewReader(revs.String()), out, "pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "-q")
	})
	return fmt.Sprintf("%d bytes", n), err
}

// indexed is an entry of the index.
type indexed struct{ mode, oid string }

// files archives what a checkout would not give.
func (w *capture) files(ctx context.Context, index string) (string, error) {
	g, x := w.git, w.x
	entries := map[string]indexed{}
	for _, line := range split0(index) {
		meta, name, ok := strings.Cut(line, "\t")
		f := strings.Fields(meta)
		if !ok || len(f) != 3 {
			return "", fmt.Errorf("git ls-files says %q", line)
		}
		if f[0] == "160000" {
			x.Submodules = append(x.Submodules, Submodule{Path: Path(name), Commit: f[1]})
			continue
		}
		entries[name] = indexed{f[0], f[1]}
	}
	changed := map[string]bool{}
	raw, err := g.ask(ctx, workTime, "diff", "--raw", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=all", "--abbrev=40")
	if err != nil {
		return "", err
	}
	fields := split0(raw)
	for i := 0; i+1 < len(fields); i += 2 {
		meta, name := strings.Fields(fields[i]), fields[i+1]
		if len(meta) != 5 {
			return "", fmt.Errorf("git diff says %q", fields[i])
		}
		switch meta[4][0] {
		case 'D':
			x.Removed = append(x.Removed, Path(name))
		case 'A':
			x.IntentToAdd = append(x.IntentToAdd, Path(name))
			changed[name] = true
		default:
			changed[name] = true
		}
	}
	marks, err := g.ask(ctx, workTime, "ls-files", "-v", "-z")
	if err != nil {
		return "", err
	}
	skipped := map[string]bool{}
	for _, line := range split0(marks) {
		if len(line) < 3 {
			continue
		}
		switch mark, name := line[0], line[2:]; {
		case mark == 'S':
			x.SkipWorktree = append(x.SkipWorktree, Path(name))
			skipped[name] = true
		case mark >= 'a' && mark <= 'z':
			x.AssumeUnchanged = append(x.AssumeUnchanged, Path(name))
			changed[name] = true
			skipped[name] = mark == 's'
		}
	}
	others, err := g.ask(ctx, workTime, "ls-files", "--others", "--exclude-standard", "-z")
	if err != nil {
		return "", err
	}
	untracked := split0(others)
	slices.Sort(untracked)

	root, err := os.OpenRoot(w.o.Dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	a := &archiver{w: w, root: root, ctx: ctx, crlf: w.crlf(root, entries), entries: entries, format: x.ObjectFormat}
	_, err = w.attach(AttachFiles, w.limits.Archive+w.limits.Archive/64, func(out io.Writer) error {
		a.open(out)
		names := make([]string, 0, len(entries))
		for name := range entries {
			names = append(names, name)
		}
		slices.Sort(names)
		// Those that are changed for sure go first: what only looks otherwise than a checkout may be left to one.
		for _, name := range names {
			if changed[name] {
				if err := a.add(name, true); err != nil {
					return err
				}
			}
		}
		for _, name := range untracked {
			if strings.HasSuffix(name, "/") {
				w.note("the repository in %s is not saved", name)
				continue
			}
			if err := a.add(name, false); err != nil {
				return err
			}
		}
		for _, name := range names {
			if !changed[name] && !skipped[name] {
				if err := a.tracked(name); err != nil {
					return err
				}
			}
		}
		return a.close()
	})
	if err != nil {
		return "", err
	}
	if a.files == 0 {
		// An archive without a file is none.
		x.Attachments = slices.DeleteFunc(x.Attachments, func(a Attachment) bool { return a.Name == AttachFiles })
		os.Remove(filepath.Join(w.c.dir, AttachFiles))
	}
	x.Files, x.Tree = len(a.tree), a.tree.sum()
	return fmt.Sprintf("%d files, %d of them archived with %d bytes", len(a.tree), a.files, a.bytes), nil
}

// crlf tells whether a checkout would write other ends of lines than the index has.
func (w *capture) crlf(root *os.Root, entries map[string]indexed) bool {
	if w.git.text(context.Background(), askTime, "config", "--get", "core.autocrlf") == "true" || w.git.text(context.Background(), askTime, "config", "--get", "core.eol") == "crlf" {
		return true
	}
	for name := range entries {
		if name != ".gitattributes" && !strings.HasSuffix(name, "/.gitattributes") {
			continue
		}
		if raw, err := root.ReadFile(filepath.FromSlash(name)); err == nil && strings.Contains(string(raw), "crlf") {
			return true
		}
	}
	return false
}

// archiver writes files.tar.gz and learns of every file what Tree is made of.
type archiver struct {
	w       *capture
	root    *os.Root
	ctx     context.Context
	crlf    bool
	entries map[string]indexed
	format  string

	zip   *gzip.Writer
	tar   *tar.Writer
	files int
	bytes int64
	tree  tree
}

func (a *archiver) open(out io.Writer) {
	a.tree = tree{}
	a.zip, _ = gzip.NewWriterLevel(out, gzip.BestSpeed) // fails for a level that there is not
	a.tar = tar.NewWriter(a.zip)
}

func (a *archiver) close() error {
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.zip.Close()
}

// add archives a file. One that is gone meanwhile is left out; one that is too large too, with a note, unless git
// knows it.
func (a *archiver) add(name string, known bool) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if err := checkPath(name); err != nil {
		if known {
			return err
		}
		a.w.note("left out: %v", err)
		return nil
	}
	path := filepath.FromSlash(name)
	info, err := a.root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime().Truncate(time.Second), Format: tar.FormatPAX}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if h.Linkname, err = a.root.Readlink(path); err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, filepath.ToSlash(h.Linkname)
		if err := a.room(name, 0, known); err != nil {
			return skip(err)
		}
		a.files++
		a.tree[name] = sumLink(h.Linkname)
		return a.tar.WriteHeader(h)
	case info.IsDir():
		return nil
	case !info.Mode().IsRegular():
		a.w.note("left out: %s is not a file", name)
		return nil
	}
	f, err := a.root.Open(path)
	if err != nil {
		if known || !errors.Is(err, fs.ErrPermission) {
			return err
		}
		a.w.note("left out: %s cannot be read", name)
		return nil
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s became something else meanwhile; try again", name)
	}
	if err := a.room(name, info.Size(), known); err != nil {
		return skip(err)
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(&counter{w: io.MultiWriter(a.tar, sum), ctx: a.ctx}, io.LimitReader(f, h.Size))
	if err != nil {
		return err
	}
	if n != h.Size {
		return fmt.Errorf("%s became shorter meanwhile; try again", name)
	}
	a.files++
	a.bytes += n
	a.tree[name] = sumFile(info.Mode(), sum)
	return nil
}

var errLeftOut = errors.New("left out")

func skip(err error) error {
	if errors.Is(err, errLeftOut) {
		return nil
	}
	return err
}

// room tells whether a file has a place.
func (a *archiver) room(name string, size int64, known bool) error {
	why := ""
	switch {
	case size > a.w.limits.File:
		why = fmt.Sprintf("%s has %d bytes, more than the %d that one file may have", name, size, a.w.limits.File)
	case a.bytes+size > a.w.limits.Archive:
		why = fmt.Sprintf("%s: the files would be more than %d bytes", name, a.w.limits.Archive)
	case a.files >= a.w.limits.Files:
		why = fmt.Sprintf("%s: there are more than %d files", name, a.w.limits.Files)
	default:
		return nil
	}
	if known {
		return errors.New(why)
	}
	a.w.note("left out: %s", why)
	return errLeftOut
}

// tracked looks at a file that git calls unchanged. When its bytes are not those of the index, because of filters,
// or a checkout may write others, it is archived.
func (a *archiver) tracked(name string) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	path := filepath.FromSlash(name)
	info, err := a.root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := a.root.Readlink(path)
		if err != nil {
			return err
		}
		a.tree[name] = sumLink(filepath.ToSlash(target))
		return nil
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := a.root.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	blob := sha1.New() //nolint:gosec // the name of an object in git
	if a.format == "sha256" {
		blob = sha256.New()
	}
	fmt.Fprintf(blob, "blob %d\x00", info.Size())
	sum := sha256.New()
	lines := &newlines{}
	if _, err := io.Copy(io.MultiWriter(blob, sum, lines), bufio.NewReader(f)); err != nil {
		return err
	}
	as := hex.EncodeToString(blob.Sum(nil))
	if as != a.entries[name].oid || a.crlf && lines.seen {
		if a.files >= a.w.limits.Files || a.bytes+info.Size() > a.w.limits.Archive || info.Size() > a.w.limits.File {
			a.tree[name] = sumFile(info.Mode(), sum)
			return nil
		}
		return a.add(name, true)
	}
	a.tree[name] = sumFile(info.Mode(), sum)
	return nil
}

// newlines learns whether there is one.
type newlines struct{ seen bool }

func (n *newlines) Write(p []byte) (int, error) {
	n.seen = n.seen || bytes.IndexByte(p, '\n') >= 0
	return len(p), nil
}

// directory archives a directory that is no repository.
func (w *capture) directory(ctx context.Context) error {
	w.x.Kind = KindDirectory
	return w.step("files", func() (string, error) {
		root, err := os.OpenRoot(w.o.Dir)
		if err != nil {
			return "", err
		}
		defer root.Close()
		a := &archiver{w: w, root: root, ctx: ctx}
		_, err = w.attach(AttachFiles, w.limits.Archive+w.limits.Archive/64, func(out io.Writer) error {
			a.open(out)
			err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
				switch {
				case err != nil:
					w.note("left out: %s cannot be read", name)
					return nil
				case name == ".":
					return nil
				case checkPath(name) != nil:
					w.note("left out: %s", name)
					if e.IsDir() {
						return fs.SkipDir
					}
					return nil
				case !e.IsDir():
					return a.add(name, false)
				}
				if a.files >= w.limits.Files {
					return fmt.Errorf("there are more than %d files", w.limits.Files)
				}
				a.files++
				return a.tar.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatPAX})
			})
			if err != nil {
				return err
			}
			return a.close()
		})
		if err != nil {
			return "", err
		}
		w.x.Files, w.x.Tree = len(a.tree), a.tree.sum()
		return fmt.Sprintf("%d files with %d bytes", a.files, a.bytes), nil
	})
}

// tree holds what each file of a workspace is.
type tree map[string]string

// sum is the SHA-256, in hexadecimal digits, of the files in the order of their names: for each its name, a NUL, "l",
// "x" or "f" for a link, an executable and any other file, the SHA-256 of its content or target, and a newline.
func (t tree) sum() string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		_, _ = io.WriteString(h, name+"\x00"+t[name]+"\n")
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sumLink(target string) string {
	s := sha256.Sum256([]byte(target))
	return "l" + hex.EncodeToString(s[:])
}

func sumFile(mode fs.FileMode, h hash.Hash) string {
	kind := "f"
	if mode&0o111 != 0 {
		kind = "x"
	}
	return kind + hex.EncodeToString(h.Sum(nil))
}
