// Package service makes hanzod a service of the operating system: systemd, launchd, the service manager
// of Windows, OpenRC and System V. A user's service runs for one person; the machine's starts at boot.
//
// It imports nothing of ours. The texts of the definitions are our own, the rest is the library's. It
// owns no goroutine beyond a call.
package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"

	"github.com/kardianos/service"
)

const (
	// Name is what service managers call hanzod, Label what launchd does.
	Name  = "hanzod"
	Label = "ai.hanzo.hanzod"

	description = "hanzod, the runtime of a personal AI assistant"

	// watchdogTime is how long a daemon may say nothing before systemd restarts it; it speaks three
	// times as often.
	watchdogTime = 30 * time.Second
	// startTime and stopTime bound a start and a stop. A stop drains for three seconds at most.
	startTime = 60 * time.Second
	stopTime  = 15 * time.Second
	// abortTime is how long a daemon that the watchdog ends may take to write where it stood.
	abortTime = 5 * time.Second
	// restartAfter is the first pause before a restart, restartMax the longest of those that follow.
	restartAfter = time.Second
	restartMax   = 30 * time.Second
	// refusedExit is the exit code of a configuration or a state that no restart mends.
	refusedExit = 78
	// openFiles is the limit of open files: a connection takes one, a terminal three.
	openFiles = 65536
)

// Spec is what is to be installed.
type Spec struct {
	// System is a service of the machine, which starts before anybody logs on; otherwise it is one of
	// the user who installs it.
	System bool
	// RunAs is the account of a service of the machine.
	RunAs string
	// Executable is the absolute path of hanzod, Args what it is run with.
	Executable string
	Args       []string
	// Env is added to the little that a service manager gives.
	Env map[string]string
	// Commands says that the service runs commands of people and agents: the sandbox then leaves them
	// what a login has.
	Commands bool
	// StateDir is the state directory, Home the home directory of the account.
	StateDir, Home string
}

// State is how a service stands.
type State struct {
	// Manager is the service manager of this machine, Definition the file that it reads, where there is
	// one.
	Manager    string `json:"manager"`
	Definition string `json:"definition,omitempty"`
	System     bool   `json:"system"`
	Installed  bool   `json:"installed"`
	Running    bool   `json:"running"`
	// Changed says that the definition is not the one that this hanzod would install.
	Changed bool `json:"changed"`
}

// Errors that a person can do something about.
var (
	ErrNotInstalled = errors.New("the service is not installed; install it with: hanzod service install")
	ErrInstalled    = errors.New("the service is installed already; replace it with: hanzod service install --force")
	ErrNoManager    = errors.New("no service manager that hanzod knows runs this machine; run hanzod from the one you have, with: hanzod run")
)

// Service is hanzod as a service of this machine. Its methods are not safe for concurrent use.
type Service struct {
	spec Spec
	svc  service.Service
}

// New returns the service; nothing is asked or changed yet. It fails with ErrNoManager where there is no
// service manager, and where a user's service is wanted that the manager does not have.
func New(spec Spec) (*Service, error) {
	s := &Service{spec: spec}
	platform := service.Platform()
	if platform == "" || platform == "unix-systemv" && !hasSysV() {
		return nil, ErrNoManager
	}
	if !spec.System && platform != "linux-systemd" && platform != "darwin-launchd" {
		return nil, fmt.Errorf("%s has no services of users; install one of the machine with: hanzod service install --system", platform)
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	cfg := definition(spec)
	if runtime.GOOS == "darwin" {
		cfg.Name = Label
	}
	var err error
	if s.svc, err = service.New(program{}, cfg); err != nil {
		return nil, fmt.Errorf("prepare the service: %w", err)
	}
	return s, nil
}

// definition is what the library is told. Managers that read a file get the text of ours; what is beside
// that is for Windows: started at boot, before anybody logs on, and again after a failure.
func definition(spec Spec) *service.Config {
	cfg := &service.Config{
		Name: Name, DisplayName: "hanzod", Description: description,
		Executable: spec.Executable, Arguments: spec.Args, EnvVars: spec.Env,
		Option: service.KeyValue{
			"UserService": !spec.System, "SystemdScript": Systemd(spec),
			"LaunchdConfig": Launchd(spec), "OpenRCScript": OpenRC(spec),
			"SysvScript": SysV(spec),
			"OnFailure":  "restart", "OnFailureDelayDuration": restartMax.String(), "OnFailureResetPeriod": 60,
			"DelayedAutoStart": false,
		},
	}
	if spec.System {
		cfg.UserName = spec.RunAs
	}
	return cfg
}

// check refuses words that a definition cannot hold.
func (s Spec) check() error {
	if strings.ContainsAny(s.Executable, "\"'<>&;|\\\n") && runtime.GOOS != "windows" {
		return fmt.Errorf("service managers take no program in a directory with such a name: %s; put hanzod elsewhere", s.Executable)
	}
	words := append([]string{s.Executable, s.StateDir, s.Home}, s.Args...)
	for k, v := range s.Env {
		words = append(words, k, v)
	}
	for _, w := range words {
		if strings.Contains(w, "{{") || strings.ContainsFunc(w, unicode.IsControl) {
			return fmt.Errorf("%q cannot stand in the definition of a service", w)
		}
	}
	return nil
}

// hasSysV reports whether there is something that starts what System V would: the library takes it for
// what is left when it knows nothing better.
func hasSysV() bool {
	fi, err := os.Stat("/etc/init.d")
	if err != nil || !fi.IsDir() {
		return false
	}
	_, err = exec.LookPath("update-rc.d")
	if err != nil {
		_, err = exec.LookPath("chkconfig")
	}
	return err == nil
}

// program is what the library runs. It matters on Windows alone, where the service manager speaks to the
// process.
type program struct {
	start func() error
	stop  func() error
}

func (p program) Start(service.Service) error {
	if p.start == nil {
		return nil
	}
	return p.start()
}

func (p program) Stop(service.Service) error {
	if p.stop == nil {
		return nil
	}
	return p.stop()
}

// Under names the service manager that started this process: systemd, launchd or windows; "" where none
// is known to have. It reads what TakeNotifier takes away.
func Under() string {
	switch {
	case runtime.GOOS == "windows" && !service.Interactive():
		return "windows"
	case runtime.GOOS == "darwin" && os.Getenv("XPC_SERVICE_NAME") == Label:
		return "launchd"
	case os.Getenv("NOTIFY_SOCKET") != "":
		return "systemd"
	}
	return ""
}

// Host runs the daemon as this process was started: under the service manager of Windows as its service,
// elsewhere as it is. exit ends the process when the daemon ends unasked there: the service manager takes
// anything else for a stop.
func Host(ctx context.Context, run func(context.Context) error, exit func(error)) error {
	if runtime.GOOS != "windows" || service.Interactive() {
		return run(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	p := program{
		start: func() error {
			go func() {
				err := run(ctx)
				ended <- err
				if ctx.Err() == nil {
					exit(err)
				}
			}()
			return nil
		},
		stop: func() error {
			cancel()
			select {
			case err := <-ended:
				return err
			case <-time.After(stopTime):
				return errors.New("the daemon did not stop in time")
			}
		},
	}
	svc, err := service.New(p, &service.Config{Name: Name})
	if err != nil {
		return err
	}
	return svc.Run()
}

// Path is the file of the definition, "" where the manager keeps it elsewhere.
func (s *Service) Path() string {
	switch s.svc.Platform() {
	case "linux-systemd":
		if s.spec.System {
			return "/etc/systemd/system/" + Name + ".service"
		}
		return filepath.Join(s.spec.Home, ".config/systemd/user", Name+".service")
	case "darwin-launchd":
		if s.spec.System {
			return "/Library/LaunchDaemons/" + Label + ".plist"
		}
		return filepath.Join(s.spec.Home, "Library/LaunchAgents", Label+".plist")
	case "linux-openrc", "unix-systemv":
		return "/etc/init.d/" + Name
	}
	return ""
}

// UnitFile is where the definition of a service of the machine or of this user is, whoever made it; "" where
// the system has no such file.
func UnitFile(system bool) string {
	home, err := os.UserHomeDir()
	if err != nil && !system {
		return ""
	}
	s, err := New(Spec{System: system, Executable: "/hanzod", Home: home})
	if err != nil {
		return ""
	}
	return s.Path()
}

// definition is the text that Install would write, "" where the manager takes none.
func (s *Service) definition() string {
	switch s.svc.Platform() {
	case "linux-systemd":
		return Systemd(s.spec)
	case "darwin-launchd":
		return Launchd(s.spec)
	case "linux-openrc":
		return OpenRC(s.spec)
	case "unix-systemv":
		return SysV(s.spec)
	}
	return ""
}

// Status asks the service manager.
func (s *Service) Status() (State, error) {
	st := State{Manager: manager(s.svc.Platform()), Definition: s.Path(), System: s.spec.System}
	got, err := s.svc.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
	case err != nil && !strings.Contains(err.Error(), "failed state"):
		return st, fmt.Errorf("ask %s about the service: %w", st.Manager, explain(err))
	default:
		st.Installed, st.Running = true, err == nil && got == service.StatusRunning
	}
	if path := s.Path(); path != "" {
		text, err := os.ReadFile(path)
		if st.Installed = err == nil; err == nil {
			st.Changed = string(text) != s.definition()
		}
		st.Running = st.Running && st.Installed
	}
	return st, nil
}

// manager is what people call the service manager.
func manager(platform string) string {
	switch platform {
	case "linux-systemd":
		return "systemd"
	case "darwin-launchd":
		return "launchd"
	case "linux-openrc":
		return "OpenRC"
	case "unix-systemv":
		return "System V init"
	case "windows-service":
		return "the Windows service manager"
	}
	return platform
}

// Install writes the definition and has the service started at boot or log-on, without starting it now.
// With force it replaces a definition that is there; otherwise that is ErrInstalled.
func (s *Service) Install(force bool) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if st.Installed {
		if !force {
			return ErrInstalled
		}
		if err := s.Uninstall(); err != nil {
			return err
		}
	}
	if err := s.svc.Install(); err != nil {
		// Half of it would be in the way of the next attempt.
		if path := s.Path(); path != "" && !st.Installed {
			if rm := os.Remove(path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
				err = errors.Join(err, rm)
			}
		}
		return fmt.Errorf("install the service: %w", explain(err))
	}
	return nil
}

// Uninstall stops the service and removes its definition. The state stays.
func (s *Service) Uninstall() error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if !st.Installed {
		return ErrNotInstalled
	}
	if st.Running {
		if err := s.svc.Stop(); err != nil {
			return fmt.Errorf("stop the service: %w", explain(err))
		}
	}
	if err := s.svc.Uninstall(); err != nil {
		return fmt.Errorf("remove the service: %w", explain(err))
	}
	return nil
}

// Control starts, stops or restarts the service.
func (s *Service) Control(action string) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if !st.Installed {
		return ErrNotInstalled
	}
	switch action {
	case "start":
		if st.Running {
			return nil
		}
		err = s.svc.Start()
	case "stop":
		if !st.Running {
			return nil
		}
		err = s.svc.Stop()
	case "restart":
		err = s.svc.Restart()
	default:
		return fmt.Errorf("no such action: %s", action)
	}
	if err != nil {
		err = fmt.Errorf("%s the service: %w", action, explain(err))
		if action != "stop" {
			err = fmt.Errorf("%w\nSee why with: hanzod service logs", err)
		}
	}
	return err
}

// explain adds what a person can do to the errors of service managers that have no type.
func explain(err error) error {
	switch text := err.Error(); {
	case errors.Is(err, fs.ErrPermission), strings.Contains(text, "Access denied"), strings.Contains(text, "ermission denied"),
		strings.Contains(text, "Interactive authentication required"), strings.Contains(text, "Access is denied"):
		return fmt.Errorf("%w\na service of the machine is installed by its administrator: use sudo, or leave out --system", err)
	case strings.Contains(text, "Failed to connect to bus"):
		return fmt.Errorf("%w\nno service manager runs for this user here: log in (not by su or sudo), or set XDG_RUNTIME_DIR, or use --system", err)
	}
	return err
}

// Log is the command that shows what the service said, nil where that is in the log file alone.
func (s *Service) Log(ctx context.Context, lines int, follow bool) *exec.Cmd {
	if s.svc.Platform() != "linux-systemd" {
		return nil
	}
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return nil
	}
	args := []string{"--no-pager", "--output=cat", fmt.Sprintf("--lines=%d", lines)}
	if follow {
		args = append(args, "--follow")
	}
	if s.spec.System {
		args = append(args, "--unit="+Name)
	} else {
		args = append(args, "--user-unit="+Name)
	}
	return exec.CommandContext(ctx, path, args...)
}

// Lingers reports whether the services of a user run while the user is not logged in. known is false
// where that question has no meaning.
func (s *Service) Lingers() (lingers, known bool) {
	if s.svc.Platform() != "linux-systemd" || s.spec.System {
		return false, false
	}
	u, err := user.Current()
	if err != nil {
		return false, false
	}
	_, err = os.Stat("/var/lib/systemd/linger/" + u.Username)
	return err == nil, true
}
