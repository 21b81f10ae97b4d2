package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/service"
	"github.com/hanzoai/hanzod/store"
)

const (
	// readyTime is how long a start waits for the daemon to answer.
	readyTime = 30 * time.Second
	// readyEvery is how often it is asked, tailEvery how often a log file is looked at for more.
	readyEvery = 50 * time.Millisecond
	tailEvery  = 300 * time.Millisecond
	// maxSocket is how long the path of a socket may be on every system (sun_path of darwin has 104 bytes). A
	// longer one would be in the runtime directory of a login, which a service of the machine has none of.
	maxSocket = 103
	// maxTail bounds how much of the end of a log file is read for its last lines, in bytes.
	maxTail = 4 << 20
)

func serviceCmd(out, errOut io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "Install and control hanzod as a background service",
		Long: `service makes hanzod a service of this user or, with --system, of the machine, so that
it is there after log-on or boot. It uses the service manager of the system: systemd,
launchd, Windows services, OpenRC or System V init.

A service of a user runs as that user and needs no rights. Under systemd it ends when the
user logs out, unless the user lingers: loginctl enable-linger.
A service of the machine starts before anybody logs on. It needs an administrator, and
--run-as names the account that it runs as: commands of nodes run as that account.`,
		Example: `  hanzod service install --node
  sudo hanzod service install --system --run-as alice --bind lan
  hanzod service status
  hanzod service logs --follow
  hanzod service upgrade --binary ./hanzod`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q\nRun 'hanzod service --help' for the commands", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(serviceInstallCmd(out), serviceUninstallCmd(out), serviceStatusCmd(out), serviceLogsCmd(out, errOut), serviceUpgradeCmd(out))
	for _, x := range []struct{ action, short, done string }{
		{"start", "Start the service", "started"}, {"stop", "Stop the service", "stopped"}, {"restart", "Restart the service", "restarted"},
	} {
		c.AddCommand(serviceControlCmd(out, x.action, x.short, x.done))
	}
	return c
}

// systemFlag adds the flag that all of them have.
func systemFlag(c *cobra.Command, system *bool) {
	c.Flags().BoolVar(system, "system", false, "the service of the machine instead of this user's")
}

// installed returns the service as it was installed. Without --system it is this user's when there is
// one, else the machine's.
func installed(system bool) (*service.Service, service.Spec, error) {
	spec, err := service.Load(system)
	if !system && errors.Is(err, service.ErrNotInstalled) {
		if s, other := service.Load(true); other == nil {
			spec, err = s, nil
		}
	}
	if err != nil {
		return nil, spec, err
	}
	s, err := service.New(spec)
	return s, spec, err
}

type installFlags struct {
	system, node, force, noStart bool

	runAs, bind, stateDir, config string
	port                          int
	env                           []string
}

func serviceInstallCmd(out io.Writer) *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use: "install", Short: "Install the service and start it", Args: noArgs,
		Long: `install writes the definition of the service, has it started at log-on or boot, starts it
and waits until it answers. The program stays where it is: put it in a lasting place first.

What the daemon is to do belongs in its configuration file; the flags here are those of
"hanzod run" that differ between a service and a try.`,
		Example: `  hanzod service install --node
  sudo hanzod service install --system --run-as alice
  hanzod service install --force --bind lan     (change how it is run)`,
		RunE: func(cmd *cobra.Command, _ []string) error { return install(cmd, out, f) },
	}
	systemFlag(c, &f.system)
	fl := c.Flags()
	fl.StringVar(&f.runAs, "run-as", "", "account of a service of the machine (default the one who called sudo)")
	fl.BoolVar(&f.node, "node", false, "run a node host for this machine inside the daemon")
	fl.StringVar(&f.bind, "bind", "", "loopback, lan, tailnet, auto or custom (default as configured)")
	fl.IntVar(&f.port, "port", 0, "TCP port (default as configured)")
	fl.StringVar(&f.stateDir, "state-dir", "", "state directory (default .hanzo/hanzod in the home of the account)")
	fl.StringVar(&f.config, "config", "", "configuration file (default <state-dir>/config.json)")
	fl.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the daemon; may be repeated; not for secrets, others can read it")
	fl.BoolVar(&f.force, "force", false, "replace a service that is installed")
	fl.BoolVar(&f.noStart, "no-start", false, "install it, and do not start it now")
	return c
}

// install installs the service and starts it.
func install(cmd *cobra.Command, out io.Writer, f installFlags) error {
	spec, err := f.spec(cmd)
	if err != nil {
		return err
	}
	if err := rival(spec); err != nil && !f.force {
		return err
	}
	s, err := service.New(spec)
	if err != nil {
		return err
	}
	if err := makeState(spec); err != nil {
		return err
	}
	if err := s.Install(f.force); err != nil {
		return err
	}
	if err := spec.Save(); err != nil {
		return err
	}
	if path := s.Path(); path != "" {
		fmt.Fprintln(out, "installed "+path)
	} else {
		fmt.Fprintln(out, "installed the service "+service.Name)
	}
	if !f.noStart {
		if err := control(cmd.Context(), out, s, spec, "start", "started"); err != nil {
			return err
		}
	}
	if lingers, known := s.Lingers(); known && !lingers {
		fmt.Fprintln(out, "It ends when you log out. To keep it: loginctl enable-linger")
	}
	return nil
}

// spec makes the definition from the flags.
func (f *installFlags) spec(cmd *cobra.Command) (service.Spec, error) {
	spec := service.Spec{System: f.system, Commands: f.node, Env: map[string]string{}}
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return spec, fmt.Errorf("find out where hanzod is: %w", err)
	}
	if temporary(exe) {
		return spec, usageError{fmt.Errorf("%s is in a directory for temporary files; copy hanzod to a lasting place and install it from there", exe)}
	}
	spec.Executable = exe
	account, err := f.account()
	if err != nil {
		return spec, err
	}
	spec.Home = account.HomeDir
	if home, err := os.UserHomeDir(); err == nil && !f.system {
		spec.Home = home // service managers of users go by it too
	}
	if f.system {
		spec.RunAs = account.Username
		if goruntime.GOOS == "windows" {
			spec.RunAs = "" // the account of the service manager; another one needs its password
		}
	}
	spec.StateDir = filepath.Join(spec.Home, ".hanzo", "hanzod")
	spec.Args = []string{"run"}
	for _, x := range []struct {
		flag string
		path *string
	}{{"--state-dir", &f.stateDir}, {"--config", &f.config}} {
		if *x.path == "" {
			continue
		}
		abs, err := filepath.Abs(*x.path)
		if err != nil {
			return spec, err
		}
		spec.Args = append(spec.Args, x.flag, abs)
		if x.flag == "--state-dir" {
			spec.StateDir = abs
		}
	}
	if f.node {
		spec.Args = append(spec.Args, "--node")
	}
	if f.bind != "" {
		spec.Args = append(spec.Args, "--bind", f.bind)
	}
	if cmd.Flags().Changed("port") {
		spec.Args = append(spec.Args, "--port", strconv.Itoa(f.port))
	}
	for _, kv := range f.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsAny(k, " \t\n") {
			return spec, usageError{fmt.Errorf("--env %q must have the form NAME=VALUE", kv)}
		}
		spec.Env[k] = v
	}
	// What would only be found out by the service, where nobody looks, is found out here.
	if goruntime.GOOS != "windows" && f.system && len(filepath.Join(spec.StateDir, "hanzod.sock")) > maxSocket {
		return spec, usageError{fmt.Errorf("the path of the state directory is too long for a socket in it (%s); name a shorter one with --state-dir", spec.StateDir)}
	}
	opts := config.Options{Path: f.config, StateDir: spec.StateDir, Bind: f.bind}
	if cmd.Flags().Changed("port") {
		opts.Port = &f.port
	}
	err = asAccount(spec.RunAs, func() error {
		_, err := config.Load(opts)
		return err
	})
	if err != nil {
		return spec, configError{err}
	}
	return spec, nil
}

// makeState makes the directories that the service manager expects to be there, as the account that they
// belong to: a service that is shut in could not make them itself.
func makeState(spec service.Spec) error {
	err := asAccount(spec.RunAs, func() error { return os.MkdirAll(filepath.Join(spec.StateDir, "logs"), 0o700) })
	if err != nil && spec.RunAs != "" {
		return fmt.Errorf("make the state directory as %s: %w\nMake the home directory of that account first, or name a directory of its own with --state-dir", spec.RunAs, err)
	}
	return err
}

// rival refuses a service that would get in the way of another one: one of the machine and one of the user
// would want the same state or the same port, and whoever comes second would not start.
func rival(spec service.Spec) error {
	other, err := service.Load(!spec.System)
	if err != nil {
		return nil //nolint:nilerr // none is known, and that is all that is asked
	}
	whose := "of this user"
	uninstall := "hanzod service uninstall"
	if other.System {
		whose, uninstall = "of the machine", "sudo hanzod service uninstall --system"
	}
	why := ""
	if other.StateDir == spec.StateDir {
		why = "the state directory " + spec.StateDir
	} else if a, b := servicePort(spec), servicePort(other); a != 0 && a == b {
		why = fmt.Sprintf("the TCP port %d", a)
	}
	if why == "" {
		return nil
	}
	return fmt.Errorf("a service %s is installed as well, and both want %s\nRemove that one with: %s\nOr give this one its own with --state-dir and --port", whose, why, uninstall)
}

// servicePort is the port that a service will take, 0 for any or when its configuration cannot be read.
func servicePort(spec service.Spec) (port int) {
	opts := config.Options{StateDir: spec.StateDir}
	for i, w := range spec.Args[:max(0, len(spec.Args)-1)] {
		switch w {
		case "--config":
			opts.Path = spec.Args[i+1]
		case "--port":
			if n, err := strconv.Atoi(spec.Args[i+1]); err == nil {
				opts.Port = &n
			}
		}
	}
	_ = asAccount(spec.RunAs, func() error {
		cfg, err := config.Load(opts)
		if err == nil {
			port = cfg.Gateway.Port
		}
		return err
	})
	return port
}

// account is whose service it is to be.
func (f *installFlags) account() (*user.User, error) {
	if by := os.Getenv("SUDO_USER"); !f.system && by != "" && by != "root" {
		return nil, usageError{fmt.Errorf("sudo would make this a service of root: leave out sudo for one of %s, or add --system --run-as %s for one that starts at boot", by, by)}
	}
	if !f.system {
		if f.runAs != "" {
			return nil, usageError{errors.New("--run-as belongs to --system: a user's service runs as that user")}
		}
		return user.Current()
	}
	name := f.runAs
	if name == "" {
		name = os.Getenv("SUDO_USER")
	}
	if name == "" && goruntime.GOOS != "windows" {
		return nil, usageError{errors.New("name the account that the service runs as with --run-as; commands of nodes run as that account, so root is rarely right")}
	}
	if name == "" {
		return user.Current()
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("--run-as: %w", err)
	}
	return u, nil
}

// temporary reports whether a program will not be there for long.
func temporary(exe string) bool {
	dirs := []string{os.TempDir()}
	if cache, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(cache, "go-build"))
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		rel, err := filepath.Rel(dir, exe)
		return err == nil && filepath.IsLocal(rel)
	})
}

func serviceControlCmd(out io.Writer, action, short, done string) *cobra.Command {
	var system bool
	c := &cobra.Command{
		Use: action, Short: short, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, spec, err := installed(system)
			if err != nil {
				return err
			}
			return control(cmd.Context(), out, s, spec, action, done)
		},
	}
	systemFlag(c, &system)
	return c
}

// ask asks the daemon of a service for its version and process.
func ask(ctx context.Context, spec service.Spec) (version string, pid int, err error) {
	err = asAccount(spec.RunAs, func() (err error) {
		version, pid, err = runtime.Ask(ctx, spec.StateDir)
		return err
	})
	return version, pid, err
}

// control does it and, when a daemon is to run then, waits until it answers.
func control(ctx context.Context, out io.Writer, s *service.Service, spec service.Spec, action, done string) error {
	if err := s.Control(action); err != nil {
		return err
	}
	if action == "stop" {
		fmt.Fprintln(out, done)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		version, pid, err := ask(ctx, spec)
		if err == nil {
			fmt.Fprintf(out, "%s: hanzod %s, process %d\n", done, version, pid)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the service was %s, but the daemon does not answer: %w\nSee why with: hanzod service logs", done, err)
		}
	}
}

func serviceUninstallCmd(out io.Writer) *cobra.Command {
	var system, purge, yes bool
	c := &cobra.Command{
		Use: "uninstall", Short: "Stop the service and remove it", Args: noArgs,
		Long: `uninstall stops the service and removes its definition. State and configuration stay, so
that it can be installed again as it was.

With --purge the state directory goes too: devices, tokens, approvals, the audit log. That
is asked for, unless --yes says so.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, spec, err := installed(system)
			if err != nil {
				return err
			}
			if purge && !yes {
				if err := confirm(cmd.InOrStdin(), out, spec.StateDir); err != nil {
					return err
				}
			}
			if err := s.Uninstall(); err != nil && !errors.Is(err, service.ErrNotInstalled) {
				return err
			}
			if err := spec.Forget(); err != nil {
				return err
			}
			if !purge {
				fmt.Fprintln(out, "removed the service; the state stays in "+spec.StateDir)
				return nil
			}
			if err := asAccount(spec.RunAs, func() error { return store.Purge(spec.StateDir) }); err != nil {
				return err
			}
			fmt.Fprintln(out, "removed the service and "+spec.StateDir)
			return nil
		},
	}
	systemFlag(c, &system)
	c.Flags().BoolVar(&purge, "purge", false, "remove the state directory too")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirm asks before what cannot be undone.
func confirm(in io.Reader, out io.Writer, dir string) error {
	fmt.Fprintf(out, "This removes %s: devices, tokens, approvals and the audit log, for good.\nType yes to go on: ", dir)
	line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was removed: it was not answered with yes (where nobody can answer, say --yes)")
	}
	return nil
}

// serviceState is what status says.
type serviceState struct {
	service.State
	StateDir string `json:"stateDir"`
	Command  string `json:"command"`
	RunAs    string `json:"runAs,omitempty"`
	Version  string `json:"version,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Answers  bool   `json:"answers"`
	// Missing says that the program is not where the service looks for it.
	Missing bool `json:"missing,omitempty"`
	// Renew is how to install the service as it is again.
	Renew string `json:"renew,omitempty"`
}

// renew is the command that installs a service again with what it was installed with.
func renew(spec service.Spec) string {
	words := []string{"hanzod", "service", "install", "--force"}
	if spec.System {
		words = append([]string{"sudo"}, words...)
		words = append(words, "--system")
		if spec.RunAs != "" {
			words = append(words, "--run-as", spec.RunAs)
		}
	}
	words = append(words, spec.Args[min(1, len(spec.Args)):]...)
	for _, k := range slices.Sorted(maps.Keys(spec.Env)) {
		words = append(words, "--env", k+"="+spec.Env[k])
	}
	for i, w := range words {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./=:@,+", r)
		}) {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

func serviceStatusCmd(out io.Writer) *cobra.Command {
	var system bool
	var output string
	c := &cobra.Command{
		Use: "status", Short: "Say how the service stands", Args: noArgs,
		Long: `status says how the service stands: what the service manager knows, and whether the daemon
answers. It exits with 0 when the daemon answers, with 3 when the service is stopped and
with 1 when it is not installed or does not answer.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output %q must be text or json", output)}
			}
			s, spec, err := installed(system)
			if errors.Is(err, service.ErrNotInstalled) && output == "json" {
				// For programs, that there is none is an answer, too.
				return errors.Join(json.NewEncoder(out).Encode(serviceState{}), err)
			}
			if err != nil {
				return err
			}
			st := serviceState{StateDir: spec.StateDir, Command: strings.Join(append([]string{spec.Executable}, spec.Args...), " "), RunAs: spec.RunAs}
			if st.State, err = s.Status(); err != nil {
				return err
			}
			if _, err := os.Stat(spec.Executable); errors.Is(err, fs.ErrNotExist) {
				st.Missing = true
			}
			if st.Changed || st.Missing {
				st.Renew = renew(spec)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			if st.Version, st.PID, err = ask(ctx, spec); err == nil {
				st.Answers = true
			}
			if output == "json" {
				e := json.NewEncoder(out)
				e.SetIndent("", "  ")
				if err := e.Encode(st); err != nil {
					return err
				}
			} else {
				st.print(out)
			}
			switch {
			case st.Answers:
				return nil
			case st.Installed && !st.Running:
				return stoppedError{}
			default:
				return errors.New("the daemon does not answer; see why with: hanzod service logs")
			}
		},
	}
	systemFlag(c, &system)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// stoppedError ends status for a service that is stopped, as service managers do.
type stoppedError struct{}

func (stoppedError) Error() string {
	return "the service is stopped; start it with: hanzod service start"
}

func (st serviceState) print(out io.Writer) {
	whose := "of this user"
	if st.System {
		whose = "of the machine"
	}
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(out, "%-12s %s\n", name, text)
		}
	}
	switch {
	case !st.Installed:
		row("service", "not installed")
	case st.Running:
		row("service", "running, "+whose+", by "+st.Manager)
	default:
		row("service", "stopped, "+whose+", by "+st.Manager)
	}
	if st.Answers {
		row("daemon", fmt.Sprintf("hanzod %s answers, process %d", st.Version, st.PID))
	} else {
		row("daemon", "does not answer")
	}
	row("runs", st.Command)
	row("as", st.RunAs)
	row("state", st.StateDir)
	row("definition", st.Definition)
	switch {
	case st.Missing:
		row("", "the program is not there; install the service from where it is now, with: "+st.Renew)
	case st.Changed:
		row("", "the definition was changed, or is of another hanzod; renew it with: "+st.Renew)
	}
}

func serviceLogsCmd(out, errOut io.Writer) *cobra.Command {
	var system, follow bool
	var lines int
	c := &cobra.Command{
		Use: "logs", Short: "Show what the service said", Args: noArgs,
		Long: `logs shows the last lines that the service wrote: from the journal under systemd, from the
log file of the daemon elsewhere.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 1 || lines > 100_000 {
				return usageError{errors.New("--lines must be from 1 to 100000")}
			}
			s, spec, err := installed(system)
			if err != nil {
				return err
			}
			if j := s.Log(cmd.Context(), lines, follow); j != nil {
				heard := &heard{w: out}
				j.Stdout, j.Stderr = heard, errOut
				err := j.Run()
				if cmd.Context().Err() != nil {
					return nil //nolint:nilerr // told to stop following
				}
				if heard.any {
					return err
				}
				// The journal keeps nothing here, or not for this user: the daemon's own file does.
			}
			opts := config.Options{StateDir: spec.StateDir}
			if i := slices.Index(spec.Args, "--config"); i >= 0 {
				opts.Path = spec.Args[i+1]
			}
			return asAccount(spec.RunAs, func() error {
				cfg, err := config.Load(opts)
				if err != nil {
					return configError{err}
				}
				return tail(cmd.Context(), out, cfg.Logging.File, lines, follow)
			})
		},
	}
	systemFlag(c, &system)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	c.Flags().IntVarP(&lines, "lines", "n", 100, "how many lines")
	return c
}

// heard passes on what a journal says, but for its word that it has nothing to say.
type heard struct {
	w   io.Writer
	any bool
}

func (h *heard) Write(p []byte) (int, error) {
	if !h.any && strings.TrimSpace(string(p)) == "-- No entries --" {
		return len(p), nil
	}
	h.any = h.any || len(p) > 0
	return h.w.Write(p)
}

// tail prints the last lines of a file and, when told to follow, what is added to it, also after it was
// put aside for a new one.
func tail(ctx context.Context, out io.Writer, path string, lines int, follow bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	text := make([]byte, min(fi.Size(), maxTail))
	n, err := f.ReadAt(text, fi.Size()-int64(len(text)))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	text = text[:n]
	all := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	for _, l := range all[max(0, len(all)-lines):] {
		if _, err := io.WriteString(out, strings.TrimSuffix(l, "\n")+"\n"); err != nil {
			return err
		}
	}
	at := fi.Size()
	for follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailEvery):
		}
		n, err := io.Copy(out, io.NewSectionReader(f, at, 1<<40))
		at += n
		if err != nil {
			return err
		}
		if now, err := os.Stat(path); err == nil && !os.SameFile(now, fi) {
			next, err := os.Open(path)
			if err != nil {
				continue // it is being put in place
			}
			f.Close()
			f, fi, at = next, now, 0
		}
	}
	return nil
}

func serviceUpgradeCmd(out io.Writer) *cobra.Command {
	var system, oneWay bool
	var binary string
	c := &cobra.Command{
		Use: "upgrade --binary FILE", Short: "Replace the program of the service and restart it", Args: noArgs,
		Long: `upgrade puts another hanzod in the place of the installed one and restarts the service.
The daemon drains first; clients and nodes are told and come back by themselves, and what
was acknowledged is there. When the new program does not come up, the old one is put back
and serves on with the same database.

A program that would change the database so that the installed one could not read it any
more is refused, because there would be no way back. Make a backup, and say --one-way.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if binary == "" {
				return usageError{errors.New("name the new program with --binary")}
			}
			path, err := filepath.Abs(binary)
			if err != nil {
				return err
			}
			s, spec, err := installed(system)
			if err != nil {
				return err
			}
			return s.Upgrade(cmd.Context(), service.UpgradeOptions{
				Binary: path, OneWay: oneWay,
				Running: func(ctx context.Context) (string, int, error) { return ask(ctx, spec) }, Say: func(step string) { fmt.Fprintln(out, step) },
			})
		},
	}
	systemFlag(c, &system)
	c.Flags().StringVar(&binary, "binary", "", "the new program")
	c.Flags().BoolVar(&oneWay, "one-way", false, "also when the installed program could not read the database any more")
	return c
}
