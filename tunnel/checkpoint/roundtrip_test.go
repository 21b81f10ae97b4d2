package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// in runs a program in a directory.
func in(t testing.TB, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "LC_ALL=C")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q in %s: %v\n%s%s", argv, dir, err, out.String(), errOut.String())
	}
	return out.String()
}

func needGit(t testing.TB) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func repo(t testing.TB, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	in(t, dir, append([]string{"git", "init", "-q", "-b", "main"}, args...)...)
	in(t, dir, "git", "config", "user.name", "A B")
	in(t, dir, "git", "config", "user.email", "a@b")
	return dir
}

// files describes every file below a directory but what git keeps.
func filesOf(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if e.Name() == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		name, _ := filepath.Rel(dir, path)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			lines = append(lines, fmt.Sprintf("%q -> %q", name, target))
			return err
		}
		raw, err := os.ReadFile(path)
		lines = append(lines, fmt.Sprintf("%q %v %d %.60q", name, info.Mode()&0o100 != 0, len(raw), raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func status(t testing.TB, dir string) string {
	return in(t, dir, "git", "status", "--porcelain=v2", "--branch", "--show-stash")
}

// through captures a workspace, sends it as a stream and restores it.
func through(t testing.TB, from, to string, o CaptureOptions, ro RestoreOptions) (*Checkpoint, *Report, error) {
	t.Helper()
	o.Dir, o.Temp, ro.Dir, ro.Temp = from, t.TempDir(), to, t.TempDir()
	c, err := Capture(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var b bytes.Buffer
	if err := c.WriteTo(context.Background(), &b, nil); err != nil {
		t.Fatal(err)
	}
	got, err := Unpack(&b, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { got.Close() })
	ro.Document, ro.Open = got.Document, got.Open
	report, err := Restore(context.Background(), ro)
	return got, report, err
}

func same(t testing.TB, from, to string) {
	t.Helper()
	if a, b := filesOf(t, from), filesOf(t, to); a != b {
		t.Errorf("the files are\n%s\nnot\n%s", b, a)
	}
	if a, b := status(t, from), status(t, to); a != b {
		t.Errorf("the status is\n%s\nnot\n%s", b, a)
	}
	if a, b := in(t, from, "git", "diff", "HEAD", "--binary"), in(t, to, "git", "diff", "HEAD", "--binary"); a != b {
		t.Errorf("the diff is\n%s\nnot\n%s", b, a)
	}
	in(t, to, "git", "fsck", "--no-dangling")
	if left, _ := filepath.Glob(filepath.Join(to, workPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// scramble changes a work tree at random, on odd rounds with commits in between.
func scramble(t testing.TB, r *rand.Rand, dir string, commits bool) {
	names := []string{"a", "b.txt", "dir/c", "dir/deep/d.bin", "with space", "-dash", "uml\u00e4ut", "quote\"name", "tab\tname", "crlf.txt", "empty", ".hidden", "dir/x y/z"}
	if runtime.GOOS == "linux" {
		names = append(names, "latin\xe9", "bad\xff\xfe/inner", "new\nline")
	}
	content := func() string {
		switch r.IntN(6) {
		case 0:
			return ""
		case 1:
			return "one\ntwo\nthree\n"
		case 2:
			return "one\r\ntwo\r\nmixed\nend"
		case 3:
			b := make([]byte, r.IntN(5000))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return string(b)
		case 4:
			return strings.Repeat(fmt.Sprintf("line %d\n", r.IntN(9)), 1+r.IntN(200))
		}
		return "no newline at the end \xe9\xff " + fmt.Sprint(r.IntN(1000))
	}
	for range 40 {
		name := names[r.IntN(len(names))]
		at := filepath.Join(dir, name)
		switch r.IntN(11) {
		case 0, 1, 2, 3:
			if os.MkdirAll(filepath.Dir(at), 0o755) == nil {
				os.Remove(at)
				_ = os.WriteFile(at, []byte(content()), 0o644) // a directory may be there
			}
		case 4:
			_ = os.Chmod(at, []fs.FileMode{0o644, 0o755}[r.IntN(2)])
		case 5:
			if r.IntN(4) == 0 {
				os.RemoveAll(at)
			} else {
				os.Remove(at)
			}
		case 6:
			os.Remove(at)
			if os.MkdirAll(filepath.Dir(at), 0o755) == nil {
				_ = os.Symlink([]string{"a", "../outside", "/etc/passwd", "dir", "nowhere"}[r.IntN(5)], at)
			}
		case 7:
			to := filepath.Join(dir, names[r.IntN(len(names))])
			if os.MkdirAll(filepath.Dir(to), 0o755) == nil {
				_ = os.Rename(at, to)
			}
		case 8:
			in(t, dir, "git", "add", "-A")
		case 9:
			if _, err := os.Lstat(at); err == nil {
				in(t, dir, "git", "add", "--", name)
			}
		case 10:
			if commits {
				in(t, dir, "git", "add", "-A")
				in(t, dir, "git", "commit", "-q", "--allow-empty", "-m", "more")
			}
		}
	}
}

// What comes out of a checkpoint is what went in: files, index, branch, history.
func TestRoundTripOfRandomWorkTrees(t *testing.T) {
	needGit(t)
	rounds := 3
	if os.Getenv("ROBUST") != "" {
		rounds = 200
	}
	if testing.Short() {
		rounds = 4
	}
	for i := range rounds {
		seed := uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			from := repo(t)
			if i%3 == 1 {
				write(t, from, ".gitattributes", "*.txt text eol=crlf\n*.bin -text\n")
			}
			if i%4 == 2 {
				in(t, from, "git", "config", "core.autocrlf", "true")
			}
			if i%5 != 4 { // else the branch has no commit
				scramble(t, r, from, true)
				in(t, from, "git", "add", "-A")
				in(t, from, "git", "commit", "-q", "--allow-empty", "-m", "base")
			}
			scramble(t, r, from, false)
			to := t.TempDir()
			_, report, err := through(t, from, to, CaptureOptions{}, RestoreOptions{})
			if err != nil {
				t.Fatalf("%v\n%+v\n%s", err, report, status(t, from))
			}
			if i%5 == 4 {
				if a, b := filesOf(t, from), filesOf(t, to); a != b {
					t.Errorf("the files are\n%s\nnot\n%s", b, a)
				}
				if a, b := status(t, from), status(t, to); a != b {
					t.Errorf("the status is\n%s\nnot\n%s", b, a)
				}
				return
			}
			same(t, from, to)
			// And into a repository that has another state of it.
			clean := t.TempDir()
			in(t, clean, "git", "clone", "-q", from, ".")
			in(t, clean, "git", "checkout", "-q", "--detach")
			for name := range settings {
				if v := strings.TrimSpace(in(t, from, "git", "config", "--default", "", "--get", name)); v != "" {
					in(t, clean, "git", "config", name, v)
				}
			}
			in(t, clean, "git", "reset", "-q", "--hard")
			if out := in(t, clean, "git", "status", "--porcelain"); out != "" {
				return // ends of lines that never look clean
			}
			if _, report, err = through(t, from, clean, CaptureOptions{}, RestoreOptions{}); err != nil {
				t.Fatalf("into a clean repository: %v\n%+v\n%s", err, report, status(t, from))
			}
			if a, b := filesOf(t, from), filesOf(t, clean); a != b {
				t.Errorf("the files in a clean repository are\n%s\nnot\n%s", b, a)
			}
		})
	}
}

func stepNames(r *Report) string {
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name+":"+string(s.State))
	}
	return strings.Join(names, " ")
}

// Detached heads, stashes, other branches, marks of the index and a shallow history survive.
func TestRoundTripOfStates(t *testing.T) {
	needGit(t)
	from := repo(t)
	write(t, from, "a", "1\n")
	write(t, from, "b", "1\n")
	write(t, from, "c", "1\n")
	write(t, from, ".gitignore", "*.log\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "one")
	in(t, from, "git", "branch", "other")
	write(t, from, "a", "2\n")
	in(t, from, "git", "commit", "-qam", "two")
	write(t, from, "a", "stashed\n")
	in(t, from, "git", "stash", "-q")
	write(t, from, "a", "stashed again\n")
	write(t, from, "d", "untracked in a stash\n")
	in(t, from, "git", "stash", "push", "-q", "-u", "-m", "second")
	in(t, from, "git", "checkout", "-q", "--detach", "HEAD~1")
	write(t, from, "new", "intent\n")
	in(t, from, "git", "add", "-N", "new")
	in(t, from, "git", "update-index", "--assume-unchanged", "b")
	write(t, from, "b", "hidden change\n")
	in(t, from, "git", "update-index", "--skip-worktree", "c")
	os.Remove(filepath.Join(from, "c"))
	write(t, from, "secret.log", "ignored\n")
	in(t, from, "git", "config", "core.hooksPath", "/nowhere")
	write(t, from, ".git/info/exclude", "*.tmp\n")
	write(t, from, "x.tmp", "excluded\n")
	to := t.TempDir()
	c, report, err := through(t, from, to, CaptureOptions{}, RestoreOptions{})
	if err != nil {
		t.Fatalf("%v\n%+v", err, report)
	}
	os.Remove(filepath.Join(from, "secret.log"))
	os.Remove(filepath.Join(from, "x.tmp"))
	same(t, from, to)
	for _, args := range [][]string{{"stash", "list"}, {"stash", "show", "-p", "--include-untracked", "stash@{0}"}, {"for-each-ref", "refs/heads", "refs/stash"}, {"log", "--all", "--format=%H %s"}, {"ls-files", "-v"}} {
		args = append([]string{"git"}, args...)
		if a, b := in(t, from, args...), in(t, to, args...); a != b {
			t.Errorf("%v says\n%s\nnot\n%s", args, b, a)
		}
	}
	if c.Document.Workspace.Branch != "" || c.Document.Hanzo.Branch != "" {
		t.Errorf("detached, but on %q", c.Document.Workspace.Branch)
	}
	if want := "preflight:ok attachments:ok base:ok checkout:ok staged:skipped removed:ok files:ok marks:ok stashes:ok verify:ok"; stepNames(report) != strings.Replace(want, " removed:ok", "", 1) {
		t.Errorf("steps %s", stepNames(report))
	}
}

// Only what a remote lacks is in the bundle; the rest comes from there.
func TestBundleOfWhatTheRemoteLacks(t *testing.T) {
	needGit(t)
	origin := repo(t)
	write(t, origin, "a", strings.Repeat("large\n", 1000))
	in(t, origin, "git", "add", "-A")
	in(t, origin, "git", "commit", "-qm", "one")
	from := t.TempDir()
	in(t, from, "git", "clone", "-q", origin, ".")
	in(t, from, "git", "config", "user.name", "A")
	in(t, from, "git", "config", "user.email", "a@b")
	write(t, from, "b", "mine\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "mine")
	write(t, from, "b", "changed\n")
	// An address that only this configuration turns into a path stands for one elsewhere.
	config := filepath.Join(t.TempDir(), "gitconfig")
	write(t, filepath.Dir(config), "gitconfig", "[url \""+origin+"\"]\n\tinsteadOf = https://git.invalid/x\n")
	in(t, from, "git", "remote", "set-url", "origin", "https://git.invalid/x")
	env := append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "HOME=") || strings.HasPrefix(kv, "XDG_CONFIG_HOME=")
	}), "HOME="+t.TempDir())
	c, err := Capture(context.Background(), CaptureOptions{Dir: from, Temp: t.TempDir(), Env: env})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(c.Document.Hanzo.Needs) != 1 {
		t.Fatalf("needs %v", c.Document.Hanzo.Needs)
	}
	to := t.TempDir()
	home := t.TempDir()
	write(t, home, ".gitconfig", "[url \""+origin+"\"]\n\tinsteadOf = https://git.invalid/x\n")
	o := RestoreOptions{Dir: to, Document: c.Document, Open: c.Open, Temp: t.TempDir(), Env: append(env, "HOME="+home)}
	report, err := Restore(context.Background(), o)
	if err != nil {
		t.Fatalf("%v\n%+v", err, report)
	}
	if a, b := filesOf(t, from), filesOf(t, to); a != b {
		t.Errorf("the files are\n%s\nnot\n%s", b, a)
	}
	// Without the remote nothing is left behind.
	o.Dir, o.Env = t.TempDir(), env
	report, err = Restore(context.Background(), o)
	if err == nil || !report.RolledBack || report.Failed().Name != "base" {
		t.Fatalf("%v\n%+v", err, report)
	}
	if left, _ := os.ReadDir(o.Dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A history without its beginning stays one, and so does a repository of SHA-256.
func TestShallowAndSHA256(t *testing.T) {
	needGit(t)
	origin := repo(t)
	for _, text := range []string{"1\n", "2\n", "3\n"} {
		write(t, origin, "a", text)
		in(t, origin, "git", "add", "-A")
		in(t, origin, "git", "commit", "-qm", text)
	}
	shallow := t.TempDir()
	in(t, shallow, "git", "clone", "-q", "--depth=1", "file://"+filepath.ToSlash(origin), ".")
	in(t, shallow, "git", "config", "user.name", "A")
	in(t, shallow, "git", "config", "user.email", "a@b")
	in(t, shallow, "git", "commit", "-q", "--allow-empty", "-m", "mine")
	write(t, shallow, "a", "4\n")
	long := repo(t, "--object-format=sha256")
	write(t, long, "a", "1\n")
	in(t, long, "git", "add", "-A")
	in(t, long, "git", "commit", "-qm", "one")
	write(t, long, "a", "2\n")
	write(t, long, "b", "3\n")
	in(t, long, "git", "add", "b")
	for _, from := range []string{shallow, long} {
		to := t.TempDir()
		_, report, err := through(t, from, to, CaptureOptions{}, RestoreOptions{})
		if err != nil {
			t.Fatalf("%v\n%+v", err, report)
		}
		if a, b := filesOf(t, from), filesOf(t, to); a != b {
			t.Errorf("the files are\n%s\nnot\n%s", b, a)
		}
		for _, args := range [][]string{{"log", "--format=%H %s"}, {"status", "--porcelain=v2"}, {"rev-parse", "--is-shallow-repository", "--show-object-format"}} {
			args = append([]string{"git"}, args...)
			if a, b := in(t, from, args...), in(t, to, args...); a != b {
				t.Errorf("%v says\n%s\nnot\n%s", args, b, a)
			}
		}
		in(t, to, "git", "fsck")
	}
}

// What is too large is left out and named; what git knows and is too large refuses the whole.
func TestLimits(t *testing.T) {
	needGit(t)
	from := repo(t)
	write(t, from, "known", "1\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "one")
	write(t, from, "large", strings.Repeat("x", 2000))
	write(t, from, "small", "x")
	in(t, from, "git", "init", "-q", "nested")
	write(t, from, "nested/x", "1\n")
	o := CaptureOptions{Limits: Limits{File: 1000}}
	to := t.TempDir()
	c, _, err := through(t, from, to, o, RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(c.Document.Hanzo.Notes, "; "); !strings.Contains(notes, "large has 2000 bytes") || !strings.Contains(notes, "nested/") {
		t.Errorf("notes: %s", notes)
	}
	if got := filesOf(t, to); got != "\"known\" false 2 \"1\\n\"\n\"small\" false 1 \"x\"" {
		t.Errorf("restored: %s", got)
	}
	write(t, from, "known", strings.Repeat("x", 2000))
	o.Dir, o.Temp = from, t.TempDir()
	if _, err := Capture(context.Background(), o); err == nil || !strings.Contains(err.Error(), "known has 2000 bytes") {
		t.Errorf("too large: %v", err)
	}
	o.Lenient = true
	c, err = Capture(context.Background(), o)
	if err != nil || c.Document.Hanzo.Kind != KindNone || c.Document.Workspace.Diff == "" || len(c.Document.Hanzo.Attachments) != 0 {
		t.Fatalf("%v, %+v", err, c.Document.Hanzo)
	}
	c.Close()
	if left, _ := os.ReadDir(o.Temp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	// Below the top of a repository only version 1 is saved: the rest is not the workspace.
	write(t, from, "sub/x", "1\n")
	o = CaptureOptions{Dir: filepath.Join(from, "sub"), Temp: t.TempDir()}
	if c, err = Capture(context.Background(), o); err != nil || c.Document.Hanzo.Kind != KindNone || len(c.Document.Hanzo.Notes) != 1 {
		t.Fatalf("%v, %+v", err, c.Document.Hanzo)
	}
	c.Close()
	// A directory that is no repository: {} and, when asked for, its files.
	plain := t.TempDir()
	write(t, plain, "a/b", "1\n")
	if err := os.Mkdir(filepath.Join(plain, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "HOME="+t.TempDir())
	o = CaptureOptions{Dir: plain, Temp: t.TempDir(), Env: env}
	if c, err = Capture(context.Background(), o); err != nil || !strings.Contains(string(c.Raw), `"workspace": {},`) || len(c.Document.Hanzo.Attachments) != 0 {
		t.Fatalf("%v, %s", err, c.Raw)
	}
	c.Close()
	to = t.TempDir()
	if _, report, err := through(t, plain, to, CaptureOptions{Archive: true, Env: env}, RestoreOptions{}); err != nil || filesOf(t, to) != filesOf(t, plain) {
		t.Errorf("%v, %+v", err, report)
	}
	if info, err := os.Stat(filepath.Join(to, "empty")); err != nil || !info.IsDir() {
		t.Error("an empty directory is lost")
	}
}

// Large files pass through little memory.
func TestLargeFilesStream(t *testing.T) {
	needGit(t)
	if os.Getenv("ROBUST") == "" {
		t.Skip("one of `make robust`")
	}
	from := repo(t)
	f, err := os.Create(filepath.Join(from, "large"))
	if err != nil {
		t.Fatal(err)
	}
	src := rand.NewChaCha8([32]byte{})
	b := make([]byte, 1<<20)
	for range 512 {
		_, _ = src.Read(b) // never fails
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	in(t, from, "git", "commit", "-q", "--allow-empty", "-m", "one")
	var most atomic.Uint64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapInuse))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	began := time.Now()
	c, err := Capture(context.Background(), CaptureOptions{Dir: from, Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	captured := time.Since(began)
	r, w := io.Pipe()
	go func() { w.CloseWithError(c.WriteTo(context.Background(), w, nil)) }()
	got, err := Unpack(r, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	began = time.Now()
	to := t.TempDir()
	if report, err := Restore(context.Background(), RestoreOptions{Dir: to, Document: got.Document, Open: got.Open, Temp: t.TempDir()}); err != nil {
		t.Fatalf("%v, %+v", err, report)
	}
	restored := time.Since(began)
	close(stop)
	wg.Wait()
	t.Logf("512 MiB captured in %s, restored in %s, heap at most %d MiB", captured, restored, most.Load()>>20)
	if most.Load() > 64<<20 {
		t.Errorf("%d MiB of heap", most.Load()>>20)
	}
}
