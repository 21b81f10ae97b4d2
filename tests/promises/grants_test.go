package promises

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// TestR24GrantsStayWithin: nobody gives more away by a grant than it could allow by an answer, by any
// door, and what a device gave ends with the device.
func TestR24GrantsStayWithin(t *testing.T) {
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	const rules = `{version: 1, rules: [
		{name: "never", effect: "deny", argv: ["/bin/rm", "**"]},
		{name: "two", effect: "ask", argv: ["/bin/two", "**"], quorum: 2},
	]}`
	if err := os.WriteFile(filepath.Join(dir, "policy.json"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	a := attackWith(t, hanzodtest.Options{GRPC: true, StateDir: dir})
	// A node that tells whether a run came as an approved one.
	nodeDevice := newDevice(t)
	o := a.options(nodeDevice)
	o.Role, o.Commands, o.Caps = identity.RoleNode, []string{"system.run"}, []string{"system"}
	o.Client = dial.Client{ID: "node-host", Mode: "node"}
	o.OnEvent = func(c *dial.Conn, e dial.Event) {
		var i struct{ ID, NodeID, ParamsJSON string }
		if e.Name != "node.invoke.request" || json.Unmarshal(e.Payload, &i) != nil {
			return
		}
		answer := `{"exitCode":0,"stdout":"plain"}`
		if strings.Contains(i.ParamsJSON, `"approved":true`) {
			answer = `{"exitCode":0,"stdout":"approved"}`
		}
		_ = c.Send("node.invoke.result", map[string]any{"id": i.ID, "nodeId": i.NodeID, "ok": true, "payloadJSON": answer})
	}
	a.connect(o)
	node := nodeDevice.ID

	approver, token := a.paired(identity.ScopeApprovals, identity.ScopeWrite)
	_, writer := a.paired(identity.ScopeWrite)
	_, admin := a.paired(identity.ScopeAdmin)
	runner := a.connect(a.options(newDevice(t), identity.ScopeWrite))
	approved := func(argv ...string) bool {
		t.Helper()
		out, err := runner.Call(a.ctx(), "node.invoke", map[string]any{
			"nodeId": node, "command": "system.run", "idempotencyKey": time.Now().String(), "params": map[string]any{"command": argv},
		})
		return err == nil && strings.Contains(string(out), "approved")
	}
	soon := timestamppb.New(time.Now().Add(time.Hour))
	late := timestamppb.New(time.Now().Add(30 * 24 * time.Hour))
	for name, x := range map[string]struct {
		token string
		in    *approvalsv1.CreateGrantRequest
		code  string // "" is that it is made
	}{
		"without the scope":        {writer, &approvalsv1.CreateGrantRequest{Argv: []string{"/bin/a"}, Uses: 1}, "gate.scope"},
		"exact":                    {token, &approvalsv1.CreateGrantRequest{Argv: []string{"/bin/a"}, Always: true}, ""},
		"pattern always":           {token, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/a", "**"}, Always: true}, "approvals.grant_powers"},
		"pattern for a session":    {token, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/a", "**"}, SessionKey: new("s")}, "approvals.grant_powers"},
		"pattern for long":         {token, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/a", "**"}, Until: late}, "approvals.grant_powers"},
		"pattern for long, few":    {token, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/a", "**"}, Until: late, Uses: 1}, "approvals.grant_powers"},
		"pattern for anything":     {admin, &approvalsv1.CreateGrantRequest{Pattern: []string{"*", "**"}, Always: true}, "approvals.grant_pattern"},
		"pattern, soon over":       {token, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/b", "**"}, Until: soon}, ""},
		"pattern of an admin":      {admin, &approvalsv1.CreateGrantRequest{Pattern: []string{"/bin/c", "**"}, Always: true}, ""},
		"what a rule forbids":      {admin, &approvalsv1.CreateGrantRequest{Argv: []string{"/bin/rm", "x"}, Always: true}, "approvals.rule_denies"},
		"alone, where two have to": {admin, &approvalsv1.CreateGrantRequest{Argv: []string{"/bin/two", "x"}, Always: true}, "approvals.grant_rule"},
	} {
		x.in.NodeId, x.in.AnyRequester = node, true
		_, err := a.remote(x.token).Grants.CreateGrant(a.ctx(), x.in)
		if codeOf(err) != x.code {
			t.Errorf("%s, by gRPC: %v, want %s", name, err, x.code)
		}
		if x.code == "" {
			continue
		}
		body := map[string]any{"nodeId": node, "anyRequester": true, "uses": x.in.Uses, "always": x.in.Always}
		if len(x.in.Argv) > 0 {
			body["argv"] = x.in.Argv
		} else {
			body["pattern"] = x.in.Pattern
		}
		if x.in.Until != nil {
			body["until"] = x.in.Until.AsTime().Format(time.RFC3339)
		}
		if x.in.SessionKey != nil {
			body["sessionKey"] = x.in.GetSessionKey()
		}
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if code, answer := a.ask(http.MethodPost, "/v1/grants", bearerHeader(x.token), string(text)); code == http.StatusOK || !strings.Contains(answer, x.code) {
			t.Errorf("%s, by REST: %d %s", name, code, answer)
		}
	}
	// A pattern that an admin made does not reach past the rules either.
	if _, err := a.remote(admin).Grants.CreateGrant(a.ctx(), &approvalsv1.CreateGrantRequest{
		NodeId: node, Pattern: []string{"/bin/*", "**"}, Always: true, AnyRequester: true,
	}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		argv []string
		want bool
	}{
		{[]string{"/bin/a"}, true}, {[]string{"/bin/b", "x"}, true}, {[]string{"/bin/c", "x"}, true},
		{[]string{"/bin/rm", "x"}, false}, {[]string{"/bin/two", "x"}, false}, {[]string{"/sbin/a"}, false},
	} {
		if approved(x.argv...) != x.want {
			t.Errorf("%v: approved %v", x.argv, !x.want)
		}
	}

	// Where a rule asks, a run is refused in the words of a node that clients look for.
	_, err = runner.Call(a.ctx(), "node.invoke", map[string]any{
		"nodeId": node, "command": "system.run", "idempotencyKey": "asks", "params": map[string]any{"command": []string{"/bin/two"}},
	})
	if e, ok := err.(*dial.CallError); !ok || e.Code != "UNAVAILABLE" || e.Message != "UNAVAILABLE: SYSTEM_RUN_DENIED: approval required" {
		t.Errorf("a run that a rule asks about: %v", err)
	}

	// Votes: the approver twice, over another connection, is one; the admin is the other.
	requester := a.remote(admin)
	host := "node"
	ask := func(id string) {
		t.Helper()
		if _, err := requester.Approvals.RequestApproval(a.ctx(), &approvalsv1.RequestApprovalRequest{
			Id: id, Command: "x", CommandArgv: []string{"/bin/two", id}, NodeId: &node, Host: &host,
			Plan: &approvalsv1.Plan{Argv: []string{"/bin/two", id}}, Timeout: durationpb.New(time.Minute),
		}); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(token, id string, d approvalsv1.Decision) (*approvalsv1.Approval, error) {
		out, err := a.remote(token).Approvals.ResolveApproval(a.ctx(), &approvalsv1.ResolveApprovalRequest{Id: id, Decision: d})
		return out.GetApproval(), err
	}
	ask("q")
	if got, err := answer(token, "q", approvalsv1.Decision_DECISION_ALLOW_ALWAYS); err != nil || got.GetState() != approvalsv1.State_STATE_PENDING || len(got.GetVotes()) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := answer(token, "q", approvalsv1.Decision_DECISION_ALLOW_ALWAYS); codeOf(err) != "approvals.voted" {
		t.Errorf("a second vote: %v", err)
	}
	c := a.connect(func() dial.Options {
		o := a.options(approver, identity.ScopeApprovals, identity.ScopeWrite)
		o.Auth = dial.Auth{DeviceToken: token}
		o.Client.DisplayName = "Somebody Else"
		return o
	}())
	if _, err := c.Call(a.ctx(), "exec.approval.resolve", map[string]any{"id": "q", "decision": "allow-once"}); err == nil {
		t.Error("the same device voted again, by the legacy door")
	}
	if got, err := answer(admin, "q", approvalsv1.Decision_DECISION_ALLOW_ALWAYS); err != nil || got.GetState() != approvalsv1.State_STATE_ALLOWED || got.GetGrantId() == "" {
		t.Errorf("%v %v", got, err)
	}
	late2, err := answer(writer, "q", approvalsv1.Decision_DECISION_DENY)
	if codeOf(err) != "gate.scope" {
		t.Errorf("%v %v", late2, err)
	}
	_, err = answer(admin, "q", approvalsv1.Decision_DECISION_DENY)
	if e, ok := err.(*client.Error); !ok || e.Fields["resolvedBySubject"] == "" || e.Fields["decision"] != "allow-always" {
		t.Errorf("who comes late is told %v", err)
	}

	// What the approver gave ends with its pairing; what others gave stays.
	if _, err := a.local().Devices.RemoveDevice(a.ctx(), &devicesv1.RemoveDeviceRequest{DeviceId: approver.ID}); err != nil {
		t.Fatal(err)
	}
	list, err := a.local().Grants.ListGrants(a.ctx(), &approvalsv1.ListGrantsRequest{})
	if err != nil || len(list.GetGrants()) == 0 {
		t.Fatalf("%v %v", list, err)
	}
	for _, g := range list.GetGrants() {
		if g.GetKey() == "" && g.GetCreatedBy() != "device:"+approver.ID {
			if _, err := a.local().Grants.RevokeGrant(a.ctx(), &approvalsv1.RevokeGrantRequest{Id: g.GetId()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, argv := range [][]string{{"/bin/a"}, {"/bin/b", "x"}, {"/bin/c", "x"}} {
		if approved(argv...) {
			t.Errorf("%v: a removed device, or a revoked grant, let it run", argv)
		}
	}
}

func codeOf(err error) string {
	e, ok := err.(*client.Error)
	if !ok {
		return ""
	}
	return e.Code
}
