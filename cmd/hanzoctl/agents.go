package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
)

// maxAgentFile is the largest file of a workspace.
const maxAgentFile = 2 << 20

// agentFileNames are the files that an agent reads.
var agentFileNames = []string{
	"AGENTS.md", "SOUL.md", "TOOLS.md", "IDENTITY.md", "USER.md", "HEARTBEAT.md", "BOOTSTRAP.md", "MEMORY.md", "memory.md",
}

func (a *app) agentsCmd() *cobra.Command {
	list := a.agentsListCmd()
	c := group("agents", "Make and change agents, and the files in their workspaces", `  hanzoctl agents
  hanzoctl agents create "Build Helper" --workspace ~/build
  hanzoctl agents files get build-helper SOUL.md`,
		list, a.agentsShowCmd(), a.agentsCreateCmd(), a.agentsUpdateCmd(), a.agentsDeleteCmd(), a.agentsFilesCmd())
	c.Aliases = []string{"agent"}
	c.RunE = list.RunE
	return c
}

func (a *app) agentsListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List agents, the default one first", Args: cobra.NoArgs,
		Long: `List the agents of the daemon, the default one first, and behind them the connected nodes,
which can be talked to as agents.`,
		Example: `  hanzoctl agents list
  hanzoctl agents list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.ListAgents(ctx, &agentsv1.ListAgentsRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tNAME\tKIND\tMODEL\tWORKSPACE", none: "there are no agents"}
				for _, x := range out.GetAgents() {
					l.items = append(l.items, x)
					l.ids = append(l.ids, x.GetAgentId())
				}
				l.row = func(i int) string {
					x := out.GetAgents()[i]
					return cells(x.GetAgentId(), x.GetName(), agentKind(x), x.GetModel(), x.GetWorkspace())
				}
				return a.printList(l)
			})
		}}
}

func agentKind(x *agentsv1.Agent) string {
	switch {
	case x.GetIsDefault():
		return "default"
	case x.GetIsNode():
		return "node"
	case !x.GetConfigured():
		return "not configured"
	}
	return "agent"
}

// completeAgent completes the first argument with the agents.
func (a *app) completeAgent(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Agents.ListAgents(ctx, &agentsv1.ListAgentsRequest{})
		if err != nil {
			return nil
		}
		var words []string
		for _, x := range out.GetAgents() {
			words = append(words, Text(x.GetAgentId())+"\t"+Text(x.GetName()+", "+agentKind(x)))
		}
		return words
	})
}

// agentFlag adds --agent, with completion.
func (a *app) agentFlag(c *cobra.Command, into *string, about string) {
	c.Flags().StringVar(into, "agent", "", about)
	must(c.RegisterFlagCompletionFunc("agent", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeAgent(cmd, nil, word)
	}))
}

// agentOf is one agent of the list.
func agentOf(ctx context.Context, c *client.Client, id string) (*agentsv1.Agent, error) {
	out, err := c.Agents.ListAgents(ctx, &agentsv1.ListAgentsRequest{})
	if err != nil {
		return nil, err
	}
	for _, x := range out.GetAgents() {
		if x.GetAgentId() == id {
			return x, nil
		}
	}
	return nil, &codeError{code: exitNotFound, err: fmt.Errorf("no such agent: %s; see the agents with: hanzoctl agents", id)}
}

func (a *app) agentsShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show AGENT", Short: "Show an agent: how it presents itself, where it works", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeAgent,
		Example: `  hanzoctl agents show main
  hanzoctl agents show main -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				x, err := agentOf(ctx, c, args[0])
				if err != nil {
					return err
				}
				who, err := c.Agents.GetAgentIdentity(ctx, &agentsv1.GetAgentIdentityRequest{AgentId: x.GetAgentId()})
				if err != nil {
					return err
				}
				rows := []string{
					cells("id", x.GetAgentId()), cells("name", x.GetName()), cells("kind", agentKind(x)), cells("model", x.GetModel()),
					cells("workspace", x.GetWorkspace()), cells("presents as", who.GetName()), cells("emoji", who.GetEmoji()),
					cells("avatar", shortAvatar(who.GetAvatar())),
				}
				return a.printOne(x, x.GetAgentId(), rows...)
			})
		}}
}

// shortAvatar leaves out the content of a data URL.
func shortAvatar(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

func (a *app) agentsCreateCmd() *cobra.Command {
	req := &agentsv1.CreateAgentRequest{}
	c := &cobra.Command{Use: "create NAME", Short: "Make an agent", Args: cobra.ExactArgs(1),
		Long: `Make an agent: its entry in agents.list of the configuration, its workspace, and in that the
files that an agent begins with. Its id is made of the name. It can be used at once.

A file that is there already stays as it is.`,
		Example: `  hanzoctl agents create "Build Helper"
  hanzoctl agents create ops --workspace ~/ops --emoji 🛠 --model anthropic/claude-sonnet-4-6`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.CreateAgent(ctx, req)
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetAgentId(), Text("made: "+out.GetAgentId()+", in "+out.GetWorkspace()))
			})
		}}
	f := c.Flags()
	f.StringVar(&req.Workspace, "workspace", "", "directory that it works in, on the machine of the daemon (default workspace-ID in the state directory)")
	f.StringVar(&req.Emoji, "emoji", "", "emoji that it shows")
	f.StringVar(&req.Avatar, "avatar", "", "picture: a path in the workspace, or a URL")
	f.StringVar(&req.Model, "model", "", "model that it uses, as provider/model (default: the general one)")
	a.completeModelFlag(c)
	return c
}

func (a *app) agentsUpdateCmd() *cobra.Command {
	req := &agentsv1.UpdateAgentRequest{}
	c := &cobra.Command{Use: "update AGENT", Aliases: []string{"set"}, Short: "Change an agent", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeAgent,
		Long:    `Change what is given of an agent; all else stays.`,
		Example: `  hanzoctl agents update ops --model openai/gpt-5.4`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.GetName()+req.GetWorkspace()+req.GetModel()+req.GetAvatar() == "" {
				return usagef("say what to change: --name, --workspace, --model or --avatar")
			}
			req.AgentId = args[0]
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.UpdateAgent(ctx, req)
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetAgentId(), Text("changed: "+out.GetAgentId()))
			})
		}}
	f := c.Flags()
	f.StringVar(&req.Name, "name", "", "new name; the id stays")
	f.StringVar(&req.Workspace, "workspace", "", "directory that it works in")
	f.StringVar(&req.Avatar, "avatar", "", "picture: a path in the workspace, or a URL")
	f.StringVar(&req.Model, "model", "", "model that it uses, as provider/model")
	a.completeModelFlag(c)
	return c
}

func (a *app) agentsDeleteCmd() *cobra.Command {
	var keep, yes bool
	c := &cobra.Command{Use: "delete AGENT", Aliases: []string{"remove", "rm"}, Short: "Remove an agent; its files go to the trash", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeAgent,
		Long: `Remove an agent from the configuration, with the bindings that lead to it. Its workspace and
directories go to the directory trash of the state directory, and stay there for 30 days at
least. What others use too stays where it is.`,
		Example: `  hanzoctl agents delete ops
  hanzoctl agents delete ops --yes --keep-files`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				x, err := agentOf(ctx, c, args[0])
				if err != nil {
					return err
				}
				question := "delete the agent " + x.GetAgentId() + ", and move " + x.GetWorkspace() + " to the trash?"
				if keep {
					question = "delete the agent " + x.GetAgentId() + "?"
				}
				if ok, err := a.confirm(Text(question), yes); err != nil {
					return err
				} else if !ok {
					return &codeError{code: exitUsage, err: errors.New("nothing was deleted; say --yes where there is no terminal to ask at")}
				}
				out, err := c.Agents.DeleteAgent(ctx, &agentsv1.DeleteAgentRequest{AgentId: x.GetAgentId(), KeepFiles: keep})
				if err != nil {
					return err
				}
				rows := []string{Text("deleted: " + out.GetAgentId())}
				if n := out.GetRemovedBindings(); n > 0 {
					rows[0] += fmt.Sprintf(", with %d bindings", n)
				}
				if out.GetTrash() != "" {
					rows = append(rows, Text("its files are in "+out.GetTrash()))
				}
				for _, path := range out.GetKept() {
					rows = append(rows, Text("stays where it is: "+path))
				}
				return a.printOne(out, out.GetAgentId(), rows...)
			})
		}}
	c.Flags().BoolVar(&keep, "keep-files", false, "leave the workspace and the directories of the agent")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) agentsFilesCmd() *cobra.Command {
	list := a.agentFilesListCmd()
	c := group("files", "Read and write the files that an agent reads", `  hanzoctl agents files list main
  hanzoctl agents files get main SOUL.md
  hanzoctl agents files set main USER.md user.md`,
		list, a.agentFileGetCmd(), a.agentFileSetCmd())
	c.Aliases = []string{"file"}
	return c
}

// completeAgentFile completes an agent, then one of its files.
func (a *app) completeAgentFile(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.completeAgent(cmd, nil, word)
	case 1:
		return agentFileNames, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func (a *app) agentFilesListCmd() *cobra.Command {
	return &cobra.Command{Use: "list AGENT", Aliases: []string{"ls"}, Short: "List the files that an agent reads, missing ones too", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeAgent,
		Example:           `  hanzoctl agents files list main`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.ListAgentFiles(ctx, &agentsv1.ListAgentFilesRequest{AgentId: args[0]})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "NAME\tSIZE\tCHANGED\tPATH", none: "there are no files"}
				for _, f := range out.GetFiles() {
					l.items = append(l.items, f)
					l.ids = append(l.ids, f.GetName())
				}
				l.row = func(i int) string {
					f := out.GetFiles()[i]
					if f.GetMissing() {
						return cells(f.GetName(), "missing", "", f.GetPath())
					}
					return cells(f.GetName(), strconv.FormatInt(f.GetSize(), 10), span(time.Since(f.GetUpdatedAt().AsTime()))+" ago", f.GetPath())
				}
				return a.printList(l)
			})
		}}
}

func (a *app) agentFileGetCmd() *cobra.Command {
	return &cobra.Command{Use: "get AGENT FILE", Short: "Print a file that an agent reads", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeAgentFile,
		Long: `Print a file of an agent's workspace, byte for byte. What a terminal must not see is shown as
escapes where it is printed to one.`,
		Example: `  hanzoctl agents files get main SOUL.md
  hanzoctl agents files get main USER.md > user.md`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.GetAgentFile(ctx, &agentsv1.GetAgentFileRequest{AgentId: args[0], Name: args[1]})
				if err != nil {
					return err
				}
				if a.output != "table" {
					return a.printValue(out)
				}
				if out.GetFile().GetMissing() {
					return &codeError{code: exitNotFound, err: fmt.Errorf("%s is missing; write it with: hanzoctl agents files set %s %s FILE", out.GetFile().GetPath(), args[0], args[1])}
				}
				text := out.GetFile().GetContent()
				if isTerminal(a.stdout) {
					text = safeLines(text)
				}
				_, err = io.WriteString(a.stdout, text)
				return err
			})
		}}
}

func (a *app) agentFileSetCmd() *cobra.Command {
	return &cobra.Command{Use: "set AGENT FILE SOURCE", Short: "Write a file that an agent reads", Args: cobra.ExactArgs(3),
		ValidArgsFunction: a.completeAgentFile,
		Long:              `Write a file of an agent's workspace as a whole. SOURCE is a file of this machine, or - for stdin.`,
		Example: `  hanzoctl agents files set main USER.md user.md
  echo 'Be brief.' | hanzoctl agents files set main SOUL.md -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readInput(args[2], maxAgentFile)
			if err != nil {
				return err
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Agents.SetAgentFile(ctx, &agentsv1.SetAgentFileRequest{AgentId: args[0], Name: args[1], Content: text})
				if err != nil {
					return err
				}
				f := out.GetFile()
				return a.printOne(out, f.GetName(), Text(fmt.Sprintf("written: %s (%d bytes)", f.GetPath(), f.GetSize())))
			})
		}}
}

// readInput reads a file, or stdin for "-", of at most limit bytes.
func (a *app) readInput(name string, limit int64) (string, error) {
	in := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", usage(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(data)) > limit {
		return "", usagef("%s is larger than %d bytes", name, limit)
	}
	return string(data), nil
}
