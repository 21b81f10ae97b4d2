package agents_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// world is a service over a real configuration file.
type world struct {
	*agents.Service
	home, state, file string
	live              *live.Service
	now               time.Time
	nodes             []agents.Node
	notes             []string
}

var admin = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}

func newWorld(t testing.TB, text string) *world {
	t.Helper()
	home := t.TempDir()
	w := &world{home: home, state: filepath.Join(home, "state"), now: time.Date(2026, 3, 17, 10, 0, 0, 0, time.UTC)}
	w.file = filepath.Join(w.state, "config.json")
	if err := os.MkdirAll(w.state, 0o700); err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "$home", filepath.ToSlash(home))
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	load := config.Options{Path: w.file, StateDir: w.state, Env: func(k string) string {
		return map[string]string{"HOME": home, "HANZOD_TOKEN": "test-token-0123456789"}[k]
	}}
	cfg, err := config.Load(load)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return w.now }
	w.live = live.New(live.Config{
		Load: load, Initial: cfg, Bus: events.New(clock), Now: clock, Log: slog.New(slog.DiscardHandler), Version: "1",
		Record: func(_ context.Context, c live.Change) error { w.notes = append(w.notes, c.What); return nil },
	})
	w.Service = agents.New(agents.Config{
		Current: w.live.Current, File: w.live, Now: clock, Nodes: func() []agents.Node { return w.nodes },
	})
	return w
}

func ids(t testing.TB, s *agents.Service) []string {
	t.Helper()
	out, err := s.List(context.Background(), admin, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range out.Agents {
		all = append(all, a.ID)
	}
	return all
}

func create(t testing.TB, s *agents.Service, in agents.CreateIn) agents.CreateOut {
	t.Helper()
	out, err := s.Create(context.Background(), admin, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The default agent comes first, the others as in a dictionary, the connected nodes last.
func TestListOrder(t *testing.T) {
	w := newWorld(t, `{agents: {list: [{id: "b1"}, {id: "Zed", default: true}, {id: "b_1"}, {id: "b-1"}, {id: "b1"}, {id: "a", name: " A ", identity: {}}]}}`)
	w.nodes = []agents.Node{{ID: "Node 7", Name: "Den"}, {ID: "a", Name: "taken"}, {ID: "nameless"}}
	if got, want := ids(t, w.Service), []string{"zed", "a", "b_1", "b-1", "b1", "node-7", "nameless"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	out, _ := w.List(context.Background(), admin, struct{}{})
	if a := out.Agents[1]; a.Name != "A" || a.Identity == nil || *a.Identity != (agents.ListedIdentity{}) {
		t.Errorf("an empty identity is %+v", a)
	}
	if n := out.Agents[5]; n.Name != "Den" || n.Identity == nil || n.Identity.Name != "Den" || !n.Node {
		t.Errorf("a node is %+v", n)
	}
	if n := out.Agents[6]; n.Name != "nameless" {
		t.Errorf("a node without a name is %+v", n)
	}
}

// Without a list there are main and what has a directory.
func TestListDirectories(t *testing.T) {
	w := newWorld(t, `{}`)
	for _, d := range []string{"zoe", "amy", "main"} {
		if err := os.MkdirAll(filepath.Join(w.state, "agents", d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.state, "agents", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := ids(t, w.Service), []string{"main", "amy", "zoe"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCreateKeepsTheFile(t *testing.T) {
	w := newWorld(t, "// mine\n{\n  agents: {\n    // nobody yet\n    defaults: {heartbeat: {every: '0m'}}, // quiet\n  },\n}\n")
	out := create(t, w.Service, agents.CreateIn{Name: "Helper One", Workspace: filepath.Join(w.home, "ws"), Emoji: " 🛠\n", Avatar: "me.png"})
	if out.AgentID != "helper-one" || out.Name != "Helper One" {
		t.Errorf("%+v", out)
	}
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"// mine", "// nobody yet", "// quiet", "helper-one"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%q is gone:\n%s", part, text)
		}
	}
	if got, want := ids(t, w.Service), []string{"main", "helper-one"}; !slices.Equal(got, want) {
		t.Errorf("the default agent was not added first: %v", got)
	}
	md, err := os.ReadFile(filepath.Join(out.Workspace, "IDENTITY.md"))
	if err != nil || !strings.Contains(string(md), "\n- Name: Helper One\n- Emoji: 🛠\n- Avatar: me.png\n") {
		t.Errorf("%v: %s", err, md)
	}
	for _, name := range []string{"AGENTS.md", "SOUL.md", "TOOLS.md", "USER.md", "HEARTBEAT.md", "BOOTSTRAP.md"} {
		if b, err := os.ReadFile(filepath.Join(out.Workspace, name)); err != nil || string(b) != agents.Template(name) || len(b) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, in := range []struct {
		name string
		want error
	}{{"helper ONE", agents.ErrExists}, {"Main", agents.ErrReserved}, {"  ", agents.ErrReserved}, {"!!", agents.ErrReserved},
		{strings.Repeat("x", 600), agents.ErrTooLong}, {"a\x00b", agents.ErrTooLong}} {
		if _, err := w.Create(context.Background(), admin, agents.CreateIn{Name: in.name, Workspace: "ws"}); !errors.Is(err, in.want) {
			t.Errorf("%q: %v, want %v", in.name, err, in.want)
		}
	}
	if want := []string{"the agent helper-one is made"}; !slices.Equal(w.notes, want) {
		t.Errorf("noted %v", w.notes)
	}
}

// A workspace that is in use stays as it is.
func TestCreateSeedsWhatIsMissing(t *testing.T) {
	w := newWorld(t, `{}`)
	ws := filepath.Join(w.home, "ws")
	if err := os.MkdirAll(ws, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ws, "SOUL.md"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	create(t, w.Service, agents.CreateIn{Name: "a", Workspace: ws})
	if b, _ := os.ReadFile(filepath.Join(ws, "SOUL.md")); string(b) != "mine" {
		t.Errorf("SOUL.md is %q", b)
	}
	if _, err := os.Stat(filepath.Join(ws, "BOOTSTRAP.md")); err == nil {
		t.Error("an old workspace got BOOTSTRAP.md")
	}
	if _, err := os.Stat(filepath.Join(ws, "AGENTS.md")); err != nil {
		t.Error(err)
	}

	w = newWorld(t, `{agents: {defaults: {skipBootstrap: true}}}`)
	out := create(t, w.Service, agents.CreateIn{Name: "a"})
	if want := filepath.Join(w.state, "workspace-a"); out.Workspace != want {
		t.Errorf("the workspace is %s", out.Workspace)
	}
	if _, err := os.Stat(filepath.Join(out.Workspace, "AGENTS.md")); err == nil {
		t.Error("skipBootstrap made files")
	}
}

func TestUpdateAndDelete(t *testing.T) {
	w := newWorld(t, `{
		agents: {list: [{id: "main"}, {id: "ops", workspace: "$home/ops", model: {primary: "a/b", fallbacks: ["c/d"]}}, {id: "other", workspace: "$home/shared"},
			{id: "third", workspace: "$home/shared"}]},
		bindings: [{agentId: "ops", match: {channel: "x"}}, {agentId: "main", match: {channel: "y"}}, {agentId: "OPS", match: {channel: "z"}}],
		tools: {agentToAgent: {allow: ["main", "ops"]}}, // who may
	}`)
	ctx := context.Background()
	if _, err := w.Update(ctx, admin, agents.UpdateIn{AgentID: "nobody", Name: "x"}); !errors.Is(err, agents.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.Update(ctx, admin, agents.UpdateIn{AgentID: "Ops", Name: "Ops 2", Model: "e/f", Avatar: "a.png"}); err != nil {
		t.Fatal(err)
	}
	a := agents.Look(w.live.Current()).Agent("ops")
	if a.Name != "Ops 2" || a.Model != "e/f" || !slices.Equal(a.Fallbacks, []string{"c/d"}) {
		t.Errorf("%+v", a)
	}
	if b, _ := os.ReadFile(filepath.Join(w.home, "ops", "IDENTITY.md")); !strings.Contains(string(b), "- Avatar: a.png\n") {
		t.Errorf("IDENTITY.md is %q", b)
	}
	if _, err := w.Delete(ctx, admin, agents.DeleteIn{AgentID: "MAIN"}); !errors.Is(err, agents.ErrMain) {
		t.Error(err)
	}
	out, err := w.Delete(ctx, admin, agents.DeleteIn{AgentID: "ops"})
	if err != nil || out.RemovedBindings != 2 || len(out.Kept) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(out.Trash, "workspace", "IDENTITY.md")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.home, "ops")); err == nil {
		t.Error("the workspace is still there")
	}
	text, _ := os.ReadFile(w.file)
	if s := string(text); strings.Contains(s, `"ops"`) || strings.Contains(s, `"OPS"`) || !strings.Contains(s, `"y"`) || !strings.Contains(s, "// who may") {
		t.Errorf("the file is\n%s", s)
	}
	if _, err := w.Delete(ctx, admin, agents.DeleteIn{AgentID: "ops"}); !errors.Is(err, agents.ErrNotFound) {
		t.Error(err)
	}

	// What another agent works in stays.
	if err := os.MkdirAll(filepath.Join(w.home, "shared"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err = w.Delete(ctx, admin, agents.DeleteIn{AgentID: "other"})
	if err != nil || len(out.Kept) != 1 || out.Trash != "" {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := w.Delete(ctx, admin, agents.DeleteIn{AgentID: "third", KeepFiles: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.home, "shared")); err != nil {
		t.Error(err)
	}
}

// The directories that must never go to the trash.
func TestDeleteLeavesWhatIsNotTheAgents(t *testing.T) {
	for _, ws := range []string{"$home", "$home/state", "/", "$home/state/agents", "$home/state/devices", "$home/ws-main", "$home/ws-main/deeper", "$home/link"} {
		w := newWorld(t, `{agents: {list: [{id: "main", workspace: "$home/ws-main"}, {id: "x", workspace: "`+ws+`"}]}}`)
		for _, d := range []string{"ws-main/deeper", "state/agents/main", "state/devices"} {
			if err := os.MkdirAll(filepath.Join(w.home, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(w.home, filepath.Join(w.home, "link")); err != nil {
			t.Skip(err)
		}
		path := strings.ReplaceAll(ws, "$home", w.home)
		out, err := w.Delete(context.Background(), admin, agents.DeleteIn{AgentID: "x"})
		if err != nil || !slices.Equal(out.Kept, []string{path}) {
			t.Errorf("%s: %+v %v", ws, out, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", ws, err)
		}
	}
}

// The trash is emptied of what is old, and never of what is not.
func TestTrashIsBounded(t *testing.T) {
	w := newWorld(t, `{agents: {list: [{id: "main"}, {id: "a"}]}}`)
	bin := filepath.Join(w.state, "trash")
	for i := range 200 {
		if err := os.MkdirAll(filepath.Join(bin, fmt.Sprintf("20260316T100000Z-x-%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Delete(context.Background(), admin, agents.DeleteIn{AgentID: "a"}); !errors.Is(err, agents.ErrTrash) {
		t.Fatalf("%v", err)
	}
	if got := ids(t, w.Service); !slices.Contains(got, "a") {
		t.Error("the agent is gone although its files could not go")
	}
	w.now = w.now.AddDate(0, 0, 40)
	if _, err := w.Delete(context.Background(), admin, agents.DeleteIn{AgentID: "a"}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(bin); len(left) > 1 {
		t.Errorf("%d are left", len(left))
	}
}

// A list that stands in an included file is left to the person who put it there.
func TestIncludedList(t *testing.T) {
	w := newWorld(t, `{}`)
	if err := os.WriteFile(filepath.Join(w.state, "more.json"), []byte(`{list: [{id: "main"}, {id: "inc"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	text := []byte(`{agents: {$include: "./more.json"}}`)
	if err := os.WriteFile(w.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(context.Background(), admin, agents.CreateIn{Name: "new", Workspace: filepath.Join(w.home, "n")}); !errors.Is(err, agents.ErrIncluded) {
		t.Error(err)
	}
	if now, _ := os.ReadFile(w.file); string(now) != string(text) {
		t.Errorf("the file is %s", now)
	}
}

// Clients of the original see a change late; the others at once. Both change one file.
func TestLate(t *testing.T) {
	w := newWorld(t, `{}`)
	late, ctx := w.Late(), context.Background()
	in := agents.CreateIn{Name: "Helper", Workspace: filepath.Join(w.home, "h")}
	for range 3 {
		if out, err := late.Create(ctx, admin, in); err != nil || out.AgentID != "helper" {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Second)
	}
	if got := agents.Look(w.live.Current()).List; len(got) != 2 {
		t.Errorf("the file has %d agents", len(got))
	}
	if _, err := late.Update(ctx, admin, agents.UpdateIn{AgentID: "helper", Name: "x"}); !errors.Is(err, agents.ErrNotFound) {
		t.Error(err)
	}
	if _, err := late.ListFiles(ctx, admin, agents.FilesIn{AgentID: "helper"}); !errors.Is(err, agents.ErrUnknown) {
		t.Error(err)
	}
	// Its directory shows it all the same, as there.
	if got, want := ids(t, late), []string{"main", "helper"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if _, err := w.ListFiles(ctx, admin, agents.FilesIn{AgentID: "helper"}); err != nil {
		t.Error(err)
	}
	w.now = w.now.Add(5 * time.Second)
	if _, err := late.Update(ctx, admin, agents.UpdateIn{AgentID: "helper", Name: "x"}); err != nil {
		t.Error(err)
	}
}

// Many who create at once get what they asked for, or a clear no.
func TestCreateConcurrently(t *testing.T) {
	w := newWorld(t, `{}`)
	var wg sync.WaitGroup
	made := make([]error, 20)
	for i := range made {
		wg.Go(func() {
			_, made[i] = w.Create(context.Background(), admin, agents.CreateIn{Name: fmt.Sprint("agent ", i/2), Workspace: filepath.Join(w.home, fmt.Sprint(i/2))})
		})
	}
	wg.Wait()
	for i := 0; i < len(made); i += 2 {
		if (made[i] == nil) == (made[i+1] == nil) {
			t.Errorf("%d: %v, %v", i, made[i], made[i+1])
		}
	}
	if got := ids(t, w.Service); len(got) != 11 {
		t.Errorf("%v", got)
	}
}

func TestFiles(t *testing.T) {
	w := newWorld(t, `{agents: {defaults: {workspace: "$home/ws"}}}`)
	ctx, ws := context.Background(), filepath.Join(w.home, "ws")
	names := func() (out []string) {
		list, err := w.ListFiles(ctx, admin, agents.FilesIn{AgentID: "main"})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list.Files {
			if f.Path != filepath.Join(ws, f.Name) {
				t.Errorf("%+v", f)
			}
			if !f.Missing {
				out = append(out, f.Name)
			}
		}
		return out
	}
	if got := names(); got != nil {
		t.Errorf("%v", got)
	}
	if out, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "main", Name: "SOUL.md"}); err != nil || !out.File.Missing || out.File.Content != nil {
		t.Errorf("%+v %v", out, err)
	}
	for range 2 {
		out, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: "memory.md", Content: "m"})
		if err != nil || out.File.Size != 1 || *out.File.Content != "m" || out.File.Updated.IsZero() {
			t.Fatalf("%+v %v", out, err)
		}
	}
	if got := names(); !slices.Equal(got, []string{"memory.md"}) {
		t.Errorf("%v", got)
	}
	if out, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "MAIN", Name: " memory.md "}); err != nil || *out.File.Content != "m" {
		t.Errorf("%+v %v", out, err)
	}
	for _, name := range []string{"../x", "x.md", "", "SOUL.md/", "sub/SOUL.md", "soul.md", "SOUL.md\x00", "/etc/passwd"} {
		if _, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "main", Name: name}); !errors.Is(err, agents.ErrFileName) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: name}); !errors.Is(err, agents.ErrFileName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "nobody", Name: "../x"}); !errors.Is(err, agents.ErrUnknown) {
		t.Error("the name is looked at before the agent: ", err)
	}
	if _, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: "SOUL.md", Content: strings.Repeat("x", 2<<20+1)}); !errors.Is(err, agents.ErrFileSize) {
		t.Error(err)
	}
	if _, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: "SOUL.md", Content: strings.Repeat("x", 2<<20)}); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(ws)
	if err != nil || len(left) != 2 {
		t.Errorf("temporary files are left: %v %v", left, err)
	}
	w.nodes = []agents.Node{{ID: "phone-1"}}
	if out, err := w.ListFiles(ctx, admin, agents.FilesIn{AgentID: "Phone-1"}); err != nil || len(out.Files) != 8 {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "phone-1", Name: "SOUL.md"}); !errors.Is(err, agents.ErrUnknown) {
		t.Error(err)
	}
}

// BOOTSTRAP.md is listed until it has done its work.
func TestOnboarding(t *testing.T) {
	w := newWorld(t, `{}`)
	out := create(t, w.Service, agents.CreateIn{Name: "a", Workspace: filepath.Join(w.home, "ws")})
	has := func() bool {
		list, err := w.ListFiles(context.Background(), admin, agents.FilesIn{AgentID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Files, func(f agents.File) bool { return f.Name == "BOOTSTRAP.md" })
	}
	if !has() {
		t.Error("it is not listed in a new workspace")
	}
	if err := os.Remove(filepath.Join(out.Workspace, "BOOTSTRAP.md")); err != nil {
		t.Fatal(err)
	}
	if has() {
		t.Error("it is listed although it has done its work")
	}
	state := filepath.Join(out.Workspace, ".openclaw", "workspace-state.json")
	if err := os.WriteFile(state, []byte(`{"onboardingCompletedAt":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if !has() {
		t.Error("notes that cannot be read count")
	}
	if err := os.WriteFile(state, []byte(`{"onboardingCompletedAt":"2026-01-01"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if has() {
		t.Error("what another program noted does not count")
	}
}

func TestIdentity(t *testing.T) {
	w := newWorld(t, `{
		gateway: {controlUi: {basePath: "/ui"}},
		agents: {list: [{id: "main", workspace: "$home/ws"}, {id: "cfg", workspace: "$home/cfg", identity: {name: "Configured", emoji: "🦊", avatar: "pics/me.png"}},
			{id: "long", identity: {name: "`+strings.Repeat("ä", 60)+`", avatar: "too long for an avatar"}}, {id: "url", identity: {avatar: "https://x/y.png", emoji: "ok"}}]},
	}`)
	if err := os.MkdirAll(filepath.Join(w.home, "ws"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.home, "ws", "IDENTITY.md"), []byte("- **Name:** Fil\r\n- Vibe: calm\n- Emoji: 🛠\n- Creature: (pick something you like)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   agents.IdentityIn
		want agents.IdentityOut
		err  error
	}{
		{agents.IdentityIn{}, agents.IdentityOut{"main", "Fil", "🛠", "🛠"}, nil},
		{agents.IdentityIn{AgentID: "cfg"}, agents.IdentityOut{"cfg", "Configured", "/ui/avatar/cfg", "🦊"}, nil},
		{agents.IdentityIn{AgentID: "long"}, agents.IdentityOut{"long", strings.Repeat("ä", 50), "A", ""}, nil},
		{agents.IdentityIn{AgentID: "url"}, agents.IdentityOut{"url", "Assistant", "https://x/y.png", ""}, nil},
		{agents.IdentityIn{AgentID: "No Body"}, agents.IdentityOut{"no-body", "Assistant", "A", ""}, nil},
		{agents.IdentityIn{SessionKey: "agent:CFG:main"}, agents.IdentityOut{"cfg", "Configured", "/ui/avatar/cfg", "🦊"}, nil},
		{agents.IdentityIn{SessionKey: "main"}, agents.IdentityOut{"main", "Fil", "🛠", "🛠"}, nil},
		{agents.IdentityIn{SessionKey: "agent:"}, agents.IdentityOut{}, agents.ErrKey},
		{agents.IdentityIn{SessionKey: "agent:cfg"}, agents.IdentityOut{}, agents.ErrKey},
		{agents.IdentityIn{SessionKey: "agent::x"}, agents.IdentityOut{}, agents.ErrKey},
		{agents.IdentityIn{AgentID: "main", SessionKey: "agent:cfg:main"}, agents.IdentityOut{}, agents.ErrKeyMismatch},
	} {
		got, err := w.Identity(context.Background(), admin, c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%+v: %+v %v, want %+v", c.in, got, err, c.want)
		}
	}
}

// An image of the workspace becomes a data URL; nothing else of a disk does.
func TestAvatars(t *testing.T) {
	w := newWorld(t, `{agents: {list: [
		{id: "a", default: true, workspace: "$home/ws", identity: {avatar: "me.png"}}, {id: "b", workspace: "$home/ws", identity: {avatar: "none.png"}},
		{id: "c", workspace: "$home/ws", identity: {avatar: "SECRET.md"}}, {id: "d", workspace: "$home/ws", identity: {avatar: "big.png"}},
		{id: "e", workspace: "$home/ws", identity: {avatar: "data:image/png;base64,AA=="}}, {id: "f", workspace: "$home/ws", identity: {avatar: "out.png"}},
		{id: "g", workspace: "$home/ws", identity: {avatar: "http://x/y"}}, {id: "h", workspace: "$home/ws", identity: {avatar: "dir.png"}}]}}`)
	ws := filepath.Join(w.home, "ws")
	if err := os.MkdirAll(filepath.Join(ws, "dir.png"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"me.png": 10, "SECRET.md": 10, "big.png": 2<<20 + 1, "../secret.png": 10} {
		if err := os.WriteFile(filepath.Join(ws, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret.png", filepath.Join(ws, "out.png")); err != nil {
		t.Skip(err)
	}
	out, _ := w.List(context.Background(), admin, struct{}{})
	for i, want := range []string{"data:image/png;base64," + base64.StdEncoding.EncodeToString(make([]byte, 10)), "", "", "", "data:image/png;base64,AA==", "", "http://x/y", ""} {
		if got := out.Agents[i].Identity.AvatarURL; got != want {
			t.Errorf("%s: %.60q, want %q", out.Agents[i].ID, got, want)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{"- Name: x", "- **Emoji:** _y_", "Avatar:: ://", "-\n:\n", agents.Template("IDENTITY.md")} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := agents.ParseIdentity(data)
		for _, v := range []string{p.Name, p.Emoji, p.Creature, p.Vibe, p.Theme, p.Avatar} {
			if strings.ContainsAny(v, "\n") || v != strings.TrimSpace(v) {
				t.Errorf("%q", v)
			}
		}
	})
}

// Whatever a name is, nothing outside of the workspace is read or written.
func FuzzFileName(f *testing.F) {
	w := newWorld(f, `{agents: {defaults: {workspace: "$home/ws"}}}`)
	secret := filepath.Join(w.home, "secret.md")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"SOUL.md", "../secret.md", "MEMORY.md/../../secret.md", "SOUL.md\x00", " SOUL.md", secret} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		out, err := w.GetFile(context.Background(), admin, agents.FileIn{AgentID: "main", Name: name})
		if err == nil && (!slices.Contains(agents.FileNames(), out.File.Name) || out.File.Content != nil && *out.File.Content == "secret") {
			t.Errorf("%q: %+v", name, out)
		}
		if _, err := w.SetFile(context.Background(), admin, agents.SetFileIn{AgentID: "main", Name: name, Content: "c"}); err == nil && !slices.Contains(agents.FileNames(), strings.TrimSpace(name)) {
			t.Errorf("%q was written", name)
		}
		if b, _ := os.ReadFile(secret); string(b) != "secret" {
			t.Fatalf("%q changed another file", name)
		}
	})
}
