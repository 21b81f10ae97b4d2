// Package scale fills a state directory as years of use of a large installation would, for tests and
// benchmarks.
//
// It imports the store and the domains, and writes what they would write.
package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
)

// Size says how much there is.
type Size struct{ Agents, Sessions, Devices, Jobs int }

// Large is the size of requirement R3 and P2.
var Large = Size{Agents: 1000, Sessions: 10_000, Devices: 1000, Jobs: 1000}

// fillers is how many goroutines write at once, so that they share commits.
const fillers = 64

// AgentID is the id of agent i.
func AgentID(i int) string { return fmt.Sprintf("agent-%04d", i) }

// Fill writes the state. No daemon may run there.
func (s Size) Fill(ctx context.Context, dir string) error {
	st, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return err
	}
	now := time.Now().Truncate(time.Millisecond)
	err = errors.Join(
		each(s.Devices, func(i int) error {
			id := fmt.Sprintf("%064x", i)
			return st.ChangeDevices(ctx, func(tx identity.Tx) error {
				return tx.PutDevice(identity.Device{
					ID: id, PublicKey: id[:43], DisplayName: fmt.Sprint("device ", i), Platform: "linux", Role: identity.RoleOperator,
					Roles: []identity.Role{identity.RoleOperator}, Scopes: []identity.Scope{identity.ScopeRead}, CreatedAt: now, ApprovedAt: now,
					Tokens: map[identity.Role]identity.DeviceToken{
						identity.RoleOperator: {Token: "t" + id[:42], Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, CreatedAt: now},
					},
				})
			})
		}),
		each(s.Sessions, func(i int) error {
			agent := AgentID(i % max(s.Agents, 1))
			tokens := int64(1000 + i)
			ref := sessions.Ref{AgentID: agent, Key: fmt.Sprintf("agent:%s:telegram:direct:%d", agent, i)}
			_, err := st.UpdateSession(ctx, ref, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
				*e = sessions.Entry{
					SessionID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), UpdatedAt: now.Add(-time.Duration(i) * time.Second),
					ChatType: "direct", Channel: "telegram", Label: fmt.Sprint("session ", i), DisplayName: fmt.Sprint("Somebody ", i),
					InputTokens: &tokens, OutputTokens: &tokens, TotalTokens: &tokens, ModelProvider: "anthropic", Model: "claude-opus-4-6",
					LastChannel: "telegram", LastTo: fmt.Sprint(i),
				}
				return sessions.Change{}, nil
			})
			return err
		}),
		each(s.Jobs, func(i int) error {
			next := now.Add(time.Hour + time.Duration(i)*time.Second).UnixMilli()
			return st.WriteCron(ctx, cron.Change{Put: []cron.Job{job(i, now, next)}})
		}),
	)
	return errors.Join(err, st.Close())
}

// each calls f for 0 to n-1.
func each(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	failed := make([]error, fillers)
	for w := range fillers {
		wg.Go(func() {
			for i := w; i < n && failed[w] == nil; i += fillers {
				failed[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// Config writes a configuration with the agents over those keys.
func (s Size) Config(dir string, file map[string]any) error {
	list := make([]map[string]any, s.Agents)
	for i := range list {
		list[i] = map[string]any{
			"id": AgentID(i), "name": fmt.Sprint("Agent ", i), "workspace": filepath.Join(dir, "workspaces", AgentID(i)),
			"identity": map[string]any{"name": fmt.Sprint("Agent ", i), "emoji": "🦊"},
		}
	}
	file["agents"] = map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}, "list": list}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}

// job is a job of the kinds that there are, due in an hour or later.
func job(i int, now time.Time, next int64) cron.Job {
	j := cron.Job{
		ID: fmt.Sprintf("10000000-0000-4000-8000-%012d", i), AgentID: AgentID(0), Name: fmt.Sprint("job ", i), Enabled: true,
		CreatedMs: now.UnixMilli(), UpdatedMs: now.UnixMilli(), Target: cron.Main, WakeMode: cron.WakeNextHeartbeat,
		Payload: cron.Payload{Kind: cron.SystemEvent, Text: fmt.Sprint("event ", i)}, State: cron.State{NextRunMs: next},
	}
	switch i % 3 {
	case 0:
		j.Schedule = cron.Schedule{Kind: cron.Every, EveryMs: 7_200_000, AnchorMs: &next}
	case 1:
		j.Schedule = cron.Schedule{Kind: cron.Cron, Expr: fmt.Sprintf("%d %d * * *", i%60, i%24), Zone: "Europe/Berlin"}
	default:
		j.Schedule = cron.Schedule{Kind: cron.At, At: time.UnixMilli(next).UTC().Format(time.RFC3339)}
	}
	return j
}
