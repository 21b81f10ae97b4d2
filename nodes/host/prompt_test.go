//go:build !windows

package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
)

// person answers for the one at this machine.
type person func(ctx context.Context, q host.Question) (string, error)

func (p person) Prompt(ctx context.Context, q host.Question) (string, error) { return p(ctx, q) }

const onMiss = `{"version":1,"defaults":{"security":"allowlist","ask":"on-miss"}}`

// attended is a host with a person.
func attended(t *testing.T, file string, p person) (*host.Host, *policy.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exec-approvals.json")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	f := policy.Open(path, policy.Options{Defaults: policy.Overrides{Security: policy.SecurityAllowlist, Ask: policy.AskOnMiss}})
	return host.New(host.Config{Policy: f, Prompter: p}), f
}

func answering(answer string, asked *[]host.Question) person {
	return func(_ context.Context, q host.Question) (string, error) {
		*asked = append(*asked, q)
		return answer, nil
	}
}

// program is a script that says what it is.
func program(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tool")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho tool $1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPersonAllows(t *testing.T) {
	tool := program(t)
	dir := filepath.Dir(tool)
	var asked []host.Question
	h, _ := attended(t, onMiss, answering("allow-once", &asked))
	a := ask(t, h, "system.run", m{"command": []string{tool, "a b"}, "cwd": dir, "agentId": "main", "sessionKey": "s", "runId": "r"})
	if !a.Success || a.Stdout != "tool a b\n" {
		t.Fatalf("%+v", a)
	}
	if len(asked) != 1 || asked[0].Command != tool+` "a b"` || asked[0].Program != tool || asked[0].Cwd != dir || *asked[0].AgentID != "main" || asked[0].SessionKey != "s" {
		t.Errorf("asked %+v", asked)
	}
	if len(a.Events) != 2 || !strings.HasPrefix(a.Events[0], "exec.decided ") || !strings.HasPrefix(a.Events[1], "exec.finished ") {
		t.Fatalf("events %q", a.Events)
	}
	var e map[string]string
	if err := json.Unmarshal([]byte(strings.TrimPrefix(a.Events[0], "exec.decided ")), &e); err != nil || e["decision"] != "allow-once" || e["by"] != "companion app" ||
		e["runId"] != "r" || e["invokeId"] != "i" || e["sessionKey"] != "s" || e["command"] != tool+` "a b"` {
		t.Errorf("event %v, %v", e, err)
	}
	// Once is once.
	if a := ask(t, h, "system.run", m{"command": []string{tool}}); !a.Success || len(asked) != 2 {
		t.Errorf("%+v, asked %d times", a, len(asked))
	}
}

func TestPersonAllowsAlways(t *testing.T) {
	tool := program(t)
	var asked []host.Question
	h, f := attended(t, onMiss, answering("allow-always", &asked))
	for range 3 {
		if a := ask(t, h, "system.run", m{"command": []string{tool}}); !a.Success {
			t.Fatalf("%+v", a)
		}
	}
	if s, err := f.Snapshot(); err != nil || !strings.Contains(string(s.File), tool) || len(asked) != 1 {
		t.Errorf("asked %d times, stored %s, %v", len(asked), s.File, err)
	}
}

func TestPersonDeniesOrIsSilent(t *testing.T) {
	tool := program(t)
	for answer, want := range map[string]string{
		"deny": "SYSTEM_RUN_DENIED: user denied", "": "SYSTEM_RUN_DENIED: approval required", "yes": "SYSTEM_RUN_DENIED: approval required",
	} {
		var asked []host.Question
		h, _ := attended(t, onMiss, answering(answer, &asked))
		a := ask(t, h, "system.run", m{"command": []string{tool}})
		if !a.refused || a.Message != want || len(asked) != 1 {
			t.Errorf("%q: %+v, asked %d times", answer, a, len(asked))
		}
		reason := `"reason":"approval-required"`
		if answer == "deny" {
			reason = `"reason":"user-denied"`
		}
		if last := a.Events[len(a.Events)-1]; !strings.HasPrefix(last, "exec.denied ") || !strings.Contains(last, reason) {
			t.Errorf("%q: events %q", answer, a.Events)
		}
	}
	h, _ := attended(t, onMiss, func(context.Context, host.Question) (string, error) { return "allow-once", nil })
	if a := ask(t, h, "system.run", m{"command": []string{tool}, "needsScreenRecording": true}); a.Message != "SYSTEM_RUN_DENIED: approval required" {
		t.Errorf("%+v", a)
	}
	h, _ = attended(t, onMiss, func(context.Context, host.Question) (string, error) { return "", errors.New("broken") })
	if a := ask(t, h, "system.run", m{"command": []string{tool}}); a.Message != "SYSTEM_RUN_DENIED: approval required" {
		t.Errorf("%+v", a)
	}
}

// Nobody is asked about what comes with an approval, what the policy decides by itself, and what could not
// be approved.
func TestPersonIsLeftInPeace(t *testing.T) {
	tool := program(t)
	nobody := func(context.Context, host.Question) (string, error) {
		t.Error("asked")
		return "allow-always", nil
	}
	for name, tc := range map[string]struct {
		file string
		more m
		ok   bool
	}{
		"approved once":    {onMiss, m{"approved": true, "approvalDecision": "allow-once"}, true},
		"approved always":  {onMiss, m{"approvalDecision": "allow-always"}, true},
		"full":             {full, m{}, true},
		"listed":           {`{"version":1,"defaults":{"security":"allowlist","ask":"on-miss"},"agents":{"main":{"allowlist":["` + tool + `"]}}}`, m{}, true},
		"deny":             {`{"version":1,"defaults":{"security":"deny","ask":"always"}}`, m{}, false},
		"ask off":          {`{"version":1,"defaults":{"security":"allowlist","ask":"off"}}`, m{}, false},
		"a damaged file":   {`{"version":1,`, m{}, false},
		"no such cwd":      {onMiss, m{"cwd": "/no/such/place"}, false},
		"no such program":  {onMiss, m{"command": []string{"no-such-program-here"}}, false},
		"not even a text":  {onMiss, m{"command": []string{tool}, "rawCommand": "something else"}, false},
		"deny, yet claims": {`{"version":1,"defaults":{"security":"deny"}}`, m{"approved": true}, false},
	} {
		h, _ := attended(t, tc.file, nobody)
		params := m{"command": []string{tool}}
		maps.Copy(params, tc.more)
		if a := ask(t, h, "system.run", params); a.refused == tc.ok {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// What is allowed is what was asked about, under the policy of the moment it runs.
func TestPersonAnswersForOneThing(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(t *testing.T, f *policy.File, tool, link string)
		want   string
	}{
		"the program is rewritten": {func(t *testing.T, _ *policy.File, tool, _ string) {
			if err := os.WriteFile(tool, []byte("#!/bin/sh\necho other program\n"), 0o700); err != nil {
				t.Error(err)
			}
		}, "changed since it was approved"},
		"the program is replaced": {func(t *testing.T, _ *policy.File, tool, _ string) {
			other := tool + "2"
			if err := errors.Join(os.WriteFile(other, []byte("#!/bin/sh\necho tool \n"), 0o700), os.Rename(other, tool)); err != nil {
				t.Error(err)
			}
		}, "changed since it was approved"},
		"the link leads elsewhere": {func(t *testing.T, _ *policy.File, _, link string) {
			if err := errors.Join(os.Remove(link), os.Symlink("/bin/sh", link)); err != nil {
				t.Error(err)
			}
		}, "the executable was "},
		"the directory is another": {func(t *testing.T, _ *policy.File, tool, _ string) {
			dir := filepath.Join(filepath.Dir(tool), "work")
			if err := errors.Join(os.Rename(dir, dir+"2"), os.Mkdir(dir, 0o700)); err != nil {
				t.Error(err)
			}
		}, "was replaced since it was approved"},
		"the policy denies now": {func(t *testing.T, f *policy.File, _, _ string) {
			s, err := f.Snapshot()
			if err == nil {
				_, err = f.Set([]byte(`{"version":1,"defaults":{"security":"deny"}}`), &s.Hash)
			}
			if err != nil {
				t.Error(err)
			}
		}, "SYSTEM_RUN_DISABLED: security=deny"},
	} {
		t.Run(name, func(t *testing.T) {
			tool := program(t)
			link := filepath.Join(filepath.Dir(tool), "link")
			work := filepath.Join(filepath.Dir(tool), "work")
			if err := errors.Join(os.Symlink(tool, link), os.Mkdir(work, 0o700)); err != nil {
				t.Fatal(err)
			}
			var (
				h *host.Host
				f *policy.File
			)
			h, f = attended(t, onMiss, func(context.Context, host.Question) (string, error) {
				tc.change(t, f, tool, link)
				return "allow-once", nil
			})
			a := ask(t, h, "system.run", m{"command": []string{link}, "cwd": work})
			if !a.refused || !strings.Contains(a.Message, tc.want) || strings.Contains(strings.Join(a.Events, " "), "exec.finished") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// A question stands no longer than its caller waits, and there are never many.
func TestPersonIsNotFlooded(t *testing.T) {
	tool := program(t)
	open := make(chan struct{}, 100)
	h, _ := attended(t, onMiss, func(ctx context.Context, _ host.Question) (string, error) {
		open <- struct{}{}
		<-ctx.Done()
		return "allow-once", nil // too late
	})
	text, err := json.Marshal(m{"command": []string{tool}})
	if err != nil {
		t.Fatal(err)
	}
	p := string(text)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r := h.Handle(context.Background(), host.Request{ID: "i", Command: "system.run", ParamsJSON: &p, Timeout: 700 * time.Millisecond})
			if r.Error == nil || r.Error.Message != "SYSTEM_RUN_DENIED: approval required" {
				t.Errorf("%+v", r)
			}
		})
	}
	for range 4 {
		<-open
	}
	began := time.Now()
	if a := ask(t, h, "system.run", m{"command": []string{tool}}); a.Message != "SYSTEM_RUN_DENIED: approval required" || time.Since(began) > 500*time.Millisecond {
		t.Errorf("%+v after %v", a, time.Since(began))
	}
	wg.Wait()
	if len(open) != 0 {
		t.Errorf("%d more were asked", len(open))
	}
}
