package runtime

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/system"
)

// makeCron makes the scheduler.
func (d *Daemon) makeCron() (err error) {
	d.cron, err = cron.New(cron.Config{
		Store: d.store, Queue: cronQueue{d}, Heartbeats: cronBeats{d}, Commands: CronCommands{func() *runs.Service { return d.runs }},
		Settings: func() cron.Settings { return cronSettings(d.current()) }, Bus: d.bus, Now: d.now, Log: d.subsystem("cron"),
	})
	return err
}

// cronSettings is what the configuration says about jobs.
func cronSettings(c *config.Config) cron.Settings {
	k := c.Cron
	if k.Store == "" {
		k.Store = filepath.Join(c.StateDir, "cron", "jobs.json")
	}
	return cron.Settings{
		Enabled: k.Enabled, StorePath: k.Store, MainAgent: c.DefaultAgentID(), MaxTurns: k.MaxConcurrentRuns, MaxAttempts: k.Retry.MaxAttempts,
		Backoff: k.Retry.Backoff, RetryOn: k.Retry.RetryOn, KeepRows: k.RunLog.KeepLines, KeepBytes: k.RunLog.MaxBytes, Token: k.WebhookToken.Reveal,
		Alert: cron.AlertSettings{
			Enabled: k.FailureAlert.Enabled, After: k.FailureAlert.After, Cooldown: k.FailureAlert.Cooldown, Mode: k.FailureAlert.Mode, AccountID: k.FailureAlert.AccountID,
		},
		Failure: cron.Destination(k.FailureDestination),
	}
}

// cronQueue tells the main session.
type cronQueue struct{ d *Daemon }

// Queue implements cron.Queue.
func (q cronQueue) Queue(ctx context.Context, text, key string) error {
	e := system.QueuedEvent{Text: text, Source: key, At: q.d.now()}
	return q.d.store.QueueEvent(ctx, mainSession(q.d.current()), e, system.MaxQueuedEvents)
}

// cronBeats lets the agent of the main session look for work.
type cronBeats struct{ d *Daemon }

// RunHeartbeat implements cron.Heartbeats.
func (b cronBeats) RunHeartbeat(ctx context.Context, reason string) (status, why string) {
	return b.d.heartbeat.RunHeartbeat(ctx, reason)
}

// Request implements cron.Heartbeats.
func (b cronBeats) Request(reason string) { b.d.heartbeat.Request(reason) }

// CronCommands shows runs to cron.
type CronCommands struct{ Of func() *runs.Service }

// Start implements cron.Commands.
func (c CronCommands) Start(ctx context.Context, owner identity.Caller, id string, cmd cron.Command) error {
	_, err := c.Of().Start(ctx, owner, runs.StartIn{
		ID: id, NodeID: cmd.NodeID, Argv: cmd.Argv, Cwd: cmd.Cwd, Env: cmd.Env, Timeout: cmd.Timeout, ApprovalTimeout: cmd.ApprovalTimeout, WaitForNode: cmd.WaitForNode,
	})
	return forCron(err)
}

// forCron gives the errors of a run the meaning that cron acts on.
func forCron(err error) error {
	if errors.Is(err, runs.ErrStop) {
		return cron.ErrStopped
	}
	return err
}

// Wait implements cron.Commands.
func (c CronCommands) Wait(ctx context.Context, owner identity.Caller, id string) (cron.CommandEnd, error) {
	r, err := c.Of().Wait(ctx, owner, id)
	if err != nil {
		return cron.CommandEnd{}, forCron(err)
	}
	var out cron.CommandEnd
	if f := r.Failure; f != nil {
		out.Failure = f.Text
	}
	if x := r.Result; x != nil {
		out.ExitCode, out.TimedOut, out.Output = x.ExitCode, x.TimedOut, strings.TrimSpace(x.Stdout+x.Stderr)
		if out.ExitCode == nil && x.Error != "" {
			out.Failure = x.Error
		}
	}
	if r.KilledBy != "" && out.ExitCode == nil {
		out.Failure = "killed by " + r.KilledBy
	}
	return out, nil
}
