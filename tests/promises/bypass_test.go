//go:build unix

package promises

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// canaries is a directory of programs that only say that they ran.
type canaries struct{ root, song string }

func newCanaries(t *testing.T, names []string) canaries {
	t.Helper()
	c := canaries{root: proc.Dir(t)}
	c.song = filepath.Join(c.root, "song")
	for _, p := range append(names, "../opt/bin/evil", "../opt/bin/head", "../opt/bin/echo-evil", "../home/bin/mytool") {
		path := filepath.Join(c.root, "bin", p)
		script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' '%s' \"$*\" >> '%s'\n", path, c.song)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(c.root, "links"), 0o755); err != nil {
		t.Fatal(err)
	}
	for l, to := range map[string]string{"links/head": "opt/bin/evil", "links/python": "bin/python3", "bin/links-to-sh": "bin/sh"} {
		_ = os.Remove(filepath.Join(c.root, l))
		if err := os.Symlink(filepath.Join(c.root, to), filepath.Join(c.root, l)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// sang returns what ran since it was last asked.
func (c canaries) sang(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(c.song)
	if os.IsNotExist(err) {
		return ""
	}
	if err == nil {
		err = os.Remove(c.song)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// bypass is one line of approvals/shell/testdata/hostile.txt, as two ways to ask a node for it.
type bypass struct {
	attack, list, text string
	argv               []string
	inline             bool
}

var programName = regexp.MustCompile(`^[\w][\w.+-]*$`)

// bypasses reads the file, and the names of the programs in it.
func bypasses(t *testing.T) (all []bypass, programs []string) {
	t.Helper()
	raw, err := os.ReadFile("../../approvals/shell/testdata/hostile.txt")
	if err != nil {
		t.Fatal(err)
	}
	attack := ""
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "== "); ok {
			attack = heading
		}
		if line == "" || line[0] == '#' || line[0] == '=' {
			continue
		}
		list, rest, _ := strings.Cut(line, " ")
		mode, text, _ := strings.Cut(rest, " ")
		b := bypass{attack: attack, list: list, text: text}
		switch strings.TrimSuffix(mode, "?") {
		case "argv":
			if err := json.Unmarshal([]byte(text), &b.argv); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(mode, "?") { // else it is not there
				programs = append(programs, b.argv...)
			}
		case "line":
			if strings.HasPrefix(text, `"`) && json.Valid([]byte(text)) {
				if err := json.Unmarshal([]byte(text), &b.text); err != nil {
					t.Fatal(err)
				}
			}
			b.argv, b.inline = []string{"/bin/sh", "-lc", b.text}, true
			programs = append(programs, strings.Fields(b.text)...)
		default:
			continue // for another system
		}
		all = append(all, b)
	}
	missing := []string{"no-such-command", "run"} // whose not being there is the point
	programs = slices.DeleteFunc(programs, func(p string) bool { return !programName.MatchString(p) || slices.Contains(missing, p) })
	slices.Sort(programs)
	return all, slices.Compact(programs)
}

// TestR25NothingGetsPastTheList: the known ways past an allow-list, tried on the real node host through the
// real daemon, by the legacy door and by gRPC, as lines for a shell and as words, under lists as generous
// as mistakes make them. Nothing runs: every program that is named would leave a mark.
func TestR25NothingGetsPastTheList(t *testing.T) {
	t.Parallel()
	all, programs := bypasses(t)
	if len(all) < 500 {
		t.Fatalf("%d lines", len(all))
	}
	birds := newCanaries(t, append(programs, "tool.sh"))
	d := proc.Start(t, proc.Options{
		Form: proc.Tested, Args: []string{"--node"},
		Config: map[string]any{"tools": map[string]any{"exec": map[string]any{
			"safeBins":           []string{"jq", "cut", "uniq", "head", "tail", "tr", "wc", "grep", "sort"},
			"safeBinTrustedDirs": []string{filepath.Join(birds.root, "bin")},
		}}},
		Env: []string{"PATH=" + filepath.Join(birds.root, "bin") + ":."},
	})
	node := onlyNode(t, d)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	legacy := proc.Connect(t, d.Operator(proc.Device(t)))
	grpc := d.Client(t)

	bin := filepath.Join(birds.root, "bin")
	lists := map[string][]string{
		"all": {"*", bin + "/*", bin + "/**", birds.root + "/**", "/**"}, "echo": {bin + "/echo", bin + "/cat"}, "safe": nil,
	}
	use := func(list string) {
		t.Helper()
		entries := []any{}
		for _, p := range lists[list] {
			entries = append(entries, map[string]any{"pattern": p})
		}
		file, err := json.Marshal(map[string]any{
			"version": 1, "defaults": map[string]any{"security": "allowlist", "ask": "off", "autoAllowSkills": true},
			"agents": map[string]any{"main": map[string]any{"allowlist": entries}},
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(d.State, "exec-approvals.json"), file, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tries := 0
	ask := func(argv []string, raw string) error {
		tries++
		params := map[string]any{"command": argv, "cwd": filepath.Join(birds.root, "home")}
		if raw != "" {
			params["rawCommand"] = raw
		}
		if tries%2 == 0 {
			return byLegacy(ctx, legacy, node, fmt.Sprint("k", tries), params)
		}
		return byGRPC(ctx, grpc, node, params)
	}

	// The lists work: what they are for runs, or nothing would be shown.
	for list, argv := range map[string][]string{"all": {"git", "status"}, "echo": {"echo", "a"}, "safe": {"head", "-n", "1"}} {
		use(list)
		for range 2 {
			if err := ask(argv, ""); err != nil {
				t.Fatalf("%s: %q: %v", list, argv, err)
			}
			if sang := birds.sang(t); !strings.Contains(sang, argv[0]) {
				t.Fatalf("%s: %q left no mark: %q", list, argv, sang)
			}
		}
	}

	for _, list := range []string{"all", "echo", "safe"} {
		use(list)
		for _, b := range all {
			if b.list != list {
				continue
			}
			argv := slices.Clone(b.argv)
			for i := range argv {
				argv[i] = strings.ReplaceAll(argv[i], "{root}", birds.root)
			}
			err := ask(argv, "")
			if sang := birds.sang(t); sang != "" {
				t.Errorf("%s, list %s: %q ran: %s", b.attack, list, argv, sang)
			}
			if err == nil {
				t.Errorf("%s, list %s: %q was let through", b.attack, list, argv)
			}
			if b.inline { // and as the words that people take it for
				if err := ask([]string{"sh", "-c", argv[2]}, ""); err == nil {
					t.Errorf("%s, list %s: %q was let through", b.attack, list, argv[2])
				}
				if sang := birds.sang(t); sang != "" {
					t.Errorf("%s, list %s: %q ran: %s", b.attack, list, argv[2], sang)
				}
			}
		}
	}
	// What is shown is what runs: a text that says something else is refused, and claims of an approval that
	// is not there are worth nothing.
	use("all")
	if err := ask([]string{"git", "status"}, "git push"); err == nil {
		t.Error("another text was taken")
	}
	for _, claim := range []map[string]any{{"approved": true}, {"approvalDecision": "allow-always", "runId": "x"}, {"approved": true, "runId": "x"}} {
		claim["command"] = []string{"rm", "x"}
		if err := byLegacy(ctx, legacy, node, fmt.Sprintf("claim%v", claim), claim); err == nil {
			t.Errorf("%v was believed", claim)
		}
	}
	if sang := birds.sang(t); sang != "" {
		t.Errorf("ran: %s", sang)
	}
	t.Logf("%d lines, %d tries", len(all), tries)
}

// byLegacy and byGRPC ask a node to run something. A result is no error, also one that says that nothing
// could be started.
func byLegacy(ctx context.Context, c *dial.Conn, node, key string, params map[string]any) error {
	_, err := c.Call(ctx, "node.invoke", map[string]any{"nodeId": node, "command": "system.run", "params": params, "idempotencyKey": key})
	return err
}

func byGRPC(ctx context.Context, c *client.Client, node string, params map[string]any) error {
	text, err := json.Marshal(params)
	if err != nil {
		return err
	}
	v := &structpb.Value{}
	if err := v.UnmarshalJSON(text); err != nil {
		return err
	}
	_, err = c.Nodes.Invoke(ctx, &nodesv1.InvokeRequest{NodeId: node, Command: "system.run", Params: v})
	return err
}
