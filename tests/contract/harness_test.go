package contract

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The harness is tested against a server of a few lines: a right trace must pass, each kind of wrong
// trace must fail with a text that names the difference.

// fake answers each connection with turns[0] at once and with turns[n] after the n-th message, then
// closes with code and reason when code is not 0. <nonce> in a turn is the challenge's nonce.
type fake struct {
	turns  [][]string
	binary bool // the first turn is sent as binary messages
	code   websocket.StatusCode
	reason string
	got    chan string // every message received, up to its capacity
}

const fakeNonce = "8c9f9f2e-6f0c-4b3e-9c3c-3f5b7f9d2a11"

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxMessage)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for i, turn := range f.turns {
		if i > 0 {
			_, data, err := ws.Read(ctx)
			if err != nil {
				return
			}
			select {
			case f.got <- string(data):
			default:
			}
		}
		for _, msg := range turn {
			kind := websocket.MessageText
			if f.binary {
				kind = websocket.MessageBinary
			}
			if ws.Write(ctx, kind, []byte(strings.ReplaceAll(msg, "<nonce>", fakeNonce))) != nil {
				return
			}
		}
	}
	if f.code != 0 {
		_ = ws.Close(f.code, f.reason)
		return
	}
	_, _, _ = ws.Read(ctx) // until the client goes
}

// play replays steps against h and returns the error of the replay.
func play(t *testing.T, h http.Handler, steps string) (*world, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	s, err := parseScenario([]byte(`{"name":"t/t","steps":`+steps+`}`), "t/t")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld("/home/x", srv.Listener.Addr().(*net.TCPAddr).Port, "box")
	return w, replay(s, w)
}

const (
	challenge = `{"type":"event","event":"connect.challenge","payload":{"nonce":"<nonce>","ts":1700000000000}}`
	opened    = `{"open":"c"},{"recv":"c","frame":{"type":"event","event":"connect.challenge","payload":{"nonce":"$uuid#1","ts":"$ms"}}}`
	asked     = `{"send":"c","frame":{"type":"req","id":"r-1","method":"m","params":{}}}`
)

func TestReplay(t *testing.T) {
	t.Parallel()
	const answer = `{"type":"res","id":"r-1","ok":true,"payload":{"a":1,"b":null}}`
	recv := func(frame string) string { return opened + `,` + asked + `,{"recv":"c","frame":` + frame + `}` }
	cases := []struct {
		name  string
		fake  fake
		steps string
		want  string // part of the error; empty: must pass
	}{
		{"right", fake{turns: [][]string{{challenge}, {answer}}}, recv(answer), ""},
		{"extra key", fake{turns: [][]string{{challenge}, {answer}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"a":1}}`), "at payload.b: not in the recording"},
		{"extra key at the top", fake{turns: [][]string{{challenge}, {`{"type":"res","id":"r-1","ok":true,"error":null}`}}},
			recv(`{"type":"res","id":"r-1","ok":true}`), "at error: not in the recording"},
		{"missing key", fake{turns: [][]string{{challenge}, {answer}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"a":1,"b":null,"c":2}}`), "at payload.c: missing"},
		{"absent instead of null", fake{turns: [][]string{{challenge}, {`{"type":"res","id":"r-1","ok":true,"payload":{"a":1}}`}}},
			recv(answer), "at payload.b: missing"},
		{"null instead of absent", fake{turns: [][]string{{challenge}, {answer}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"a":1}}`), "at payload.b: not in the recording"},
		{"another value", fake{turns: [][]string{{challenge}, {answer}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"a":2,"b":null}}`), "at payload.a: another value"},
		{"text for a number", fake{turns: [][]string{{challenge}, {answer}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"a":"1","b":null}}`), "at payload.a"},
		{"loose allows more", fake{turns: [][]string{{challenge}, {answer}}},
			opened + `,` + asked + `,{"recv":"c","loose":true,"frame":{"type":"res","id":"r-1","ok":"$boolean","payload":{"a":"$number"}}}`, ""},
		{"loose does not allow less", fake{turns: [][]string{{challenge}, {answer}}},
			opened + `,` + asked + `,{"recv":"c","loose":true,"frame":{"type":"res","id":"r-1","ok":"$boolean","payload":{"x":"$any"}}}`, "at payload.x: missing"},
		{"no answer", fake{turns: [][]string{{challenge}}, code: 1000}, recv(answer), "no such frame"},
		{"two answers in order", fake{turns: [][]string{{challenge},
			{`{"type":"res","id":"r-1","ok":true,"payload":{"n":1}}`, `{"type":"res","id":"r-1","ok":true,"payload":{"n":2}}`}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"n":1}}`) + `,{"recv":"c","frame":{"type":"res","id":"r-1","ok":true,"payload":{"n":2}}}`, ""},
		{"two answers in wrong order", fake{turns: [][]string{{challenge},
			{`{"type":"res","id":"r-1","ok":true,"payload":{"n":2}}`, `{"type":"res","id":"r-1","ok":true,"payload":{"n":1}}`}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":{"n":1}}`), "at payload.n"},
		{"answers to other requests in any order", fake{turns: [][]string{{challenge},
			{`{"type":"res","id":"r-2","ok":true}`, `{"type":"res","id":"r-1","ok":true}`}}},
			recv(`{"type":"res","id":"r-1","ok":true}`) + `,{"recv":"c","frame":{"type":"res","id":"r-2","ok":true}}`, ""},
		{"events stay queued, seq is not compared", fake{turns: [][]string{{challenge},
			{`{"type":"event","event":"e","payload":{"action":"a"},"seq":4,"stateVersion":{"presence":1,"health":2}}`,
				`{"type":"event","event":"e","payload":{"action":"b"},"seq":5}`, answer}}},
			recv(answer) + `,{"recv":"c","frame":{"type":"event","event":"e","payload":{"action":"b"}}}` +
				`,{"recv":"c","frame":{"type":"event","event":"e","payload":{"action":"a"},"seq":99}}`, ""},
		{"another event of that name", fake{turns: [][]string{{challenge}, {`{"type":"event","event":"e","payload":{"x":1}}`}}},
			recv(`{"type":"event","event":"e","payload":{"x":2}}`), "at payload.x"},
		{"presence that does not fit is passed over", fake{turns: [][]string{{challenge},
			{`{"type":"event","event":"presence","payload":{"n":1}}`, `{"type":"event","event":"presence","payload":{"n":2}}`}}},
			recv(`{"type":"event","event":"presence","payload":{"n":2}}`), ""},
		{"presence that never fits", fake{turns: [][]string{{challenge},
			{`{"type":"event","event":"presence","payload":{"n":1}}`}}, code: 1000},
			recv(`{"type":"event","event":"presence","payload":{"n":2}}`), "at payload.n"},
		{"silent", fake{turns: [][]string{{challenge}, {`{"type":"event","event":"other","payload":{}}`}}},
			opened + `,` + asked + `,{"silent":"c","event":"e","ms":50}`, ""},
		{"event in silent", fake{turns: [][]string{{challenge}, {`{"type":"event","event":"e","payload":{}}`}}},
			opened + `,` + asked + `,{"silent":"c","event":"e","ms":5000}`, "no event e was to come"},
		{"event before silent", fake{turns: [][]string{{challenge, `{"type":"event","event":"e","payload":{}}`}, {answer}}},
			recv(answer) + `,{"silent":"c","event":"e","ms":0}`, "no event e was to come"},
		{"no response", fake{turns: [][]string{{challenge}, {}}, code: 1000},
			opened + `,` + asked + `,{"noResponse":"c","id":"r-1"}`, ""},
		{"response in noResponse", fake{turns: [][]string{{challenge}, {answer}}, code: 1000},
			opened + `,` + asked + `,{"noResponse":"c","id":"r-1"}`, `no response to "r-1" was to come`},
		{"closed", fake{turns: [][]string{{challenge}, {answer}}, code: 1008, reason: "why"},
			recv(answer) + `,{"closed":"c","code":1008,"reason":"why"}`, ""},
		{"closed with another code", fake{turns: [][]string{{challenge}}, code: 1000, reason: "why"},
			opened + `,{"closed":"c","code":1008,"reason":"why"}`, "at code: another value"},
		{"closed with another reason", fake{turns: [][]string{{challenge}}, code: 1008, reason: "other"},
			opened + `,{"closed":"c","code":1008,"reason":"why"}`, "at reason"},
		{"binary from the server", fake{turns: [][]string{{challenge}}, binary: true}, opened, "binary message"},
		{"a key twice", fake{turns: [][]string{{challenge}, {`{"type":"res","id":"r-1","ok":true,"ok":true}`}}},
			recv(`{"type":"res","id":"r-1","ok":true}`), "stands twice"},
		{"response with a number as id", fake{turns: [][]string{{challenge}, {`{"type":"res","id":7,"ok":false}`}}},
			recv(`{"type":"res","id":7,"ok":false}`), ""},
		{"learned value comes back", fake{turns: [][]string{{challenge}, {`{"type":"res","id":"r-1","ok":true,"payload":"<nonce>"}`}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":"$uuid#1"}`), ""},
		{"learned value does not come back", fake{turns: [][]string{{challenge},
			{`{"type":"res","id":"r-1","ok":true,"payload":"00000000-0000-4000-8000-000000000000"}`}}},
			recv(`{"type":"res","id":"r-1","ok":true,"payload":"$uuid#1"}`), "not the value learned before"},
		{"sends what nobody told", fake{turns: [][]string{{challenge}, {}}},
			opened + `,{"send":"c","frame":{"id":"$uuid#9"}}`, "which no earlier frame has told"},
		{"connection that is not open", fake{turns: [][]string{{challenge}}}, opened + `,{"close":"d"}`, `"d" is not open`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := play(t, &c.fake, "["+c.steps+"]")
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// What is sent: learned values, also inside longer text, key order, raw text, repeats and binary.
func TestSend(t *testing.T) {
	t.Parallel()
	f := &fake{turns: [][]string{{challenge}, {}, {}, {}, {}}, got: make(chan string, 4)}
	w, err := play(t, f, `[`+opened+`,
		{"send":"c","frame":{"z":"x-$uuid#1-y","a":["$port","http://127.0.0.1:$port$home",1.50,null],"d":"$device:box.id"}},
		{"send":"c","frame":{"$text":"[1,2]"}},
		{"send":"c","frame":{"$text":{"$repeat":"ab","times":3}}},
		{"send":"c","frame":{"$binary":"7b7d"}}]`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		fmt.Sprintf(`{"z":"x-%s-y","a":[%d,"http://127.0.0.1:%d/home/x",1.50,null],"d":%q}`, fakeNonce, w.port, w.port, deviceOf("box").id),
		"[1,2]", "ababab", "{}",
	}
	for _, x := range want {
		select {
		case got := <-f.got:
			if got != x {
				t.Errorf("sent %s\nwant %s", got, x)
			}
		case <-time.After(recvTimeout):
			t.Fatal("not sent: " + x)
		}
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()
	box := deviceOf("box")
	cases := []struct {
		want, got string
		loose, ok bool
	}{
		{`"$uuid#1"`, `"8c9f9f2e-6f0c-4b3e-9c3c-3f5b7f9d2a11"`, false, true},
		{`"$uuid#1"`, `"8c9f9f2e"`, false, false},
		{`"$uuid#1"`, `7`, false, false},
		{`["$hex#1","$hex#1","$hex#2"]`, `["ab","ab","cd"]`, false, true},
		{`["$hex#1","$hex#1"]`, `["ab","cd"]`, false, false},
		{`"$hex#1"`, `"xy"`, false, false},
		{`["$token#1","http://127.0.0.1:$port/cap/$token#1"]`, `["A-b_9","http://127.0.0.1:4711/cap/A-b_9"]`, false, true},
		{`["$token#1","http://127.0.0.1:$port/cap/$token#1"]`, `["A-b_9","http://127.0.0.1:4711/cap/A-b_8"]`, false, false},
		{`["inject-$id#1","$id#1"]`, `["inject-0a1b","0a1b"]`, false, true},
		{`"$id#1 and $id#1"`, `"a and a"`, false, true},
		{`"$id#1 and $id#1"`, `"a and b"`, false, false},
		{`"{\"runId\":\"$uuid#1\",\"x\":1}"`, `"{\"runId\":\"8c9f9f2e-6f0c-4b3e-9c3c-3f5b7f9d2a11\",\"x\":1}"`, false, true},
		{`"$ms"`, `1700000000000`, false, true},
		{`"$ms"`, `1700000000`, false, false},
		{`"$ms"`, `"1700000000000"`, false, false},
		{`"$int"`, `-3`, false, true},
		{`"$int"`, `3.5`, false, false},
		{`"$number"`, `3.5`, false, true},
		{`"$iso"`, `"2026-03-17T10:11:12.123Z"`, false, true},
		{`"$iso"`, `"2026-03-17"`, false, false},
		{`"at $iso ($int years ahead)"`, `"at 2040-01-01T00:00:00.000Z (14 years ahead)"`, false, true},
		{`"$version"`, `"2026.3.17"`, false, true},
		{`"$version"`, `""`, false, false},
		{`"[$clock] Say"`, `"[Tue 2026-03-17 10:11 UTC] Say"`, false, true},
		{`"$any"`, `null`, false, true},
		{`{"a":"$any"}`, `{}`, false, false},
		{`"$notScopeError"`, `"invalid x params: no"`, false, true},
		{`"$notScopeError"`, `"missing scope: operator.admin"`, false, false},
		{`"$notScopeError"`, `"unauthorized role: node"`, false, false},
		{`["$string","$boolean","$null"]`, `["",false,null]`, true, true},
		{`"$string"`, `null`, true, false},
		{`"$null"`, `""`, true, false},
		{`[{"$each":{"a":"$string"}}]`, `[]`, true, true},
		{`[{"$each":{"a":"$string"}}]`, `[{"a":"x","b":1},{"a":"y"}]`, true, true},
		{`[{"$each":{"a":"$string"}}]`, `[{"a":"x"},{"a":1}]`, true, false},
		{`[]`, `[1]`, true, false},
		{`[1,2]`, `[2,1]`, false, false},
		{`[1]`, `[1,2]`, false, false},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, false, true},
		{`"$home/.openclaw"`, `"/home/x/.openclaw"`, false, true},
		{`"$port"`, `4711`, false, true},
		{`"$port"`, `4712`, false, false},
		{`"$host"`, `"box"`, false, true},
		{`"$device:box.id"`, `"` + box.id + `"`, false, true},
		{`"$device:box.publicKey"`, `"` + box.publicKey + `"`, false, true},
		{`"$device:bax.id"`, `"` + box.id + `"`, false, false},
		{`{"$device:box.id":1}`, `{"` + box.id + `":1}`, false, true},
		{`"costs $5 (a.b)"`, `"costs $5 (a.b)"`, false, true},
		{`"$home a.b"`, `"/home/x aXb"`, false, false},
		{`1`, `1.0`, false, true},
		{`1`, `true`, false, false},
		{`null`, `{}`, false, false},
		{`{}`, `null`, false, false},
	}
	for _, c := range cases {
		want, err := parse([]byte(c.want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse([]byte(c.got))
		if err != nil {
			t.Fatal(err)
		}
		m := newWorld("/home/x", 4711, "box").matcher(c.loose)
		if ok := m.value("", want, got); ok != c.ok {
			t.Errorf("%s against %s: %v, want %v %v", c.want, c.got, ok, c.ok, m.diffs)
		}
	}
}

// The vector of protocol.md §4.5.
func TestSignVector(t *testing.T) {
	t.Parallel()
	v, err := parse([]byte(`{"client":{"id":"openclaw-macos","mode":"ui","platform":" macOS 15.3 ","deviceFamily":"Mac"},
		"scopes":["operator.admin","operator.read"],"auth":{"token":"tok","deviceToken":"other"}}`))
	if err != nil {
		t.Fatal(err)
	}
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key := ed25519.NewKeyFromSeed(seed)
	const id = "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"
	for version, want := range map[string]string{
		"v3": "H9P_Qc9aNUtY7XrBmaODGfKCtThUpjpm-chiegHCp00-1v_96l851xagewpWkC6BnFaINPWV_vG01FjLSncpBg",
		"v2": "oXb5HorQvMB5v7g86e-new53YBCuQaOO5EvLkRmGJHCkKdBhaDqMM_qFsdPfW0EU8_f1ZMMHybwXvmDvzfyHCA",
	} {
		text, err := signPayload(version, id, v.(*object), "1700000000000", "nonce-1")
		if err != nil {
			t.Fatal(err)
		}
		if got := base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text))); got != want {
			t.Errorf("%s: signed %q\ngot  %s\nwant %s", version, text, got, want)
		}
	}
}

func TestSignBlock(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1700000000000)
	d := deviceOf("box")
	cases := []struct {
		name, block, nonce, signedAt string
		valid                        bool
	}{
		{"plain", `{"device":"box","version":"v3"}`, "n1", "1700000000000", true},
		{"v1", `{"device":"box","version":"v1"}`, "n1", "1700000000000", false},
		{"skew", `{"device":"box","version":"v3","skewMs":-600000}`, "n1", "1699999400000", true},
		{"tampered", `{"device":"box","version":"v3","tamper":"signature"}`, "n1", "1700000000000", false},
		{"other nonce", `{"device":"box","version":"v3","nonce":"n2"}`, "n2", "1700000000000", true},
		{"override", `{"device":"box","version":"v3","override":{"signedAt":5}}`, "n1", "5", false},
	}
	for _, c := range cases {
		v, err := parse([]byte(`{"client":{"id":"cli","mode":"cli","platform":"linux"},"device":{"$sign":` + c.block + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		p := v.(*object)
		if err := sign(p, "n1", now); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		b := p.obj("device")
		if b.str("id") != d.id || b.str("publicKey") != d.publicKey || b.str("nonce") != c.nonce || fmt.Sprint(b.vals["signedAt"]) != c.signedAt {
			t.Errorf("%s: %s", c.name, shown(b))
		}
		sig, err := base64.RawURLEncoding.DecodeString(b.str("signature"))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join([]string{"v3", d.id, "cli", "cli", "operator", "", c.signedAt, "", c.nonce, "linux", ""}, "|")
		if ok := ed25519.Verify(d.key.Public().(ed25519.PublicKey), []byte(text), sig); ok != c.valid {
			t.Errorf("%s: signature valid %v, want %v", c.name, ok, c.valid)
		}
	}
	for _, bad := range []string{`{"device":"a","version":"v9"}`, `{"device":"a","version":"v3","tamper":"x"}`, `{"device":"a","version":"v3","y":1}`} {
		v, err := parse([]byte(`{"device":{"$sign":` + bad + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if sign(v.(*object), "n", now) == nil {
			t.Errorf("$sign %s was taken", bad)
		}
	}
}

func TestHTTPStep(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/json" && r.Header.Get("X-A") == "b":
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			_, _ = w.Write([]byte(`{"ok":true,"n":null}`))
		case r.URL.Path == "/html":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<p>"))
		default:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte("Not Found"))
		}
	})
	const ask = `"http":{"method":"GET","path":"/json","headers":{"x-a":"b"}},"contentType":"application/json; charset=utf-8"`
	cases := []struct{ step, want string }{
		{`{` + ask + `,"status":200,"json":{"ok":true,"n":null}}`, ""},
		{`{` + ask + `,"status":200,"responseHeaders":{"cache-control":"no-store"}}`, ""},
		{`{` + ask + `,"status":200,"responseHeaders":{"cache-control":"max-age=1"}}`, "at responseHeaders.cache-control"},
		{`{` + ask + `,"status":201,"json":{"ok":true,"n":null}}`, "at status"},
		{`{` + ask + `,"status":200,"json":{"ok":true}}`, "at json.n: not in the recording"},
		{`{"http":{"method":"GET","path":"/html"},"status":200,"contentType":"text/html; charset=utf-8","text":"<html>"}`, ""},
		{`{"http":{"method":"GET","path":"/html"},"status":200,"contentType":"text/plain; charset=utf-8","text":"<p>"}`, "at contentType"},
		{`{"http":{"method":"GET","path":"/html"},"status":200,"contentType":"application/json","json":{}}`, "not JSON"},
		{`{"http":{"method":"POST","path":"/x","body":{}},"status":404,"contentType":"text/plain; charset=utf-8","text":"Not Found"}`, ""},
		{`{"http":{"method":"POST","path":"/x","body":"{bad"},"status":404,"contentType":"text/plain; charset=utf-8","text":"Not"}`, "at text"},
	}
	for _, c := range cases {
		_, err := play(t, h, "["+c.step+"]")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s\nwant %q, got %v", c.step, c.want, err)
		}
	}
}

func TestDeviations(t *testing.T) {
	t.Parallel()
	folder := func(t *testing.T, source string) []*scenario {
		t.Helper()
		s, err := parseScenario([]byte(`{"steps":[{"http":{"method":"GET","path":"/h"},"status":200,"text":"x"},{"wait":1}]}`), "g/a")
		if err != nil {
			t.Fatal(err)
		}
		s.source = source
		return []*scenario{s}
	}
	const row = "- {id: a, area: b, original: c, hanzod: d, reason: e, overrides: ["
	cases := []struct{ name, yaml, want string }{
		{"by step", row + `{file: g/a, step: 1, with: {status: 204}}]}`, ""},
		{"by match", row + `{match: {http: {method: GET|HEAD, path: /h}}, with: {status: 204}}]}`, ""},
		{"no such file", row + `{file: g/b, step: 1, with: {status: 204}}]}`, "no recording"},
		{"no such step", row + `{file: g/a, step: 3, with: {status: 204}}]}`, "no step 3"},
		{"changes nothing", row + `{file: g/a, step: 1, with: {status: 200, text: x}}]}`, "equals the recording"},
		{"matches nothing", row + `{match: {http: {method: POST, path: /h}}, with: {status: 204}}]}`, "no step"},
		{"skip", row + `{file: g/a, step: 1, skip: true, with: {status: 204}}]}`, "skip"},
		{"skip a row", "- {id: a, area: b, original: c, hanzod: d, reason: e, skip: true}", "skip"},
		{"no reason", "- {id: a, area: b, original: c, hanzod: d}", "must be there"},
		{"unknown member", row + `{file: g/a, step: 1, with: {frame: 1}}]}`, `"frame"`},
		{"no override", "- {id: a, area: b, original: c, hanzod: d, reason: e}", ""},
	}
	for _, c := range cases {
		own, other := folder(t, ""), folder(t, "1-x")
		rows, err := parseDeviations([]byte(c.yaml))
		if err == nil {
			err = deviate(rows, own, other)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: want %q, got %v", c.name, c.want, err)
		}
		if c.want == "" && len(rows[0].Overrides) > 0 {
			for _, s := range slices.Concat(own, other) {
				if got := shown(s.steps[0]); got != `{"http":{"method":"GET","path":"/h"},"status":204}` || !s.deviates {
					t.Errorf("%s: step became %s", c.name, got)
				}
			}
		}
	}
}

// Every recording here must be one that the harness can play: no unknown members, no mark that is sent
// before it is told, no deviation that went stale.
func TestRecordingsLoad(t *testing.T) {
	t.Parallel()
	for _, s := range recordings(t) {
		w := newWorld("/h", 1, "h")
		for i, step := range s.steps {
			for _, m := range markRE.FindAllStringSubmatch(string(encode(step)), -1) {
				if _, ok := w.learned[m[1]]; m[1] != "" && !ok && step.vals["send"] != nil {
					t.Errorf("%s step %d sends %s before it is told", s.title(), i+1, m[0])
				}
				w.learned[m[1]] = "x"
			}
		}
	}
}
