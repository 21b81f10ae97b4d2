package shell_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/store/storetest"
)

func runRunCommand(t *testing.T, _ *tree, v vector) (o outcome) {
	type result struct {
		OK                       bool
		Argv                     []string
		RawCommand, ShellCommand *string
		Text                     string
		Details                  struct{ Code, RawCommand, Inferred string }
	}
	want := unpack[result](t, v.Expect)
	got := result{}
	c, err := policy.ParseCommand(v.Command, v.RawCommand)
	if e, refused := errs.As(err); refused {
		got.Details.Code = map[string]string{"policy.raw_mismatch": "RAW_COMMAND_MISMATCH", "policy.missing_command": "MISSING_COMMAND"}[e.Code]
		got.Details.RawCommand, got.Details.Inferred = e.Field("rawCommand"), e.Field("inferred")
	} else {
		got = result{OK: true, Argv: c.Argv, RawCommand: c.Raw, ShellCommand: c.Shell, Text: c.Text}
	}
	if len(want.Argv) == 0 && len(got.Argv) == 0 {
		want.Argv, got.Argv = nil, nil
	}
	o.different("result", diff(want, got))
	o.loosens("it is taken", got.OK && !want.OK)
	return o
}

func runNodePolicy(t *testing.T, _ *tree, v vector) (o outcome) {
	want := unpack[struct{ Verdict, Reason, Message string }](t, v.Expect)
	got := policy.Decide(policy.Security(v.Security), policy.Ask(v.Ask), v.Analysis == "hit", v.ShellWrapper, v.Approval != "none")
	o.different("verdict", diff(policy.Verdict{Run: want.Verdict == "run", Reason: want.Reason, Message: want.Message}, got))
	o.loosens("it runs", got.Run && want.Verdict != "run")
	return o
}

func runEnv(t *testing.T, _ *tree, v vector) (o outcome) {
	var base []string
	for k, val := range v.BaseEnv {
		base = append(base, k+"="+val)
	}
	var all map[string]json.RawMessage
	_ = json.Unmarshal(v.Overrides, &all)
	over := map[string]string{}
	for k, raw := range all {
		var s string
		if json.Unmarshal(raw, &s) == nil && raw[0] == '"' {
			over[k] = s
		}
	}
	env, _ := policy.SanitizeEnv(base, over, v.ShellWrapper)
	got := map[string]string{}
	for _, kv := range env {
		k, val, _ := strings.Cut(kv, "=")
		got[k] = val
	}
	want := unpack[struct{ Env map[string]string }](t, v.Expect).Env
	o.different("environment", diff(want, got))
	for k, val := range got {
		there, ok := want[k]
		// A value of the machine in the place of the caller's is stricter.
		o.loosens(k+" is there", (!ok || there != val) && v.BaseEnv[k] != val)
	}
	return o
}

func runEnvHash(t *testing.T, _ *tree, v vector) (o outcome) {
	type result struct {
		EnvHash *string
		EnvKeys []string
	}
	// Values that are not text never reach EnvHash: callers have typed them before.
	var all map[string]json.RawMessage
	_ = json.Unmarshal(v.Env, &all)
	env := map[string]string{}
	for k, raw := range all {
		var s string
		if json.Unmarshal(raw, &s) == nil && raw[0] == '"' {
			env[k] = s
		}
	}
	hash, keys := policy.EnvHash(env)
	o.different("hash", diff(unpack[result](t, v.Expect), result{hash, keys}))
	return o
}

func runObfuscation(t *testing.T, _ *tree, v vector) (o outcome) {
	want := unpack[struct{ Patterns []string }](t, v.Expect)
	o.signs(v.command(t), want.Patterns)
	return o
}

// ownSigns are ids that the original does not have: they are no difference.
var ownSigns = []string{"invisible-characters"}

func (o *outcome) signs(text string, want []string) {
	got := slices.DeleteFunc(shell.Signs(text), func(id string) bool { return slices.Contains(ownSigns, id) })
	if len(got)+len(want) > 0 {
		o.different("signs", diff(want, got))
	}
	o.loosens("a sign is missing", !subset(want, got))
}

func (v vector) command(t *testing.T) string { return unpack[string](t, v.Command) }

func runNodeMatch(t *testing.T, _ *tree, v vector) (o outcome) {
	type result struct{ NodeID, Error string }
	var all []*nodesv1.Node
	for _, n := range unpack[[]struct {
		NodeID, DisplayName, RemoteIP string
		Connected                     bool
	}](t, v.Nodes) {
		all = append(all, &nodesv1.Node{NodeId: n.NodeID, DisplayName: n.DisplayName, RemoteIp: n.RemoteIP, Connected: n.Connected})
	}
	want, got := unpack[result](t, v.Expect), result{}
	if n, err := client.MatchNode(all, v.Query); err != nil {
		got.Error = err.Error()
	} else {
		got.NodeID = n.GetNodeId()
	}
	o.different("node", diff(want, got))
	o.loosens("another node", got.NodeID != "" && got.NodeID != want.NodeID)
	return o
}

func runApprovalsFile(t *testing.T, _ *tree, v vector) (o outcome) {
	type effective struct {
		Security, Ask, AskFallback string
		AutoAllowSkills            bool
	}
	type result struct {
		Defaults, Agent effective
		Patterns        []string
		Normalized      map[string]any
	}
	var over policy.Overrides
	if v.Overrides != nil {
		over = unpack[policy.Overrides](t, v.Overrides)
	}
	resolve := func(text []byte, agent *string) (*policy.File, effective, []string) {
		path := filepath.Join(t.TempDir(), "exec-approvals.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		f := policy.Open(path, policy.Options{HomeDir: "/home/u"})
		e, err := f.Resolve(agent, over)
		if err != nil {
			t.Fatal(err)
		}
		patterns := []string{}
		for _, x := range e.Allowlist {
			patterns = append(patterns, x.Pattern)
		}
		return f, effective{string(e.Security), string(e.Ask), string(e.AskFallback), e.AutoAllowSkills}, patterns
	}
	want, got := unpack[result](t, v.Expect), result{}
	var f *policy.File
	f, got.Agent, got.Patterns = resolve(v.File, v.AgentID)
	bare := unpack[map[string]json.RawMessage](t, v.File)
	delete(bare, "agents")
	text, err := json.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	nobody := "nobody that the file names"
	_, got.Defaults, _ = resolve(text, &nobody)
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	got.Normalized = unpack[map[string]any](t, s.File)
	delete(got.Normalized, "version")
	delete(got.Normalized, "socket")
	ids := string(v.File)
	eachEntry(got.Normalized, func(e map[string]any) {
		if id, _ := e["id"].(string); !strings.Contains(ids, `"`+id+`"`) {
			e["id"] = "<uuid>"
		}
	})
	o.different("policy", diff(want, got))
	security, ask := []string{"deny", "allowlist", "full"}, []string{"always", "on-miss", "off"}
	for _, x := range [][2]effective{{want.Defaults, got.Defaults}, {want.Agent, got.Agent}} {
		o.loosens("security", slices.Index(security, x[1].Security) > slices.Index(security, x[0].Security))
		o.loosens("ask", slices.Index(ask, x[1].Ask) > slices.Index(ask, x[0].Ask))
		o.loosens("askFallback", slices.Index(security, x[1].AskFallback) > slices.Index(security, x[0].AskFallback))
		o.loosens("autoAllowSkills", x[1].AutoAllowSkills && !x[0].AutoAllowSkills)
	}
	o.loosens("patterns", !subset(got.Patterns, want.Patterns))
	return o
}

// eachEntry calls for every entry of every list of a file.
func eachEntry(file map[string]any, call func(map[string]any)) {
	agents, _ := file["agents"].(map[string]any)
	for _, a := range agents {
		agent, _ := a.(map[string]any)
		list, _ := agent["allowlist"].([]any)
		for _, e := range list {
			if entry, ok := e.(map[string]any); ok {
				call(entry)
			}
		}
	}
}

// invoked is a node that only notes that something reached it.
type invoked struct {
	svc *nodes.Service
	n   int
}

func (l *invoked) Close(string) {}

func (l *invoked) Invoke(r nodes.Request) error {
	l.n++
	_, err := l.svc.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: r.NodeID},
		nodes.ResultIn{NodeID: r.NodeID, InvokeID: r.ID, OK: true, Payload: []byte("1")})
	return err
}

// unguarded lets every run pass: the command policy is asked before.
type unguarded struct{}

func (unguarded) AskCall(context.Context, identity.Caller, string, string, []byte, time.Duration, func(string, []string, string, []string, time.Time) error) error {
	return nil
}

func (unguarded) GuardCall(_ context.Context, _ identity.Caller, _, _ string, params []byte, _, _ bool) ([]byte, func(bool, []byte, error), error) {
	return params, nil, nil
}

func (unguarded) GuardRun(_ context.Context, _ identity.Caller, _ string, params []byte) ([]byte, func(bool, []byte, error), error) {
	return params, func(bool, []byte, error) {}, nil
}

func runCommandPolicy(t *testing.T, _ *tree, v vector) (o outcome) {
	type result struct {
		OK                   bool
		Reason               string
		DeclaredAfterConnect []string
	}
	want, got := unpack[result](t, v.Expect), result{}
	svc := nodes.New(nodes.Config{
		Policy: nodes.NewPolicy(v.Allow, v.Deny), Guard: unguarded{}, Store: storetest.Open(t), Bus: events.New(time.Now), Now: time.Now,
	})
	l := &invoked{svc: svc}
	_, n, err := svc.Attach(nodes.Node{ID: "n", Platform: v.Platform, DeviceFamily: v.DeviceFamily}, v.Declared, nil, l)
	if err != nil {
		t.Fatal(err)
	}
	got.DeclaredAfterConnect = n.Commands
	operator := identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: "local:1"}
	_, err = svc.Invoke(context.Background(), operator, nodes.InvokeIn{NodeID: "n", Command: v.command(t)})
	got.OK = err == nil
	if e, refused := errs.As(err); refused {
		got.Reason = cmp.Or(map[string]string{
			"nodes.not_allowed": "command not allowlisted", "nodes.not_declared": "command not declared by node",
			"nodes.no_commands": "node did not declare commands", "nodes.target_required": "command required",
			"nodes.policy_command": "command not allowlisted", // has a refusal of its own before the policy is asked
		}[e.Code], e.Code)
	}
	if reached := l.n > 0; reached != got.OK {
		t.Errorf("the node saw it: %v", reached)
	}
	o.different("policy", diff(want, got))
	o.loosens("it is sent", got.OK && !want.OK)
	o.loosens("commands", !subset(got.DeclaredAfterConnect, want.DeclaredAfterConnect))
	return o
}

func runApprovalGuard(t *testing.T, _ *tree, v vector) (o outcome) {
	type request struct {
		Command             string
		CommandArgv         []string
		Host, NodeID, Cwd   *string
		AgentID, SessionKey *string
		SystemRunPlan       *approvals.Plan
		SystemRunBinding    *approvals.Binding
	}
	type record struct {
		ID                                     string
		CreatedAtMs, ExpiresAtMs               int64
		RequestedByConnID, RequestedByDeviceID *string
		Request                                request
		Decision                               approvals.Decision
		ResolvedAtMs                           *int64
		ResolvedBy                             *string
	}
	type second struct {
		OK   bool
		Code string
	}
	want := unpack[struct {
		OK      bool
		Params  json.RawMessage
		Details map[string]any
		Second  *second
	}](t, v.Expect)
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	st := storetest.Open(t)
	now := func() time.Time { return time.UnixMilli(v.NowMs) }
	svc, err := approvals.New(approvals.Config{Store: st, Bus: events.New(now), Now: now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if r := unpack[*record](t, v.Record); r != nil {
		q := r.Request
		a := approvals.Approval{
			ID: r.ID, State: approvals.Allowed, Command: q.Command, CommandArgv: q.CommandArgv, Binding: q.SystemRunBinding,
			Plan: q.SystemRunPlan, Cwd: q.Cwd, NodeID: q.NodeID, Host: q.Host, AgentID: q.AgentID, SessionKey: q.SessionKey,
			CreatedAt: time.UnixMilli(r.CreatedAtMs), ExpiresAt: time.UnixMilli(r.ExpiresAtMs), Decision: r.Decision, ResolvedBy: text(r.ResolvedBy),
			Requester: approvals.Requester{DeviceID: text(r.RequestedByDeviceID), ConnID: text(r.RequestedByConnID)},
		}
		if r.RequestedByConnID != nil {
			a.Requester.Principal = "conn:" + *r.RequestedByConnID
		}
		if r.ResolvedAtMs != nil {
			a.ResolvedAt = time.UnixMilli(*r.ResolvedAtMs)
		}
		switch {
		case r.Decision == approvals.Deny:
			a.State = approvals.Denied
		case r.Decision == approvals.None && r.ResolvedAtMs != nil:
			a.State = approvals.Expired
		case r.Decision == approvals.None:
			a.State = approvals.Pending
		}
		if err := st.CreateApproval(context.Background(), a, approvals.Audit{Kind: "request"}); err != nil {
			t.Fatal(err)
		}
	}
	caller := identity.Caller{
		Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: text(v.Client.DeviceID), Principal: "conn:" + text(v.Client.ConnID),
		ConnID: text(v.Client.ConnID),
	}
	var order []string
	guard := func() (any, map[string]any) {
		out, _, err := svc.GuardRun(context.Background(), caller, v.NodeID, v.Params)
		if err != nil {
			return nil, guardDetails(t, err)
		}
		order = keysOf(string(out))
		return unpack[any](t, out), nil
	}
	params, details := guard()
	var wantParams any
	if want.OK {
		wantParams = unpack[any](t, want.Params)
	}
	o.different("parameters", diff(wantParams, params))
	if want.OK && params != nil {
		o.different("order of the keys", diff(keysOf(string(want.Params)), order))
	}
	if !want.OK {
		o.different("details", diff(want.Details, details))
	}
	o.loosens("it is let through", params != nil && !want.OK)
	if want.Second != nil {
		p, d := guard()
		code, _ := d["code"].(string)
		o.different("the second time", diff(*want.Second, second{p != nil, code}))
		o.loosens("it is let through twice", p != nil && !want.Second.OK)
	}
	return o
}

// keysOf are the keys of an object in their order.
func keysOf(text string) (out []string) {
	dec := json.NewDecoder(strings.NewReader(text))
	depth := 0
	isKey := true
	for {
		tok, err := dec.Token()
		if err != nil {
			return out
		}
		switch d := tok.(type) {
		case json.Delim:
			if d == '{' || d == '[' {
				depth++
			} else {
				depth--
			}
			isKey = depth == 1
		default:
			if depth == 1 {
				if isKey {
					out = append(out, fmt.Sprint(tok))
				}
				isKey = !isKey
			}
		}
	}
}

// guardCodes are the codes of the original.
var guardCodes = map[string]string{
	"approvals.missing_run_id": "MISSING_RUN_ID", "approvals.run_unknown": "UNKNOWN_APPROVAL_ID", "approvals.run_expired": "APPROVAL_EXPIRED",
	"approvals.run_no_node": "APPROVAL_NODE_BINDING_MISSING", "approvals.run_node": "APPROVAL_NODE_MISMATCH",
	"approvals.run_device": "APPROVAL_DEVICE_MISMATCH", "approvals.run_client": "APPROVAL_CLIENT_MISMATCH",
	"approvals.run_mismatch": "APPROVAL_REQUEST_MISMATCH", "approvals.run_env_missing": "APPROVAL_ENV_BINDING_MISSING",
	"approvals.run_env": "APPROVAL_ENV_MISMATCH", "approvals.run_required": "APPROVAL_REQUIRED",
	"policy.raw_mismatch": "RAW_COMMAND_MISMATCH", "policy.missing_command": "MISSING_COMMAND",
}

// guardDetails is a refusal as the original's details: fields that it does not have are left out.
func guardDetails(t *testing.T, err error) map[string]any {
	t.Helper()
	e, ok := errs.As(err)
	if !ok {
		t.Fatal(err)
	}
	text, jsonErr := json.Marshal(e.Fields)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	out := map[string]any{}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if out == nil {
		out = map[string]any{}
	}
	maps.DeleteFunc(out, func(k string, _ any) bool {
		return !slices.Contains([]string{"runId", "envKeys", "expectedEnvHash", "actualEnvHash", "rawCommand", "inferred", "nodeId"}, k)
	})
	out["code"] = cmp.Or(guardCodes[e.Code], e.Code)
	return out
}

// newHost is a node host on an exec approvals file; nil text is none.
func (fx *tree) newHost(t *testing.T, text json.RawMessage, skills []shell.Skill) (*host.Host, *policy.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exec-approvals.json")
	if text != nil && string(text) != "null" {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := policy.Open(path, policy.Options{
		HomeDir:  fx.Home,
		Defaults: policy.Overrides{Security: policy.SecurityAllowlist, Ask: policy.AskOnMiss},
		Skills:   func() []shell.Skill { return skills },
	})
	return host.New(host.Config{Policy: f, Env: func() []string { return []string{"PATH=" + fx.DefaultPath, "HOME=" + fx.Home} }}), f
}

func runPlan(t *testing.T, fx *tree, v vector) (o outcome) {
	type result struct {
		OK      bool
		CmdText any
		Plan    map[string]any
		Message string
	}
	want, got := unpack[result](t, v.Expect), result{}
	h, _ := fx.newHost(t, nil, nil)
	params := string(v.Params)
	r := h.Handle(context.Background(), host.Request{Command: "system.run.prepare", ParamsJSON: &params})
	if r.OK {
		got = unpack[result](t, json.RawMessage(*r.PayloadJSON))
		// The plan also says which files it was made for; the original has no such key.
		maps.DeleteFunc(got.Plan, func(k string, _ any) bool {
			return !slices.Contains([]string{"argv", "cwd", "rawCommand", "agentId", "sessionKey"}, k)
		})
		got.OK = true
	} else {
		got.Message = r.Error.Message
	}
	o.different("plan", diff(want, got))
	o.loosens("it is planned", got.OK && !want.OK)
	return o
}

// ran is what was started, and where.
type ran struct {
	Argv []string
	Cwd  *string
}

func runNodeRun(t *testing.T, fx *tree, v vector) (o outcome) {
	type entry struct {
		Pattern                           string
		LastUsedCommand, LastResolvedPath *string
		Stamped                           bool
	}
	type event struct{ Event, Reason, Command, SessionKey string }
	type result struct {
		OK            bool
		Code, Message string
	}
	type all struct {
		Result     result
		Event      event
		Ran        *ran
		Allowlists map[string][]entry
	}
	want, got := unpack[all](t, v.Expect), all{}
	var skills []shell.Skill
	for _, s := range v.SkillBins {
		skills = append(skills, shell.Skill{Name: s.Name, Path: s.ResolvedPath})
	}
	h, f := fx.newHost(t, v.Approvals, skills)
	var told []event
	params := string(v.Params)
	r := h.Handle(context.Background(), host.Request{Command: "system.run", ParamsJSON: &params, Emit: func(name, payload string) {
		if name != "exec.finished" && name != "exec.denied" {
			return // output on its way
		}
		e := unpack[event](t, json.RawMessage(payload))
		e.Event = name
		told = append(told, e)
	}})
	got.Result.OK = r.OK
	if !r.OK {
		got.Result.Code, got.Result.Message = r.Error.Code, r.Error.Message
	}
	if len(told) != 1 {
		t.Fatalf("events %+v", told)
	}
	got.Event = told[0]
	if want.Event.SessionKey == "" {
		got.Event.SessionKey = ""
	}
	if argv, cwd := fx.ran(t); argv != nil {
		got.Ran = &ran{Argv: argv, Cwd: &cwd}
	}
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	after := unpack[struct {
		Agents map[string]struct {
			Allowlist []struct {
				entry
				LastUsedAt *json.Number
			}
		}
	}](t, s.File)
	got.Allowlists = map[string][]entry{}
	for id, a := range after.Agents {
		got.Allowlists[id] = []entry{}
		for _, e := range a.Allowlist {
			e.Stamped = e.LastUsedAt != nil
			got.Allowlists[id] = append(got.Allowlists[id], e.entry)
		}
	}
	wantRan := want.Ran
	if wantRan != nil {
		wantRan = fx.willRun(t, *want.Ran)
	}
	o.loosens("it runs", got.Ran != nil && want.Ran == nil)
	o.loosens("it is answered well", got.Result.OK && !want.Result.OK)
	for id, list := range got.Allowlists {
		for _, e := range list {
			o.loosens("it stores "+e.Pattern, !slices.ContainsFunc(want.Allowlists[id], func(x entry) bool { return x.Pattern == e.Pattern }))
		}
	}
	want.Ran = wantRan
	o.different("run", diff(want, got))
	return o
}

// willRun says what the files of the tree write down when an argv runs in a directory: nil when there is
// nothing to run or nowhere to run it, which the original finds out by trying.
func (fx *tree) willRun(t *testing.T, r ran) *ran {
	t.Helper()
	argv := slices.Clone(r.Argv)
	if !filepath.IsAbs(argv[0]) {
		argv[0] = ""
		for _, dir := range filepath.SplitList(fx.DefaultPath) {
			p := filepath.Join(dir, r.Argv[0])
			if fi, err := os.Stat(p); argv[0] == "" && err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				argv[0] = p
			}
		}
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil
	}
	cwd, err := os.Getwd()
	if r.Cwd != nil {
		cwd, err = *r.Cwd, nil
	}
	if err == nil {
		cwd, err = filepath.EvalSymlinks(cwd)
	}
	if err != nil {
		return nil
	}
	r.Argv, r.Cwd = argv, &cwd
	return &r
}
