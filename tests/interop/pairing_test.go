//go:build unix

package interop

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// elsewhere is a reverse proxy in front of a gateway on this machine: who comes through it comes from
// another machine, as the gateway sees it, so that pairing is asked and not silent. It returns the port.
func elsewhere(tb testing.TB, port int) int {
	tb.Helper()
	to := &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	s := httptest.NewServer(&httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), // the gateway is away at times
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("X-Forwarded-For", "203.0.113.9")
		},
	})
	tb.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// device is the id of a user's device, which its first call makes.
func (c *client) device(tb testing.TB) string {
	tb.Helper()
	id, _ := readJSON(tb, c.path("state/identity/device.json"))["deviceId"].(string)
	if id == "" {
		tb.Fatal("the client has no device")
	}
	return id
}

func readJSON(tb testing.TB, path string) map[string]any {
	tb.Helper()
	text, err := os.ReadFile(path)
	var v map[string]any
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// pendingOf is the request of a device in the list that the client prints.
func pendingOf(list any, device string) string {
	requests, _ := get(list, "pending").([]any)
	for _, r := range requests {
		if get(r, "deviceId") == device {
			id, _ := get(r, "requestId").(string)
			return id
		}
	}
	return ""
}

// TestCLIDevices pairs a device that comes from elsewhere, changes and ends what it may, and removes
// it, with the client's command line on both sides.
func TestCLIDevices(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	near := userOf(t, d.Port, token, nil)
	far := userOf(t, elsewhere(t, d.Port), token, nil)
	farAlone := far.with("OPENCLAW_GATEWAY_TOKEN=")
	health := []string{"gateway", "call", "health"}
	asked := []string{"pairing required"}
	list := func() map[string]any { return near.json(t, "devices", "list", "--json") }

	near.ok(t, []string{"Paired (1)"}, "devices", "list")
	want(t, list(), near.device(t), "paired", 0, "deviceId") // who comes from this machine is let in at once

	far.refused(t, asked, health...)
	near.ok(t, []string{"Pending (1)", "Paired (1)"}, "devices", "list")
	request := pendingOf(list(), far.device(t))
	if request == "" {
		t.Fatalf("%s has no request in %v", far.device(t), list())
	}
	near.refused(t, []string{"unknown requestId"}, "devices", "approve", "no-such-request")
	near.ok(t, []string{"Approved " + far.device(t)}, "devices", "approve", request)
	near.refused(t, []string{"unknown requestId"}, "devices", "approve", request)
	far.ok(t, nil, health...)
	farAlone.ok(t, nil, health...) // with the token of the device alone

	near.refused(t, []string{"unknown deviceId/role"}, "devices", "rotate", "--device", far.device(t), "--role", "node")
	near.refused(t, []string{"unknown deviceId/role"}, "devices", "rotate", "--device", "nobody", "--role", "operator")
	v := near.json(t, "devices", "rotate", "--device", far.device(t), "--role", "operator", "--scope", "operator.read", "--json")
	want(t, v, "operator.read", "scopes", 0)
	if rotated, _ := v["token"].(string); len(rotated) != 43 {
		t.Errorf("the new token has %d characters", len(rotated))
	}
	farAlone.refused(t, []string{"device token mismatch"}, health...)

	near.ok(t, []string{`"revokedAtMs"`}, "devices", "revoke", "--device", far.device(t), "--role", "operator")
	farAlone.refused(t, []string{"unauthorized"}, health...)
	far.refused(t, asked, health...) // the shared token does not undo it
	want(t, near.json(t, "devices", "approve", "--latest", "--json"), far.device(t), "device", "deviceId")
	far.ok(t, nil, health...)

	near.ok(t, []string{"Removed " + far.device(t)}, "devices", "remove", far.device(t))
	near.refused(t, []string{"unknown deviceId"}, "devices", "remove", far.device(t))
	far.refused(t, asked, health...)
	near.ok(t, []string{"Rejected"}, "devices", "reject", pendingOf(list(), far.device(t)))
	if r := pendingOf(list(), far.device(t)); r != "" {
		t.Errorf("the rejected request %s still waits", r)
	}

	// Its own device, too: the answer comes before the connection ends.
	v = near.json(t, "devices", "rotate", "--device", near.device(t), "--role", "operator")
	want(t, v, near.device(t), "deviceId")
	near.ok(t, nil, health...)
	far.refused(t, asked, health...)
	near.ok(t, []string{"Cleared", "Rejected 1 pending"}, "devices", "clear", "--yes", "--pending")
}

// TestNodePairing lets the client's node host in by hanzoctl, where no shared secret does: it keeps
// the token that it gets and needs nothing else from then on, until it is kept out.
func TestNodePairing(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested, Config: map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "none"}},
	}})
	far := elsewhere(t, d.Port)
	u := userOf(t, far, "", nil)
	w := u.nodeHost(t, far, "far-box", true)
	until(t, "the request of the node", func() (bool, bool) {
		if w.Ended() {
			t.Fatalf("the node host ended with exit code %d\n%s", w.Code, w.output())
		}
		list, _ := ctlJSON(t, d, "devices", "--pending")["pending"].([]any)
		for _, r := range list {
			if get(r, "displayName") == "far-box" {
				return true, true
			}
		}
		return false, false
	})
	ctl(t, d, "devices", "approve", u.device(t)[:12])
	n := listed(t, d, "far-box")
	want(t, n, u.device(t), "nodeId")
	want(t, n, true, "paired")
	ctl(t, d, "nodes", "invoke", "far-box", "system.which", "--params", `{"bins":["ls"]}`)
	kept, _ := get(readJSON(t, u.path("state/identity/device-auth.json")), "tokens", "node", "token").(string)
	if len(kept) != 43 {
		t.Fatalf("the node host keeps a token of %d characters", len(kept))
	}

	// The gateway asks for a shared secret from now on. The node has none, and its own token does.
	d.Stop()
	writeJSON(t, filepath.Join(d.State, "config.json"), map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": token}},
	})
	d.Start()
	want(t, listed(t, d, "far-box"), u.device(t), "nodeId")
	w.End(syscall.SIGTERM)
	w = u.nodeHost(t, far, "far-box", true)
	listed(t, d, "far-box")

	// Kept out, its connection ends at once, and it does not come back.
	began := time.Now()
	ctl(t, d, "devices", "revoke", u.device(t)[:12], "node")
	until(t, "the node to be gone", func() (bool, bool) {
		list, _ := ctlJSON(t, d, "nodes", "list")["nodes"].([]any)
		for _, n := range list {
			if get(n, "connected") == true {
				return false, false
			}
		}
		return true, true
	})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the node was gone only after %v", took)
	}
	proc.UntilFor(t, patience, "the node to be refused", func() bool {
		return strings.Contains(w.output(), "connect failed: ")
	})
	for _, n := range ctlJSON(t, d, "nodes", "list")["nodes"].([]any) {
		want(t, n, false, "connected")
	}
}

// TestTheirGatewayPairing lets hanzod's node host in to the client's gateway by the client's command
// line: it keeps the token that it gets, and the next start needs no other.
func TestTheirGatewayPairing(t *testing.T) {
	t.Parallel()
	theClient(t)
	u, port, _ := theirGateway(t, token)
	far := elsewhere(t, port)
	node, state := ourNode(t, far, "our-far-node")
	until(t, "the request of the node", func() (bool, bool) {
		list, _ := u.json(t, "devices", "list", "--json")["pending"].([]any)
		return true, len(list) > 0
	})
	u.ok(t, []string{"Approved"}, "devices", "approve", "--latest")
	id := theirNode(t, u, "our-far-node")["nodeId"]
	node.End(syscall.SIGTERM)
	if node.Code != 0 {
		t.Errorf("hanzod node ended with exit code %d", node.Code)
	}
	show(t, "hanzod node", proc.RunGroup(t, state, proc.Build(t, "hanzod", proc.Tested), nil, nil,
		"node", "--state-dir", state, "--port", strconv.Itoa(far)))
	if n := theirNode(t, u, "our-far-node"); n["nodeId"] != id {
		t.Fatalf("without the shared token the node came back as %v, was %v", n["nodeId"], id)
	}
	u.ok(t, []string{which(t, "ls")}, "nodes", "invoke", "--node", "our-far-node", "--command", "system.which", "--params", `{"bins":["ls"]}`)
}
