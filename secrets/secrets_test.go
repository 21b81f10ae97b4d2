package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const value = "swordfish-0123456789"

// world is a service over a configuration that was read from a file.
type world struct {
	*Service
	mu     sync.Mutex
	env    map[string]string
	cur    *config.Config
	told   []string
	rows   []string
	refuse error // of Record
	log    bytes.Buffer
}

func newWorld(t *testing.T, text string, env map[string]string) *world {
	t.Helper()
	home := t.TempDir()
	env["HOME"] = home
	path := filepath.Join(home, "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{env: env}
	var err error
	if w.cur, err = config.Load(config.Options{Path: path, Env: func(k string) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.env[k]
	}}); err != nil {
		t.Fatal(err)
	}
	w.Service = New(Config{
		Current: func() *config.Config { return w.cur },
		Swap: func(old, fresh *config.Config) bool {
			if w.cur != old {
				return false
			}
			w.cur = fresh
			return true
		},
		Tell: func(_ context.Context, text string) error { w.told = append(w.told, text); return nil },
		Record: func(_ context.Context, c identity.Caller, what string) error {
			w.rows = append(w.rows, c.Principal+": "+what)
			return w.refuse
		},
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	t.Cleanup(func() {
		if all := w.log.String() + strings.Join(w.told, "") + strings.Join(w.rows, ""); strings.Contains(all, value) {
			t.Errorf("a secret is in a log, an event or a row:\n%s", all)
		}
	})
	return w
}

func (w *world) set(k, v string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.env[k] = v
}

var me = identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: "me"}

const two = `{talk:{apiKey:{source:'env',id:'TALK'}},channels:{slack:{enabled:false,botToken:{source:'env',id:'SLACK'}},
	telegram:{accounts:{home:{botToken:{source:'env',id:'BOT'}}}}},gateway:{auth:{token:'plain'}}}`

func TestResolve(t *testing.T) {
	w := newWorld(t, two, map[string]string{"TALK": value, "BOT": "bot-" + value})
	out, err := w.Resolve(t.Context(), me, ResolveIn{Command: " doctor ", Targets: []string{
		"channels.telegram.accounts.*.botToken", " talk.apiKey ", "talk.apiKey", "", "channels.slack.botToken", "gateway.auth.token", "auth-profiles.api_key.key",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range out.Assignments {
		got = append(got, fmt.Sprint(a.Path, a.Segments, a.Value.Reveal()))
	}
	want := []string{"talk.apiKey[talk apiKey]" + value, "channels.telegram.accounts.home.botToken[channels telegram accounts home botToken]bot-" + value}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if cmp.Diff([]string{"channels.slack.botToken"}, out.Inactive) != "" || len(out.Diagnostics) != 1 {
		t.Errorf("got %v, %v", out.Inactive, out.Diagnostics)
	}
	if d := cmp.Diff([]string{"me: secrets were handed out to doctor: talk.apiKey, channels.telegram.accounts.home.botToken"}, w.rows); d != "" {
		t.Error(d)
	}
	w.refuse = errs.New(errs.Unavailable, "the disk is full")
	if out, err := w.Resolve(t.Context(), me, ResolveIn{Command: "x", Targets: []string{"talk.apiKey"}}); err == nil || len(out.Assignments) > 0 {
		t.Error("what was not recorded was handed out")
	}
}

func TestResolveRefuses(t *testing.T) {
	w := newWorld(t, two, map[string]string{"TALK": value, "BOT": value})
	for _, c := range []struct {
		in   ResolveIn
		want *errs.Error
	}{
		{ResolveIn{Targets: []string{"talk.apiKey"}}, ErrCommandName},
		{ResolveIn{Command: "  "}, ErrCommandName},
		{ResolveIn{Command: strings.Repeat("x", 257)}, ErrCommandName},
		{ResolveIn{Command: "x", Targets: make([]string, 1025)}, ErrTargets},
		{ResolveIn{Command: "x", Targets: []string{"talk.apiKey", "talk"}}, ErrTarget},
		{ResolveIn{Command: "x", Targets: []string{"channels.telegram.accounts.home.botToken"}}, ErrTarget}, // a path, no id
	} {
		if _, err := w.Resolve(t.Context(), me, c.in); !errors.Is(err, c.want) {
			t.Errorf("%v: got %v", c.in, err)
		}
	}
	w.cur = nil
	if _, err := w.Resolve(t.Context(), me, ResolveIn{Command: "x"}); !errors.Is(err, ErrInactive) {
		t.Errorf("got %v", err)
	}
}

func TestReload(t *testing.T) {
	w := newWorld(t, two, map[string]string{"TALK": value, "BOT": value})
	first := w.cur
	out, err := w.Reload(t.Context(), me, ReloadIn{})
	if err != nil || out.Warnings != 1 || w.cur == first || len(w.told) > 0 {
		t.Fatalf("got %+v, %v, %q", out, err, w.told)
	}
	good := w.cur
	w.set("TALK", "")
	for range 2 { // the second one is no news
		_, err = w.Reload(t.Context(), me, ReloadIn{})
		if !errors.Is(err, ErrReload) || !strings.Contains(err.Error(), "talk.apiKey: Environment variable TALK of a secret reference is not set (line 1)") {
			t.Fatalf("got %v", err)
		}
	}
	if w.cur != good || len(w.told) != 1 || !strings.HasPrefix(w.told[0], "[SECRETS_RELOADER_DEGRADED] ") {
		t.Fatalf("got %q", w.told)
	}
	checked, err := w.List(t.Context(), me, ListIn{Check: true})
	if err != nil || checked.Refs[0].Path != "talk.apiKey" || checked.Refs[0].Problem == "" || checked.Refs[1].Problem != "" {
		t.Fatalf("got %+v, %v", checked.Refs, err)
	}
	w.set("TALK", "new-"+value)
	for range 2 {
		if _, err := w.Reload(t.Context(), me, ReloadIn{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.told) != 2 || !strings.HasPrefix(w.told[1], "[SECRETS_RELOADER_RECOVERED] ") {
		t.Fatalf("got %q", w.told)
	}
	resolved, err := w.Resolve(t.Context(), me, ResolveIn{Command: "x", Targets: []string{"talk.apiKey"}})
	if err != nil || resolved.Assignments[0].Value.Reveal() != "new-"+value {
		t.Fatalf("got %v, %v", resolved, err)
	}
}

func TestReloadYieldsToAChange(t *testing.T) {
	w := newWorld(t, two, map[string]string{"TALK": value, "BOT": value})
	w.cfg.Swap = func(_, _ *config.Config) bool { return false }
	if _, err := w.Reload(t.Context(), me, ReloadIn{}); !errors.Is(err, ErrBusy) {
		t.Fatalf("got %v", err)
	}
}

func TestListShowsNoValue(t *testing.T) {
	w := newWorld(t, two, map[string]string{"TALK": value, "BOT": value})
	out, err := w.List(t.Context(), me, ListIn{})
	if err != nil || len(out.Refs) != 3 || strings.Contains(fmt.Sprintf("%+v", out), value) {
		t.Fatalf("got %+v, %v", out, err)
	}
	if out.Refs[0].Target != "talk.apiKey" || out.Refs[0].Source != "env" || out.Refs[0].ID != "TALK" || !out.Refs[0].Active {
		t.Errorf("got %+v", out.Refs[0])
	}
	if len(out.Targets) < 50 {
		t.Errorf("only %d targets", len(out.Targets))
	}
}
