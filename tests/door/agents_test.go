package door

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// step is one call as each door has it: the legacy method, and verb and path of REST; gRPC takes the
// parameters of REST with those of the path.
type step struct {
	legacy string
	params object
	verb   string
	path   string
	body   object
	grpc   func(context.Context, *client.Client) (proto.Message, error)
}

// agentStory changes agents, their files and skills in every way that there is. The legacy door shows what
// it changed later, so each step is about another agent.
func agentStory(ws string) []step {
	return []step{
		{"agents.create", object{"name": "New One", "workspace": ws + "/new", "emoji": "🛠"}, "POST", "/v1/agents", object{"name": "New One", "workspace": ws + "/new", "emoji": "🛠"},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.CreateAgent(ctx, &agentsv1.CreateAgentRequest{Name: "New One", Workspace: ws + "/new", Emoji: "🛠"})
			}},
		{"agents.create", object{"name": "main", "workspace": ws + "/x"}, "POST", "/v1/agents", object{"name": "main", "workspace": ws + "/x"},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.CreateAgent(ctx, &agentsv1.CreateAgentRequest{Name: "main", Workspace: ws + "/x"})
			}},
		{"agents.update", object{"agentId": "b", "name": "Bee", "model": "openai/gpt-5.4"}, "PATCH", "/v1/agents/b", object{"name": "Bee", "model": "openai/gpt-5.4"},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.UpdateAgent(ctx, &agentsv1.UpdateAgentRequest{AgentId: "b", Name: "Bee", Model: "openai/gpt-5.4"})
			}},
		{"agents.files.set", object{"agentId": "c", "name": "SOUL.md", "content": "soul ü\n"}, "PUT", "/v1/agents/c/files/SOUL.md", object{"content": "soul ü\n"},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.SetAgentFile(ctx, &agentsv1.SetAgentFileRequest{AgentId: "c", Name: "SOUL.md", Content: "soul ü\n"})
			}},
		{"agents.files.set", object{"agentId": "c", "name": "evil.md", "content": "x"}, "PUT", "/v1/agents/c/files/evil.md", object{"content": "x"},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.SetAgentFile(ctx, &agentsv1.SetAgentFileRequest{AgentId: "c", Name: "evil.md", Content: "x"})
			}},
		{"agents.files.get", object{"agentId": "c", "name": "SOUL.md"}, "GET", "/v1/agents/c/files/SOUL.md", nil,
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.GetAgentFile(ctx, &agentsv1.GetAgentFileRequest{AgentId: "c", Name: "SOUL.md"})
			}},
		{"agents.files.list", object{"agentId": "nobody"}, "GET", "/v1/agents/nobody/files", nil,
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.ListAgentFiles(ctx, &agentsv1.ListAgentFilesRequest{AgentId: "nobody"})
			}},
		{"agents.delete", object{"agentId": "d"}, "DELETE", "/v1/agents/d", nil,
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.DeleteAgent(ctx, &agentsv1.DeleteAgentRequest{AgentId: "d"})
			}},
		{"agents.delete", object{"agentId": "main"}, "DELETE", "/v1/agents/main", nil,
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.DeleteAgent(ctx, &agentsv1.DeleteAgentRequest{AgentId: "main"})
			}},
		{"skills.update", object{"skillKey": "weather", "enabled": false, "apiKey": "sk-1", "env": object{"A": "1"}}, "PATCH", "/v1/skills/weather",
			object{"enabled": false, "apiKey": "sk-1", "env": object{"A": "1"}},
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				off, key := false, "sk-1"
				return c.Skills.UpdateSkill(ctx, &agentsv1.UpdateSkillRequest{SkillKey: "weather", Enabled: &off, ApiKey: &key, Env: map[string]string{"A": "1"}})
			}},
		{"agent.identity.get", object{"agentId": "c"}, "GET", "/v1/agents/c/identity", nil,
			func(ctx context.Context, c *client.Client) (proto.Message, error) {
				return c.Agents.GetAgentIdentity(ctx, &agentsv1.GetAgentIdentityRequest{AgentId: "c"})
			}},
	}
}

// What agents are asked and told has the same effect at every door: on the configuration file, in the
// workspaces, in the trash. And none of them tells a key.
func TestAgentsAtEveryDoor(t *testing.T) {
	type outcome struct {
		Steps []string
		Files map[string]string
	}
	var first *outcome
	for _, door := range []string{"grpc", "rest", "legacy"} {
		ws := t.TempDir()
		entry := func(id string) object { return object{"id": id, "workspace": filepath.Join(ws, id)} }
		d := hanzodtest.Start(t, hanzodtest.Options{Config: object{"agents": object{
			"list": []any{entry("a"), entry("b"), entry("c"), entry("d")}, "defaults": object{"heartbeat": object{"every": "0m"}},
		}, "bindings": []any{object{"agentId": "d", "match": object{"channel": "x"}}}}})
		if err := os.MkdirAll(filepath.Join(ws, "d"), 0o700); err != nil {
			t.Fatal(err)
		}
		c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket(), ClientName: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ask := &overREST{tb: t, d: d}
		var ws3 *legacy
		if door == "legacy" {
			var hello object
			ws3, hello = connect(t, d.WS(), params("operator", d.Token, []string{"operator.admin"}, nil), nil)
			if hello["ok"] != true {
				t.Fatal(hello)
			}
		}
		got := outcome{Files: map[string]string{}}
		var said strings.Builder
		for _, s := range agentStory(filepath.ToSlash(ws)) {
			done := "ok"
			switch door {
			case "grpc":
				out, err := s.grpc(context.Background(), c)
				if err != nil {
					done = "refused"
				} else if b, err := protojson.Marshal(out); err == nil {
					said.Write(b)
				}
			case "rest":
				var body any
				if s.body != nil {
					body = s.body
				}
				out, refused := ask.do(s.verb, s.path, body)
				if refused != "" {
					done = "refused"
				}
				fmt.Fprint(&said, out)
			case "legacy":
				f := ws3.call(s.legacy, s.params)
				if f["ok"] != true {
					done = "refused"
				}
				b, _ := json.Marshal(f)
				said.Write(b)
			}
			got.Steps = append(got.Steps, s.legacy+" "+done)
		}
		if strings.Contains(said.String(), "sk-1") {
			t.Errorf("%s tells the key", door)
		}
		stamps := regexp.MustCompile(`\d{8}T\d{6}Z-d-[a-z0-9]+|"lastTouchedAt": "[^"]*"|"port": \d+`)
		for _, dir := range []string{ws, filepath.Join(d.StateDir, "trash"), filepath.Join(d.StateDir, "config.json")} {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() || strings.HasSuffix(path, "workspace-state.json") {
					return err
				}
				text, err := os.ReadFile(path)
				clean := strings.NewReplacer(ws, "WS", filepath.ToSlash(ws), "WS", d.StateDir, "STATE")
				got.Files[stamps.ReplaceAllString(clean.Replace(path), "STAMP")] = stamps.ReplaceAllString(clean.Replace(string(text)), "STAMP")
				return err
			})
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		if first == nil {
			first = &got
			if len(got.Files) < 9 || got.Steps[0] != "agents.create ok" || got.Steps[1] != "agents.create refused" {
				t.Errorf("the story did not happen: %+v", got)
			}
			continue
		}
		if diff := cmp.Diff(*first, got); diff != "" {
			t.Errorf("%s differs from grpc:\n%s", door, diff)
		}
	}
}

// A removed agent takes its sessions along: none is left without its transcript, also for the next daemon.
func TestDeletedAgentsSessions(t *testing.T) {
	ctx := context.Background()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	dial := func(d *hanzodtest.Daemon) (*client.Client, *legacy) {
		c, err := client.Dial(ctx, client.Options{Socket: d.Socket(), ClientName: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		l, _ := connect(t, d.WS(), params("operator", d.Token, []string{"operator.admin"}, nil), nil)
		return c, l
	}
	must := func(f object) object {
		t.Helper()
		if f["ok"] != true {
			t.Fatal(f)
		}
		out, _ := f["payload"].(object)
		return out
	}
	c, l := dial(d)
	if _, err := c.Agents.CreateAgent(ctx, &agentsv1.CreateAgentRequest{Name: "gone", Workspace: filepath.Join(d.StateDir, "workspace-gone")}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"agent:gone:main", "agent:gone:other", "agent:main:mine"} {
		must(l.call("sessions.patch", object{"key": key, "label": key}))
		must(l.call("chat.inject", object{"sessionKey": key, "message": "hello"}))
	}
	out, err := c.Agents.DeleteAgent(ctx, &agentsv1.DeleteAgentRequest{AgentId: "gone"})
	if err != nil || len(out.GetKept()) > 0 {
		t.Fatal(out, err)
	}
	aside, _ := filepath.Glob(filepath.Join(out.GetTrash(), "sessions", "*.jsonl.deleted.*"))
	if len(aside) != 2 {
		t.Errorf("in the trash are %v", aside)
	}
	check := func(l *legacy) {
		t.Helper()
		list, _ := must(l.call("sessions.list", object{}))["sessions"].([]any)
		if len(list) != 1 || list[0].(object)["key"] != "agent:main:mine" {
			t.Errorf("sessions left: %v", list)
		}
		msgs, _ := must(l.call("chat.history", object{"sessionKey": "agent:main:mine"}))["messages"].([]any)
		if len(msgs) != 1 {
			t.Errorf("the past of another session: %v", msgs)
		}
	}
	check(l)
	l.close()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	_, l = dial(hanzodtest.Start(t, hanzodtest.Options{StateDir: d.StateDir}))
	check(l)
}
