//go:build unix

package robustness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promise of issue 5: so many restarts under so many clients, each back within backIn of the end
	// of the daemon before. The quick form has fewer of both.
	allRestarts, allClients     = 50, 200
	quickRestarts, quickClients = 5, 60
	backIn                      = 5 * time.Second
	// idleFloor is what a program that does nothing takes on an idle machine, start to end. Where it takes
	// longer, the machine is busy, and the promise is stretched by as much.
	idleFloor = 2 * time.Millisecond
	// restartWriters write all the time; what was acknowledged to them is there afterwards.
	restartWriters = 4
	// moreMemory is what the daemon may hold with the crowd in its last life, over one in the middle: the database
	// grows by what was written.
	moreMemory = 1.5
	// moreFiles and moreRoutines are how many descriptors and goroutines more there may be in the clients'
	// process after all restarts: those of attempts under way.
	moreFiles, moreRoutines = 40, 100
)

// TestRestarts: restarts under many clients of every kind. All are back in time, by themselves, and nothing
// that was acknowledged is lost.
func TestRestarts(t *testing.T) {
	n, clients := quickRestarts, quickClients
	if long() {
		n, clients = allRestarts, allClients
	}
	d := proc.Start(t, proc.Options{Args: []string{"--node"}})
	crowd := proc.NewCrowd(t, proc.CrowdOf(d, clients))
	crowd.Back(t, proc.Patience)
	w := newRenamers(t, d)
	var longest, memory, last = time.Duration(0), int64(0), int64(0)
	var slowest string
	var files, routines int
	hello := proc.Build(t, "hello", proc.Shipped)
	for i := range n {
		floor := proc.Run(t, d.State, hello, nil).Wait(t, proc.Patience).Took
		limit := time.Duration(float64(backIn) * max(1, float64(floor)/float64(idleFloor)))
		began := time.Now()
		if i%5 == 4 { // now and then it does not end by itself
			d.Kill()
		} else if took := d.Stop(); took > backIn {
			t.Errorf("restart %d: the stop took %v", i, took)
		}
		stopped := time.Since(began)
		crowd.Restarted()
		d.Start()
		for kind, at := range crowd.Back(t, max(limit, proc.Patience)) {
			if took := at.Sub(began); took > longest {
				longest, slowest = took, kind
			}
			if took := at.Sub(began); took > limit {
				t.Errorf("restart %d: the last %s was back after %v, %v are promised, %v on a machine as busy as this one (the stop took %v, the start %v)", i, kind, took, backIn, limit, stopped, d.Ready)
			}
		}
		w.check(t, i)
		last = proc.RSS(t, d.PID())
		if i == n/2 {
			memory, files, routines = last, openFiles(t, os.Getpid()), runtime.NumGoroutine()
		}
	}
	if memory > 0 && float64(last) > moreMemory*float64(memory) {
		t.Errorf("the daemon holds %.1f MiB after the last restart, %.1f after half of them", float64(last)/mib, float64(memory)/mib)
	}
	if now := openFiles(t, os.Getpid()); now > files+moreFiles {
		t.Errorf("the clients have %d files open, %d before", now, files)
	}
	if now := runtime.NumGoroutine(); now > routines+moreRoutines {
		t.Errorf("the clients have %d goroutines, %d before", now, routines)
	}
	if r := crowd.Refused(); len(r) > 0 {
		t.Errorf("clients were refused: %v", r)
	}
	t.Logf("the clients have %d files open and %d goroutines, %d and %d after half of the restarts", openFiles(t, os.Getpid()), runtime.NumGoroutine(), files, routines)
	t.Logf("%d restarts under %d clients: all back at most %v after the signal (%s); the daemon holds %.1f MiB; %d writes were acknowledged",
		n, clients, longest, slowest, float64(last)/mib, w.acknowledged())
}

// openFiles is how many descriptors a process has open.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Skip("counting descriptors needs /proc")
	}
	return len(all)
}

// renamers give their node one name after the other, all the time.
type renamers struct {
	d     *proc.Daemon
	acked [restartWriters]atomic.Int64
}

func newRenamers(t *testing.T, d *proc.Daemon) *renamers {
	w := &renamers{d: d}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	c := d.Client(t)
	for i := range restartWriters {
		wg.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				in, done := context.WithTimeout(ctx, time.Second)
				_, err := c.Nodes.RenameNode(in, &nodesv1.RenameNodeRequest{NodeId: proc.NodeOfCrowd(i), DisplayName: fmt.Sprint("n", n)})
				done()
				if err == nil {
					w.acked[i].Store(n)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	proc.Until(t, "the writers write", func() bool {
		for i := range w.acked {
			if w.acked[i].Load() == 0 {
				return false
			}
		}
		return true
	})
	return w
}

func (w *renamers) acknowledged() (n int64) {
	for i := range w.acked {
		n += w.acked[i].Load()
	}
	return n
}

// check demands that each name is at least as new as the last that was acknowledged.
func (w *renamers) check(t *testing.T, round int) {
	t.Helper()
	var floor [restartWriters]int64
	for i := range w.acked {
		floor[i] = w.acked[i].Load()
	}
	list, err := w.d.Client(t).Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, node := range list.GetNodes() {
		for i := range floor {
			if node.GetNodeId() != proc.NodeOfCrowd(i) {
				continue
			}
			seen++
			n, err := strconv.ParseInt(strings.TrimPrefix(node.GetDisplayName(), "n"), 10, 64)
			if err != nil || n < floor[i] {
				t.Errorf("restart %d: %s has the name %q; n%d was acknowledged", round, node.GetNodeId(), node.GetDisplayName(), floor[i])
			}
		}
	}
	if seen != len(floor) {
		t.Errorf("restart %d: %d of %d nodes are listed", round, seen, len(floor))
	}
}
