package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/asciicast"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/driver"
)

const (
	// openTimeout is how long the opening of a terminal may take: the person at the node may be asked.
	openTimeout = 2 * time.Minute
	// codeCallRequired is the daemon's answer to a command that takes an approval.
	codeCallRequired = "approvals.call_required"
	// codeBindRequired is the same to a tunnel that binds.
	codeBindRequired = "APPROVAL_REQUIRED"
	// The size of a terminal where this program has none.
	otherCols, otherRows = 80, 24
)

func (a *app) terminalCmd() *cobra.Command {
	c := group("terminal", "Open terminals on nodes, join them, record them", `  hanzoctl terminal open build-box
  hanzoctl terminal open build-box -- htop
  hanzoctl terminal list
  hanzoctl terminal attach 3f2a81`,
		a.terminalOpenCmd(), a.terminalAttachCmd(), a.terminalListCmd(), a.terminalKillCmd(), a.terminalResizeCmd(), a.terminalRecordCmd(), a.terminalPlayCmd())
	c.Aliases = []string{"term", "terminals"}
	return c
}

// terminalFlags are those of open, record and attach.
type terminalFlags struct {
	shell, cwd string
	env        []string
	approval   time.Duration
	detach     bool

	record, escape string
	readOnly       bool
	from           string
}

func (f *terminalFlags) addOpen(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.shell, "shell", "", "shell on the node; that of the node's user when empty")
	fl.StringVar(&f.cwd, "cwd", "", "directory on the node")
	fl.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the program; may be repeated")
	fl.DurationVar(&f.approval, "approval-timeout", 2*time.Minute, "how long to wait for an approval")
}

func (f *terminalFlags) addView(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.escape, "escape", "~", `character that begins a command to this program at the start of a line, or "none"`)
	fl.BoolVar(&f.readOnly, "read-only", false, "only watch: type nothing and change no size")
}

const escapesHelp = `At the start of a line, ~. leaves the terminal, whose program goes on; ~~ types ~; ~? lists
these. --escape sets another character, or none.`

func (a *app) terminalOpenCmd() *cobra.Command {
	var f terminalFlags
	c := &cobra.Command{Use: "open NODE [flags] [-- COMMAND [ARG...]]", Short: "Open a terminal on a node and join it",
		ValidArgsFunction: a.completeNode,
		Long: `Open a terminal on a node: the shell of its user, or a command in its place, under a
pseudo-terminal of its own. What it prints comes out here as it is, what is typed goes there,
and its exit code becomes the exit code (see "hanzoctl help exit-codes").

` + escapesHelp + `

When the connection is lost, the program goes on, and this program attaches again where it
was. What the policy of the node or of the daemon does not let you open waits for an
approval, and how to answer is printed.

Without a terminal as stdin, what comes from there is typed, and its end is typed as the end
of input (Ctrl-D).`,
		Example: `  hanzoctl terminal open build-box
  hanzoctl terminal open build-box --cwd /srv/app --env EDITOR=vi
  hanzoctl terminal open build-box --record session.cast -- make menuconfig
  hanzoctl terminal open build-box --detach -q -- make release`,
		Args: terminalArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.terminalOpen(cmd, &f, args) }}
	f.addOpen(c)
	f.addView(c)
	c.Flags().StringVar(&f.record, "record", "", "file to record into, in asciicast v2; the daemon notes it in its audit log")
	c.Flags().BoolVar(&f.detach, "detach", false, "print the terminal and do not join it")
	return c
}

func (a *app) terminalRecordCmd() *cobra.Command {
	var f terminalFlags
	c := &cobra.Command{Use: "record FILE NODE [flags] [-- COMMAND [ARG...]]", Short: "Open a terminal and record it into a file",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeNode(cmd, args[1:], word)
		},
		Long: `Open a terminal on a node as "terminal open" does, and record what it shows, with its
times, into a new file in the format asciicast v2. What is typed is not recorded, but what
the terminal shows of it is. The daemon notes the recording in its audit log.`,
		Example: `  hanzoctl terminal record session.cast build-box
  hanzoctl terminal record build.cast build-box -- make`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return errors.New("say into which file, and on which node")
			}
			if cmd.ArgsLenAtDash() > 2 || cmd.ArgsLenAtDash() < 0 && len(args) > 2 {
				return errors.New("put -- between the node and the command")
			}
			if len(args) < 2 || cmd.ArgsLenAtDash() == 1 {
				return errors.New("say on which node")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.record = args[0]
			return a.terminalOpen(cmd, &f, args[1:])
		}}
	f.addOpen(c)
	f.addView(c)
	return c
}

func terminalArgs(cmd *cobra.Command, args []string) error {
	switch dash := cmd.ArgsLenAtDash(); {
	case len(args) == 0 || dash == 0:
		return errors.New("say on which node")
	case dash > 1 || dash < 0 && len(args) > 1:
		return errors.New("put -- between the node and the command")
	case dash == 1 && len(args) == 1:
		return errors.New("say what to run behind --")
	}
	return nil
}

func (a *app) terminalOpen(cmd *cobra.Command, f *terminalFlags, args []string) error {
	if !f.detach && (a.output != "table" || a.quiet) {
		return usagef("the output is that of the program: -o and -q go with --detach")
	}
	if f.detach && (f.record != "" || f.readOnly) {
		return usagef("--detach joins nothing: give no --record and no --read-only")
	}
	if f.shell != "" && len(args) > 1 {
		return usagef("give a shell or a command, not both")
	}
	escape, err := escapeOf(f.escape)
	if err != nil {
		return err
	}
	req := &tunnelv1.TerminalServiceOpenRequest{Shell: f.shell, Argv: args[1:], Cwd: f.cwd, Env: map[string]string{}}
	for _, kv := range f.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usagef("--env %q must have the form NAME=VALUE", kv)
		}
		req.Env[k] = v
	}
	cols, rows := a.size()
	req.Cols, req.Rows = uint32(cols), uint32(rows)
	rec, err := a.recording(f.record, cols, rows, args[1:])
	if err != nil {
		return err
	}
	defer rec.close()
	a.timeoutSet = false // it bounds the opening, as the terminal itself has no limit
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		n, err := c.ResolveNode(ctx, args[0])
		if err != nil {
			return err
		}
		req.NodeId = n.GetNodeId()
		t, err := a.openTerminal(ctx, c, req, client.Label(n), f.approval)
		if err != nil {
			return err
		}
		if f.detach {
			return a.printOne(t, t.GetTerminalId(), cells("terminal", t.GetTerminalId()), cells("node", n.GetNodeId()), cells("pid", strconv.FormatInt(t.GetPid(), 10)))
		}
		start := int64(0)
		v := &terminalView{a: a, c: c, id: t.GetTerminalId(), from: &start, readOnly: f.readOnly, rec: rec, escape: escape}
		return v.run(ctx)
	})
}

// openTerminal opens a terminal, asking for an approval where one is needed.
func (a *app) openTerminal(ctx context.Context, c *client.Client, req *tunnelv1.TerminalServiceOpenRequest, node string, wait time.Duration) (*tunnelv1.Terminal, error) {
	// What is asked for is what the daemon asks the node then.
	params := map[string]any{"cols": req.GetCols(), "rows": req.GetRows()}
	for name, text := range map[string]string{"shell": req.GetShell(), "cwd": req.GetCwd()} {
		if text != "" {
			params[name] = text
		}
	}
	if len(req.GetArgv()) > 0 {
		var argv []any
		for _, s := range req.GetArgv() {
			argv = append(argv, s)
		}
		params["argv"] = argv
	}
	if len(req.GetEnv()) > 0 {
		env := map[string]any{}
		for k, v := range req.GetEnv() {
			env[k] = v
		}
		params["env"] = env
	}
	var out *tunnelv1.TerminalServiceOpenResponse
	err := a.withApproval(ctx, c, call{node: req.GetNodeId(), label: node, command: "terminal.open", params: params, what: "open a terminal"}, wait, func() error {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		var err error
		out, err = c.Terminals.Open(ctx, req)
		return err
	})
	return out.GetTerminal(), err
}

// call is a command that a node is asked to do.
type call struct {
	// node is its id, label its name for people.
	node, label, command string
	params               map[string]any
	// what is behind "waiting for approval to".
	what string
}

// withApproval does something; where that takes an approval of a call, it asks for it, waits and does it again.
func (a *app) withApproval(ctx context.Context, c *client.Client, q call, wait time.Duration, do func() error) error {
	err := do()
	if !needsApproval(err) || wait < 0 {
		return err
	}
	value, bad := structpb.NewValue(q.params)
	if bad != nil {
		return usage(bad)
	}
	ask := &approvalsv1.RequestApprovalRequest{NodeId: &q.node, Call: &approvalsv1.Call{Command: q.command, Params: value}}
	if wait > 0 {
		ask.Timeout = durationpb.New(wait)
	}
	got, err := c.Approvals.RequestApproval(ctx, ask)
	if err != nil {
		return err
	}
	p := got.GetApproval()
	fmt.Fprintf(a.stderr, "waiting for approval %s to %s on %s\n", Text(p.GetId()), Text(q.what), Text(q.label))
	fmt.Fprintf(a.stderr, "answer with: %s approve %s once\n", a.again(), Text(p.GetId()))
	decided, err := c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: p.GetId()})
	if err != nil {
		return err
	}
	switch p = decided.GetApproval(); p.GetDecision() {
	case approvalsv1.Decision_DECISION_ALLOW_ONCE, approvalsv1.Decision_DECISION_ALLOW_ALWAYS:
		fmt.Fprintf(a.stderr, "allowed by %s\n", Text(p.GetResolvedBy()))
		return do()
	case approvalsv1.Decision_DECISION_DENY:
		return &codeError{code: exitDenied, text: "it was denied to " + q.what + ", by " + Text(p.GetResolvedBy())}
	}
	return &codeError{code: exitLater, text: fmt.Sprintf("nobody answered approval %s in time", Text(p.GetId()))}
}

// needsApproval reports whether an error is the daemon's answer to what takes an approval.
func needsApproval(err error) bool {
	if refused, ok := errors.AsType[*driver.BindError](err); ok {
		return refused.Code == codeBindRequired
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.Code == codeCallRequired
}

func (a *app) terminalAttachCmd() *cobra.Command {
	var f terminalFlags
	c := &cobra.Command{Use: "attach TERMINAL", Short: "Join a terminal that is open", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTerminal,
		Long: `Join a terminal: what it printed last, as far as it is kept, and then what it prints.
Several people can be in one terminal at once.

` + escapesHelp,
		Example: `  hanzoctl terminal attach 3f2a81
  hanzoctl terminal attach 3f2a81 --read-only
  hanzoctl terminal attach 3f2a81 --from end --record rest.cast`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "table" || a.quiet {
				return usagef("the output is that of the program: -o and -q do not go with attach")
			}
			escape, err := escapeOf(f.escape)
			if err != nil {
				return err
			}
			v := &terminalView{a: a, readOnly: f.readOnly, escape: escape}
			switch n, err := strconv.ParseInt(f.from, 10, 64); {
			case f.from == "start":
			case f.from == "end":
				v.fromEnd = true
			case err != nil || n < 0:
				return usagef("--from %q must be start, end, or the number of a byte", f.from)
			default:
				v.from = &n
			}
			cols, rows := a.size()
			if v.rec, err = a.recording(f.record, cols, rows, nil); err != nil {
				return err
			}
			defer v.rec.close()
			a.timeoutSet = false
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				t, err := resolveTerminal(ctx, c, args[0])
				if err != nil {
					return err
				}
				v.c, v.id = c, t.GetTerminalId()
				return v.run(ctx)
			})
		}}
	f.addView(c)
	c.Flags().StringVar(&f.from, "from", "start", "where to begin: start (of what is kept), end, or the number of a byte")
	c.Flags().StringVar(&f.record, "record", "", "file to record into, in asciicast v2")
	return c
}

func (a *app) terminalListCmd() *cobra.Command {
	var node string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the terminals of all nodes", Args: cobra.NoArgs,
		Example: `  hanzoctl terminal list
  hanzoctl terminal list --node build-box --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &tunnelv1.TerminalServiceListRequest{}
				if node != "" {
					n, err := c.ResolveNode(ctx, node)
					if err != nil {
						return err
					}
					req.NodeId = n.GetNodeId()
				}
				out, err := c.Terminals.List(ctx, req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNODE\tPROGRAM\tPID\tSIZE\tVIEWERS\tOPENED\tSTATE", none: "no terminals are open"}
				for _, t := range out.GetTerminals() {
					l.items = append(l.items, t)
					l.ids = append(l.ids, t.GetTerminalId())
				}
				l.row = func(i int) string {
					t := out.GetTerminals()[i]
					program := t.GetShell()
					if len(t.GetArgv()) > 0 {
						program = Quote(t.GetArgv())
					}
					return cells(shortID(t.GetTerminalId()), shortID(t.GetNodeId()), program, strconv.FormatInt(t.GetPid(), 10), fmt.Sprintf("%dx%d", t.GetCols(), t.GetRows()),
						strconv.Itoa(int(t.GetViewers())), span(time.Since(t.GetOpenedAt().AsTime())), terminalState(t))
				}
				return a.printList(l)
			})
		}}
	c.Flags().StringVar(&node, "node", "", "terminals of one node only")
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, word)
	}))
	return c
}

func terminalState(t *tunnelv1.Terminal) string {
	switch e := t.GetExit(); {
	case e == nil && t.GetConnected():
		return "open"
	case e == nil:
		return "node away"
	case e.Code != nil:
		return fmt.Sprintf("ended with %d", e.GetCode())
	case e.GetSignal() != "":
		return "ended by " + e.GetSignal()
	default:
		return "ended"
	}
}

func (a *app) terminalKillCmd() *cobra.Command {
	return &cobra.Command{Use: "kill TERMINAL...", Aliases: []string{"close"}, Short: "End the programs of terminals", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeTerminal,
		Long: `End the program of each terminal with all that it started: by SIGHUP, by SIGTERM after two
seconds, and by SIGKILL after five.`,
		Example: `  hanzoctl terminal kill 3f2a81`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, word := range args {
					t, err := resolveTerminal(ctx, c, word)
					if err != nil {
						return err
					}
					if _, err := c.Terminals.Close(ctx, &tunnelv1.TerminalServiceCloseRequest{TerminalId: t.GetTerminalId()}); err != nil {
						return err
					}
					if err := a.printOne(t, t.GetTerminalId(), Text(shortID(t.GetTerminalId())+" is being ended")); err != nil {
						return err
					}
				}
				return nil
			})
		}}
}

func (a *app) terminalResizeCmd() *cobra.Command {
	return &cobra.Command{Use: "resize TERMINAL COLUMNSxROWS", Short: "Change the size of a terminal", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeTerminal,
		Example:           `  hanzoctl terminal resize 3f2a81 132x43`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cols, rows, ok := asciicast.Size(args[1])
			if !ok || cols > 65535 || rows > 65535 {
				return usagef("the size %q must have the form 80x24", args[1])
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				t, err := resolveTerminal(ctx, c, args[0])
				if err != nil {
					return err
				}
				if _, err := c.Terminals.Resize(ctx, &tunnelv1.TerminalServiceResizeRequest{TerminalId: t.GetTerminalId(), Cols: uint32(cols), Rows: uint32(rows)}); err != nil {
					return err
				}
				t.Cols, t.Rows = uint32(cols), uint32(rows)
				return a.printOne(t, t.GetTerminalId(), Text(fmt.Sprintf("%s has %d columns and %d rows now", shortID(t.GetTerminalId()), cols, rows)))
			})
		}}
}

// resolveTerminal finds the terminal that a person means by its id or the beginning of it.
func resolveTerminal(ctx context.Context, c *client.Client, word string) (*tunnelv1.Terminal, error) {
	out, err := c.Terminals.List(ctx, &tunnelv1.TerminalServiceListRequest{})
	if err != nil {
		return nil, err
	}
	var found []*tunnelv1.Terminal
	for _, t := range out.GetTerminals() {
		if t.GetTerminalId() == word {
			return t, nil
		}
		if strings.HasPrefix(t.GetTerminalId(), word) || t.GetSessionId() == word {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 1 && len(word) >= 4:
		return found[0], nil
	case len(found) > 1:
		return nil, usagef("%d terminals begin with %q; give more of the id", len(found), word)
	}
	return nil, &codeError{code: exitNotFound, text: fmt.Sprintf(`there is no terminal %s; see "hanzoctl terminal list"`, Text(word))}
}

func (a *app) completeTerminal(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && cmd.Name() != "kill" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Terminals.List(ctx, &tunnelv1.TerminalServiceListRequest{})
		if err != nil {
			return nil
		}
		var words []string
		for _, t := range out.GetTerminals() {
			words = append(words, t.GetTerminalId()+"\t"+Text(t.GetShell())+" on "+Text(shortID(t.GetNodeId()))+", "+terminalState(t))
		}
		return words
	})
}

// escapeOf reads --escape; 0 is none.
func escapeOf(s string) (byte, error) {
	switch {
	case s == "none":
		return 0, nil
	case len(s) == 1 && s[0] > ' ' && s[0] < 0x7f:
		return s[0], nil
	case len(s) == 2 && s[0] == '^' && s[1] >= '@' && s[1] <= '_':
		return s[1] - '@', nil
	}
	return 0, usagef(`--escape %q must be one character, ^ and a letter, or "none"`, s)
}

// size is that of the terminal of this process.
func (a *app) size() (cols, rows int) {
	for _, f := range []*os.File{a.stdout, a.stdin, a.stderr} {
		if c, r, err := term.GetSize(int(f.Fd())); err == nil && c > 0 && r > 0 {
			return c, r
		}
	}
	return otherCols, otherRows
}

// recording is a file that is recorded into; nil records nothing.
type recording struct {
	f *os.File
	w *asciicast.Writer
}

func (a *app) recording(name string, cols, rows int, argv []string) (*recording, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, &codeError{code: exitConflict, text: fmt.Sprintf("%s is there already; choose another file for the recording", Text(name))}
	}
	if err != nil {
		return nil, usage(err)
	}
	h := asciicast.Header{Width: cols, Height: rows, Env: map[string]string{"TERM": "xterm-256color"}}
	if len(argv) > 0 {
		h.Command = Quote(argv)
	}
	w, err := asciicast.NewWriter(f, h, time.Now)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the recording: %w", err), f.Close())
	}
	return &recording{f, w}, nil
}

func (r *recording) output(p []byte) error {
	if r == nil {
		return nil
	}
	return r.w.Output(p)
}

func (r *recording) resize(cols, rows int) {
	if r != nil {
		_ = r.w.Resize(cols, rows) // the next output fails, too
	}
}

func (r *recording) flush() {
	if r != nil {
		_ = r.w.Flush()
	}
}

// close ends the recording. A failure was told by the output before it.
func (r *recording) close() {
	if r != nil {
		_ = errors.Join(r.w.Close(), r.f.Close())
	}
}

func (a *app) terminalPlayCmd() *cobra.Command {
	var speed float64
	var idle time.Duration
	c := &cobra.Command{Use: "play FILE", Short: "Play a recording of a terminal", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"cast"}, cobra.ShellCompDirectiveFilterFileExt
		},
		Long: `Play a recording in asciicast v2, made by "hanzoctl terminal record" or by another program,
as it was seen then. It steers this terminal as the recorded program did; play only what you
trust. Without a terminal as stdout it is printed at once, unless --speed is given.`,
		Example: `  hanzoctl terminal play session.cast
  hanzoctl terminal play session.cast --speed 2 --idle-limit 1s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if speed <= 0 || idle < 0 {
				return usagef("--speed must be above 0 and --idle-limit not negative")
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usage(err)
			}
			defer f.Close()
			r, h, err := asciicast.NewReader(f)
			if err != nil {
				return &codeError{code: exitBroken, err: fmt.Errorf("%s: %w", Text(args[0]), err)}
			}
			here := isTerminal(a.stdout)
			if cols, rows := a.size(); here && (cols < h.Width || rows < h.Height) {
				fmt.Fprintf(a.stderr, "the recording has %dx%d, this terminal %dx%d: it may look wrong\n", h.Width, h.Height, cols, rows)
			}
			return a.play(cmd.Context(), r, speed, idle, here || cmd.Flags().Changed("speed"))
		}}
	c.Flags().Float64Var(&speed, "speed", 1, "how many times as fast as it was")
	c.Flags().DurationVar(&idle, "idle-limit", 0, "longest pause; 0 keeps all of them")
	return c
}

func (a *app) play(ctx context.Context, r *asciicast.Reader, speed float64, idle time.Duration, paced bool) error {
	if isTerminal(a.stdout) {
		defer io.WriteString(a.stdout, resetScreen)
	}
	var last time.Duration
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &codeError{code: exitBroken, err: err}
		}
		pause := max(e.At-last, 0)
		last = max(e.At, last)
		if idle > 0 {
			pause = min(pause, idle)
		}
		if pause = time.Duration(float64(pause) / speed); paced && pause > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return &codeError{code: exitInt}
			}
		}
		if e.Kind == asciicast.Output {
			if _, err := io.WriteString(a.stdout, e.Data); err != nil {
				return err
			}
		}
	}
}
