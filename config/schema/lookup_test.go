package schema

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config/json5"
)

// TestRecordedLookups compares with what the original answered.
func TestRecordedLookups(t *testing.T) {
	data, err := os.ReadFile("../../fixtures/gateway/state/fresh-reads.json")
	if err != nil {
		t.Fatal(err)
	}
	type hint struct {
		Label, Help string
		Tags        []string
		Sensitive   bool
	}
	type child struct {
		Key, Path, Type, HintPath string
		Required, HasChildren     bool
		Hint                      *hint
	}
	type frame struct {
		ID      string
		Method  string
		Params  struct{ Path string }
		Payload struct {
			Path, HintPath string
			Schema         any
			Hint           *hint
			Children       []child
		}
	}
	var scenario struct {
		Steps []struct{ Frame json.RawMessage }
	}
	if err := json.Unmarshal(data, &scenario); err != nil {
		t.Fatal(err)
	}
	asked := map[string]string{}
	n := 0
	secret := func(path []string) bool { return strings.Contains(path[len(path)-1], "oken") }
	shape := func(h *Hint) (*hint, string) {
		if h == nil {
			return nil, ""
		}
		return &hint{h.Label, h.Help, h.Tags, h.Sensitive}, h.Path
	}
	for _, s := range scenario.Steps {
		var f frame
		if json.Unmarshal(s.Frame, &f) != nil {
			continue
		}
		if f.Method == "config.schema.lookup" {
			asked[f.ID] = f.Params.Path
			continue
		}
		path, ok := asked[f.ID]
		if !ok || f.Payload.Path == "" {
			continue
		}
		n++
		got, ok := Find(path, secret)
		if !ok {
			t.Errorf("%s is not found", path)
			continue
		}
		own := frame{ID: f.ID}
		own.Payload.Path, own.Payload.Schema, own.Payload.Children = got.Path, got.Schema.Value(), []child{}
		own.Payload.Hint, own.Payload.HintPath = shape(got.Hint)
		for _, c := range got.Children {
			h, at := shape(c.Hint)
			own.Payload.Children = append(own.Payload.Children, child{c.Key, c.Path, c.Type, at, c.Required, c.HasChildren, h})
		}
		if d := cmp.Diff(f, own); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	if n != 2 {
		t.Errorf("%d lookups recorded", n)
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct{ path, found, children string }{
		{"agents.list[].identity", "agents.list.*.identity", "name theme emoji avatar"},
		{" agents.list[0].identity. ", "agents.list.0.identity", "name theme emoji avatar"},
		{"agents.list.*", "agents.list.*", "id default name workspace agentDir model skills memorySearch humanDelay heartbeat identity groupChat subagents sandbox tools runtime"},
		{"agents.list", "agents.list", "*"},
		{"models.providers.x.models.*.cost", "models.providers.x.models.*.cost", "input output cacheRead cacheWrite"},
		{"env", "env", "shellEnv vars *"},
		{"broadcast", "broadcast", "strategy *"},
		{"no.such.path", "", ""},
		{"gateway.port.x", "", ""},
		{"agents.list.x", "", ""},
		{".", "", ""},
		{"__proto__", "", ""},
		{strings.Repeat("a.", 40), "", ""},
	} {
		got, ok := Find(c.path, nil)
		if ok != (c.found != "") || got.Path != c.found {
			t.Errorf("%s: %q %v", c.path, got.Path, ok)
			continue
		}
		var keys []string
		for _, child := range got.Children {
			keys = append(keys, child.Key)
		}
		if d := cmp.Diff(c.children, strings.Join(keys, " ")); d != "" {
			t.Errorf("%s: %s", c.path, d)
		}
	}
}

func TestJSONSchema(t *testing.T) {
	s := Root().JSONSchema()
	if s.Get("title").Str != "BotConfig" || s.Get("additionalProperties").Bool || s.Get("$schema") != nil {
		t.Error("the root")
	}
	for path, want := range map[string]string{
		"gateway.port":                          `{"type":"integer","exclusiveMinimum":0,"maximum":9007199254740991}`,
		"session.agentToAgent.maxPingPongTurns": `{"type":"integer","minimum":0,"maximum":5}`,
		"discovery.mdns.mode":                   `{"type":"string","enum":["off","minimal","full"]}`,
		"cli.banner.taglineMode":                `{"anyOf":[{"type":"string","const":"random"},{"type":"string","const":"default"},{"type":"string","const":"off"}]}`,
		"commands.restart":                      `{"default":true,"type":"boolean"}`,
		"auth.order":                            `{"type":"object","propertyNames":{"type":"string"},"additionalProperties":{"type":"array","items":{"type":"string"}}}`,
	} {
		n := s
		for key := range strings.SplitSeq(path, ".") {
			n = n.At("properties", key)
		}
		w, err := json5.Parse([]byte(want))
		if err != nil || !json5.Equal(n, w) {
			t.Errorf("%s: %s", path, json5.Format(n))
		}
	}
	if n := s.At("properties", "gateway", "properties", "auth", "properties", "token", "anyOf"); n == nil || len(n.Items) != 2 || len(n.Items[1].Get("oneOf").Items) != 3 {
		t.Error("secrets")
	}
}

func TestHints(t *testing.T) {
	hints := map[string]Hint{}
	for _, h := range Hints(nil) {
		if h.Label == "" || h.Help == "" || len(h.Tags) == 0 {
			t.Errorf("%+v", h)
		}
		hints[h.Path] = h
	}
	if g := hints["gateway"]; g.Order != 30 || g.Group != "Gateway" || g.Label != "Gateway" {
		t.Errorf("%+v", g)
	}
	if _, ok := hints["gateway.auth.iam"]; ok {
		t.Error("gateway.auth.iam has a hint")
	}
	if h := hints["channels.telegram.accounts.*.botToken"]; !h.Sensitive {
		t.Errorf("%+v", h)
	}
}

func FuzzFind(f *testing.F) {
	for _, s := range []string{"gateway.auth", "agents.list[].id", "a[*].b", "....", "agents.list[0][1]", "channels.*.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := Find(path, nil)
		if !ok {
			return
		}
		again, ok := Find(got.Path, nil)
		if !ok || again.Path != got.Path || len(again.Children) != len(got.Children) {
			t.Fatalf("%q is %q, which is %q", path, got.Path, again.Path)
		}
		for _, c := range got.Children {
			if _, ok := Find(c.Path, nil); !ok {
				t.Fatalf("%q has the child %q, which is not there", path, c.Path)
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		"{gateway:{port:1}}", "{agents:{list:[{id:'a',model:{primary:'x'}}]}}", "{bindings:[{agentId:'a',match:{channel:'x'}}]}", "[]",
		"{channels:{telegram:{botToken:{source:'env',id:'A'}}},commands:{native:'auto'}}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := json5.Parse([]byte(text))
		if err != nil {
			return
		}
		issues := Root().Check(n)
		ordered := Root().Ordered(n, false)
		if !json5.Equal(n, ordered) {
			t.Fatal("the order changes the value")
		}
		if again := Root().Check(ordered); len(issues) != len(again) {
			t.Fatalf("%v, in order %v", issues, again)
		}
		if len(issues) == 0 {
			if again := Root().Check(Root().Ordered(n, true)); len(again) > 0 {
				t.Fatalf("with defaults: %v", again)
			}
		}
	})
}
