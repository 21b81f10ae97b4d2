//go:build unix

package promises

import (
	"strings"
	"sync"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestRunsOnOldNode: a node that speaks the original protocol, and nothing of ours, runs commands for the
// daemon as before. What a command writes comes at its end, and it cannot be ended for the gateway; both
// are said.
func TestRunsOnOldNode(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	var mu sync.Mutex
	var params []string
	got := make(chan proc.Invocation, 1)
	node := proc.Connect(t, d.Node(proc.Device(t), func(i proc.Invocation) any {
		if i.Command == "system.run" {
			mu.Lock()
			params = append(params, i.ParamsJSON)
			mu.Unlock()
			got <- i
		}
		return nil
	}))
	id := onlyNode(t, d)
	run := d.Ctl("nodes", "run", id, "--", "/bin/slow")
	i := <-got
	list := ""
	proc.Until(t, "the run is listed as running", func() bool {
		list = strings.TrimSpace(d.Ctl("nodes", "runs", "--state", "running", "-q").Wait(t, proc.Patience).Stdout.String())
		return list != ""
	})
	watch := d.Ctl("nodes", "watch", list)
	proc.Until(t, "the watcher is told", func() bool {
		return strings.Contains(watch.Stderr.String(), "does not send what a command writes while it runs") || watch.Ended()
	})
	if kill := d.Ctl("nodes", "kill", list).Wait(t, proc.Patience); kill.Code != 73 || !strings.Contains(kill.Stderr.String(), "end it on the node") {
		t.Errorf("kill ended with %d: %s", kill.Code, kill.Stderr)
	}
	proc.Answer(node, i, map[string]any{"exitCode": 4, "timedOut": false, "success": false, "stdout": "at the end\n", "stderr": "", "error": nil})
	if run.Wait(t, proc.Patience); run.Code != 4 || run.Stdout.String() != "at the end\n" {
		t.Errorf("it ended with %d: %q %s", run.Code, run.Stdout, run.Stderr)
	}
	if watch.Wait(t, proc.Patience); watch.Code != 0 || watch.Stdout.String() != "at the end\n" || !strings.Contains(watch.Stderr.String(), "ended: exit code 4") {
		t.Errorf("the watcher saw %q, %s", watch.Stdout, watch.Stderr)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(params) != 1 || strings.Contains(params[0], "streamOutput") {
		t.Errorf("the node was sent %q", params)
	}
}
