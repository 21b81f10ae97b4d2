package host_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
)

// deviations are the recorded runs of the original that are deliberately not reproduced.
var deviations = map[string]string{
	"noderun-allow-always-wrapper-persists-inner":   "a wrapper is never stored: plain rg with any arguments is not what was shown",
	"noderun-allowlist-wildcard-hit":                "a hit for every agent does not give the agent an empty list",
	"noderun-shell-script-file-is-argv":             "a shell is never covered",
	"noderun-shell-through-four-env-not-recognised": "a wrapper is never covered",
	"noderun-wrapper-dropped-when-allowlisted":      "a wrapper is never covered, nor dropped from what runs",
	"noderun-unresolved-bare-star":                  "what is not found is never covered",
	"noderun-skills-on":                             "skills are not part of the list",
	"noderun-screen-recording-after-persist":        "a refused run stores nothing",
}

type vector struct {
	Name, Kind  string
	Approvals   json.RawMessage
	Params      json.RawMessage
	Expect      json.RawMessage
	Executables []string
	PlainFiles  []string
	Directories []string
	Symlinks    map[string]string
	Home        string
	DefaultPath string
}

func loadVectors(tb testing.TB) (vectors []vector, fixture vector) {
	tb.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(raw), "{root}", root)), &vectors); err != nil {
		tb.Fatal(err)
	}
	fixture = vectors[0]
	for i, p := range slices.Concat(fixture.Executables, fixture.PlainFiles) {
		mode := os.FileMode(0o755)
		if i >= len(fixture.Executables) {
			mode = 0o644
		}
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"), mode); err != nil {
			tb.Fatal(err)
		}
	}
	for _, p := range fixture.Directories {
		os.MkdirAll(p, 0o755)
	}
	for l, t := range fixture.Symlinks {
		os.MkdirAll(filepath.Dir(l), 0o755)
		if err := os.Symlink(t, l); err != nil {
			tb.Fatal(err)
		}
	}
	return vectors[1:], fixture
}

func eachVector(t *testing.T, kind string, run func(t *testing.T, fx, v vector)) {
	vectors, fx := loadVectors(t)
	for _, v := range vectors {
		if v.Kind != kind {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			if why, skip := deviations[v.Name]; skip {
				t.Skip("deliberately different: " + why)
			}
			run(t, fx, v)
		})
	}
}

func newHost(tb testing.TB, file string, env ...string) (*host.Host, *policy.File) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "exec-approvals.json")
	if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	f := policy.Open(path, policy.Options{
		HomeDir:  "/home/u",
		Defaults: policy.Overrides{Security: policy.SecurityAllowlist, Ask: policy.AskOnMiss},
	})
	c := host.Config{Policy: f}
	if env != nil {
		c.Env = func() []string { return env }
	}
	return host.New(c), f
}

func TestVectorsPlan(t *testing.T) {
	eachVector(t, "plan", func(t *testing.T, fx, v vector) {
		h, _ := newHost(t, "", "PATH="+fx.DefaultPath)
		var want struct {
			OK            bool
			Plan, CmdText any
			Message       string
		}
		if err := json.Unmarshal(v.Expect, &want); err != nil {
			t.Fatal(err)
		}
		p := string(v.Params)
		r := h.Handle(context.Background(), host.Request{Command: "system.run.prepare", ParamsJSON: &p})
		if !want.OK {
			if diff := cmp.Diff(host.Result{Error: &host.Error{Code: "INVALID_REQUEST", Message: want.Message}}, r); diff != "" {
				t.Error(diff)
			}
			return
		}
		if !r.OK {
			t.Fatalf("%+v", r.Error)
		}
		var got map[string]any
		json.Unmarshal([]byte(*r.PayloadJSON), &got)
		if diff := cmp.Diff(map[string]any{"cmdText": want.CmdText, "plan": want.Plan}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestVectorsNodeRun(t *testing.T) {
	eachVector(t, "nodeRun", func(t *testing.T, fx, v vector) {
		type ran struct {
			Argv []string
			Cwd  *string
		}
		type entry struct {
			Pattern                           string
			LastUsedCommand, LastResolvedPath *string
			Stamped                           bool
			LastUsedAt                        *int64
		}
		var want struct {
			Result struct {
				OK            bool
				Code, Message string
			}
			Event struct {
				Event, Reason, Command, SessionKey string
			}
			Ran        *ran
			Allowlists map[string][]entry
		}
		if err := json.Unmarshal(v.Expect, &want); err != nil {
			t.Fatal(err)
		}
		file := string(v.Approvals)
		if file == "null" {
			file = ""
		}
		h, f := newHost(t, file, "PATH="+fx.DefaultPath)
		var got *ran
		h.SpawnOnly(func(argv []string, cwd string) {
			got = &ran{Argv: argv}
			if cwd != "" {
				got.Cwd = &cwd
			}
		})
		var events []map[string]any
		p := string(v.Params)
		r := h.Handle(context.Background(), host.Request{Command: "system.run", ParamsJSON: &p, Emit: func(event, payload string) {
			m := map[string]any{}
			if err := json.Unmarshal([]byte(payload), &m); err != nil {
				t.Error(err)
			}
			m["event"] = event
			events = append(events, m)
		}})
		if r.OK != want.Result.OK {
			t.Fatalf("ok %v, error %+v", r.OK, r.Error)
		}
		if !r.OK && (r.Error.Code != want.Result.Code || r.Error.Message != want.Result.Message) {
			t.Errorf("error %+v", *r.Error)
		}
		if diff := cmp.Diff(want.Ran, got); diff != "" {
			t.Errorf("ran: %s", diff)
		}
		if len(events) != 1 || events[0]["event"] != want.Event.Event || events[0]["command"] != want.Event.Command {
			t.Errorf("events %v", events)
		} else if want.Event.Reason != "" && events[0]["reason"] != want.Event.Reason {
			t.Errorf("events %v", events)
		}
		s, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var after struct {
			Agents map[string]struct{ Allowlist []entry }
		}
		json.Unmarshal(s.File, &after)
		lists := map[string][]entry{}
		for id, a := range after.Agents {
			for i := range a.Allowlist {
				a.Allowlist[i].Stamped = a.Allowlist[i].LastUsedAt != nil
				a.Allowlist[i].LastUsedAt = nil
			}
			if a.Allowlist == nil {
				a.Allowlist = []entry{}
			}
			lists[id] = a.Allowlist
		}
		if diff := cmp.Diff(want.Allowlists, lists); diff != "" {
			t.Errorf("lists: %s", diff)
		}
	})
}
