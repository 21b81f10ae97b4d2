package rest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runtime/rest"
)

func TestProbes(t *testing.T) {
	h := start(t, nil)
	for _, tt := range []struct {
		ready, method, path string
		status              int
		body                string
	}{
		{"ready", "GET", "/health", 200, `{"ok":true,"status":"live"}`},
		{"starting", "GET", "/healthz?x=1", 200, `{"ok":true,"status":"live"}`},
		{"ready", "GET", "/ready", 200, `{"ok":true,"status":"ready"}`},
		{"ready", "HEAD", "/readyz", 200, ``},
		{"starting", "GET", "/ready", 503, `{"ok":false,"status":"starting"}`},
		{"stopping", "GET", "/readyz", 503, `{"ok":false,"status":"stopping"}`},
		{"ready", "POST", "/health", 405, `Method Not Allowed`},
		{"ready", "DELETE", "/readyz", 405, `Method Not Allowed`},
	} {
		h.ready.Store(tt.ready)
		a := h.ask(t, tt.method, tt.path, "", "Host: evil.example", "Origin: https://evil.example")
		if a.status != tt.status || a.body != tt.body || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %d %q %v", tt.method, tt.path, a.status, a.body, a.header)
		}
		contentType := "application/json; charset=utf-8"
		if tt.status == 405 {
			contentType = "text/plain; charset=utf-8"
			if a.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow: %q", a.header.Get("Allow"))
			}
		}
		if got := a.header.Get("Content-Type"); got != contentType {
			t.Errorf("%s %s: content type %q", tt.method, tt.path, got)
		}
	}
}

func TestCommonHeaders(t *testing.T) {
	h := start(t, func(d *rest.Deps) { d.HSTS = "max-age=1" })
	for _, path := range []string{"/health", "/nope", "/v1/nope", "/v1/health", "/metrics", "/openapi.json"} {
		a := h.ask(t, "GET", path, "")
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Permissions-Policy":        "camera=(), microphone=(), geolocation=()",
			"Strict-Transport-Security": "max-age=1",
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
}

// Visitors of what nodes expose get the answers of those, upgrades among them, and nothing of the daemon's.
func TestVisitors(t *testing.T) {
	h := start(t, func(d *rest.Deps) {
		d.HSTS = "max-age=1"
		d.Visit = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/exposed/") {
				return false
			}
			w.WriteHeader(http.StatusAccepted)
			return true
		}
	})
	for _, header := range [][]string{nil, upgrade, {as("wrong")}, {"Origin: https://evil.example"}} {
		a := h.ask(t, "GET", "/exposed/site/", "", header...)
		if a.status != http.StatusAccepted {
			t.Errorf("%v: %d", header, a.status)
		}
		for _, name := range []string{"X-Content-Type-Options", "Referrer-Policy", "Permissions-Policy", "Strict-Transport-Security"} {
			if got := a.header.Get(name); got != "" {
				t.Errorf("%s is %q", name, got)
			}
		}
	}
	if a := h.ask(t, "GET", "/v1/nodes", ""); a.status != http.StatusUnauthorized {
		t.Errorf("%d", a.status)
	}
}

// upgrade is what a WebSocket client sends.
var upgrade = []string{
	"Upgrade: WebSocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
}

func TestRoutes(t *testing.T) {
	h := start(t, nil)
	for _, tt := range []struct {
		method, path string
		header       []string
		status       int
		body         string
	}{
		{"GET", "/", nil, 404, "Not Found"},
		{"POST", "/api/nope", nil, 404, "Not Found"},
		{"GET", "/v1/nope", nil, 404, "Not Found"},
		{"POST", "/v1/nope", nil, 404, "Not Found"},
		{"POST", "/v1/chat/completions", nil, 404, "Not Found"},
		{"GET", "/v1/", nil, 404, "Not Found"},
		{"DELETE", "/v1/nodes", nil, 405, "Method Not Allowed"},
		{"POST", "/metrics", nil, 405, "Method Not Allowed"},
		{"POST", "/openapi.json", nil, 405, "Method Not Allowed"},
		{"GET", "/any/path?token=x", upgrade, 418, ""},
		{"GET", "/v1/nodes", upgrade, 418, ""},
		{"GET", "/v1/nope", []string{"Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"}, 404, "Not Found"},
		// Ways around the method of a route.
		{"POST", "/v1/health", []string{as(owner), "X-HTTP-Method-Override: GET", "Content-Type: application/x-www-form-urlencoded"}, 405, "Method Not Allowed"},
	} {
		if a := h.ask(t, tt.method, tt.path, "", tt.header...); a.status != tt.status || a.body != tt.body {
			t.Errorf("%s %s: %d %q", tt.method, tt.path, a.status, a.body)
		}
	}
	if a := h.ask(t, "DELETE", "/v1/policy", ""); a.header.Get("Allow") != "GET, PUT" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
	if n := h.door.passes.Load(); n != 0 {
		t.Errorf("%d calls reached the gRPC door", n)
	}
}

func TestOpenAPI(t *testing.T) {
	h := start(t, nil)
	a := h.ask(t, "GET", "/openapi.json", "")
	var doc struct {
		Info  struct{ Title string }
		Paths map[string]any
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != 200 || doc.Info.Title != "hanzod" || doc.Paths["/v1/nodes"] == nil {
		t.Fatalf("%d, %v, %+v", a.status, err, doc.Info)
	}
	if strings.Contains(a.body, "google.rpc.Status") {
		t.Error("the default error is still there")
	}
	if again := h.ask(t, "GET", "/openapi.json", "", "If-None-Match: "+a.header.Get("ETag")); again.status != 304 || again.body != "" {
		t.Errorf("with its ETag: %d %q", again.status, again.body)
	}
}

// Each way in that a browser could be led through, or that leaves a token in a log.
func TestGuard(t *testing.T) {
	h := start(t, nil)
	same := "Origin: http://" + h.addr
	for _, tt := range []struct {
		name, path string
		header     []string
		status     int
		code       string
	}{
		{"owner", "/v1/nodes", []string{as(owner)}, 200, ""},
		{"scheme in lower case", "/v1/nodes", []string{"Authorization: bearer " + owner}, 200, ""},
		{"same origin", "/v1/nodes", []string{as(owner), same}, 200, ""},
		{"known host", "/v1/nodes", []string{as(owner), "Host: daemon.example:1"}, 200, ""},
		{"localhost", "/v1/nodes", []string{as(owner), "Host: LocalHost"}, 200, ""},
		{"::1", "/v1/nodes", []string{as(owner), "Host: [::1]:18789"}, 200, ""},
		{"no token", "/v1/nodes", nil, 401, "rest.no_bearer"},
		{"no bearer", "/v1/nodes", []string{"Authorization: Basic " + owner}, 401, "rest.no_bearer"},
		{"empty token", "/v1/nodes", []string{"Authorization: Bearer "}, 401, "rest.no_bearer"},
		{"wrong token", "/v1/nodes", []string{as("nope")}, 401, "identity.bearer"},
		{"locked", "/v1/nodes", []string{as("locked")}, 429, "test.locked.127.0.0.1"},
		{"token in the query", "/v1/nodes?token=" + owner, []string{as(owner)}, 400, "rest.query_token"},
		{"access_token in the query", "/v1/nodes?a=b&Access%5Ftoken=x", []string{as(owner)}, 400, "rest.query_token"},
		{"foreign origin", "/v1/nodes", []string{as(owner), "Origin: https://evil.example"}, 403, "rest.origin"},
		{"other port", "/v1/nodes", []string{as(owner), "Origin: http://127.0.0.1:1"}, 403, "rest.origin"},
		{"origin null", "/v1/nodes", []string{as(owner), "Origin: null"}, 403, "rest.origin"},
		{"cross-site", "/v1/nodes", []string{as(owner), "Sec-Fetch-Site: cross-site"}, 403, "rest.origin"},
		{"foreign host", "/v1/nodes", []string{as(owner), "Host: evil.example"}, 421, "rest.host"},
		{"foreign host that looks local", "/v1/nodes", []string{as(owner), "Host: 127.0.0.1.evil.example"}, 421, "rest.host"},
		{"host of the tailnet", "/v1/nodes", []string{as(owner), "Host: box.tail1.ts.net"}, 200, ""},
		{"foreign host with a header of a proxy", "/v1/nodes", []string{as(owner), "Host: evil.example", "X-Forwarded-For: 203.0.113.7"}, 421, "rest.host"},
		{"page of the allowed origin", "/v1/nodes", []string{as(owner), "Origin: https://ui.example", "Sec-Fetch-Site: cross-site"}, 200, ""},
		{"metrics", "/metrics", []string{as(reader)}, 200, ""},
		{"metrics without token", "/metrics", nil, 401, "rest.no_bearer"},
		{"metrics as node", "/metrics", []string{as(node)}, 403, "gate.role"},
		{"metrics, foreign host", "/metrics", []string{as(owner), "Host: evil.example"}, 421, "rest.host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := h.ask(t, "GET", tt.path, "", tt.header...)
			if a.status != tt.status {
				t.Fatalf("%d %q", a.status, a.body)
			}
			if tt.code == "" {
				return
			}
			p := problemOf(t, a)
			if p.Code != tt.code || p.Status != tt.status || p.Title != http.StatusText(tt.status) || p.Type != "about:blank" {
				t.Errorf("problem %+v", p)
			}
			if (a.status == 401) != (a.header.Get("WWW-Authenticate") != "") {
				t.Errorf("WWW-Authenticate: %q", a.header.Get("WWW-Authenticate"))
			}
			if tt.name == "locked" && a.header.Get("Retry-After") != "2" {
				t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
			}
		})
	}
}

type problem struct {
	Type, Title, Detail, Code string
	Status                    int
	Fields                    map[string]string
}

func problemOf(t *testing.T, a answer) problem {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%q: %v", a.body, err)
	}
	return p
}

// compact takes out the white space that proto JSON varies from build to build.
func compact(t *testing.T, body string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(body)); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return out.String()
}

// Bound to more than loopback, the names of the daemon are not known here.
func TestHostIsFreeBeyondLoopback(t *testing.T) {
	h := start(t, func(d *rest.Deps) { d.Loopback = false })
	if a := h.ask(t, "GET", "/v1/nodes", "", as(owner), "Host: anything.example"); a.status != 200 {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func TestRESTCaller(t *testing.T) {
	h := start(t, nil)
	if a := h.ask(t, "GET", "/v1/nodes", "", as(owner), "X-Forwarded-For: 203.0.113.1", "Grpc-Metadata-X-Hanzo-Client: me"); a.status != 200 {
		t.Fatalf("%d %q", a.status, a.body)
	}
	c := h.domain.caller
	if c.Door != identity.DoorREST || c.Local || c.RemoteIP != "127.0.0.1" || c.ClientID != "" || c.Principal != "shared-secret" {
		t.Errorf("caller %+v", c)
	}
}

// REST passes the interceptors once per call, and the gate refuses as it does over gRPC.
func TestInterceptorsAndScopes(t *testing.T) {
	h := start(t, nil)
	for i, tt := range []struct {
		method, path, body, token string
		status                    int
		scope                     string
	}{
		{"GET", "/v1/health", "", reader, 200, ""},
		{"GET", "/v1/health", "", node, 200, ""},
		{"GET", "/v1/nodes", "", reader, 200, ""},
		{"GET", "/v1/nodes", "", node, 403, ""},
		{"POST", "/v1/nodes/n:invoke", `{"command":"c"}`, reader, 403, "operator.write"},
		{"GET", "/v1/policy", "", reader, 403, "operator.admin"},
		{"GET", "/v1/approvals/x", "", reader, 403, "operator.approvals"},
		{"GET", "/v1/approvals:watch", "", reader, 403, "operator.approvals"},
		{"POST", "/v1/nodes/n/results", `{}`, owner, 403, ""},
	} {
		a := h.ask(t, tt.method, tt.path, tt.body, as(tt.token))
		if a.status != tt.status {
			t.Errorf("%s %s as %s: %d %q", tt.method, tt.path, tt.token, a.status, a.body)
		}
		if a.status == 403 {
			if p := problemOf(t, a); p.Fields["scope"] != tt.scope || !strings.HasPrefix(p.Code, "gate.") {
				t.Errorf("%s: problem %+v", tt.path, p)
			}
		}
		if n := h.door.passes.Load(); n != int64(i+1) {
			t.Errorf("%s: %d passes after %d calls", tt.path, n, i+1)
		}
	}
}

// The secret of the daemon has no route, whoever asks.
func TestNoRouteToTheSharedSecret(t *testing.T) {
	h := start(t, nil)
	for _, path := range []string{"/v1/secret", "/v1/sharedSecret", "/hanzo.system.v1.SystemService/GetSharedSecret"} {
		if a := h.ask(t, "GET", path, "", as(owner)); a.status != 404 {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
}

func TestErrorStatuses(t *testing.T) {
	h := start(t, nil)
	for _, tt := range []struct {
		err    error
		status int
		code   string
		detail string
	}{
		{errs.New(errs.Invalid, "bad"), 400, "invalid", "bad"},
		{nodes.ErrUnknown, 404, "nodes.unknown", nodes.ErrUnknown.Text},
		{approvals.ErrTaken, 409, "approvals.taken", approvals.ErrTaken.Text},
		{nodes.ErrKeyReused, 409, "nodes.key_reused", nodes.ErrKeyReused.Text},
		{errs.New(errs.Unauthenticated, "who"), 401, "unauthenticated", "who"},
		{nodes.ErrNotAllowed, 403, "nodes.not_allowed", nodes.ErrNotAllowed.Text},
		{nodes.ErrTooManyInvokes, 429, "nodes.too_many_invokes", nodes.ErrTooManyInvokes.Text},
		{nodes.ErrNotConnected, 503, "nodes.not_connected", nodes.ErrNotConnected.Text},
		{nodes.ErrTimeout, 504, "nodes.timeout", nodes.ErrTimeout.Text},
		{errs.New(errs.Unknown, "write"), 500, "outcome_unknown", "write; the outcome is unknown: look at the current state before you try again"},
		{errors.New("s3cret"), 500, "internal", "internal error; the log of the daemon says more"},
	} {
		h.domain.err = tt.err
		for _, path := range []string{"/v1/nodes", "/v1/nodes:watch"} { // a stream that fails before it begins, too
			a := h.ask(t, "GET", path, "", as(owner))
			if p := problemOf(t, a); a.status != tt.status || p.Status != tt.status || p.Code != tt.code || p.Detail != tt.detail {
				t.Errorf("%s, %v: %d %+v", path, tt.err, a.status, p)
			}
		}
	}
	h.domain.err = nodes.ErrNodeFailed.With("nodeCode", "E", "nodeMessage", "no camera")
	if p := problemOf(t, h.ask(t, "GET", "/v1/nodes", "", as(owner))); p.Fields["nodeCode"] != "E" || p.Fields["nodeMessage"] != "no camera" {
		t.Errorf("problem %+v", p)
	}
	h.domain.panics = true
	if p := problemOf(t, h.ask(t, "GET", "/v1/nodes", "", as(owner))); p.Status != 500 || strings.Contains(p.Detail, "s3cret") {
		t.Errorf("problem %+v", p)
	}
}

// Single tunnels, which name their tenants' machines, are in the metrics of callers of none only.
func TestMetricsOfTenants(t *testing.T) {
	h := start(t, func(d *rest.Deps) {
		d.DetailedMetrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a_tunnel{} 1\n") })
	})
	for token, want := range map[string]string{reader: "a_tunnel{} 1\n", tenant: "a_metric 1\n"} {
		if a := h.ask(t, "GET", "/metrics", "", as(token)); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %q", token, a.status, a.body)
		}
	}
}

func TestPanicInADoorHandler(t *testing.T) {
	h := start(t, func(d *rest.Deps) {
		d.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("s3cret") })
	})
	if p := problemOf(t, h.ask(t, "GET", "/metrics", "", as(owner))); p.Status != 500 || p.Code != "internal" {
		t.Errorf("problem %+v", p)
	}
}

func TestBodies(t *testing.T) {
	h := start(t, nil)
	const path = "/v1/nodes/n1:invoke"
	for _, tt := range []struct {
		name, body string
		status     int
		params     string
	}{
		{"params", `{"command":"c","params":{"a":[1,null]},"timeout":"1.5s"}`, 200, `{"a":[1,null]}`},
		{"null params", `{"command":"c","params":null}`, 200, `null`},
		{"no params", `{"command":"c"}`, 200, ``},
		{"proto names", `{"idempotency_key":"k"}`, 200, ``},
		{"no body", ``, 200, ``},
		{"white space", "  \n", 200, ``},
		{"unknown field", `{"commnad":"c"}`, 400, ``},
		{"wrong type", `{"command":5}`, 400, ``},
		{"cut", `{"command":`, 400, ``},
		{"two values", `{"command":"a"}{"command":"b"}`, 400, ``},
		{"an array", `[]`, 400, ``},
	} {
		h.domain.invoke = nodes.InvokeIn{}
		a := h.ask(t, "POST", path, tt.body, as(owner), "Content-Type: application/json")
		if a.status != tt.status || string(h.domain.invoke.Params) != tt.params {
			t.Errorf("%s: %d %q, params %q", tt.name, a.status, a.body, h.domain.invoke.Params)
		}
		if a.status == 200 && h.domain.invoke.NodeID != "n1" {
			t.Errorf("%s: node %q", tt.name, h.domain.invoke.NodeID)
		}
		if a.status == 400 {
			problemOf(t, a)
		}
	}
	// Nobody without a token has a body read.
	r := h.request(t, "POST", path, strings.Repeat("x", 1<<20))
	resp, err := h.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("status %d", resp.StatusCode)
	}
	a := h.ask(t, "POST", path, `"`+strings.Repeat("x", rest.MaxBody)+`"`, as(owner))
	if p := problemOf(t, a); a.status != 413 || p.Code != "rest.body_too_large" {
		t.Errorf("%d %+v", a.status, p)
	}
}

// Plain fields are always there.
func TestStableKeys(t *testing.T) {
	h := start(t, nil)
	var got map[string]any
	a := h.ask(t, "GET", "/v1/health", "", as(reader))
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	if got["at"] != "1970-01-01T00:00:01Z" || got["took"] != "0.001s" || got["defaultAgentId"] != "" {
		t.Errorf("got %v", got)
	}
	agent := got["agents"].([]any)[0].(map[string]any)
	if agent["sessionCount"] != 0.0 || agent["isDefault"] != false || agent["heartbeat"].(map[string]any)["enabled"] != false {
		t.Errorf("agent %v", agent)
	}
	if a.header.Get("Content-Type") != "application/json; charset=utf-8" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", a.header)
	}
	if a := h.ask(t, "GET", "/v1/nodes", "", as(reader)); compact(t, a.body) != `{"nodes":[]}` {
		t.Errorf("no nodes: %s", a.body)
	}
}

// Paths that look alike reach their own operation.
func TestVerbs(t *testing.T) {
	h := start(t, nil)
	for _, tt := range []struct{ method, path, body, want string }{
		{"GET", "/v1/approvals/x", "", `"got x"`},
		{"GET", "/v1/approvals/x:wait", "", `"waited for x"`},
		{"POST", "/v1/approvals/x:resolve", `{"decision":"DECISION_DENY"}`, `"DECISION_DENY"`},
		{"GET", "/v1/approvals/a%3Ab", "", `"got a:b"`},
		{"GET", "/v1/nodes/a%20b", "", `"a b"`},
	} {
		if a := h.ask(t, tt.method, tt.path, tt.body, as(owner)); a.status != 200 || !strings.Contains(a.body, tt.want) {
			t.Errorf("%s: %d %s", tt.path, a.status, a.body)
		}
	}
}

func TestStreams(t *testing.T) {
	h := start(t, nil)
	for _, tt := range []struct{ accept, contentType, data, end string }{
		{"*/*", "application/x-ndjson", "", "\n"},
		{"text/html, text/event-stream;q=0.9", "text/event-stream", "data: ", "\n\n"},
	} {
		t.Run(tt.contentType, func(t *testing.T) {
			resp, err := h.client.Do(h.request(t, "GET", "/v1/events?names=tick", "", as(reader), "Accept: "+tt.accept))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			// The header is here although nothing has happened yet, so nothing that happens now is missed.
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != tt.contentType {
				t.Fatalf("%d %v", resp.StatusCode, resp.Header)
			}
			h.domain.bus.Publish("tick", []byte(`{"ts":1}`))
			part := make([]byte, 4096)
			n, err := resp.Body.Read(part)
			if err != nil {
				t.Fatal(err)
			}
			text, ok := strings.CutPrefix(string(part[:n]), tt.data)
			var got map[string]any
			if err := json.Unmarshal([]byte(text), &got); err != nil || !ok {
				t.Fatalf("%q: %v", part[:n], err)
			}
			if got["seq"] != "1" || got["name"] != "tick" || got["payload"].(map[string]any)["ts"] != 1.0 {
				t.Errorf("got %v", got)
			}
			h.door.EndStreams(func(identity.Caller) bool { return true })
			rest, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			all := string(part[:n]) + string(rest)
			if !strings.HasSuffix(all, tt.end) || !strings.Contains(all, `{"error":{"type":"about:blank","title":"Unauthorized","status":401,"detail":"the credentials of this stream were revoked","code":"rpc.revoked"}}`) {
				t.Errorf("the stream ended with %q", rest)
			}
			if (tt.data != "") != strings.Contains(all, "event: error\ndata: ") {
				t.Errorf("the stream ended with %q", rest)
			}
		})
	}
}

// A unary answer is plain JSON even for a client that would take events.
func TestUnaryWithEventAccept(t *testing.T) {
	h := start(t, nil)
	a := h.ask(t, "GET", "/v1/nodes", "", as(reader), "Accept: text/event-stream")
	if compact(t, a.body) != `{"nodes":[]}` || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%q %v", a.body, a.header)
	}
}

func TestWatchOverREST(t *testing.T) {
	h := start(t, nil)
	resp, err := h.client.Do(h.request(t, "GET", "/v1/nodes:watch", "", as(reader)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"CHANGE_PRESENT", "CHANGE_RENAMED"} {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		var got struct{ Change string }
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil || got.Change != want {
			t.Errorf("got %q, %v", lines.Text(), err)
		}
		h.domain.bus.Publish("node.renamed", nodes.Changed{})
	}
	h.door.Stop()
	var last string
	for lines.Scan() {
		last = lines.Text()
	}
	if !strings.Contains(last, `"code":"rpc.stopping"`) || !strings.Contains(last, `"status":503`) {
		t.Errorf("ended with %q, %v", last, lines.Err())
	}
}

// Behind a trusted proxy the Host header is the proxy's affair, unless the proxy's word lets in.
func TestHostBehindAProxy(t *testing.T) {
	for _, names := range []bool{true, false} {
		h := start(t, func(d *rest.Deps) {
			d.ProxyNames = names
			d.Peers = &peer.Rules{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
		})
		for header, want := range map[string]int{"X-Forwarded-For: 203.0.113.7": 200, "X-Other: x": 421} {
			if !names {
				want = 421
			}
			if a := h.ask(t, "GET", "/v1/nodes", "", as(owner), "Host: gw.example", header); a.status != want {
				t.Errorf("names %t, %s: %d", names, header, a.status)
			}
		}
	}
}
