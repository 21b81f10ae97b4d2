package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

const (
	// invokeTimeout is how long a node may take for an invoke (nodes-approvals.md §2.1).
	invokeTimeout = 30 * time.Second
	// longestUsual is the longest time that the daemon gives a command by itself (tunnel.md §5.2).
	longestUsual = 150 * time.Second
	// wakeTime is how long the daemon may try to wake a phone by push before the node's own time begins
	// (nodes-approvals.md §1.6), with a slow push service.
	wakeTime = 35 * time.Second
	// answerGrace is how much longer than the node this program waits for the daemon to say so.
	answerGrace = 5 * time.Second
	// maxInput bounds what is read from a file or from stdin: the daemon takes no larger request.
	maxInput = 4 << 20
)

func (a *app) nodesCmd() *cobra.Command {
	c := group("nodes", "List nodes, let them in, and run commands on them", `  hanzoctl nodes list
  hanzoctl nodes pending
  hanzoctl nodes run build-box -- uname -a`,
		a.nodesListCmd(), a.nodesPendingCmd(), a.nodesApproveCmd(), a.nodesRejectCmd(), a.nodesDescribeCmd(), a.nodesInfoCmd(), a.nodesEventsCmd(), a.nodesRenameCmd(), a.nodesInvokeCmd(), a.nodesRunCmd(), a.nodesRunsCmd(), a.nodesKillCmd(), a.nodesWatchCmd(), a.nodesPushTestCmd(), a.nodesKeysCmd())
	c.Aliases = []string{"node"}
	return c
}

func connected(n *nodesv1.Node) string {
	switch {
	case n.GetConnected():
		return "connected"
	case n.GetPaired():
		return "offline"
	}
	return "gone"
}

func (a *app) nodesListCmd() *cobra.Command {
	var only bool
	var kind string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List connected and paired nodes", Args: cobra.NoArgs,
		Example: `  hanzoctl nodes list
  hanzoctl nodes list --connected -q
  hanzoctl nodes list --kind cloud
  hanzoctl nodes list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{ConnectedOnly: only, AppKind: kind})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNAME\tSTATE\tPLATFORM\tVERSION\tADDRESS\tSINCE\tLINK\tKIND", none: "no nodes are connected or paired"}
				tenants := false
				for _, n := range out.GetNodes() {
					l.items = append(l.items, n)
					l.ids = append(l.ids, n.GetNodeId())
					tenants = tenants || n.GetTenant() != ""
				}
				if tenants {
					l.head += "\tTENANT"
				}
				l.row = func(i int) string {
					n := out.GetNodes()[i]
					since := ""
					if n.GetConnectedAt() != nil {
						since = span(time.Since(n.GetConnectedAt().AsTime()))
					}
					row := []string{
						shortID(n.GetNodeId()), n.GetDisplayName(), connected(n), n.GetPlatform(), n.GetVersion(), n.GetRemoteIp(), since, n.GetLink(), n.GetAppKind(),
					}
					if tenants {
						row = append(row, n.GetTenant())
					}
					return cells(row...)
				}
				return a.printList(l)
			})
		}}
	c.Flags().BoolVar(&only, "connected", false, "connected nodes only")
	c.Flags().StringVar(&kind, "kind", "", "instances of this kind only: cloud, dev, bot …")
	return c
}

func (a *app) nodesDescribeCmd() *cobra.Command {
	return &cobra.Command{Use: "describe NODE", Aliases: []string{"get"}, Short: "Show one node", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeNode,
		Example: `  hanzoctl nodes describe build-box
  hanzoctl nodes describe b0b1b2 -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				n, err := c.ResolveNode(ctx, args[0])
				if err != nil {
					return err
				}
				out, err := c.Nodes.GetNode(ctx, &nodesv1.GetNodeRequest{NodeId: n.GetNodeId()})
				if err != nil {
					return err
				}
				return a.printOne(out.GetNode(), n.GetNodeId(), nodeRows(out.GetNode())...)
			})
		}}
}

func nodeRows(n *nodesv1.Node) []string {
	rows := []string{cells("id", n.GetNodeId()), cells("name", n.GetDisplayName()), cells("state", connected(n))}
	for _, f := range [][2]string{
		{"platform", n.GetPlatform()}, {"version", n.GetVersion()}, {"core version", n.GetCoreVersion()},
		{"ui version", n.GetUiVersion()}, {"device family", n.GetDeviceFamily()}, {"model", n.GetModelIdentifier()},
		{"address", n.GetRemoteIp()}, {"caps", strings.Join(n.GetCaps(), " ")}, {"commands", strings.Join(n.GetCommands(), " ")},
		{"permissions", permissions(n.GetPermissions())}, {"path", n.GetPathEnv()},
		{"link", n.GetLink()}, {"kind", n.GetAppKind()}, {"tenant", n.GetTenant()}, {"instance", n.GetInstanceId()}, {"directory", n.GetCwd()},
		{"page", n.GetSessionUrl()},
	} {
		if f[1] != "" {
			rows = append(rows, cells(f[0], f[1]))
		}
	}
	if t := n.GetConnectedAt(); t != nil {
		rows = append(rows, cells("connected since", t.AsTime().Local().Format(time.DateTime)))
	}
	if t := n.GetLastSeen(); t != nil {
		rows = append(rows, cells("last seen", t.AsTime().Local().Format(time.DateTime)))
	}
	return rows
}

func permissions(m map[string]bool) string {
	var out []string
	for k, v := range m {
		if v {
			out = append(out, k)
		} else {
			out = append(out, "no "+k)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (a *app) nodesRenameCmd() *cobra.Command {
	return &cobra.Command{Use: "rename NODE NAME", Short: "Give a node a name", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeNode,
		Example:           `  hanzoctl nodes rename b0b1b2 "build box"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				n, err := c.ResolveNode(ctx, args[0])
				if err != nil {
					return err
				}
				out, err := c.Nodes.RenameNode(ctx, &nodesv1.RenameNodeRequest{NodeId: n.GetNodeId(), DisplayName: args[1]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetNodeId(), Text(fmt.Sprintf("%s is now called %s", shortID(out.GetNodeId()), out.GetDisplayName())))
			})
		}}
}

func (a *app) nodesInvokeCmd() *cobra.Command {
	var params, key string
	var timeout, wait, askTimeout time.Duration
	var ask bool
	c := &cobra.Command{Use: "invoke NODE COMMAND", Short: "Call one command of a node and print its answer as JSON", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInvoke,
		Long: `Call one command of a node and print its answer as JSON.

Two calls with the same --idempotency-key are one: the second gets the answer of the
first.

With --wait a node that is not connected is waited for, and the command runs once when it
comes; a phone that registered for pushes is woken either way.

Commands of linked instances that do more than look (exec.run, chat.send, file.write …) take
the scope operator.admin, a rule, or an approval. With --ask an approval is asked for where
one is needed: what will run is shown, and once somebody has allowed it with "hanzoctl
approve", exactly that is called, once.`,
		Example: `  hanzoctl nodes invoke build-box system.which --params '{"bins":["git"]}'
  hanzoctl nodes invoke phone camera.snap --params @snap.json --timeout 1m
  hanzoctl nodes invoke phone canvas.present --wait 5m
  hanzoctl nodes invoke agent-1 exec.run --params '{"command":"git pull"}' --ask
  echo '{"bins":["git"]}' | hanzoctl nodes invoke build-box system.which --params -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &nodesv1.InvokeRequest{Command: args[1], IdempotencyKey: key}
			patience := longestUsual
			if cmd.Flags().Changed("timeout") {
				req.Timeout, patience = durationpb.New(timeout), timeout
			}
			if params != "" {
				text, err := a.readArg(params)
				if err != nil {
					return err
				}
				req.Params = &structpb.Value{}
				if err := protojson.Unmarshal(text, req.Params); err != nil {
					return usagef("--params is no JSON: %s", jsonFault(text))
				}
			}
			if timeout < 0 || wait < 0 {
				return usagef("--timeout and --wait must not be negative")
			}
			a.timeoutSet = false // it bounds the node; the daemon is given a little longer to say so
			limit := time.Duration(0)
			if patience > 0 && !ask {
				limit = patience + max(wait, wakeTime) + answerGrace
			}
			return a.call(cmd, limit, func(ctx context.Context, c *client.Client) error {
				began := time.Now()
				n, err := c.AwaitNode(ctx, args[0], wait, func() { a.awaiting(args[0], wait) })
				if err != nil {
					return err
				}
				req.NodeId = n.GetNodeId()
				if wait > 0 {
					req.WaitForNode = durationpb.New(max(wait-time.Since(began), time.Millisecond))
					if !n.GetConnected() {
						a.awaiting(client.Label(n), wait)
					}
				}
				var out *nodesv1.InvokeResponse
				if ask {
					out, err = a.askInvoke(ctx, c, req, askTimeout)
				} else {
					out, err = c.Nodes.Invoke(ctx, req)
				}
				if err != nil {
					return err
				}
				payload, err := client.Payload(out)
				if err != nil {
					return err
				}
				return a.printValue(json.RawMessage(payload))
			})
		}}
	c.Flags().StringVar(&params, "params", "", "parameters: JSON, @file, or - for stdin")
	c.Flags().DurationVar(&timeout, "timeout", invokeTimeout, "how long the node may take; 0 is no limit; some commands have another usual time")
	c.Flags().BoolVar(&ask, "ask", false, "ask for an approval where one is needed, and wait for it")
	c.Flags().DurationVar(&askTimeout, "approval-timeout", 2*time.Minute, "with --ask: how long to wait for an approval")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for a node that is not connected, at most an hour")
	c.Flags().StringVar(&key, "idempotency-key", "", "name of this call, so that a repetition does not run it again")
	return c
}

func (a *app) completeInvoke(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeNode(cmd, args, toComplete)
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		n, err := c.ResolveNode(ctx, args[0])
		if err != nil {
			return nil
		}
		return n.GetCommands()
	})
}

// readArg reads an argument that is text itself, @file, or - for stdin.
func (a *app) readArg(arg string) ([]byte, error) {
	name, isFile := strings.CutPrefix(arg, "@")
	switch {
	case arg == "-":
		return readAll(a.stdin, "stdin")
	case isFile:
		return readFile(name)
	}
	return []byte(arg), nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usage(err)
	}
	defer f.Close()
	return readAll(f, name)
}

func readAll(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxInput {
		return nil, usagef("%s is larger than %d MiB", name, maxInput>>20)
	}
	return b, nil
}

// jsonFault says where JSON goes wrong, in the words of the standard library.
func jsonFault(b []byte) string {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err.Error()
	}
	return "a name is used twice, or text is not valid UTF-8"
}

var changes = map[nodesv1.WatchNodesResponse_Change]string{
	nodesv1.WatchNodesResponse_CHANGE_PRESENT:      "present",
	nodesv1.WatchNodesResponse_CHANGE_CONNECTED:    "connected",
	nodesv1.WatchNodesResponse_CHANGE_DISCONNECTED: "disconnected",
	nodesv1.WatchNodesResponse_CHANGE_RENAMED:      "renamed",
}

func (a *app) nodesWatchCmd() *cobra.Command {
	var count int
	c := &cobra.Command{Use: "watch [RUN]", Short: "Print the nodes, and then each change; or what a run writes", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeRun(cmd, false)
		},
		Long: `Print the nodes, and then each change. It outlives restarts of the daemon and of the network: it
says so, and begins again with the nodes that are there.

With a run, print what the command writes while it runs, to stdout and stderr, until it has
ended: your own runs, and with the scope for approvals those of others, also those that were
started over the older protocol with an approval (by the id of that). Who comes late sees the
end of what was written before. The command is never slowed for it: what a watcher misses is
counted and left out. "hanzoctl nodes kill" ends a run.`,
		Example: `  hanzoctl nodes watch
  hanzoctl nodes watch -o jsonl
  hanzoctl nodes watch 0f8fad5b`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.watchRun(cmd, args[0], count)
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				return follow(ctx, a, count, func(ctx context.Context, _ bool) (grpc.ServerStreamingClient[nodesv1.WatchNodesResponse], error) {
					return c.Nodes.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
				}, func(m *nodesv1.WatchNodesResponse) error {
					n := m.GetNode()
					line := fmt.Sprintf("%-12s  %s  %s", changes[m.GetChange()], shortID(n.GetNodeId()), Text(n.GetDisplayName()))
					return a.printItem(m, n.GetNodeId(), line)
				})
			})
		}}
	countFlag(c, &count)
	return c
}

func countFlag(c *cobra.Command, count *int) {
	c.Flags().IntVar(count, "count", 0, "stop after so many; 0 goes on until interrupted")
}

// each hands on what a stream brings: count messages, or all until the stream ends.
func each[M any, P interface {
	*M
	proto.Message
}](s interface{ Recv() (P, error) }, count int, f func(P) error) error {
	for n := 1; ; n++ {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(m); err != nil || n == count {
			return err
		}
	}
}
