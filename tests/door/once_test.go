//go:build unix

package door

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/runtime"
)

// runner is a daemon with a real node host that asks about everything, and one device that comes by
// every door.
type runner struct {
	t     *testing.T
	d     *hanzodtest.Daemon
	node  string
	doors []func(params string) error // each runs once, and may be called at the same time as the others
	ask   *client.Client              // by the same device
	boss  *client.Client
}

func newRunner(t *testing.T) *runner {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	w := &linkWorld{Daemon: d, t: t}
	r := &runner{t: t, d: d, boss: w.client(client.Options{Socket: d.Socket()})}

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "exec-approvals.json"), []byte(`{"version":1,"defaults":{"security":"allowlist","ask":"always"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, online := make(chan error, 1), make(chan struct{})
	var once sync.Once
	go func() {
		done <- runtime.RunNode(ctx, runtime.NodeOptions{
			StateDir: dir, DisplayName: "box", Token: d.Token, Host: "127.0.0.1", Port: number, Link: "websocket", Console: io.Discard, Companion: "off",
			OnState: func(s host.State) {
				if s.Phase == host.Connected {
					once.Do(func() { close(online) })
				}
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node host: %v", err)
		}
	})
	select {
	case <-online:
	case <-time.After(patience):
		t.Fatal("the node host does not connect")
	}
	nodes, err := r.boss.Nodes.ListNodes(context.Background(), &nodesv1.ListNodesRequest{})
	if err != nil || len(nodes.GetNodes()) != 1 {
		t.Fatal(nodes, err)
	}
	r.node = nodes.GetNodes()[0].GetNodeId()

	scopes := []string{"operator.read", "operator.write", "operator.approvals"}
	inv, err := r.boss.Devices.CreateInvite(context.Background(), &devicesv1.CreateInviteRequest{Role: "operator", Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	code, err := client.ParseInvite(inv.GetCode())
	if err != nil {
		t.Fatal(err)
	}
	e, err := client.Enroll(context.Background(), code, newDeviceKey("laptop"), client.Machine{Name: "laptop", Platform: "linux"}, "test")
	if err != nil {
		t.Fatal(err)
	}
	r.ask = w.client(client.Options{Host: d.Host(), TLSFingerprint: d.TLSFingerprint(), Token: e.Token})
	k := kind{name: "laptop", role: identity.RoleOperator, token: e.Token}
	for _, s := range scopes {
		k.scopes = append(k.scopes, identity.Scope(s))
	}
	for range 4 {
		ws := connectDevice(t, d.WS(), k)
		r.doors = append(r.doors, func(params string) error {
			f := ws.call("node.invoke", object{"nodeId": r.node, "command": "system.run", "params": json.RawMessage(params), "idempotencyKey": uuid.NewString(), "timeoutMs": 20000})
			if f["ok"] != true {
				return fmt.Errorf("%v", f["error"])
			}
			return nil
		})
	}
	r.doors = append(r.doors, func(params string) error {
		v := &structpb.Value{}
		if err := protojson.Unmarshal([]byte(params), v); err != nil {
			return err
		}
		_, err := r.ask.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{
			NodeId: r.node, Command: "system.run", Params: v, IdempotencyKey: uuid.NewString(), Timeout: durationpb.New(patience),
		})
		return err
	}, func(params string) error {
		body, err := json.Marshal(object{"command": "system.run", "params": json.RawMessage(params), "idempotencyKey": uuid.NewString()})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, d.URL()+"/v1/nodes/"+r.node+":invoke", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+e.Token)
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s %s", res.Status, text)
		}
		return err
	})
	return r
}

// approved asks for a script that writes a line to the file, and allows it once.
func (r *runner) approved(id, file string) []string {
	r.t.Helper()
	script := filepath.Join(filepath.Dir(file), "count-"+id)
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ran \"$@\" >>'"+file+"'\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	argv, hostName := []string{script, "as approved"}, "node"
	out, err := r.ask.Approvals.RequestApproval(context.Background(), &approvalsv1.RequestApprovalRequest{
		Id: id, Command: "x", CommandArgv: argv, NodeId: &r.node, Host: &hostName, Plan: &approvalsv1.Plan{Argv: argv},
		Env: map[string]string{"LANG": "C"}, Timeout: durationpb.New(time.Hour),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if sum := out.GetApproval().GetBinding().GetIdentity().GetExecutable().GetSha256(); len(sum) != 64 {
		r.t.Fatalf("no file is bound: %v", out.GetApproval())
	}
	if _, err := r.boss.Approvals.ResolveApproval(context.Background(), &approvalsv1.ResolveApprovalRequest{Id: id, Decision: approvalsv1.Decision_DECISION_ALLOW_ONCE}); err != nil {
		r.t.Fatal(err)
	}
	return argv
}

// TestOnceIsOnce: of a thousand uses of one allow-once at the same time, by every door, one runs.
func TestOnceIsOnce(t *testing.T) {
	r := newRunner(t)
	file := filepath.Join(t.TempDir(), "ran")
	argv := r.approved("once", file)
	command, err := json.Marshal(argv)
	if err != nil {
		t.Fatal(err)
	}
	params := fmt.Sprintf(`{"command":%s,"env":{"LANG":"C"},"runId":"once","approved":true,"approvalDecision":"allow-once"}`, command)
	const uses = 1000
	var wg sync.WaitGroup
	var ok atomic.Int64
	var mu sync.Mutex
	refusals := map[string]int{}
	start := make(chan struct{})
	slots := make(chan struct{}, 300) // sockets that are open at the same time
	for n := range uses {
		wg.Go(func() {
			<-start
			slots <- struct{}{}
			defer func() { <-slots }()
			err := r.doors[n%len(r.doors)](params)
			if err == nil {
				ok.Add(1)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			refusals[err.Error()[:min(len(err.Error()), 60)]]++
		})
	}
	close(start)
	wg.Wait()
	t.Logf("%v", refusals)
	if text, err := os.ReadFile(file); err != nil || string(text) != "ran as approved\n" || ok.Load() != 1 {
		t.Errorf("%d were told that it ran, and %q ran: %v", ok.Load(), text, err)
	}
}

// TestMutantsByEveryDoor: calls that are not the approved one do not run, and do not use it up.
func TestMutantsByEveryDoor(t *testing.T) {
	r := newRunner(t)
	file := filepath.Join(t.TempDir(), "ran")
	argv := r.approved("real", file)
	other := filepath.Join(t.TempDir(), "other")
	evil, err := json.Marshal([]string{"/bin/sh", "-c", "echo evil >>" + other})
	if err != nil {
		t.Fatal(err)
	}
	command, err := json.Marshal(argv)
	if err != nil {
		t.Fatal(err)
	}
	good := []string{
		`"command":` + string(command), `"env":{"LANG":"C"}`, `"runId":"real"`, `"approved":true`, `"approvalDecision":"allow-once"`,
	}
	// Each is put in place of a member or beside all; none leaves what was approved.
	mutants := []struct {
		place int // -1 is beside
		text  string
	}{
		{1, `"env":{"LANG":"D"}`}, {1, `"env":{}`}, {1, `"env":{"LANG":"C","LC_ALL":"x"}`}, {1, `"env":{"LANG":5}`}, {1, `"env":["LANG=C"]`},
		{1, `"Env":{"LANG":"C"}`}, {1, `"env":{"LANG":"C"," LANG":"D"}`}, {1, `"env":{"LANG":"C\u0000"}`}, {1, `"env":null`},
		{2, `"runId":"real\u0000"`}, {2, `"runId":"Real"`}, {2, `"runId":"reаl"`}, {2, `"runId":["real"]`}, {2, `"runId":5`}, {2, `"RunId":"real"`},
		{2, `"runID":"real"`}, {2, `"runId":"` + strings.Repeat("r", 5000) + `"`}, {2, `"runId":null`},
		{3, `"approved":"true","x":1`}, {3, `"Approved":true`},
	}
	const tries = 1000
	var wg sync.WaitGroup
	slots := make(chan struct{}, 50)
	for n := range tries {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m := mutants[n%len(mutants)]
			all := append([]string{}, good...)
			all[m.place] = m.text
			if m.place == 3 {
				all = append(all[:4:4], `"approvalDecision":"Allow-Once"`)
			}
			if rand.IntN(2) == 0 {
				all[0] = `"command":` + string(evil)
			}
			if rand.IntN(3) == 0 {
				all = append(all, `"Command":`+string(evil), `"binding":{"unbound":[]}`, `"argv":`+string(evil))
			}
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			params := "{" + strings.Join(all, ",") + "}"
			if err := r.doors[rand.IntN(len(r.doors))](params); err == nil {
				t.Errorf("ran: %s", params)
			}
		})
	}
	wg.Wait()
	for _, f := range []string{file, other} {
		if text, err := os.ReadFile(f); err == nil {
			t.Errorf("%s was written: %q", f, text)
		}
	}
	// Whatever command comes with the approval, the approved one runs; and nothing was used up.
	good[0] = `"command":` + string(evil)
	if err := r.doors[0]("{" + strings.Join(good, ",") + "}"); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "ran as approved\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("something else ran")
	}
}
