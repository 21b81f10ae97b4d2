package door

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/store"
)

// operator is one operator at one door. Answers are reduced to what all doors tell: JSON texts, and
// for a refusal its name on this door.
type operator interface {
	list() []string
	describe(id string) string
	rename(id, name string)
	// invoke returns the payload, or the refusal.
	invoke(id, command, params, key string) (payload, refusal string)
	request(id string, plan object, env map[string]string) string
	resolve(id, decision string) string
	wait(id string) string
}

// overGRPC comes by the local socket.
type overGRPC struct {
	tb testing.TB
	c  *client.Client
}

func newGRPC(tb testing.TB, d *hanzodtest.Daemon) operator {
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return &overGRPC{tb, c}
}

func (o *overGRPC) reason(err error) string {
	if err == nil {
		return ""
	}
	e, ok := err.(*client.Error)
	if !ok {
		o.tb.Fatalf("%T %v", err, err)
	}
	return e.Code
}

func (o *overGRPC) list() (out []string) {
	r, err := o.c.Nodes.ListNodes(context.Background(), &nodesv1.ListNodesRequest{})
	if err != nil {
		o.tb.Fatal(err)
	}
	for _, n := range r.GetNodes() {
		out = append(out, n.GetNodeId()+" "+strings.Join(n.GetCommands(), ","))
	}
	return out
}

func (o *overGRPC) describe(id string) string {
	r, err := o.c.Nodes.GetNode(context.Background(), &nodesv1.GetNodeRequest{NodeId: id})
	if err != nil {
		o.tb.Fatal(err)
	}
	return fmt.Sprint(r.GetNode().GetDisplayName(), r.GetNode().GetConnected(), r.GetNode().GetPlatform())
}

func (o *overGRPC) rename(id, name string) {
	if _, err := o.c.Nodes.RenameNode(context.Background(), &nodesv1.RenameNodeRequest{NodeId: id, DisplayName: name}); err != nil {
		o.tb.Fatal(err)
	}
}

func (o *overGRPC) invoke(id, command, params, key string) (string, string) {
	v := &structpb.Value{}
	if err := protojson.Unmarshal([]byte(params), v); err != nil {
		o.tb.Fatal(err)
	}
	r, err := o.c.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{
		NodeId: id, Command: command, Params: v, IdempotencyKey: key, Timeout: durationpb.New(patience),
	})
	if err != nil {
		return "", o.reason(err)
	}
	text, err := protojson.Marshal(r.GetPayload())
	if err != nil {
		o.tb.Fatal(err)
	}
	return string(text), ""
}

func (o *overGRPC) request(id string, plan object, env map[string]string) string {
	node, host := "box", "node"
	cwd := plan["cwd"].(string)
	argv := plan["argv"].([]string)
	_, err := o.c.Approvals.RequestApproval(context.Background(), &approvalsv1.RequestApprovalRequest{
		Id: id, Command: "shown", CommandArgv: argv, NodeId: &node, Host: &host, Env: env, Plan: &approvalsv1.Plan{Argv: argv, Cwd: &cwd},
	})
	return o.reason(err)
}

var decisions = map[string]approvalsv1.Decision{
	"allow-once": approvalsv1.Decision_DECISION_ALLOW_ONCE, "allow-always": approvalsv1.Decision_DECISION_ALLOW_ALWAYS, "deny": approvalsv1.Decision_DECISION_DENY,
}

func (o *overGRPC) resolve(id, decision string) string {
	_, err := o.c.Approvals.ResolveApproval(context.Background(), &approvalsv1.ResolveApprovalRequest{Id: id, Decision: decisions[decision]})
	return o.reason(err)
}

func (o *overGRPC) wait(id string) string {
	r, err := o.c.Approvals.WaitApproval(context.Background(), &approvalsv1.WaitApprovalRequest{Id: id})
	if err != nil {
		o.tb.Fatal(err)
	}
	for name, d := range decisions {
		if d == r.GetApproval().GetDecision() {
			return name
		}
	}
	return ""
}

// overREST is what a script with curl does.
type overREST struct {
	tb testing.TB
	d  *hanzodtest.Daemon
}

func (o *overREST) do(verb, path string, body any) (object, string) {
	o.tb.Helper()
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			o.tb.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, verb, o.d.URL()+path, r)
	if err != nil {
		o.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+o.d.Token)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		o.tb.Fatal(err)
	}
	defer res.Body.Close()
	out := object{}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		o.tb.Fatalf("%s %s: %s: %v", verb, path, res.Status, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Sprint(out["code"])
	}
	return out, ""
}

func (o *overREST) must(verb, path string, body any) object {
	o.tb.Helper()
	out, refusal := o.do(verb, path, body)
	if refusal != "" {
		o.tb.Fatalf("%s %s: %s", verb, path, refusal)
	}
	return out
}

func (o *overREST) list() (out []string) {
	all, _ := o.must("GET", "/v1/nodes", nil)["nodes"].([]any)
	for _, x := range all {
		n, _ := x.(object)
		out = append(out, fmt.Sprint(n["nodeId"], " ", joined(n["commands"])))
	}
	return out
}

func joined(v any) string {
	list, _ := v.([]any)
	var out []string
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return strings.Join(out, ",")
}

func (o *overREST) describe(id string) string {
	n, _ := o.must("GET", "/v1/nodes/"+id, nil)["node"].(object)
	return fmt.Sprint(n["displayName"], n["connected"], n["platform"])
}

func (o *overREST) rename(id, name string) {
	o.must("POST", "/v1/nodes/"+id+":rename", object{"displayName": name})
}

func (o *overREST) invoke(id, command, params, key string) (string, string) {
	out, refusal := o.do("POST", "/v1/nodes/"+id+":invoke", object{"command": command, "params": json.RawMessage(params), "idempotencyKey": key})
	if refusal != "" {
		return "", refusal
	}
	text, err := json.Marshal(out["payload"])
	if err != nil {
		o.tb.Fatal(err)
	}
	return string(text), ""
}

func (o *overREST) request(id string, plan object, env map[string]string) string {
	_, refusal := o.do("POST", "/v1/approvals", object{
		"id": id, "command": "shown", "commandArgv": plan["argv"], "plan": plan, "nodeId": "box", "host": "node", "env": env,
	})
	return refusal
}

func (o *overREST) resolve(id, decision string) string {
	_, refusal := o.do("POST", "/v1/approvals/"+id+":resolve", object{"decision": decisions[decision].String()})
	return refusal
}

func (o *overREST) wait(id string) string {
	a, _ := o.must("GET", "/v1/approvals/"+id+":wait", nil)["approval"].(object)
	for name, d := range decisions {
		if d.String() == a["decision"] {
			return name
		}
	}
	return ""
}

// overLegacy is a raw client of the old protocol.
type overLegacy struct {
	tb testing.TB
	c  *legacy
}

func newLegacy(tb testing.TB, d *hanzodtest.Daemon) operator {
	c, hello := connect(tb, d.WS(), params("operator", d.Token, []string{"operator.admin"}, nil), nil)
	if hello["ok"] != true {
		tb.Fatalf("%v", hello)
	}
	return &overLegacy{tb, c}
}

// reasons are the names of the other doors for the refusals of this one.
var reasons = map[string]string{
	"NOT_CONNECTED": "nodes.not_connected", "APPROVAL_REQUIRED": "approvals.run_required", "APPROVAL_NODE_MISMATCH": "approvals.run_node",
	"APPROVAL_ENV_MISMATCH": "approvals.run_env", "APPROVAL_ENV_BINDING_MISSING": "approvals.run_env_missing",
	"UNKNOWN_APPROVAL_ID": "approvals.run_unknown", "MISSING_RUN_ID": "approvals.missing_run_id", "RAW_COMMAND_MISMATCH": "policy.raw_mismatch",
	"unknown approval id": "approvals.unknown", "approval id already pending": "approvals.taken",
	`node command not allowed: "sms.send" is not in the allowlist for platform "linux"`:    "nodes.not_allowed",
	`node command not allowed: "sms.send" is not in the allowlist for platform "iOS 18.2"`: "nodes.not_allowed",
}

func (o *overLegacy) reason(f object) string {
	code, text := failure(f)
	switch {
	case text == "":
		return ""
	case reasons[code] != "":
		return reasons[code]
	case reasons[text] != "":
		return reasons[text]
	}
	o.tb.Fatalf("unknown refusal %v", f["error"])
	return ""
}

func (o *overLegacy) must(method string, p any) object {
	o.tb.Helper()
	f := o.c.call(method, p)
	if f["ok"] != true {
		o.tb.Fatalf("%s: %v", method, f["error"])
	}
	payload, _ := f["payload"].(object)
	return payload
}

func (o *overLegacy) list() (out []string) {
	all, _ := o.must("node.list", object{})["nodes"].([]any)
	for _, x := range all {
		n, _ := x.(object)
		out = append(out, fmt.Sprint(n["nodeId"], " ", joined(n["commands"])))
	}
	return out
}

func (o *overLegacy) describe(id string) string {
	n := o.must("node.describe", object{"nodeId": id})
	return fmt.Sprint(n["displayName"], n["connected"], n["platform"])
}

func (o *overLegacy) rename(id, name string) {
	o.must("node.rename", object{"nodeId": id, "displayName": name})
}

func (o *overLegacy) invoke(id, command, params, key string) (string, string) {
	f := o.c.call("node.invoke", object{"nodeId": id, "command": command, "params": json.RawMessage(params), "idempotencyKey": key})
	if r := o.reason(f); r != "" {
		return "", r
	}
	text, err := json.Marshal(f["payload"].(object)["payload"])
	if err != nil {
		o.tb.Fatal(err)
	}
	return string(text), ""
}

func (o *overLegacy) request(id string, plan object, env map[string]string) string {
	full := object{"argv": plan["argv"], "cwd": plan["cwd"], "rawCommand": nil, "agentId": nil, "sessionKey": nil}
	p := object{
		"id": id, "command": "shown", "commandArgv": plan["argv"], "systemRunPlan": full, "nodeId": "box", "host": "node", "twoPhase": true,
	}
	if env != nil {
		p["env"] = env
	}
	return o.reason(o.c.call("exec.approval.request", p))
}

func (o *overLegacy) resolve(id, decision string) string {
	return o.reason(o.c.call("exec.approval.resolve", object{"id": id, "decision": decision}))
}

func (o *overLegacy) wait(id string) string {
	d, _ := o.must("exec.approval.waitDecision", object{"id": id})["decision"].(string)
	return d
}

// box is a node that says what it was asked.
func box(t *testing.T, d *hanzodtest.Daemon, id string) (runs func() []string) {
	var mu sync.Mutex
	var got []string
	var c *legacy
	ready := make(chan struct{})
	c, hello := connect(t, d.WS(), params("node", d.Token, nil, object{
		"commands": []string{"system.run", "system.run.prepare", "system.which"}, "caps": []string{"system"},
		"client": object{"id": "node-host", "version": "1", "platform": "linux", "mode": "node", "instanceId": id, "displayName": "Box"},
	}), func(name string, p object) {
		if name != "node.invoke.request" {
			return
		}
		<-ready
		text, _ := p["paramsJSON"].(string)
		mu.Lock()
		got = append(got, fmt.Sprint(p["command"], " ", text))
		mu.Unlock()
		answer, err := json.Marshal(object{"command": p["command"], "params": json.RawMessage(text)})
		if err != nil {
			t.Error(err)
		}
		c.send("node.invoke.result", object{"id": p["id"], "nodeId": id, "ok": true, "payloadJSON": string(answer)})
	})
	close(ready)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// listen collects the names of events by REST, from now on.
func listen(t *testing.T, d *hanzodtest.Daemon) (names func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL()+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	var mu sync.Mutex
	var got []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			var e struct{ Name string }
			if json.Unmarshal(s.Bytes(), &e) == nil && (strings.HasPrefix(e.Name, "exec.") || strings.HasPrefix(e.Name, "node.")) {
				mu.Lock()
				got = append(got, e.Name)
				mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = res.Body.Close()
		<-done
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// until waits for a condition that comes about by itself.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// trace is what a scenario leaves behind.
type trace struct {
	Seen      []string // what the operator was told
	Runs      []string // what the node was asked
	Events    []string
	Approvals []approvals.Approval
	Audit     []string
	Name      string
}

func play(t *testing.T, door func(testing.TB, *hanzodtest.Daemon) operator) trace {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	events := listen(t, d)
	runs := box(t, d, "box")
	box(t, d, "other")
	o := door(t, d)
	var tr trace
	say := func(format string, args ...any) { tr.Seen = append(tr.Seen, fmt.Sprintf(format, args...)) }
	invoke := func(id, command, params, key string) {
		payload, refusal := o.invoke(id, command, params, key)
		say("%s %s %s: %s%s", id, command, key, canonical(t, payload), refusal)
	}
	say("%v", o.list())
	say("%s", o.describe("box"))
	o.rename("box", "My box")
	say("%s", o.describe("box"))
	invoke("box", "system.which", `{"bins":["ls"]}`, "w1")
	invoke("box", "system.which", `{"bins":["ls"]}`, "w1") // the same again: no second run
	invoke("nobody", "system.which", `{}`, "w2")
	invoke("box", "sms.send", `{}`, "w3")
	invoke("box", "system.run", `{"command":["ls"],"rawCommand":"rm"}`, "w4")
	plan := object{"argv": []string{"/bin/echo", "a b", "<&>"}, "cwd": "/srv"}
	say("request %s", o.request("run-1", plan, map[string]string{"A": "1"}))
	claim := func(id, more string) string {
		return `{"command":["/bin/rm"],"runId":"` + id + `","approved":true` + more + `}`
	}
	invoke("box", "system.run", claim("run-1", `,"env":{"A":"1"}`), "r0")
	say("resolve %s", o.resolve("run-1", "allow-once"))
	say("resolve again %s", o.resolve("run-1", "deny"))
	say("wait %s", o.wait("run-1"))
	invoke("other", "system.run", claim("run-1", `,"env":{"A":"1"}`), "r1")
	invoke("box", "system.run", claim("run-1", `,"env":{"A":"2"}`), "r2")
	invoke("box", "system.run", claim("run-1", ``), "r3")
	invoke("box", "system.run", claim("nope", ``), "r4")
	invoke("box", "system.run", claim("", ``), "r5")
	invoke("box", "system.run", claim("run-1", `,"env":{"A":"1"},"timeoutMs":5000`), "r6")
	invoke("box", "system.run", claim("run-1", `,"env":{"A":"1"},"timeoutMs":5000`), "r7")
	say("request %s", o.request("run-2", plan, nil))
	say("taken %s", o.request("run-2", plan, nil))
	say("resolve %s", o.resolve("run-2", "allow-always"))
	invoke("box", "system.run", claim("run-2", `,"env":{"B":"1"}`), "s1")
	invoke("box", "system.run", claim("run-2", ``), "s2")
	invoke("box", "system.run", claim("run-2", ``), "s3")
	other := object{"argv": []string{"/bin/echo", "c"}, "cwd": "/srv"}
	say("request %s", o.request("run-3", other, nil))
	say("resolve %s", o.resolve("run-3", "deny"))
	invoke("box", "system.run", claim("run-3", ``), "t1")
	// The answer to run-2 made a grant for its command.
	say("request %s", o.request("run-4", plan, nil))
	say("granted %s", o.wait("run-4"))
	invoke("box", "system.run", `{"command":["/bin/echo","a b","<&>"],"cwd":"/srv","runId":"mine"}`, "u1")
	invoke("box", "system.run", `{"command":["/bin/echo","a b","<&>"],"cwd":"/","runId":"elsewhere"}`, "u2")
	say("unknown %s", o.resolve("nope", "deny"))

	until(t, "the last event", func() bool { n := events(); return len(n) > 0 && count(n, "exec.approval.resolved") == 4 })
	tr.Events, tr.Runs = events(), runs()
	for i := range tr.Runs {
		command, rest, _ := strings.Cut(tr.Runs[i], " ")
		tr.Runs[i] = command + " " + canonical(t, rest)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	tr.stored(t, d.StateDir)
	return tr
}

func count(list []string, what string) (n int) {
	for _, x := range list {
		if x == what {
			n++
		}
	}
	return n
}

// canonical writes JSON with sorted keys: their order is not the same at all doors.
func canonical(t *testing.T, text string) string {
	t.Helper()
	if text == "" {
		return ""
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// knownID stands for an id that the daemon made up.
func knownID(id string) string {
	if uuid.Validate(id) == nil {
		return "made up"
	}
	return id
}

// stored reads what is on disk. Times, and who the operator was, differ by nature.
func (tr *trace) stored(t *testing.T, dir string) {
	t.Helper()
	st, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	all, err := st.RecentApprovals(100)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		granted := strings.HasPrefix(a.ResolvedBySubject, "grant:")
		if a.Requester.Principal == "" || a.ResolvedBySubject != a.Requester.Principal && !granted {
			t.Errorf("%s: asked by %+v, decided by %q", a.ID, a.Requester, a.ResolvedBySubject)
		}
		if a.ExpiresAt.Sub(a.CreatedAt) != approvals.DefaultTimeout {
			t.Errorf("%s stands for %s", a.ID, a.ExpiresAt.Sub(a.CreatedAt))
		}
		a.Requester, a.ResolvedBy, a.ResolvedBySubject = approvals.Requester{}, "", ""
		if a.GrantID != "" {
			a.GrantID = "some"
		}
		a.ID = knownID(a.ID)
		a.CreatedAt, a.ExpiresAt, a.ResolvedAt, a.LastUsedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		tr.Approvals = append(tr.Approvals, a)
	}
	rows, err := st.Audit(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var results []string
	for _, r := range rows {
		if r.Subject == "" || r.At.IsZero() {
			t.Errorf("a row without who or when: %+v", r)
		}
		row := strings.Join([]string{r.Kind, knownID(r.ApprovalID), r.NodeID, r.Command, string(r.Decision), r.Reason}, "|")
		if r.Kind == "result" {
			results = append(results, row)
		} else {
			tr.Audit = append(tr.Audit, row)
		}
	}
	// What came of a run is written while the story goes on.
	slices.Sort(results)
	tr.Audit = append(tr.Audit, results...)
	if tr.Name, err = st.NodeName("box"); err != nil {
		t.Fatal(err)
	}
}

// One scenario by three doors: the operator is told the same, the node is asked the same, the same
// events go out and the same is on disk.
func TestSameEffect(t *testing.T) {
	doors := map[string]func(testing.TB, *hanzodtest.Daemon) operator{
		"rest":   func(tb testing.TB, d *hanzodtest.Daemon) operator { return &overREST{tb, d} },
		"legacy": newLegacy,
	}
	var base trace
	t.Run("grpc", func(t *testing.T) { base = play(t, newGRPC) })
	if t.Failed() {
		return
	}
	// What must be true of the story itself.
	run := `{"approvalDecision":"allow-once","approved":true,"command":["/bin/echo","a b","\u003c\u0026\u003e"],"cwd":"/srv","env":{"A":"1"},"runId":"run-1","timeoutMs":5000}`
	if n := count(base.Runs, "system.run "+run); n != 1 {
		t.Errorf("the approved run went out %d times: %v", n, base.Runs)
	}
	granted := `{"approvalDecision":"allow-once","approved":true,"command":["/bin/echo","a b","\u003c\u0026\u003e"],"cwd":"/srv","runId":"mine"}`
	if n := count(base.Runs, "system.run "+granted); n != 1 {
		t.Errorf("the granted run went out %d times: %v", n, base.Runs)
	}
	if len(base.Runs) != 6 {
		t.Errorf("the node was asked %v", base.Runs)
	}
	if base.Name != "My box" || len(base.Approvals) != 5 {
		t.Errorf("%+v", base)
	}
	for _, want := range []string{
		"box system.run r0: approvals.run_required", "other system.run r1: approvals.run_node", "box system.run r2: approvals.run_env",
		"box system.run r3: approvals.run_env", "box system.run r4: approvals.run_unknown", "box system.run r5: approvals.missing_run_id",
		"box system.run r7: approvals.run_required", "box system.run s1: approvals.run_env_missing", "box system.run t1: approvals.run_required",
		"nobody system.which w2: nodes.not_connected", "box sms.send w3: nodes.not_allowed", "box system.run w4: policy.raw_mismatch",
		"taken approvals.taken", "unknown approvals.unknown", "resolve again approvals.unknown", "wait allow-once", "granted allow-once",
	} {
		if count(base.Seen, want) != 1 {
			t.Errorf("not told: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", strings.Join(base.Seen, "\n"))
	}
	for name, door := range doors {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(base, play(t, door)); d != "" {
				t.Errorf("other than by gRPC: %s", d)
			}
		})
	}
}
