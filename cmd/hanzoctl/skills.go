package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
)

const (
	// installTimeout is how long an installation may take, as the daemon bounds it, and installMost at the most.
	installTimeout = 5 * time.Minute
	installMost    = 15 * time.Minute
	// maxSecret is the largest API key.
	maxSecret = 16 << 10
)

func (a *app) skillsCmd() *cobra.Command {
	list := a.skillsListCmd()
	c := group("skills", "List, turn on and off, and install what skills need", `  hanzoctl skills
  hanzoctl skills show weather
  hanzoctl skills install weather`,
		list, a.skillsShowCmd(), a.skillSwitchCmd("enable", "Let agents use a skill", true), a.skillSwitchCmd("disable", "Keep agents from using a skill", false),
		a.skillsKeyCmd(), a.skillsInstallCmd())
	c.Aliases = []string{"skill"}
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	return c
}

func skillState(s *agentsv1.Skill) string {
	switch {
	case s.GetDisabled():
		return "disabled"
	case s.GetBlockedByAllowlist():
		return "blocked"
	case s.GetEligible():
		return "ready"
	}
	return "needs"
}

// needWords says what is missing of a skill.
func needWords(n *agentsv1.SkillNeeds) string {
	var out []string
	out = append(out, n.GetBins()...)
	if any := n.GetAnyBins(); len(any) > 0 {
		out = append(out, "one of "+strings.Join(any, "|"))
	}
	for _, e := range n.GetEnv() {
		out = append(out, "$"+e)
	}
	out = append(out, n.GetConfig()...)
	if os := n.GetOs(); len(os) > 0 {
		out = append(out, "on "+strings.Join(os, "|"))
	}
	return strings.Join(out, ", ")
}

func (a *app) skillsListCmd() *cobra.Command {
	var agent string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the skills of an agent", Args: cobra.NoArgs,
		Long: `List the skills that an agent has. A skill is

  ready     it can be used
  needs     something that it needs is missing
  disabled  it was turned off
  blocked   skills.allowBundled does not name it`,
		Example: `  hanzoctl skills list
  hanzoctl skills list --agent ops -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Skills.ListSkills(ctx, &agentsv1.ListSkillsRequest{AgentId: agent})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "NAME\tSTATE\tMISSING\tFROM\tABOUT",
					none: "there are no skills; put them into " + Text(out.GetManagedDir()) + ", or for one agent into " + Text(out.GetWorkspace()) + "/skills"}
				for _, s := range out.GetSkills() {
					l.items = append(l.items, s)
					l.ids = append(l.ids, s.GetName())
				}
				l.row = func(i int) string {
					s := out.GetSkills()[i]
					return cells(s.GetName(), skillState(s), needWords(s.GetMissing()), s.GetSource(), shortAvatar(s.GetDescription()))
				}
				return a.printList(l)
			})
		}}
	a.agentFlag(c, &agent, "agent whose skills are meant (default: the default one)")
	return c
}

// completeSkill completes the first argument with the skills of the default agent.
func (a *app) completeSkill(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Skills.ListSkills(ctx, &agentsv1.ListSkillsRequest{})
		if err != nil {
			return nil
		}
		var words []string
		for _, s := range out.GetSkills() {
			words = append(words, Text(s.GetName())+"\t"+skillState(s))
		}
		return words
	})
}

// skillOf finds a skill by its name or its key.
func skillOf(ctx context.Context, c *client.Client, agent, name string) (*agentsv1.Skill, error) {
	out, err := c.Skills.ListSkills(ctx, &agentsv1.ListSkillsRequest{AgentId: agent})
	if err != nil {
		return nil, err
	}
	for _, s := range out.GetSkills() {
		if s.GetName() == name || s.GetSkillKey() == name {
			return s, nil
		}
	}
	return nil, &codeError{code: exitNotFound, err: fmt.Errorf("no such skill: %s; see the skills with: hanzoctl skills", name)}
}

func (a *app) skillsShowCmd() *cobra.Command {
	var agent string
	c := &cobra.Command{Use: "show SKILL", Short: "Show a skill: what it needs, and how that can be installed", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSkill,
		Example:           `  hanzoctl skills show weather`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := skillOf(ctx, c, agent, args[0])
				if err != nil {
					return err
				}
				rows := []string{
					cells("name", s.GetName()), cells("about", s.GetDescription()), cells("state", skillState(s)), cells("key", s.GetSkillKey()),
					cells("needs", needWords(s.GetRequirements())), cells("missing", needWords(s.GetMissing())), cells("from", s.GetSource()),
					cells("file", s.GetFilePath()), cells("homepage", s.GetHomepage()),
				}
				for _, i := range s.GetInstallers() {
					rows = append(rows, cells("install", i.GetInstallId()+": "+i.GetLabel()))
				}
				return a.printOne(s, s.GetName(), rows...)
			})
		}}
	a.agentFlag(c, &agent, "agent whose skill is meant (default: the default one)")
	return c
}

func (a *app) skillSwitchCmd(use, short string, on bool) *cobra.Command {
	return &cobra.Command{Use: use + " SKILL", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeSkill,
		Long: short + `, in skills.entries of the configuration.`, Example: `  hanzoctl skills ` + use + ` weather`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := skillOf(ctx, c, "", args[0])
				if err != nil {
					return err
				}
				out, err := c.Skills.UpdateSkill(ctx, &agentsv1.UpdateSkillRequest{SkillKey: s.GetSkillKey(), Enabled: &on})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetSkillKey(), Text(use+"d: "+s.GetName()))
			})
		}}
}

func (a *app) skillsKeyCmd() *cobra.Command {
	var remove bool
	c := &cobra.Command{Use: "key SKILL", Short: "Set the API key of a skill, read from stdin", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeSkill,
		Long: `Set the API key of a skill in skills.entries of the configuration. It is read from stdin, so that
it gets neither into the list of processes nor into the history of the shell.`,
		Example: `  hanzoctl skills key weather < key.txt
  hanzoctl skills key weather --remove`,
		RunE: func(cmd *cobra.Command, args []string) error {
			key := ""
			if !remove {
				text, err := a.readInput("-", maxSecret)
				if err != nil {
					return err
				}
				if key = strings.TrimSpace(text); key == "" {
					return usagef("stdin holds no key; say --remove to remove the one that is set")
				}
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := skillOf(ctx, c, "", args[0])
				if err != nil {
					return err
				}
				out, err := c.Skills.UpdateSkill(ctx, &agentsv1.UpdateSkillRequest{SkillKey: s.GetSkillKey(), ApiKey: &key})
				if err != nil {
					return err
				}
				word := "key set: "
				if remove {
					word = "key removed: "
				}
				return a.printOne(out, out.GetSkillKey(), Text(word+s.GetName()))
			})
		}}
	c.Flags().BoolVar(&remove, "remove", false, "remove the key")
	return c
}

func (a *app) skillsInstallCmd() *cobra.Command {
	var with string
	var limit time.Duration
	c := &cobra.Command{Use: "install SKILL", Short: "Install what a skill needs, on the machine of the daemon", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeSkill,
		Long: `Install what a skill needs, by the program that the skill names: brew, npm (or what
skills.install.nodeManager says), go, uv, or by a download. It runs on the machine of the
daemon, as the user of the daemon.`,
		Example: `  hanzoctl skills install weather
  hanzoctl skills install weather --with brew-0 --limit 10m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < time.Second || limit > installMost {
				return usagef("--limit must be from 1s to 15m")
			}
			return a.call(cmd, limit+callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := skillOf(ctx, c, "", args[0])
				if err != nil {
					return err
				}
				id := with
				if id == "" {
					if len(s.GetInstallers()) == 0 {
						return &codeError{code: exitConflict, err: fmt.Errorf("%s does not say how to install what it needs", s.GetName())}
					}
					id = s.GetInstallers()[0].GetInstallId()
				}
				out, err := c.Skills.InstallSkill(ctx, &agentsv1.InstallSkillRequest{Name: s.GetName(), InstallId: id, Timeout: durationpb.New(limit)})
				if err != nil {
					return err
				}
				for _, w := range out.GetWarnings() {
					fmt.Fprintln(a.stderr, Text("warning: "+w))
				}
				if !out.GetOk() && a.output == "table" {
					return errors.New(out.GetMessage())
				}
				if err := a.printOne(out, s.GetName(), Text(out.GetMessage())); err != nil {
					return err
				}
				if !out.GetOk() {
					return &codeError{code: exitFailed}
				}
				return nil
			})
		}}
	c.Flags().StringVar(&with, "with", "", "which of the ways that the skill names (default: the one that fits best)")
	c.Flags().DurationVar(&limit, "limit", installTimeout, "how long it may take")
	return c
}
