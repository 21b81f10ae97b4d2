package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits of calls of git.
const (
	testTime  = 5 * time.Second  // the work-tree test (§1.9)
	askTime   = 10 * time.Second // the other questions of version 1
	cloneTime = 60 * time.Second // §1.10
	applyTime = 30 * time.Second
	// workTime bounds what may take long because there is much: packing, hashing, checking out.
	workTime = 10 * time.Minute
	// maxAnswer bounds what is kept of an answer, stderrKept of what git complains of.
	maxAnswer  = 64 << 20
	stderrKept = 200
	// pipeGrace is how long the output of children is waited for after git was ended.
	pipeGrace = 2 * time.Second
)

// Protocols are the ways to a remote that are allowed where nothing else is said. ext, which runs any program, is
// never among them.
var Protocols = []string{"file", "git", "http", "https", "ssh"}

var errTooMuch = errors.New("git says more than there is room for")

// git runs git in a directory so that nothing in there decides what else runs, nobody is asked for anything and
// nothing of the environment changes what it means.
type git struct {
	dir  string
	env  []string
	pre  []string
	path string
}

// newGit finds git. env is the environment of the process that git gets, without GIT_*; nil is that of this process.
func newGit(dir string, env, protocols []string) (*git, error) {
	if env == nil {
		env = os.Environ()
	}
	if protocols == nil {
		protocols = Protocols
	}
	path, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("git is not installed on this machine: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	g := &git{dir: dir, path: path}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "GIT_") || upper == "SSH_ASKPASS" || upper == "PAGER" || upper == "EDITOR" || upper == "VISUAL" || strings.HasPrefix(upper, "LC_") || upper == "LANGUAGE" {
			continue
		}
		g.env = append(g.env, kv)
	}
	allowed := slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return p == "ext" })
	g.env = append(g.env,
		"LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GCM_INTERACTIVE=never", "GIT_PAGER=cat", "GIT_EDITOR=:", "GIT_SSH_COMMAND=ssh -o BatchMode=yes",
		"GIT_OPTIONAL_LOCKS=0", "GIT_LITERAL_PATHSPECS=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL="+strings.Join(allowed, ":"),
	)
	for _, c := range []string{
		"core.hooksPath=" + os.DevNull, "core.fsmonitor=false", "core.pager=cat", "core.askPass=", "core.alternateRefsCommand=", "core.gitProxy=",
		"credential.interactive=false", "diff.external=", "diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.orderFile=" + os.DevNull, "diff.suppressBlankEmpty=false",
		"color.ui=false", "log.showSignature=false", "gc.auto=0", "maintenance.auto=false", "commit.gpgSign=false", "submodule.recurse=false",
		"fetch.recurseSubmodules=false", "protocol.ext.allow=never", "advice.detachedHead=false", "core.quotePath=true", "core.safecrlf=false",
	} {
		g.pre = append(g.pre, "-c", c)
	}
	return g, nil
}

// fence leaves the filter programs out that the repository itself names. Those of the person and of the machine
// stay: they were put there by somebody who may.
func (g *git) fence(ctx context.Context) error {
	out, err := g.ask(ctx, askTime, "config", "--local", "--includes", "-z", "--name-only", "--get-regexp", `^filter\..*\.(clean|smudge|process|required)$`)
	if err != nil && exitOf(err) != 1 {
		return err
	}
	for _, name := range split0(out) {
		value := ""
		if strings.HasSuffix(name, ".required") {
			value = "false"
		}
		if strings.ContainsAny(name, "=\n") {
			return fmt.Errorf("the repository names a filter program %q that cannot be left out", name)
		}
		g.pre = append(g.pre, "-c", name+"="+value)
	}
	return nil
}

// gitError is a call of git that failed; its text is the end of what git said.
type gitError struct {
	call   string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	if s := strings.TrimSpace(e.stderr); s != "" {
		return "git " + e.call + ": " + s
	}
	return "git " + e.call + ": " + e.err.Error()
}

func (e *gitError) Unwrap() error { return e.err }

func exitOf(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}

// run runs git with a limit of time, of which nothing of the group of processes is left when it returns.
func (g *git) run(ctx context.Context, limit time.Duration, in io.Reader, out io.Writer, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.path, slices.Concat(g.pre, args)...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.WaitDelay = g.dir, g.env, in, out, pipeGrace
	ownGroup(cmd)
	errOut := &tail{most: 64 << 10}
	cmd.Stderr = errOut
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if e := ctx.Err(); e != nil {
		err = e
	}
	return &gitError{args[0], string(errOut.b), err}
}

// ask returns what git answers.
func (g *git) ask(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	return g.feed(ctx, limit, nil, args...)
}

// feed is ask with something to read.
func (g *git) feed(ctx context.Context, limit time.Duration, in io.Reader, args ...string) (string, error) {
	b := &bounded{most: maxAnswer}
	if err := g.run(ctx, limit, in, b, args...); err != nil {
		return "", err
	}
	return b.String(), nil
}

// text is ask without the end of the line, and "" when git fails (§1.9).
func (g *git) text(ctx context.Context, limit time.Duration, args ...string) string {
	out, err := g.ask(ctx, limit, args...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// bounded keeps up to a number of bytes and fails beyond.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}

// tail keeps the last bytes.
type tail struct {
	b    []byte
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - t.most; over > 0 {
		t.b = slices.Delete(t.b, 0, over)
	}
	return len(p), nil
}

func split0(s string) []string {
	s = strings.TrimSuffix(s, "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}

// remoteOf says how a remote is reached: a protocol, "" when it is no address that git may be handed.
func remoteOf(address string) string {
	if address == "" || address[0] == '-' || strings.ContainsAny(address, "\x00\n\r") || strings.Contains(address, "::") {
		return ""
	}
	if protocol, _, ok := strings.Cut(address, "://"); ok {
		return strings.ToLower(protocol)
	}
	if colon := strings.IndexByte(address, ':'); colon > 1 && !strings.Contains(address[:colon], "/") && !filepath.IsAbs(address) {
		return "ssh" // host:path
	}
	return "file"
}

// checkRemote refuses addresses that are options or lead to a protocol that is not allowed.
func checkRemote(address string, protocols []string) error {
	if protocols == nil {
		protocols = Protocols
	}
	p := remoteOf(address)
	switch {
	case p == "" || p == "ext":
		return fmt.Errorf("%q cannot be the address of a remote", bare(address))
	case !slices.Contains(protocols, p):
		return fmt.Errorf("the remote %q is reached by %s, which is not allowed here (allowed: %s)", bare(address), p, strings.Join(protocols, ", "))
	case strings.Contains(address, "://-") || strings.Contains(address, "@-"):
		return fmt.Errorf("%q cannot be the address of a remote", bare(address))
	}
	return nil
}

// bare is an address without the password in it.
func bare(address string) string {
	i := strings.Index(address, "://")
	if i < 0 {
		return address
	}
	u, err := url.Parse(address)
	if err != nil {
		// Whatever it is, nothing before the last @ is shown.
		if at := strings.LastIndexByte(address, '@'); at > i {
			return address[:i+3] + address[at+1:]
		}
		return address
	}
	if u.User == nil {
		return address
	}
	if _, has := u.User.Password(); !has {
		if u.Scheme == "http" || u.Scheme == "https" {
			u.User = nil // a token may stand for the name
			return u.String()
		}
		return address
	}
	u.User = url.User(u.User.Username())
	return u.String()
}
