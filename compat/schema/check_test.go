package schema

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/wire"
)

func TestCheck(t *testing.T) {
	const invoke = "invalid node.invoke params: "
	lone := `"` + strings.Repeat(`\ud800`, 64) + `"`
	for _, c := range []struct{ method, params, want string }{
		{"node.invoke", `{"nodeId":"n","command":"c","idempotencyKey":"k"}`, ""},
		{"node.invoke", `{"nodeId":"n","command":"c","idempotencyKey":"k","timeoutMs":1.0,"params":null}`, ""},
		{"node.invoke", `[]`, invoke + "must be object"},
		{"node.invoke", `"x"`, invoke + "must be object"},
		{"node.invoke", `null`, invoke + "must be object"},
		{"node.invoke", `{"b":1,"idempotencyKey":"","2":1,"nodeId":5,"1":null,"timeoutMs":-1.5}`, invoke +
			"must have required property 'command'; at root: unexpected property '1'; at root: unexpected property '2'; " +
			"at root: unexpected property 'b'; at /nodeId: must be string; at /timeoutMs: must be integer; at /timeoutMs: must be >= 0; " +
			"at /idempotencyKey: must NOT have fewer than 1 characters"},
		{"node.invoke", `{"nodeId":null,"command":"c","command":"","idempotencyKey":"k"}`, invoke +
			"at /nodeId: must be string; at /command: must NOT have fewer than 1 characters"},
		{"node.invoke", `{"nodeId":"n","command":"c","idempotencyKey":"k","timeoutMs":1e400}`, invoke + "at /timeoutMs: must be integer"},
		{"node.invoke", `{"NodeId":"n","command":"c","idempotencyKey":"k"}`, invoke + "must have required property 'nodeId'; at root: unexpected property 'NodeId'"},
		{"node.invoke", `{"nodeId":"n","command":"c","idempotencyKey":"k","é<\u2028":1}`, invoke + "at root: unexpected property 'é<\u2028'"},
		{"logs.tail", `{"limit":0}`, "invalid logs.tail params: at /limit: must be >= 1"},
		{"logs.tail", `{"limit":5001,"cursor":"1"}`, "invalid logs.tail params: at /cursor: must be integer; at /limit: must be <= 5000"},
		{"poll", `{"to":"x","question":"q","options":["a"],"idempotencyKey":"k"}`, "invalid poll params: at /options: must NOT have fewer than 2 items"},
		{"poll", `{"to":"x","question":"q","options":["","",3,1,1,1,1,1,1,1,1,1,1],"idempotencyKey":"k"}`, "invalid poll params: at /options: must NOT have more than 12 items; " +
			"at /options/0: must NOT have fewer than 1 characters; at /options/1: must NOT have fewer than 1 characters; at /options/2: must be string; " +
			"at /options/3: must be string; at /options/4: must be string; at /options/5: must be string; at /options/6: must be string; at /options/7: must be string; " +
			"at /options/8: must be string; at /options/9: must be string; at /options/10: must be string; at /options/11: must be string; at /options/12: must be string"},
		// Lengths count code points; a lone surrogate is one.
		{"agent", `{"message":"m","idempotencyKey":"k","label":"` + strings.Repeat("😀", 64) + `"}`, ""},
		{"agent", `{"message":"m","idempotencyKey":"k","label":` + lone + `}`, ""},
		{"agent", `{"message":"m","idempotencyKey":"k","label":"` + strings.Repeat("é", 65) + `"}`, "invalid agent params: at /label: must NOT have more than 64 characters"},
		{"agent", `{"message":"m","idempotencyKey":"k","inputProvenance":{"kind":1,"x":0}}`, "invalid agent params: " +
			"at /inputProvenance: unexpected property 'x'; at /inputProvenance/kind: must be string; at /inputProvenance/kind: must be equal to one of the allowed values"},
		{"connect", `{"minProtocol":3,"maxProtocol":3,"client":{"id":5,"version":"1","platform":"p","mode":"cli"},"permissions":{"a/b~":1,"x\ny":1}}`, "invalid connect params: " +
			"at /client/id: must be string; at /client/id: must be equal to constant; at /client/id: must match a schema in anyOf; at /permissions/a~1b~0: must be boolean"},
		{"config.schema.lookup", `{"path":""}`, `invalid config.schema.lookup params: at /path: must NOT have fewer than 1 characters; at /path: must match pattern "^[A-Za-z0-9_./\[\]\-*]+$"`},
		{"cron.update", `{"x":1}`, "invalid cron.update params: must have required property 'id'; must have required property 'patch'; at root: unexpected property 'x'; " +
			"must have required property 'jobId'; must match a schema in anyOf"},
		{"cron.update", `{"id":"a","patch":{"agentId":5}}`, "invalid cron.update params: at /patch/agentId: must be string; at /patch/agentId: must be null; " +
			"at /patch/agentId: must match a schema in anyOf; must have required property 'jobId'; at root: unexpected property 'id'; must match a schema in anyOf"},
		{"exec.approvals.set", `{"file":{"version":2}}`, "invalid exec.approvals.set params: at /file/version: must be equal to constant"},
		{"exec.approvals.set", `{"file":{"version":"1"}}`, "invalid exec.approvals.set params: at /file/version: must be number; at /file/version: must be equal to constant"},
		// Own texts.
		{"secrets.resolve", `{}`, "invalid secrets.resolve params: commandName"},
		{"secrets.resolve", `{"commandName":" ","targetIds":[]}`, "invalid secrets.resolve params: commandName"},
		{"secrets.resolve", `{"commandName":"c"}`, "invalid secrets.resolve params: targetIds"},
		{"secrets.resolve", `{"commandName":"c","targetIds":[""]}`, "invalid secrets.resolve params: targetIds"},
		{"secrets.resolve", `{"commandName":"c","targetIds":[],"x":1}`, "invalid secrets.resolve params: targetIds"},
		{"secrets.resolve", `{"commandName":"c","targetIds":["t"]}`, ""},
		{"secrets.resolve", `[]`, "invalid secrets.resolve params: targetIds"},
		{"secrets.resolve", `7`, "invalid secrets.resolve params: targetIds"},
		{"set-heartbeats", `{"enabled":"true"}`, "invalid set-heartbeats params: enabled (boolean) required"},
		{"set-heartbeats", `{"enabled":false,"x":1}`, ""},
		{"set-heartbeats", `[]`, "invalid set-heartbeats params: enabled (boolean) required"},
		{"send", `{"to":"x","idempotencyKey":"k","message":"  "}`, "invalid send params: text or media is required"},
		{"send", `{"to":"x","idempotencyKey":"k","mediaUrls":[" "]}`, "invalid send params: text or media is required"},
		{"send", `{"to":"x","idempotencyKey":"k","mediaUrls":["u"]}`, ""},
		{"send", `{"to":"x","idempotencyKey":"k","mediaUrl":"u"}`, ""},
		{"cron.runs", `{"scope":"job"}`, "invalid cron.runs params: missing id"},
		{"cron.runs", `{"scope":"job","jobId":"j"}`, ""},
		{"cron.runs", `{}`, ""},
		{"cron.runs", `{"id":"a/b"}`, `invalid cron.runs params: at /id: must match pattern "^[^/\\]+$"`},
		{"cron.add", `{}`, "invalid cron.add params: must have required property 'name'; must have required property 'schedule'; " +
			"must have required property 'sessionTarget'; must have required property 'payload'"},
		{"cron.add", `[]`, "invalid cron.add params: must be object"},
		{"cron.add", `{"payload":{"kind":"systemEvent","text":"x"}}`, "invalid cron.add params: must have required property 'name'; must have required property 'schedule'"},
		// No schema: anything goes.
		{"system-event", `{"x":1}`, ""}, {"health", `[]`, ""}, {"no.such.method", `{}`, ""},
	} {
		if got := Check(c.method, wire.MustParse(c.params)); got != c.want {
			t.Errorf("%s %s\n got %s\nwant %s", c.method, c.params, got, c.want)
		}
	}
	if got := Check("connect", wire.Value{}); got != "invalid connect params: must be object" {
		t.Errorf("connect without params: %q", got)
	}
}

// A patch is normalised without defaults, and keeps what it says of the delivery.
func TestNormalizeCronUpdate(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`5`, `5`}, {`{}`, `{}`}, {`{"id":"i","patch":7}`, `{"id":"i","patch":7}`}, {`{"id":"i","patch":{}}`, `{"id":"i","patch":{}}`},
		{`{"id":"i","patch":{"enabled":"false","name":" n ","schedule":{"cron":"0 * * * *"},"wakeMode":"NOW","sessionTarget":"x"}}`,
			`{"id":"i","patch":{"enabled":false,"name":" n ","schedule":{"kind":"cron","expr":"0 * * * *"},"wakeMode":"now"}}`},
		{`{"jobId":"i","patch":{"payload":{"kind":"AGENTTURN","message":" m ","deliver":true,"to":"t"},"delivery":{"mode":"DELIVER","accountId":""}}}`,
			`{"jobId":"i","patch":{"payload":{"kind":"agentTurn","message":"m","deliver":true,"to":"t"},"delivery":{"mode":"announce"}}}`},
		{`{"id":"i","patch":{"text":"hi"}}`, `{"id":"i","patch":{"payload":{"kind":"systemEvent","text":"hi"}}}`},
	} {
		if got := string(wire.Stringify(NormalizeCronUpdate(wire.MustParse(c.in)))); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	long := strings.Repeat("x", 70)
	got := NormalizeCronAdd(wire.MustParse(`{"schedule":{"kind":"every","everyMs":1},"message":"` + long + `"}`))
	if name, _ := got.Get("name"); name.Str() != long[:59]+"…" {
		t.Errorf("%q", name.Str())
	}
}

// FuzzNormalizeCron: hostile jobs neither panic nor grow, and what was normalised once stays as it is.
func FuzzNormalizeCron(f *testing.F) {
	for _, s := range []string{
		`{"job":{"schedule":{"kind":"at","atMs":1e300},"text":"x"}}`, `{"data":{"payload":{"kind":"AgentTurn","deliver":1,"channel":{}},"delivery":[]}}`,
		`{"id":"i","patch":{"schedule":{"cron":5,"expr":null},"message":"\ud800","enabled":"TRUE"}}`, `{"wakeMode":{},"sessionTarget":[],"name":7,"failureAlert":false}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := wire.Parse(data)
		if err != nil {
			return
		}
		once := NormalizeCronAdd(v)
		if a, b := string(wire.Stringify(once)), string(wire.Stringify(NormalizeCronAdd(once))); a != b {
			// A wrapper within a wrapper is taken off at each turn.
			if _, inner := once.Get("data"); !inner {
				if _, inner = once.Get("job"); !inner {
					t.Errorf("%s\nonce  %s\ntwice %s", data, a, b)
				}
			}
		}
		NormalizeCronUpdate(v)
		Check("cron.add", v)
		Check("cron.update", v)
	})
}

func TestNormalizeCronAdd(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`5`, `5`},
		{`{}`, `{"wakeMode":"now","enabled":true}`},
		{`{"job":{"name":" n ","schedule":{"kind":"EVERY","everyMs":1000},"payload":{"kind":"systemevent","text":" hi "}}}`,
			`{"name":"n","schedule":{"kind":"every","everyMs":1000},"payload":{"kind":"systemEvent","text":"hi"},"wakeMode":"now","enabled":true,"sessionTarget":"main"}`},
		{`{"schedule":{"atMs":1768435200123},"message":"go\nnow","model":"m","deliver":false,"channel":"last"}`,
			`{"schedule":{"kind":"at","at":"2026-01-15T00:00:00.123Z"},"payload":{"kind":"agentTurn","message":"go\nnow","model":"m"},` +
				`"delivery":{"mode":"none","channel":"last"},"wakeMode":"now","enabled":true,"deleteAfterRun":true,"name":"go","sessionTarget":"isolated"}`},
		{`{"name":"c","schedule":{"cron":"0 * * * *"},"payload":{"kind":"agentTurn","message":"m"},"wakeMode":"next-heartbeat","enabled":false}`,
			`{"name":"c","schedule":{"kind":"cron","expr":"0 * * * *","staggerMs":300000},"payload":{"kind":"agentTurn","message":"m"},"wakeMode":"next-heartbeat",` +
				`"enabled":false,"sessionTarget":"isolated","delivery":{"mode":"announce"}}`},
		{`{"name":"c","delivery":{"mode":"announce","accountId":" ","to":"x"}}`,
			`{"name":"c","delivery":{"mode":"announce","to":"x"},"wakeMode":"now","enabled":true}`},
		{`{"name":"c","delivery":{"mode":"later"}}`, `{"name":"c","delivery":{},"wakeMode":"now","enabled":true}`},
		// Of a choice that is none of the words, and of a blank id, nothing is left.
		{`{"name":"n","sessionTarget":" MAIN ","wakeMode":"NEXT-heartbeat","enabled":" FALSE ","agentId":" a ","sessionKey":"k"}`,
			`{"name":"n","sessionTarget":"main","wakeMode":"next-heartbeat","enabled":false,"agentId":"a","sessionKey":"k"}`},
		{`{"name":"n","sessionTarget":"x","wakeMode":7,"enabled":0,"agentId":"","sessionKey":" "}`, `{"name":"n","wakeMode":"now","enabled":true}`},
		{`{"sessionTarget":null,"wakeMode":null,"enabled":null,"agentId":null,"sessionKey":7}`,
			`{"agentId":null,"sessionKey":7,"wakeMode":"now","enabled":true}`},
		{`{"name":" ","schedule":{"kind":"every","everyMs":1},"payload":{"kind":"systemEvent","text":"x"}}`,
			`{"name":"x","schedule":{"kind":"every","everyMs":1},"payload":{"kind":"systemEvent","text":"x"},"wakeMode":"now","enabled":true,"sessionTarget":"main"}`},
		{`{"name":7,"schedule":{"kind":"every","everyMs":1},"payload":{"kind":"systemEvent","text":"x"}}`,
			`{"name":"x","schedule":{"kind":"every","everyMs":1},"payload":{"kind":"systemEvent","text":"x"},"wakeMode":"now","enabled":true,"sessionTarget":"main"}`},
		{`{"schedule":{"kind":5,"at":1e300},"payload":{"kind":"other"}}`,
			`{"schedule":{"kind":5,"at":1e+300},"payload":{"kind":"other"},"wakeMode":"now","enabled":true,"name":"Cron job"}`},
	} {
		if got := string(wire.Stringify(NormalizeCronAdd(wire.MustParse(c.in)))); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	for expr, want := range map[string]bool{"0 * * * *": true, "0 */2 * * *": true, "0 0 * * * *": true, "0 9 * * *": false, "5 * * * *": false, "1 0 * * * *": false, "": false} {
		if onTheHour(expr) != want {
			t.Errorf("onTheHour(%q) = %v", expr, !want)
		}
	}
}

func TestParseRequest(t *testing.T) {
	for _, c := range []struct{ in, id, text string }{
		{`[1,2]`, `"invalid"`, "must be object"},
		{`null`, `"invalid"`, "must be object"},
		{`"x"`, `"invalid"`, "must be object"},
		{`{"type":"req","id":"","method":"m"}`, `""`, "at /id: must NOT have fewer than 1 characters"},
		{`{"type":"req","id":1.0,"method":"m"}`, `1`, "at /id: must be string"},
		{`{"type":"req","id":null,"method":"m"}`, `"invalid"`, "at /id: must be string"},
		{`{"type":"req","id":{"b":[1,2e0]},"method":7}`, `{"b":[1,2]}`, "at /id: must be string; at /method: must be string"},
		{`{"type":5,"id":"a","method":"m"}`, `"a"`, "at /type: must be string; at /type: must be equal to constant"},
		{`{"id":"a","z":1,"method":"m","3":0}`, `"a"`, "must have required property 'type'; at root: unexpected property '3'; at root: unexpected property 'z'"},
	} {
		_, bad := ParseRequest([]byte(c.in))
		if bad == nil || bad.NotJSON || string(bad.ID) != c.id || bad.Text != "invalid request frame: "+c.text || bad.Error() != bad.Text {
			t.Errorf("%s: got %+v", c.in, bad)
		}
	}
	for _, in := range []string{"", "not json", "{", `{"type":"req","id":"1","method":"m"} x`, strings.Repeat("[", 600)} {
		if _, bad := ParseRequest([]byte(in)); bad == nil || !bad.NotJSON || bad.Error() == "" {
			t.Errorf("%s: got %+v", in, bad)
		}
	}
	for in, want := range map[string]string{
		`{"type":"req","id":"a","method":"m"}`:                                            "a m false ",
		`{"params":null,"method":"m","id":"a","type":"req"}`:                              "a m true null",
		`{"type":"req","id":"a","id":"b","method":"\u006d","params":[1]}`:                 "b m true [1]",
		`{"type":"req","id":"` + strings.Repeat("i", 9) + `","method":"m.n","params":{}}`: "iiiiiiiii m.n true {}",
	} {
		r, bad := ParseRequest([]byte(in))
		if got := fmt.Sprint(r.ID, " ", r.Method, " ", r.HasParams, " ", r.Params.Raw()); bad != nil || got != want {
			t.Errorf("%s: got %q, %v", in, got, bad)
		}
	}
}

// A hostile object cannot make the text of the refusal grow without bound.
func TestTextIsBounded(t *testing.T) {
	var many strings.Builder
	many.WriteString("{")
	for i := range 100000 {
		fmt.Fprintf(&many, `"k%d":1,`, i)
	}
	many.WriteString(`"z":1}`)
	for _, in := range []string{many.String(), `{"` + strings.Repeat("k", 1<<20) + `":1}`} {
		if got := Check("node.invoke", wire.MustParse(in)); len(got) > 2*maxProblemBytes || !strings.HasPrefix(got, "invalid node.invoke params: must have") {
			t.Errorf("%d bytes: %.80s", len(got), got)
		}
	}
}

func TestTable(t *testing.T) {
	all := Methods()
	if len(all) != 129 || len(HelloMethods()) != 95 || len(HelloEvents()) != 19 {
		t.Fatalf("%d methods, %d and %d in hello", len(all), len(HelloMethods()), len(HelloEvents()))
	}
	seen := map[string]bool{}
	for i, m := range all {
		if seen[m.Name] {
			t.Errorf("%s twice", m.Name)
		}
		seen[m.Name] = true
		if got, ok := Lookup(m.Name); !ok || got != m {
			t.Errorf("Lookup(%s) = %+v, %v", m.Name, got, ok)
		}
		if !slices.Contains([]string{"operator", "node", "any"}, m.Role) || (m.Scope == "") != (m.Role != "operator") {
			t.Errorf("%s: role %q scope %q", m.Name, m.Role, m.Scope)
		}
		l := &frozenTable().rules[i]
		if m.ParamsValidated {
			l.get() // panics on a keyword that is not understood
		}
	}
	if _, ok := Lookup("nope"); ok {
		t.Error("unknown method found")
	}
	want := Method{Name: "node.invoke", Role: "operator", Scope: "operator.write", ListedInHello: true, Wired: true, ParamsValidated: true}
	if got, _ := Lookup("node.invoke"); got != want {
		t.Errorf("got %+v", got)
	}
	Methods()[0].Name, HelloMethods()[0], HelloEvents()[0] = "changed", "changed", "changed"
	if Methods()[0].Name != "health" || HelloMethods()[0] != "health" || HelloEvents()[0] != "connect.challenge" {
		t.Error("callers can change the table")
	}
}

// The regular expressions in use mean the same in Go as in JavaScript; a new one has to be looked at.
func TestPatterns(t *testing.T) {
	known := []string{anyLine, `^\d{4}-\d{2}-\d{2}$`, `^[^/\\]+$`, `^[A-Za-z0-9_./\[\]\-*]+$`, `^UTC[+-]\d{1,2}(?::[0-5]\d)?$`}
	var walk func(r *rule)
	walk = func(r *rule) {
		if r == nil {
			return
		}
		if r.pattern != nil && !slices.Contains(known, r.pattern.source) {
			t.Errorf("unknown pattern %s", r.pattern.source)
		}
		for _, b := range r.anyOf {
			walk(b)
		}
		for _, p := range r.props {
			walk(p.rule)
		}
		for _, p := range r.patterns {
			if p.pattern.source != anyLine {
				t.Errorf("unknown key pattern %s", p.pattern.source)
			}
			walk(p.rule)
		}
		walk(r.items)
		walk(r.extra)
	}
	for i, m := range Methods() {
		if m.ParamsValidated {
			walk(frozenTable().rules[i].get())
		}
	}
	for s, want := range map[string]bool{"a": true, "": true, "a\nb": false, "\r": false, "\u2028": false, "\u2029x": false} {
		if newPattern(anyLine).match(s) != want {
			t.Errorf("%q", s)
		}
	}
}

// A schema for additional properties does not occur in the frozen list, but is a keyword like the others.
func TestAdditionalPropertiesSchema(t *testing.T) {
	r := compile(wire.MustParse(`{"type":"object","properties":{"a":{}},"additionalProperties":{"type":"string"}}`))
	for in, want := range map[string]string{`{"a":1,"b":"x"}`: "", `{"b":1,"c/d":null}`: "at /b: must be string; at /c~1d: must be string"} {
		if got := r.problem(wire.MustParse(in)); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

// FuzzValidate: no parameters may panic, and the quick judgement and the full one agree.
func FuzzValidate(f *testing.F) {
	for i, s := range []string{`{}`, `{"id":"a","patch":{"delivery":{"mode":"none"}}}`, `{"file":{"version":1,"agents":{"a":{"allowlist":[{"pattern":"x"}]}}}}`,
		`{"schedule":{"kind":"at","at":5},"payload":{"kind":"agentTurn","message":"m"}}`, `[]`, `{"client":{"id":"cli"}}`} {
		f.Add(uint8(i*17), []byte(s))
	}
	methods := Methods()
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		v, err := wire.Parse(data)
		if err != nil {
			return
		}
		m := methods[int(which)%len(methods)]
		Check(m.Name, v)
		if !m.ParamsValidated {
			return
		}
		r := frozenTable().rules[int(which)%len(methods)].get()
		quick := r.check(v, nil, nil)
		var c collector
		full := r.check(v, nil, &c)
		if quick != full || quick != (c.count == 0) || len(c.text) > 2*maxProblemBytes+2 {
			t.Fatalf("%s %q: quick %v, full %v, %q", m.Name, data, quick, full, c.text)
		}
	})
}

// FuzzParseRequest: every message is a request, a bad frame with an id and a text, or not JSON.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"type":"req","id":"1","method":"health","params":{}}`))
	f.Add([]byte(`{"type":"req","id":[{"a":1e400}],"x":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, bad := ParseRequest(data)
		switch {
		case bad == nil:
			if r.ID == "" || r.Method == "" || r.HasParams != r.Params.Exists() {
				t.Fatalf("%q: %+v", data, r)
			}
		case bad.NotJSON:
			if bad.ID != nil || bad.Text != "" {
				t.Fatalf("%q: %+v", data, bad)
			}
		default:
			if _, err := wire.Parse(bad.ID); err != nil || !strings.HasPrefix(bad.Text, "invalid request frame: ") {
				t.Fatalf("%q: %+v", data, bad)
			}
			wire.MustParse(string(wire.AppendErrorRawID(nil, bad.ID, wire.ErrorShape{Code: "INVALID_REQUEST", Message: bad.Text})))
		}
	})
}

var invokeFrame = []byte(`{"type":"req","id":"2f1c7f0e-5a55-4b6b-9d6c-0f5d0c2a7b11","method":"node.invoke","params":{"nodeId":"mac-studio","command":"system.which","params":{"bins":["git","go"]},"timeoutMs":5000,"idempotencyKey":"k-1"}}`)

func BenchmarkParseRequest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, bad := ParseRequest(invokeFrame); bad != nil {
			b.Fatal(bad)
		}
	}
}

func BenchmarkCheckNodeInvoke(b *testing.B) {
	r, bad := ParseRequest(invokeFrame)
	if bad != nil {
		b.Fatal(bad)
	}
	b.ReportAllocs()
	for b.Loop() {
		if Check(r.Method, r.Params) != "" {
			b.Fatal("refused")
		}
	}
}

func BenchmarkCheckConnect(b *testing.B) {
	v := wire.MustParse(`{"minProtocol":3,"maxProtocol":3,"client":{"id":"openclaw-probe","version":"1","platform":"linux","mode":"test"},"role":"operator","scopes":["operator.read"],"auth":{"token":"t"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if Check("connect", v) != "" {
			b.Fatal("refused")
		}
	}
}

func BenchmarkRefusal(b *testing.B) {
	v := wire.MustParse(`{"x":1}`)
	b.ReportAllocs()
	for b.Loop() {
		if Check("node.invoke", v) == "" {
			b.Fatal("accepted")
		}
	}
}

// BenchmarkTable is the one-time cost of the first use and of compiling every schema.
func BenchmarkTable(b *testing.B) {
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			loadTable()
		}
	})
	b.Run("compile", func(b *testing.B) {
		t := loadTable()
		for b.Loop() {
			for i, m := range t.methods {
				if m.ParamsValidated {
					compile(t.rules[i].source)
				}
			}
		}
	})
}
