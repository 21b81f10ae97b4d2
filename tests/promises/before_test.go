package promises

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
	"pgregory.net/rapid"

	"crypto/tls"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
)

// operations are all there are, with every name that the legacy protocol has for one.
func operations(t testing.TB) (all []*ops.Operation, legacy []string) {
	t.Helper()
	c, err := ops.Load()
	if err != nil {
		t.Fatal(err)
	}
	legacy = schema.HelloMethods()
	for _, m := range schema.Methods() {
		legacy = append(legacy, m.Name)
	}
	for _, op := range c.All() {
		if op.Method != "" {
			all = append(all, op)
		}
		if op.Legacy != "" {
			legacy = append(legacy, op.Legacy)
		}
	}
	slices.Sort(legacy)
	return all, slices.Compact(legacy)
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// route is the HTTP rule of an operation, "" when it has none.
func route(t testing.TB, op *ops.Operation) (method, path string) {
	t.Helper()
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(op.Method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	rule, _ := proto.GetExtension(d.Options(), annotations.E_Http).(*annotations.HttpRule)
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		method, path = http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		method, path = http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		method, path = http.MethodPut, p.Put
	case *annotations.HttpRule_Delete:
		method, path = http.MethodDelete, p.Delete
	}
	return method, variable.ReplaceAllString(path, "x")
}

// TestR23NothingAnswersBeforeAuth: every operation, by every door, with nothing and with what is worth
// nothing. Only connect is judged, and only probes answer.
func TestR23NothingAnswersBeforeAuth(t *testing.T) {
	t.Parallel() // it waits for the disk most of the time
	a := attack(t, map[string]any{"hooks": map[string]any{"enabled": true, "token": "hook-token-4f1e9b"}})
	all, legacy := operations(t)
	if len(all) < 40 || len(legacy) < 120 {
		t.Fatalf("%d operations, %d legacy names", len(all), len(legacy))
	}
	t.Run("legacy", func(t *testing.T) {
		for _, m := range append(legacy, "nope", "Connect", " connect", "connect\x00", "toString", "rpc.discover") {
			if m == "connect" {
				continue
			}
			for _, params := range []string{`{}`, `{"auth":{"token":"` + a.Token + `"},"token":"` + a.Token + `"}`} {
				ws, _, _ := a.socket("/", nil)
				got, end := a.say(ws, fmt.Appendf(nil, `{"type":"req","id":"1","method":%s,"params":%s}`, mustJSON(t, m), params))
				if got == nil || got.OK || got.Payload != nil {
					t.Fatalf("%q: %+v, %d", m, got, end)
				}
				if got, end := a.say(ws, []byte(`{"type":"req","id":"2","method":"health","params":{}}`)); got != nil || end != websocket.StatusPolicyViolation {
					t.Errorf("%q: and then %+v, %d", m, got, end)
				}
			}
		}
	})
	t.Run("rest", func(t *testing.T) {
		for _, op := range all {
			method, path := route(t, op)
			if method == "" {
				continue
			}
			for name, h := range map[string]http.Header{
				"nothing":         {},
				"a user's name":   {"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+a.Token))}},
				"an empty token":  {"Authorization": {"Bearer "}},
				"two headers":     {"Authorization": {"Bearer " + a.Token, "Bearer " + a.Token}},
				"two in one":      {"Authorization": {"Bearer x, Bearer " + a.Token}},
				"another header":  {"X-Authorization": {"Bearer " + a.Token}, "X-Openclaw-Token": {a.Token}, "Proxy-Authorization": {"Bearer " + a.Token}, "Grpc-Metadata-Authorization": {"Bearer " + a.Token}},
				"a cookie":        {"Cookie": {"token=" + a.Token + "; Authorization=Bearer " + a.Token}},
				"a hook's":        {"Authorization": {"Bearer hook-token-4f1e9b"}},
				"another method":  {"X-Http-Method-Override": {"GET"}, "X-Method-Override": {"GET"}},
				"an invite's":     {"Authorization": {"Bearer hzi_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}},
				"a local address": {"X-Forwarded-For": {"127.0.0.1"}, "X-Real-Ip": {"127.0.0.1"}, "Forwarded": {"for=127.0.0.1"}, "Tailscale-User-Login": {"me@example.com"}, "X-Forwarded-User": {"admin"}},
			} {
				code, text := a.ask(method, path, h, "")
				if code != http.StatusUnauthorized && code != http.StatusTooManyRequests {
					t.Errorf("%s %s with %s: %d %.200s", method, path, name, code, text)
				}
			}
			for _, spot := range []string{"token=", "access_token=", "TOKEN=", "%74oken=", "auth=", "authorization=Bearer%20", "api_key=", "password=", "deviceToken=", "x=1&token="} {
				if code, text := a.ask(method, path+"?"+spot+a.Token, nil, ""); code != http.StatusUnauthorized && code != http.StatusBadRequest || strings.Contains(text, a.Token) {
					t.Errorf("%s %s with ?%s: %d %.200s", method, path, spot, code, text)
				}
			}
		}
		open := map[string]bool{"/health": true, "/healthz": true, "/ready": true, "/readyz": true, "/openapi.json": true}
		for _, path := range []string{
			"/health", "/healthz", "/ready", "/readyz", "/openapi.json", "/metrics", "/tools/invoke", "/v1/chat/completions", "/v1/responses", "/hooks/wake",
			"/hooks/agent", "/", "/ui", "/api/channels/x", "/plugins/x", "/vnc", "/vnc-viewer", "/vnc-tunnel", "/slack/events", "/__openclaw__/canvas/", "/__openclaw__/a2ui/", "/__openclaw__/ws",
			"/debug/pprof/", "/debug/vars", "/admin", "/v1/admin/agents", "/auth/login", "/v1/tunnel",
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, "CONNECT", "TRACE"} {
				if method == "CONNECT" && path == "/" {
					continue
				}
				code, text := a.ask(method, path, http.Header{"X-Forwarded-For": {"203.0.113.9"}}, "")
				if code < 400 && (!open[path] || method != http.MethodGet && method != http.MethodHead) {
					t.Errorf("%s %s: %d %.200s", method, path, code, text)
				}
			}
		}
	})
	t.Run("grpc", func(t *testing.T) {
		methods := []string{
			"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
			"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/no.such.Service/Method", "/",
		}
		for _, op := range all {
			methods = append(methods, op.Method)
		}
		for _, m := range methods {
			// A connection of its own: one bears eight refusals.
			conn, err := grpc.NewClient("passthrough:///"+a.GRPCAddress(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
			if err != nil {
				t.Fatal(err)
			}
			for name, md := range map[string]metadata.MD{
				"nothing":        {},
				"basic":          {"authorization": {"Basic " + a.Token}},
				"two tokens":     {"authorization": {"Bearer " + a.Token, "Bearer " + a.Token}},
				"other keys":     {"x-authorization": {"Bearer " + a.Token}, "token": {a.Token}, "cookie": {"token=" + a.Token}},
				"a role":         {"x-hanzo-role": {"node"}, "x-hanzo-client": {"hanzoctl"}, "x-forwarded-for": {"127.0.0.1"}},
				"an empty token": {"authorization": {"Bearer "}},
			} {
				err := conn.Invoke(metadata.NewOutgoingContext(a.ctx(), md), m, &emptypb.Empty{}, &emptypb.Empty{})
				if status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s with %s: %v", m, name, err)
				}
			}
			_ = conn.Close()
		}
	})
}

// TestR23FirstFrames: whatever a stranger's first frame is, no answer that means yes comes.
func TestR23FirstFrames(t *testing.T) {
	a := attack(t, nil)
	_, legacy := operations(t)
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		a.t = outer
		scalar := rapid.SampledFrom([]any{nil, true, 3, 1, 0, -1, "", "x", "operator", "node", "connect", "operator.admin", []any{}, []any{"operator.admin"}, map[string]any{}})
		params := map[string]any{
			"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": []string{"operator.admin"},
			"client": map[string]any{"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
		}
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			key := rapid.SampledFrom([]string{"minProtocol", "maxProtocol", "role", "scopes", "client", "auth", "device", "caps", "commands", "permissions", "token", "password"}).Draw(t, "key")
			params[key] = scalar.Draw(t, "value")
		}
		if rapid.Bool().Draw(t, "with guesses") {
			params["auth"] = map[string]any{"token": scalar.Draw(t, "token"), "password": scalar.Draw(t, "password"), "deviceToken": scalar.Draw(t, "deviceToken")}
		}
		message := map[string]any{
			"type": rapid.SampledFrom([]any{"req", "req", "req", "res", "event", "hello-ok", nil, 1}).Draw(t, "type"),
			"id":   scalar.Draw(t, "id"), "method": rapid.SampledFrom(append([]string{"connect", "connect", "connect"}, legacy...)).Draw(t, "method"), "params": params,
		}
		if rapid.Bool().Draw(t, "as a text") {
			message["id"] = "1"
		}
		text, err := json.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		ws, _, _ := a.socket("/", nil)
		defer func() { _ = ws.CloseNow() }()
		for range 2 {
			if got, _ := a.say(ws, text); got != nil && got.OK {
				t.Fatalf("%s: %+v", text, got)
			}
		}
	})
}

// foreign are origins that are not this daemon's, however they look.
var foreign = []string{
	"https://evil.example", "http://evil.example:18789", "null", "", "file://", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
	"http://localhost@evil.example", "http://evil.example#localhost", "http://evil.example/http://localhost", "http://127.0.0.1:80:80", "http://[::1].evil.example",
	"http://localhost\\@evil.example", "https://evil.example\thttp://localhost", "chrome-extension://abcdef", "http://loсalhost", "http://0x7f000001.evil.example", "localhost", "//localhost",
}

// TestR23ForeignPages (CVE-2026-25253): a page of another origin opens no connection and changes nothing,
// with the right token in its hand, and also when a name of its own leads here.
func TestR23ForeignPages(t *testing.T) {
	a := attack(t, map[string]any{"hooks": map[string]any{"enabled": true, "token": "hook-token-4f1e9b"}})
	all, _ := operations(t)
	hello := func(id, mode string) []byte {
		return mustJSON(t, map[string]any{"type": "req", "id": "1", "method": "connect", "params": map[string]any{
			"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": []string{"operator.admin"},
			"client": map[string]any{"id": id, "version": "1", "platform": "web", "mode": mode}, "auth": map[string]any{"token": a.Token},
		}})
	}
	headers := func(origin string) []http.Header {
		host := strings.TrimPrefix(strings.TrimPrefix(origin, "http://"), "https://")
		out := []http.Header{
			{"Origin": {origin}}, {"Origin": {origin, "http://localhost"}}, {"Origin": {"http://localhost", origin}},
			{"Origin": {origin}, "X-Forwarded-For": {"127.0.0.1"}}, {"Origin": {origin}, "X-Forwarded-Host": {host}, "X-Forwarded-Proto": {"http"}},
		}
		if host != "" && !strings.ContainsAny(host, "/\\@#\t") && isASCII(host) && origin != "null" && !strings.HasPrefix(host, "localhost") && host != "127.0.0.1:80:80" {
			out = append(out, http.Header{"Origin": {origin}, "Host": {host}}) // rebound
		}
		return out
	}
	t.Run("upgrades", func(t *testing.T) {
		for _, path := range []string{"/", "/ws", "/gateway", "/v1/nodes", "/__openclaw__/ws", "/__bot__/ws", "/__openclaw__/cap/x/ws", "/vnc", "/vnc-tunnel?tunnelId=x", "/?token=" + a.Token} {
			for _, origin := range foreign {
				for _, h := range headers(origin) {
					ws, _, code := a.upgrade(path, h)
					if ws == nil {
						if code < 400 {
							t.Errorf("%s for %v: %d", path, h, code)
						}
						continue
					}
					for _, c := range [][2]string{{"cli", "cli"}, {"openclaw-control-ui", "webchat"}} {
						if got, _ := a.say(ws, hello(c[0], c[1])); got != nil && got.OK {
							t.Errorf("%s for %v as %s: let in", path, h, c[0])
						}
						break // the first answer ends the connection
					}
					_ = ws.CloseNow()
				}
			}
		}
	})
	t.Run("requests", func(t *testing.T) {
		type request struct{ method, path, token string }
		requests := []request{{http.MethodPost, "/tools/invoke", a.Token}, {http.MethodPost, "/hooks/wake", "hook-token-4f1e9b"}, {http.MethodPost, "/hooks/agent", "hook-token-4f1e9b"}}
		for _, op := range all {
			if method, path := route(t, op); method != "" && method != http.MethodGet {
				requests = append(requests, request{method, path, a.Token})
			}
		}
		for _, r := range requests {
			pages := []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Sec-Fetch-Site": {"new-word"}}}
			for _, origin := range foreign {
				pages = append(pages, headers(origin)...)
			}
			for _, h := range pages {
				h.Set("Authorization", "Bearer "+r.token)
				h.Set("Content-Type", "text/plain") // what a page may send unasked
				code, text := a.ask(r.method, r.path, h, `{}`)
				if code != http.StatusForbidden && code != http.StatusMisdirectedRequest && code != http.StatusBadRequest || code == http.StatusBadRequest && !strings.Contains(text, "400") {
					t.Errorf("%s %s for %v: %d %.160s", r.method, r.path, h, code, text)
				}
			}
			// And the answer to its question says that it may not.
			if code, _ := a.ask(http.MethodOptions, r.path, http.Header{"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {r.method}}, ""); code < 400 {
				t.Errorf("OPTIONS %s: %d", r.path, code)
			}
		}
	})
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7e }) }

// TestR23NoCredentialInURLs: what a URL holds is no credential at the legacy door either, and is not kept.
func TestR23NoCredentialInURLs(t *testing.T) {
	a := attack(t, nil)
	for _, query := range []string{"token=", "auth=", "password=", "deviceToken=", "access_token=", "gatewayUrl=ws://evil.example&token="} {
		for _, path := range []string{"/", "/ws", "/" + a.Token} {
			o := a.options(nil, identity.ScopeAdmin)
			o.URL += path + "?" + query + a.Token
			o.Auth = dial.Auth{}
			if _, err := a.dial(o); err == nil {
				t.Errorf("%s?%s lets in", path, query)
			}
		}
	}
	for _, h := range []http.Header{
		{"Authorization": {"Bearer " + a.Token}}, {"Cookie": {"token=" + a.Token}}, {"Sec-Websocket-Protocol": {"token, " + a.Token}}, {"X-Openclaw-Token": {a.Token}},
	} {
		o := a.options(nil, identity.ScopeAdmin)
		o.Auth, o.Header = dial.Auth{}, h
		if _, err := a.dial(o); err == nil {
			t.Errorf("%v lets in at the upgrade", h)
		}
	}
	if strings.Contains(a.LogText(), a.Token) {
		t.Error("the log holds the token of a URL")
	}
}
