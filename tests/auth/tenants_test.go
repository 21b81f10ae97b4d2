package auth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// instance is a linked instance that answers every command with {}.
func instance(t *testing.T, d *hanzodtest.Daemon, token, id string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, strings.Replace(d.URL(), "http", "ws", 1)+"/v1/tunnel", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	frame := fmt.Sprintf(`{"type":"register","instance_id":%q,"app_kind":"dev","display_name":"of %s","capabilities":[],"commands":["status.get","exec.run"],"version":"1"}`, id, id)
	if err := ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		t.Fatal(err)
	}
	_, text, err := ws.Read(ctx)
	if err != nil || !bytes.Contains(text, []byte(`"registered"`)) {
		t.Fatalf("%s %v", text, err)
	}
	go func() {
		for {
			_, text, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			var c struct{ Type, ID string }
			if json.Unmarshal(text, &c) == nil && c.Type == "command" {
				_ = ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"response","id":%q,"ok":true,"data":{"of":%q}}`, c.ID, id))
			}
		}
	}()
	return ws
}

// V2: a tenant has its own nodes and those that all have, by every door, and is not told that there are
// others.
func TestTenantsAreApart(t *testing.T) {
	s := newService(t)
	key := s.key("k", jose.ES256)
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token,
		"iam": map[string]any{"serverUrl": s.URL + "/", "clientId": "gw", "superAdmins": []string{"root"}},
	}})
	of := func(sub, org string) string { return s.token(key, sub, map[string]any{"owner": org}) }
	ann, bea := of("ann", "acme"), of("bea", "beta")
	instance(t, d, ann, "one")
	instance(t, d, ann, "shared-name")
	talker := instance(t, d, bea, "shared-name")
	instance(t, d, d.Token, "ours")

	type who struct{ name, token string }
	legacy := map[string]*conn{}
	for _, w := range []who{{"ann", ann}, {"bea", bea}, {"owner", d.Token}} {
		legacy[w.name] = hello{scopes: allScopes, token: w.token}.connect(t, d)
		if legacy[w.name].refused != "" {
			t.Fatal(w.name, legacy[w.name].refused)
		}
	}
	tokens := map[string]string{"ann": ann, "bea": bea, "owner": d.Token}
	for name, want := range map[string][]string{
		"ann": {"acme/one", "acme/shared-name", "ours"}, "bea": {"beta/shared-name", "ours"},
		"owner": {"acme/one", "acme/shared-name", "beta/shared-name", "ours"},
	} {
		byLegacy, _ := legacy[name].call(t, "node.list", map[string]any{})
		_, byREST := ask(t, d, "GET", "/v1/nodes", "", bearer(tokens[name]))
		_, audit := ask(t, d, "GET", "/v1/audit", "", bearer(tokens[name]))
		for _, id := range []string{"acme/one", "acme/shared-name", "beta/shared-name", "ours"} {
			sees := strings.Contains(fmt.Sprint(want), id)
			if strings.Contains(string(byLegacy), `"`+id+`"`) != sees || strings.Contains(byREST, `"`+id+`"`) != sees {
				t.Errorf("%s, %s: seen must be %v\n%s\n%s", name, id, sees, byLegacy, byREST)
			}
			if !sees && strings.Contains(audit, id) {
				t.Errorf("%s finds %s in the audit log", name, id)
			}
		}
	}

	// What is another tenant's is refused in the words of what is not there.
	hidden, missing := "acme/one", "acme/nothing"
	for _, c := range []struct{ verb, path, body string }{
		{"GET", "/v1/nodes/%s", ""}, {"GET", "/v1/nodes/%s/instance", ""}, {"GET", "/v1/nodes/%s/info", ""}, {"GET", "/v1/nodes/%s/events", ""},
		{"POST", "/v1/nodes/%s/invoke", `{"command":"status.get"}`}, {"POST", "/v1/nodes/%s:rename", `{"displayName":"x"}`},
		{"POST", "/v1/nodes/%s/run", `{"argv":["ls"]}`}, {"POST", "/v1/nodes/%s/invoke", `{"command":"exec.run","params":{"command":"ls"}}`},
		{"POST", "/v1/nodes/%s/invoke", `{"command":"status.get","waitForNode":"0.2s"}`},
	} {
		at := func(id string) (int, string) {
			r, text := ask(t, d, c.verb, fmt.Sprintf(c.path, strings.ReplaceAll(id, "/", "%2F")), c.body, bearer(bea), "Content-Type: application/json")
			return r.StatusCode, strings.ReplaceAll(text, id, "ID")
		}
		a, atext := at(hidden)
		b, btext := at(missing)
		if a != b || a < 400 || atext != btext {
			t.Errorf("%s %s: %d %s\nbut of none %d %s", c.verb, c.path, a, atext, b, btext)
		}
	}
	for _, m := range []struct {
		method string
		params func(id string) map[string]any
	}{
		{"node.describe", func(id string) map[string]any { return map[string]any{"nodeId": id} }},
		{"node.rename", func(id string) map[string]any { return map[string]any{"nodeId": id, "displayName": "x"} }},
		{"node.invoke", func(id string) map[string]any {
			return map[string]any{"nodeId": id, "command": "status.get", "idempotencyKey": id}
		}},
		{"exec.approvals.node.get", func(id string) map[string]any { return map[string]any{"nodeId": id} }},
	} {
		_, a := legacy["bea"].call(t, m.method, m.params(hidden))
		_, b := legacy["bea"].call(t, m.method, m.params(missing))
		if a == "" || strings.ReplaceAll(a, hidden, "ID") != strings.ReplaceAll(b, missing, "ID") {
			t.Errorf("%s: %q, but of none %q", m.method, a, b)
		}
	}
	// A name that two tenants have means the caller's own, and a run is its requester's.
	for name, want := range map[string]string{"ann": "acme/shared-name", "bea": "beta/shared-name"} {
		out, failed := legacy[name].call(t, "node.invoke", map[string]any{"nodeId": "shared-name", "command": "status.get", "idempotencyKey": "same"})
		if failed != "" || !strings.Contains(string(out), `"`+want+`"`) {
			t.Errorf("%s: %s %s", name, out, failed)
		}
	}
	if r, text := ask(t, d, "POST", "/v1/runs", `{"nodeId":"one","argv":["ls"],"id":"run-of-ann"}`, bearer(ann), "Content-Type: application/json"); r.StatusCode != 200 || !strings.Contains(text, `"acme/one"`) {
		t.Errorf("%d %s", r.StatusCode, text)
	}
	if r, _ := ask(t, d, "GET", "/v1/runs/run-of-ann", "", bearer(bea)); r.StatusCode != http.StatusNotFound {
		t.Errorf("the run of another tenant: %d", r.StatusCode)
	}
	if _, text := ask(t, d, "GET", "/v1/runs", "", bearer(bea)); strings.Contains(text, "run-of-ann") {
		t.Error("the run of another tenant is listed")
	}
	// Who is no admin may ask, and an approval about a node of one tenant is not there for the other.
	req, err := http.NewRequestWithContext(t.Context(), "POST", d.URL()+"/v1/nodes/one:askInvoke", strings.NewReader(`{"command":"exec.run","params":{"command":"ls -l","approved":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + ann}, "Content-Type": {"application/json"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"/bin/sh"`) {
		t.Fatalf("the question is %s", lines.Text())
	}
	var asked struct {
		Question struct {
			ApprovalID string
			Argv       []string
		}
	}
	if err := json.Unmarshal(lines.Bytes(), &asked); err != nil || fmt.Sprint(asked.Question.Argv) != "[exec.run /bin/sh -c ls -l]" {
		t.Errorf("%s %v", lines.Text(), err)
	}
	id := asked.Question.ApprovalID
	for _, w := range []string{bea, ann} {
		if r, _ := ask(t, d, "POST", "/v1/approvals/"+id+":resolve", `{"decision":"DECISION_ALLOW_ONCE"}`, bearer(w), "Content-Type: application/json"); r.StatusCode == 200 {
			t.Error("answered by who may not")
		}
	}
	if _, failed := legacy["owner"].call(t, "exec.approval.resolve", map[string]any{"id": id, "decision": "allow-once"}); failed != "" {
		t.Errorf("the owner answers: %s", failed)
	}
	if !lines.Scan() || !strings.Contains(strings.ReplaceAll(lines.Text(), " ", ""), `{"of":"one"}`) {
		t.Errorf("the answer is %s", lines.Text())
	}
	if r, text := ask(t, d, "POST", "/v1/nodes/one/invoke", `{"command":"exec.run","params":{"command":"ls -l"}}`, bearer(ann), "Content-Type: application/json"); r.StatusCode != http.StatusForbidden || !strings.Contains(text, "--ask") {
		t.Errorf("a second time: %d %s", r.StatusCode, text)
	}
	// Nor are events.
	_ = talker.Write(t.Context(), websocket.MessageText, []byte(`{"type":"event","event":"secret.beta","data":{}}`))
	mark := instance(t, d, ann, "marker")
	_ = mark.Write(t.Context(), websocket.MessageText, []byte(`{"type":"event","event":"mark","data":{}}`))
	for name, sees := range map[string]bool{"ann": false, "owner": true} {
		told := false
		for {
			var f frame
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := legacy[name].read(ctx, &f)
			cancel()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			text, _ := json.Marshal(f)
			told = told || bytes.Contains(text, []byte("secret.beta"))
			if bytes.Contains(text, []byte(`"mark"`)) {
				break
			}
		}
		if told != sees {
			t.Errorf("%s was told of the event of beta: %v", name, told)
		}
	}
}

// A device is of the organisation of the person whose token it came with, also when it comes with its own token alone,
// as an administrator too: by every door.
func TestTenantsAreApartByDevices(t *testing.T) {
	s := newService(t)
	key := s.key("k", jose.ES256)
	d := start(t, map[string]any{"auth": map[string]any{
		"mode": "iam", "token": hanzodtest.Token,
		"iam": map[string]any{"serverUrl": s.URL + "/", "clientId": "gw"},
	}}, func(o *hanzodtest.Options) { o.GRPC = true })
	of := func(sub, org string) string { return s.token(key, sub, map[string]any{"owner": org}) }
	ann, bea := of("ann", "acme"), of("bea", "beta")
	instance(t, d, ann, "one")
	instance(t, d, bea, "two")
	instance(t, d, d.Token, "ours")
	owner := hello{scopes: allScopes, token: d.Token}.connect(t, d)

	pending := func(c *conn) []string {
		out, failed := c.call(t, "device.pair.list", map[string]any{})
		var list struct{ Pending []struct{ RequestID string } }
		if err := json.Unmarshal(out, &list); failed != "" || err != nil {
			t.Fatal(failed, err)
		}
		var ids []string
		for _, p := range list.Pending {
			ids = append(ids, p.RequestID)
		}
		return ids
	}
	approve := func(c *conn, id string) string {
		_, failed := c.call(t, "device.pair.approve", map[string]any{"requestId": id})
		return failed
	}
	// paired has an approved device come back with its own token alone.
	paired := func(h hello) (string, *conn) {
		t.Helper()
		in := h.connect(t, d)
		token, _ := in.get(t, "auth", "deviceToken").(string)
		if in.refused != "" || token == "" {
			t.Fatal(in.refused, string(in.payload))
		}
		h.token, h.deviceToken = "", token
		own := h.connect(t, d)
		if own.refused != "" {
			t.Fatal(own.refused)
		}
		return token, own
	}
	tokens, conns := map[string]string{}, map[string]*conn{}
	for _, w := range []struct{ name, token string }{{"bea", bea}, {"ann", ann}} {
		h := hello{device: "phone of " + w.name, scopes: allScopes, token: w.token}
		if got := h.verdict(t, d); got != "PAIRING_REQUIRED" {
			t.Fatal(got)
		}
		ids := pending(owner)
		if len(ids) != 1 {
			t.Fatal(ids)
		}
		if other := conns["bea"]; other != nil {
			if seen := pending(other); len(seen) != 0 {
				t.Errorf("the device of beta is shown %v", seen)
			}
			if failed := approve(other, ids[0]); failed != "unknown requestId" {
				t.Errorf("the device of beta approves: %q", failed)
			}
		}
		if failed := approve(owner, ids[0]); failed != "" {
			t.Fatal(failed)
		}
		tokens[w.name], conns[w.name] = paired(h)
	}
	// A node of acme over the older protocol: who administers for acme lets it in, and it is acme's.
	h := hello{id: "node-host", mode: "node", role: "node", device: "host of ann", token: ann}
	if got := h.verdict(t, d); got != "PAIRING_REQUIRED" {
		t.Fatal(got)
	}
	if ids := pending(conns["ann"]); len(ids) != 1 || approve(conns["ann"], ids[0]) != "" {
		t.Fatal(ids)
	}
	paired(h)
	node := "acme/" + identity.DeviceID(keyOf("host of ann").Public().(ed25519.PublicKey))

	remote, err := grpc.NewClient("passthrough:///"+d.GRPCAddress(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = remote.Close() })
	byGRPC := nodesv1.NewNodeServiceClient(remote)
	as := func(name string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+tokens[name])
	}
	all := []string{"acme/one", "beta/two", "ours", node}
	for name, want := range map[string][]string{"ann": {"acme/one", "ours", node}, "bea": {"beta/two", "ours"}} {
		legacy, _ := conns[name].call(t, "node.list", map[string]any{})
		_, rest := ask(t, d, "GET", "/v1/nodes", "", bearer(tokens[name]))
		out, err := byGRPC.ListNodes(as(name), &nodesv1.ListNodesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var remote []string
		for _, n := range out.GetNodes() {
			remote = append(remote, n.GetNodeId())
		}
		_, audit := ask(t, d, "GET", "/v1/audit", "", bearer(tokens[name]))
		for _, id := range all {
			sees := slices.Contains(want, id)
			if strings.Contains(string(legacy), `"`+id+`"`) != sees || strings.Contains(rest, `"`+id+`"`) != sees || slices.Contains(remote, id) != sees {
				t.Errorf("%s, %s: seen must be %v\n%s\n%s\n%v", name, id, sees, legacy, rest, remote)
			}
			if !sees && strings.Contains(audit, id) {
				t.Errorf("%s finds %s in the audit log", name, id)
			}
		}
		for _, o := range []string{"ann", "bea"} {
			device := identity.DeviceID(keyOf("phone of " + o).Public().(ed25519.PublicKey))
			devices, _ := conns[name].call(t, "device.pair.list", map[string]any{})
			_, byREST := ask(t, d, "GET", "/v1/devices", "", bearer(tokens[name]))
			if strings.Contains(string(devices), device) != (o == name) || strings.Contains(byREST, device) != (o == name) {
				t.Errorf("%s, the device of %s:\n%s\n%s", name, o, devices, byREST)
			}
			if o != name && strings.Contains(audit, device) {
				t.Errorf("%s finds the device of %s in the audit log", name, o)
			}
		}
	}
	for name, sees := range map[string]bool{"ann": true, "bea": false} {
		host := strings.TrimPrefix(node, "acme/")
		legacy, _ := conns[name].call(t, "system-presence", map[string]any{})
		_, rest := ask(t, d, "GET", "/v1/presence", "", bearer(tokens[name]))
		if strings.Contains(string(legacy), host) != sees || strings.Contains(rest, host) != sees || !strings.Contains(rest, "gateway") {
			t.Errorf("%s, who is there:\n%s\n%s", name, legacy, rest)
		}
	}
	// What is another's is refused in the words of what is not there.
	words := func(id string) []string {
		_, legacy := conns["bea"].call(t, "node.invoke", map[string]any{"nodeId": id, "command": "status.get", "idempotencyKey": id})
		r, rest := ask(t, d, "POST", "/v1/nodes/"+strings.ReplaceAll(id, "/", "%2F")+"/invoke", `{"command":"status.get"}`, bearer(tokens["bea"]), "Content-Type: application/json")
		_, err := byGRPC.Invoke(as("bea"), &nodesv1.InvokeRequest{NodeId: id, Command: "status.get"})
		_, shown := byGRPC.GetNode(as("bea"), &nodesv1.GetNodeRequest{NodeId: id})
		out := []string{legacy, fmt.Sprint(r.StatusCode, rest), fmt.Sprint(err), fmt.Sprint(shown)}
		for i := range out {
			if out[i] == "" || out[i] == fmt.Sprint(nil) {
				t.Errorf("%s is reached, %d", id, i)
			}
			out[i] = strings.ReplaceAll(out[i], id, "ID")
		}
		return out
	}
	for _, id := range []string{"acme/one", node} {
		if a, b := words(id), words("acme/nothing"); !slices.Equal(a, b) {
			t.Errorf("%q\nbut of none %q", a, b)
		}
	}
	device := identity.DeviceID(keyOf("phone of ann").Public().(ed25519.PublicKey))
	for _, method := range []string{"device.token.rotate", "device.token.revoke"} {
		if _, failed := conns["bea"].call(t, method, map[string]any{"deviceId": device, "role": "operator"}); failed != "unknown deviceId/role" {
			t.Errorf("%s: %q", method, failed)
		}
	}
	if _, failed := conns["bea"].call(t, "device.pair.remove", map[string]any{"deviceId": device}); failed != "unknown deviceId" {
		t.Errorf("removed: %q", failed)
	}
	// The same device with the token of another organisation is not let in, and the shared token does not widen it.
	if got := (hello{device: "phone of ann", scopes: allScopes, token: bea}).verdict(t, d); !strings.Contains(got, "another organisation") {
		t.Error(got)
	}
	wide := hello{device: "phone of ann", scopes: allScopes, token: d.Token}.connect(t, d)
	if out, _ := wide.call(t, "node.list", map[string]any{}); strings.Contains(string(out), "beta/two") {
		t.Errorf("%s", out)
	}
}

func keyOf(device string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(device))
	return ed25519.NewKeyFromSeed(seed[:])
}
