package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// beatTimeout is how long a heartbeat may take: the daemon waits two minutes for a busy agent, and then the
// agent has its turn.
const beatTimeout = 15 * time.Minute

func (a *app) heartbeatCmd() *cobra.Command {
	return group("heartbeat", "See and control how agents look for work of their own", `  hanzoctl heartbeat last
  hanzoctl heartbeat disable
  hanzoctl heartbeat now`, a.heartbeatLastCmd(), a.heartbeatSetCmd("enable", true), a.heartbeatSetCmd("disable", false), a.heartbeatNowCmd())
}

func (a *app) heartbeatLastCmd() *cobra.Command {
	return &cobra.Command{Use: "last", Short: "Show how the last heartbeat ended", Args: cobra.NoArgs,
		Long: `Show how the last heartbeat ended since the daemon started. Heartbeats that were not due, that
were turned off or that fell into quiet hours leave nothing.`,
		Example: `  hanzoctl heartbeat last
  hanzoctl heartbeat last --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.GetLastHeartbeat(ctx, &systemv1.GetLastHeartbeatRequest{})
				if err != nil {
					return err
				}
				r := out.GetReport()
				if r == nil {
					return a.printOne(out, "", "no heartbeat yet since the daemon started")
				}
				rows := []string{cells("at", r.GetAt().AsTime().Local().Format(time.DateTime)), cells("status", r.GetStatus())}
				for _, f := range []struct{ name, value string }{
					{"reason", r.GetReason()}, {"said", r.GetPreview()}, {"channel", strings.TrimSpace(r.GetChannel() + " " + r.GetTo())},
				} {
					if f.value != "" {
						rows = append(rows, cells(f.name, f.value))
					}
				}
				if r.GetTook() != nil {
					rows = append(rows, cells("took", r.GetTook().AsDuration().Round(time.Millisecond).String()))
				}
				return a.printOne(out, "", rows...)
			})
		}}
}

func (a *app) heartbeatSetCmd(word string, on bool) *cobra.Command {
	short, state := "Turn heartbeats on", "on"
	if !on {
		short, state = "Turn all heartbeats off until the daemon starts again", "off until the daemon starts again"
	}
	return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs,
		Long: short + `. To have them off for good, set agents.defaults.heartbeat.every to "0m"
in the configuration.`,
		Example: "  hanzoctl heartbeat " + word,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.SetHeartbeats(ctx, &systemv1.SetHeartbeatsRequest{Enabled: &on})
				if err != nil {
					return err
				}
				return a.printOne(out, "", "heartbeats are "+state)
			})
		}}
}

func (a *app) heartbeatNowCmd() *cobra.Command {
	var agent string
	c := &cobra.Command{Use: "now", Short: "Let an agent look for work now, and say what came of it", Args: cobra.NoArgs,
		Long: `Let an agent look for work now, and say what came of it. The exit code is 0 when it had its turn.
A busy agent is waited for, for two minutes at the most.`,
		Example: `  hanzoctl heartbeat now
  hanzoctl heartbeat now --agent ops`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, beatTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.RunHeartbeat(ctx, &systemv1.RunHeartbeatRequest{AgentId: agent})
				if err != nil {
					return err
				}
				line := out.GetStatus()
				if why := out.GetReason(); why != "" {
					line += ": " + why
				}
				if err := a.printOne(out, "", Text(line)); err != nil {
					return err
				}
				if out.GetStatus() != "ran" {
					why := "no heartbeat ran: " + Text(out.GetReason())
					if out.GetReason() == "disabled" {
						why += "; turn it on with " + a.again() + " heartbeat enable, or set agents.defaults.heartbeat.every"
					}
					return &codeError{code: exitLater, text: why}
				}
				return nil
			})
		}}
	c.Flags().StringVar(&agent, "agent", "", "id of the agent (the default one)")
	return c
}

func (a *app) wakeCmd() *cobra.Command {
	var later bool
	c := &cobra.Command{Use: "wake TEXT...", Short: "Tell the main session something, and have its agent look at it", Args: cobra.MinimumNArgs(1),
		Long: `Tell the main session something, and have its agent look at it: at once, or with --later at the
usual time of its next heartbeat. The text is on disk when the command ends.`,
		Example: `  hanzoctl wake "the backup failed on box-3"
  hanzoctl wake --later "look at the disk of box-3"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				mode := systemv1.WakeMode_WAKE_MODE_NOW
				if later {
					mode = systemv1.WakeMode_WAKE_MODE_NEXT_HEARTBEAT
				}
				out, err := c.System.Wake(ctx, &systemv1.WakeRequest{Text: strings.Join(args, " "), Mode: mode})
				if err != nil {
					return err
				}
				return a.printOne(out, "", "told the main session")
			})
		}}
	c.Flags().BoolVar(&later, "later", false, "at the usual time of the next heartbeat")
	return c
}

func (a *app) eventCmd() *cobra.Command {
	req := &systemv1.SendSystemEventRequest{}
	var host, device, mode, reason string
	c := &cobra.Command{Use: "event TEXT...", Short: "Report that something happened", Args: cobra.MinimumNArgs(1),
		Long: `Report that something happened: the agent of the main session reads it with its next turn, and
presence lists who reported it. A text that begins with "Node:" is a beacon of a program; of it,
only what changed is passed on.`,
		Example: `  hanzoctl event "the deploy of api finished"
  hanzoctl event --from build-box --reason deploy "build 512 is green"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				req.Text = strings.Join(args, " ")
				for name, f := range map[string]struct {
					from *string
					to   **string
				}{"from": {&host, &req.Host}, "device": {&device, &req.DeviceId}, "mode": {&mode, &req.Mode}, "reason": {&reason, &req.Reason}} {
					if cmd.Flags().Changed(name) {
						*f.to = f.from
					}
				}
				out, err := c.System.SendSystemEvent(ctx, req)
				if err != nil {
					return err
				}
				return a.printOne(out, "", "reported")
			})
		}}
	c.Flags().StringVar(&host, "from", "", "name of the machine that reports it")
	c.Flags().StringVar(&device, "device", "", "its device id")
	c.Flags().StringVar(&mode, "mode", "", "what it is, for showing")
	c.Flags().StringVar(&reason, "reason", "", "why it reports, for showing")
	return c
}

func (a *app) presenceCmd() *cobra.Command {
	return &cobra.Command{Use: "presence", Short: "List who was seen on the gateway in the last five minutes", Args: cobra.NoArgs,
		Example: `  hanzoctl presence
  hanzoctl presence --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.System.ListPresence(ctx, &systemv1.ListPresenceRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "HOST\tADDRESS\tMODE\tVERSION\tPLATFORM\tREASON\tSEEN", none: "nobody was seen"}
				for _, e := range out.GetEntries() {
					l.items = append(l.items, e)
					l.ids = append(l.ids, e.GetHost())
				}
				l.row = func(i int) string {
					e := out.GetEntries()[i]
					return cells(e.GetHost(), e.GetIp(), e.GetMode(), e.GetVersion(), e.GetPlatform(), e.GetReason(),
						fmt.Sprintf("%s ago", span(max(time.Since(e.GetAt().AsTime()), 0))))
				}
				return a.printList(l)
			})
		}}
}
