package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/service"
)

// maxInvite bounds an invite code that is read, in bytes; they are a few hundred.
const maxInvite = 64 << 10

// inviteFrom reads an invite code: from stdin for "-", from a file for "@FILE", else it is the text
// itself.
func inviteFrom(arg string) (string, error) {
	in := io.Reader(os.Stdin)
	if file, ok := strings.CutPrefix(arg, "@"); ok {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	} else if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInvite+1))
	if err == nil && len(text) > maxInvite {
		err = errors.New("the invite is too long to be one")
	}
	return strings.TrimSpace(string(text)), err
}

func nodeCmd(out, errOut io.Writer) *cobra.Command {
	var (
		o         runtime.NodeOptions
		tokenFile string
		cfgFile   string
		invite    string
	)
	c := &cobra.Command{
		Use:   "node",
		Short: "Offer this machine to a gateway as a node",
		Long: `node connects out to a gateway (hanzod or an older one) and runs the commands that it is
asked to run, as far as this machine's exec approvals file allows or an operator approves.

It keeps an identity of its own and reconnects by itself. Gateway and name are remembered
for the next start.

The daemon of this user is reached by its socket and needs no token. Another machine is
known by the fingerprint of its certificate ("hanzod tls fingerprint" there prints it) and
is reached by gRPC over TLS on the port after --port, or by WebSocket over TLS where a
gateway has no gRPC. A gateway that cannot be trusted, or refuses, is never tried in
another way.

The short way: "hanzoctl devices invite --role node" on the machine of the daemon prints
one line to run here. Its code is good for ten minutes and for one machine; - reads it from
stdin and @FILE from a file.

What runs is said by exec-approvals.json in the node's state directory. Where that says nothing,
tools.exec.security and tools.exec.ask of the configuration count (--config, or config.json
in the node's state directory), of an agent before the general ones; then --security and --ask,
or HANZOD_EXEC_SECURITY and HANZOD_EXEC_ASK; else it is allowlist and on-miss.

With --tunnel, or TUNNEL_URL where no gateway is named, the machine is an instance of a relay or of
another hanzod instead, as Hanzo's agent bridge is one: TUNNEL_URL, INSTANCE_ID, APP_KIND, WORKSPACE_DIR and
S3_* are enough. "hanzod node commands" lists what it serves.

The gateway's token is read from --token-file, HANZOD_TOKEN_FILE or HANZOD_TOKEN. A node that was
paired or enrolled needs none. All of it can be said by the environment alone: see "hanzod help
environment".`,
		Example: `  hanzod node                                   the daemon of this user
  echo CODE | hanzod node --enroll -
  hanzod node --host hanzod://box.lan --tls-fingerprint AB:CD:… --token-file token
  hanzod node --host old.lan --port 18789 --tls-fingerprint AB:CD:…
  HANZOD_TOKEN=… hanzod node --display-name "build box"
  TUNNEL_URL=wss://app.hanzo.bot/v1/tunnel hanzod node
  hanzod node --tunnel ws://127.0.0.1:18789/v1/tunnel --token-file key --count 4`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := endChildrenWithMe(); err != nil {
				fmt.Fprintln(errOut, "hanzod: "+err.Error()+"; commands may outlive the node host")
			}
			var err error
			if o.Token, err = secretOf(tokenFile, "HANZOD_TOKEN"); err != nil {
				return usageError{err}
			}
			if o.Password, err = secretOf("", "HANZOD_PASSWORD"); err != nil {
				return usageError{err}
			}
			if invite != "" {
				if o.Enroll, err = inviteFrom(invite); err != nil {
					return usageError{err}
				}
				if o.Enroll == "" {
					return usageError{errors.New("the invite is empty; copy the whole line that \"hanzoctl devices invite --role node\" printed")}
				}
			}
			if err := nodeEnviron(&o, out, errOut, cmd.Flags().Changed); err != nil {
				return usageError{err}
			}
			if o.StateDir == "" {
				if o.StateDir, err = nodeStateDir(); err != nil && o.Tunnel == nil {
					return err
				}
			}
			cfg, err := nodeConfig(cfgFile, o.StateDir)
			if err != nil {
				return err
			}
			if cfg != nil {
				o.Current = func() *config.Config { return cfg }
			}
			var reaping sync.WaitGroup
			ctx, done := context.WithCancel(cmd.Context())
			reaping.Go(func() { service.Reap(ctx, slog.New(slog.DiscardHandler)) })
			err = runtime.RunNode(ctx, o)
			done()
			reaping.Wait()
			if errs.ClassOf(err) == errs.Invalid {
				return usageError{err}
			}
			return err
		},
	}
	c.AddCommand(nodeCommandsCmd(out))
	f := c.Flags()
	f.StringVar(&o.StateDir, "state-dir", "", "the node's own state directory (default ~/.hanzo/node)")
	f.StringVar(&cfgFile, "config", "", "configuration file, of which tools.exec, agents.list and nodeHost.files count (default <state-dir>/config.json, where there is one)")
	f.StringVar(&invite, "enroll", "", "invite code of a daemon: - for stdin, @FILE, or the code")
	f.StringVar(&o.Host, "host", "", "host of the gateway, or hanzod://host[:port] for gRPC alone (default the last one, then this machine)")
	f.IntVar(&o.Port, "port", 0, "WebSocket port of the gateway (default the last one, then 18789)")
	f.IntVar(&o.GRPCPort, "grpc-port", 0, "port of gRPC over TLS (default the one after --port)")
	f.StringVar(&o.Link, "link", "auto", "auto, grpc or websocket")
	f.BoolVar(&o.TLS, "tls", false, "connect with TLS")
	f.StringVar(&o.Fingerprint, "tls-fingerprint", "", "SHA-256 of the gateway's certificate; implies --tls")
	f.StringVar(&o.CAFile, "tls-ca", "", "file of certificates to know the gateway by, instead of a fingerprint; implies --tls")
	f.BoolVar(&o.AllowInsecure, "allow-insecure", false, "send secrets to another machine without TLS")
	f.StringVar(&o.DisplayName, "display-name", "", "name of this node (default the last one, then the host name)")
	f.StringVar(&o.NodeID, "node-id", "", "instance id of this node (default a random one, kept)")
	f.StringVar(&o.Security, "security", "", "deny, allowlist or full, where file and configuration say nothing (default allowlist)")
	f.StringVar(&o.Ask, "ask", "", "off, on-miss or always, where file and configuration say nothing (default on-miss)")
	f.StringArrayVar(&o.Files, "files-root", nil, "directory whose files are offered, for reading only with :ro behind it (several times; default nodeHost.files.roots of the configuration, then the workspace)")
	o.Tunnel = &runtime.TunnelOptions{}
	f.StringVar(&o.Tunnel.URL, "tunnel", "", "ws(s)://host/v1/tunnel of a relay or of a hanzod that takes links: be an instance there (default TUNNEL_URL, which may hold a token)")
	f.StringVar(&o.Tunnel.AppKind, "app-kind", "", "for an instance: dev, node, desktop, bot, extension, cloud or any other (default dev)")
	f.IntVar(&o.Tunnel.Count, "count", 1, "for instances: how many; their ids end in their number")
	f.BoolVar(&o.Tunnel.NoReconnect, "no-reconnect", false, "for an instance: end with the link")
	f.StringVar(&o.Workspace, "workspace", "", "directory in which commands run that name none")
	f.StringVar(&o.VNC, "vnc", "", "host:port of the VNC server of this machine: its screen is shown to who may see it (default nodeHost.screen of the configuration, then none)")
	f.StringArrayVar(&o.TunnelAllow, "tunnel-allow", nil, "what the gateway may reach through this machine beside its loopback interface: host:port, host:*, *:port or * (several times; also HANZOD_TUNNEL_ALLOW)")
	f.StringArrayVar(&o.Expose, "expose", nil, "for an instance: NAME=http:HOST:PORT, NAME=web_socket:HOST:PORT or NAME=tcp:HOST:PORT is exposed by the server (several times)")
	companionFlag(f, &o.Companion)
	f.StringVar(&tokenFile, "token-file", "", "file that holds the gateway's token")
	f.StringVar(&o.LogLevel, "log-level", "info", "error, warn, info or debug")
	return c
}

// nodeConfig reads the configuration of a node host; nil is none.
func nodeConfig(path, stateDir string) (*config.Config, error) {
	if path == "" && stateDir == "" {
		return nil, nil
	}
	if path == "" {
		path = filepath.Join(stateDir, "config.json")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	} else if _, err := os.Stat(path); err != nil {
		return nil, usageError{err}
	}
	cfg, err := config.Load(config.Options{Path: path, StateDir: stateDir})
	if err != nil {
		return nil, configError{err}
	}
	return cfg, nil
}

// companionFlag says whether the person at this machine is asked.
func companionFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "companion", "", "ask the companion app of this user about runs that need an approval: auto (where one is running; default), off, or how long to wait for it (default 15s; also HANZOD_COMPANION)")
}

// nodeStateDir is where a node host that is no part of a daemon keeps its own.
func nodeStateDir() (string, error) {
	if dir := environ.Value("HANZOD_NODE_STATE_DIR"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usageError{fmt.Errorf("where is this node to keep its state? Set --state-dir, HANZOD_NODE_STATE_DIR or HOME: %w", err)}
	}
	return filepath.Join(home, ".hanzo", "node"), nil
}

// nodeCommandsCmd is "hanzod node commands".
func nodeCommandsCmd(out io.Writer) *cobra.Command {
	var cfgFile, stateDir string
	c := &cobra.Command{
		Use:   "commands",
		Short: "List the commands of agents that this machine serves",
		Long: `commands lists what a node of this machine serves beside terminals, files and the gateway's own
system.run: the commands of Hanzo's agents, and those of nodeHost.commands in the configuration, with their
parameters. A command of the configuration that cannot be used is told with the reason, and the exit code is 1.`,
		Example: `  hanzod node commands
  hanzod node commands --config ./config.json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if stateDir == "" {
				var err error
				if stateDir, err = nodeStateDir(); err != nil {
					return err
				}
			}
			cfg, err := nodeConfig(cfgFile, stateDir)
			if err != nil {
				return err
			}
			all, broken, err := runtime.NodeCommands(cfg)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			for _, d := range all {
				kind := "built in"
				switch {
				case d.Replaces:
					kind = "configured, in place of the built-in one"
				case d.Custom:
					kind = "configured"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", d.Name, kind, d.About)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(broken)) {
				err = errors.Join(err, fmt.Errorf("nodeHost.commands.%s: %w", name, broken[name]))
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&stateDir, "state-dir", "", "the node's own state directory (default ~/.hanzo/node)")
	f.StringVar(&cfgFile, "config", "", "configuration file (default <state-dir>/config.json, where there is one)")
	return c
}
