//go:build unix

package promises

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestNodesWaitToBeLetIn: the command line shows both kinds of nodes that wait, over a restart of the
// daemon, lets them in and refuses them.
func TestNodesWaitToBeLetIn(t *testing.T) {
	t.Parallel()
	d, _, _ := far(t)
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	op := d.Client(t)
	ctl := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		c := d.Ctl(args...).Wait(t, proc.Patience)
		if c.Code != code {
			t.Fatalf("hanzoctl %v: exit code %d, want %d\n%s%s", args, c.Code, code, c.Stdout, c.Stderr)
		}
		return c.Stdout.String(), c.Stderr.String()
	}
	if _, stderr := ctl(0, "nodes", "pending"); !strings.Contains(stderr, "no node waits") {
		t.Errorf("%s", stderr)
	}

	// A device that is paired as a node comes back as another kind of machine.
	device := proc.Device(t)
	invite, err := op.Devices.CreateInvite(ctx, &devicesv1.CreateInviteRequest{Role: "node"})
	if err != nil {
		t.Fatal(err)
	}
	code, err := client.ParseInvite(invite.GetCode())
	if err != nil {
		t.Fatal(err)
	}
	enrolled, err := client.Enroll(ctx, code, device, client.Machine{Name: "shed", Platform: dial.Platform()}, "test")
	if err != nil {
		t.Fatal(err)
	}
	changed := d.Node(device, func(proc.Invocation) any { return map[string]any{"bins": map[string]string{}} })
	changed.Auth, changed.Client.DisplayName, changed.Client.Platform = dial.Auth{DeviceToken: enrolled.Token}, "shed", "plan9"
	connects := func() error {
		c, err := dial.Dial(ctx, changed)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := connects(); err == nil {
		t.Fatal("a device with another platform was let in")
	}
	if _, err := op.Nodes.RequestPairing(ctx, &nodesv1.RequestPairingRequest{NodeId: "ipad-1", DisplayName: "iPad", Platform: "ios"}); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	d.Start()

	var waits struct {
		Devices  []struct{ RequestID, DeviceID, DisplayName string }
		Pairings []struct{ RequestID, NodeID, DisplayName string }
	}
	stdout, _ := ctl(0, "nodes", "pending", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &waits); err != nil || len(waits.Devices) != 1 || len(waits.Pairings) != 1 ||
		waits.Devices[0].DeviceID != enrolled.DeviceID || waits.Pairings[0].NodeID != "ipad-1" {
		t.Fatalf("%v\n%s", err, stdout)
	}
	stdout, stderr := ctl(0, "nodes", "pending")
	for _, want := range []string{`(?m)^device +repair +` + enrolled.DeviceID[:12] + ` +shed +plan9`, `(?m)^node id +waiting +ipad-1 +iPad +ios`} {
		if !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("no %s in\n%s", want, stdout)
		}
	}
	if !strings.Contains(stderr, "nodes approve "+enrolled.DeviceID[:12]) {
		t.Errorf("%s", stderr)
	}

	stdout, _ = ctl(0, "nodes", "approve", "shed")
	if !strings.HasPrefix(stdout, "let in: shed") {
		t.Errorf("%s", stdout)
	}
	if err := connects(); err != nil {
		t.Errorf("after the approval: %v", err)
	}
	stdout, _ = ctl(0, "nodes", "approve", "ipad-1")
	token := strings.TrimSpace(stdout)
	if out, err := d.Client(t).Nodes.VerifyPairing(ctx, &nodesv1.VerifyPairingRequest{NodeId: "ipad-1", Token: token}); err != nil || !out.GetOk() {
		t.Errorf("%q: %v %v", token, out, err)
	}
	if _, err := d.Client(t).Nodes.RequestPairing(ctx, &nodesv1.RequestPairingRequest{NodeId: "ipad-1"}); err != nil {
		t.Fatal(err)
	}
	ctl(0, "nodes", "reject", "ipad-1")
	ctl(66, "nodes", "reject", "ipad-1")
	for _, out := range append(d.Outputs(), stderr) {
		if strings.Contains(out, token) {
			t.Error("the node token is in the log")
		}
	}
}

// TestWaitForNode: a call from the command line waits for its node and runs there once, by either
// command; it does not outlive the daemon.
func TestWaitForNode(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	ran := make(chan string, 10)
	device := proc.Device(t)
	options := d.Node(device, func(i proc.Invocation) any {
		ran <- i.Command
		if i.Command == "system.run" {
			return proc.Ran()
		}
		return map[string]any{"bins": map[string]string{"ls": "/bin/ls"}}
	})
	options.Client.DisplayName = "laptop"
	which := d.Ctl("nodes", "invoke", "laptop", "system.which", "--params", `{"bins":["ls"]}`, "--wait", "1m")
	run := d.Ctl("nodes", "run", "laptop", "--wait", "1m", "--", "/bin/ls")
	for _, c := range []*proc.Command{which, run} {
		proc.Until(t, "it says that it waits", func() bool {
			return strings.Contains(c.Stderr.String(), "laptop is not connected; waiting for it, at most 1m0s")
		})
	}
	conn := proc.Connect(t, options)
	for _, c := range []*proc.Command{which, run} {
		if c.Wait(t, proc.Patience); c.Code != 0 {
			t.Errorf("exit code %d: %s", c.Code, c.Stderr)
		}
	}
	if !strings.Contains(which.Stdout.String(), "/bin/ls") || len(ran) != 2 {
		t.Errorf("%s; %d ran", which.Stdout, len(ran))
	}
	// Now it is known by its id alone: unpaired nodes are not listed when they are away.
	id := ""
	proc.Until(t, "the node is listed", func() bool {
		out, err := d.Client(t).Nodes.ListNodes(context.Background(), &nodesv1.ListNodesRequest{})
		if err == nil && len(out.GetNodes()) == 1 {
			id = out.GetNodes()[0].GetNodeId()
		}
		return id != ""
	})
	_ = conn.Close()
	held := d.Ctl("nodes", "invoke", id, "system.which", "--wait", "1m")
	proc.Until(t, "it says that it waits", func() bool { return strings.Contains(held.Stderr.String(), "waiting for it") })
	began := time.Now()
	if took := d.Stop(); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if held.Wait(t, proc.Patience); held.Code == 0 || time.Since(began) > 10*time.Second {
		t.Errorf("exit code %d after %s: %s", held.Code, time.Since(began), held.Stderr)
	}
}
