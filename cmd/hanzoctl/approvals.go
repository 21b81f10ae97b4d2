package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

func (a *app) approvalsCmd() *cobra.Command {
	c := group("approvals", "Read and write the exec approvals file, of the daemon's machine or of a node", `  hanzoctl approvals get --node build-box > file.json
  hanzoctl approvals set --node build-box --file file.json`,
		a.approvalsGetCmd(), a.approvalsSetCmd())
	c.Aliases = []string{"exec-approvals"}
	return c
}

func (a *app) nodeFlag(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", "", "the node whose file is meant; the daemon's machine without it")
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, s)
	}))
}

func (a *app) approvalsGetCmd() *cobra.Command {
	var node string
	c := &cobra.Command{Use: "get", Short: "Print the exec approvals file as JSON", Args: cobra.NoArgs,
		Long: `Print the exec approvals file as JSON. -o json, yaml and jsonl print where it is and its hash
as well; -q prints the hash alone.`,
		Example: `  hanzoctl approvals get
  hanzoctl approvals get --node build-box -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, nodeTimeout, func(ctx context.Context, c *client.Client) error {
				p, _, err := readPolicy(ctx, c, node)
				if err != nil {
					return err
				}
				if a.output == "table" && !a.quiet {
					return a.printValue(p.GetFile())
				}
				return a.printOne(p, p.GetHash())
			})
		}}
	a.nodeFlag(c, &node)
	return c
}

func (a *app) approvalsSetCmd() *cobra.Command {
	var node, file, base string
	c := &cobra.Command{Use: "set", Short: "Replace the exec approvals file", Args: cobra.NoArgs,
		Long: `Replace the exec approvals file with the JSON in a file or on stdin.

With --base-hash the change is refused when the file is not the one that was read. Without
it the present file is replaced, whatever is in it.`,
		Example: `  hanzoctl approvals set --file file.json
  hanzoctl approvals set --node build-box --file - < file.json
  hanzoctl approvals set --file file.json --base-hash "$hash"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "-" && isTerminal(a.stdin) {
				return usagef("name the file with --file, or give it on stdin")
			}
			text, err := a.readPolicyInput(file)
			if err != nil {
				return err
			}
			s := &structpb.Struct{}
			if err := protojson.Unmarshal(text, s); err != nil {
				var v any
				if json.Unmarshal(text, &v) == nil {
					return usagef("the exec approvals file must be a JSON object")
				}
				return usagef("the exec approvals file is no JSON: %s", jsonFault(text))
			}
			return a.call(cmd, nodeTimeout, func(ctx context.Context, c *client.Client) error {
				p, err := writePolicy(ctx, c, node, base, s)
				if err != nil {
					return err
				}
				return a.printOne(p, p.GetHash(), Text(fmt.Sprintf("saved %s, hash %s", p.GetPath(), p.GetHash())))
			})
		}}
	a.nodeFlag(c, &node)
	c.Flags().StringVar(&file, "file", "-", "the new file, - for stdin")
	c.Flags().StringVar(&base, "base-hash", "", "hash of the file that the change starts from")
	return c
}

func (a *app) readPolicyInput(file string) ([]byte, error) {
	if file == "-" {
		return readAll(a.stdin, "stdin")
	}
	return readFile(file)
}

// readPolicy reads the file and says whose it is: "" is the daemon's machine.
func readPolicy(ctx context.Context, c *client.Client, node string) (*approvalsv1.PolicyFile, string, error) {
	if node == "" {
		out, err := c.Approvals.GetPolicyFile(ctx, &approvalsv1.GetPolicyFileRequest{})
		return out.GetPolicy(), "", err
	}
	n, err := c.ResolveNode(ctx, node)
	if err != nil {
		return nil, "", err
	}
	out, err := c.Approvals.GetNodePolicyFile(ctx, &approvalsv1.GetNodePolicyFileRequest{NodeId: n.GetNodeId()})
	return out.GetPolicy(), n.GetNodeId(), err
}

func writePolicy(ctx context.Context, c *client.Client, node, base string, file *structpb.Struct) (*approvalsv1.PolicyFile, error) {
	old, id, err := readPolicy(ctx, c, node)
	if err != nil {
		return nil, err
	}
	if base == "" {
		base = old.GetHash()
	}
	if id == "" {
		out, err := c.Approvals.SetPolicyFile(ctx, &approvalsv1.SetPolicyFileRequest{File: file, BaseHash: base})
		return out.GetPolicy(), err
	}
	out, err := c.Approvals.SetNodePolicyFile(ctx, &approvalsv1.SetNodePolicyFileRequest{NodeId: id, File: file, BaseHash: base})
	return out.GetPolicy(), err
}
