package hoody

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// The documents of the seed, and those of tunnel.md §4.2 with a value for each member.
const (
	seedHealth = `{"status":"ready","service":"hoody-tunnel","built":"2024-10-26T14:30:00Z","started":"2025-11-05T08:15:22Z",
		"memory":{"rss":23456789,"heapTotal":15000000,"heapUsed":12000000},"fds":45,"pid":1234,"ip":"192.168.1.100","userAgent":"hoody-tunnel/1.2.3"}`
	kitHealth = `{"status":"ok","service":"hoody-tunnel","built":"2024-10-26T14:30:00Z","started":"2025-11-05T08:15:22Z",
		"memory":{"heap":12000000,"rss":23456789},"fds":45,"pid":1234,"ip":"192.168.1.100","userAgent":"hoody-tunnel/1.2.3"}`
	seedTunnels = `[{"session_id":"s","container_id":"c","protocol_version":"hoody-tunnel.v2","created_at":"2025-11-05T09:00:00Z",
		"bindings":[{"bind_id":"bind_expose_001","kind":"EXPOSE","port":5432,"mode":"tcp"}],"stream_count":5,"orphan_count":0,"fd_budget":{"used":15,"limit":100}}]`
	kitTunnels = `{"fdPermitsAvailable":1022,"orphanedSessions":0,"sessions":[{"sessionId":"s","peerAddr":"1.2.3.4:5","protocol":"hoody-tunnel.v2",
		"connectionsGranted":1,"activeStreams":0,"exposeBindings":[{"bindId":1,"containerPort":8080}],"pullBindings":[{"bindId":2,"containerPort":22}]}],"totalBindings":2,"totalStreams":0}`
	seedSessions = `[{"session_id":"s","container_id":"c","protocol_version":"hoody-tunnel.v2","created_at":"2025-11-05T09:00:00Z",
		"bindings":[{"bind_id":"bind_expose_001","kind":"EXPOSE","port":5432,"mode":"tcp"}],"stream_count":3,"max_streams":50}]`
	kitSessions = `{"sessions":[{"sessionId":"s","peerAddr":"1.2.3.4:5","isV2":true,"connectionsGranted":1,"activeStreams":0,"maxStreams":50,
		"bindings":[{"bindId":1,"kind":"http","mode":"expose","containerPort":8080}]}],"total":1}`
	seedBindings = `[{"session_id":"s","bind_id":"bind_expose_001","kind":"EXPOSE","port":8080,"mode":"tcp"}]`
	kitBindings  = `{"bindings":[{"sessionId":"s","bindId":1,"kind":"http","mode":"expose","port":8080}],"total":1}`
)

// like says where got is not of the form of want: it has all its members, in its order, of the same kinds.
func like(want, got string) string {
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return err.Error()
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		return err.Error()
	}
	if s := sameKind("$", w, g); s != "" {
		return s
	}
	return inOrder(want, got)
}

func sameKind(at string, want, got any) string {
	if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
		return fmt.Sprintf("%s is %T, want %T", at, got, want)
	}
	switch want := want.(type) {
	case map[string]any:
		for k, v := range want {
			g, ok := got.(map[string]any)[k]
			if !ok {
				return at + "." + k + " is missing"
			}
			if s := sameKind(at+"."+k, v, g); s != "" {
				return s
			}
		}
	case []any:
		for i, g := range got.([]any) {
			if s := sameKind(fmt.Sprintf("%s[%d]", at, i), want[0], g); s != "" {
				return s
			}
		}
	}
	return ""
}

// inOrder compares the order of the names of the first object, where those of want stand first.
func inOrder(want, got string) string {
	names := func(text string) (out []string) {
		dec := json.NewDecoder(strings.NewReader(text))
		depth, key := 0, true
		for {
			tok, err := dec.Token()
			if err != nil {
				return out
			}
			switch v := tok.(type) {
			case json.Delim:
				switch v {
				case '{':
					depth++
				case '}':
					if depth--; depth == 0 {
						return out
					}
				}
				key = true
			case string:
				if key && depth == 1 && dec.More() {
					out = append(out, v)
				}
				key = !key
			default:
				key = true
			}
		}
	}
	w, g := names(want), names(got)
	if len(g) < len(w) || strings.Join(w, ",") != strings.Join(g[:len(w)], ",") {
		return fmt.Sprintf("members %v, want %v first", g, w)
	}
	return ""
}

func sample() tunnels.ListOut {
	at := time.Date(2025, 11, 5, 9, 0, 0, 123456789, time.FixedZone("x", 3600))
	return tunnels.ListOut{
		Permits: tunnels.Permits{Used: 3, Limit: 100},
		Tunnels: []tunnels.Tunnel{
			{
				ID: "S-1", Version: "hoody-tunnel.v2", PeerAddr: "1.2.3.4:5", CreatedAt: at, Granted: 4, Streams: 2, MaxStreams: 50, Permits: 3, PermitLimit: 100,
				Bindings: []tunnels.Binding{
					{ID: 1, Kind: "http", Mode: "expose", Host: "127.0.0.1", Port: 8080}, {ID: 12, Kind: "tcp", Mode: "pull", Host: "::1", Port: 22},
					{ID: 1234, Kind: "tcp", Mode: "dial", Host: "db", Port: 5432},
				},
			},
			{ID: "S-2", NodeID: "box", Version: "hoody-tunnel.v1", CreatedAt: at, Parked: true, Granted: 1},
			{ID: "S-3", Version: "hoody-tunnel.v1", CreatedAt: at, Closing: true},
		},
	}
}

// fixed are tunnels that stay as they are: what the endpoints make of them is what is tested here. The daemon with
// real ones is in tests/door.
type fixed struct{ killed []tunnels.KillIn }

func (*fixed) List(_ context.Context, c identity.Caller, _ tunnels.ListIn) (tunnels.ListOut, error) {
	if c.Tenant != "" {
		return tunnels.ListOut{}, nil
	}
	return sample(), nil
}

func (f *fixed) Kill(_ context.Context, _ identity.Caller, in tunnels.KillIn) (tunnels.KillOut, error) {
	if in.ID != "S-1" {
		return tunnels.KillOut{}, tunnels.ErrUnknown
	}
	f.killed = append(f.killed, in)
	return tunnels.KillOut{ID: in.ID}, nil
}

type desk struct {
	t      *testing.T
	e      *Endpoints
	f      *fixed
	caller identity.Caller
	err    error
	asked  int
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	catalogue, err := ops.Load()
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, f: &fixed{}, caller: identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}}
	d.e = NewEndpoints(EndpointsConfig{
		Tunnels: d.f, Catalogue: catalogue, Gate: gate.New(), Container: "gw",
		Process: func() tunnel.Process {
			return tunnel.Process{Ready: true, Version: "1.2.3", Built: time.Unix(1, 0), Started: time.Unix(2, 0), RSS: 5, HeapTotal: 4, HeapUsed: 3, Descriptors: 2, PID: 1, Address: "127.0.0.1"}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "figures") }),
	})
	return d
}

func (d *desk) ask(method, target string, header ...string) (*http.Response, string) {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	if !ServesEndpoint(r.URL.EscapedPath()) {
		d.t.Fatalf("%s is no endpoint", target)
	}
	w := httptest.NewRecorder()
	d.e.Serve(w, r, func(*http.Request) (identity.Caller, error) {
		d.asked++
		return d.caller, d.err
	})
	res := w.Result()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(body)
}

func TestShapes(t *testing.T) {
	d := newDesk(t)
	for _, c := range []struct{ path, seed, kit string }{
		{"health", seedHealth, kitHealth}, {"tunnels", seedTunnels, kitTunnels}, {"sessions", seedSessions, kitSessions}, {"bindings", seedBindings, kitBindings},
	} {
		for _, ask := range [][]string{nil, {"?shape=seed", clientID, "x"}, {"", "Accept", "application/json"}} {
			if problem := d.form(c.path, c.seed, ask); problem != "" {
				t.Errorf("%s, seed, %q: %s", c.path, ask, problem)
			}
		}
		for _, ask := range [][]string{{"?shape=kit"}, {"", clientID, "x"}, {"", "x-hoody-client-name", "x"}, {"", "Accept", "text/html, " + kitType + ";q=0.9"}} {
			if problem := d.form(c.path, c.kit, ask); problem != "" {
				t.Errorf("%s, kit, %q: %s", c.path, ask, problem)
			}
		}
	}
}

func (d *desk) form(path, want string, ask []string) string {
	target := base + path
	if len(ask) > 0 {
		target, ask = target+ask[0], ask[1:]
	}
	res, got := d.ask(http.MethodGet, target, ask...)
	if res.StatusCode != http.StatusOK || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		return fmt.Sprint(res.Status, res.Header, got)
	}
	return like(want, got)
}

// The texts in full: the words of each shape, the members of both, and what is left out.
func TestTexts(t *testing.T) {
	d := newDesk(t)
	for target, want := range map[string]string{
		"health": `{"status":"ready","service":"hoody-tunnel","built":"1970-01-01T00:00:01Z","started":"1970-01-01T00:00:02Z",` +
			`"memory":{"rss":5,"heapTotal":4,"heapUsed":3,"heap":3},"fds":2,"pid":1,"ip":"127.0.0.1","userAgent":"hoody-tunnel/1.2.3"}`,
		"health?shape=kit": `{"status":"ok","service":"hoody-tunnel","built":"1970-01-01T00:00:01Z","started":"1970-01-01T00:00:02Z",` +
			`"memory":{"heap":3,"rss":5,"heapTotal":4,"heapUsed":3},"fds":2,"pid":1,"ip":"127.0.0.1","userAgent":"hoody-tunnel/1.2.3"}`,
		"bindings": `[{"session_id":"S-1","bind_id":"bind_expose_001","kind":"EXPOSE","port":8080,"mode":"tcp","bindId":1,"containerPort":8080,"sessionId":"S-1"},` +
			`{"session_id":"S-1","bind_id":"bind_pull_012","kind":"PULL","port":22,"mode":"tcp","bindId":12,"containerPort":22,"sessionId":"S-1","bindAddr":"::1"},` +
			`{"session_id":"S-1","bind_id":"bind_dial_1234","kind":"PULL","port":5432,"mode":"tcp","bindId":1234,"containerPort":5432,"direction":"outbound","sessionId":"S-1"}]`,
		"bindings?shape=kit": `{"bindings":[{"sessionId":"S-1","bindId":1,"kind":"http","mode":"expose","port":8080,"containerPort":8080,"bind_id":"bind_expose_001","session_id":"S-1"},` +
			`{"sessionId":"S-1","bindId":12,"kind":"tcp","mode":"pull","port":22,"bindAddr":"::1","containerPort":22,"bind_id":"bind_pull_012","session_id":"S-1"},` +
			`{"sessionId":"S-1","bindId":1234,"kind":"tcp","mode":"dial","port":5432,"containerPort":5432,"bind_id":"bind_dial_1234","direction":"outbound","session_id":"S-1"}],"total":3}`,
	} {
		if _, got := d.ask(http.MethodGet, base+target); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", target, got, want)
		}
	}
	_, text := d.ask(http.MethodGet, tunnelsPath)
	for _, part := range []string{
		`"session_id":"S-1","container_id":"gw","protocol_version":"hoody-tunnel.v2","created_at":"2025-11-05T08:00:00Z"`,
		`"stream_count":2,"orphan_count":0,"fd_budget":{"used":3,"limit":100},"sessionId":"S-1"`,
		`"session_id":"S-2","container_id":"box"`, `"bindings":[],"stream_count":0,"orphan_count":1`,
		`"exposeBindings":[{"bindId":1,"containerPort":8080,`, `"pullBindings":[{"bindId":12,"containerPort":22,`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
	if strings.Contains(text, "S-3") {
		t.Error("a tunnel that was killed is listed")
	}
	if _, text = d.ask(http.MethodGet, tunnelsPath+"?shape=kit"); !strings.HasPrefix(text, `{"fdPermitsAvailable":97,"orphanedSessions":1,"sessions":[`) ||
		!strings.HasSuffix(text, `],"totalBindings":3,"totalStreams":2}`) {
		t.Error(text)
	}
	d.caller.Tenant = "acme"
	for target, want := range map[string]string{
		"tunnels": "[]", "sessions": "[]", "bindings": "[]", "bindings?shape=kit": `{"bindings":[],"total":0}`, "sessions?shape=kit": `{"sessions":[],"total":0}`,
	} {
		if _, got := d.ask(http.MethodGet, base+target); got != want {
			t.Errorf("%s of nobody: %s", target, got)
		}
	}
}

func TestHealthWithoutFigures(t *testing.T) {
	d := newDesk(t)
	d.e.cfg.Process = func() tunnel.Process { return tunnel.Process{} }
	d.err = identity.ErrBearerRequired
	for shape, want := range map[string]string{
		"seed": `{"status":"closing","service":"hoody-tunnel","built":null,"started":null,"memory":{"rss":null,"heapTotal":0,"heapUsed":0,"heap":0},"fds":null,"pid":0,"ip":"","userAgent":"hoody-tunnel/"}`,
		"kit":  `{"status":"closing","service":"hoody-tunnel","built":null,"started":null,"memory":null,"fds":null,"pid":0,"ip":"","userAgent":"hoody-tunnel/"}`,
	} {
		if res, got := d.ask(http.MethodGet, healthPath+"?shape="+shape); got != want || res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s %s", res.Status, got)
		}
	}
	if d.asked > 0 {
		t.Error("health asks who it is")
	}
}

// Statuses of tunnel.md §4.12.
func TestStatuses(t *testing.T) {
	d := newDesk(t)
	for _, c := range []struct {
		method, target string
		status         int
		allow          string
	}{
		{"HEAD", tunnelsPath, 200, ""}, {"POST", tunnelsPath, 405, "GET, HEAD"}, {"DELETE", sessionsPath, 405, "GET, HEAD"}, {"PUT", healthPath, 405, "GET, HEAD"},
		{"POST", metricsPath, 405, "GET, HEAD"}, {"GET", sessionPrefix + "S-1", 405, "DELETE"}, {"OPTIONS", sessionPrefix + "S-1", 405, "DELETE"},
		{"GET", tunnelsPath + "?shape=x", 400, ""}, {"GET", healthPath + "?shape=kit&shape=seed", 400, ""},
		{"DELETE", sessionPrefix + "S-1", 202, ""}, {"DELETE", sessionPrefix + "S-1?session_id=S-1", 202, ""}, {"DELETE", sessionPrefix + "S%2D1?session_id=S%2D1", 202, ""},
		{"DELETE", sessionPrefix + "S-1?session_id=S-2", 400, ""}, {"DELETE", sessionPrefix + "S-1?session_id=", 400, ""},
		{"DELETE", sessionPrefix + "S-1?session_id=S-1&session_id=S-2", 400, ""}, {"DELETE", sessionPrefix + "nope", 404, ""},
		{"DELETE", sessionPrefix + "nope?session_id=other", 400, ""}, {"DELETE", sessionPrefix + "nope?grace_ms=9999", 400, ""},
		{"DELETE", sessionPrefix + "S-1?grace_ms=0", 202, ""}, {"DELETE", sessionPrefix + "S-1?grace_ms=5000", 202, ""},
		{"DELETE", sessionPrefix + "S-1?grace_ms=5001", 400, ""}, {"DELETE", sessionPrefix + "S-1?grace_ms=-1", 400, ""},
		{"DELETE", sessionPrefix + "S-1?grace_ms=1.5", 400, ""}, {"DELETE", sessionPrefix + "S-1?grace_ms=1e3", 400, ""},
		{"DELETE", sessionPrefix + "S-1?grace_ms=", 400, ""}, {"DELETE", sessionPrefix + "S-1?grace_ms=%2B5", 400, ""},
		{"DELETE", sessionPrefix + "S-1?grace_ms=1&grace_ms=1", 400, ""}, {"DELETE", sessionPrefix + "S-1?grace_ms=99999999999999999999", 400, ""},
	} {
		res, body := d.ask(c.method, c.target)
		if res.StatusCode != c.status || res.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %s %q %s", c.method, c.target, res.Status, res.Header.Get("Allow"), body)
		}
		var f struct{ Error string }
		if err := json.Unmarshal([]byte(body), &f); c.status >= 400 && (err != nil || f.Error == "") {
			t.Errorf("%s %s says %q", c.method, c.target, body)
		}
		if c.status == 202 && body != `{"session_id":"S-1","sessionId":"S-1","status":"closing"}` {
			t.Errorf("%s: %s", c.target, body)
		}
	}
	graces := ""
	for _, k := range d.f.killed {
		if k.Grace == nil {
			graces += " -"
		} else {
			graces += " " + k.Grace.String()
		}
	}
	if graces != " - - - 0s 5s" {
		t.Errorf("graces%s", graces)
	}
	for path, want := range map[string]bool{
		healthPath: true, sessionPrefix: false, sessionPrefix + "a/b": false, base: false, base + "open": false, base + "x/command": false, base + "status/x": false,
		tunnelsPath + "/": false, Path: false, sessionPrefix + "%zz": false, base + "Health": false, sessionPrefix + "a%2Fb": true,
	} {
		if ServesEndpoint(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}

// Who may ask: readers for lists and metrics, writers to kill, nobody else (tunnel.md §5.4).
func TestWho(t *testing.T) {
	d := newDesk(t)
	operator := func(s ...identity.Scope) identity.Caller {
		return identity.Caller{Role: identity.RoleOperator, Scopes: s}
	}
	for name, c := range map[string]struct {
		caller              identity.Caller
		err                 error
		lists, kills, shows int
	}{
		"reader":   {operator(identity.ScopeRead), nil, 200, 403, 200},
		"writer":   {operator(identity.ScopeWrite), nil, 200, 202, 200},
		"approver": {operator(identity.ScopeApprovals), nil, 403, 403, 403},
		"node":     {identity.Caller{Role: identity.RoleNode, NodeID: "n"}, nil, 403, 403, 403},
		"nobody":   {identity.Caller{}, nil, 403, 403, 403},
		"stranger": {identity.Caller{}, identity.ErrBearerRequired, 401, 401, 401},
		"fault":    {identity.Caller{}, fmt.Errorf("hunter2"), 500, 500, 500},
		"too many": {identity.Caller{}, errs.New(errs.Exhausted, "later").With("retryAfterMs", int64(1500)), 429, 429, 429},
	} {
		d.caller, d.err = c.caller, c.err
		for target, want := range map[string]int{"GET " + tunnelsPath: c.lists, "GET " + sessionsPath: c.lists, "GET " + bindingsPath: c.lists, "GET " + metricsPath: c.shows, "DELETE " + sessionPrefix + "S-1": c.kills} {
			method, path, _ := strings.Cut(target, " ")
			res, body := d.ask(method, path)
			if res.StatusCode != want || strings.Contains(body, "hunter2") || (want == 401) != (res.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("%s %s: %s %s", name, target, res.Status, body)
			}
			if want == 429 && res.Header.Get("Retry-After") != "2" {
				t.Errorf("%v", res.Header)
			}
		}
	}
	d.e.cfg.MetricsPublic = func() bool { return true }
	d.err = identity.ErrBearerRequired
	if res, body := d.ask(http.MethodGet, metricsPath); res.StatusCode != 200 || body != "figures" {
		t.Error(res.Status, body)
	}
}

// TestMetricsOfTenants: single tunnels and bindings are those of all tenants, and shown to callers without one alone.
func TestMetricsOfTenants(t *testing.T) {
	d := newDesk(t)
	d.e.cfg.DetailedMetrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "each tunnel") })
	for _, public := range []bool{false, true} {
		d.e.cfg.MetricsPublic = func() bool { return public }
		for tenant, want := range map[string]string{"": "each tunnel", "acme": "figures"} {
			d.caller.Tenant = tenant
			if res, got := d.ask(http.MethodGet, metricsPath, "Authorization", "Bearer x"); got != want || res.StatusCode != http.StatusOK {
				t.Errorf("%q, public %v: %s %s", tenant, public, res.Status, got)
			}
		}
	}
}
