package sessions_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

var start = time.Date(2026, 3, 18, 14, 5, 0, 0, time.UTC)

// world is a service over a real store.
type world struct {
	*sessions.Service
	store  *store.Store
	cfg    *config.Config
	clock  time.Time
	runner runner
	events []events.Event
}

// models has p/d as its default, refuses "bad", and allows what begins with p or q.
type models struct{}

func (models) Default(string) sessions.Model { return sessions.Model{Provider: "p", Name: "d"} }

func (models) Choose(_, text string) (sessions.Model, error) {
	provider, name, ok := strings.Cut(text, "/")
	switch {
	case text == "bad":
		return sessions.Model{}, sessions.ErrModel.With("model", text)
	case !ok:
		return sessions.Model{Provider: "p", Name: text}, nil
	case provider == "no":
		return sessions.Model{}, sessions.ErrModelNotAllowed.With("model", text)
	}
	return sessions.Model{Provider: provider, Name: name}, nil
}

func (models) ContextTokens() int64 { return 1000 }

// runner has runs that stop or do not. last is what a run does before it ends.
type runner struct {
	busy bool
	last func(sessions.Ref, string)
}

func (r *runner) Stop(_ context.Context, ref sessions.Ref, id string) bool {
	if r.last != nil {
		r.last(ref, id)
	}
	return !r.busy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: storetest.Open(t), cfg: &config.Config{}, clock: start}
	w.cfg.StateDir = w.store.Dir()
	w.cfg.Session.Scope = "per-sender"
	w.again(t)
	return w
}

// again makes the service anew over the same store, as a start does.
func (w *world) again(t *testing.T) {
	t.Helper()
	bus := events.New(func() time.Time { return w.clock })
	bus.Sink(func(e events.Event) { w.events = append(w.events, e) })
	ids := 0
	s, err := sessions.New(sessions.Settings{
		Store: w.store, Transcripts: w.store.Transcripts(), Models: models{}, Runner: &w.runner, Config: func() *config.Config { return w.cfg },
		Bus: bus, Now: func() time.Time { w.clock = w.clock.Add(time.Second); return w.clock },
		NewID: func() string { ids++; return fmt.Sprintf("id-%d-%d", w.clock.Unix(), ids) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = s
}

var me = identity.Internal()

func (w *world) patch(t *testing.T, in sessions.PatchIn) sessions.PatchOut {
	t.Helper()
	out, err := w.Patch(t.Context(), me, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) keys(t *testing.T, in sessions.ListIn) string {
	t.Helper()
	out, err := w.List(t.Context(), me, in)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, s := range out.Sessions {
		keys = append(keys, s.Ref.Key)
	}
	return strings.Join(keys, " ")
}

func wantErr(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
		return
	}
	e, _ := errs.As(err)
	var fields []string
	for _, k := range []string{"name", "why", "use", "label", "keys", "key", "model", "action"} {
		if v := e.Field(k); v != "" {
			fields = append(fields, v)
		}
	}
	if got := strings.Join(fields, " "); text != "" && got != text {
		t.Errorf("the error says %q, want %q", got, text)
	}
}

func TestCanonicalKeys(t *testing.T) {
	c := &config.Config{}
	c.Session.Scope = "per-sender"
	for key, want := range map[string]sessions.Ref{
		"main": {"main", "agent:main:main"}, " MAIN ": {"main", "agent:main:main"}, "agent:main:main": {"main", "agent:main:main"},
		"Agent:Ops:Main": {"ops", "agent:ops:main"}, "agent:ops:x:Y": {"ops", "agent:ops:x:y"}, "some key": {"main", "agent:main:some key"},
		"global": {"main", "global"}, "UNKNOWN": {"main", "unknown"}, "": {"main", ""}, "agent:": {"main", "agent:"}, "agent:x": {"main", "agent:x"},
		"hook:1": {"main", "agent:main:hook:1"}, "agent:o p:x": {"o-p", "agent:o p:x"}, "agent:../..:x": {"main", "agent:../..:x"},
	} {
		if got := sessions.Canonical(c, key); got != want {
			t.Errorf("%q: %v, want %v", key, got, want)
		}
	}
	c.Session.Scope = "global"
	for key, want := range map[string]string{"main": "global", "agent:main:main": "global", "agent:ops:main": "global", "x": "agent:main:x"} {
		if got := sessions.Canonical(c, key); got.Key != want {
			t.Errorf("global scope, %q: %v", key, got)
		}
	}
	for key, want := range map[string]bool{"agent:": true, "agent:x": true, "agent:x:": true, "agent::x": true, "agent:x:y": false, "main": false} {
		if sessions.Malformed(key) != want {
			t.Errorf("%q: malformed %v", key, !want)
		}
	}
	for key, want := range map[string]string{
		"agent:a:telegram:group:1": "group", "agent:a:x:channel:1": "group", "agent:a:direct:1": "direct", "global": "global", "unknown": "unknown",
	} {
		if got := sessions.Kind(key, ""); got != want {
			t.Errorf("%q is %s", key, got)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"main", "agent:a:b", "agent::", "GLOBAL", "agent:x:main:y", "\x00", "äÖ"} {
		f.Add(s)
	}
	c := &config.Config{}
	f.Fuzz(func(t *testing.T, key string) {
		r := sessions.Canonical(c, key)
		if again := sessions.Canonical(c, r.Key); again.Key != r.Key || (r.Key != "" && again.AgentID != r.AgentID) {
			t.Errorf("%q becomes %q and then %q", key, r, again)
		}
		if r.AgentID == "" || strings.ContainsAny(r.AgentID, "/\\.:") {
			t.Errorf("%q has the agent %q", key, r.AgentID)
		}
	})
}

func TestPatch(t *testing.T) {
	w := newWorld(t)
	set := func(s string) sessions.Set[string] { return sessions.SetTo(s) }
	out := w.patch(t, sessions.PatchIn{Key: "x", Label: set("  A "), ThinkingLevel: set("Think-Hard"), VerboseLevel: set("FULL"), ReasoningLevel: set("live"), ResponseUsage: set("on"),
		ElevatedLevel: set("approve"), ExecHost: set(" Node "), ExecSecurity: set("deny"), ExecAsk: set("always"), ExecNode: set(" box "), Model: set("q/m"),
		SendPolicy: set("DENY"), GroupActivation: set("mention")})
	e := out.Entry
	want := sessions.Entry{
		SessionID: e.SessionID, UpdatedAt: e.UpdatedAt, Label: "A", ThinkingLevel: "low", VerboseLevel: "full", ReasoningLevel: "stream", ResponseUsage: "tokens", ElevatedLevel: "ask",
		ExecHost: "node", ExecSecurity: "deny", ExecAsk: "always", ExecNode: "box", ProviderOverride: "q", ModelOverride: "m", SendPolicy: "deny", GroupActivation: "mention",
	}
	if e.SessionID == "" || e.UpdatedAt.IsZero() || fmt.Sprint(e) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
	if out.Ref != (sessions.Ref{AgentID: "main", Key: "agent:main:x"}) || out.Model != (sessions.Model{Provider: "q", Name: "m"}) ||
		out.Path != filepath.Join(w.cfg.StateDir, "agents", "main", "sessions", "sessions.json") {
		t.Errorf("%+v", out)
	}
	w.again(t) // it is on disk
	clear := sessions.Clear[string]()
	out = w.patch(t, sessions.PatchIn{Key: "x", Label: clear, ThinkingLevel: set("off"), VerboseLevel: clear, ReasoningLevel: set("off"), ResponseUsage: set("off"),
		ElevatedLevel: set("off"), ExecHost: clear, ExecSecurity: clear, ExecAsk: clear, ExecNode: clear, Model: set("p/d"), SendPolicy: clear, GroupActivation: clear})
	want = sessions.Entry{SessionID: e.SessionID, UpdatedAt: out.Entry.UpdatedAt, ThinkingLevel: "off", ReasoningLevel: "off", ElevatedLevel: "off"}
	if !out.Entry.UpdatedAt.After(e.UpdatedAt) || fmt.Sprint(out.Entry) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", out.Entry, want)
	}
}

func TestPatchRefuses(t *testing.T) {
	w := newWorld(t)
	set := func(s string) sessions.Set[string] { return sessions.SetTo(s) }
	w.patch(t, sessions.PatchIn{Key: "x", Label: set("mine")})
	w.patch(t, sessions.PatchIn{Key: "agent:main:subagent:1", SpawnedBy: set(" parent "), SpawnDepth: sessions.SetTo(int64(2))})
	long := strings.Repeat("ä", 65)
	for i, c := range []struct {
		in   sessions.PatchIn
		want error
		text string
	}{
		{sessions.PatchIn{}, sessions.ErrKeyRequired, ""},
		{sessions.PatchIn{Key: "  "}, sessions.ErrKeyRequired, ""},
		{sessions.PatchIn{Key: strings.Repeat("x", 600)}, sessions.ErrKeyTooLong, ""},
		{sessions.PatchIn{Key: "a\x00b"}, sessions.ErrKeyTooLong, ""},
		{sessions.PatchIn{Label: set(" ")}, sessions.ErrLabelEmpty, ""},
		{sessions.PatchIn{Label: set(long)}, sessions.ErrLabelLong, ""},
		{sessions.PatchIn{Label: set("mine")}, sessions.ErrLabelTaken, "mine"},
		{sessions.PatchIn{ThinkingLevel: set("enormous")}, sessions.ErrValue, "thinkingLevel off|minimal|low|medium|high|adaptive"},
		{sessions.PatchIn{ThinkingLevel: set("xhigh")}, sessions.ErrXHigh, ""},
		{sessions.PatchIn{VerboseLevel: set("loud")}, sessions.ErrValue, `verboseLevel "on"|"off"`},
		{sessions.PatchIn{ReasoningLevel: set("x")}, sessions.ErrValue, `reasoningLevel "on"|"off"|"stream"`},
		{sessions.PatchIn{ResponseUsage: set("x")}, sessions.ErrValue, `responseUsage "off"|"tokens"|"full"`},
		{sessions.PatchIn{ElevatedLevel: set("x")}, sessions.ErrValue, `elevatedLevel "on"|"off"|"ask"|"full"`},
		{sessions.PatchIn{ExecHost: set("mars")}, sessions.ErrValue, `execHost "sandbox"|"gateway"|"node"`},
		{sessions.PatchIn{ExecSecurity: set("x")}, sessions.ErrValue, `execSecurity "deny"|"allowlist"|"full"`},
		{sessions.PatchIn{ExecAsk: set("x")}, sessions.ErrValue, `execAsk "off"|"on-miss"|"always"`},
		{sessions.PatchIn{ExecNode: set(" ")}, sessions.ErrExecNode, ""},
		{sessions.PatchIn{Model: set(" ")}, sessions.ErrModelEmpty, ""},
		{sessions.PatchIn{Model: set("bad")}, sessions.ErrModel, "bad"},
		{sessions.PatchIn{Model: set("no/m")}, sessions.ErrModelNotAllowed, "no/m"},
		{sessions.PatchIn{SendPolicy: set("x")}, sessions.ErrValue, `sendPolicy "allow"|"deny"`},
		{sessions.PatchIn{GroupActivation: set("x")}, sessions.ErrValue, `groupActivation "mention"|"always"`},
		{sessions.PatchIn{SpawnedBy: set(" ")}, sessions.ErrSpawn, "spawnedBy empty"},
		{sessions.PatchIn{SpawnedBy: set("a")}, sessions.ErrSpawn, "spawnedBy only"},
		{sessions.PatchIn{SpawnDepth: sessions.SetTo(int64(1))}, sessions.ErrSpawn, "spawnDepth only"},
		{sessions.PatchIn{Key: "subagent:1", SpawnDepth: sessions.SetTo(int64(-1))}, sessions.ErrSpawnDepth, ""},
		{sessions.PatchIn{Key: "subagent:1", SpawnedBy: set("other")}, sessions.ErrSpawn, "spawnedBy changed"},
		{sessions.PatchIn{Key: "subagent:1", SpawnedBy: sessions.Clear[string]()}, sessions.ErrSpawn, "spawnedBy cleared"},
		{sessions.PatchIn{Key: "subagent:1", SpawnDepth: sessions.SetTo(int64(3))}, sessions.ErrSpawn, "spawnDepth changed"},
		{sessions.PatchIn{Key: "subagent:1", SpawnDepth: sessions.Clear[int64]()}, sessions.ErrSpawn, "spawnDepth cleared"},
		// The first fault in the original's order is told.
		{sessions.PatchIn{SendPolicy: set("x"), ThinkingLevel: set("x"), Label: set("mine")}, sessions.ErrLabelTaken, ""},
		{sessions.PatchIn{GroupActivation: set("x"), ThinkingLevel: set("xhigh"), ExecNode: set("")}, sessions.ErrExecNode, ""},
		{sessions.PatchIn{GroupActivation: set("x"), ThinkingLevel: set("xhigh")}, sessions.ErrXHigh, ""},
	} {
		if c.in.Key == "" && i > 0 {
			c.in.Key = "y"
		}
		_, err := w.Patch(t.Context(), me, c.in)
		wantErr(t, err, c.want, c.text)
		if _, _, ok := w.Lookup("y"); ok {
			t.Fatalf("%d: a refused patch made the session", i)
		}
	}
	web := identity.Caller{Role: identity.RoleOperator, ClientMode: "webchat", ClientID: "webchat"}
	_, err := w.Patch(t.Context(), web, sessions.PatchIn{Key: "y"})
	wantErr(t, err, sessions.ErrWebchat, "patch")
	_, err = w.Delete(t.Context(), web, sessions.DeleteIn{Key: "main"})
	wantErr(t, err, sessions.ErrWebchat, "delete")
	web.ClientID = "openclaw-control-ui"
	if _, err = w.Patch(t.Context(), web, sessions.PatchIn{Key: "z"}); err != nil {
		t.Error(err)
	}
	// Setting the same again is no change.
	w.patch(t, sessions.PatchIn{Key: "subagent:1", SpawnedBy: set("parent"), SpawnDepth: sessions.SetTo(int64(2))})
	w.patch(t, sessions.PatchIn{Key: "x", Label: set("mine")})
	// A model that thinks more may; another one then thinks as much as it can.
	w.patch(t, sessions.PatchIn{Key: "x", Model: set("openai/gpt-5.4"), ThinkingLevel: set("extra high")})
	if out := w.patch(t, sessions.PatchIn{Key: "x", Model: set("q/m")}); out.Entry.ThinkingLevel != "high" {
		t.Errorf("%+v", out.Entry)
	}
	_, err = w.Patch(t.Context(), me, sessions.PatchIn{Key: "zai", Model: set("zai/glm")})
	if err == nil {
		_, err = w.Patch(t.Context(), me, sessions.PatchIn{Key: "zai", ThinkingLevel: set("x")})
	}
	wantErr(t, err, sessions.ErrValue, "thinkingLevel off|on")
}

// A model that is chosen makes what was used before be forgotten.
func TestModelOverride(t *testing.T) {
	w := newWorld(t)
	ref := sessions.Ref{AgentID: "main", Key: "agent:main:x"}
	_, err := w.Update(t.Context(), ref, func(e *sessions.Entry, _ bool) error {
		e.SessionID, e.UpdatedAt, e.Model, e.ModelProvider, e.AuthProfileOverride = "s", start, "used", "u", "profile"
		e.Rest = map[string]sessions.Raw{"fallbackNoticeReason": sessions.Raw(`"x"`), "own": sessions.Raw("1"), "authProfileOverrideCompactionCount": sessions.Raw("2")}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	e := w.patch(t, sessions.PatchIn{Key: "x", Label: sessions.SetTo("l")}).Entry
	if e.Model != "used" || len(e.Rest) != 3 {
		t.Errorf("%+v", e)
	}
	out := w.patch(t, sessions.PatchIn{Key: "x", Model: sessions.SetTo("q/m")})
	if e = out.Entry; e.Model != "" || e.ModelProvider != "" || e.AuthProfileOverride != "" || len(e.Rest) != 1 || string(e.Rest["own"]) != "1" || out.Model.Name != "m" {
		t.Errorf("%+v", out)
	}
	if out = w.patch(t, sessions.PatchIn{Key: "x", Model: sessions.Clear[string]()}); out.Entry.ModelOverride != "" || out.Model != (sessions.Model{Provider: "p", Name: "d"}) {
		t.Errorf("%+v", out)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{"a", "global", "unknown", "agent:ops:b", "cron:job", "cron:job:run:1", "agent:main:telegram:group:77", "agent:main:subagent:9"} {
		in := sessions.PatchIn{Key: key}
		if key == "a" {
			in.Label = sessions.SetTo("First")
		}
		if strings.Contains(key, "subagent") {
			in.SpawnedBy = sessions.SetTo("agent:main:a")
		}
		w.patch(t, in)
	}
	const all = "agent:main:subagent:9 agent:main:telegram:group:77 agent:main:cron:job agent:ops:b"
	for _, c := range []struct {
		in   sessions.ListIn
		want string
	}{
		{sessions.ListIn{}, all + " agent:main:a"},
		{sessions.ListIn{IncludeGlobal: true, IncludeUnknown: true}, all + " unknown global agent:main:a"},
		{sessions.ListIn{Limit: 2}, "agent:main:subagent:9 agent:main:telegram:group:77"},
		{sessions.ListIn{AgentID: "OPS"}, "agent:ops:b"},
		{sessions.ListIn{AgentID: "main", IncludeGlobal: true, Limit: 1}, "agent:main:subagent:9"},
		{sessions.ListIn{Label: " First "}, "agent:main:a"},
		{sessions.ListIn{Label: "first"}, ""},
		{sessions.ListIn{SpawnedBy: "agent:main:a"}, "agent:main:subagent:9"},
		{sessions.ListIn{Text: " FIRST"}, "agent:main:a"},
		{sessions.ListIn{Text: "g-77"}, "agent:main:telegram:group:77"},
		{sessions.ListIn{Text: "nothing"}, ""},
	} {
		if got := w.keys(t, c.in); got != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
	}
	out, err := w.List(t.Context(), me, sessions.ListIn{Text: "telegram"})
	if err != nil || len(out.Sessions) != 1 {
		t.Fatal(out, err)
	}
	if s := out.Sessions[0]; s.Kind != "group" || s.Name != "telegram:g-77" || s.Channel != "telegram" || s.Model != (sessions.Model{Provider: "p", Name: "d"}) || s.Delivery != nil {
		t.Errorf("%+v", s)
	}
	if out.Path != "(multiple)" || out.ContextTokens != 1000 || out.Default.Name != "d" {
		t.Errorf("%+v", out)
	}
	// What is used comes to the front; what was not for a while is left out when that is wanted.
	w.patch(t, sessions.PatchIn{Key: "a"})
	w.clock = w.clock.Add(10 * time.Minute)
	w.patch(t, sessions.PatchIn{Key: "agent:ops:b"})
	if got := w.keys(t, sessions.ListIn{ActiveMinutes: 5}); got != "agent:ops:b" {
		t.Error(got)
	}
	if got := w.keys(t, sessions.ListIn{Limit: 2}); got != "agent:ops:b agent:main:a" {
		t.Error(got)
	}
	if w.Count("main") != 7 || w.Count("ops") != 1 || len(w.Recent("main", 2)) != 2 || w.Recent("", 9)[0].Ref.Key != "agent:ops:b" {
		t.Errorf("counts %d %d", w.Count("main"), w.Count("ops"))
	}
	before := w.keys(t, sessions.ListIn{})
	w.again(t)
	if got := w.keys(t, sessions.ListIn{}); got != before {
		t.Errorf("after a start %s, before %s", got, before)
	}
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	a := w.patch(t, sessions.PatchIn{Key: "a", Label: sessions.SetTo("L")})
	w.patch(t, sessions.PatchIn{Key: "agent:ops:b", Label: sessions.SetTo("L")})
	_, err := w.Update(t.Context(), sessions.Ref{AgentID: "main", Key: "agent:main:twin"}, func(e *sessions.Entry, _ bool) error {
		e.SessionID, e.UpdatedAt = a.Entry.SessionID, start
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   sessions.ResolveIn
		want string
		err  error
		text string
	}{
		{in: sessions.ResolveIn{Key: " A "}, want: "agent:main:a"},
		{in: sessions.ResolveIn{Key: "agent:main:a"}, want: "agent:main:a"},
		{in: sessions.ResolveIn{Key: " Main "}, err: sessions.ErrNotFound, text: "Main"},
		{in: sessions.ResolveIn{}, err: sessions.ErrChoose},
		{in: sessions.ResolveIn{Key: " ", Label: " "}, err: sessions.ErrChoose},
		{in: sessions.ResolveIn{Key: "a", Label: "L"}, err: sessions.ErrChooseOne},
		{in: sessions.ResolveIn{SessionID: "nope"}, err: sessions.ErrNotFound, text: "nope"},
		{in: sessions.ResolveIn{SessionID: a.Entry.SessionID}, err: sessions.ErrManyIDs, text: a.Entry.SessionID + " agent:main:a, agent:main:twin"},
		{in: sessions.ResolveIn{SessionID: "agent:ops:b"}, want: "agent:ops:b"},
		{in: sessions.ResolveIn{Label: "no"}, err: sessions.ErrLabelNotFound, text: "no"},
		{in: sessions.ResolveIn{Label: "L"}, err: sessions.ErrManyLabels, text: "L agent:ops:b, agent:main:a"},
		{in: sessions.ResolveIn{Label: "L", AgentID: "ops"}, want: "agent:ops:b"},
		{in: sessions.ResolveIn{Label: strings.Repeat("x", 65)}, err: sessions.ErrLabelLong},
	} {
		got, err := w.Resolve(t.Context(), me, c.in)
		if c.err != nil {
			wantErr(t, err, c.err, c.text)
		} else if got != c.want || err != nil {
			t.Errorf("%+v: %q, %v", c.in, got, err)
		}
	}
}

func (w *world) inject(t *testing.T, key, text string) string {
	t.Helper()
	id, err := w.Inject(t.Context(), me, sessions.InjectIn{Key: key, Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// files are the names in the sessions directory of the main agent.
func (w *world) files(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(w.cfg.StateDir, "agents", "main", "sessions"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

func TestReset(t *testing.T) {
	w := newWorld(t)
	set := func(s string) sessions.Set[string] { return sessions.SetTo(s) }
	old := w.patch(t, sessions.PatchIn{Key: "x", Label: set("L"), ThinkingLevel: set("low"), ExecHost: set("node"), GroupActivation: set("always"), ElevatedLevel: set("on"), Model: set("q/m"), SendPolicy: set("deny")}).Entry
	w.inject(t, "x", "note")
	out, err := w.Reset(t.Context(), me, sessions.ResetIn{Key: "X"})
	if err != nil {
		t.Fatal(err)
	}
	e := out.Entry
	if e.SessionID == old.SessionID || e.Label != "L" || e.ThinkingLevel != "low" || e.SendPolicy != "deny" || e.ExecHost != "" || e.GroupActivation != "" || e.ElevatedLevel != "" ||
		e.ModelOverride != "" || e.Model != "m" || e.ModelProvider != "q" || *e.InputTokens != 0 || *e.TotalTokens != 0 || !*e.TotalTokensFresh || *e.SystemSent || *e.AbortedLastRun || e.CacheRead != nil {
		t.Errorf("%+v", e)
	}
	if got := w.files(t); len(got) != 1 || got[0] != old.SessionID+".jsonl.reset."+strings.ReplaceAll(w.clock.Format("2006-01-02T15:04:05.000Z"), ":", "-") {
		t.Errorf("files %v", got)
	}
	// A key without a session gets one, and nothing is put aside.
	if out, err = w.Reset(t.Context(), me, sessions.ResetIn{Key: "new"}); err != nil || out.Entry.Model != "d" || len(w.files(t)) != 1 {
		t.Errorf("%+v %v", out, err)
	}
	w.runner.busy = true
	_, err = w.Reset(t.Context(), me, sessions.ResetIn{Key: "x"})
	wantErr(t, err, sessions.ErrActive, "agent:main:x")
	_, err = w.Delete(t.Context(), me, sessions.DeleteIn{Key: "x"})
	wantErr(t, err, sessions.ErrActive, "agent:main:x")
	w.runner.busy = false
	// A run that is ended still writes what it has, to the transcript that is put aside.
	w.runner.last = func(r sessions.Ref, id string) {
		if err := w.Append(t.Context(), r, id, []byte(`{"last":"words"}`)); err != nil {
			t.Error(err)
		}
	}
	if _, err = w.Reset(t.Context(), me, sessions.ResetIn{Key: "x"}); err != nil || len(w.files(t)) != 2 {
		t.Errorf("%v, files %v", err, w.files(t))
	}
	w.runner.last = nil
	_, err = w.Reset(t.Context(), me, sessions.ResetIn{})
	wantErr(t, err, sessions.ErrKeyRequired, "")
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{"main", "agent:main:main"} {
		_, err := w.Delete(t.Context(), me, sessions.DeleteIn{Key: key})
		wantErr(t, err, sessions.ErrMainSession, "agent:main:main")
	}
	id := w.patch(t, sessions.PatchIn{Key: "x", Label: sessions.SetTo("L")}).Entry.SessionID
	w.inject(t, "x", "note")
	out, err := w.Delete(t.Context(), me, sessions.DeleteIn{Key: "x"})
	if err != nil || !out.Deleted || len(out.Archived) != 1 || !strings.Contains(out.Archived[0], id+".jsonl.deleted.") {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := os.Stat(out.Archived[0]); err != nil {
		t.Error(err)
	}
	if out, err = w.Delete(t.Context(), me, sessions.DeleteIn{Key: "x"}); err != nil || out.Deleted || out.Archived != nil {
		t.Errorf("%+v %v", out, err)
	}
	// Its label is free again, and a transcript may be kept.
	id = w.patch(t, sessions.PatchIn{Key: "y", Label: sessions.SetTo("L")}).Entry.SessionID
	w.inject(t, "y", "note")
	if out, err = w.Delete(t.Context(), me, sessions.DeleteIn{Key: "y", KeepTranscript: true}); err != nil || !out.Deleted || out.Archived != nil || !slices.Contains(w.files(t), id+".jsonl") {
		t.Errorf("%+v %v %v", out, err, w.files(t))
	}
	if got := w.keys(t, sessions.ListIn{}); got != "" {
		t.Error(got)
	}
	w.cfg.Session.Scope = "global"
	_, err = w.Delete(t.Context(), me, sessions.DeleteIn{Key: "main"})
	wantErr(t, err, sessions.ErrMainSession, "global")
}

func TestCompact(t *testing.T) {
	w := newWorld(t)
	compact := func(lines int) sessions.CompactOut {
		t.Helper()
		out, err := w.Compact(t.Context(), me, sessions.CompactIn{Key: "x", MaxLines: lines})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := compact(0); out.Compacted || out.Reason != sessions.NoSessionID {
		t.Errorf("%+v", out)
	}
	e := w.patch(t, sessions.PatchIn{Key: "x"}).Entry
	if out := compact(1); out.Compacted || out.Reason != sessions.NoTranscript {
		t.Errorf("%+v", out)
	}
	n := int64(5)
	if _, err := w.Update(t.Context(), sessions.Ref{AgentID: "main", Key: "agent:main:x"}, func(e *sessions.Entry, _ bool) error { e.TotalTokens, e.CacheRead = &n, &n; return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 9 {
		w.inject(t, "x", fmt.Sprint("note ", i))
	}
	if out := compact(10); out.Compacted || out.Kept != 10 || out.Reason != "" {
		t.Errorf("%+v", out)
	}
	out := compact(3)
	if !out.Compacted || out.Kept != 3 || !strings.Contains(out.Archived, ".jsonl.bak.") {
		t.Fatalf("%+v", out)
	}
	text, err := os.ReadFile(w.TranscriptPath("main", e))
	whole, werr := os.ReadFile(out.Archived)
	if err != nil || werr != nil || bytes.Count(text, []byte("\n")) != 3 || bytes.Count(whole, []byte("\n")) != 10 || !bytes.HasSuffix(whole, text) {
		t.Errorf("%s\n%v %v", text, err, werr)
	}
	_, after, _ := w.Lookup("x")
	if after.TotalTokens != nil || after.CacheRead == nil || after.SessionID != e.SessionID {
		t.Errorf("%+v", after)
	}
	// What is written next is linked to what was kept, and nothing is lost.
	w.inject(t, "x", "later")
	if text, err = os.ReadFile(w.TranscriptPath("main", e)); err != nil || bytes.Count(text, []byte("\n")) != 4 || bytes.Contains(text, []byte(`"parentId":null`)) {
		t.Errorf("%s %v", text, err)
	}
}

func TestInject(t *testing.T) {
	w := newWorld(t)
	_, err := w.Inject(t.Context(), me, sessions.InjectIn{Key: "main", Text: "x"})
	wantErr(t, err, sessions.ErrNoSession, "")
	_, err = w.Inject(t.Context(), me, sessions.InjectIn{Key: "main"})
	wantErr(t, err, sessions.ErrText, "")
	_, err = w.Inject(t.Context(), me, sessions.InjectIn{Key: "main", Text: "x", Label: strings.Repeat("l", 101)})
	wantErr(t, err, sessions.ErrTextLong, "")
	e := w.patch(t, sessions.PatchIn{Key: "main"}).Entry
	first := w.inject(t, "main", "one")
	second, err := w.Inject(t.Context(), me, sessions.InjectIn{Key: " MAIN", Text: "two", Label: "note"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(w.TranscriptPath("main", e))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || !strings.Contains(lines[0], `"type":"session"`) || !strings.Contains(lines[0], e.SessionID) ||
		!strings.Contains(lines[1], `"id":"`+first+`","parentId":null`) || !strings.Contains(lines[2], `"id":"`+second+`","parentId":"`+first+`"`) {
		t.Errorf("%s", text)
	}
	if len(w.events) != 2 {
		t.Fatalf("%d events", len(w.events))
	}
	c, ok := w.events[1].Payload.(sessions.Chat)
	if !ok || w.events[1].Name != "chat" || c.RunID != "inject-"+second || c.SessionKey != " MAIN" || c.State != "final" || c.Seq != 0 ||
		!strings.Contains(string(c.Message), `"text":"[note]\n\ntwo"`) || !strings.Contains(string(c.Message), `"totalTokens":0`) {
		t.Errorf("%+v", c)
	}
	if err := os.Remove(w.TranscriptPath("main", e)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.TranscriptPath("main", e), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = w.Inject(t.Context(), me, sessions.InjectIn{Key: "main", Text: "x"})
	wantErr(t, err, sessions.ErrTranscript, "")
	if len(w.events) != 2 {
		t.Error("an event of what was not written")
	}
}

// Lines for a session that was reset meanwhile do not get into the new one.
func TestAppend(t *testing.T) {
	w := newWorld(t)
	out := w.patch(t, sessions.PatchIn{Key: "x"})
	if err := w.Append(t.Context(), out.Ref, out.Entry.SessionID, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Reset(t.Context(), me, sessions.ResetIn{Key: "x"}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, w.Append(t.Context(), out.Ref, out.Entry.SessionID, []byte("{}")), sessions.ErrNoSession, "")
	// The original keeps paths.
	if f := sessions.FileOf("a", sessions.Entry{SessionID: "s", SessionFile: `/home/x/.dir/agents/a/sessions/s-topic-5.jsonl`}); f.Name != "s-topic-5.jsonl" {
		t.Error(f)
	}
	if f := sessions.FileOf("a", sessions.Entry{SessionID: "s", SessionFile: `C:\x\y.jsonl`}); f.Name != "y.jsonl" {
		t.Error(f)
	}
	if f := sessions.FileOf("a", sessions.Entry{SessionID: "s", SessionFile: "/etc/passwd"}); f.Name != "s.jsonl" {
		t.Error(f)
	}
}

// Many change sessions at once: one label is one session's, and the index says what the store says.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	w.Service, _ = sessions.New(sessions.Settings{
		Store: w.store, Transcripts: w.store.Transcripts(), Models: models{}, Config: func() *config.Config { return w.cfg }, Bus: events.New(time.Now), Now: time.Now,
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 30 {
				key := fmt.Sprint("s", (g+i)%5)
				var err error
				switch i % 6 {
				case 0:
					_, err = w.Patch(t.Context(), me, sessions.PatchIn{Key: key, Label: sessions.SetTo("the one")})
					if errors.Is(err, sessions.ErrLabelTaken) {
						err = nil
					}
				case 1:
					_, err = w.Reset(t.Context(), me, sessions.ResetIn{Key: key})
				case 2:
					_, err = w.Delete(t.Context(), me, sessions.DeleteIn{Key: key})
				case 3:
					_, err = w.Compact(t.Context(), me, sessions.CompactIn{Key: key, MaxLines: 2})
				default:
					_, err = w.Inject(t.Context(), me, sessions.InjectIn{Key: key, Text: "x"})
					if errors.Is(err, sessions.ErrNoSession) {
						err = nil
					}
				}
				if err != nil {
					t.Error(i%6, err)
				}
			}
		})
	}
	wg.Wait()
	before := w.keys(t, sessions.ListIn{})
	labelled := w.keys(t, sessions.ListIn{Label: "the one"})
	if strings.Contains(labelled, " ") {
		t.Errorf("one label, several sessions: %s", labelled)
	}
	w.again(t)
	if got := w.keys(t, sessions.ListIn{}); got != before {
		t.Errorf("index %s, store %s", before, got)
	}
	if err := w.store.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMaintenance(t *testing.T) {
	w := newWorld(t)
	m := &w.cfg.Session.Maintenance
	*m = config.SessionMaintenance{Mode: "warn", PruneAfter: 24 * time.Hour, MaxEntries: 3, ResetArchiveRetention: 24 * time.Hour}
	for _, key := range []string{"main", "old1", "old2"} {
		w.patch(t, sessions.PatchIn{Key: key})
		w.inject(t, key, "x")
	}
	w.clock = time.Now().Add(48 * time.Hour) // the times of files are real ones
	for i := range 5 {
		w.patch(t, sessions.PatchIn{Key: fmt.Sprint("new", i)})
		w.inject(t, fmt.Sprint("new", i), strings.Repeat("y", 1000))
	}
	pass := func() sessions.Pass {
		t.Helper()
		p, err := w.Maintain(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Bytes = 0
		return p
	}
	before := w.keys(t, sessions.ListIn{})
	if p := pass(); p != (sessions.Pass{Old: 2, Surplus: 2}) || w.keys(t, sessions.ListIn{}) != before {
		t.Errorf("warn: %+v, %s", p, w.keys(t, sessions.ListIn{}))
	}
	m.Mode = "enforce"
	if p := pass(); p != (sessions.Pass{Old: 2, Surplus: 2}) || w.keys(t, sessions.ListIn{}) != "agent:main:new4 agent:main:new3 agent:main:new2 agent:main:main" {
		t.Errorf("enforce: %+v, %s", p, w.keys(t, sessions.ListIn{}))
	}
	if n := len(w.files(t)); n != 8 {
		t.Errorf("%d files", n)
	}
	// The archives were put aside now, and are written long ago by this clock.
	if p := pass(); p != (sessions.Pass{Archives: 4}) || len(w.files(t)) != 4 {
		t.Errorf("%+v %v", p, w.files(t))
	}
	m.MaxDiskBytes, m.HighWaterBytes = 4600, 4500
	if p := pass(); p != (sessions.Pass{Large: 1}) || w.keys(t, sessions.ListIn{}) != "agent:main:new4 agent:main:new3 agent:main:main" || len(w.files(t)) != 3 {
		t.Errorf("%+v %s %v", p, w.keys(t, sessions.ListIn{}), w.files(t))
	}
	if p := pass(); p != (sessions.Pass{}) {
		t.Errorf("%+v", p)
	}
}
