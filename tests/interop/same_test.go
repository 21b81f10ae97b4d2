//go:build unix

package interop

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// question is a call that both gateways are asked.
type question struct {
	method string
	params string // JSON, empty for none
}

func (q question) String() string { return q.method + " " + q.params }

// reply is what a gateway answered, as comparable text: the payload, or the error.
func reply(tb testing.TB, c *dial.Conn, q question) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	var params any
	if q.params != "" {
		params = json.RawMessage(q.params)
	}
	payload, err := c.Call(ctx, q.method, params)
	if err == nil {
		return "ok " + plain(payload)
	}
	r := proc.Refusal(err)
	if r == nil {
		tb.Fatalf("%v: %v", q, err)
	}
	return fmt.Sprintf("%s %s %s retryable=%v after=%v", r.Code, seconds.ReplaceAllString(r.Message, "after <n>s"), plain(r.Details),
		r.Retryable, r.RetryAfter > 0)
}

var seconds = regexp.MustCompile(`after \d+s`)

// plain writes JSON with its keys in order, and without what no two gateways have in common.
func plain(text json.RawMessage) string {
	if len(text) == 0 {
		return ""
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return string(text)
	}
	out, _ := json.Marshal(v)
	s := string(out)
	for _, r := range own {
		s = r.find.ReplaceAllString(s, r.with)
	}
	return s
}

// own is what each gateway has of its own: times, ids, ports, paths.
var own = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "<hash>"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b1[0-9]{12}\b`), "<time>"},
	{regexp.MustCompile(`"[^" ]*/hz[^" ]*"`), `"<path>"`},
	{regexp.MustCompile(`"durationMs":\d+`), `"durationMs":0`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`"canvasCapability":"[\w-]{24}"|/cap/[\w-]{24}`), "<capability>"},
	// The package pairs every node that comes from its own machine; the original none that has the token.
	{regexp.MustCompile(`"paired":(true|false)`), `"paired":"<differs>"`},
}

// wrong are values that hardly any parameter takes.
var wrong = []string{`null`, `""`, `"x"`, `-1`, `1.5`, `true`, `[]`, `[1]`, `{}`}

// questions are calls with parameters that are wrong in many ways, for each method of the frozen
// protocol that is for a role, and some that are right.
func questions(tb testing.TB, role identity.Role) []question {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(proc.Root(tb), "compat", "schema", "frozen.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var frozen struct {
		Methods []struct {
			Method string
			Role   identity.Role
			Params *struct {
				Properties map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(text, &frozen); err != nil {
		tb.Fatal(err)
	}
	var all []question
	for _, m := range frozen.Methods {
		if m.Role != role && m.Role != "any" {
			continue
		}
		all = append(all, question{m.Method, ""})
		for _, p := range []string{`{}`, `{"zzz":1}`, `[]`, `"text"`, `7`, `null`} {
			all = append(all, question{m.Method, p})
		}
		if m.Params == nil {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(m.Params.Properties)) {
			for _, v := range wrong {
				all = append(all, question{m.Method, fmt.Sprintf(`{%q:%s}`, k, v)})
				all = append(all, question{m.Method, fmt.Sprintf(`{%q:%s,"zzz":1}`, k, v)})
			}
		}
	}
	return all
}

// others are answers that may differ, and why.
var others = map[string]string{
	"logs.tail":                             "each has lines of its own",
	"status":                                "hanzod has no model to name yet",
	"connect":                               "the answer is to the first request",
	"update.run":                            "it would start",
	"screen.vnc":                            "hanzod has screens, see screen-vnc-served",
	`agent.wait {"runId":"x"}`:              "it waits for the run",
	"config.schema":                         "each describes the keys that it has",
	"doctor.memory.status":                  "theirs names every place where it looked for a key",
	"usage.cost":                            "hanzod counts the days of the range, see usage-is-of-all-agents",
	"tts.status":                            "hanzod does not offer edge, see speech-edge",
	"tts.providers":                         "hanzod does not offer edge, see speech-edge",
	`tts.convert {"text":"x"}`:              "hanzod does not offer edge, see speech-edge",
	`tts.convert {"text":"x","zzz":1}`:      "hanzod does not offer edge, see speech-edge",
	"config.get ":                           "each has a file of its own",
	"config.get {}":                         "each has a file of its own",
	"config.get null":                       "each has a file of its own",
	"node.rename":                           "hanzod renames every node, not only those of the older store",
	"system-presence":                       "each tells of itself",
	"skills.bins":                           "hanzod brings no skills of its own",
	"skills.status":                         "hanzod brings no skills of its own",
	"models.list":                           "each has a catalogue of its own",
	`exec.approval.request {"command":"x"}`: "it waits for a decision",
}

func differs(q question) bool {
	if others[q.method] != "" || others[q.String()] != "" {
		return true
	}
	// The package is older than this parameter.
	return strings.HasPrefix(q.method, "node.") && strings.Contains(q.params, "connectedOnly")
}

// pair is the same client at both gateways.
type pair struct{ ours, theirs *dial.Conn }

// both connects the same client to both gateways.
func both(t *testing.T, d *proc.Daemon, port int, o dial.Options) pair {
	t.Helper()
	ours, theirs := o, o
	ours.URL, theirs.URL = d.WS(), "ws://127.0.0.1:"+strconv.Itoa(port)
	return pair{proc.Connect(t, ours), proc.Connect(t, theirs)}
}

// same asks both and demands the same answer, unless hanzod says that it does not serve the method yet.
func (p pair) same(t *testing.T, q question) (served bool) {
	t.Helper()
	a := reply(t, p.ours, q)
	if strings.Contains(a, "is not served by this version of hanzod yet") {
		return false
	}
	if b := reply(t, p.theirs, q); a != b {
		t.Errorf("%v\nhanzod %s\ntheirs %s", q, a, b)
	}
	return true
}

// TestSameAnswers asks hanzod and the client's gateway the same, as an operator and as a node, and
// demands the same answers, word for word: what is wrong with thousands of parameters, and
// what comes of those that are right.
func TestSameAnswers(t *testing.T) {
	t.Parallel()
	theClient(t)
	hooks := map[string]any{"hooks": map[string]any{"enabled": true, "token": hookToken}}
	d := proc.Start(t, proc.Options{Form: proc.Tested, Config: hooks})
	u, port := theirUser(t, map[string]any{"mode": "token", "token": token}, hooks)
	startGateway(t, u, port)

	t.Run("wrong parameters", func(t *testing.T) {
		op := both(t, d, port, theirOperator(port, proc.Device(t)))
		served := 0
		for _, q := range questions(t, identity.RoleOperator) {
			if !differs(q) && op.same(t, q) {
				served++
			}
		}
		t.Logf("%d answers", served)
		if served < 1000 {
			t.Errorf("only %d answers were compared", served)
		}
	})
	t.Run("as a node", func(t *testing.T) {
		o := theirOperator(port, proc.Device(t))
		o.Role, o.Scopes, o.Commands, o.Client = identity.RoleNode, nil, []string{"system.which"}, dial.Client{ID: "node-host", Mode: "node"}
		o.OnEvent = func(*dial.Conn, dial.Event) {}
		id := o.Device.ID
		node := both(t, d, port, o)
		for _, q := range questions(t, identity.RoleNode) {
			if !differs(q) {
				node.same(t, q)
			}
		}
		for _, q := range []question{
			{"health", ""}, {"node.event", `{"event":"x"}`}, {"node.event", `{"event":"x","payload":{"a":1}}`},
			{"node.event", `{"event":"x","payloadJSON":"not json"}`}, {"node.event", `{"event":""}`},
			{"node.invoke.result", `{"id":"nope","nodeId":"` + id + `","ok":true}`},
			{"node.invoke.result", `{"id":"nope","nodeId":"other","ok":true}`},
			{"node.invoke.result", `{"id":"nope","nodeId":"` + id + `","ok":true,"payloadJSON":null,"error":null}`},
			{"node.invoke.result", `{"id":"nope","nodeId":"` + id + `","ok":true,"payloadJSON":{"a":1}}`},
			{"node.invoke.result", `{"id":"nope","nodeId":"` + id + `","ok":false,"error":{"code":"X","message":"y","details":1}}`},
			{"skills.bins", `{"x":1}`}, {"node.canvas.capability.refresh", `{"x":1}`}, {"node.list", `{}`},
		} {
			node.same(t, q)
		}
	})
	t.Run("invoke", func(t *testing.T) {
		// The node answers what it is asked to answer.
		o := theirOperator(port, proc.Device(t))
		o.Role, o.Scopes, o.Client = identity.RoleNode, nil, dial.Client{ID: "node-host", Mode: "node", DisplayName: "echo", Version: "1"}
		o.Commands, o.Caps = []string{"system.which", "system.run", "no.such", "camera.snap"}, []string{"z", "a", "a"}
		o.OnEvent = func(c *dial.Conn, e dial.Event) {
			var i proc.Invocation
			if e.Name != "node.invoke.request" || json.Unmarshal(e.Payload, &i) != nil || i.Params()["answer"] == nil {
				return
			}
			answer := i.Params()["answer"].(map[string]any)
			answer["id"], answer["nodeId"] = i.ID, i.NodeID
			_ = c.Send("node.invoke.result", answer)
		}
		id := o.Device.ID
		both(t, d, port, o)
		op := both(t, d, port, theirOperator(port, proc.Device(t)))
		invoke := func(command, rest string) question {
			return question{"node.invoke", `{"nodeId":"` + id + `","command":"` + command + `","idempotencyKey":"k-` + rand.Text() + `"` + rest + `}`}
		}
		answer := func(a string) question { return invoke("system.which", `,"params":{"answer":`+a+`}`) }
		for _, q := range []question{
			answer(`{"ok":true}`), answer(`{"ok":true,"payload":{"b":1,"a":[1,2.5,"<&>"]}}`), answer(`{"ok":true,"payloadJSON":"{\"a\":1}"}`),
			answer(`{"ok":true,"payloadJSON":"not json"}`), answer(`{"ok":true,"payloadJSON":"  "}`), answer(`{"ok":true,"payloadJSON":"null"}`),
			answer(`{"ok":true,"payloadJSON":null,"payload":7}`), answer(`{"ok":true,"payloadJSON":{"a":1}}`), answer(`{"ok":true,"payload":1,"payloadJSON":"2"}`),
			answer(`{"ok":false}`), answer(`{"ok":false,"error":null}`), answer(`{"ok":false,"error":{}}`), answer(`{"ok":false,"error":{"message":"m"}}`),
			answer(`{"ok":false,"error":{"code":"C"}}`), answer(`{"ok":false,"error":{"code":"C","message":"m"}}`), answer(`{"ok":false,"error":{"code":" ","message":" "}}`),
			answer(`{"ok":false,"error":{"code":" C ","message":" m "}}`), answer(`{"ok":false,"error":{"code":" C ","message":" "}}`),
			answer(`{"ok":false,"error":{"code":"\ufeff","message":"\u2028m\u0085"}}`),
			invoke("system.which", `,"timeoutMs":1`), invoke(" system.which ", `,"timeoutMs":1`),
			invoke("no.such", ``), invoke("camera.snap", ``), invoke("system.notify", ``), invoke("System.Which", ``), invoke(" ", ``),
			invoke("system.execApprovals.get", ``), invoke("system.execApprovals.set", `,"params":1`),
			invoke("system.run", `,"timeoutMs":1,"params":{"command":["ls"]}`), invoke("system.run", `,"timeoutMs":1`),
			invoke("system.run", `,"timeoutMs":1,"params":[1]`), invoke("system.run", `,"timeoutMs":1,"params":{"command":"ls"}`),
			invoke("system.run", `,"params":{"command":["ls"],"rawCommand":"ls -l"}`), invoke("system.run", `,"params":{"rawCommand":"ls"}`),
			invoke("system.run", `,"params":{"command":["ls"],"approved":true}`), invoke("system.run", `,"params":{"command":["ls"],"approved":true,"runId":" "}`),
			invoke("system.run", `,"params":{"command":["ls"],"approvalDecision":"allow-once","runId":"nope"}`),
			invoke("system.run", `,"timeoutMs":1,"params":{"command":["ls"],"approvalDecision":"deny"}`),
			{"node.describe", `{"nodeId":"` + id + `"}`}, {"node.describe", `{"nodeId":" "}`}, {"node.describe", `{"nodeId":"nope"}`},
			{"exec.approvals.node.get", `{"nodeId":"nope"}`}, {"exec.approvals.node.set", `{"nodeId":"nope","file":{"version":1}}`},
			{"push.test", `{"nodeId":"nope"}`},
		} {
			op.same(t, q)
		}
	})
	t.Run("approvals", func(t *testing.T) {
		op := both(t, d, port, theirOperator(port, proc.Device(t)))
		ask := func(id, rest string) question {
			return question{"exec.approval.request", `{"id":"` + id + `","command":"ls","timeoutMs":60000,"twoPhase":true` + rest + `}`}
		}
		for _, q := range []question{
			ask("a-1", ``), ask("a-1", ``), {"exec.approval.resolve", `{"id":"a-1","decision":"allow-always"}`},
			{"exec.approval.resolve", `{"id":"a-1","decision":"deny"}`}, {"exec.approval.waitDecision", `{"id":"a-1"}`},
			ask("a-2", `,"host":"node"`), ask("a-2", `,"host":"node","nodeId":"n"`), ask("a-3", `,"host":"node","nodeId":"n","commandArgv":["ls","-l"]`),
			ask("a-4", `,"host":"node","nodeId":"n","commandArgv":["ls"],"systemRunPlan":{"argv":["ls"],"cwd":null,"rawCommand":null,"agentId":null,"sessionKey":null}`),
			{"exec.approval.resolve", `{"id":"a-4","decision":"deny"}`}, {"exec.approval.waitDecision", `{"id":"a-4"}`},
			{"exec.approval.waitDecision", `{}`}, {"exec.approval.waitDecision", `{"id":" "}`}, {"exec.approval.waitDecision", `{"id":"nope"}`},
			{"exec.approval.resolve", `{"id":"nope","decision":"deny"}`}, {"exec.approval.resolve", `{"id":"nope","decision":"perhaps"}`},
			{"exec.approvals.set", `{"file":{"version":1}}`}, {"exec.approvals.set", `{"file":{"version":1},"baseHash":"old"}`},
		} {
			op.same(t, q)
		}
	})
	t.Run("http", func(t *testing.T) {
		tr := &http.Transport{DisableKeepAlives: true}
		for _, p := range posts() {
			a, b := post(t, tr, d.URL(), p), post(t, tr, "http://127.0.0.1:"+strconv.Itoa(port), p)
			if a != b {
				t.Errorf("%v\nhanzod %s\ntheirs %s", p, a, b)
			}
		}
	})
	t.Run("handshake", func(t *testing.T) {
		for name, params := range connects(t) {
			a, b := knock(t, d.WS(), params), knock(t, "ws://127.0.0.1:"+strconv.Itoa(port), params)
			if a != b {
				t.Errorf("%s\nhanzod %s\ntheirs %s", name, a, b)
			}
		}
	})
}

// hookToken lets webhooks in. It must not be the gateway's.
const hookToken = "hook-token-4f8d1a6b"

// posted is a request over HTTP.
type posted struct{ path, secret, body string }

// posts are requests that both gateways refuse, or take in, in the same words.
func posts() []posted {
	hook, bearer := "Bearer "+hookToken, "Bearer "+token
	all := []posted{
		{"/hooks/wake", "", `{"text":"x"}`}, {"/hooks/wake", "Bearer wrong", `{"text":"x"}`}, {"/hooks/wake", bearer, `{"text":"x"}`},
		{"/hooks/wake?token=" + hookToken, "", `{"text":"x"}`}, {"/hooks", hook, `{}`}, {"/hooks/", hook, `{}`}, {"/hooks/no-such", hook, `{}`},
		{"/tools/invoke", "", `{}`}, {"/tools/invoke", "Bearer wrong", `{}`}, {"/tools/invoke", "Basic x", `{}`}, {"/tools/invoke", hook, `{}`},
		{"/health", "", ``}, {"/nope", "", ``},
	}
	for _, body := range []string{``, `{}`, `[]`, `{`, `{"text":""}`, `{"text":7}`, `{"text":"hi"}`, `{"text":"hi","mode":"x"}`, `{"text":"hi","mode":"next-heartbeat"}`, `null`, `7`, `x`} {
		all = append(all, posted{"/hooks/wake", hook, body})
	}
	for _, body := range []string{``, `{"message":""}`, `{"message":7}`, `{"message":"m","channel":"zzz"}`, `{"message":"m","sessionKey":"k"}`, `{"message":"m","model":""}`, `{"message":"m","model":7}`} {
		all = append(all, posted{"/hooks/agent", hook, body})
	}
	for _, body := range []string{``, `{}`, `{"tool":""}`, `{"tool":" "}`, `{"tool":7}`, `{"tool":"no-such"}`, `{"tool":"cron"}`, `[]`, `{`, `x`, `null`, `"x"`, `{"tool":"x",}`} {
		all = append(all, posted{"/tools/invoke", bearer, body})
	}
	return all
}

// post sends a request and returns what came back, less what servers add of their own.
func post(tb testing.TB, tr *http.Transport, base string, p posted) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+p.path, strings.NewReader(p.body))
	if err != nil {
		tb.Fatal(err)
	}
	if p.secret != "" {
		r.Header.Set("Authorization", p.secret)
	}
	res, err := tr.RoundTrip(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		tb.Fatal(err)
	}
	out := []string{strconv.Itoa(res.StatusCode)}
	for _, h := range []string{"Allow", "Content-Type", "Permissions-Policy", "Referrer-Policy", "X-Content-Type-Options", "Strict-Transport-Security"} {
		out = append(out, h+": "+res.Header.Get(h))
	}
	return strings.Join(append(out, plain(body)), "; ")
}

// connects are requests to connect that are refused, by name.
func connects(tb testing.TB) map[string]string {
	tb.Helper()
	request := func(change func(p map[string]any)) string {
		p := map[string]any{
			"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": []any{"operator.read"},
			"client": map[string]any{"id": "cli", "mode": "cli", "version": "1", "platform": "linux"},
			"auth":   map[string]any{"token": token},
		}
		change(p)
		text, _ := json.Marshal(map[string]any{"type": "req", "id": "1", "method": "connect", "params": p})
		return string(text)
	}
	client := func(k string, v any) string {
		return request(func(p map[string]any) { p["client"].(map[string]any)[k] = v })
	}
	top := func(k string, v any) string { return request(func(p map[string]any) { p[k] = v }) }
	out := map[string]string{
		"no JSON": "no JSON", "an array": "[]", "null": "null", "another type": `{"type":"event","event":"x"}`, "no id": `{"type":"req","method":"connect"}`,
		"no parameters": `{"type":"req","id":"1","method":"connect"}`, "another method": `{"type":"req","id":"1","method":"health"}`,
		"an extra key": `{"type":"req","id":"1","method":"connect","params":{},"x":1}`, "empty parameters": `{"type":"req","id":"1","method":"connect","params":{}}`,
		"older protocol": request(func(p map[string]any) { p["minProtocol"], p["maxProtocol"] = 1, 2 }),
		"newer protocol": request(func(p map[string]any) { p["minProtocol"], p["maxProtocol"] = 4, 9 }),
		"wrong token":    top("auth", map[string]any{"token": "wrong"}), "no token": top("auth", map[string]any{}), "no auth": top("auth", nil),
		"a password": top("auth", map[string]any{"password": "wrong"}), "an empty token": top("auth", map[string]any{"token": ""}),
		"wrong role": top("role", "admin"), "empty role": top("role", ""), "extra parameter": top("zzz", 1), "scopes as text": top("scopes", "operator.read"),
		"empty scope": top("scopes", []any{""}), "client text": top("client", "cli"), "no client id": client("id", nil), "unknown client": client("id", "somebody"),
		"unknown mode": client("mode", "somehow"), "no version": client("version", ""), "extra client key": client("zzz", 1),
		"UI without device": request(func(p map[string]any) {
			p["client"] = map[string]any{"id": "openclaw-control-ui", "mode": "webchat", "version": "1", "platform": "linux"}
		}),
		"empty device": top("device", map[string]any{}),
		"false device": top("device", map[string]any{"id": "x", "publicKey": "x", "signature": "x", "signedAt": 1, "nonce": "x"}),
		"another id":   top("device", map[string]any{"id": strings.Repeat("0", 64), "publicKey": "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg", "signature": "x", "signedAt": 1, "nonce": "x"}),
		"old signature": top("device", map[string]any{
			"id":        "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c",
			"publicKey": "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg", "signature": "x", "signedAt": 1, "nonce": "x",
		}),
		"another nonce": top("device", map[string]any{
			"id":        "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c",
			"publicKey": "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg", "signature": "x", "signedAt": time.Now().UnixMilli(), "nonce": "x",
		}),
		"device and wrong token": request(func(p map[string]any) {
			p["auth"] = map[string]any{"deviceToken": "wrong"}
		}),
	}
	return out
}

// knock sends a first frame and returns what comes back until the connection ends.
func knock(tb testing.TB, url, first string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	defer c.CloseNow()
	if _, _, err := c.Read(ctx); err != nil { // the challenge
		tb.Fatal(err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte(first)); err != nil {
		tb.Fatal(err)
	}
	var out strings.Builder
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			if closed, ok := errors.AsType[websocket.CloseError](err); ok {
				fmt.Fprintf(&out, "close %d %s", closed.Code, closed.Reason)
			} else {
				fmt.Fprintf(&out, "end %v", err)
			}
			return out.String()
		}
		fmt.Fprintf(&out, "%s ", plain(data))
		if strings.Contains(string(data), "hello-ok") {
			return "let in"
		}
	}
}
