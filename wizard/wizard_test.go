package wizard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var me = identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: "me"}

// world is a service over a file.
type world struct {
	*Service
	t       *testing.T
	now     time.Time
	written []string
	fresh   bool
	keep    []string
	refuse  error
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	home := t.TempDir()
	path := filepath.Join(home, "config.json")
	if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, now: time.UnixMilli(1_000_000_000_000)}
	w.Service = New(Config{
		Look: func() (config.View, error) {
			return config.Look(config.Options{Path: path, StateDir: home, Env: func(k string) string { return map[string]string{"HOME": home}[k] }})
		},
		Write: func(_ context.Context, c identity.Caller, _ string, changes []Change, fresh bool, keep []string) error {
			if w.refuse != nil {
				return w.refuse
			}
			for _, ch := range changes {
				w.written = append(w.written, strings.Join(ch.Path, ".")+"="+fmt.Sprint(ch.Value))
			}
			w.fresh, w.keep = fresh, keep
			if c.Principal != "me" {
				t.Errorf("written as %q", c.Principal)
			}
			return nil
		},
		Workspace: "/ws", Token: func() string { return "made-token" }, HasSecret: func() bool { return false }, Version: "1.2.3",
		Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(w.Close)
	return w
}

// answers plays a session: each step is answered by the first answer whose key begins its message or title,
// notes by nothing. It returns the steps in short and the last result.
func (w *world) play(in StartIn, answers map[string]any) (steps []string, out StepOut) {
	w.t.Helper()
	out, err := w.Start(w.t.Context(), me, in)
	for range 100 {
		if err != nil {
			w.t.Fatal(err)
		}
		if out.Done {
			return steps, out
		}
		s := out.Step
		text := s.Title
		if s.Message != nil && s.Type != Note {
			text = *s.Message
		}
		steps = append(steps, string(s.Type)+" "+text)
		var value any
		if s.Type != Note {
			value = s.Initial
			if list, ok := value.([]string); ok {
				value = []any{}
				for _, item := range list {
					value = append(value.([]any), item)
				}
			}
			for key, v := range answers {
				if strings.HasPrefix(text, key) {
					value = v
				}
			}
		}
		if len(w.written) > 0 && s.Title != "Done" {
			w.t.Errorf("written before the end, at %q", text)
		}
		out, err = w.Next(w.t.Context(), me, NextIn{SessionID: out.SessionID, Answer: &Answer{s.ID, value}})
	}
	w.t.Fatal("the questions do not end")
	return nil, StepOut{}
}

func TestQuickStart(t *testing.T) {
	w := newWorld(t, "")
	steps, out := w.play(StartIn{}, map[string]any{"This is powerful": true, "Who serves": "anthropic", "Key of": "sk-secret"})
	want := []string{
		"note OpenClaw onboarding", "note Security", "confirm This is powerful and can do harm. Go on?", "select How much do you want to decide?",
		"select Who serves the models?", "select How is the key of Anthropic handed over?", "text Key of Anthropic", "text Model that agents use",
		"note Gateway", "note Service", "note What now", "note Done",
	}
	if d := cmp.Diff(want, steps); d != "" {
		t.Error(d)
	}
	if out.Status != Done || out.Error != "" {
		t.Errorf("got %+v", out)
	}
	if d := cmp.Diff([]string{
		"gateway.mode=local", "env.vars.ANTHROPIC_API_KEY=sk-secret", "agents.defaults.model.primary=anthropic/claude-opus-4-6",
		"gateway.auth.mode=token", "gateway.auth.token=made-token",
		"wizard.lastRunAt=2001-09-09T01:46:40.000Z", "wizard.lastRunVersion=1.2.3", "wizard.lastRunCommand=setup", "wizard.lastRunMode=local",
	}, w.written); d != "" {
		t.Error(d)
	}
	if _, err := w.Status(t.Context(), me, SessionIn{out.SessionID}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestEverything(t *testing.T) {
	w := newWorld(t, "{gateway:{port:4000,auth:{mode:'token',token:'old-token-0123456789'}},hooks:{internal:{enabled:true,entries:{'boot-md':{enabled:true}}}},logging:{level:'debug'}}")
	steps, out := w.play(StartIn{}, map[string]any{
		"This is powerful": true, "How much": "advanced", "There is a configuration": "modify", "Directory": "~/work", "Who serves": "skip",
		"Port of": "5000", "Who can reach": "custom", "Address to listen": "192.168.1.9", "How do clients": "password", "Password of": "long enough",
		"Which channels": []any{"slack", "telegram"}, "Token of the bot": "t-1", "Choose how skills": true, "Which manager": "bun",
		"Which hooks": []any{"session-memory"},
	})
	if out.Status != Done {
		t.Fatalf("got %+v", out)
	}
	if d := cmp.Diff([]string{
		"gateway.mode=local", "agents.defaults.workspace=~/work", "gateway.port=5000", "gateway.bind=custom", "gateway.customBindHost=192.168.1.9",
		"gateway.auth.mode=password", "gateway.auth.password=long enough", "gateway.tailscale.mode=off",
		"channels.telegram.enabled=true", "channels.telegram.botToken=t-1", "channels.slack.enabled=true", "channels.slack.botToken=t-1",
		"skills.install.nodeManager=bun", "hooks.internal.entries.session-memory.enabled=true", "hooks.internal.entries.boot-md.enabled=false",
		"hooks.internal.enabled=true",
	}, w.written[:len(w.written)-4]); d != "" {
		t.Error(d)
	}
	if len(steps) < 20 || w.fresh {
		t.Errorf("%d steps, fresh %v", len(steps), w.fresh)
	}
}

func TestBeginAnew(t *testing.T) {
	for scope, want := range map[string]string{
		"settings": "[gateway.auth] gateway.mode=local", "all": "[] gateway.mode=local gateway.auth.mode=token gateway.auth.token=made-token",
	} {
		w := newWorld(t, "{gateway:{auth:{token:'old-token-0123456789'}},talk:{}}")
		_, out := w.play(StartIn{}, map[string]any{"This is powerful": true, "There is a configuration": "reset", "What is to be left out": scope})
		got := fmt.Sprint(w.keep, " ", strings.Join(w.written[:len(w.written)-4], " "))
		if out.Status != Done || !w.fresh || got != want {
			t.Errorf("%s: %v, %+v", scope, got, out)
		}
	}
}

func TestRemote(t *testing.T) {
	w := newWorld(t, "")
	steps, out := w.play(StartIn{Mode: "remote"}, map[string]any{"This is powerful": true, "Address": "wss://box:18789", "Token": "tok"})
	if out.Status != Done || cmp.Diff([]string{"gateway.mode=remote", "gateway.remote.url=wss://box:18789", "gateway.remote.token=tok"}, w.written[:3]) != "" {
		t.Errorf("got %+v, %v, %v", out, w.written, steps)
	}
}

func TestRiskNotAccepted(t *testing.T) {
	w := newWorld(t, "")
	_, out := w.play(StartIn{}, nil)
	if !out.Done || out.Status != Cancelled || out.Error != "risk not accepted" || len(w.written) > 0 {
		t.Errorf("got %+v", out)
	}
}

func TestInvalidFile(t *testing.T) {
	w := newWorld(t, "{gateway:{port:'x'}}")
	steps, out := w.play(StartIn{}, map[string]any{"This is powerful": true})
	if steps[len(steps)-1] != "note Invalid config" || out.Status != Failed || !strings.Contains(out.Error, "is not valid") || len(w.written) > 0 {
		t.Errorf("got %v, %+v", steps, out)
	}
}

func TestWriteFails(t *testing.T) {
	w := newWorld(t, "")
	w.refuse = errs.New(errs.Conflict, "the file changed meanwhile")
	_, out := w.play(StartIn{}, map[string]any{"This is powerful": true})
	if out.Status != Failed || !strings.Contains(out.Error, "the file changed meanwhile") {
		t.Errorf("got %+v", out)
	}
}

func TestOneSession(t *testing.T) {
	w := newWorld(t, "")
	ctx := t.Context()
	first, err := w.Start(ctx, me, StartIn{})
	if err != nil {
		t.Fatal(err)
	}
	if *first.Step.Message != "" || first.Step.Title != "OpenClaw onboarding" || first.Step.Type != Note {
		t.Errorf("got %+v", first.Step)
	}
	if _, err := w.Start(ctx, me, StartIn{}); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v", err)
	}
	again, err := w.Next(ctx, me, NextIn{SessionID: first.SessionID})
	if err != nil || again.Step.ID != first.Step.ID {
		t.Errorf("got %+v, %v", again, err)
	}
	if st, err := w.Status(ctx, me, SessionIn{first.SessionID}); err != nil || st != (StatusOut{Running, ""}) {
		t.Errorf("got %+v, %v", st, err)
	}
	for _, id := range []string{"", "missing"} {
		if _, err := w.Next(ctx, me, NextIn{SessionID: id}); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
	if st, err := w.Cancel(ctx, me, SessionIn{first.SessionID}); err != nil || st != (StatusOut{Cancelled, "cancelled"}) {
		t.Errorf("got %+v, %v", st, err)
	}
	if _, err := w.Next(ctx, me, NextIn{SessionID: first.SessionID}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	// One that nobody answers makes way.
	left, err := w.Start(ctx, me, StartIn{})
	if err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(idleFor - 1)
	if _, err := w.Start(ctx, me, StartIn{}); !errors.Is(err, ErrRunning) {
		t.Errorf("got %v", err)
	}
	w.now = w.now.Add(1)
	if _, err := w.Start(ctx, me, StartIn{}); err != nil {
		t.Error(err)
	}
	if _, err := w.Status(ctx, me, SessionIn{left.SessionID}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Start(ctx, me, StartIn{Mode: "other"}); !errors.Is(err, ErrMode) {
		t.Errorf("got %v", err)
	}
}

func TestAnswersAreChecked(t *testing.T) {
	w := newWorld(t, "")
	ctx := t.Context()
	out, err := w.Start(ctx, me, StartIn{})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(v any) error {
		next, err := w.Next(ctx, me, NextIn{SessionID: out.SessionID, Answer: &Answer{out.Step.ID, v}})
		if err == nil {
			out = next
		}
		return err
	}
	if _, err := w.Next(ctx, me, NextIn{SessionID: out.SessionID, Answer: &Answer{StepID: "other"}}); !errors.Is(err, ErrNoStep) {
		t.Errorf("got %v", err)
	}
	old := out.Step.ID
	for range 2 { // notes take anything
		if err := answer("anything"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Next(ctx, me, NextIn{SessionID: out.SessionID, Answer: &Answer{old, true}}); !errors.Is(err, ErrNoStep) {
		t.Errorf("an old step: %v", err)
	}
	for _, bad := range []any{nil, "yes", 1.0, []any{true}} {
		if err := answer(bad); !errors.Is(err, ErrAnswer) || out.Step.Type != Confirm {
			t.Errorf("confirm %v: %v", bad, err)
		}
	}
	if err := answer(true); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []any{nil, "other", 1.0, []any{"advanced"}} {
		if err := answer(bad); !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), "quickstart, advanced") {
			t.Errorf("select %v: %v", bad, err)
		}
	}
	if err := answer("advanced"); err != nil {
		t.Fatal(err)
	}
	if err := answer("local"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []any{1.0, "relative", "", "a\nb", "/" + strings.Repeat("x", maxText)} {
		if err := answer(bad); !errors.Is(err, ErrAnswer) || out.Step.Type != Text {
			t.Errorf("text %v: %v", bad, err)
		}
	}
}

func TestFit(t *testing.T) {
	multi := Step{Type: MultiSelect, Options: []Option{{"a", "A", ""}, {"b", "B", ""}}}
	for _, c := range []struct {
		in      any
		want    any
		problem bool
	}{
		{nil, []string{}, false}, {[]any{"b", "a", "b"}, []string{"b", "a"}, false}, {[]any{"c"}, nil, true}, {"a", nil, true}, {[]any{1.0}, nil, true},
	} {
		got, problem := fit(multi, c.in)
		if (problem != "") != c.problem || !c.problem && cmp.Diff(c.want, got) != "" {
			t.Errorf("%v: %v, %q", c.in, got, problem)
		}
	}
}

// TestManyClients holds that a session moves one step at a time, whoever asks.
func TestManyClients(t *testing.T) {
	w := newWorld(t, "")
	out, err := w.Start(t.Context(), me, StartIn{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for range 16 {
		wg.Go(func() {
			_, err := w.Next(t.Context(), me, NextIn{SessionID: out.SessionID, Answer: &Answer{StepID: out.Step.ID}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				taken++
			} else if !errors.Is(err, ErrNoStep) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if taken != 1 {
		t.Errorf("%d answers to one step were taken", taken)
	}
}
