package main

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
)

func (a *app) modelsCmd() *cobra.Command {
	list := a.modelsListCmd()
	c := group("models", "List the models that agents can use", `  hanzoctl models
  hanzoctl models list --provider openai`, list)
	c.Aliases = []string{"model"}
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	return c
}

func (a *app) modelsListCmd() *cobra.Command {
	var provider string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the models that can be chosen", Args: cobra.NoArgs,
		Long: `List the models that can be chosen: those of agents.defaults.models and the default one, where
that names any, and else all that the daemon knows, with those of models.providers.`,
		Example: `  hanzoctl models list
  hanzoctl models list --provider anthropic -q`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Catalog.ListModels(ctx, &agentsv1.ListModelsRequest{})
				if err != nil {
					return err
				}
				if provider != "" {
					out.Models = slices.DeleteFunc(out.Models, func(m *agentsv1.Model) bool { return m.GetProvider() != provider })
				}
				l := list{whole: out, head: "MODEL\tNAME\tCONTEXT\tREADS\tREASONING", none: "no models are known"}
				for _, m := range out.GetModels() {
					l.items = append(l.items, m)
					l.ids = append(l.ids, m.GetProvider()+"/"+m.GetModelId())
				}
				l.row = func(i int) string {
					m := out.GetModels()[i]
					window, thinks := "", ""
					if n := m.GetContextWindow(); n > 0 {
						window = strconv.FormatInt(n, 10)
					}
					if m.GetReasoning() {
						thinks = "yes"
					}
					return cells(l.ids[i], m.GetName(), window, strings.Join(m.GetInput(), ","), thinks)
				}
				return a.printList(l)
			})
		}}
	c.Flags().StringVar(&provider, "provider", "", "only those of one provider")
	must(c.RegisterFlagCompletionFunc("provider", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
			var words []string
			for _, m := range knownModels(ctx, c) {
				if !slices.Contains(words, m.GetProvider()) {
					words = append(words, m.GetProvider())
				}
			}
			return words
		})
	}))
	return c
}

func knownModels(ctx context.Context, c *client.Client) []*agentsv1.Model {
	out, err := c.Catalog.ListModels(ctx, &agentsv1.ListModelsRequest{})
	if err != nil {
		return nil
	}
	return out.GetModels()
}

// completeModelFlag completes --model.
func (a *app) completeModelFlag(c *cobra.Command) {
	must(c.RegisterFlagCompletionFunc("model", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
			var words []string
			for _, m := range knownModels(ctx, c) {
				words = append(words, Text(m.GetProvider()+"/"+m.GetModelId())+"\t"+Text(m.GetName()))
			}
			return words
		})
	}))
}

func (a *app) toolsCmd() *cobra.Command {
	list := a.toolsListCmd()
	c := group("tools", "List the tools that agents can be given", `  hanzoctl tools
  hanzoctl tools list --agent ops`, list)
	c.Aliases = []string{"tool"}
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	return c
}

func (a *app) toolsListCmd() *cobra.Command {
	var agent string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List tools, in groups", Args: cobra.NoArgs,
		Long: `List the tools that agents can be given, with the profiles that have each. The profile full has
all of them.`,
		Example: `  hanzoctl tools list`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Catalog.ListTools(ctx, &agentsv1.ListToolsRequest{AgentId: agent})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "TOOL\tGROUP\tPROFILES\tABOUT", none: "there are no tools"}
				var rows []string
				for _, g := range out.GetGroups() {
					for _, t := range g.GetTools() {
						l.items = append(l.items, t)
						l.ids = append(l.ids, t.GetToolId())
						rows = append(rows, cells(t.GetToolId(), g.GetLabel(), strings.Join(t.GetProfiles(), ","), t.GetDescription()))
					}
				}
				l.row = func(i int) string { return rows[i] }
				return a.printList(l)
			})
		}}
	a.agentFlag(c, &agent, "agent that is meant (default: the default one)")
	return c
}

// safeLines makes text fit for a terminal and keeps its lines.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		parts := strings.Split(l, "\t")
		for j := range parts {
			parts[j] = Text(parts[j])
		}
		lines[i] = strings.Join(parts, "\t")
	}
	return strings.Join(lines, "\n")
}
