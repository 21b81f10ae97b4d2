package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

func (a *app) techCmd() *cobra.Command {
	c := group("tech", "Hold a node, work on it, and have everything written down", `  hanzoctl tech open build-box
  hanzoctl tech run build-box -- systemctl status nginx
  hanzoctl tech shell build-box
  hanzoctl tech cp build-box:/var/log/syslog .
  hanzoctl tech watch build-box
  hanzoctl tech close build-box`,
		a.techOpenCmd(), a.techCloseCmd(), a.techStatusCmd(), a.techListCmd(), a.techRunCmd(), a.techShellCmd(), a.techCpCmd(), a.techLsCmd(), a.techServiceCmd(),
		a.techRegistryCmd(), a.techWatchCmd(), a.techAuditCmd(), a.techExportCmd())
	c.Long = `A technician session holds one node for one person. Nobody else opens one meanwhile, unless they
take it over; commands, terminals, files and services are used in it, and each use is a row of
its audit, which outlasts the session and the node.

Where a command wants a session, its id, the begin of it, or the node that it holds will do. run,
shell, cp, ls, service and registry open one for themselves when you hold none of the node, and
close it when they are done.

A session that nobody uses is closed after four hours (tunnel.tech.idleMinutes).`
	c.Aliases = []string{"technician"}
	return c
}

// techFlags are those that a session is opened with.
type techFlags struct {
	kinds, directories []string
	readOnly, takeover bool
	approval           time.Duration
}

func (f *techFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringSliceVar(&f.directories, "dir", nil, "absolute path that commands start in and files are below of; may be repeated")
	fl.BoolVar(&f.takeover, "takeover", false, "end a session that holds the node; somebody else's takes the scope operator.admin")
	fl.DurationVar(&f.approval, "approval-timeout", 2*time.Minute, "how long to wait for an approval")
}

func (f *techFlags) request(node string) (*tunnelv1.TechSessionServiceOpenRequest, error) {
	req := &tunnelv1.TechSessionServiceOpenRequest{NodeId: node, ReadOnly: f.readOnly, Directories: f.directories, Takeover: f.takeover}
	for _, k := range f.kinds {
		n := client.TechKind(message.Kind(k))
		if n == tunnelv1.TechKind_TECH_KIND_UNSPECIFIED {
			return nil, usagef("--kind %q is none of terminal, file, registry, service", k)
		}
		req.Kinds = append(req.Kinds, n)
	}
	return req, nil
}

// openTech opens a session, asking for an approval where one is needed.
func (a *app) openTech(ctx context.Context, c *client.Client, f *techFlags, node, label string) (*tunnelv1.TechSession, error) {
	req, err := f.request(node)
	if err != nil {
		return nil, err
	}
	// What is asked for is what the daemon asks the node then.
	var kinds []any
	for _, k := range message.Kinds {
		if len(req.GetKinds()) == 0 || slices.Contains(req.GetKinds(), client.TechKind(k)) {
			kinds = append(kinds, string(k))
		}
	}
	if len(f.kinds) > 0 {
		kinds = nil
		for _, k := range slices.Compact(slices.Clone(f.kinds)) {
			kinds = append(kinds, k)
		}
	}
	params := map[string]any{"kinds": kinds, "read_only": f.readOnly, "directories": nil}
	if len(f.directories) > 0 {
		var dirs []any
		for _, d := range f.directories {
			dirs = append(dirs, d)
		}
		params["directories"] = dirs
	}
	var out *tunnelv1.TechSessionServiceOpenResponse
	err = a.withApproval(ctx, c, call{node: node, label: label, command: "tech.open", params: params, what: "open a technician session"}, f.approval, func() error {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		var err error
		out, err = c.Technicians.Open(ctx, req)
		return err
	})
	return out.GetSession(), err
}

func (a *app) techOpenCmd() *cobra.Command {
	var f techFlags
	c := &cobra.Command{Use: "open NODE", Short: "Hold a node", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeNode,
		Long: `Open a technician session: the node is yours until it is closed. What the policy of the node or of
the daemon does not let you open waits for an approval, and how to answer is printed.`,
		Example: `  hanzoctl tech open build-box
  hanzoctl tech open build-box --read-only --kind file,service
  hanzoctl tech open build-box --dir /srv/app --takeover
  hanzoctl tech open build-box -q`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a.timeoutSet = false // a person may be asked
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				n, err := c.ResolveNode(ctx, args[0])
				if err != nil {
					return err
				}
				s, err := a.openTech(ctx, c, &f, n.GetNodeId(), client.Label(n))
				if err != nil {
					return err
				}
				return a.printTech(s, client.Label(n))
			})
		}}
	f.add(c)
	c.Flags().StringSliceVar(&f.kinds, "kind", nil, "channels that it may have: terminal, file, registry, service (default all)")
	c.Flags().BoolVar(&f.readOnly, "read-only", false, "allow nothing that changes the node, and no terminal")
	must(c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"terminal", "file", "registry", "service"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

func (a *app) printTech(s *tunnelv1.TechSession, node string) error {
	rows := []string{cells("session", s.GetSessionId()), cells("node", node), cells("status", techStatus(s)), cells("owner", s.GetOwnerName()), cells("channels", techKindsText(s))}
	if len(s.GetDirectories()) > 0 {
		rows = append(rows, cells("directories", strings.Join(s.GetDirectories(), " ")))
	}
	rows = append(rows, cells("opened", s.GetOpenedAt().AsTime().Local().Format(time.DateTime)))
	if s.GetClosedAt() != nil {
		rows = append(rows, cells("closed", s.GetClosedAt().AsTime().Local().Format(time.DateTime)+" by "+s.GetClosedBy()))
	}
	rows = append(rows, cells("used", fmt.Sprintf("%d commands, %s to the node, %s from it", s.GetCommands(), byteText(int64(s.GetBytesIn())), byteText(int64(s.GetBytesOut())))))
	for _, ch := range s.GetChannels() {
		rows = append(rows, cells("channel", strings.TrimSpace(shortID(ch.GetChannelId())+" "+strings.ToLower(strings.TrimPrefix(ch.GetKind().String(), "TECH_KIND_"))+" "+ch.GetWhat())))
	}
	if s.GetEmulated() {
		rows = append(rows, cells("note", "the node knows nothing of sessions: commands run one by one, and nothing else"))
	}
	return a.printOne(s, s.GetSessionId(), rows...)
}

func techStatus(s *tunnelv1.TechSession) string {
	switch {
	case s.GetStatus() == tunnelv1.TechStatus_TECH_STATUS_ACTIVE && s.GetReadOnly():
		return "active, for reading"
	case s.GetStatus() == tunnelv1.TechStatus_TECH_STATUS_ACTIVE:
		return "active"
	}
	return "closed: " + strings.ReplaceAll(s.GetReason(), "_", " ")
}

func techKindsText(s *tunnelv1.TechSession) string {
	var out []string
	for _, k := range s.GetKinds() {
		out = append(out, strings.ToLower(strings.TrimPrefix(k.String(), "TECH_KIND_")))
	}
	return strings.Join(out, " ")
}

// resolveTech finds a session by its id, the begin of that, or the node that it holds.
func resolveTech(ctx context.Context, c *client.Client, word string) (*tunnelv1.TechSession, error) {
	if len(word) == 36 && strings.Count(word, "-") == 4 {
		if out, err := c.Technicians.Get(ctx, &tunnelv1.TechSessionServiceGetRequest{SessionId: word}); err == nil {
			return out.GetSession(), nil
		}
	}
	out, err := c.Technicians.List(ctx, &tunnelv1.TechSessionServiceListRequest{})
	if err != nil {
		return nil, err
	}
	var found []*tunnelv1.TechSession
	for _, s := range out.GetSessions() {
		if len(word) >= 4 && strings.HasPrefix(s.GetSessionId(), word) {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, usagef("%d technician sessions begin with %q; give more of the id", len(found), word)
	}
	if n, err := c.ResolveNode(ctx, word); err == nil {
		for _, s := range out.GetSessions() { // the newest first
			if s.GetNodeId() == n.GetNodeId() {
				return s, nil
			}
		}
		return nil, &codeError{code: exitNotFound, text: fmt.Sprintf("no technician session of yours was on %s; open one with: hanzoctl tech open %s", Text(client.Label(n)), Text(word))}
	}
	return nil, &codeError{code: exitNotFound, text: fmt.Sprintf(`there is no technician session and no node %s; see "hanzoctl tech list" and "hanzoctl nodes list"`, Text(word))}
}

// inTech does something in an active session: the one that is named, the caller's own of the node that is named, or one
// that is opened for it and closed after.
func (a *app) inTech(cmd *cobra.Command, f *techFlags, word string, do func(context.Context, *client.Client, *tunnelv1.TechSession) error) error {
	a.timeoutSet = false // it bounds nothing that a person waits for
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		s, err := resolveTech(ctx, c, word)
		if err == nil && s.GetStatus() == tunnelv1.TechStatus_TECH_STATUS_ACTIVE {
			return do(ctx, c, s)
		}
		n, bad := c.ResolveNode(ctx, word)
		if bad != nil {
			if err == nil {
				err = &codeError{code: exitConflict, text: "the technician session is closed; open another one"}
			}
			return err
		}
		if s, err = a.openTech(ctx, c, f, n.GetNodeId(), client.Label(n)); err != nil {
			return err
		}
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			if _, err := c.Technicians.Close(closing, &tunnelv1.TechSessionServiceCloseRequest{SessionId: s.GetSessionId()}); err != nil {
				fmt.Fprintf(a.stderr, "the technician session %s could not be closed: %v\n", shortID(s.GetSessionId()), err)
			}
		}()
		return do(ctx, c, s)
	})
}

func (a *app) techCloseCmd() *cobra.Command {
	return &cobra.Command{Use: "close SESSION|NODE", Short: "Let a node go", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeTech,
		Example: `  hanzoctl tech close build-box
  hanzoctl tech close 3f2a81`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := resolveTech(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Technicians.Close(ctx, &tunnelv1.TechSessionServiceCloseRequest{SessionId: s.GetSessionId()})
				if err != nil {
					return err
				}
				s = out.GetSession()
				return a.printOne(s, s.GetSessionId(), Text("the technician session "+shortID(s.GetSessionId())+" is closed"))
			})
		}}
}

func (a *app) techStatusCmd() *cobra.Command {
	return &cobra.Command{Use: "status SESSION|NODE", Aliases: []string{"show"}, Short: "Show a session", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeTech,
		Example: `  hanzoctl tech status build-box
  hanzoctl tech status 3f2a81 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := resolveTech(ctx, c, args[0])
				if err != nil {
					return err
				}
				return a.printTech(s, s.GetNodeId())
			})
		}}
}

func (a *app) techListCmd() *cobra.Command {
	var node string
	var active bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls-sessions"}, Short: "List sessions, the newest first", Args: cobra.NoArgs,
		Long: `List your technician sessions, those that are closed too; with the scope operator.admin everybody's.`,
		Example: `  hanzoctl tech list
  hanzoctl tech list --active --node build-box -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req := &tunnelv1.TechSessionServiceListRequest{}
				if active {
					req.Status = tunnelv1.TechStatus_TECH_STATUS_ACTIVE
				}
				if node != "" {
					n, err := c.ResolveNode(ctx, node)
					if err != nil {
						return err
					}
					req.NodeId = n.GetNodeId()
				}
				out, err := c.Technicians.List(ctx, req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNODE\tOWNER\tCOMMANDS\tWATCHERS\tOPENED\tSTATUS", none: "there are no technician sessions"}
				for _, s := range out.GetSessions() {
					l.items = append(l.items, proto.Message(s))
					l.ids = append(l.ids, s.GetSessionId())
				}
				l.row = func(i int) string {
					s := out.GetSessions()[i]
					return cells(shortID(s.GetSessionId()), shortID(s.GetNodeId()), s.GetOwnerName(), fmt.Sprint(s.GetCommands()), fmt.Sprint(s.GetWatchers()),
						span(time.Since(s.GetOpenedAt().AsTime())), techStatus(s))
				}
				return a.printList(l)
			})
		}}
	c.Flags().StringVar(&node, "node", "", "sessions of one node only")
	c.Flags().BoolVar(&active, "active", false, "only those that hold a node")
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, word)
	}))
	return c
}

// completeTech completes active sessions.
func (a *app) completeTech(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Technicians.List(ctx, &tunnelv1.TechSessionServiceListRequest{Status: tunnelv1.TechStatus_TECH_STATUS_ACTIVE})
		if err != nil {
			return nil
		}
		var words []string
		for _, s := range out.GetSessions() {
			words = append(words, cobra.CompletionWithDesc(shortID(s.GetSessionId()), Text("on "+shortID(s.GetNodeId())+" of "+s.GetOwnerName())))
		}
		return words
	})
}

func (a *app) techRunCmd() *cobra.Command {
	var f techFlags
	var cwd string
	var limit time.Duration
	c := &cobra.Command{Use: "run SESSION|NODE [flags] -- COMMAND [ARG...]", Short: "Run a command", ValidArgsFunction: a.completeNode,
		Long: `Run a command line with the shell of the node's user. What it prints comes out here as it does, and
its exit code becomes the exit code. Ctrl-C ends it there. One word behind -- is a line for the
shell; several words are quoted.`,
		Example: `  hanzoctl tech run build-box -- df -h
  hanzoctl tech run build-box --cwd /srv/app -- 'make test 2>&1 | tail'
  hanzoctl tech run 3f2a81 --limit 10m -- ./migrate`,
		Args: terminalArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("say what to run behind --")
			}
			line := args[1]
			if len(args) > 2 {
				line = Quote(args[1:])
			}
			return a.inTech(cmd, &f, args[0], func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
				defer stop()
				stream, err := c.Technicians.Run(ctx, &tunnelv1.TechSessionServiceRunRequest{
					SessionId: s.GetSessionId(), Command: line, Cwd: cwd, TimeoutMs: limit.Milliseconds(),
				})
				if err != nil {
					return err
				}
				for {
					m, err := stream.Recv()
					if err != nil {
						if ctx.Err() != nil {
							return &codeError{code: exitInt}
						}
						return err
					}
					if a.output == "jsonl" || a.output == "json" {
						if err := a.printValue(m); err != nil {
							return err
						}
					} else {
						if _, err := a.stdout.Write(m.GetStdout()); err != nil {
							return err
						}
						if _, err := a.stderr.Write(m.GetStderr()); err != nil {
							return err
						}
					}
					if !m.GetDone() {
						continue
					}
					if m.GetTruncated() {
						fmt.Fprintln(a.stderr, "the node kept only a part of the output")
					}
					switch {
					case m.GetTimedOut():
						return &codeError{code: exitDeadline, text: "the command took too long and was ended"}
					case m.GetSignal() != "":
						return &codeError{code: exitSignal + signalNumber(m.GetSignal()), text: "the command was ended by " + Text(m.GetSignal()), final: true}
					case m.GetExitCode() != 0:
						return &codeError{code: int(m.GetExitCode()) & 0xff, final: true}
					}
					return nil
				}
			})
		}}
	f.add(c)
	c.Flags().StringVar(&cwd, "cwd", "", "directory on the node")
	c.Flags().DurationVar(&limit, "limit", 0, "how long the command may take (that of the node)")
	return c
}

// ask sends one message on a channel of its own and gives each answer to take, until that says it was the last.
func (a *app) ask(ctx context.Context, c *client.Client, s *tunnelv1.TechSession, kind message.Kind, m message.Message, take func(message.Message) (bool, error)) error {
	ch, err := c.TechChannel(ctx, s.GetSessionId(), kind)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close(nil) }() // everything was read
	if err := ch.Send(ctx, m); err != nil {
		return err
	}
	for {
		answer, err := ch.Receive(ctx)
		if err != nil {
			return err
		}
		if answer.Type == message.TypeError {
			return techFailure(answer)
		}
		if last, err := take(answer); last || err != nil {
			return err
		}
	}
}

// techFailure is what a node says does not work.
func techFailure(m message.Message) error {
	var f message.Failure
	if err := m.Into(&f); err != nil {
		return err
	}
	code := map[string]int{"denied": exitDenied, "not_found": exitNotFound, "conflict": exitConflict, "invalid": exitUsage, "exhausted": exitLater}[f.Code]
	if code == 0 {
		code = exitFailed
	}
	return &codeError{code: code, text: Text(f.Error)}
}

func (a *app) techLsCmd() *cobra.Command {
	var f techFlags
	c := &cobra.Command{Use: "ls SESSION:PATH|NODE:PATH", Short: "List a directory", Args: cobra.ExactArgs(1),
		Example: `  hanzoctl tech ls build-box:/srv/app
  hanzoctl tech ls 3f2a81:/etc -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			word, path, ok := strings.Cut(args[0], ":")
			if !ok || word == "" || path == "" {
				return usagef("say which directory of which node, as NODE:PATH")
			}
			return a.inTech(cmd, &f, word, func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				var all []message.Entry
				q := message.Path{Path: path, PathB64: techRaw(path)}
				for {
					more := false
					err := a.ask(ctx, c, s, message.File, message.Of(message.TypeList, q, nil), func(m message.Message) (bool, error) {
						var e message.Entries
						if err := m.Into(&e); err != nil {
							return true, err
						}
						all, more = append(all, e.Entries...), e.More && len(e.Entries) > 0
						return true, nil
					})
					if err != nil {
						return err
					}
					if !more {
						break
					}
					q.After, q.AfterB64 = all[len(all)-1].Name, all[len(all)-1].NameB64
				}
				if a.output != "table" {
					return a.printValue(message.Entries{Entries: all})
				}
				rows := []string{"MODE\tSIZE\tCHANGED\tNAME"}
				for _, e := range all {
					rows = append(rows, cells(e.Mode, byteText(e.Size), time.UnixMilli(e.MtimeMS).Format(time.DateTime), e.Name))
				}
				return a.printTable(rows)
			})
		}}
	f.add(c)
	return c
}

func (a *app) techServiceCmd() *cobra.Command {
	var f techFlags
	c := &cobra.Command{Use: "service SESSION|NODE list|status|start|stop|restart [NAME]", Short: "Look at services of a node, start and stop them", Args: cobra.RangeArgs(2, 3),
		Example: `  hanzoctl tech service build-box list
  hanzoctl tech service build-box status nginx
  hanzoctl tech service build-box restart nginx`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"list", "status", "start", "stop", "restart"}, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNode(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q := message.ServiceCall{Op: args[1]}
			if len(args) == 3 {
				q.Name = args[2]
			}
			if !slices.Contains([]string{"list", "status", "start", "stop", "restart"}, q.Op) {
				return usagef("%q is none of list, status, start, stop, restart", q.Op)
			}
			if (q.Op == "list") == (q.Name != "") {
				return usagef("%s: name a service, but for list", q.Op)
			}
			return a.inTech(cmd, &f, args[0], func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				var all []message.ServiceState
				for {
					more := false
					err := a.ask(ctx, c, s, message.Service, message.Of(message.TypeService, q, nil), func(m message.Message) (bool, error) {
						var r message.ServiceResult
						err := m.Into(&r)
						all, more = append(all, r.Services...), r.More && len(r.Services) > 0
						return true, err
					})
					if err != nil {
						return err
					}
					if !more {
						break
					}
					q.After = all[len(all)-1].Name
				}
				if a.output != "table" {
					return a.printValue(message.ServiceResult{Services: all})
				}
				rows := []string{"NAME\tSTATE\tENABLED\tDESCRIPTION"}
				for _, one := range all {
					rows = append(rows, cells(one.Name, one.State, fmt.Sprint(one.Enabled), one.Description))
				}
				return a.printTable(rows)
			})
		}}
	f.add(c)
	return c
}

func (a *app) techRegistryCmd() *cobra.Command {
	var f techFlags
	var name, kind, value string
	c := &cobra.Command{Use: "registry SESSION|NODE get|set|delete|list KEY", Short: "Read and change the registry of a Windows node", Args: cobra.ExactArgs(3),
		Example: `  hanzoctl tech registry win-box list 'HKLM\SOFTWARE'
  hanzoctl tech registry win-box get 'HKLM\SOFTWARE\App' --name Path
  hanzoctl tech registry win-box set 'HKCU\Software\App' --name Level --kind dword --value 3`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := message.RegistryCall{Op: args[1], Key: args[2], Name: name, Kind: kind}
			if !slices.Contains([]string{"get", "set", "delete", "list"}, q.Op) {
				return usagef("%q is none of get, set, delete, list", q.Op)
			}
			if q.Op == "set" {
				if q.Value = json.RawMessage(value); !json.Valid(q.Value) {
					text, err := json.Marshal(value)
					if err != nil {
						return err
					}
					q.Value = text
				}
			}
			return a.inTech(cmd, &f, args[0], func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				var out message.RegistryResult
				for {
					err := a.ask(ctx, c, s, message.Registry, message.Of(message.TypeRegistry, q, nil), func(m message.Message) (bool, error) {
						var r message.RegistryResult
						err := m.Into(&r)
						out.Keys, out.Values, out.More = append(out.Keys, r.Keys...), append(out.Values, r.Values...), r.More
						return true, err
					})
					if err != nil {
						return err
					}
					if !out.More || len(out.Keys) == 0 {
						break
					}
					q.After = out.Keys[len(out.Keys)-1]
				}
				if a.output != "table" {
					return a.printValue(out)
				}
				var rows []string
				for _, k := range out.Keys {
					rows = append(rows, cells(k+`\`, "", ""))
				}
				for _, v := range out.Values {
					rows = append(rows, cells(v.Name, v.Kind, string(v.Value)))
				}
				return a.printTable(rows)
			})
		}}
	f.add(c)
	fl := c.Flags()
	fl.StringVar(&name, "name", "", "value below the key")
	fl.StringVar(&kind, "kind", "", "kind of a value that is set: sz, expand_sz, multi_sz, dword, qword, binary")
	fl.StringVar(&value, "value", "", "what is set: a text, or JSON")
	return c
}

func (a *app) techWatchCmd() *cobra.Command {
	return &cobra.Command{Use: "watch SESSION|NODE", Short: "Look on what happens in a session", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeTech,
		Long: `Look on what happens in a session, until it is closed: commands, their output as it comes, files and
services. Watchers change nothing; who is in the session sees them come and go. One that is too
slow misses output, and is told how much.`,
		Example: `  hanzoctl tech watch build-box
  hanzoctl tech watch 3f2a81 -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a.timeoutSet = false
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				s, err := resolveTech(ctx, c, args[0])
				if err != nil {
					return err
				}
				stream, err := c.Technicians.Watch(ctx, &tunnelv1.TechSessionServiceWatchRequest{SessionId: s.GetSessionId()})
				if err != nil {
					return err
				}
				for {
					e, err := stream.Recv()
					if err != nil {
						if errors.Is(err, io.EOF) {
							return nil
						}
						return err
					}
					if a.output != "table" {
						if err := a.printValue(e); err != nil {
							return err
						}
						continue
					}
					if len(e.GetData()) > 0 {
						// Control sequences of a terminal are for who types into it: a watcher reads text.
						if _, err := fmt.Fprint(a.stdout, shownOutput(string(e.GetData()))); err != nil {
							return err
						}
						continue
					}
					line := e.GetAt().AsTime().Local().Format(time.TimeOnly) + " " + strings.ReplaceAll(e.GetType(), "_", " ")
					if e.GetChannelId() != "" {
						line += " " + shortID(e.GetChannelId())
					}
					switch {
					case e.GetSkipped() > 0:
						line += fmt.Sprintf(": %s were left out here, because this program did not read", byteText(int64(e.GetSkipped())))
					case e.ExitCode != nil:
						line += fmt.Sprintf(": %d", e.GetExitCode())
					case e.GetText() != "":
						line += ": " + e.GetText()
					}
					if e.GetSubject() != "" {
						line += " (" + e.GetSubject() + ")"
					}
					if _, err := fmt.Fprintln(a.stdout, Text(line)); err != nil {
						return err
					}
				}
			})
		}}
}

// shownOutput is output made fit for a terminal, line by line.
func shownOutput(s string) string {
	parts := strings.SplitAfter(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, p := range parts {
		if rest, ok := strings.CutSuffix(p, "\n"); ok {
			parts[i] = Text(rest) + "\n"
		} else {
			parts[i] = Text(p)
		}
	}
	return strings.Join(parts, "")
}

func (a *app) techAuditCmd() *cobra.Command {
	return &cobra.Command{Use: "audit SESSION|NODE", Short: "Show what was done in a session", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeTech,
		Long: `Show the audit of a session, the oldest row first. A session that is gone with its node is named by
its whole id. "hanzoctl audit" has the same rows in the chained log.`,
		Example: `  hanzoctl tech audit build-box
  hanzoctl tech audit 3f2a81 -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id := args[0]
				s, err := resolveTech(ctx, c, id)
				if err == nil {
					id = s.GetSessionId()
				} else if len(id) != 36 {
					return err
				}
				out := &tunnelv1.TechSessionServiceListAuditResponse{}
				for after := uint64(0); ; {
					page, err := c.Technicians.ListAudit(ctx, &tunnelv1.TechSessionServiceListAuditRequest{SessionId: id, After: after})
					if err != nil {
						return err
					}
					out.Rows = append(out.Rows, page.GetRows()...)
					if after = page.GetNext(); after == 0 {
						break
					}
				}
				l := list{whole: out, head: "AT\tOPERATION\tCHANNEL\tWHO\tOUTCOME\tDETAIL", none: "nothing was done"}
				for _, r := range out.GetRows() {
					l.items = append(l.items, proto.Message(r))
					l.ids = append(l.ids, fmt.Sprint(r.GetRowId()))
				}
				l.row = func(i int) string {
					r := out.GetRows()[i]
					return cells(r.GetAt().AsTime().Local().Format(time.DateTime), r.GetOperation(), shortID(r.GetChannelId()), r.GetSubject(), r.GetOutcome(), techDetail(r))
				}
				return a.printList(l)
			})
		}}
}

// techDetail is the detail of a row on one line.
func techDetail(r *tunnelv1.TechAuditRow) string {
	m := r.GetDetail().AsMap()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch v := m[k].(type) {
		case nil:
		case string:
			if v != "" {
				out = append(out, k+"="+v)
			}
		default:
			text, err := json.Marshal(v)
			if err == nil && string(text) != "false" {
				out = append(out, k+"="+string(text))
			}
		}
	}
	return strings.Join(out, " ")
}
