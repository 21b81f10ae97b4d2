package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
)

// updateTime bounds an update: a program is read, verified and written.
const updateTime = 20 * time.Minute

func (a *app) updateCmd() *cobra.Command {
	c := group("update", "See whether there is a newer hanzod, and install it", `  hanzoctl update check
  hanzoctl update run`, a.updateCheckCmd(), a.updateRunCmd())
	c.Long = `Newer programs come out of a directory that the daemon was told with HANZOD_UPDATE_DIR: what "make
dist" makes, with its SHA256SUMS. Nothing is fetched from anywhere.

The newest build for the daemon's system that is newer than what runs is verified, put in the place
of the program, and the daemon goes on as it in the same process. When it does not become ready, the
program before it is put back. To replace the program by a file of your choice: hanzod service
upgrade.`
	return c
}

func (a *app) updateCheckCmd() *cobra.Command {
	return &cobra.Command{Use: "check", Short: "Say whether there is a newer hanzod", Args: cobra.NoArgs,
		Example: `  hanzoctl update check`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Updates.GetUpdate(ctx, &updatev1.GetUpdateRequest{})
				if err != nil {
					return err
				}
				rows := []string{cells("runs", "hanzod "+out.GetCurrentVersion())}
				switch {
				case out.GetFault() != "":
					rows = append(rows, cells("newest", "not known: "+out.GetFault()))
				case out.GetLatestVersion() == "":
					rows = append(rows, cells("newest", "there is none that is newer"))
				default:
					rows = append(rows, cells("newest", "hanzod "+out.GetLatestVersion()+"; install it with: "+a.again()+" update run"))
				}
				return a.printOne(out, out.GetLatestVersion(), append(rows, cells("builds", out.GetDirectory()))...)
			})
		}}
}

func (a *app) updateRunCmd() *cobra.Command {
	var delay time.Duration
	var note string
	c := &cobra.Command{Use: "run", Short: "Install the newest hanzod and go on as it", Args: cobra.NoArgs,
		Long: `Install the newest build and restart. Clients are told and come back by themselves. Nothing is changed
when there is no newer one, when its checksum is wrong, when it does not run here, or when it could
not read the database.`,
		Example: `  hanzoctl update run`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, updateTime, func(ctx context.Context, c *client.Client) error {
				req := &updatev1.RunUpdateRequest{Note: note}
				if cmd.Flags().Changed("delay") {
					req.RestartDelay = durationpb.New(delay)
				}
				out, err := c.Updates.RunUpdate(ctx, req)
				if err != nil {
					return err
				}
				var rows []string
				var fault string
				for _, s := range out.GetSteps() {
					how := "done"
					if s.GetExitCode() != 0 {
						how, fault = "failed: "+s.GetStderrTail(), s.GetStderrTail()
					}
					rows = append(rows, cells(s.GetName(), s.GetCommand(), how))
				}
				switch out.GetStatus() {
				case "ok":
					rows = append(rows, cells("restart", "in "+out.GetRestartDelay().AsDuration().Round(time.Second).String(), "hanzod "+out.GetAfterVersion()+" takes the place of "+out.GetBeforeVersion()))
				case "skipped":
					rows = append(rows, cells("nothing to do", skippedWhy(out.GetReason()), ""))
				}
				if err := a.printOne(out, out.GetAfterVersion(), rows...); err != nil {
					return err
				}
				if out.GetStatus() == "error" {
					if fault == "" {
						fault = out.GetReason()
					}
					return errors.New("nothing was installed: " + Text(fault))
				}
				return nil
			})
		}}
	c.Flags().DurationVar(&delay, "delay", 0, "how long the restart waits, at most 1m (default 2s)")
	c.Flags().StringVar(&note, "note", "", "what the main session is told after the restart")
	return c
}

func skippedWhy(reason string) string {
	switch reason {
	case "not-configured":
		return "the daemon was told no directory of builds: set HANZOD_UPDATE_DIR for it, or use hanzod service upgrade"
	case "up-to-date":
		return "there is no newer build"
	case "config-pending":
		return "a change of the configuration waits to be confirmed; see hanzoctl config confirm"
	}
	return fmt.Sprintf("skipped: %s", reason)
}
