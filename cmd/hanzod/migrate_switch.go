package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/checks"
	"github.com/hanzoai/hanzod/runtime/original"
	"github.com/hanzoai/hanzod/runtime/service"
)

// freeTime is how long the port may take to become free behind the service that had it.
const freeTime = 20 * time.Second

// switching is the change from the gateway of the original to hanzod, around an import.
type switching struct {
	in     io.Reader
	out    io.Writer // what is done, for people
	flags  migrateFlags
	at     runtime.MigrateIn
	port   int
	found  original.Found
	asking bool
}

// legacyPort is the port that the original listens on (config.md §1).
func legacyPort(at runtime.MigrateIn) int {
	path := at.LegacyConfig
	if path == "" {
		for _, name := range []string{"openclaw.json", "clawdbot.json", "moldbot.json", "moltbot.json"} {
			if p := filepath.Join(at.Legacy, name); exists(p) {
				path = p
				break
			}
		}
	}
	if path != "" {
		if c, err := config.Load(config.Options{Path: path, StateDir: at.Legacy, Unresolved: true}); err == nil {
			return c.Gateway.Port
		}
	}
	for _, name := range []string{"OPENCLAW_GATEWAY_PORT", "CLAWDBOT_GATEWAY_PORT"} {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
			return n
		}
	}
	return config.DefaultPort
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func newSwitching(cmd *cobra.Command, errOut io.Writer, f migrateFlags, at runtime.MigrateIn, profile string) *switching {
	s := &switching{in: cmd.InOrStdin(), out: errOut, flags: f, at: at, port: legacyPort(at)}
	s.found = original.Find(cmd.Context(), profile, s.port)
	in, ok := s.in.(*os.File)
	s.asking = ok && !f.yes && !f.dry && term.IsTerminal(int(in.Fd()))
	return s
}

// ask asks for a yes, where there is somebody to ask.
func (s *switching) ask(question string) bool {
	if !s.asking {
		return false
	}
	fmt.Fprintf(s.out, "%s Type yes: ", question)
	line, _ := bufio.NewReader(io.LimitReader(s.in, 64)).ReadString('\n') // no answer is no
	return strings.TrimSpace(line) == "yes"
}

// before says what runs of the original, and stops its service where that is wanted. What runs on makes this a first
// copy.
func (s *switching) before(ctx context.Context) error {
	for _, v := range s.found.Services {
		what, state := "gateway", "stopped"
		if v.Node {
			what = "node host"
		}
		if v.Active {
			state = "running"
		}
		fmt.Fprintf(s.out, "The original's %s is the service %s, which is %s.\n", what, v.Name, state)
		if v.Node {
			fmt.Fprintln(s.out, "  It is left alone: it connects to hanzod as it did before.")
		}
	}
	if s.found.Listens {
		who := "Something"
		if s.found.Gateway {
			who = "A gateway"
		}
		if s.found.PID != 0 {
			who += fmt.Sprintf(" (process %d, %s)", s.found.PID, plain(s.found.Program))
		}
		fmt.Fprintf(s.out, "%s listens on port %d.\n", who, s.port)
	}
	v := s.found.Running()
	switch {
	case v == nil:
	case s.flags.dry:
		fmt.Fprintf(s.out, "  It would be stopped, when that is wanted (--stop): %s\n", strings.Join(v.StopCommands(), "; "))
	case s.flags.stop || s.ask("Stop the service "+v.Name+", and keep it from starting by itself? Clients lose their connection until hanzod runs."):
		if err := v.Stop(ctx); err != nil {
			return fmt.Errorf("the service %s was not stopped; nothing was imported: %w", v.Name, err)
		}
		if err := original.Free(ctx, s.port, freeTime); err != nil {
			return fmt.Errorf("the service %s was stopped, and %w: stop who listens there and run this again (back: %s)", v.Name, err, strings.Join(v.BackCommands(), "; "))
		}
		fmt.Fprintf(s.out, "The service %s is stopped.\n", v.Name)
		s.found.Listens = false
		return nil
	}
	if s.found.Listens && s.found.Gateway && !s.flags.dry {
		fmt.Fprintln(s.out, "It goes on meanwhile, so this is a first copy: stop it and run this again for the rest.")
		if v == nil {
			fmt.Fprintln(s.out, "  No service runs it: end it where it was started.")
		}
	}
	return nil
}

// after verifies that clients could connect, starts hanzod where that is wanted, and says how it goes on and how back.
func (s *switching) after(cmd *cobra.Command, out io.Writer, got runtime.MigrateOut) error {
	if len(got.Clients) > 0 {
		fmt.Fprintln(out, "\nclients that were paired:")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, c := range got.Clients {
			state, seen := "connects", "never"
			if !c.Connects {
				state = "does not connect: " + c.Why
			}
			if !c.LastSeen.IsZero() {
				seen = c.LastSeen.Local().Format(time.DateTime)
			}
			fmt.Fprintf(w, "  %s\t%s\t%.12s\tlast seen %s\t%s\n", plain(c.Name), c.Role, c.DeviceID, seen, state)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if s.flags.dry {
		return nil
	}
	running := s.found.Listens && s.found.Gateway
	started := false
	switch {
	case running:
		fmt.Fprintf(out, "\nThe original still has port %d. Next: stop it, run this again, and then: hanzod service install\n", s.port)
		if v := s.found.Running(); v != nil {
			fmt.Fprintln(out, "  hanzod migrate --stop does the first two.")
		}
	case s.found.Listens:
		fmt.Fprintf(out, "\nPort %d is taken by another program. Stop it, or choose another one with gateway.port.\n", s.port)
	case s.flags.start || s.ask("Install hanzod as a service of yours, and start it?"):
		if err := s.start(cmd, out); err != nil {
			return fmt.Errorf("the import is done; %w", err)
		}
		started = true
	default:
		fmt.Fprintln(out, "\nNext: hanzod service install (or try it first: hanzod run)")
	}
	if started {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
		if !checks.IsGateway(cmd.Context(), address) {
			return fmt.Errorf("the import is done and the service was started, but nobody answers on %s as a gateway: hanzod doctor", address)
		}
		fmt.Fprintf(out, "hanzod answers on %s; clients connect by themselves.\n", address)
	}
	s.back(out)
	return nil
}

// start has hanzod's service run: it is installed, unless it is there already.
func (s *switching) start(cmd *cobra.Command, out io.Writer) error {
	if svc, spec, err := installed(false); err == nil {
		if spec.StateDir != s.at.StateDir {
			return fmt.Errorf("the service of hanzod that is installed uses %s, not %s: hanzod service install --force --state-dir %s", spec.StateDir, s.at.StateDir, s.at.StateDir)
		}
		return control(cmd.Context(), out, svc, spec, "start", "started")
	} else if !errors.Is(err, service.ErrNotInstalled) {
		return err
	}
	return install(cmd, out, installFlags{stateDir: s.flags.stateDir})
}

// back says how the original takes over again.
func (s *switching) back(out io.Writer) {
	fmt.Fprintf(out, "\nTo go back: %s is as it was.\n", plain(s.at.Legacy))
	fmt.Fprintln(out, "  hanzod service stop")
	fmt.Fprintln(out, "  hanzod migrate --export NEWDIR     when something that came since is to be kept: then the original")
	fmt.Fprintln(out, "                                     runs on it with OPENCLAW_STATE_DIR=NEWDIR, and reads")
	fmt.Fprintln(out, "                                     exec-approvals.json in ~/.openclaw only: copy it there")
	brought := false
	for _, v := range s.found.Services {
		if v.Node {
			continue
		}
		for _, line := range v.BackCommands() {
			fmt.Fprintln(out, "  "+line)
			brought = true
		}
	}
	if !brought {
		fmt.Fprintln(out, "  start the original's gateway as you did before")
	}
}
