package skills

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// Limits of an installation.
const (
	installTime     = 5 * time.Minute
	minInstallTime  = time.Second
	maxInstallTime  = 15 * time.Minute
	maxOutput       = 64 << 10 // of each stream, its end
	maxOutputInText = 400
	// outputWait is how long the output of a program that has ended may stay open.
	outputWait = 2 * time.Second
)

// InstallIn names a skill and one of its ways to install what it needs. Timeout is 5 minutes when zero, and
// from a second to 15 minutes otherwise.
type InstallIn struct {
	Name, InstallID string
	Timeout         time.Duration
}

// InstallOut is how an installation went. Code is nil where no program ran to its end.
type InstallOut struct {
	OK                      bool
	Message, Stdout, Stderr string
	Code                    *int
	Warnings                []string
}

// Install installs what a skill needs, by the program that its front matter names or by a download. How it
// went is the result; an installation that failed is no error. One runs at a time. Its program gets no
// shell, no terminal and none of the daemon's secrets, and ends with all that it started.
// Errors: ErrBusy.
func (s *Service) Install(ctx context.Context, c identity.Caller, in InstallIn) (InstallOut, error) {
	limit := in.Timeout
	if limit == 0 {
		limit = installTime
	}
	ctx, cancel := context.WithTimeout(ctx, max(minInstallTime, min(limit, maxInstallTime)))
	defer cancel()
	v := s.views.Of(s.cfg.Current())
	l := s.look(v.Config)
	all := l.found(v.Workspace(v.DefaultID))
	i := slices.IndexFunc(all, func(f found) bool { return f.meta.Name == in.Name })
	if i < 0 {
		return InstallOut{Message: "Skill not found: " + in.Name}, nil
	}
	f := all[i]
	at := -1
	for n, spec := range f.meta.Install {
		if spec.id(n) == in.InstallID {
			at = n
			break
		}
	}
	if at < 0 {
		return InstallOut{Message: "Installer not found: " + in.InstallID}, nil
	}
	select {
	case s.one <- struct{}{}:
		defer func() { <-s.one }()
	default:
		return InstallOut{}, ErrBusy
	}
	spec := f.meta.Install[at]
	if s.cfg.Record != nil {
		if err := s.cfg.Record(ctx, c, "the skill "+f.meta.Name+" gets what it needs, by "+spec.Kind); err != nil {
			return InstallOut{}, err
		}
	}
	out := s.install(ctx, v.Config, l, f, spec)
	if len(spec.OS) > 0 && !slices.Contains(spec.OS, platform()) {
		out.Warnings = append(out.Warnings, "this installer is made for "+strings.Join(spec.OS, ", "))
	}
	s.cfg.Log.Info("a skill was installed for", "skill", f.meta.Name, "kind", spec.Kind, "ok", out.OK, "message", out.Message)
	return out, nil
}

func (s *Service) install(ctx context.Context, c *config.Config, l *look, f found, spec Installer) InstallOut {
	if spec.Kind == kindDownload {
		return s.download(ctx, c, f, spec)
	}
	argv, problem := command(spec, l.nodeManager())
	if problem != "" {
		return InstallOut{Message: problem}
	}
	path, ok := locate(argv[0])
	if !ok {
		return InstallOut{Message: absent(argv[0], spec)}
	}
	return s.run(ctx, path, argv)
}

// absent says what to do about a program that installs and is not there.
func absent(program string, spec Installer) string {
	switch program {
	case "brew":
		return `brew not installed — install Homebrew from https://brew.sh, or install "` + spec.Formula + `" with the package manager of the system`
	case "uv":
		return "uv not installed — see https://docs.astral.sh/uv/getting-started/installation/"
	case "go":
		return "go not installed — see https://go.dev/doc/install"
	}
	return program + " not installed — install it, or choose another one with skills.install.nodeManager"
}

// What an installer is given is a name and never a flag, a path or another source.
var (
	formulaName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@+._/-]*$`)
	packageName = regexp.MustCompile(`^@?[A-Za-z0-9][A-Za-z0-9._/-]*(\[[A-Za-z0-9,._-]+\])?((@|==|~=|>=)[A-Za-z0-9][A-Za-z0-9.+_-]*)?$`)
	modulePath  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*\.[A-Za-z]+(/[A-Za-z0-9._~-]+)*(@[A-Za-z0-9][A-Za-z0-9.+_-]*)?$`)
)

// command is what installs, or why there is none.
func command(spec Installer, nodeManager string) (argv []string, problem string) {
	bad := func(what, name string, shape *regexp.Regexp) string {
		switch {
		case name == "":
			return "missing " + what
		case !shape.MatchString(name) || strings.Contains(name, ".."):
			return "invalid " + what + ": " + name
		}
		return ""
	}
	switch spec.Kind {
	case kindBrew:
		return []string{"brew", "install", spec.Formula}, bad("brew formula", spec.Formula, formulaName)
	case kindGo:
		return []string{"go", "install", spec.Module}, bad("go module", spec.Module, modulePath)
	case kindUV:
		return []string{"uv", "tool", "install", spec.Package}, bad("uv package", spec.Package, packageName)
	case kindNode:
		argv = map[string][]string{
			"npm":  {"npm", "install", "-g", "--ignore-scripts"},
			"pnpm": {"pnpm", "add", "-g", "--ignore-scripts"},
			"yarn": {"yarn", "global", "add", "--ignore-scripts"},
			"bun":  {"bun", "add", "-g", "--ignore-scripts"},
		}[nodeManager]
		return append(argv, spec.Package), bad("node package", spec.Package, packageName)
	}
	return nil, "unsupported installer"
}

// run runs a program to its end, or until the time is over.
func (s *Service) run(ctx context.Context, path string, argv []string) InstallOut {
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = withoutSecrets(s.cfg.Environ())
	cmd.Dir = os.TempDir()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputWait
	ownGroup(cmd)
	began := time.Now()
	err := cmd.Run()
	endGroup(cmd)
	out := InstallOut{Stdout: stdout.String(), Stderr: stderr.String()}
	if p := cmd.ProcessState; p != nil && p.Exited() {
		code := p.ExitCode()
		out.Code = &code
	}
	_, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && out.Code != nil && *out.Code == 0:
		out.OK, out.Message = true, "Installed"
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.Message = fmt.Sprintf("Install failed (timed out after %ds)", int(time.Since(began).Round(time.Second)/time.Second))
	case ctx.Err() != nil:
		out.Message = "Install failed (cancelled)"
	case out.Code != nil:
		out.Message = "Install failed (exit " + strconv.Itoa(*out.Code) + ")"
	case ended:
		out.Message = "Install failed (it was ended by a signal)"
	default:
		out.Message = "Install failed: " + err.Error()
	}
	if said := lastLine(out.Stderr, out.Stdout); !out.OK && said != "" {
		out.Message += ": " + said
	}
	return out
}

// lastLine is the last line that says something.
func lastLine(texts ...string) string {
	for _, text := range texts {
		for _, line := range slices.Backward(strings.Split(text, "\n")) {
			if line = strings.Join(strings.Fields(line), " "); line != "" {
				return strings.ToValidUTF8(line[:min(len(line), maxOutputInText)], "")
			}
		}
	}
	return ""
}

var secretName = regexp.MustCompile(`(?i)TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|AUTHKEY|PRIVATE_?KEY|CREDENTIAL|HANZOD_ENROLL`)

// withoutSecrets leaves out what the programs of others need not know.
func withoutSecrets(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return secretName.MatchString(name)
	})
}

// tail keeps the end of what is written.
type tail struct {
	mu  sync.Mutex
	b   []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > maxOutput {
		p, t.cut = p[len(p)-maxOutput:], true
	}
	if over := len(t.b) + len(p) - maxOutput; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
	t.b = append(t.b, p...)
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.b), "\uFFFD"))
	if t.cut {
		return "…" + text
	}
	return text
}

// toolsDir is where downloads of a skill go.
func toolsDir(c *config.Config, key string) string {
	return filepath.Join(c.StateDir, "tools", config.AgentID(key))
}
