package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// callRequired is the refusal of a command for which an approval can be asked.
const callRequired = "approvals.call_required"

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

// askForCall parks the question about a call and waits for the answer.
func (a *app) askForCall(ctx context.Context, c *client.Client, req *nodesv1.InvokeRequest, timeout time.Duration) error {
	if timeout <= 0 {
		return usagef("--approval-timeout must be positive")
	}
	out, err := c.Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{
		NodeId: &req.NodeId, Timeout: durationpb.New(timeout), Call: &approvalsv1.Call{Command: req.GetCommand(), Params: req.GetParams()},
	})
	if err != nil {
		return err
	}
	p := out.GetApproval()
	if p.GetState() == approvalsv1.State_STATE_PENDING {
		fmt.Fprintf(a.stderr, "waiting for an approval%s: %s\n", at(p, a.elsewhere()), whatRuns(p))
		if cwd := p.GetCwd(); cwd != "" {
			fmt.Fprintf(a.stderr, "in %s\n", Text(cwd))
		}
		fmt.Fprintf(a.stderr, "answer with: %s approve %s\n", a.again(), Text(p.GetId()))
		done, err := c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: p.GetId()})
		if err != nil {
			return err
		}
		p = done.GetApproval()
	}
	switch p.GetState() {
	case approvalsv1.State_STATE_ALLOWED:
		return nil
	case approvalsv1.State_STATE_DENIED:
		return &client.Error{Code: client.CodeApprovalDenied, Class: client.Denied, Message: "denied by " + p.GetResolvedBy()}
	default:
		return &client.Error{Code: "approvals.gone", Class: client.Unavailable, Message: "nobody answered in time; call it again and have an approver at hand"}
	}
}
