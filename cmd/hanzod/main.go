// Command hanzod is the daemon, and the node host that connects to one.
//
// It holds flags and wiring only: what it runs is in runtime.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/runtime/service"
	"github.com/hanzoai/hanzod/store"
)

// The exit codes of hanzod.
const (
	exitFailure = 1  // anything without a code of its own
	exitUsage   = 2  // a wrong flag or argument
	exitStopped = 3  // "service status" of a service that is stopped, as service managers have it
	exitConfig  = 78 // the configuration, or a state that cannot be used: a restart does not help
)

func main() { os.Exit(Main()) }

// Main runs the command of this process and returns its exit code.
func Main() int {
	stops := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		stops = append(stops, syscall.SIGHUP) // the terminal was closed
	}
	ctx, stop := signal.NotifyContext(context.Background(), stops...)
	defer stop()
	// When the reader of our output goes away, a log line is lost, and nothing else. It is caught, not
	// ignored, because the commands of the node would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	root := rootCmd(os.Stdout, os.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil || (ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return 0 // done, or told to stop before it had started
	}
	if _, told := errors.AsType[problemsError](err); !told {
		fmt.Fprintln(os.Stderr, "hanzod: "+err.Error())
	}
	return exitCode(err)
}

// fail ends the process of a service whose daemon ended.
func fail(err error) {
	if err == nil {
		err = errors.New("the daemon ended although nobody told it to")
	}
	fmt.Fprintln(os.Stderr, "hanzod: "+err.Error())
	os.Exit(exitCode(err))
}

// exitCode is the exit code for an error that ended the command.
func exitCode(err error) int {
	var usage usageError
	var bad configError
	var refused *config.Refused
	var stopped stoppedError
	var unread *runtime.ConfigError
	if _, ok := errors.AsType[unavailableError](err); ok {
		return exitUnavailable
	}
	if _, ok := errors.AsType[foreignError](err); ok {
		return exitForeign
	}
	switch {
	case errors.As(err, &stopped):
		return exitStopped
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &bad), errors.As(err, &refused), errors.As(err, &unread):
		return exitConfig
	case errors.Is(err, store.ErrLocked), errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrForeign),
		errors.Is(err, store.ErrNewer), errors.Is(err, backup.ErrUnfinished), errors.Is(err, runtime.ErrMigrating):
		return exitConfig
	default:
		return exitFailure
	}
}

// problemsError ends a command that told already what is wrong.
type problemsError struct{}

func (problemsError) Error() string { return "there are problems" }

// usageError is a wrong command line.
type usageError struct{ error }

// configError is a configuration that cannot be read or does not hold.
type configError struct{ error }

// docsCmd makes the command that writes man pages and the like; builds with the tag "docs" have it.
var docsCmd func(root *cobra.Command) *cobra.Command

func rootCmd(out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "hanzod",
		Short: "The runtime of a personal AI assistant",
		Long: `hanzod is the one runtime a personal AI assistant needs on a machine: a gateway that
operators and nodes connect to, and a node host that runs approved commands.

Talk to a running daemon with hanzoctl.`,
		Example: `  hanzod run --node       start the daemon with a node host for this machine
  hanzod node --host box  offer this machine to the gateway on another one`,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q\nRun 'hanzod --help' for the commands", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(out)
	root.SetErr(errOut)
	if docsCmd != nil {
		root.AddCommand(docsCmd(root))
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nRun '%s --help' for the flags", err, c.CommandPath())}
	})
	root.AddCommand(runCmd(out, errOut), nodeCmd(out, errOut), tlsCmd(out, errOut), serviceCmd(out, errOut),
		doctorCmd(out), backupCmd(out, errOut), restoreCmd(out, errOut), migrateCmd(out, errOut), connectCmd(os.Stdin, out), versionCmd(out), environTopic())
	return root
}

func versionCmd(out io.Writer) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Long: `version prints the version of this program. With --output json it also says which schema of
the database it writes, and the oldest schema whose hanzod can read that.`,
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "text":
				_, err := fmt.Fprintln(out, "hanzod "+runtime.Version)
				return err
			case "json":
				newest, readable := store.Schema()
				return json.NewEncoder(out).Encode(service.Facts{Version: runtime.Version, Schema: newest, ReadableFrom: readable})
			}
			return usageError{fmt.Errorf("--output %q must be text or json", output)}
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// stateFlags are the flags that say where configuration and state are.
type stateFlags struct {
	config, stateDir string
}

func (f *stateFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.config, "config", "", "configuration file (default <state-dir>/config.json)")
	c.Flags().StringVar(&f.stateDir, "state-dir", "", "state directory (default ~/.hanzo/hanzod)")
}

func runCmd(out, errOut io.Writer) *cobra.Command {
	var (
		where stateFlags
		port  int
		grpc  int
		bind  string
		node  bool
		tail  bool

		companion string
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `run starts the daemon and serves until it is told to stop (Ctrl-C, SIGTERM, or SIGHUP
when its terminal is closed).

The first start makes the state directory and a token for clients on other machines.
Clients on this machine use the socket in the state directory and need no token.

What the node host of --node runs is said by exec-approvals.json in the state directory; where that
says nothing by tools.exec.security and tools.exec.ask of the configuration, of an agent
before the general ones; then by HANZOD_EXEC_SECURITY and HANZOD_EXEC_ASK; else it is allowlist and
on-miss. What runs on any node has to pass the policy rules first: see "hanzoctl policy --help".

With --tailnet the daemon is a machine of its own on a tailnet (Tailscale, or headscale with
gateway.tailnet.controlUrl) and serves the same ports there, to whom gateway.tailnet.grants names
and to nobody else. HANZOD_TS_AUTHKEY, TS_AUTHKEY or gateway.tailnet.authKeyFile let it in;
without a key it prints an address for somebody to open. It takes the build with the tag "tailnet".

With a bind beyond this machine, hanzoctl and nodes on other machines reach the daemon by
gRPC over TLS on the port after the TCP port. See "hanzod tls" for its certificate.

It starts from the environment alone as well, as containers do: see "hanzod help environment".

Exit codes: 0 stopped as asked, 1 failed, 2 wrong flags, 78 the configuration is not
valid, another daemon holds the state directory, or its database is damaged, not
hanzod's or of a newer version.`,
		Example: `  hanzod run
  hanzod run --node
  hanzod run --bind lan
  hanzod run --tailnet
  hanzod run --port 0 --state-dir /tmp/try`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts := config.Options{Path: where.config, StateDir: where.stateDir, Bind: bind, Tailnet: tail}
			if tail && !runtime.TailnetBuilt {
				return usageError{fmt.Errorf("--tailnet: %w", runtime.ErrNoTailnet)}
			}
			if cmd.Flags().Changed("port") {
				opts.Port = &port
			}
			if cmd.Flags().Changed("grpc-port") {
				opts.GRPCPort = &grpc
			}
			if err := finishRestore(errOut, opts); err != nil {
				return err
			}
			if err := finishedMigration(opts); err != nil {
				return err
			}
			if companion == "" {
				companion = environ.Value("HANZOD_COMPANION")
			}
			program, env := ownProgram(), os.Environ() // before something is taken out of it
			under := service.Under()                   // before what says so is taken out of the environment
			if err := endChildrenWithMe(); err != nil {
				fmt.Fprintln(errOut, "hanzod: "+err.Error()+"; commands may outlive the daemon")
			}
			manager := service.TakeNotifier()
			withNode := func(cfg *config.Config) bool { return node || cfg.NodeHost.Embedded && !cmd.Flags().Changed("node") }
			return service.Host(cmd.Context(), func(ctx context.Context) error {
				return runtime.Serve(ctx, runtime.ServeOptions{
					Load: opts, Exec: execWith(env), Program: program, UpdateDir: environ.Value("HANZOD_UPDATE_DIR"),
					Options: func(cfg *config.Config) (runtime.Options, error) {
						return runtime.Options{
							Console: console(cfg.Logging.ConsoleOutput, out, errOut), Node: withNode(cfg), Companion: companion,
							NodeSecurity: environ.Value("HANZOD_EXEC_SECURITY"), NodeAsk: environ.Value("HANZOD_EXEC_ASK"),
							Restarting:      manager.Restarting,
							SharedDiscovery: client.SharedDiscoveryFile(os.Getenv), Service: under,
						}, nil
					},
					Each: eachDaemon(manager, func(d *runtime.Daemon, cfg *config.Config) {
						if cfg.Logging.ConsoleStyle != "json" { // somebody reads lines there who is no person
							welcome(errOut, d, cfg, withNode(cfg))
						}
					}),
				})
			}, fail)
		},
	}
	where.add(c)
	c.Flags().IntVar(&port, "port", config.DefaultPort, "TCP port; 0 takes a free one")
	c.Flags().IntVar(&grpc, "grpc-port", config.DefaultPort+1, "TCP port of gRPC over TLS, and open it in any case; 0 takes a free one")
	c.Flags().StringVar(&bind, "bind", "", "loopback, lan, tailnet, auto or custom (default loopback)")
	c.Flags().BoolVar(&node, "node", false, "run a node host for this machine inside the daemon")
	c.Flags().BoolVar(&tail, "tailnet", false, "be a machine of a tailnet and serve there too (build tag tailnet)")
	companionFlag(c.Flags(), &companion)
	return c
}

// ownProgram is the path of this program, as it was started; "" when nobody knows.
func ownProgram() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		return real
	}
	return self
}

// eachDaemon stands by each daemon of the process: the service manager hears how it is, and people at the
// console, once, what runs.
func eachDaemon(manager service.Notifier, welcome func(*runtime.Daemon, *config.Config)) func(context.Context, *runtime.Daemon) {
	var once sync.Once
	return func(ctx context.Context, d *runtime.Daemon) {
		var telling sync.WaitGroup
		telling.Go(func() { manager.Run(ctx, d.Ready(), d.Summary, d.Probe, d.Log()) })
		telling.Go(func() { service.Reap(ctx, d.Log()) })
		select {
		case <-d.Ready():
			once.Do(func() { welcome(d, d.Started()) })
		case <-ctx.Done():
		}
		telling.Wait()
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, got %q", c.CommandPath(), args)}
	}
	return nil
}

// welcome says what runs and what to do next.
func welcome(w io.Writer, d *runtime.Daemon, cfg *config.Config, node bool) {
	ctl := ctlName()
	if socket := environ.Value("HANZOD_STATE_DIR"); socket == "" && !defaultState(cfg) {
		ctl += " --state-dir " + cfg.StateDir
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nhanzod %s is ready.\n", runtime.Version)
	fmt.Fprintf(&b, "  socket  %s\n", d.Socket())
	fmt.Fprintf(&b, "  port    %s\n", strings.Join(d.Addresses(), ", "))
	if addr := d.GRPCAddress(); addr != "" {
		fmt.Fprintf(&b, "  grpc    %s\n", addr)
	}
	if pin := d.TLSFingerprint(); pin != "" {
		fmt.Fprintf(&b, "  tls     sha256:%s\n", pin)
	}
	fmt.Fprintf(&b, "  state   %s\n", cfg.StateDir)
	if d.TokenMade {
		fmt.Fprintf(&b, "A token for other machines was made; see it with: %s token\n", ctl)
	}
	if cfg.LegacyDir != "" {
		fmt.Fprintf(&b, "%s holds the state of an older gateway; it is left alone. Bring it over: hanzod migrate\n", cfg.LegacyDir)
	}
	b.WriteString("\nTry in another terminal:\n")
	fmt.Fprintf(&b, "  %s nodes list\n", ctl)
	if node {
		fmt.Fprintf(&b, "  %s nodes run %s -- uname -a\n", ctl, d.NodeName())
		fmt.Fprintf(&b, "  %s approve        (in a third one, to let it run)\n", ctl)
	} else {
		fmt.Fprintf(&b, "  hanzod node         (to offer this machine as a node)\n")
		fmt.Fprintf(&b, "  %s status\n", ctl)
	}
	b.WriteString("Stop with Ctrl-C.\n\n")
	_, _ = io.WriteString(w, b.String()) // a closed terminal is no reason to stop
}

func defaultState(cfg *config.Config) bool {
	return cfg.StateDir == filepath.Join(cfg.Home, ".hanzo", "hanzod")
}

// ctlName is how to call hanzoctl from here: by name when the shell would find it, else by the
// path of the one beside this program.
func ctlName() string {
	if _, err := exec.LookPath("hanzoctl"); err == nil {
		return "hanzoctl"
	}
	self, err := os.Executable()
	if err != nil {
		return "hanzoctl"
	}
	beside := filepath.Join(filepath.Dir(self), "hanzoctl")
	if _, err := os.Stat(beside); err != nil {
		return "hanzoctl"
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, beside); err == nil && !strings.HasPrefix(rel, "..") {
			return "./" + rel
		}
	}
	return beside
}
