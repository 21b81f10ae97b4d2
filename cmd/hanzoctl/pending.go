package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

func (a *app) nodesPendingCmd() *cobra.Command {
	return &cobra.Command{Use: "pending", Short: "List nodes that wait to be let in", Args: cobra.NoArgs,
		Long: `List nodes that wait to be let in, newest first, of two kinds:

A "device" has a key of its own and tries to connect as a node; it can connect once it is
approved. A "node id" was left by a client that keeps a node token; its approval makes that
token and lets nothing connect.

A request stands for five minutes. "repair" marks those that were let in before.`,
		Example: `  hanzoctl nodes pending
  hanzoctl nodes pending -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				all, err := c.WaitingNodes(ctx)
				if err != nil {
					return err
				}
				return a.printWaiting(all)
			})
		}}
}

// waitingList is the answer of nodes pending as JSON and YAML.
type waitingList struct {
	Devices  []json.RawMessage `json:"devices"`
	Pairings []json.RawMessage `json:"pairings"`
}

func waitingKind(w client.WaitingNode) string {
	if w.Device != nil {
		return "device"
	}
	return "node id"
}

func waitingState(w client.WaitingNode) string {
	if w.Repair() {
		return "repair"
	}
	return "waiting"
}

func (a *app) printWaiting(all []client.WaitingNode) error {
	l := list{head: "KIND\tSTATE\tID\tNAME\tPLATFORM\tADDRESS\tSINCE", none: "no node waits to be let in"}
	whole := waitingList{Devices: []json.RawMessage{}, Pairings: []json.RawMessage{}}
	for _, w := range all {
		var m proto.Message = w.Pairing
		into := &whole.Pairings
		if w.Device != nil {
			m, into = w.Device, &whole.Devices
		}
		text, err := toJSON(m)
		if err != nil {
			return err
		}
		*into = append(*into, text)
		l.items, l.ids = append(l.items, m), append(l.ids, w.RequestID())
	}
	if !a.quiet && (a.output == "json" || a.output == "yaml") {
		return a.printValue(whole)
	}
	l.row = func(i int) string {
		w := all[i]
		return cells(waitingKind(w), waitingState(w), shortID(w.NodeID()), w.Name(), w.Platform(), w.Address(), span(time.Since(w.At())))
	}
	if err := a.printList(l); err != nil || a.quiet || a.output != "table" {
		return err
	}
	for _, w := range all {
		fmt.Fprintln(a.stderr, Text(fmt.Sprintf("%s asks to be let in: %s nodes approve %s", waitingLabel(w), a.again(), shortID(w.NodeID()))))
	}
	return nil
}

func waitingLabel(w client.WaitingNode) string {
	if w.Name() == "" {
		return shortID(w.NodeID())
	}
	return fmt.Sprintf("%s (%s)", w.Name(), shortID(w.NodeID()))
}

// completeWaiting completes with the nodes that wait.
func (a *app) completeWaiting(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		all, err := c.WaitingNodes(ctx)
		if err != nil {
			return nil
		}
		var words []string
		for _, w := range all {
			words = append(words, Text(shortID(w.NodeID()))+"\t"+Text(w.Name())+", "+waitingKind(w)+", "+waitingState(w))
		}
		return words
	})
}

func (a *app) nodesApproveCmd() *cobra.Command {
	return &cobra.Command{Use: "approve NODE", Short: "Let in a node that waits", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeWaiting,
		Long: `Let in a node that waits. Only an admin lets devices in as nodes.

NODE is the id of the request or of the node, 6 or more of the first characters of either, or
its name, when nothing else that waits or is known has that name: a node gives itself its
name.

For a request of the kind "node id" the new node token is printed, once, alone on stdout.`,
		Example: `  hanzoctl nodes pending
  hanzoctl nodes approve 3f2a91`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				w, err := c.ResolveWaitingNode(ctx, args[0])
				if err != nil {
					return err
				}
				about := Text(fmt.Sprintf("let in: %s, %s, from %s", waitingLabel(w), orUnknown(w.Platform(), "of no known platform"), orUnknown(w.Address(), "this machine")))
				if w.Device != nil {
					out, err := c.Devices.ApprovePairing(ctx, &devicesv1.ApprovePairingRequest{RequestId: w.RequestID()})
					if err != nil {
						return err
					}
					return a.printOne(out.GetDevice(), w.NodeID(), about)
				}
				out, err := c.Nodes.ApprovePairing(ctx, &nodesv1.ApprovePairingRequest{RequestId: w.RequestID()})
				if err != nil {
					return err
				}
				if a.output == "table" && !a.quiet {
					fmt.Fprintln(a.stderr, about+"; its token is not shown again")
				}
				return a.printOne(out, "", Text(out.GetToken()))
			})
		}}
}

func orUnknown(s, unknown string) string {
	if s == "" {
		return unknown
	}
	return s
}

func (a *app) nodesRejectCmd() *cobra.Command {
	return &cobra.Command{Use: "reject NODE", Short: "Refuse a node that waits", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeWaiting,
		Long:    `Refuse a node that waits. It may ask again. NODE is named as for "hanzoctl nodes approve".`,
		Example: `  hanzoctl nodes reject 3f2a91`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				w, err := c.ResolveWaitingNode(ctx, args[0])
				if err != nil {
					return err
				}
				var out proto.Message
				if w.Device != nil {
					out, err = c.Devices.RejectPairing(ctx, &devicesv1.RejectPairingRequest{RequestId: w.RequestID()})
				} else {
					out, err = c.Nodes.RejectPairing(ctx, &nodesv1.RejectPairingRequest{RequestId: w.RequestID()})
				}
				if err != nil {
					return err
				}
				return a.printOne(out, w.NodeID(), Text("refused: "+waitingLabel(w)+"; it may ask again"))
			})
		}}
}

func (a *app) nodesPushTestCmd() *cobra.Command {
	req := &nodesv1.TestPushRequest{}
	c := &cobra.Command{Use: "push-test NODE", Short: "Show a push on a phone that registered for them", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeNode,
		Long: `Show a push on a phone that registered for them, to see whether the daemon can wake it.

The daemon needs credentials of Apple's push service, from its environment:
HANZOD_APNS_TEAM_ID, HANZOD_APNS_KEY_ID, and the private key in HANZOD_APNS_PRIVATE_KEY_PATH
or HANZOD_APNS_PRIVATE_KEY_P8.

NODE is the id of the node where it is not connected and not paired.`,
		Example: `  hanzoctl nodes push-test phone
  hanzoctl nodes push-test phone --title Hello --environment production`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, pushTimeout, func(ctx context.Context, c *client.Client) error {
				req.NodeId = args[0]
				n, err := c.ResolveNode(ctx, args[0])
				switch e, ok := errors.AsType[*client.Error](err); {
				case err == nil:
					req.NodeId = n.GetNodeId()
				case !ok || e.Code != client.CodeNodeUnknown: // a phone that sleeps may be known to the daemon by its id alone
					return err
				}
				out, err := c.Nodes.TestPush(ctx, req)
				if err != nil {
					return err
				}
				about := fmt.Sprintf("the push service took it for the phone whose token ends in %s (%s, %s)", out.GetTokenSuffix(), out.GetTopic(), out.GetEnvironment())
				if !out.GetOk() {
					about = fmt.Sprintf("the push service refused it: %d %s (%s, %s)", out.GetStatus(), out.GetReason(), out.GetTopic(), out.GetEnvironment())
				}
				if err := a.printOne(out, "", Text(about)); err != nil || out.GetOk() {
					return err
				}
				return &codeError{code: exitFailed}
			})
		}}
	f := c.Flags()
	f.StringVar(&req.Title, "title", "", "title of the push")
	f.StringVar(&req.Body, "body", "", "text of the push")
	f.StringVar(&req.Environment, "environment", "", "sandbox or production; as registered when empty")
	must(c.RegisterFlagCompletionFunc("environment", cobra.FixedCompletions([]string{"sandbox", "production"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// pushTimeout is longer than the daemon waits for the push service.
const pushTimeout = 15 * time.Second
