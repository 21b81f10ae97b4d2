package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

func (a *app) nodesInfoCmd() *cobra.Command {
	return &cobra.Command{Use: "info NODE", Short: "Ask a node what it is and how it does", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeNode,
		Long: `Ask a node what it is and how it does: its answer to system.info, or to status.get where it has only
that, as JSON.`,
		Example: `  hanzoctl nodes info agent-1
  hanzoctl nodes info build-box -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, invokeTimeout+answerGrace, func(ctx context.Context, c *client.Client) error {
				n, err := c.ResolveNode(ctx, args[0])
				if err != nil {
					return err
				}
				out, err := c.Nodes.GetInfo(ctx, &nodesv1.GetInfoRequest{NodeId: n.GetNodeId()})
				if err != nil {
					return err
				}
				text, err := protojson.Marshal(out.GetInfo())
				if err != nil {
					return err
				}
				return a.printValue(json.RawMessage(text))
			})
		}}
}

func (a *app) nodesEventsCmd() *cobra.Command {
	var count int
	c := &cobra.Command{Use: "events [NODE]", Short: "Print what a node reports, or all nodes, as it comes", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNode(cmd, args, toComplete)
		},
		Long: `Print what a node reports, or all nodes, in order and once, from now on. It outlives restarts of the
daemon and of the network. A reader that is too slow is told how many events it missed.`,
		Example: `  hanzoctl nodes events agent-1
  hanzoctl nodes events -o jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				id := ""
				if len(args) > 0 {
					n, err := c.ResolveNode(ctx, args[0])
					if err != nil {
						return err
					}
					id = n.GetNodeId()
				}
				return follow(ctx, a, count, func(ctx context.Context, _ bool) (grpc.ServerStreamingClient[nodesv1.WatchEventsResponse], error) {
					return c.Nodes.WatchEvents(ctx, &nodesv1.WatchEventsRequest{NodeId: id})
				}, func(m *nodesv1.WatchEventsResponse) error {
					if m.GetLost() > 0 {
						fmt.Fprintf(a.stderr, "%d events were lost here: they came faster than they were printed\n", m.GetLost())
						if m.GetEvent() == "" {
							return nil
						}
					}
					payload := ""
					if p := m.GetPayload(); p != nil {
						text, err := protojson.Marshal(p)
						if err != nil {
							return err
						}
						payload = string(text)
					}
					line := fmt.Sprintf("%s  %s  %-16s  %s", m.GetAt().AsTime().Local().Format(time.TimeOnly), shortID(m.GetNodeId()), Text(m.GetEvent()), Text(payload))
					return a.printItem(m, m.GetNodeId(), line)
				})
			})
		}}
	countFlag(c, &count)
	return c
}

// askInvoke calls a command of a node; where it takes an approval, it is shown what will run, and waited for.
func (a *app) askInvoke(ctx context.Context, c *client.Client, req *nodesv1.InvokeRequest, timeout time.Duration) (*nodesv1.InvokeResponse, error) {
	if timeout <= 0 {
		return nil, usagef("--approval-timeout must be positive")
	}
	stream, err := c.Nodes.AskInvoke(ctx, &nodesv1.AskInvokeRequest{
		NodeId: req.GetNodeId(), Command: req.GetCommand(), Params: req.GetParams(), Timeout: req.GetTimeout(), IdempotencyKey: req.GetIdempotencyKey(),
		WaitForNode: req.GetWaitForNode(), ApprovalTimeout: durationpb.New(timeout),
	})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if out := m.GetAnswer(); out != nil {
			return out, nil
		}
		q := m.GetQuestion()
		fmt.Fprintf(a.stderr, "waiting for an approval of: %s\n", Quote(q.GetArgv()))
		if q.GetCwd() != "" {
			fmt.Fprintf(a.stderr, "in %s\n", Text(q.GetCwd()))
		}
		if keys := q.GetEnvKeys(); len(keys) > 0 {
			fmt.Fprintf(a.stderr, "with the environment %s\n", Text(strings.Join(keys, " ")))
		}
		fmt.Fprintf(a.stderr, "answer with: %s approve %s\n", a.again(), Text(q.GetApprovalId()))
	}
}
