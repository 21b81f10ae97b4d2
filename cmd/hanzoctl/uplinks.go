package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

func (a *app) uplinksCmd() *cobra.Command {
	l := a.uplinksListCmd()
	c := group("uplinks", "Other hanzods and relays that this machine is an instance of", `  hanzoctl uplinks list
  hanzoctl uplinks stop cloud
  hanzoctl uplinks start cloud`,
		l, a.uplinksStatusCmd(), a.uplinksStartCmd(), a.uplinksStopCmd())
	c.Aliases = []string{"uplink"}
	c.RunE = l.RunE
	return c
}

// phaseOf is a phase for people.
func phaseOf(u *tunnelv1.Uplink) string {
	return strings.ToLower(strings.TrimPrefix(u.GetPhase().String(), "UPLINK_PHASE_"))
}

func (a *app) uplinksListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the uplinks of the configuration", Args: cobra.NoArgs,
		Long: `List the uplinks of the configuration (uplinks), and how they fare.`,
		Example: `  hanzoctl uplinks list
  hanzoctl uplinks list -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Uplinks.ListUplinks(ctx, &tunnelv1.ListUplinksRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "NAME\tSTATE\tSINCE\tINSTANCE\tURL\tERROR", none: "there are no uplinks; add one with: hanzoctl config set uplinks.NAME.url wss://host/v1/tunnel"}
				for _, u := range out.GetUplinks() {
					l.items = append(l.items, u)
					l.ids = append(l.ids, u.GetName())
				}
				l.row = func(i int) string {
					u := out.GetUplinks()[i]
					return cells(u.GetName(), phaseOf(u), span(time.Since(u.GetSince().AsTime())), u.GetInstanceId(), u.GetUrl(), u.GetError())
				}
				return a.printList(l)
			})
		}}
}

func (a *app) uplinksStatusCmd() *cobra.Command {
	return &cobra.Command{Use: "status NAME", Short: "Show one uplink", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeUplinks,
		Example: `  hanzoctl uplinks status cloud
  hanzoctl uplinks status cloud -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Uplinks.GetUplink(ctx, &tunnelv1.GetUplinkRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetUplink().GetName(), uplinkLine(out.GetUplink()))
			})
		}}
}

// uplinkLine is an uplink in words.
func uplinkLine(u *tunnelv1.Uplink) string {
	s := u.GetName() + ": " + phaseOf(u) + " for " + span(time.Since(u.GetSince().AsTime())) + ", " + u.GetInstanceId() + " at " + u.GetUrl()
	if u.GetSessionUrl() != "" {
		s += ", seen at " + u.GetSessionUrl()
	}
	if u.GetError() != "" {
		s += ": " + u.GetError()
	}
	return Text(s)
}

func (a *app) uplinksStartCmd() *cobra.Command {
	return &cobra.Command{Use: "start NAME", Short: "Dial, also where the configuration does not", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeUplinks,
		Long: `Dial an uplink, also one that the configuration does not enable. One that waits for its next attempt makes
it at once.`,
		Example: `  hanzoctl uplinks start cloud`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Uplinks.StartUplink(ctx, &tunnelv1.StartUplinkRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetUplink().GetName(), uplinkLine(out.GetUplink()))
			})
		}}
}

func (a *app) uplinksStopCmd() *cobra.Command {
	return &cobra.Command{Use: "stop NAME", Short: "End a link until it is started again", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeUplinks,
		Long: `End the link of an uplink. It stays ended until it is started, its configuration changes, or the daemon starts
anew; to end it for good: hanzoctl config set uplinks.NAME.enabled false`,
		Example: `  hanzoctl uplinks stop cloud`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Uplinks.StopUplink(ctx, &tunnelv1.StopUplinkRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetUplink().GetName(), uplinkLine(out.GetUplink()))
			})
		}}
}

func (a *app) completeUplinks(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, _ := c.Uplinks.ListUplinks(ctx, &tunnelv1.ListUplinksRequest{}) // nothing is offered then
		var words []string
		for _, u := range out.GetUplinks() {
			words = append(words, Text(u.GetName()))
		}
		return words
	})
}
