package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
)

func (a *app) channelsCmd() *cobra.Command {
	show := a.channelsListCmd()
	c := group("channels", "List the messengers that agents talk through", `  hanzoctl channels
  hanzoctl channels logout telegram`, show, a.channelsLogoutCmd())
	c.Aliases = []string{"channel"}
	c.RunE = show.RunE
	c.Flags().AddFlagSet(show.Flags())
	return c
}

func (a *app) channelsListCmd() *cobra.Command {
	var probe bool
	c := &cobra.Command{Use: "list", Aliases: []string{"ls", "status"}, Short: "List the channels that are set up", Args: cobra.NoArgs,
		Example: `  hanzoctl channels list
  hanzoctl channels list --probe --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Channels.GetChannels(ctx, &channelsv1.GetChannelsRequest{Probe: probe})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "CHANNEL\tNAME\tACCOUNT", none: "no channel is set up: this hanzod has none yet"}
				for _, ch := range out.GetChannels() {
					l.items = append(l.items, ch)
					l.ids = append(l.ids, ch.GetId())
				}
				l.row = func(i int) string {
					ch := out.GetChannels()[i]
					return cells(ch.GetId(), ch.GetLabel(), ch.GetDefaultAccountId())
				}
				return a.printList(l)
			})
		}}
	c.Flags().BoolVar(&probe, "probe", false, "ask the services behind the channels")
	return c
}

func (a *app) channelsLogoutCmd() *cobra.Command {
	var account string
	c := &cobra.Command{Use: "logout CHANNEL", Short: "Forget the credentials of a channel", Args: cobra.ExactArgs(1),
		Example: `  hanzoctl channels logout telegram
  hanzoctl channels logout whatsapp --account work`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Channels.LogoutChannel(ctx, &channelsv1.LogoutChannelRequest{Channel: args[0], AccountId: account})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetChannel(), "logged out of "+Text(out.GetChannel()))
			})
		}}
	c.Flags().StringVar(&account, "account", "", "account of the channel (the default one)")
	return c
}
