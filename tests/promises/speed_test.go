//go:build unix

package promises

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// timed runs two programs in turns and returns the median time of each. Turns, so that whatever
// else the machine does hits both.
func timed(t *testing.T, n int, program, floor func() *proc.Command) (took, least time.Duration) {
	t.Helper()
	var a, b []time.Duration
	for range n {
		for _, x := range []struct {
			run  func() *proc.Command
			into *[]time.Duration
		}{{program, &a}, {floor, &b}} {
			c := x.run().Wait(t, proc.Patience)
			if c.Code != 0 {
				t.Fatalf("code %d: %s", c.Code, c.Stderr)
			}
			*x.into = append(*x.into, c.Took)
		}
	}
	slices.Sort(a)
	slices.Sort(b)
	return a[n/2], b[n/2]
}

// idleFloor is what a program that does nothing takes on an idle machine, start to end. Where it
// takes longer, the machine is busy or slow, and the promises are stretched by as much.
const idleFloor = 2 * time.Millisecond

func stretched(promise, floor time.Duration) time.Duration {
	return time.Duration(float64(promise) * max(1, float64(floor)/float64(idleFloor)))
}

// TestR5CommandLineIsQuick: hanzoctl health within 30 ms, hanzoctl --help within 20 ms.
func TestR5CommandLineIsQuick(t *testing.T) {
	ctl, hello := proc.Build(t, "hanzoctl", proc.Shipped), proc.Build(t, "hello", proc.Shipped)
	d := proc.Start(t, proc.Options{})
	env := []string{"HANZOD_STATE_DIR=" + d.State}
	floor := func() *proc.Command { return proc.Run(t, d.State, hello, env) }
	for _, tc := range []struct {
		promise time.Duration
		args    []string
	}{
		{30 * time.Millisecond, []string{"health"}},
		{20 * time.Millisecond, []string{"--help"}},
	} {
		took, least := timed(t, 15, func() *proc.Command { return proc.Run(t, d.State, ctl, env, tc.args...) }, floor)
		t.Logf("hanzoctl %s takes %v; a program that does nothing takes %v", strings.Join(tc.args, " "), took, least)
		if limit := stretched(tc.promise, least); took > limit {
			t.Errorf("hanzoctl %s takes %v; %v are promised, %v on a machine as busy as this one",
				strings.Join(tc.args, " "), took, tc.promise, limit)
		}
	}
}

// TestR6CommandLineCannotOpenTheStore: hanzoctl links no code that opens the database.
func TestR6CommandLineCannotOpenTheStore(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/hanzoctl")
	cmd.Dir = proc.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/hanzoai/hanzod/client") {
		t.Fatalf("the list of dependencies is not what it should be: %d entries", len(deps))
	}
	for _, d := range deps {
		if strings.Contains(d, "bbolt") || d == "github.com/hanzoai/hanzod/store" || d == "github.com/hanzoai/hanzod/runtime" {
			t.Errorf("hanzoctl links %s", d)
		}
	}
}

// TestR6SecondStart: a second daemon on the same state ends within 200 ms with code 78 and names
// the process that holds it; the first does not notice.
func TestR6SecondStart(t *testing.T) {
	bin, hello := proc.Build(t, "hanzod", proc.Shipped), proc.Build(t, "hello", proc.Shipped)
	d := proc.Start(t, proc.Options{})
	second := func() *proc.Command {
		return proc.Run(t, d.State, bin, nil, "run", "--state-dir", d.State, "--port", fmt.Sprint(d.Port))
	}
	var took []time.Duration
	for range 7 {
		c := second().Wait(t, proc.Patience)
		took = append(took, c.Took)
		if c.Code != 78 || !strings.Contains(c.Stderr.String(), fmt.Sprintf("pid %d", d.PID())) {
			t.Fatalf("the second start ended with %d: %s", c.Code, c.Stderr)
		}
	}
	slices.Sort(took)
	c := proc.Run(t, d.State, hello, nil).Wait(t, proc.Patience)
	t.Logf("the second start ends after %v (median of %d)", took[len(took)/2], len(took))
	if limit := stretched(200*time.Millisecond, c.Took); took[len(took)/2] > limit {
		t.Errorf("the second start ended after %v; 200 ms are promised, %v on a machine as busy as this one", took[len(took)/2], limit)
	}
	if h := d.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
		t.Errorf("the first daemon is not healthy after that: %s", h.Stderr)
	}
	d.Stop()
}
