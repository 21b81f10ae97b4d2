package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/hooks"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/system"
)

// domain notes what reaches it.
type domain struct {
	wakes  []system.WakeIn
	agents []hooks.AgentIn
	err    error
}

func (d *domain) wake(_ context.Context, _ identity.Caller, in system.WakeIn) (system.WakeOut, error) {
	d.wakes = append(d.wakes, in)
	return system.WakeOut{Mode: in.Mode}, d.err
}

func (d *domain) agent(_ context.Context, _ identity.Caller, in hooks.AgentIn) (hooks.AgentOut, error) {
	d.agents = append(d.agents, in)
	return hooks.AgentOut{RunID: "run-1"}, d.err
}

const tokenText = "hook-token"

func newWeb(d *domain, mappings ...config.HookMapping) *Web {
	return New(Config{
		Hooks: config.Hooks{Enabled: true, Token: config.NewSecret(tokenText), Path: "/hooks", MaxBodyBytes: 1 << 20, Mappings: mappings},
		Wake:  d.wake, Agent: d.agent, Peers: &peer.Rules{}, Mode: identity.AuthToken,
		Bearer: func(_ context.Context, token string, _ identity.Peer) (identity.Caller, error) {
			c := identity.Caller{Role: identity.RoleOperator}
			switch token {
			case "owner":
				c.Scopes = identity.AllOperatorScopes
			case "reader":
				c.Scopes = []identity.Scope{identity.ScopeRead}
			case "node":
				c.Role = identity.RoleNode
			case "locked":
				return c, errs.New(errs.Exhausted, "slow down").With("retryAfterMs", int64(1500))
			case "broken":
				return c, errors.New("disk")
			default:
				return c, identity.ErrBearerNotAccepted
			}
			return c, nil
		},
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.UnixMilli(1700000000123) },
	})
}

// post gives a body to a handler.
func post(serve http.HandlerFunc, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1"
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	serve(w, r)
	return w
}

const authorized = "Authorization: Bearer " + tokenText

func TestBearer(t *testing.T) {
	w := newWeb(&domain{})
	for token, want := range map[string]struct {
		status int
		body   string
	}{
		"owner":  {404, `{"ok":false,"error":{"type":"not_found","message":"Tool not available: x"}}`},
		"reader": {404, `{"ok":false,"error":{"type":"not_found","message":"Tool not available: x"}}`},
		"node":   {403, `{"error":{"message":"missing scope: operator.read","type":"forbidden"}}`},
		"locked": {429, `{"error":{"message":"Too many failed authentication attempts. Please try again later.","type":"rate_limited"}}`},
		"broken": {500, `{"error":{"message":"internal error","type":"api_error"}}`},
		"other":  {401, `{"error":{"message":"Unauthorized","type":"unauthorized"}}`},
		"":       {401, `{"error":{"message":"Unauthorized","type":"unauthorized"}}`},
	} {
		a := post(w.invokeTool, "/tools/invoke", `{"tool":"x"}`, "Authorization: Bearer "+token)
		if a.Code != want.status || a.Body.String() != want.body {
			t.Errorf("%q: %d %s", token, a.Code, a.Body)
		}
		if got := a.Header().Get("Retry-After"); (token == "locked") != (got == "2") {
			t.Errorf("%q: Retry-After %q", token, got)
		}
	}
}

func TestAgentBody(t *testing.T) {
	d := &domain{}
	w := newWeb(d)
	a := post(w.hook, "/hooks/agent", `{"message":" m ","name":" n ","agentId":"a","sessionKey":"k","wakeMode":"next-heartbeat","deliver":false,
		"channel":" x ","to":" t ","model":" mo ","thinking":"low","timeoutSeconds":7.9}`, authorized)
	if a.Code != 200 || a.Body.String() != `{"ok":true,"runId":"run-1"}` {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	got := d.agents[0]
	if got.Channel == nil || *got.Channel != "x" || got.Model == nil || *got.Model != "mo" {
		t.Errorf("%+v", got)
	}
	got.Channel, got.Model = nil, nil
	want := hooks.AgentIn{
		Message: "m", Name: "n", AgentID: "a", SessionKey: "k", To: "t", Thinking: "low", Timeout: 7 * time.Second,
	}
	if got != want {
		t.Errorf("%+v", got)
	}
	// What is of the wrong type counts as absent.
	post(w.hook, "/hooks/agent", `{"message":"m","name":1,"agentId":[],"sessionKey":{},"wakeMode":1,"deliver":"no","to":false,"thinking":null,"timeoutSeconds":"5"}`, authorized)
	if got := d.agents[1]; got != (hooks.AgentIn{Message: "m", WakeNow: true, Deliver: true}) {
		t.Errorf("%+v", got)
	}
	for body, timeout := range map[string]time.Duration{
		`-1`: 0, `0`: 0, `0.5`: 0, `1e400`: 0, `1e18`: 365 * 24 * time.Hour, `"5"`: 0, `true`: 0, `3`: 3 * time.Second,
	} {
		d.agents = nil
		post(w.hook, "/hooks/agent", `{"timeoutSeconds":`+body+`}`, authorized)
		if d.agents[0].Timeout != timeout {
			t.Errorf("%s: %v", body, d.agents[0].Timeout)
		}
	}
}

func TestHookFailures(t *testing.T) {
	d := &domain{}
	w := newWeb(d)
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{hooks.ErrMessage, 400, "message required"},
		{hooks.ErrNoAgents, 503, hooks.ErrNoAgents.Text},
		{errs.New(errs.Exhausted, "too many"), 429, "too many"},
		{errors.New("s3cret"), 500, "internal error"},
		{errs.Wrap(errs.Internal, "s3cret", errors.New("x")), 500, "internal error"},
		{errs.New(errs.Unknown, "the disk failed"), 500, "the disk failed"},
	} {
		d.err = c.err
		for _, path := range []string{"/hooks/wake", "/hooks/agent"} {
			a := post(w.hook, path, `{"text":"x"}`, authorized)
			if want := fmt.Sprintf(`{"ok":false,"error":%q}`, c.text); a.Code != c.status || a.Body.String() != want {
				t.Errorf("%v: %d %s", c.err, a.Code, a.Body)
			}
		}
	}
}

func TestTemplates(t *testing.T) {
	payload, err := wire.Parse([]byte(`{"a":"x","n":1e3,"b":true,"z":null,"o":{"k":"v","2":1,"1":2},"l":[{"t":"first"},"two",[3]],
		"payload":{"a":"inner"},"a.b":"dot","headers":{"x":"own"},"":"empty","path":"p","é":"é","__proto__":{"x":1},"constructor":"c"}`))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/hooks/x/y?q=1&q=2&e=", nil)
	r.Header = http.Header{"X-Two": {"a", "b"}, "Authorization": {"s3cret"}, "X-Openclaw-Token": {"s3cret"}, "Cookie": {"s3cret"}, "Proxy-Authorization": {"s3cret"}}
	in := input{path: "x/y", payload: payload, r: r, now: func() time.Time { return time.UnixMilli(1700000000123) }}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "{{a}}": "x", "{{ a }}": "x", "<{{a}}{{a}}>": "<xx>", "{{missing}}": "", "{{missing.deep[1].x}}": "",
		"{{n}}": "1000", "{{b}}": "true", "{{z}}": "", "{{o}}": `{"1":2,"2":1,"k":"v"}`, "{{o.k}}": "v", "{{o.2}}": "1",
		"{{l[0].t}}": "first", "{{l[1]}}": "two", "{{l[2][0]}}": "3", "{{l.0.t}}": "first", "{{l[9]}}": "", "{{l[-1]}}": "", "{{l[x]}}": "",
		"{{l[0}}": "", "{{a[0]}}": "", "{{a.length}}": "", "{{payload.a}}": "x", "{{payload.payload.a}}": "inner", "{{payload}}": `{"a":"inner"}`,
		"{{path}}": "x/y", "{{payload.path}}": "p", "{{now}}": "2023-11-14T22:13:20.123Z", "{{headers.x-two}}": "a, b", "{{headers.X-Two}}": "",
		"{{headers.host}}": "example.com", "{{headers.authorization}}{{headers.x-openclaw-token}}{{headers.cookie}}{{headers.proxy-authorization}}": "",
		"{{query.q}}": "2", "{{query.e}}": "", "{{query.none}}": "", "{{é}}": "é", "{{__proto__.x}}": "", "{{constructor}}": "", "{{o.constructor}}": "",
		"{{}}": "{{}}", "{{ }}": "{{ }}", "{{a": "{{a", "{{a}": "{{a}", "{a}": "{a}", "}}{{a}}": "}}x", "{{{a}}}": "}", "{{a}} {{a": "x {{a",
		"{{a}x}}{{b}}": "{{a}x}}true", "a..b": "a..b", "{{o..k}}": "v", "{{.a}}": "x", "{{a.}}": "x", "{{[0]}}": "",
	} {
		got, err := parse(text).render(in)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	big, err := wire.Parse([]byte(`{"a":"` + strings.Repeat("x", 600_000) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	in.payload = big
	if _, err := parse("{{a}}").render(in); err != nil {
		t.Error(err)
	}
	if _, err := parse("{{a}}{{a}}").render(in); !errors.Is(err, errTooLong) {
		t.Error(err)
	}
}

func TestMappingActions(t *testing.T) {
	d := &domain{}
	w := newWeb(d,
		config.HookMapping{
			ID: "m", MatchPath: "a", Action: "agent", WakeMode: "next-heartbeat", Name: "N {{x}}", AgentID: "two", SessionKey: "fixed",
			MessageTemplate: " m {{x}} ", Channel: "telegram", To: "{{to}}", Model: "{{model}}", Thinking: "low", TimeoutSeconds: 3,
			AllowUnsafeExternalContent: true,
		},
		config.HookMapping{ID: "any", Action: "agent", WakeMode: "now", Deliver: true, MessageTemplate: "{{message}}", SessionKey: "hook:{{id}}"},
	)
	post(w.hook, "/hooks/a/", `{"x":1,"to":" t "}`, authorized)
	if len(d.agents) != 1 || d.agents[0].Channel == nil || *d.agents[0].Channel != "telegram" {
		t.Fatalf("%+v", d.agents)
	}
	d.agents[0].Channel = nil
	if want := (hooks.AgentIn{
		Message: "m 1", Name: "N 1", AgentID: "two", SessionKey: "fixed", KeySource: hooks.KeyFromConfig, To: "t", Thinking: "low",
		Timeout: 3 * time.Second, Trusted: true,
	}); d.agents[0] != want {
		t.Errorf("%+v", d.agents[0])
	}
	post(w.hook, "/hooks/b", `{"message":"hi","id":7,"model":"x"}`, authorized)
	if want := (hooks.AgentIn{Message: "hi", SessionKey: "hook:7", KeySource: hooks.KeyFromTemplate, WakeNow: true, Deliver: true}); d.agents[1] != want {
		t.Errorf("%+v", d.agents[1])
	}
	if a := post(w.hook, "/hooks/b", `{}`, authorized); a.Code != 400 || len(d.agents) != 2 {
		t.Errorf("%d %s", a.Code, a.Body)
	}
}

// A body that does not come is answered when its time is over.
func TestBodyTimeout(t *testing.T) {
	w := newWeb(&domain{})
	w.patience = 50 * time.Millisecond
	mux := http.NewServeMux()
	mux.HandleFunc("/hooks/wake", w.hook)
	mux.HandleFunc("/tools/invoke", w.invokeTool)
	s := httptest.NewServer(mux)
	defer s.Close()
	for path, want := range map[string]string{
		"/hooks/wake":   `{"ok":false,"error":"request body timeout"}`,
		"/tools/invoke": `{"error":{"message":"Request body timeout","type":"invalid_request_error"}}`,
	} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		token := tokenText
		if path == "/tools/invoke" {
			token = "owner"
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nAuthorization: Bearer %s\r\n\r\n{", path, token)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		data, err := io.ReadAll(c)
		_ = c.Close()
		if err != nil || !strings.HasPrefix(string(data), "HTTP/1.1 408 ") || !strings.HasSuffix(string(data), want) {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	if w.bodies.free != maxBodies {
		t.Errorf("%d bytes are not given back", maxBodies-w.bodies.free)
	}
}

func FuzzHook(f *testing.F) {
	for _, s := range []string{
		`{"text":"x","mode":"now"}`, `{"message":"m","timeoutSeconds":1e9}`, `{bad`, "", "[]", "\xff\xfe", `{"a":{"b":[1,{"c":null}]}}`, `"\ud83d`,
		strings.Repeat("[", 600), `{"__proto__":{"a":1}}`,
	} {
		f.Add("wake", s, "{{a.b[1].c}} {{payload}}")
		f.Add("agent", s, "{{headers.authorization}}")
		f.Add("x", s, s)
	}
	f.Fuzz(func(t *testing.T, path, body, text string) {
		if strings.ContainsAny(path, " \r\n\x00?#%") || !validPath("/hooks/"+path) {
			return
		}
		d := &domain{}
		w := newWeb(d, config.HookMapping{Action: "wake", TextTemplate: text, WakeMode: "now"}, config.HookMapping{})
		a := post(w.hook, "/hooks/"+path, body, authorized)
		switch a.Code {
		case 200, 400, 404, 413, 503:
		default:
			t.Errorf("%d %s", a.Code, a.Body)
		}
		for _, in := range d.wakes {
			if strings.Contains(in.Text, tokenText) && !strings.Contains(text+body, tokenText) {
				t.Errorf("the token reached %q", in.Text)
			}
		}
		// Nothing of a request without the token is looked at.
		d.wakes, d.agents = nil, nil
		if a := post(w.hook, "/hooks/"+path, body); a.Code != 401 || len(d.wakes)+len(d.agents) > 0 {
			t.Errorf("%d", a.Code)
		}
		if w.bodies.free != maxBodies {
			t.Error("the budget leaks")
		}
	})
}

func validPath(p string) bool {
	_, err := url.ParseRequestURI(p)
	return err == nil
}

func FuzzScoped(f *testing.F) {
	for _, s := range []string{
		"/__openclaw__/cap/abc/x", "/__bot__/cap/a%2fb/", "/__openclaw__/cap//", "/__openclaw__/cap/%zz/", "/x?oc_cap=1", "/__openclaw__/cap/a/%2e%2e/x",
		"/__openclaw__/cap/a/__openclaw__/canvas/..%2f", "/__openclaw__/canvas/%00", "/%2525252561pi/channels",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(u.Path, "/") {
			return
		}
		r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
		scoped, ok := Scoped(r)
		Protected(scoped.URL.EscapedPath())
		if !ok {
			return
		}
		p := scoped.URL.EscapedPath()
		if !strings.HasPrefix(p, "/") {
			t.Fatalf("path %q", p)
		}
		if rest, ok := canvasPath(p); ok {
			name, _, ok := fileName(strings.TrimPrefix(rest, "/canvas"))
			if ok && name != "." && (strings.Contains(name, "..") && strings.HasPrefix(name, ".") || strings.ContainsAny(name, "\x00\\")) {
				t.Errorf("%q names %q", target, name)
			}
		}
	})
}

func FuzzUpgrade(f *testing.F) {
	f.Add("GET", "Upgrade", "websocket", "13", "dGhlIHNhbXBsZSBub25jZQ==", "evil.example")
	f.Add("POST", "keep-alive, upgrade", "h2c", "8", "", "[::1]:1")
	f.Fuzz(func(t *testing.T, method, connection, proto, version, key, host string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: "/"}, Host: host, RemoteAddr: "127.0.0.1:1", Header: http.Header{
			"Connection": {connection}, "Upgrade": {proto}, "Sec-Websocket-Version": {version}, "Sec-Websocket-Key": {key},
		}}
		w := httptest.NewRecorder()
		if !Upgrading(r) {
			return
		}
		ok := CheckUpgrade(w, r)
		if ok != (w.Body.Len() == 0) || (!ok && w.Code != 400 && w.Code != 405) {
			t.Errorf("%v: %d %q", ok, w.Code, w.Body)
		}
		if ok && (r.Method != "GET" || r.Header.Get("Sec-Websocket-Version") != "13" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket")) {
			t.Errorf("let through: %q %v", r.Method, r.Header)
		}
	})
}
