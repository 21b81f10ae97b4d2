package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

const text = `{
  // who may come in
  gateway: { auth: { mode: "token", token: "secret-0123456789" }, reload: { debounceMs: 0 } },
  agents: { defaults: { heartbeat: { every: "0m" } } }, // quiet
}
`

type world struct {
	*Service
	path string
	now  time.Time
	mu   sync.Mutex
	rows []Change
}

func open(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{path: filepath.Join(dir, "config.json"), now: time.Unix(1_800_000_000, 0)}
	write(t, w.path, text)
	load := config.Options{Path: w.path, StateDir: dir, Env: func(k string) string {
		if k == "HOME" {
			return dir
		}
		return ""
	}}
	cfg, err := config.Load(load)
	if err != nil {
		t.Fatal(err)
	}
	w.Service = New(Config{
		Load: load, Initial: cfg, Bus: events.New(time.Now), Version: "1", Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, c Change) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.rows = append(w.rows, c)
			return nil
		},
	})
	return w
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) text(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var admin = identity.Internal()

// hash is that of the file now.
func (w *world) hash(t *testing.T) string {
	t.Helper()
	got, err := w.Get(t.Context(), admin, GetIn{})
	if err != nil {
		t.Fatal(err)
	}
	return got.View.Hash
}

// TestOneWriterWins: of many writers with the same hash one wins, and the others are told.
func TestOneWriterWins(t *testing.T) {
	w := open(t)
	base := w.hash(t)
	var wg sync.WaitGroup
	results := make(chan error, 20)
	for i := range 20 {
		wg.Go(func() {
			_, err := w.Set(t.Context(), admin, SetIn{Raw: strings.Replace(text, "agents:", fmt.Sprintf("session: { idleMinutes: %d }, agents:", i+1), 1), BaseHash: base, Text: true})
			results <- err
		})
	}
	wg.Wait()
	won := 0
	for range 20 {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, ErrConflict):
			t.Errorf("a writer got %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won, want one", won)
	}
	if got := w.Current().Hash; got != w.hash(t) {
		t.Errorf("in force is %s, the file is %s", got, w.hash(t))
	}
	if len(w.rows) != 1 {
		t.Errorf("the audit log has %d rows, want one: %+v", len(w.rows), w.rows)
	}
}

// TestWriteKeeps: comments, the secret, a link to the file and the text before stay; nothing secret is shown.
func TestWriteKeeps(t *testing.T) {
	w := open(t)
	real := filepath.Join(filepath.Dir(w.path), "real.json")
	if err := os.Rename(w.path, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, w.path); err != nil {
		t.Skip(err)
	}
	got, err := w.Get(t.Context(), admin, GetIn{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Text == nil || strings.Contains(*got.Text, "secret-0123456789") || !strings.Contains(*got.Text, "// quiet") {
		t.Fatalf("the text shows a secret or loses a comment: %v", got.Text)
	}
	out, err := w.Set(t.Context(), admin, SetIn{Raw: strings.Replace(*got.Text, `"0m"`, `"5m"`, 1), BaseHash: got.View.Hash, Text: true})
	if err != nil {
		t.Fatal(err)
	}
	now := w.text(t)
	for _, want := range []string{"secret-0123456789", "// quiet", "// who may come in", `"5m"`} {
		if !strings.Contains(now, want) {
			t.Errorf("the file lost %q:\n%s", want, now)
		}
	}
	if st, err := os.Lstat(w.path); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v %v", st, err)
	}
	if b, err := os.ReadFile(w.path + ".bak"); err != nil || string(b) != text {
		t.Errorf("the text before is not kept: %q %v", b, err)
	}
	if out.Plan.Effect != EffectHot || w.Current().Beat("main").Every != "5m" {
		t.Errorf("the change is not in force: %+v, %+v", out.Plan, w.Current().Beat("main"))
	}
	for _, r := range w.rows {
		if strings.Contains(r.What, "secret-") || !strings.Contains(r.What, "agents.defaults.heartbeat.every") {
			t.Errorf("the audit row says %q", r.What)
		}
	}
}

// TestBackups: four older texts are kept besides the last.
func TestBackups(t *testing.T) {
	w := open(t)
	for i := range 7 {
		if _, err := w.Edit(t.Context(), admin, EditIn{Patch: fmt.Sprintf("{session:{idleMinutes:%d}}", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{".bak", ".bak.1", ".bak.2", ".bak.3", ".bak.4"} {
		b, err := os.ReadFile(w.path + name)
		if want := fmt.Sprintf("idleMinutes: %d", 6-i); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, want %s in %s", name, err, want, b)
		}
	}
	if _, err := os.Stat(w.path + ".bak.5"); err == nil {
		t.Error("a sixth text is kept")
	}
}

// TestRefusals: what is refused changes nothing, and says why.
func TestRefusals(t *testing.T) {
	w := open(t)
	base := w.hash(t)
	for name, c := range map[string]struct {
		do   func() error
		want error
	}{
		"no hash":     {func() error { _, err := w.Set(t.Context(), admin, SetIn{Raw: "{}"}); return err }, ErrHashNeeded},
		"stale hash":  {func() error { _, err := w.Set(t.Context(), admin, SetIn{Raw: "{}", BaseHash: "0"}); return err }, ErrConflict},
		"syntax":      {func() error { _, err := w.Set(t.Context(), admin, SetIn{Raw: "{ a", BaseHash: base}); return err }, ErrSyntax},
		"unknown key": {func() error { _, err := w.Set(t.Context(), admin, SetIn{Raw: "{ a: 1 }", BaseHash: base}); return err }, ErrInvalid},
		"no object": {func() error {
			_, err := w.Patch(t.Context(), admin, ApplyIn{SetIn: SetIn{Raw: "[1]", BaseHash: base}})
			return err
		}, ErrNoObject},
		"remote mode": {func() error {
			_, err := w.Edit(t.Context(), admin, EditIn{Patch: "{gateway:{mode:'remote'}}"})
			return err
		}, ErrInvalid},
		"a sign for no secret": {func() error {
			_, err := w.Edit(t.Context(), admin, EditIn{Patch: "{hooks:{token:'" + config.Sentinel + "'}}"})
			return err
		}, ErrSentinel},
		"a short window": {func() error {
			_, err := w.Apply(t.Context(), admin, ApplyIn{SetIn: SetIn{Raw: text, BaseHash: base, Text: true}, Confirm: time.Second})
			return err
		}, ErrWindow},
		"nothing to confirm": {func() error { _, err := w.Confirm(t.Context(), admin, struct{}{}); return err }, ErrNotPending},
		"nothing to undo":    {func() error { _, err := w.Revert(t.Context(), admin, struct{}{}); return err }, ErrNotPending},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.do(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if got := w.text(t); got != text {
				t.Errorf("the file changed:\n%s", got)
			}
			if len(w.rows) != 0 {
				t.Errorf("the audit log has %+v", w.rows)
			}
		})
	}
	if _, err := w.Set(t.Context(), identity.Caller{}, SetIn{Raw: "{}", BaseHash: base}); err == nil {
		t.Error("a caller without scope changed the configuration")
	}
}

// TestConfirm: a change with a window undoes itself, stays when it is confirmed, and keeps others out.
func TestConfirm(t *testing.T) {
	apply := func(t *testing.T) *world {
		t.Helper()
		w := open(t)
		out, err := w.Apply(t.Context(), admin, ApplyIn{
			SetIn: SetIn{Raw: strings.Replace(text, "0m", "7m", 1), BaseHash: w.hash(t), Text: true}, Confirm: time.Minute,
		})
		if err != nil || out.Pending == nil {
			t.Fatal(out, err)
		}
		if _, err := w.Edit(t.Context(), admin, EditIn{Patch: "{session:{idleMinutes:3}}"}); !errors.Is(err, ErrPending) {
			t.Fatalf("a second change: %v, want ErrPending", err)
		}
		st, err := os.Stat(undoPath(filepath.Dir(w.path)))
		if err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Fatalf("what undoes the change: %v %v", st, err)
		}
		return w
	}
	t.Run("confirmed", func(t *testing.T) {
		w := apply(t)
		if _, err := w.Confirm(t.Context(), admin, struct{}{}); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Hour)
		if what, err := Recover(filepath.Dir(w.path), w.now); what != "" || err != nil {
			t.Errorf("Recover: %q %v", what, err)
		}
		if got := w.text(t); !strings.Contains(got, "7m") {
			t.Errorf("the confirmed change is gone:\n%s", got)
		}
	})
	t.Run("reverted", func(t *testing.T) {
		w := apply(t)
		if _, err := w.Revert(t.Context(), admin, struct{}{}); err != nil {
			t.Fatal(err)
		}
		if got := w.text(t); got != text {
			t.Errorf("the file is not as before:\n%s", got)
		}
	})
	t.Run("late", func(t *testing.T) {
		w := apply(t)
		w.now = w.now.Add(time.Hour)
		if err := w.lapse(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.text(t); got != text {
			t.Errorf("the file is not as before:\n%s", got)
		}
		if !w.PendingUntil().IsZero() {
			t.Error("a change still waits")
		}
	})
	t.Run("killed", func(t *testing.T) {
		w := apply(t)
		dir := filepath.Dir(w.path)
		if what, err := Recover(dir, w.now.Add(time.Second)); what != "" || err != nil {
			t.Fatalf("a start within the window undid it: %q %v", what, err)
		}
		what, err := Recover(dir, w.now.Add(time.Hour))
		if err != nil || !strings.Contains(what, "not confirmed") {
			t.Fatalf("a start after the window: %q %v", what, err)
		}
		if got := w.text(t); got != text {
			t.Errorf("the file is not as before:\n%s", got)
		}
	})
	t.Run("killed before the file was written", func(t *testing.T) {
		w := apply(t)
		write(t, w.path, text)
		if what, err := Recover(filepath.Dir(w.path), w.now); what != "" || err != nil {
			t.Fatal(what, err)
		}
		if _, ok, err := LoadPending(filepath.Dir(w.path)); ok || err != nil {
			t.Errorf("a change that never was still waits: %v %v", ok, err)
		}
	})
}

// TestRestarts: restarts coalesce, keep their distance, and wait for work in flight.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRestarts(7)
		var busy atomic.Int64
		fired := make(chan time.Time, 10)
		start := time.Now()
		bind := func() func() {
			return r.Bind(func() int { return int(busy.Load()) }, func(string) { fired <- time.Now() })
		}
		leave := bind()
		first := r.Schedule(RestartIn{Reason: "a"})
		if first.Delay != RestartDelay || first.Coalesced || first.PID != 7 {
			t.Errorf("%+v", first)
		}
		if second := r.Schedule(RestartIn{Reason: "b"}); !second.Coalesced || second.Reason != "a" {
			t.Errorf("%+v", second)
		}
		if got := (<-fired).Sub(start); got != RestartDelay {
			t.Errorf("it came after %s", got)
		}
		leave()
		leave = bind()
		at, short := time.Now(), time.Millisecond
		third := r.Schedule(RestartIn{Delay: &short})
		if third.Cooldown != restartCooldown || third.Delay != restartCooldown+short {
			t.Errorf("%+v", third)
		}
		busy.Store(1)
		time.AfterFunc(restartCooldown+3*time.Second, func() { busy.Store(0) })
		if got := (<-fired).Sub(at); got < restartCooldown+3*time.Second || got > restartCooldown+4*time.Second {
			t.Errorf("it came after %s, want as soon as the work is done", got)
		}
		leave()
		leave = bind()
		busy.Store(1)
		at = time.Now()
		r.Schedule(RestartIn{})
		if got := (<-fired).Sub(at); got > RestartDelay+restartCooldown+maxHold+time.Second {
			t.Errorf("it came after %s, however much there is to do", got)
		}
		leave()
		leave = bind()
		at = time.Now()
		zero := time.Duration(0)
		if r.Schedule(RestartIn{Delay: &zero, Urgent: true}); (<-fired).Sub(at) > time.Second {
			t.Error("an urgent one waited")
		}
		leave()
		leave = bind()
		r.Schedule(RestartIn{})
		leave() // the daemon ends by itself
		time.Sleep(5 * time.Minute)
		if len(fired) != 0 {
			t.Error("a restart of a daemon that is gone")
		}
	})
}

// TestPlan is the reload table (control-plane.md §4).
func TestPlan(t *testing.T) {
	for path, want := range map[string]Effect{
		"gateway.port": EffectRestart, "gateway.remote.url": EffectNone, "gateway.reload.mode": EffectNone, "gateway.auth.token": EffectRestart,
		"gateway.nodes.allowCommands": EffectHot, "agents.list": EffectHot, "logging.level": EffectHot, "logging.file": EffectRestart,
		"plugins.entries": EffectRestart, "discovery.mdns.mode": EffectRestart, "canvasHost.enabled": EffectRestart, "cron.enabled": EffectHot,
		"gateway.nodesX": EffectRestart, "nodeHost.browserProxy": EffectRestart, "unheard.of": EffectRestart, "meta.lastTouchedAt": EffectNone,
	} {
		if got := EffectOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestFaultOfTheStart: what a start said of a bad file, and of what runs instead, stays until something else is wrong.
func TestFaultOfTheStart(t *testing.T) {
	w := open(t)
	write(t, w.path, "{gateway: {prot: 1}}")
	_, err := config.Load(w.load)
	why, issues := Reason(err)
	told := Fault{What: why + "; the daemon runs with the last configuration that worked", Issues: issues, At: w.now}
	w.fault = told
	w.reload(t.Context())
	if got := w.Fault(); got.What != told.What || len(got.Issues) != 1 {
		t.Errorf("%+v", got)
	}
	write(t, w.path, "{gateway: {prort: 1}}")
	w.reload(t.Context())
	if got := w.Fault(); !strings.Contains(got.What, "prort") || !strings.Contains(got.What, "the configuration before stays in force") {
		t.Errorf("%+v", got)
	}
	write(t, w.path, text)
	w.reload(t.Context())
	if got := w.Fault(); got.What != "" {
		t.Errorf("%+v", got)
	}
}
