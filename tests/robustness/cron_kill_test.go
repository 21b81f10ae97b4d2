//go:build unix

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	quickCronKills = 5
	// cronEvery is the distance of the slots; a command takes some of it.
	cronEvery = 150 * time.Millisecond
	// cronJobs run events, cronCommands append to a file.
	cronJobs, cronCommands = 20, 3
	// cronFullSecond is the time in which as many jobs of one moment have to start; machines that are busy
	// take longer.
	cronCrowd      = 1000
	cronFullSecond = time.Second
)

// slotRows counts what became of the slots of a job, and fails where one has two rows.
func slotRows(t *testing.T, ctx context.Context, c *client.Client, id string) (ran, left map[int64]bool, lost int) {
	t.Helper()
	ran, left = map[int64]bool{}, map[int64]bool{}
	limit := int32(200)
	for req := (&cronv1.ListRunsRequest{JobId: id, Limit: &limit, Ascending: true}); ; {
		out, err := c.Cron.ListRuns(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range out.GetRuns() {
			slot := r.GetSlot().AsTime().UnixMilli()
			switch {
			case r.GetLeftOut() > 0:
				for at := slot; at <= max(slot, r.GetUntil().AsTime().UnixMilli()); at += cronEvery.Milliseconds() {
					if left[at] || ran[at] {
						t.Errorf("the slot %d of %s has two rows", at, id)
					}
					left[at] = true
				}
			default:
				if left[slot] || ran[slot] {
					t.Errorf("the slot %d of %s has two rows", slot, id)
				}
				ran[slot] = true
				if strings.HasPrefix(r.GetError(), "interrupted") {
					lost++
				}
			}
		}
		if out.GetPage().NextOffset == nil {
			return ran, left, lost
		}
		req.Offset = out.GetPage().GetNextOffset()
	}
}

// TestR20KillCron kills the real daemon with SIGKILL at random moments while jobs are due all the time: no slot
// runs twice, none vanishes without a row, and a command of a slot runs once at the most.
func TestR20KillCron(t *testing.T) {
	d := proc.Start(t, proc.Options{Args: []string{"--node"}})
	ctx := t.Context()
	c := d.Client(t)
	dir := proc.Dir(t)
	nodeID := ""
	proc.Until(t, "the node is there", func() bool {
		nodeID = strings.TrimSpace(d.Ctl("nodes", "list", "--connected", "-q").Wait(t, proc.Patience).Stdout.String())
		return nodeID != ""
	})
	script := filepath.Join(dir, "mark")
	marks := filepath.Join(dir, "marks")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1\" >> '"+marks+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var ids, commands []string
	for i := range cronJobs + cronCommands {
		req := &cronv1.AddJobRequest{Schedule: &cronv1.Schedule{Every: durationpb.New(cronEvery)}}
		if i < cronJobs {
			text, wake := fmt.Sprint("event ", i), []string{"now", "next-heartbeat"}[i%2]
			req.Payload, req.WakeMode = &cronv1.Payload{SystemEvent: &text}, wake
		} else {
			argv := []string{script, fmt.Sprint("c", i)}
			if _, err := c.Grants.CreateGrant(ctx, grantFor(nodeID, dir, argv)); err != nil {
				t.Fatal(err)
			}
			req.Payload = &cronv1.Payload{Command: &cronv1.Command{NodeId: nodeID, Argv: argv, Cwd: dir, WaitForNode: durationpb.New(5 * time.Second)}}
		}
		out, err := c.Cron.AddJob(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, out.GetJob().GetId())
		if i >= cronJobs {
			commands = append(commands, out.GetJob().GetId())
		}
	}
	began := time.Now()
	for range rounds(t, quickCronKills) {
		time.Sleep(time.Duration(200+rand.IntN(900)) * time.Millisecond)
		d.Kill()
		d.Start()
	}
	time.Sleep(time.Second)
	c = d.Client(t)
	off := false
	for _, id := range ids {
		if _, err := c.Cron.UpdateJob(ctx, &cronv1.UpdateJobRequest{Id: id, Enabled: &off}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("kills took %v", time.Since(began))
	proc.UntilFor(t, 3*runsSettle, "everything has ended", func() bool {
		s, err := c.Cron.GetStatus(ctx, &cronv1.GetStatusRequest{})
		return err == nil && s.GetRunning() == 0
	})
	t.Logf("settled after %v", time.Since(began))
	runs, skipped, lost := 0, 0, 0
	byJob := map[string]int{}
	for _, id := range ids {
		ran, left, n := slotRows(t, ctx, c, id)
		runs, skipped, lost = runs+len(ran), skipped+len(left), lost+n
		byJob[id] = len(ran)
		first, last := int64(0), int64(0)
		for _, m := range []map[int64]bool{ran, left} {
			for at := range m {
				if first == 0 || at < first {
					first = at
				}
				last = max(last, at)
			}
		}
		for at := first; at <= last; at += cronEvery.Milliseconds() {
			if !ran[at] && !left[at] {
				t.Errorf("the slot %d of %s has no row", at, id)
			}
		}
		if len(ran) == 0 {
			t.Errorf("%s never ran", id)
		}
	}
	text, err := os.ReadFile(marks)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range commands {
		name := fmt.Sprint("c", cronJobs+i)
		if n := strings.Count(string(text), name+"\n"); n == 0 || n > byJob[id] {
			t.Errorf("%s ran %d times in %d slots", name, n, byJob[id])
		}
	}
	t.Logf("%d slots ran, of which %d were interrupted, %d were left out", runs, lost, skipped)
}

// grantFor lets a command run without a question.
func grantFor(node, cwd string, argv []string) *approvalsv1.CreateGrantRequest {
	return &approvalsv1.CreateGrantRequest{NodeId: node, Argv: argv, Cwd: &cwd, Always: true}
}

// TestCronCrowd: jobs that are due in the same second all start within it.
func TestCronCrowd(t *testing.T) {
	d := proc.Start(t, proc.Options{})
	ctx := t.Context()
	c := d.Client(t)
	due := time.Now().Add(5 * time.Second).Truncate(time.Second)
	add := func(i int) error {
		text := fmt.Sprint("event ", i)
		keep := false
		_, err := c.Cron.AddJob(ctx, &cronv1.AddJobRequest{
			Schedule: &cronv1.Schedule{At: due.UTC().Format(time.RFC3339)}, Payload: &cronv1.Payload{SystemEvent: &text}, DeleteAfterRun: &keep,
		})
		return err
	}
	failed := make(chan error, 16)
	for w := range 16 {
		go func() {
			for i := w; i < cronCrowd; i += 16 {
				if err := add(i); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range 16 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if time.Now().After(due) {
		t.Skip("this machine is too slow to make the jobs in time")
	}
	time.Sleep(time.Until(due) + 500*time.Millisecond)
	var last, done time.Time
	n := 0
	limit := int32(200)
	proc.Until(t, "all have run", func() bool {
		n, last, done = 0, time.Time{}, time.Time{}
		for req := (&cronv1.ListRunsRequest{Limit: &limit}); ; {
			out, err := c.Cron.ListRuns(ctx, req)
			if err != nil {
				return false
			}
			for _, r := range out.GetRuns() {
				n++
				if at := r.GetRunAt().AsTime(); at.After(last) {
					last = at
				}
				if at := r.GetAt().AsTime(); at.After(done) {
					done = at
				}
			}
			if out.GetPage().NextOffset == nil {
				return n >= cronCrowd
			}
			req.Offset = out.GetPage().GetNextOffset()
		}
	})
	took := last.Sub(due)
	t.Logf("%d jobs, the last started %v after the moment and ended after %v", n, took, done.Sub(due))
	if n != cronCrowd || took > cronFullSecond || done.Sub(due) > 2*cronFullSecond {
		t.Errorf("%d of %d jobs ran, the last started after %v and ended after %v", n, cronCrowd, took, done.Sub(due))
	}
}
