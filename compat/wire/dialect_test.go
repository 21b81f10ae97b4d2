package wire

import (
	"strings"
	"testing"
)

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		params  string
		version int
		marker  string
		own     bool
	}{
		{`{"role":"node","minProtocol":1,"maxProtocol":1,"client":{"id":"x"}}`, 1, "/__openclaw__/cap/", false},
		{`{"role":"node","minProtocol":1,"maxProtocol":2,"client":{"id":"hanzo-bot-android"}}`, 1, "/__openclaw__/cap/", false},
		{`{"role":"node","minProtocol":1,"maxProtocol":3,"client":{"id":"bot-ios"}}`, 3, "/__bot__/cap/", false},
		{`{"role":"node","minProtocol":2,"maxProtocol":2}`, 3, "/__openclaw__/cap/", false},
		{`{"role":"node","minProtocol":"1","maxProtocol":1}`, 3, "/__openclaw__/cap/", false},
		{`{"role":"operator","minProtocol":1,"maxProtocol":1,"client":{"id":"hanzo-bot-android"}}`, 3, "/__bot__/cap/", true},
		{`{"minProtocol":3,"maxProtocol":3,"client":{"id":"bot-android"}}`, 3, "/__bot__/cap/", true},
		{`{"minProtocol":3,"maxProtocol":3,"client":{"id":"moltbot-ios"}}`, 3, "/__openclaw__/cap/", false},
		{`{"minProtocol":3,"maxProtocol":3,"client":{"id":"bot-control-ui"}}`, 3, "/__openclaw__/cap/", false},
		{`{"client":7}`, 3, "/__openclaw__/cap/", false}, {`[]`, 3, "/__openclaw__/cap/", false}, {`null`, 3, "/__openclaw__/cap/", false},
	} {
		d := Negotiate(MustParse(c.params))
		if d.Version != c.version || d.CanvasMarker() != c.marker || d.OwnOrigin() != c.own {
			t.Errorf("%s: %+v %s", c.params, d, d.CanvasMarker())
		}
	}
	if d := Negotiate(Value{}); d.Version != 3 {
		t.Errorf("%+v", d)
	}
}

func TestFrozen(t *testing.T) {
	const older = `"role":"node","minProtocol":1,"maxProtocol":1`
	for _, c := range []struct{ connect, method, params, want string }{
		{`{` + older + `,"client":{"id":"a b","displayName":"","version":"","platform":"x"}}`, "connect", "", `{` + older + `,"client":{"id":"node-host","version":"0","platform":"x"}}`},
		{`{` + older + `,"client":{"id":"a","displayName":"n","version":"2"}}`, "connect", "", `{` + older + `,"client":{"id":"node-host","displayName":"n","version":"2"}}`},
		{`{` + older + `,"client":{"id":"a"}}`, "connect", "", `{` + older + `,"client":{"id":"node-host","version":"0"}}`},
		{`{` + older + `,"client":{"id":" a"}}`, "connect", "", `{` + older + `,"client":{"id":" a","version":"0"}}`},
		{`{` + older + `,"client":{"id":7,"displayName":8,"version":9}}`, "connect", "", `{` + older + `,"client":{"id":7,"displayName":8,"version":9}}`},
		{`{"client":{"id":"bot-ios","version":""},"device":{"id":"d"}}`, "connect", "", `{"client":{"id":"openclaw-ios","version":""},"device":{"id":"d","nonce":"-"}}`},
		{`{"client":{"id":"bot-ios"},"device":{"nonce":"n"}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{"nonce":"n"}}`},
		{`{"client":{"id":"bot-ios"},"device":{"nonce":""}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{"nonce":"-"}}`},
		{`{"client":{"id":"bot-ios"},"device":{"nonce":7}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{"nonce":7}}`},
		{`{"client":{"id":"bot-ios"},"device":{}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{"nonce":"-"}}`},
		{`{"client":{"id":"moltbot-ios"},"device":{}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{}}`},
		{`{"client":{"id":"openclaw-ios"},"device":{}}`, "connect", "", `{"client":{"id":"openclaw-ios"},"device":{}}`},
		{`{"client":{"id":"bot-ios"}}`, "node.event", `{"event":"e","payloadJSON":null}`, `{"event":"e"}`},
		{`{"client":{"id":"node-host"}}`, "node.event", `{"event":"e","payloadJSON":null}`, `{"event":"e","payloadJSON":null}`},
		{`{` + older + `}`, "node.event", `{"event":"e","payloadJSON":null}`, `{"event":"e"}`},
		{`{` + older + `}`, "node.invoke.result", `{"id":"i","error":{"code":"c","details":[1]}}`, `{"id":"i","error":{"code":"c"}}`},
		{`{` + older + `}`, "node.invoke.result", `{"id":"i","error":null}`, `{"id":"i","error":null}`},
		{`{"client":{"id":"bot-ios"}}`, "node.invoke.result", `{"error":{"details":[1]}}`, `{"error":{"details":[1]}}`},
		{`{` + older + `}`, "health", `{"a":1}`, `{"a":1}`},
	} {
		connect := MustParse(c.connect)
		d, params := Negotiate(connect), connect
		if c.params != "" {
			params = MustParse(c.params)
		}
		if got := string(Stringify(d.Frozen(c.method, params))); got != c.want {
			t.Errorf("%s of %s:\ngot  %s\nwant %s", c.method, c.connect, got, c.want)
		}
	}
	d := Negotiate(MustParse(`{"client":{"id":"bot-ios"}}`))
	if d.Nonce("-") != "" || d.Nonce("n") != "n" || (Dialect{Version: Version3}).Nonce("-") != "-" {
		t.Error("nonces")
	}
}

// FuzzDialect: whatever a client sends, the dialect that it gets leaves an object an object, changes nothing for who
// speaks version 3 under a name of the frozen list, and gives a name of that list to nobody who may not have it.
func FuzzDialect(f *testing.F) {
	for _, s := range []string{
		`{"role":"node","minProtocol":1,"maxProtocol":1,"client":{"id":"a","displayName":"","version":""},"device":{"nonce":""}}`,
		`{"client":{"id":"bot-ios","id":"x"},"device":{"nonce":null}}`, `{"client":[],"device":"\ud800"}`, `{"__proto__":1,"2":1,"1":{"a":1e400}}`,
		`{"payloadJSON":null}`, `{"error":{"details":{"details":1}}}`, `7`, `[[]]`,
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, connect, params string) {
		c, err := Parse([]byte(connect))
		if err != nil {
			return
		}
		p, err := Parse([]byte(params))
		if err != nil {
			return
		}
		d := Negotiate(c)
		for method, v := range map[string]Value{"connect": c, "node.event": p, "node.invoke.result": p, "other": p} {
			got := d.Frozen(method, v)
			if got.Kind() != v.Kind() {
				t.Fatalf("%s: %s becomes %s", method, v.Kind(), got.Kind())
			}
			if again := d.Frozen(method, got); method != "connect" && string(Stringify(again)) != string(Stringify(got)) {
				t.Fatalf("%s: %s, and again %s", method, Stringify(got), Stringify(again))
			}
			if _, known := ownClients[d.ClientID]; d.Version == Version3 && !known && string(Stringify(got)) != string(Stringify(v)) {
				t.Fatalf("%s: %s becomes %s", method, Stringify(v), Stringify(got))
			}
		}
		client, _ := d.Frozen("connect", c).Get("client")
		if id, _ := client.Get("id"); id.Str() != d.ClientID && strings.TrimSpace(d.ClientID) != d.ClientID {
			t.Fatalf("%q counts as %q", d.ClientID, id.Str())
		}
	})
}
