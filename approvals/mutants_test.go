package approvals_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
)

const boundFiles = `{"directory":{"device":"9","inode":"18446744073709551615","path":"/srv"},` +
	`"executable":{"device":"9","inode":"12","path":"/usr/bin/deploy","sha256":"` + hexSum + `"},` +
	`"inner":[{"device":"9","inode":"13","path":"/usr/bin/dash","role":"interpreter","sha256":"` + hexSum + `"}],` +
	`"unbound":["sh: what its line starts is not in its text"]}`

const hexSum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// binder is a node that binds files.
type binder struct {
	mu     sync.Mutex
	asked  []string
	answer string // of system.run.prepare, with the params in place of PARAMS
	err    error
	away   bool
	old    bool
}

func (b *binder) Binds(string) (connected, binds bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.away, !b.away && !b.old
}

func (b *binder) InvokeInternal(_ context.Context, node, command string, params []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, node+" "+command+" "+string(params))
	return []byte(b.answer), b.err
}

func prepared(binding string) string {
	return `{"cmdText":"x","plan":{"argv":["x"],"cwd":null,"rawCommand":"x","agentId":null,"sessionKey":null},"binding":` + binding + `}`
}

// bindingWorld has one node that binds files.
func bindingWorld(t *testing.T) (*world, *binder) {
	b := &binder{answer: prepared(boundFiles)}
	w := &world{tb: t, dir: t.TempDir(), now: time.Now, nodes: b}
	w.open()
	return w, b
}

// mutant is a call of system.run under way to the guard.
type mutant struct {
	caller  identity.Caller
	node    string
	members []member // of the parameters, in order; names may come twice
	text    string   // in place of the members
	names   []string // what was done to it
}

type member struct {
	name string
	val  any // json.RawMessage is as it is
}

func (m *mutant) at(name string) *member {
	for i := range m.members {
		if m.members[i].name == name {
			return &m.members[i]
		}
	}
	m.members = append(m.members, member{name, nil})
	return &m.members[len(m.members)-1]
}

func (m *mutant) encode() []byte {
	if m.text != "" {
		return []byte(m.text)
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range m.members {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(x.name)
		val, _ := json.Marshal(x.val)
		b.Write(name)
		b.WriteByte(':')
		b.Write(val)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// alike are texts that look like another or are nearly it.
func alike(r *rand.Rand, s string) string {
	if s == "" {
		s = "x"
	}
	at := r.IntN(len(s))
	return []string{
		s + "\x00", "\x00" + s, s + " ", " " + s, s + "\u200b", strings.ToUpper(s), strings.Replace(s, "a", "а", 1), s + "\u0301",
		strings.ReplaceAll(s, "/", "\u2215"), s + "/", s + "/.", "./" + s, s[:at] + s[at+1:], s[:at] + s[at:at+1] + s[at:], "", s + "\n", "\ufeff" + s,
		strings.ReplaceAll(s, "1", "l"), s + "\u202e", "\\u0000" + s,
	}[r.IntN(20)]
}

// odd are values of other types.
func odd(r *rand.Rand, v any) any {
	return []any{
		nil, true, false, 0, 1, -1, 1e300, "", "true", []any{}, []any{v}, map[string]any{}, map[string]any{"0": v}, json.RawMessage(`1.0`),
		json.RawMessage(`"\ud800"`), []any{v, nil}, []any{[]any{v}},
	}[r.IntN(17)]
}

var names = []string{"command", "rawCommand", "cwd", "env", "agentId", "sessionKey", "runId", "approved", "approvalDecision", "binding", "timeoutMs"}

func recase(r *rand.Rand, s string) string {
	return []string{strings.ToUpper(s), strings.ToLower(s), strings.ToUpper(s[:1]) + s[1:], strings.ReplaceAll(s, "s", "ſ"), strings.ReplaceAll(s, "k", "K"), s + " ", "_" + s}[r.IntN(7)]
}

var evil = []any{"/bin/sh", "-c", "evil"}

// mutations change one thing each. The ones that say so must be refused, whatever comes with them.
var mutations = []struct {
	name string
	do   func(r *rand.Rand, m *mutant)
}{
	{"argv", func(r *rand.Rand, m *mutant) {
		argv := []any{"/usr/bin/deploy", "a b", "--now"}
		switch i := r.IntN(len(argv)); r.IntN(6) {
		case 0:
			argv = slices.Delete(argv, i, i+1)
		case 1:
			argv = slices.Insert(argv, i, any("--force"))
		case 2:
			argv[i] = alike(r, argv[i].(string))
		case 3:
			argv[i] = odd(r, argv[i])
		case 4:
			argv = evil
		default:
			r.Shuffle(len(argv), func(a, b int) { argv[a], argv[b] = argv[b], argv[a] })
		}
		m.at("command").val = argv
	}},
	{"text", func(r *rand.Rand, m *mutant) {
		m.at([]string{"rawCommand", "cwd", "agentId", "sessionKey"}[r.IntN(4)]).val = alike(r, "/srv")
	}},
	{"type", func(r *rand.Rand, m *mutant) { x := m.at(names[r.IntN(len(names))]); x.val = odd(r, x.val) }},
	{"missing", func(r *rand.Rand, m *mutant) {
		i := r.IntN(len(m.members))
		m.members = slices.Delete(m.members, i, i+1)
	}},
	{"env value", func(r *rand.Rand, m *mutant) { m.at("env").val = map[string]any{"A": alike(r, "1"), "B": "x y"} }},
	{"env name", func(r *rand.Rand, m *mutant) {
		m.at("env").val = map[string]any{"A": "1", "B": "x y", alike(r, "PATH"): "/evil"}
	}},
	{"env swapped", func(r *rand.Rand, m *mutant) { m.at("env").val = map[string]any{"A": "x y", "B": "1"} }},
	{"env names that are one", func(r *rand.Rand, m *mutant) {
		m.at("env").val = map[string]any{" A": "1", "A": []any{"2", "1"}[r.IntN(2)], "B": "x y"}
	}},
	{"env twice", func(r *rand.Rand, m *mutant) {
		m.at("env").val = json.RawMessage([]string{`{"A":"2","A":"1","B":"x y"}`, `{"A":"1","B":"x y","A":"2"}`, `{"A":"1","a":"2","B":"x y"}`}[r.IntN(3)])
	}},
	{"env type", func(r *rand.Rand, m *mutant) { m.at("env").val = map[string]any{"A": odd(r, "1"), "B": "x y"} }},
	{"run", func(r *rand.Rand, m *mutant) { m.at("runId").val = alike(r, "the-approval") }},
	{"another run", func(_ *rand.Rand, m *mutant) { m.at("runId").val = "denied" }},
	{"node", func(r *rand.Rand, m *mutant) {
		m.node = []string{"n2", "n1 ", " n1", "N1", "", "n1\x00", "ո1"}[r.IntN(7)]
	}},
	{"caller", func(r *rand.Rand, m *mutant) {
		m.caller = []identity.Caller{caller("", "conn:bob"), caller("", ""), caller("d", ""), caller("", "conn:ann "), caller("d", "conn:x")}[r.IntN(5)]
	}},
	{"twice", func(r *rand.Rand, m *mutant) {
		x := m.members[r.IntN(len(m.members))]
		x.val = []any{x.val, odd(r, x.val), evil, "denied", true}[r.IntN(5)]
		m.members = slices.Insert(m.members, r.IntN(len(m.members)+1), x)
	}},
	{"case", func(r *rand.Rand, m *mutant) {
		x := member{recase(r, names[r.IntN(len(names))]), []any{evil, "denied", true, "allow-always", map[string]any{"A": "2"}}[r.IntN(5)]}
		m.members = slices.Insert(m.members, r.IntN(len(m.members)+1), x)
	}},
	{"renamed", func(r *rand.Rand, m *mutant) { x := &m.members[r.IntN(len(m.members))]; x.name = recase(r, x.name) }},
	{"own binding", func(_ *rand.Rand, m *mutant) {
		m.at("binding").val = map[string]any{"executable": map[string]any{"path": "/evil"}}
	}},
	{"decision", func(r *rand.Rand, m *mutant) { m.at("approvalDecision").val = alike(r, "allow-always") }},
	{"other names", func(r *rand.Rand, m *mutant) {
		m.at([]string{"argv", "shell", "__proto__", "constructor", "plan", "systemRunPlan"}[r.IntN(6)]).val = evil
	}},
	{"text of the whole", func(r *rand.Rand, m *mutant) {
		s := string(m.encode())
		at := r.IntN(len(s))
		m.text = []string{s[:at], s + "}", s + s, "[" + s + "]", s[:at] + s[at:at+1] + s[at:], s[:at] + "\x00" + s[at:], "\ufeff" + s, s + "//", `"` + s}[r.IntN(9)]
	}},
}

// reader reads an object as a careless reader could: it fails where two readers could differ.
func reader(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("no object")
	}
	out, folded := map[string]json.RawMessage{}, map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		var val json.RawMessage
		if err := d.Decode(&val); err != nil {
			return nil, err
		}
		if f := strings.ToUpper(name); folded[f] {
			return nil, fmt.Errorf("%q comes twice", name)
		} else {
			folded[f] = true
		}
		out[name] = val
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows")
	}
	return out, nil
}

// TestMutatedRuns tries changed calls against one approval that may be used again and again. None gets
// through as anything but what was approved, from who asked, on the node that it is for; and none gets
// through to a node's own rules with a claim in it that a node could read.
func TestMutatedRuns(t *testing.T) {
	count := 10_000
	switch {
	case os.Getenv("ROBUST") != "":
		count = 100_000
	case raceBuilt || testing.Short():
		count = 2_000
	}
	w, _ := bindingWorld(t)
	in := run("the-approval", "/usr/bin/deploy", "a b", "--now")
	in.Env, in.Timeout = map[string]string{"A": "1", "B": "x y"}, time.Hour
	in.Plan.AgentID, in.Plan.SessionKey = ptr("ops"), ptr("agent:ops:main")
	w.ask(in)
	no := in
	no.ID = "denied"
	w.ask(no)
	w.decide("denied", approvals.Deny)
	w.decide("the-approval", approvals.AllowOnce)
	// Usable again and again, and without the grant that always makes: a grant may answer for changed
	// calls that are the same command.
	if _, err := w.store.UpdateApproval(context.Background(), "the-approval", func(a *approvals.Approval) (approvals.Audit, error) {
		a.Decision = approvals.AllowAlways
		return approvals.Audit{At: time.Now(), Kind: approvals.AuditDecision}, nil
	}); err != nil {
		t.Fatal(err)
	}

	base := mutant{caller: ann, node: "n1", members: []member{
		{"command", []any{"/usr/bin/deploy", "a b", "--now"}}, {"rawCommand", `/usr/bin/deploy "a b" --now`}, {"cwd", "/srv"},
		{"env", map[string]any{"A": "1", "B": "x y"}}, {"timeoutMs", 5000}, {"agentId", "ops"}, {"sessionKey", "agent:ops:main"},
		{"runId", "the-approval"}, {"approved", true}, {"approvalDecision", "allow-always"},
	}}
	want := map[string]any{}
	if err := json.Unmarshal([]byte(`{"command":["/usr/bin/deploy","a b","--now"],"cwd":"/srv","env":{"A":"1","B":"x y"},"agentId":"ops",
		"sessionKey":"agent:ops:main","approved":true,"approvalDecision":"allow-always","binding":`+boundFiles+`}`), &want); err != nil {
		t.Fatal(err)
	}
	var passed, refused, plain atomic.Int64
	judge := func(m mutant) error {
		raw := m.encode()
		out, _, err := w.svc.GuardRun(context.Background(), m.caller, m.node, raw)
		if err != nil {
			refused.Add(1)
			return nil
		}
		got, err := reader(out)
		if err != nil {
			// What is no object has no claims; anything else must be clear to every reader.
			if json.Valid(out) && !bytes.HasPrefix(bytes.TrimSpace(out), []byte("{")) {
				plain.Add(1)
				return nil
			}
			return fmt.Errorf("%s: %w", out, err)
		}
		claims := false
		for name := range got {
			claims = claims || slices.Contains([]string{"APPROVED", "APPROVALDECISION", "BINDING"}, strings.ToUpper(strings.TrimSpace(name)))
		}
		if !claims {
			plain.Add(1)
			return nil
		}
		passed.Add(1)
		if m.node != "n1" || m.caller.Subject() != ann.Subject() || m.caller.DeviceID != ann.DeviceID || m.caller.Principal != ann.Principal {
			return fmt.Errorf("%s passed for %+v on %q", out, m.caller, m.node)
		}
		var id string
		_ = json.Unmarshal(got["runId"], &id)
		if strings.TrimSpace(id) != "the-approval" {
			return fmt.Errorf("%s passed", out)
		}
		delete(got, "runId")
		delete(got, "timeoutMs")
		delete(got, "needsScreenRecording")
		is := map[string]any{}
		for name, val := range got {
			if name == "env" {
				if _, err := reader(val); err != nil {
					return fmt.Errorf("env %s: %w", val, err)
				}
			}
			var v any
			if err := json.Unmarshal(val, &v); err != nil {
				return err
			}
			is[name] = v
		}
		if d := cmp.Diff(want, is); d != "" {
			return fmt.Errorf("passed: %s", d)
		}
		return nil
	}
	if err := judge(base); err != nil || passed.Load() != 1 {
		t.Fatalf("the approved run itself: %v, %d passed", err, passed.Load())
	}
	seed := uint64(time.Now().UnixNano())
	var wg sync.WaitGroup
	const workers = 200
	for n := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			for range count / workers {
				m := base
				m.members = slices.Clone(base.members)
				for range 1 + r.IntN(3) {
					x := mutations[r.IntN(len(mutations))]
					if len(m.members) > 0 {
						x.do(r, &m)
						m.names = append(m.names, x.name)
					}
				}
				if err := judge(m); err != nil {
					t.Errorf("seed %d: %v: %s: %v", seed, m.names, m.encode(), err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d refused, %d left to the node without a claim, %d as approved", refused.Load(), plain.Load(), passed.Load())
	if refused.Load() < int64(count)/4 || plain.Load() == 0 || passed.Load() < 2 {
		t.Error("the mutants try too little")
	}
	if a, err := w.store.Approval("the-approval"); err != nil || int64(a.Uses) != passed.Load() {
		t.Errorf("%d passed, %d uses are on disk, %v", passed.Load(), a.Uses, err)
	}
}
