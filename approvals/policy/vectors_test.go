package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/errs"
)

// deviations are the recorded verdicts of the original that are deliberately not reproduced.
var deviations = map[string]string{
	"glob-unicode-lower":           "only ASCII letters are folded",
	"glob-sigma-final":             "only ASCII letters are folded",
	"glob-micro":                   "only ASCII letters are folded",
	"glob-dotdot-under-doublestar": "a path that is not clean matches nothing",
	"argv-empty-tokens-removed":    "an empty first word is refused",
	"argv-dotdot-escape":           "a path that is not clean matches nothing",
	"argv-bare-star-unresolved":    "what is not found is never covered",
	"argv-timeout":                 "a wrapper is never covered",
	"argv-busybox-sh":              "an inline shell is never covered",
	"argv-cmd-exe":                 "an inline shell is never covered",
	"argv-safe-bin":                "safe bins are not part of the list",
	"argv-skill":                   "skills are not part of the list",
}

type vector struct {
	Name, Kind      string
	Pattern, Target string
	Command         json.RawMessage
	RawCommand      json.RawMessage
	Security        Security
	Ask             Ask
	Analysis        string
	ShellWrapper    bool
	Approval        string
	File            json.RawMessage
	AgentID         *string `json:"agentId"`
	Overrides       json.RawMessage
	BaseEnv         map[string]string
	Env             json.RawMessage
	Argv            []string
	Cwd             string
	Allowlist       []string
	Expect          json.RawMessage
	Executables     []string
	PlainFiles      []string
	Directories     []string
	Symlinks        map[string]string
	Home            string
	DefaultPath     string
}

// loadVectors builds the file tree that the vectors are about and returns them by kind.
func loadVectors(tb testing.TB) (root string, byKind map[string][]vector, fixture vector) {
	tb.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	root, err = filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(raw), "{root}", root)), &all); err != nil {
		tb.Fatal(err)
	}
	fixture = all[0]
	buildTree(tb, fixture.Executables, fixture.PlainFiles, fixture.Directories, fixture.Symlinks)
	byKind = map[string][]vector{}
	for _, v := range all[1:] {
		byKind[v.Kind] = append(byKind[v.Kind], v)
	}
	return root, byKind, fixture
}

// buildTree makes the files of the vectors.
func buildTree(tb testing.TB, executables, plain, dirs []string, links map[string]string) {
	tb.Helper()
	put := func(path string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			tb.Fatal(err)
		}
	}
	for _, p := range executables {
		put(p, 0o755)
	}
	for _, p := range plain {
		put(p, 0o644)
	}
	for _, p := range dirs {
		if err := os.MkdirAll(p, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for l, t := range links {
		os.MkdirAll(filepath.Dir(l), 0o755)
		if err := os.Symlink(t, l); err != nil {
			tb.Fatal(err)
		}
	}
}

func eachVector(t *testing.T, kind string, run func(t *testing.T, root string, fx, v vector)) {
	root, byKind, fx := loadVectors(t)
	if len(byKind[kind]) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range byKind[kind] {
		t.Run(v.Name, func(t *testing.T) {
			if why, skip := deviations[v.Name]; skip {
				t.Skip("deliberately different: " + why)
			}
			run(t, root, fx, v)
		})
	}
}

func unpack[T any](tb testing.TB, raw json.RawMessage) (out T) {
	tb.Helper()
	if err := json.Unmarshal(raw, &out); err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestVectorsGlob(t *testing.T) {
	eachVector(t, "glob", func(t *testing.T, _ string, fx, v vector) {
		want := unpack[struct{ Match bool }](t, v.Expect).Match
		if got := (shell.Machine{Home: fx.Home}).Match(v.Pattern, v.Target); got != want {
			t.Errorf("match(%q, %q) = %v", v.Pattern, v.Target, got)
		}
	})
}

func TestVectorsRunCommand(t *testing.T) {
	eachVector(t, "runCommand", func(t *testing.T, _ string, _, v vector) {
		want := unpack[struct {
			OK                       bool
			Argv                     []string
			RawCommand, ShellCommand *string
			Text, Message            string
			Details                  struct{ Code, RawCommand, Inferred string }
		}](t, v.Expect)
		c, err := ParseCommand(v.Command, v.RawCommand)
		if !want.OK {
			e, ok := errs.As(err)
			if !ok {
				t.Fatalf("got %+v, want an error", c)
			}
			if code := map[string]string{"RAW_COMMAND_MISMATCH": "policy.raw_mismatch", "MISSING_COMMAND": "policy.missing_command"}[want.Details.Code]; e.Code != code {
				t.Errorf("code %q, want %q", e.Code, code)
			}
			if e.Field("rawCommand") != want.Details.RawCommand || e.Field("inferred") != want.Details.Inferred {
				t.Errorf("fields %v", e.Fields)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got := Command{Argv: want.Argv, Raw: want.RawCommand, Text: want.Text, Shell: want.ShellCommand}
		if len(c.Argv) == 0 {
			c.Argv, got.Argv = nil, nil
		}
		if diff := cmp.Diff(got, c); diff != "" {
			t.Error(diff)
		}
	})
}

func TestVectorsNodePolicy(t *testing.T) {
	eachVector(t, "nodePolicy", func(t *testing.T, _ string, _, v vector) {
		want := unpack[struct{ Verdict, Reason, Message string }](t, v.Expect)
		got := Decide(v.Security, v.Ask, v.Analysis == "hit", v.ShellWrapper, v.Approval != "none")
		if diff := cmp.Diff(Verdict{Run: want.Verdict == "run", Reason: want.Reason, Message: want.Message}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDecisionTable is nodes-approvals.md §7.1 in full, written down independently of the vectors.
func TestDecisionTable(t *testing.T) {
	n := 0
	for _, sec := range []Security{SecurityDeny, SecurityAllowlist, SecurityFull} {
		for _, ask := range []Ask{AskOff, AskOnMiss, AskAlways} {
			for _, analysis := range []string{"hit", "miss", "unparsed"} {
				for _, shell := range []bool{false, true} {
					for _, approval := range []string{"none", "allow-once", "allow-always", "approved-flag"} {
						n++
						covered, approved := analysis == "hit", approval != "none"
						want := ""
						switch {
						case sec == SecurityDeny:
							want = "security=deny"
						case approved:
						case ask == AskAlways:
							want = "approval-required"
						case sec == SecurityFull:
						case covered && !shell:
						case ask == AskOnMiss:
							want = "approval-required"
						default:
							want = "allowlist-miss"
						}
						if got := Decide(sec, ask, covered, shell, approved); got.Reason != want || got.Run != (want == "") {
							t.Errorf("%s %s %s shell=%v %s: %+v, want %q", sec, ask, analysis, shell, approval, got, want)
						}
					}
				}
			}
		}
	}
	if n != 216 {
		t.Fatalf("%d combinations", n)
	}
}

func TestVectorsEnv(t *testing.T) {
	eachVector(t, "env", func(t *testing.T, _ string, _, v vector) {
		var base []string
		for k, val := range v.BaseEnv {
			base = append(base, k+"="+val)
		}
		over := map[string]string{}
		if v.Overrides != nil {
			over = unpack[map[string]string](t, v.Overrides)
		}
		env, _ := SanitizeEnv(base, over, v.ShellWrapper)
		got := map[string]string{}
		for _, kv := range env {
			k, val, _ := strings.Cut(kv, "=")
			got[k] = val
		}
		want := unpack[struct{ Env map[string]string }](t, v.Expect).Env
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestVectorsEnvHash(t *testing.T) {
	eachVector(t, "envHash", func(t *testing.T, _ string, _, v vector) {
		// Values that are not text never reach EnvHash: callers have typed them before.
		var any map[string]json.RawMessage
		_ = json.Unmarshal(v.Env, &any)
		env := map[string]string{}
		for k, raw := range any {
			if s, ok := asString(raw); ok {
				env[k] = s
			}
		}
		want := unpack[struct {
			EnvHash *string
			EnvKeys []string
		}](t, v.Expect)
		hash, keys := EnvHash(env)
		if diff := cmp.Diff(want.EnvHash, hash); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want.EnvKeys, keys); diff != "" {
			t.Error(diff)
		}
	})
}

func TestVectorsApprovalsFile(t *testing.T) {
	type policyText struct {
		Security, Ask, AskFallback string
		AutoAllowSkills            bool
	}
	eachVector(t, "approvalsFile", func(t *testing.T, _ string, _, v vector) {
		want := unpack[struct {
			Defaults, Agent policyText
			Patterns        []string
			Normalized      map[string]any
		}](t, v.Expect)
		doc, why := parseDocument(v.File, func() string { return "<uuid>" })
		if why != "" {
			t.Fatal(why)
		}
		var o Overrides
		if v.Overrides != nil {
			o = unpack[Overrides](t, v.Overrides)
		}
		show := func(e Effective) policyText {
			return policyText{string(e.Security), string(e.Ask), string(e.AskFallback), e.AutoAllowSkills}
		}
		eff := doc.resolve(v.AgentID, o)
		if diff := cmp.Diff(want.Agent, show(eff)); diff != "" {
			t.Errorf("agent: %s", diff)
		}
		nobody := "nobody that the file names"
		bare := doc
		bare.agents = object{}
		if diff := cmp.Diff(want.Defaults, show(bare.resolve(&nobody, o))); diff != "" {
			t.Errorf("defaults: %s", diff)
		}
		patterns := []string{}
		for _, e := range eff.Allowlist {
			patterns = append(patterns, e.Pattern)
		}
		if !slices.Equal(patterns, want.Patterns) {
			t.Errorf("patterns %q, want %q", patterns, want.Patterns)
		}
		got := unpack[map[string]any](t, doc.encode(true))
		delete(got, "version")
		delete(got, "socket")
		if diff := cmp.Diff(want.Normalized, got); diff != "" {
			t.Errorf("normalised: %s", diff)
		}
	})
}

func TestVectorsArgv(t *testing.T) {
	eachVector(t, "argv", func(t *testing.T, root string, fx, v vector) {
		want := unpack[struct {
			OK, Satisfied bool
			Planned       []string
		}](t, v.Expect)
		f := Open(filepath.Join(t.TempDir(), "exec-approvals.json"), Options{HomeDir: fx.Home})
		var list []Entry
		for _, p := range v.Allowlist {
			list = append(list, Entry{Pattern: p})
		}
		c := f.cover(list, v.Argv, v.Cwd, fx.DefaultPath)
		if got := c.entry != nil && !c.inline; got != want.Satisfied {
			t.Fatalf("covered %v, want %v", got, want.Satisfied)
		}
		if want.Satisfied {
			if planned := append([]string{c.pinned}, v.Argv[1:]...); !slices.Equal(planned, want.Planned) {
				t.Errorf("planned %q, want %q", planned, want.Planned)
			}
		}
	})
}
