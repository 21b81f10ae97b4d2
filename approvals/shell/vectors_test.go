package shell_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// A vector is one verdict of the original. Which fields it has depends on its kind; the first element
// of the file explains them.
type vector struct {
	Name string   `json:"name"`
	Kind string   `json:"kind"`
	Tags []string `json:"tags"`

	Pattern, Target string
	Command         json.RawMessage
	RawCommand      json.RawMessage
	Security, Ask   string
	Analysis        string
	ShellWrapper    bool
	Approval        string
	File            json.RawMessage
	AgentID         *string `json:"agentId"`
	Overrides       json.RawMessage
	BaseEnv         map[string]string
	Env             json.RawMessage
	Argv            []string
	Cwd, Path       string
	Allowlist       []string
	SafeBins        []string
	SafeBinProfiles json.RawMessage
	TrustedDirs     []string `json:"trustedSafeBinDirs"`
	SkillBins       []struct{ Name, ResolvedPath string }
	AutoAllowSkills bool
	Platform        string
	DeviceFamily    string
	Declared        []string
	Allow, Deny     []string
	Nodes           json.RawMessage
	Query           string
	Approvals       json.RawMessage
	Params          json.RawMessage
	NodeID          string `json:"nodeId"`
	NowMs           int64
	Client          struct{ ConnID, DeviceID *string }
	Record          json.RawMessage
	Expect          json.RawMessage
}

// tree is the first element: the files that the others are about.
type tree struct {
	root, records string

	Executables        []string
	PlainFiles         []string
	Directories        []string
	Symlinks           map[string]string
	Home               string
	DefaultPath        string
	TrustedSafeBinDirs []string
	ProcessCwd         string
	Kinds              map[string]string
}

// An outcome is what hanzod does with a vector. diff says what is otherwise than in the original,
// looser what of it permits or shows more; both are empty when all is equal.
type outcome struct{ diff, looser string }

func (o *outcome) different(what, diff string) {
	if diff != "" {
		o.diff += what + ": " + diff + "\n"
	}
}

func (o *outcome) loosens(what string, yes bool) {
	if yes {
		o.looser += what + "\n"
	}
}

// kinds run one vector each.
var kinds = map[string]func(t *testing.T, fx *tree, v vector) outcome{
	"shell": runShell, "argv": runArgv, "glob": runGlob, "runCommand": runRunCommand, "plan": runPlan, "nodePolicy": runNodePolicy,
	"nodeRun": runNodeRun, "approvalGuard": runApprovalGuard, "approvalsFile": runApprovalsFile, "commandPolicy": runCommandPolicy,
	"env": runEnv, "envHash": runEnvHash, "obfuscation": runObfuscation, "nodeMatch": runNodeMatch,
}

// TestVectors runs fixtures/exec-vectors.json, the verdicts of the original, against hanzod. A verdict
// may differ only when a row of fixtures/deviations.yaml names the vector, and then it must, and only
// in the stricter direction.
//
// EXEC_VECTORS names other files of the same form, separated as in PATH, that run beside it. Of those a
// vector that no row names may differ only when it is tagged legacy-permissive and hanzod is stricter.
func TestVectors(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the files of the vectors are scripts for a POSIX shell")
	}
	listed := deviations(t)
	t.Run("own", func(t *testing.T) { runFile(t, "../../fixtures/exec-vectors.json", listed, true) })
	for _, path := range filepath.SplitList(os.Getenv("EXEC_VECTORS")) {
		t.Run(filepath.Base(path), func(t *testing.T) { runFile(t, path, listed, false) })
	}
}

// deviations returns the row that names a vector.
func deviations(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../fixtures/deviations.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		ID      string   `yaml:"id"`
		Vectors []string `yaml:"vectors"`
	}
	if err := yaml.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range rows {
		for _, name := range r.Vectors {
			if other, twice := out[name]; twice {
				t.Fatalf("deviations.yaml: rows %s and %s both name the vector %s", other, r.ID, name)
			}
			out[name] = r.ID
		}
	}
	return out
}

// tally counts the vectors of one kind.
type tally struct{ vectors, equal, listed, stricter, failed int }

func runFile(t *testing.T, path string, listed map[string]string, own bool) {
	fx, vectors := load(t, path)
	counts := map[string]*tally{}
	names := map[string]bool{}
	for _, v := range vectors {
		if names[v.Name] {
			t.Errorf("the name %s stands twice", v.Name)
		}
		names[v.Name] = true
		n := counts[v.Kind]
		if n == nil {
			n = &tally{}
			counts[v.Kind] = n
		}
		n.vectors++
		ok := t.Run(v.Name, func(t *testing.T) {
			run := kinds[v.Kind]
			if run == nil {
				t.Fatalf("unknown kind %q", v.Kind)
			}
			o := run(t, fx, v)
			row, isListed := listed[v.Name]
			switch {
			case o.looser != "":
				t.Errorf("hanzod permits more than the original: %s%s", o.looser, o.diff)
			case isListed && o.diff == "" && own:
				t.Errorf("deviations.yaml, row %s, names it, and nothing differs", row)
			case isListed:
				n.listed++
			case o.diff == "":
				n.equal++
			case !own && slices.Contains(v.Tags, "legacy-permissive"):
				n.stricter++
			default:
				t.Errorf("no row of deviations.yaml names it (want -, got +)\n%s", o.diff)
			}
		})
		if !ok {
			n.failed++
		}
	}
	for name, row := range listed {
		if own && !names[name] {
			t.Errorf("deviations.yaml, row %s, names the vector %s, which does not exist", row, name)
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kind\tvectors\tequal\tlisted\tstricter\tfailed\t")
	var all tally
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		n := counts[k]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t\n", k, n.vectors, n.equal, n.listed, n.stricter, n.failed)
		all.vectors += n.vectors
		all.equal += n.equal
		all.listed += n.listed
		all.stricter += n.stricter
		all.failed += n.failed
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%d\t%d\t%d\t\n", all.vectors, all.equal, all.listed, all.stricter, all.failed)
	_ = w.Flush()
	t.Logf("%s\n%s", path, b.String())
	for k := range fx.Kinds {
		if own && counts[k] == nil {
			t.Errorf("no vector of kind %s", k)
		}
	}
}

// load builds the tree that a file is about and returns its vectors.
func load(t *testing.T, path string) (*tree, []vector) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil && !filepath.IsAbs(path) { // as seen from where go test was called
		raw, err = os.ReadFile(filepath.Join("../..", path))
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(strings.ReplaceAll(string(raw), "{root}", root))
	fx := tree{root: root, records: t.TempDir()}
	var elements []json.RawMessage
	if err := json.Unmarshal(text, &elements); err != nil || len(elements) < 2 {
		t.Fatalf("%s is no list of vectors: %v", path, err)
	}
	if err := json.Unmarshal(elements[0], &fx); err != nil {
		t.Fatal(err)
	}
	vectors := make([]vector, len(elements)-1)
	for i := range vectors {
		if err := json.Unmarshal(elements[i+1], &vectors[i]); err != nil {
			t.Fatalf("element %d: %v", i+1, err)
		}
	}
	fx.build(t)
	return &fx, vectors
}

// build makes the files. Each executable writes down as what, where and with which arguments it ran.
func (fx *tree) build(tb testing.TB) {
	tb.Helper()
	put := func(path, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			tb.Fatal(err)
		}
	}
	for _, p := range fx.Executables {
		put(p, fmt.Sprintf("#!/bin/sh\n{ printf '%%s\\0' '%s'; printf '%%s\\0' \"$(pwd -P)\"; for a in \"$@\"; do printf '%%s\\0' \"$a\"; done; } > '%s/ran'\n",
			p, fx.records), 0o755)
	}
	for _, p := range fx.PlainFiles {
		put(p, "", 0o644)
	}
	for _, p := range fx.Directories {
		if err := os.MkdirAll(p, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for l, to := range fx.Symlinks {
		if err := os.MkdirAll(filepath.Dir(l), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.Symlink(to, l); err != nil {
			tb.Fatal(err)
		}
	}
}

// ran returns the argv and directory of what ran since the last time it was asked; nil when nothing.
func (fx *tree) ran(tb testing.TB) (argv []string, cwd string) {
	tb.Helper()
	path := filepath.Join(fx.records, "ran")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, ""
	}
	if err := os.Remove(path); err != nil {
		tb.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	return append(words[:1:1], words[2:]...), words[1]
}

func unpack[T any](t *testing.T, raw json.RawMessage) (out T) {
	t.Helper()
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return out
}

func diff(want, got any) string { return cmp.Diff(want, got) }

// subset reports whether every element of a is one of b.
func subset[T comparable](a, b []T) bool {
	return !slices.ContainsFunc(a, func(x T) bool { return !slices.Contains(b, x) })
}
