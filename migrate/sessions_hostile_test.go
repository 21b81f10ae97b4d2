package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
)

// What is broken or leads elsewhere is reported, and all else comes over.
func TestSessionsHostile(t *testing.T) {
	w := newWorld(t)
	outside := filepath.Join(filepath.Dir(w.source), "outside")
	big := strings.Repeat("x", 5<<20)
	w.write(t, map[string]string{
		outside + "/secret.jsonl": "secret\n",
		mainDir + "sessions.json": `{"agent:main:../../x": {"sessionId":"../../../outside/secret","updatedAt":1},
			"up": {"sessionId":"up","updatedAt":1,"sessionFile":"../../../../outside/secret.jsonl"},
			"away": {"sessionId":"away","updatedAt":1,"sessionFile":"` + filepath.ToSlash(outside) + `/secret.jsonl"},
			"linked": {"sessionId":"linked","updatedAt":1},
			"big": {"sessionId":"big","updatedAt":1,"skillsSnapshot":{"prompt":"` + big + `"}},
			"MAIN": {"sessionId":"older","updatedAt":1,"label":"older"},
			"agent:main:main": {"sessionId":"newer","updatedAt":3,"label":"newer"},
			"agent:main:Main": {"sessionId":"middle","updatedAt":2,"label":"middle"},
			"text": "text", "none": null, "list": [1], "number": {"sessionId":5,"updatedAt":1}, "": {"sessionId":"e"},
			"` + strings.Repeat("k", 600) + `": {"sessionId":"k"},
			"agent:work:x": {"sessionId":"of-work","updatedAt":1},
			"cut": {"sessionId":"cut","upda`,
		mainDir + "linked.jsonl.reset.1": "archive\n", mainDir + "older.jsonl": "older\n", mainDir + "newer.jsonl": "newer\n", mainDir + "middle.jsonl": "m\n",
		mainDir + "of-work.jsonl": "work\n", mainDir + "of-work.jsonl.reset.1": "work was\n", mainDir + "cut.jsonl": "cut\n",
		mainDir + "within-target.jsonl": "within\n",
		mainDir + "deep/er/x.jsonl":     "deep\n",
		"agents/half/sessions/x.jsonl":  "half\n", "agents/half/sessions/sessions.json": "",
		"agents/list/sessions/sessions.json": "[]",
		"agents/Odd Name/sessions/o.jsonl":   "odd\n",
	})
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(w.source, name)); err != nil {
			t.Skipf("links: %v", err)
		}
	}
	link(filepath.Join(outside, "secret.jsonl"), mainDir+"linked.jsonl")
	link("within-target.jsonl", mainDir+"within.jsonl")
	link("nowhere", mainDir+"nowhere.jsonl")
	link(outside, "agents/linked")
	link(".", mainDir+"loop")
	if err := makePipe(filepath.Join(w.source, mainDir+"pipe.jsonl")); err != nil {
		t.Logf("no pipe: %v", err)
	}

	// Nothing is written in a dry run.
	before := texts(t, w.state)
	if _, err := move(t, w.source, w.state, &manifest{}, w.cfg, true, importSessions); err != nil || !maps.Equal(before, texts(t, w.state)) || len(entries(t, w.state)) != 0 {
		t.Errorf("a dry run wrote: %v", err)
	}

	rep := w.bring(t)
	got := entries(t, w.state)
	for key, want := range map[string]string{
		"agent:main:up": `{"sessionId":"up","updatedAt":1,"sessionFile":"secret.jsonl"}`, "agent:main:away": `{"sessionId":"away","updatedAt":1,"sessionFile":"secret.jsonl"}`,
		"agent:main:linked": `{"sessionId":"linked","updatedAt":1}`, "agent:main:big": `{"sessionId":"big","updatedAt":1,"skillsSnapshot":{"prompt":"` + big + `"}}`,
		"agent:main:main": `{"sessionId":"newer","updatedAt":3,"label":"newer"}`, "agent:work:x": `{"sessionId":"of-work","updatedAt":1}`,
	} {
		if got[key] != want {
			t.Errorf("%s is %.100q", key, got[key])
		}
		delete(got, key)
	}
	if len(got) != 0 {
		t.Errorf("there are others: %.300v", got)
	}
	if got, want := texts(t, w.state), map[string]string{
		mainDir + "linked.jsonl.reset.1": "archive\n", mainDir + "older.jsonl": "older\n", mainDir + "newer.jsonl": "newer\n", mainDir + "middle.jsonl": "m\n",
		mainDir + "cut.jsonl": "cut\n", mainDir + "within-target.jsonl": "within\n", mainDir + "within.jsonl": "within\n", mainDir + "deep/er/x.jsonl": "deep\n",
		"agents/work/sessions/of-work.jsonl": "work\n", "agents/work/sessions/of-work.jsonl.reset.1": "work was\n",
		"agents/half/sessions/x.jsonl": "half\n", "agents/odd-name/sessions/o.jsonl": "odd\n",
	}; !maps.Equal(got, want) {
		t.Errorf("files are %q", got)
	}
	for path, want := range map[string]string{
		mainDir + "sessions.json":                                "ends too early",
		mainDir + "linked.jsonl":                                 "leads out",
		mainDir + "nowhere.jsonl":                                "or nowhere",
		mainDir + "loop":                                         "what is no file",
		"agents/half/sessions/sessions.json":                     "it is empty",
		"agents/list/sessions/sessions.json":                     "not a JSON object",
		"agents/linked/sessions":                                 "leads out",
		"agents/main/sessions agent:main:../../x":                "no name of a file",
		"agents/main/sessions number":                            "no text",
		"agents/main/sessions text":                              "not a JSON object",
		"agents/main/sessions ":                                  "no name",
		"agents/main/sessions agent:main:away":                   "outside of the directory",
		"agents/main/sessions agent:main:main":                   "",
		"agents/main/sessions " + strings.Repeat("k", 100) + "…": "too long",
	} {
		found := false
		for _, f := range rep.Findings {
			found = found || f.Path == path && strings.Contains(f.Why, want)
		}
		if !found && want != "" {
			t.Errorf("of %q nothing says %q", path, want)
		}
	}
	twice := 0
	for _, f := range rep.Findings {
		if strings.Contains(f.Why, "two entries") && f.Outcome == Left {
			twice++
		}
		if strings.Contains(f.Why, outside) && f.Outcome != Fault {
			t.Errorf("%+v", f)
		}
	}
	if twice != 2 {
		t.Errorf("%d entries stay behind their newer ones", twice)
	}

	// The daemon reads all of it.
	s, err := store.Open(t.Context(), w.state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if list, err := s.Transcripts().List(t.Context()); err != nil || len(list) != 11 {
		t.Errorf("%d transcripts, %v", len(list), err)
	}
}

// session.store names other files, of each agent or one for all.
func TestSessionsStore(t *testing.T) {
	for name, pattern := range map[string]string{"each": "~/kept/{agentId}/all.json", "one": "~/kept/all.json"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Session.Store = pattern
			at := func(agent string) string {
				return filepath.Dir(strings.ReplaceAll(filepath.Join(w.cfg.Home, pattern[2:]), "{agentId}", agent))
			}
			index := map[string]string{
				"main": `"agent:main:main":{"sessionId":"m","updatedAt":1}`,
				"work": `"agent:work:main":{"sessionId":"w","updatedAt":1}`,
			}
			if name == "one" {
				w.write(t, map[string]string{at("") + "/all.json": "{" + index["main"] + "," + index["work"] + "}"})
			} else {
				for agent, text := range index {
					w.write(t, map[string]string{at(agent) + "/all.json": "{" + text + "}"})
				}
			}
			w.write(t, map[string]string{
				at("main") + "/m.jsonl": "m\n", at("work") + "/w.jsonl": "w\n", at("work") + "/w.jsonl.reset.1": "w was\n",
				"agents/work/sessions/sessions.json": `{"main":{"sessionId":"stale","updatedAt":9}}`, "agents/work/sessions/stale.jsonl": "stale\n",
			})
			rep := w.bring(t)
			if got, want := entries(t, w.state), map[string]string{"agent:main:main": `{"sessionId":"m","updatedAt":1}`, "agent:work:main": `{"sessionId":"w","updatedAt":1}`}; !maps.Equal(got, want) {
				t.Errorf("entries are %v", got)
			}
			if got, want := texts(t, w.state), map[string]string{
				mainDir + "m.jsonl": "m\n", "agents/work/sessions/w.jsonl": "w\n", "agents/work/sessions/w.jsonl.reset.1": "w was\n", "agents/work/sessions/stale.jsonl": "stale\n",
			}; !maps.Equal(got, want) {
				t.Errorf("files are %v", got)
			}
			if f := told(t, rep, "agents/work/sessions/sessions.json"); f.Outcome != Left {
				t.Errorf("%+v", f)
			}
		})
	}
	w := newWorld(t)
	w.cfg.Session.Store = "relative/{agentId}.json"
	if f := told(t, w.bring(t), "session.store"); f.Outcome != Fault {
		t.Errorf("%+v", f)
	}
}

// The original runs on an export, and what it wrote comes back over, also where hanzod had written before.
func TestSessionsThereBackAndThere(t *testing.T) {
	w := newWorld(t)
	w.write(t, map[string]string{
		mainDir + "sessions.json": `{"a":{"sessionId":"a","updatedAt":1},"b":{"sessionId":"b","updatedAt":1},"c":{"sessionId":"c","updatedAt":1}}`,
		mainDir + "a.jsonl":       "\"a\"\n", mainDir + "b.jsonl": "\"b\"\n", mainDir + "c.jsonl": "\"c\"\n",
	})
	w.bring(t)
	here := func(label string) func(*sessions.Entry) sessions.Change {
		return func(e *sessions.Entry) sessions.Change {
			e.SessionID, e.Label = cmp.Or(e.SessionID, "new"), label
			return sessions.Change{}
		}
	}
	for _, key := range []string{"agent:main:a", "agent:main:b", "agent:main:c", "agent:main:new"} {
		w.change(t, key, here("here"))
	}
	w.line(t, "a.jsonl", `"here"`)
	w.line(t, "new.jsonl", `"here"`)
	out, noted := t.TempDir(), manifest{}
	if _, err := move(t, w.state, out, &noted, w.cfg, false, exportSessions); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(noted)
	if err != nil {
		t.Fatal(err)
	}
	// There a was shortened and labelled, b reset, new deleted; c went on here after the export.
	w.write(t, map[string]string{
		filepath.Join(out, exportName): string(text),
		filepath.Join(out, mainDir+"sessions.json"): `{"agent:main:a":{"sessionId":"a","updatedAt":2,"label":"there"},"agent:main:b":{"sessionId":"b2","updatedAt":2},
			"agent:main:c":{"sessionId":"c","updatedAt":2,"label":"there"}}`,
		filepath.Join(out, mainDir+"a.jsonl"):             "\"short\"\n",
		filepath.Join(out, mainDir+"b2.jsonl"):            "\"b2\"\n",
		filepath.Join(out, mainDir+"b.jsonl.reset.1"):     "\"b\"\n",
		filepath.Join(out, mainDir+"new.jsonl.deleted.1"): "\"here\"\n",
	})
	for _, name := range []string{"b.jsonl", "new.jsonl"} {
		if err := os.Remove(filepath.Join(out, mainDir+name)); err != nil {
			t.Fatal(err)
		}
	}
	w.change(t, "agent:main:c", here("later"))
	w.source = out
	w.bring(t)
	if got, want := entries(t, w.state), map[string]string{
		"agent:main:a": `{"sessionId":"a","updatedAt":2,"label":"there"}`, "agent:main:b": `{"sessionId":"b2","updatedAt":2}`,
		"agent:main:c": `{"sessionId":"c","updatedAt":1,"label":"later"}`,
	}; !maps.Equal(got, want) {
		t.Errorf("entries are %v", got)
	}
	if got, want := texts(t, w.state), map[string]string{
		mainDir + "a.jsonl": "\"short\"\n", mainDir + "b2.jsonl": "\"b2\"\n", mainDir + "b.jsonl.reset.1": "\"b\"\n", mainDir + "c.jsonl": "\"c\"\n",
		mainDir + "new.jsonl.deleted.1": "\"here\"\n",
	}; !maps.Equal(got, want) {
		t.Errorf("files are %v", got)
	}
}

// An entry that would fill the memory ends the file; what comes before was handed over.
func TestIndexEntryTooLarge(t *testing.T) {
	n := 0
	err := readIndex(strings.NewReader(`{"a":{"x":1},"b":"`+strings.Repeat("x", 1<<20)+`","c":{}}`), 600<<10, func(string, json.RawMessage) error {
		n++
		return nil
	})
	if !errors.Is(err, errEntrySize) || n != 1 {
		t.Errorf("%d entries, %v", n, err)
	}
}

// session.store is taken out of the configuration, whatever stands beside it.
func TestSessionStoreTakenOut(t *testing.T) {
	r := &run{config: &config.Config{}}
	const text = "{\n  // why\n  session: { store: \"~/x.json\", scope: \"global\" },\n}\n"
	if got, err := r.usualSessions([]byte(text)); err != nil || string(got) != text {
		t.Errorf("without one it is %s, %v", got, err)
	}
	r.config.Session.Store = "~/x.json"
	got, err := r.usualSessions([]byte(text))
	if err != nil || strings.Contains(string(got), "store") || !strings.Contains(string(got), "// why") || !strings.Contains(string(got), `scope: "global"`) {
		t.Errorf("it is %s, %v", got, err)
	}
	if _, err := r.usualSessions([]byte(`{$include: "x.json"}`)); err != nil || outcomes(r.report)[Left] != 1 || outcomes(r.report)[Imported] != 1 {
		t.Errorf("%v %+v", err, r.report.Findings)
	}
}

// The oldest versions kept the sessions of their one agent in the state directory itself.
func TestSessionsOldest(t *testing.T) {
	w := newWorld(t)
	w.write(t, map[string]string{
		"sessions/sessions.json":  `{"main":{"sessionId":"old","updatedAt":1},"x":{"sessionId":"x","updatedAt":1}}`,
		"sessions/x.jsonl":        "old x\n",
		"sessions/old.jsonl":      "old\n",
		mainDir + "sessions.json": `{"agent:main:main":{"sessionId":"new","updatedAt":2}}`,
		mainDir + "x.jsonl":       "new x\n",
	})
	rep := w.bring(t)
	if got, want := entries(t, w.state), map[string]string{"agent:main:main": `{"sessionId":"new","updatedAt":2}`, "agent:main:x": `{"sessionId":"x","updatedAt":1}`}; !maps.Equal(got, want) {
		t.Errorf("entries are %v", got)
	}
	if got, want := texts(t, w.state), map[string]string{mainDir + "x.jsonl": "new x\n", mainDir + "old.jsonl": "old\n"}; !maps.Equal(got, want) {
		t.Errorf("files are %v", got)
	}
	if f := told(t, rep, mainDir+"x.jsonl"); f.Outcome != Left {
		t.Errorf("%+v", f)
	}
}

// An entry may name the transcript of another agent: it is brought over for it.
func TestSessionsFileOfAnother(t *testing.T) {
	w := newWorld(t)
	w.write(t, map[string]string{
		mainDir + "sessions.json":              `{"main":{"sessionId":"m","updatedAt":1,"sessionFile":"/home/else/.openclaw/agents/work/sessions/w-topic-1.jsonl"}}`,
		"agents/work/sessions/w-topic-1.jsonl": "w\n",
	})
	w.bring(t)
	if got := texts(t, w.state); got[mainDir+"w-topic-1.jsonl"] != "w\n" || got["agents/work/sessions/w-topic-1.jsonl"] != "w\n" {
		t.Errorf("files are %v", got)
	}
}

// many makes a source with that many sessions.
func (w *world) many(t testing.TB, agents, each, lines int) {
	t.Helper()
	line := `{"type":"message","id":"0a0a0a0a","parentId":null,"message":{"role":"user","content":"` + strings.Repeat("text ", 190) + `"}}` + "\n"
	body := []byte(strings.Repeat(line, lines))
	for a := range agents {
		agent := fmt.Sprint("a", a)
		dir := filepath.Join(w.source, "agents", agent, "sessions")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var index strings.Builder
		for i := range each {
			id := fmt.Sprintf("%08d-0000-4000-8000-%012d", a, i)
			fmt.Fprintf(&index, `,"agent:%s:direct:%d":{"sessionId":"%s","updatedAt":%d,"sessionFile":"%s/%s.jsonl","skillsSnapshot":{"prompt":"%s"}}`,
				agent, i, id, 1_700_000_000_000+i, filepath.ToSlash(dir), id, strings.Repeat("skill ", 800))
			if err := os.WriteFile(filepath.Join(dir, id+".jsonl"), body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "sessions.json"), []byte("{"+index.String()[1:]+"}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImportChild is the process that TestSessionsKilled kills.
func TestImportChild(t *testing.T) {
	if os.Getenv("MIGRATE_CHILD") == "" {
		t.Skip("it is started by TestSessionsKilled")
	}
	way := importSessions
	if os.Getenv("MIGRATE_CHILD") == "export" {
		way = exportSessions
	}
	rep, err := move(t, os.Getenv("MIGRATE_FROM"), os.Getenv("MIGRATE_TO"), &manifest{}, &config.Config{}, false, way)
	if err != nil {
		t.Fatal(err)
	}
	if n := outcomes(rep); n[Fault]+n[Kept]+n[Left] > 0 {
		t.Fatalf("%+v", rep.Findings)
	}
}

// An import or export that is killed at any moment is completed by the next, to what one that nobody killed gives.
func TestSessionsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	w := newWorld(t)
	w.many(t, 2, 400, 100)
	w.bring(t)
	kill := func(way, from string, want map[string]string) (to string) {
		to, killed := t.TempDir(), 0
		for delay := 40 * time.Millisecond; ; delay += delay / 2 {
			if delay > time.Minute {
				t.Fatal("it does not end")
			}
			ctx, cancel := context.WithTimeout(t.Context(), delay)
			c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestImportChild$")
			c.Env = append(os.Environ(), "MIGRATE_CHILD="+way, "MIGRATE_FROM="+from, "MIGRATE_TO="+to)
			out, err := c.CombinedOutput()
			late := ctx.Err() != nil
			cancel()
			if err == nil {
				break
			}
			if !late {
				t.Fatalf("%v\n%s", err, out)
			}
			killed++
			for name, text := range texts(t, to) {
				if !strings.Contains(name, tempPrefix) && text != want[name] {
					t.Fatalf("%s is there in part, after %v", name, delay)
				}
			}
		}
		if killed == 0 {
			t.Fatalf("no %s was killed", way)
		}
		if !maps.Equal(want, texts(t, to)) {
			t.Errorf("after %d kills it is not as without", killed)
		}
		t.Logf("%s: killed %d times", way, killed)
		return to
	}
	state := kill("import", w.source, texts(t, w.state))
	if !maps.Equal(entries(t, w.state), entries(t, state)) {
		t.Error("the entries are not as without kills")
	}
	out := t.TempDir()
	if _, err := move(t, w.state, out, &manifest{}, w.cfg, false, exportSessions); err != nil {
		t.Fatal(err)
	}
	kill("export", w.state, texts(t, out))
}

// Where no space is left it says so, and goes on when there is some.
func TestSessionsNoSpace(t *testing.T) {
	w := newWorld(t)
	w.many(t, 1, 40, 300)
	state, larger := smallDisk(t, 4096)
	_, err := move(t, w.source, state, &manifest{}, w.cfg, false, importSessions)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make some and run it again") {
		t.Fatalf("%v", err)
	}
	if len(entries(t, state)) != 0 {
		t.Error("there are entries without their transcripts")
	}
	larger()
	if _, err := move(t, w.source, state, &manifest{}, w.cfg, false, importSessions); err != nil {
		t.Fatal(err)
	}
	w.bring(t)
	if !maps.Equal(texts(t, w.state), texts(t, state)) || !maps.Equal(entries(t, w.state), entries(t, state)) {
		t.Error("it is not as with space from the beginning")
	}
}

// A directory that is exported to keeps what the original wrote there since, and loses what is gone here.
func TestSessionsExportAgain(t *testing.T) {
	w := newWorld(t)
	w.write(t, map[string]string{
		mainDir + "sessions.json": `{"main":{"sessionId":"m","updatedAt":1},"x":{"sessionId":"x","updatedAt":1}}`,
		mainDir + "m.jsonl":       "\"m\"\n", mainDir + "x.jsonl": "\"x\"\n",
	})
	w.bring(t)
	out, noted := t.TempDir(), manifest{}
	export := func() Report {
		t.Helper()
		rep, err := move(t, w.state, out, &noted, w.cfg, false, exportSessions)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	export()
	was := texts(t, out)
	if n := outcomes(export()); n[Imported] != 0 || n[Unchanged] != 4 || !maps.Equal(was, texts(t, out)) {
		t.Errorf("a second export: %v", n)
	}
	w.line(t, "m.jsonl", `"more"`)
	w.change(t, "agent:main:x", func(*sessions.Entry) sessions.Change {
		return sessions.Change{Delete: true, Move: &sessions.Move{From: sessions.File{AgentID: "main", Name: "x.jsonl"}, To: "x.jsonl.deleted.1"}}
	})
	export()
	if got, want := texts(t, out), map[string]string{
		mainDir + "sessions.json": "{\n  \"agent:main:main\": {\n    \"sessionId\": \"m\",\n    \"updatedAt\": 1\n  }\n}",
		mainDir + "m.jsonl":       "\"m\"\n\"more\"\n", mainDir + "x.jsonl.deleted.1": "\"x\"\n",
	}; !maps.Equal(got, want) {
		t.Errorf("then there is %q", got)
	}

	// The original runs on it.
	w.write(t, map[string]string{filepath.Join(out, mainDir+"m.jsonl"): "\"m\"\n\"more\"\n\"there\"\n", filepath.Join(out, mainDir+"sessions.json"): `{"new":{}}`})
	w.change(t, "agent:main:main", func(e *sessions.Entry) sessions.Change { e.Label = "l"; return sessions.Change{} })
	was = texts(t, out)
	rep := export()
	if n := outcomes(rep); n[Kept] != 2 || !maps.Equal(was, texts(t, out)) {
		t.Errorf("what the original wrote: %+v", rep.Findings)
	}
	// Without sessions an agent has an empty file, not the old one.
	w.write(t, map[string]string{filepath.Join(out, mainDir+"sessions.json"): "{\n  \"agent:main:main\": {\n    \"sessionId\": \"m\",\n    \"updatedAt\": 1\n  }\n}"})
	w.change(t, "agent:main:main", func(*sessions.Entry) sessions.Change { return sessions.Change{Delete: true} })
	export()
	if got := texts(t, out)[mainDir+"sessions.json"]; got != "{}" {
		t.Errorf("of no sessions it says %q", got)
	}
}
