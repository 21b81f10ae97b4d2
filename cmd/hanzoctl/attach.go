package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// legacyPort is the port of the legacy door when a daemon does not say which one is its.
	legacyPort = 18789
	// probeEvery is how often an attached daemon is asked whether it is there, probeWait how long its answer
	// may take. Two answers that do not come in time are a lost link; a connection that ends is one at once.
	probeEvery = 5 * time.Second
	probeWait  = 5 * time.Second
	// resumeFirst and resumeMax bound the pauses between attempts to reach a lost daemon again, and resumeWait
	// one attempt. Who waits for a network is to be back within five seconds of its return; after a refusal,
	// which a server may count, client/ssh makes the longer pause.
	resumeFirst = 250 * time.Millisecond
	resumeMax   = 2 * time.Second
	resumeWait  = 30 * time.Second
	// attachGC is GOGC of a lasting attachment: SSH makes a new buffer for each packet, and with the few megabytes that
	// live here the collector would run hundreds of times in a second of streaming. It costs some ten
	// megabytes and gains a tenth of the speed.
	attachGC = 400
)

// attachFlags are those of "hanzoctl attach".
type attachFlags struct {
	listen       string
	beyond, once bool
	command      []string
	listenOn     string // host:port of listen
}

func (a *app) attachCmd() *cobra.Command {
	var f attachFlags
	c := &cobra.Command{Use: "attach [HOST] [-- COMMAND...]", Short: "Use a daemon on another machine as if it were here",
		Long: `Connect to a daemon on another machine, show what was reached, and stay: a local socket carries
to the daemon's own, so other programs of yours use it as soon as HANZOD_SOCKET names that
socket. HOST is a context, ssh://[user@]host[:port] or tailnet://host; without it, the daemon
that other commands would ask.

Over SSH no token is needed: you come out at the daemon's socket as the user that you log in
as. Only you can connect to the local socket (mode 0600 in a folder of mode 0700), and what
connects acts there as you.

With a command behind --, HANZOD_SOCKET is set for that command alone, and hanzoctl ends with
its exit code.

--listen ADDRESS also serves the daemon's legacy port (18789) here, for legacy clients and the
web UI. Programs of all users of this machine can connect to such a port, and so can web pages
that a browser here shows; so the daemon goes on asking for its token ("hanzoctl token"), and
checks the origin of pages, as it does on its own machine. What it shows there without a
token, such as its health, it shows here too. Other addresses than loopback are
refused without --listen-beyond-this-machine: they would hand the port to the network, in the
clear.

When the link is lost, the connections that it carried end, new ones are refused, and it is
built again as soon as that works. Each change is told; "-o jsonl" tells it as JSON, one object
a line, for programs: "state" is attached, lost, resumed, refused (a connection too many) or
ended, "socket" and "listen" are where to connect, "error" is why a link was lost.

A daemon over TLS (hanzod://) is asked with a token. A socket here would give that token's
power to every program of yours, so there is none: use --host, or attach over SSH.`,
		Example: `  hanzoctl attach ssh://alice@box
  hanzoctl attach box --listen 127.0.0.1:18789
  hanzoctl attach box -- my-desktop-app
  hanzoctl attach box --once`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.hostWords(word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				if args, f.command = args[:dash], args[dash:]; len(f.command) == 0 {
					return usagef("say what to run behind --")
				}
			}
			if err := a.attachArgs(args, &f); err != nil {
				return err
			}
			if a.getenv("GOGC") == "" {
				debug.SetGCPercent(attachGC)
			}
			return a.attach(cmd.Context(), &f)
		}}
	fl := c.Flags()
	fl.StringVar(&f.listen, "listen", "", "also serve the daemon's legacy port here, at HOST:PORT or PORT of 127.0.0.1")
	fl.BoolVar(&f.beyond, "listen-beyond-this-machine", false, "let --listen be reached by other machines, in the clear")
	fl.BoolVar(&f.once, "once", false, "connect, show what was reached, and end")
	fl.BoolVar(&f.once, "exit", false, "the same as --once")
	must(fl.MarkHidden("exit"))
	return c
}

// attachArgs looks at everything that can be wrong before anything is connected.
func (a *app) attachArgs(args []string, f *attachFlags) (err error) {
	switch {
	case len(args) > 1:
		return usagef("too many arguments: put -- between the daemon and the command")
	case len(args) == 1 && a.remote.host != "":
		return usagef("the daemon is named twice: as an argument, and by --host")
	case len(args) == 1:
		a.remote.host = args[0]
	}
	switch {
	case f.once && (f.listen != "" || len(f.command) > 0):
		return usagef("--once ends at once: give no --listen and no command")
	case len(f.command) > 0 && a.output != "table":
		return usagef("the output is that of the command: -o goes without one")
	case f.beyond && f.listen == "":
		return usagef("--listen-beyond-this-machine goes with --listen")
	}
	if f.listen != "" {
		if f.listenOn, err = listenAddress(f.listen, f.beyond); err != nil {
			return err
		}
	}
	if word := a.remote.host; !f.once && hostName.MatchString(word) && word != localName {
		if _, err := a.loadContext(word); errors.Is(err, fs.ErrNotExist) {
			return &codeError{code: exitNotFound, text: fmt.Sprintf("there is no context %s; to attach the machine of that name: hanzoctl attach ssh://%s", word, word)}
		}
	}
	t, err := a.target()
	if err != nil || f.once {
		return err
	}
	switch t.Kind {
	case kindTLS:
		return usagef(`%s is asked with a token, and a socket here would give its power to every program of yours: use "hanzoctl --host", look with "hanzoctl attach --once", or attach over SSH`, t.short())
	case kindLocal:
		return usagef("say which daemon to attach: a context, ssh://[user@]host or tailnet://host; the one of this machine needs no more than its socket, %s", t.Address)
	case kindSocket:
		return usagef("%s is on this machine already: programs reach it with HANZOD_SOCKET=%s", t.short(), t.Address)
	}
	return nil
}

// listenAddress reads the address of --listen.
func listenAddress(s string, beyond bool) (string, error) {
	if _, err := strconv.ParseUint(s, 10, 16); err == nil {
		s = "127.0.0.1:" + s
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", usagef("--listen %q must be a port, or an address and a port such as 127.0.0.1:18789", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", usagef("--listen %q: the port must be a number from 0 to 65535", s)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(strings.SplitN(host, "%", 2)[0])
	switch {
	case host != "" && ip == nil:
		return "", usagef("--listen %q must name an address, not a host", s)
	case (ip == nil || !ip.IsLoopback()) && !beyond:
		return "", usagef("--listen %s would be reached by other machines, and carries in the clear; use 127.0.0.1, or say --listen-beyond-this-machine", s)
	}
	return net.JoinHostPort(host, port), nil
}

// attachState is what is told of an attachment, on one line with -o jsonl.
type attachState struct {
	// State is attached, lost, resumed, refused (a connection, because there are too many) or ended.
	State  string    `json:"state"`
	At     time.Time `json:"at"`
	Target *target   `json:"target"`
	Route  string    `json:"route,omitempty"`
	// Socket is the local one, Listen the local address of the legacy port.
	Socket           string  `json:"socket,omitempty"`
	Listen           string  `json:"listen,omitempty"`
	Version          string  `json:"version,omitempty"`
	NodesConnected   int32   `json:"nodesConnected"`
	NodesKnown       int32   `json:"nodesKnown"`
	ApprovalsPending int32   `json:"approvalsPending"`
	LatencyMs        float64 `json:"latencyMs,omitempty"`
	Error            string  `json:"error,omitempty"`

	port int // of the legacy door there
}

// look asks an attached daemon who it is.
func (a *app) look(ctx context.Context, c *client.Client, way hostWay) (attachState, error) {
	s := attachState{State: "attached", At: time.Now(), Target: a.to, port: legacyPort}
	st, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if err != nil {
		return s, err
	}
	began := time.Now()
	if _, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{}); err != nil {
		return s, err
	}
	s.LatencyMs = float64(time.Since(began).Microseconds()) / 1000
	s.Version, s.NodesConnected, s.NodesKnown, s.ApprovalsPending = st.GetVersion(), st.GetNodesConnected(), st.GetNodesKnown(), st.GetApprovalsPending()
	if way != nil {
		s.Route = way.Route()
	}
	for _, l := range st.GetListen() {
		if _, port, err := net.SplitHostPort(l); err == nil {
			if n, err := strconv.Atoi(port); err == nil && n > 0 {
				s.port = n
				break
			}
		}
	}
	return s, nil
}

// attach is the whole life of an attachment.
func (a *app) attach(ctx context.Context, f *attachFlags) error {
	// A person is asked, and an interrupt ends it, until it is attached. From then on a command decides itself
	// what an interrupt means.
	setup, cancel := a.bounded(ctx, connectLimit)
	defer cancel()
	t, err := a.target()
	if err != nil {
		return err
	}
	a.say(t)
	o, err := a.reach(setup, t)
	if err != nil {
		return err
	}
	way, _ := o.Via.(hostWay) // a daemon over TLS or of this machine has none
	c, err := client.Dial(setup, o)
	if err != nil {
		if way != nil {
			_ = way.Close() // nothing was carried yet
		}
		return err
	}
	defer c.Close()
	s, err := a.look(setup, c, way)
	if err != nil {
		return err
	}
	if f.once {
		return a.printOne(s, t.short(), s.rows()...)
	}

	at := &attachment{a: a, c: c, way: way, command: len(f.command) > 0, last: s}
	socket, l, err := a.attachSocket(ctx, t, at.command)
	if err != nil {
		return err
	}
	at.socket = newCarrier(l, way.Dial, at.refused)
	defer at.socket.close()
	at.last.Socket = socket
	if f.listenOn != "" {
		// What cannot be reached is said now, and not to the first client.
		probe, err := way.DialPort(setup, s.port)
		if err != nil {
			return fmt.Errorf("the legacy port %d of %s cannot be reached: %w", s.port, t.short(), err)
		}
		_ = probe.Close() // it was reached
		tcp, err := listenTCP(ctx, f.listenOn)
		if err != nil {
			return err
		}
		at.port.Store(int64(s.port))
		at.legacy = newCarrier(tcp, func(ctx context.Context) (net.Conn, error) { return way.DialPort(ctx, int(at.port.Load())) }, at.refused)
		defer at.legacy.close()
		at.last.Listen = tcp.Addr().String()
	}
	if err := at.begin(); err != nil {
		return err
	}
	if at.command {
		return a.runAttached(ctx, at, f.command, socket)
	}
	err = at.stay(ctx)
	if ctx.Err() != nil {
		_ = at.tell("ended", nil) // it ends in any case
		return &codeError{code: exitInt}
	}
	return err
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		if isBusy(err) {
			return nil, &codeError{code: exitConflict, text: fmt.Sprintf(
				"another program listens at %s already, perhaps a daemon of this machine; choose another port with --listen, for example --listen 127.0.0.1:0", address)}
		}
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	return l, nil
}

// rows is the state for people.
func (s attachState) rows() []string {
	rows := []string{cells("target", s.Target.String())}
	if s.Route != "" {
		rows = append(rows, cells("route", s.Route))
	}
	rows = append(rows,
		cells("version", s.Version),
		cells("nodes", fmt.Sprintf("%d connected, %d known", s.NodesConnected, s.NodesKnown)),
		cells("approvals", fmt.Sprintf("%d pending", s.ApprovalsPending)),
		cells("latency", fmt.Sprintf("%.1f ms", s.LatencyMs)),
	)
	if s.Socket != "" {
		rows = append(rows, cells("socket", s.Socket))
	}
	if s.Listen != "" {
		rows = append(rows, cells("legacy port", "ws://"+s.Listen+" (wants the token of the daemon)"))
	}
	return rows
}

// export is the line by which a shell uses a socket.
func (a *app) export(socket string) string {
	if runtime.GOOS == "windows" {
		return "$env:HANZOD_SOCKET = '" + strings.ReplaceAll(socket, "'", "''") + "'"
	}
	line := "export HANZOD_SOCKET=" + Quote([]string{socket})
	if a.getenv("HANZOCTL_HOST") != "" {
		line += "; unset HANZOCTL_HOST" // which would win
	}
	return line
}

// stay watches over the link until ctx ends, or until it must not be built again.
func (at *attachment) stay(ctx context.Context) error {
	for {
		err := at.watch(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		at.cut()
		if err := at.tell("lost", err); err != nil {
			return err
		}
		if at.final(err) {
			return err
		}
		since := time.Now()
		if err := at.resume(ctx); err != nil {
			return err
		}
		at.open()
		at.mu.Lock()
		at.away = time.Since(since)
		at.mu.Unlock()
		if err := at.tell("resumed", nil); err != nil {
			return err
		}
	}
}

// final reports whether a link must not be built again: another machine answers now.
func (at *attachment) final(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && !at.command && (e.Code == ssh.CodeChangedHost || e.Code == ssh.CodeRevokedHost)
}

// watch returns when the daemon is not there any more, with the reason.
func (at *attachment) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ended := make(chan error, 1)
	wg.Go(func() { ended <- at.listen(ctx) })
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	late := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			ended = nil
			if !gone(err) {
				continue // who may not hear events is asked by probes alone
			}
			return err
		case <-ticker.C:
		}
		err := at.probe(ctx, probeWait)
		switch {
		case err == nil:
			late = 0
		case ctx.Err() != nil:
			return ctx.Err()
		case gone(err):
			return err
		case exitCode(err) == exitDeadline:
			if late++; late == 2 {
				return err
			}
		}
	}
}

// listen hears nothing until the connection ends, and so learns of that at once.
func (at *attachment) listen(ctx context.Context) error {
	s, err := at.c.System.WatchEvents(ctx, &systemv1.WatchEventsRequest{Names: []string{"hanzoctl.attach"}}) // no event has that name
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

func (at *attachment) probe(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_, err := at.c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
	return err
}

// gone reports whether an error says that the daemon cannot be reached.
func gone(err error) bool {
	if _, ok := errors.AsType[*client.NotRunning](err); ok {
		return true
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && (e.Code == client.CodeLost || strings.HasPrefix(e.Code, "client.ssh_") || strings.HasPrefix(e.Code, "client.tailnet_"))
}

// resume tries until the daemon answers again. The connection itself is built by the way; what it asks a
// person for is asked again only where it has to be.
func (at *attachment) resume(ctx context.Context) error {
	pause := resumeFirst
	for {
		timer := time.NewTimer(pause/2 + rand.N(pause)) // not all of them at once
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		err := at.probe(ctx, resumeWait)
		if err == nil {
			look, cancel := context.WithTimeout(ctx, resumeWait)
			s, lerr := at.a.look(look, at.c, at.way)
			cancel()
			if lerr == nil {
				at.mu.Lock()
				s.Socket, s.Listen = at.last.Socket, at.last.Listen
				at.last = s
				at.mu.Unlock()
				at.port.Store(int64(s.port))
				return nil
			}
			err = lerr
		}
		if at.final(err) {
			return err
		}
		pause = min(2*pause, resumeMax)
	}
}

// attachDir is where the sockets of attachments are, each in a folder of its own.
func (a *app) attachDir() (string, error) {
	dir, err := a.settingsDir()
	return filepath.Join(dir, "attach"), err
}
