package migrate

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/store"
)

// legacyWorld is a directory of the original with something of every part; secrets are texts that begin with "secret-".
func legacyWorld(t *testing.T) (home, dir string, device string) {
	t.Helper()
	home = t.TempDir()
	dir = filepath.Join(home, ".openclaw")
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	sum := sha256.Sum256(key)
	device = hex.EncodeToString(sum[:])
	files := map[string]string{
		"openclaw.json": `{
  // what people wrote stays
  gateway: { mode: "local", auth: { mode: "token", token: "secret-gateway" } },
  agents: { list: [{ id: "main", default: true }, { id: "work" }] },
}
`,
		".env": "SOME_KEY=secret-env\n",
		"devices/paired.json": `{"` + device + `":{"deviceId":"` + device + `","publicKey":"` + base64.RawURLEncoding.EncodeToString(key) + `","displayName":"laptop",
			"role":"operator","roles":["operator"],"scopes":["operator.read"],"approvedScopes":["operator.read"],
			"tokens":{"operator":{"token":"secret-device","role":"operator","scopes":["operator.read"],"createdAtMs":1700000000000,"lastUsedAtMs":1700000001000}},
			"createdAtMs":1700000000000,"approvedAtMs":1700000000001,"laterVersion":{"a":[1,2.50]}}}`,
		"devices/pending.json": `{}`,
		"nodes/paired.json": `{"n1":{"nodeId":"n1","token":"secret-node","displayName":"attic","caps":[],"commands":["system.run"],"bins":["git"],
			"createdAtMs":1700000000000,"approvedAtMs":1700000000001,"lastConnectedAtMs":1700000000002}}`,
		"push/apns-registrations.json": `{"registrationsByNodeId":{"n1":{"nodeId":"n1","token":"abcdef0123456789abcdef0123456789","topic":"ai.app","environment":"sandbox","updatedAtMs":1700000000000}}}`,
		"settings/voicewake.json":      `{"triggers":["computer","hey"],"updatedAtMs":1700000000000}`,
		"exec-approvals.json":          `{"version":1,"socket":{"path":"/s","token":"secret-socket"},"defaults":{"security":"allowlist"},"agents":{"main":{"allowlist":[{"pattern":"/bin/ls"}]}}}`,
		"cron/jobs.json": `{"version":1,"jobs":[{"id":"11111111-1111-4111-8111-111111111111","name":"tea","enabled":true,"createdAtMs":1700000000000,"updatedAtMs":1700000000001,
			"schedule":{"kind":"every","everyMs":3600000,"anchorMs":1700000000000},"sessionTarget":"main","wakeMode":"now","payload":{"kind":"systemEvent","text":"tea time"},
			"state":{"nextRunAtMs":1700003600000,"lastRunAtMs":1700000000000,"lastStatus":"ok"}}]}`,
		"cron/runs/11111111-1111-4111-8111-111111111111.jsonl": `{"ts":1700000000100,"jobId":"11111111-1111-4111-8111-111111111111","action":"finished","status":"ok","runAtMs":1700000000000,"durationMs":100}` + "\n",
		"agents/main/agent/auth-profiles.json":                 `{"profiles":{"p":{"key":"secret-profile"}}}`,
		"agents/main/sessions/sessions.json":                   `{"agent:main:main":{"sessionId":"22222222-2222-4222-8222-222222222222","updatedAt":1700000000000,"label":"hello"}}`,
		"agents/main/sessions/22222222-2222-4222-8222-222222222222.jsonl": `{"type":"session","version":3,"id":"22222222-2222-4222-8222-222222222222","timestamp":"2023-11-14T22:13:20.000Z","cwd":"/"}` + "\n" +
			`{"type":"message","id":"0a0a0a0a","parentId":null,"message":{"role":"user","content":"hi"}}` + "\n",
		"identity/device.json":        `{"version":1,"privateKeyPem":"secret-key"}`,
		"credentials/whatsapp/c.json": `{"k":"secret-credential"}`,
		"memory/main.sqlite":          "bytes \x00 of a database",
		"skills/mine/SKILL.md":        "# mine\n",
		"logs/gateway.log":            "lines\n",
		"gateway.lock":                "1\n",
		"workspace-work/IDENTITY.md":  "work\n",
	}
	for name, text := range files {
		put(t, dir, name, text)
	}
	return home, dir, device
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func migration(ctx context.Context, home, source, target string, dry bool, f func(context.Context, Store, Options) (Report, error)) (rep Report, err error) {
	state := target
	if _, err := os.Stat(filepath.Join(source, store.FileName)); err == nil {
		state = source
	}
	s, err := store.Open(ctx, state, store.Options{})
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(ctx, s, Options{Source: source, Target: target, Home: home, DryRun: dry, Now: time.Now})
}

// in imports, and checks that the source stays as it is.
func in(t *testing.T, home, source, state string) Report {
	t.Helper()
	before := tree(t, source)
	rep, err := migration(t.Context(), home, source, state, false, Import)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, tree(t, source)) {
		t.Error("the source was changed")
	}
	return rep
}

func out(t *testing.T, home, state, target string) Report {
	t.Helper()
	rep, err := migration(t.Context(), home, state, target, false, Export)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// contents are the regular files of a directory, without what says when a migration was.
func contents(t *testing.T, dir string, without ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name := range tree(t, dir) {
		if slices.Contains(without, name) {
			continue
		}
		file := filepath.Join(dir, name)
		if st, err := os.Lstat(file); err != nil || !st.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.ToSlash(name)] = string(text)
	}
	return out
}

// state is all that a state directory holds, as JSON, without the audit log.
func state(t *testing.T, dir string) string {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	devices, err1 := s.Devices()
	_, pairings, err2 := s.Pairings()
	push, err3 := s.Registrations()
	words, err4 := s.VoiceWake()
	jobs, err5 := s.CronJobs()
	if err := errors.Join(err1, err2, err3, err4, err5, s.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent([]any{devices, pairings, push, words, jobs, entries(t, dir)}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func differ(t *testing.T, what string, a, b map[string]string) {
	t.Helper()
	for name := range a {
		if a[name] != b[name] {
			t.Errorf("%s: %s differs:\n%s\n---\n%s", what, name, a[name], b[name])
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			t.Errorf("%s: %s is there once only", what, name)
		}
	}
}

var bookkeeping = []string{"hanzod.db", "hanzod.lock", "audit.head", manifestName, exportName}

// What is imported, exported and imported again is the same state, and its export the same bytes.
func TestFixedPoint(t *testing.T) {
	home, dir, device := legacyWorld(t)
	state1, state2, out1, out2 := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "o"), filepath.Join(t.TempDir(), "o")
	if rep := in(t, home, dir, state1); rep.Count(Fault)+rep.Count(Kept) > 0 {
		t.Errorf("%+v", rep.Findings)
	}
	out(t, home, state1, out1)
	in(t, home, out1, state2)
	out(t, home, state2, out2)
	if a, b := state(t, state1), state(t, state2); a != b || !strings.Contains(a, device) || !strings.Contains(a, "secret-device") || !strings.Contains(a, "tea time") {
		t.Errorf("the state differs, or lacks something:\n%s\n---\n%s", a, b)
	}
	differ(t, "state", contents(t, state1, bookkeeping...), contents(t, state2, bookkeeping...))
	exported := contents(t, out1, exportName)
	differ(t, "export", exported, contents(t, out2, exportName))
	// Everything that is not left behind on purpose is in the export, most of it as it was.
	before := contents(t, dir)
	for _, name := range []string{".env", "exec-approvals.json", "agents/main/agent/auth-profiles.json", "identity/device.json", "credentials/whatsapp/c.json",
		"memory/main.sqlite", "skills/mine/SKILL.md", "agents/main/sessions/22222222-2222-4222-8222-222222222222.jsonl"} {
		if exported[name] != before[name] {
			t.Errorf("%s came back as %q", name, exported[name])
		}
	}
	for name, wants := range map[string][]string{
		"devices/paired.json": {"secret-device", "laterVersion", "2.50"}, "nodes/paired.json": {"secret-node", `"bins"`, "attic"},
		"push/apns-registrations.json": {"abcdef0123456789"}, "settings/voicewake.json": {"computer", "1700000000000"},
		"cron/jobs.json": {"tea time", "1700003600000"}, "cron/runs/11111111-1111-4111-8111-111111111111.jsonl": {`"finished"`},
		"openclaw.json": {"what people wrote stays", "workspace-work"}, "agents/main/sessions/sessions.json": {"hello"},
	} {
		for _, want := range wants {
			if !strings.Contains(exported[name], want) {
				t.Errorf("%s came back without %s:\n%s", name, want, exported[name])
			}
		}
	}
	for name := range tree(t, out1) {
		st, err := os.Lstat(filepath.Join(out1, name))
		if want := os.FileMode(0o600); err != nil || st.IsDir() == (st.Mode().Perm() == want) || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, st.Mode())
		}
	}
}

// A second import changes nothing, changes of the source are followed, and changes here stay.
func TestRepeated(t *testing.T) {
	home, dir, device := legacyWorld(t)
	here := t.TempDir()
	first := in(t, home, dir, here)
	if first.Count(Imported) == 0 {
		t.Fatal("nothing was imported")
	}
	before := state(t, here)
	again := in(t, home, dir, here)
	if n := again.Count(Imported) + again.Count(Removed) + again.Count(Kept) + again.Count(Fault); n > 0 || state(t, here) != before {
		for _, f := range again.Findings {
			if f.Outcome != Unchanged && f.Outcome != Left {
				t.Errorf("again: %+v", f)
			}
		}
	}
	put(t, dir, "settings/voicewake.json", `{"triggers":["now"],"updatedAtMs":1700000009000}`)
	put(t, dir, "memory/main.sqlite", "more bytes")
	put(t, here, "exec-approvals.json", `{"version":1,"defaults":{"security":"deny"},"agents":{}}`)
	put(t, dir, "exec-approvals.json", `{"version":1,"defaults":{"security":"full"},"agents":{}}`)
	put(t, dir, "devices/paired.json", `{}`) // it was removed there: it must not be let in here
	rep := in(t, home, dir, here)
	if rep.Count(Removed) != 1 || rep.Count(Kept) != 1 || rep.Count(Fault) != 0 {
		t.Errorf("%+v", rep.Findings)
	}
	now := state(t, here)
	files := contents(t, here, bookkeeping...)
	if !strings.Contains(now, `"now"`) || strings.Contains(now, device) || !strings.Contains(files["exec-approvals.json"], "deny") {
		t.Errorf("%s\n%s", now, files["exec-approvals.json"])
	}
	if !slices.Contains(slices.Collect(maps.Values(files)), "more bytes") {
		t.Error("a file that grew there was not followed")
	}
}

// A dry run writes nothing, here or there, and says what a run then does.
func TestDryRun(t *testing.T) {
	home, dir, _ := legacyWorld(t)
	parent := t.TempDir()
	target, scratch := filepath.Join(parent, "state"), t.TempDir()
	s, err := store.Open(t.Context(), scratch, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	rep, err := Import(t.Context(), s, Options{Source: dir, Target: target, Home: home, DryRun: true, Now: time.Now})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if left := tree(t, parent); len(left) != 1 || !maps.Equal(before, tree(t, dir)) {
		t.Errorf("it wrote: %v", left)
	}
	if real := in(t, home, dir, target); real.Count(Imported) != rep.Count(Imported) || real.Count(Left) != rep.Count(Left) {
		t.Errorf("it said %+v\nand did %+v", rep.Findings, real.Findings)
	}
}

// A configuration that names a variable which is set elsewhere comes over all the same, and the report says so.
func TestVariableSetElsewhere(t *testing.T) {
	home, dir, _ := legacyWorld(t)
	text := "{ gateway: { auth: { token: \"${ONLY_THE_SERVICE_HAS_IT}\" } }, hooks: { token: \"${SOME_KEY}\" } }\n"
	put(t, dir, "openclaw.json", text)
	here := t.TempDir()
	rep := in(t, home, dir, here)
	if got := contents(t, here)["config.json"]; rep.Count(Fault) > 0 || !strings.Contains(got, "${ONLY_THE_SERVICE_HAS_IT}") || !strings.Contains(got, "${SOME_KEY}") {
		t.Errorf("%q\n%+v", got, rep.Findings)
	}
	if !slices.ContainsFunc(rep.Findings, func(f Finding) bool { return strings.Contains(f.Why, "ONLY_THE_SERVICE_HAS_IT") }) {
		t.Errorf("%+v", rep.Findings)
	}
}

// No report tells a secret.
func TestReportTellsNoSecret(t *testing.T) {
	home, dir, _ := legacyWorld(t)
	put(t, dir, "nodes/paired.json", `{"n1":{"nodeId":"n1","token":"secret-node","createdAtMs":"secret-time"}}`)
	put(t, dir, "push/apns-registrations.json", `{"registrationsByNodeId":{"n1":{"token":"secret-push`)
	put(t, dir, "openclaw.json", `{gateway:{port:"secret-port",auth:{token:"secret-gateway"}}}`)
	rep := in(t, home, dir, t.TempDir())
	text, err := json.Marshal(rep)
	var b strings.Builder
	if err := errors.Join(err, rep.Text(&b)); err != nil {
		t.Fatal(err)
	}
	if rep.Count(Fault) < 3 || strings.Contains(string(text)+b.String(), "secret-") {
		t.Errorf("%s\n%s", text, b.String())
	}
}

// Sources that are broken or hostile give a report; what is whole comes over, and nothing out of the directory is read.
func TestHostile(t *testing.T) {
	home, dir, _ := legacyWorld(t)
	outside := t.TempDir()
	put(t, outside, "taken", "outside")
	put(t, dir, "devices/paired.json", `{"abc":{"deviceId":"ab`)
	put(t, dir, "cron/jobs.json", `{"version":1,"jobs":[{"id":"../../x"},17,{"id":"a","name":"n"}]}`)
	for link, to := range map[string]string{"out": filepath.Join(outside, "taken"), "up": "../..", "gone": "nowhere", "loop": "loop", "skills/out": outside} {
		if err := os.Symlink(to, filepath.Join(dir, filepath.FromSlash(link))); err != nil {
			t.Skip(err)
		}
	}
	piped := makePipe(filepath.Join(dir, "pipe")) == nil
	if f, err := os.Create(filepath.Join(dir, "memory", "big.sqlite")); err != nil {
		t.Fatal(err)
	} else if err := errors.Join(f.Truncate(10<<30), f.Close()); err != nil {
		t.Skip(err)
	}
	list := func() (names []string) { // the sparse file is too large to be hashed each time
		for name := range contentsOf(t, dir) {
			names = append(names, name)
		}
		return slices.Sorted(slices.Values(names))
	}
	before, here := list(), t.TempDir()
	began := time.Now()
	rep, err := migration(t.Context(), home, dir, here, false, Import)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if !slices.Equal(before, list()) {
		t.Error("the source was changed")
	}
	told := func(what string, o ...Outcome) {
		t.Helper()
		if !slices.ContainsFunc(rep.Findings, func(f Finding) bool {
			return strings.Contains(f.Path, what) && slices.Contains(o, f.Outcome) && f.Why != ""
		}) {
			t.Errorf("nothing is said of %s: %+v", what, rep.Findings)
		}
	}
	told("devices/paired.json", Fault)
	told("cron/jobs.json", Fault)
	told("out", Left)
	told("big.sqlite", Left)
	if piped {
		told("pipe", Left)
	}
	for name, text := range contents(t, here, bookkeeping...) {
		if text == "outside" {
			t.Errorf("%s came from outside", name)
		}
	}
	if !strings.Contains(state(t, here), "secret-node") {
		t.Error("what is whole did not come over")
	}
}

// contentsOf are names, sizes and times.
func contentsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil {
			out[fmt.Sprint(p, st.Mode(), st.Size(), st.ModTime().UnixNano())] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWholeChild is the process that TestKilled kills.
func TestWholeChild(t *testing.T) {
	if os.Getenv("MIGRATE_WHOLE") == "" {
		t.Skip("it is started by TestKilled")
	}
	if _, err := migration(t.Context(), os.Getenv("MIGRATE_HOME"), os.Getenv("MIGRATE_FROM"), os.Getenv("MIGRATE_TO"), false, Import); err != nil {
		t.Fatal(err)
	}
}

// An import that is killed anywhere is known to be unfinished, and the next gives what one in one piece gives.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	home, dir, _ := legacyWorld(t)
	for i := range 300 {
		put(t, dir, fmt.Sprintf("memory/m%03d", i), strings.Repeat("x", i*1000))
	}
	whole := t.TempDir()
	in(t, home, dir, whole)
	wantState, wantFiles := state(t, whole), contents(t, whole, bookkeeping...)
	killed, unfinished := 0, 0
	for delay := 10 * time.Millisecond; delay < 20*time.Second; delay += delay / 3 {
		here := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), delay)
		c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWholeChild$")
		c.Env = append(os.Environ(), "MIGRATE_WHOLE=1", "MIGRATE_HOME="+home, "MIGRATE_FROM="+dir, "MIGRATE_TO="+here)
		text, err := c.CombinedOutput()
		late := ctx.Err() != nil
		cancel()
		if err != nil && !late {
			t.Fatalf("%v\n%s", err, text)
		}
		from, uerr := Unfinished(here)
		if uerr != nil {
			t.Fatal(uerr)
		}
		if from != "" {
			unfinished++
		}
		if err == nil {
			if from != "" {
				t.Error("it ended and is called unfinished")
			}
			break
		}
		killed++
		rep := in(t, home, dir, here)
		if rep.Count(Kept)+rep.Count(Fault) > 0 {
			t.Errorf("after %v: %+v", delay, rep.Findings)
		}
		if got := state(t, here); got != wantState {
			t.Errorf("after %v the state differs:\n%s", delay, got)
		}
		differ(t, fmt.Sprint("after ", delay), wantFiles, contents(t, here, bookkeeping...))
		if from, err := Unfinished(here); from != "" || err != nil {
			t.Error("it is called unfinished still", err)
		}
	}
	if killed < 3 || unfinished == 0 {
		t.Errorf("killed %d times, %d of them in the middle", killed, unfinished)
	}
	t.Logf("killed %d times, %d of them in the middle", killed, unfinished)
}

// Where there is no room it says so and can be begun again.
func TestNoSpace(t *testing.T) {
	home, dir, _ := legacyWorld(t)
	put(t, dir, "memory/large", strings.Repeat("x", 6<<20))
	here, larger := smallDisk(t, 4096)
	if _, err := migration(t.Context(), home, dir, here, false, Import); err == nil {
		t.Fatal("there was room")
	}
	larger()
	if rep := in(t, home, dir, here); rep.Count(Fault)+rep.Count(Kept) > 0 {
		t.Errorf("%+v", rep.Findings)
	}
	if from, err := Unfinished(here); from != "" || err != nil {
		t.Error(from, err)
	}
}

// TestTriedBefore has a daemon tried before the first import: what it made by itself gives way, what somebody wrote
// stays.
func TestTriedBefore(t *testing.T) {
	home, src, _ := legacyWorld(t)
	target := filepath.Join(home, "hanzod")
	put(t, target, "config.json", "{\n  gateway: { auth: { mode: 'token', token: 'made' } },\n}\n")
	put(t, target, "exec-approvals.json", `{"version":1,"socket":{"path":"/x","token":"made"},"defaults":{},"agents":{}}`)
	if _, err := migration(t.Context(), home, src, target, false, Import); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"config.json": "secret-gateway", "exec-approvals.json": "/bin/ls"} {
		if b, err := os.ReadFile(filepath.Join(target, name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s was not brought over: %s %v", name, b, err)
		}
	}

	target = filepath.Join(home, "other")
	put(t, target, "config.json", "{ gateway: { auth: { mode: 'token', token: 'made' }, port: 1234 } }")
	put(t, target, "exec-approvals.json", `{"version":1,"agents":{"main":{"allowlist":[{"pattern":"/bin/mine"}]}}}`)
	rep, err := migration(t.Context(), home, src, target, false, Import)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"config.json": "1234", "exec-approvals.json": "/bin/mine"} {
		if b, err := os.ReadFile(filepath.Join(target, name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s of somebody was replaced: %s %v", name, b, err)
		}
	}
	if rep.Count(Kept) != 2 {
		t.Errorf("two files are kept, and the report says %d: %+v", rep.Count(Kept), rep.Findings)
	}
}
