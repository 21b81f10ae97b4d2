//go:build unix

package promises

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promises 3 and P2.
	readyEmpty  = 150 * time.Millisecond
	readyStored = time.Second
	storedNodes = 10_000
	// storedQuestions are approvals of the past, with their history.
	storedQuestions = 5_000
	fillers         = 64
)

// fill stores nodes and approvals as years of use would.
func fill(t *testing.T, state string) {
	t.Helper()
	s, err := store.Open(t.Context(), state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	each := func(n int, f func(ctx context.Context, i int) error) {
		for w := range fillers {
			wg.Go(func() {
				for i := w; i < n; i += fillers {
					if err := f(t.Context(), i); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	now := time.Now()
	each(storedNodes, func(ctx context.Context, i int) error {
		id := fmt.Sprintf("%064x", i)
		return s.ChangeDevices(ctx, func(tx identity.Tx) error {
			return tx.PutDevice(identity.Device{
				ID: id, PublicKey: id[:43], DisplayName: fmt.Sprint("node ", i), Platform: "linux", Role: identity.RoleNode,
				Roles: []identity.Role{identity.RoleNode}, CreatedAt: now, ApprovedAt: now,
				Tokens: map[identity.Role]identity.DeviceToken{
					identity.RoleNode: {Token: "t" + id[:42], Role: identity.RoleNode, CreatedAt: now},
				},
			})
		})
	})
	each(storedQuestions, func(ctx context.Context, i int) error {
		a := approvals.Approval{
			ID: fmt.Sprint("old-", i), State: approvals.Expired, Command: strings.Repeat("x", 200),
			CreatedAt: now.Add(-time.Hour), ExpiresAt: now.Add(-time.Minute),
		}
		if i%10 == 0 {
			a.State, a.ExpiresAt = approvals.Pending, now.Add(time.Hour)
		}
		return s.CreateApproval(ctx, a, approvals.Audit{At: now, Kind: "request", ApprovalID: a.ID})
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestP3ReadySoon: a fresh daemon is ready within 150 ms, one with 10,000 nodes within a second, also
// after a kill.
func TestP3ReadySoon(t *testing.T) {
	hello := proc.Build(t, "hello", proc.Shipped)
	measure := func(d *proc.Daemon) (ready, floor time.Duration) {
		var all []time.Duration
		for range 5 {
			floor = max(floor, proc.Run(t, d.State, hello, nil).Wait(t, proc.Patience).Took)
			d.Start()
			all = append(all, d.Ready)
			d.Kill()
		}
		slices.Sort(all)
		return all[len(all)/2], floor
	}
	empty, floor := measure(proc.New(t, proc.Options{}))
	full := proc.New(t, proc.Options{})
	fill(t, full.State)
	stored, floor2 := measure(full)
	t.Logf("ready after %v with an empty state, after %v with %d nodes and %d approvals (median of 5, killed each time)",
		empty, stored, storedNodes, storedQuestions)
	if limit := stretched(readyEmpty, floor); empty > limit {
		t.Errorf("a fresh daemon is ready after %v; %v are promised, %v on a machine as busy as this one", empty, readyEmpty, limit)
	}
	if limit := stretched(readyStored, floor2); stored > limit {
		t.Errorf("with %d nodes the daemon is ready after %v; %v are promised, %v on a machine as busy as this one",
			storedNodes, stored, readyStored, limit)
	}
	full.Start()
	if h := full.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
		t.Errorf("health: %s", h.Stderr)
	}
	full.Stop()
}
