package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
)

// world is a directory of the original and a state directory, with what the last run noted.
type world struct {
	source, state string
	cfg           *config.Config
	noted         manifest
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{filepath.Join(dir, "old"), filepath.Join(dir, "new"), &config.Config{Home: dir}, manifest{}}
	for _, d := range []string{w.source, w.state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// write makes files below the source, or elsewhere when the name is absolute.
func (w *world) write(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if !filepath.IsAbs(name) {
			name = filepath.Join(w.source, name)
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// move runs one direction between two directories, with the store of the state directory, and returns the report.
func move(t *testing.T, from, to string, noted *manifest, cfg *config.Config, dry bool, f func(context.Context, *run) error) (Report, error) {
	t.Helper()
	state := to
	if _, err := os.Stat(filepath.Join(from, store.FileName)); err == nil {
		state = from
	}
	s, err := store.Open(t.Context(), state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	source, err := os.OpenRoot(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	r := testRun(source, target, s, cfg, noted)
	r.DryRun = dry
	err = f(t.Context(), r)
	saveNoted(r, noted)
	return r.report, err
}

func (w *world) bring(t *testing.T) Report {
	t.Helper()
	before := tree(t, w.source)
	rep, err := move(t, w.source, w.state, &w.noted, w.cfg, false, importSessions)
	if err != nil {
		t.Fatal(err)
	}
	if after := tree(t, w.source); !maps.Equal(before, after) {
		t.Error("the source was changed")
	}
	return rep
}

// tree is what is in a directory: content, mode and time of each file.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		text := fmt.Sprint(st.Mode(), st.ModTime().UnixNano())
		if st.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		out[rel] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// texts are the contents of the regular files below agents.
func texts(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, agentsDir), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// entries are all entries of a state directory, as the original would write them.
func entries(t *testing.T, state string) map[string]string {
	t.Helper()
	s, err := store.Open(t.Context(), state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := map[string]string{}
	if err := s.WholeSessions(func(it sessions.Stored) error {
		out[it.Ref.Key] = string(encodeEntry(&it.Entry))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func outcomes(r Report) map[Outcome]int {
	out := map[Outcome]int{}
	for _, f := range r.Findings {
		out[f.Outcome] += f.Count
	}
	return out
}

// told finds the one finding of a path.
func told(t *testing.T, r Report, path string) Finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("nothing is said of %s: %+v", path, r.Findings)
	}
	return r.Findings[i]
}

const (
	oneTranscript = `{"type":"session","version":3,"id":"one","timestamp":"2026-01-01T00:00:00.000Z","cwd":"/"}` + "\n"
	mainDir       = "agents/main/sessions/"
)

// An entry goes there and back without loss, whatever it holds.
func TestEntryKeepsAll(t *testing.T) {
	for _, raw := range []string{
		`{"sessionId":"a"}`,
		`{"sessionId":"a","updatedAt":1767225600001,"sessionFile":"a-topic-1.jsonl","spawnedBy":"agent:main:main","spawnDepth":2,"systemSent":true,"abortedLastRun":false,"chatType":"direct","label":"<b> & \"c\"","origin":{"label":"x","provider":"p","threadId":"5","nativeChannelId":"n"},"deliveryContext":{"channel":"c","to":"t","threadId":7},"lastThreadId":12.5,"skillsSnapshot":{"prompt":"p <&>","skills":[{"name":"n"}]}}`,
		`{"label":"","model":null,"inputTokens":1.5,"totalTokensFresh":"yes","outputTokens":-0,"cacheRead":1e3,"origin":"none","deliveryContext":[],"updatedAt":"today","lastThreadId":null,"x":{}}`,
		`{"sessionId":"a","deliveryContext":{"channel":"c","mode":"odd","to":5}}`,
		`{"sessionId":"a","label":"half \ud83d","subject":"\u2028","big":123456789012345678901234567890,"":1}`,
	} {
		e, err := decodeEntry(json.RawMessage(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		got := encodeEntry(&e)
		var a, b map[string]json.RawMessage
		if err := json.Unmarshal([]byte(raw), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &b); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		for name, v := range a {
			var x, y any
			if json.Unmarshal(v, &x) != nil || json.Unmarshal(b[name], &y) != nil || !reflect.DeepEqual(x, y) {
				t.Errorf("%s: %q became %s", raw, name, b[name])
			}
		}
		if len(a) != len(b) {
			t.Errorf("%s became %s", raw, got)
		}
		again, err := decodeEntry(got)
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("%s: read again it is %+v, was %+v (%v)", raw, again, e, err)
		}
	}
	var whole sessions.Entry
	fill(reflect.ValueOf(&whole).Elem(), new(int64))
	got, err := decodeEntry(encodeEntry(&whole))
	if err != nil || !reflect.DeepEqual(got, whole) {
		t.Errorf("a full entry: %+v\nis %+v, %v", whole, got, err)
	}
}

// fill sets every field of an entry.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Int64:
		v.SetInt(*n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.SetBytes(fmt.Appendf(nil, `"%d"`, *n))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]sessions.Raw{"other": sessions.Raw(fmt.Sprintf("[%d]", *n))}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.UnixMilli(1_700_000_000_000 + *n).UTC()))
			return
		}
		for _, f := range v.Fields() {
			fill(f, n)
		}
	}
}

// A key is read as sessions reads it, but for those of an agent's own file.
func TestRefOf(t *testing.T) {
	cfg := &config.Config{}
	for _, key := range []string{"main", "Main ", "agent:main:main", "agent:Main:MAIN", "agent:work:x:Y", "hook:1", "global", "UNKNOWN", "agent::x", "agent:x", "main:", "telegram:group:-5"} {
		if got, want := refOf(cfg, "main", key), sessions.Canonical(cfg, key); got != want {
			t.Errorf("%q is %v, want %v", key, got, want)
		}
	}
	for key, want := range map[string]sessions.Ref{
		"main":         {AgentID: "work", Key: "agent:work:main"},
		"x":            {AgentID: "work", Key: "agent:work:x"},
		"agent:a:main": {AgentID: "a", Key: "agent:a:main"},
		"global":       {AgentID: "main", Key: "global"},
	} {
		if got := refOf(cfg, "work", key); got != want {
			t.Errorf("%q is %v, want %v", key, got, want)
		}
	}
}

func TestTranscriptName(t *testing.T) {
	for name, want := range map[string]string{
		"a.jsonl": "a.jsonl", "a-topic-5.jsonl.reset.2026-01-01T10-00-00.000Z": "a-topic-5.jsonl.reset.2026-01-01T10-00-00.000Z",
	} {
		if got, ok := transcriptName(name); !ok || got != want {
			t.Errorf("%q is %q", name, got)
		}
	}
	a, _ := transcriptName("a-topic-%24x%3Ay.jsonl")
	b, _ := transcriptName("a-topic-%25x%3Ay.jsonl")
	c, _ := transcriptName("a-topic-%24x%3Ay.jsonl.reset.1")
	if a == b || !strings.HasPrefix(c, a+".") || strings.ContainsAny(a, "%") {
		t.Errorf("%q %q %q", a, b, c)
	}
	if _, ok := transcriptName(strings.Repeat("a", 300) + ".jsonl"); ok {
		t.Error("a name may be too long")
	}
}

// Sessions come over with all their files, again without change, and back; what comes back comes over as the same.
func TestSessionsThereAndBack(t *testing.T) {
	w := newWorld(t)
	w.write(t, map[string]string{
		mainDir + "sessions.json": `{
			"Agent:main:MAIN": {"sessionId":"one","updatedAt":5,"sessionFile":"` + filepath.ToSlash(w.source) + `/agents/main/sessions/one.jsonl","label":"l","odd":{"a":[1, 2]}},
			"telegram:group:-5:topic:7": {"sessionId":"two","updatedAt":6,"sessionFile":"two-topic-7.jsonl"},
			"matrix": {"sessionId":"three","updatedAt":6,"sessionFile":"three-topic-%24a%3Ab.jsonl"},
			"noid": {"updatedAt":7,"label":"x"},
			"global": {"sessionId":"glob","updatedAt":7}
		}`,
		mainDir + "one.jsonl":                                 oneTranscript,
		mainDir + "two-topic-7.jsonl":                         oneTranscript + `{"torn`,
		mainDir + "three-topic-%24a%3Ab.jsonl":                "3\n",
		mainDir + "orphan.jsonl":                              "orphan\n",
		mainDir + "one.jsonl.reset.2026-01-01T10-00-00.000Z":  "reset\n",
		mainDir + "gone.jsonl.deleted.2026-01-01T10-00-00.1Z": "deleted\n",
		mainDir + "sessions.json.bak.1":                       "{}",
		mainDir + "sessions.json.lock":                        "1",
		mainDir + "one.jsonl.lock":                            "1",
		"agents/work/sessions/sessions.json":                  `{"main":{"sessionId":"w","updatedAt":9}}`,
		"agents/work/sessions/w.jsonl":                        "w\n",
		"agents/idle/agent/models.json":                       "{}",
	})
	rep := w.bring(t)
	if n := outcomes(rep); n[Imported] != 6+8 || n[Left] != 2 || n[Fault] != 0 || n[Kept] != 0 {
		t.Errorf("%+v", rep.Findings)
	}
	three, _ := transcriptName("three-topic-%24a%3Ab.jsonl")
	if got, want := entries(t, w.state), map[string]string{
		"agent:main:main":                      `{"sessionId":"one","updatedAt":5,"sessionFile":"one.jsonl","label":"l","odd":{"a":[1,2]}}`,
		"agent:main:telegram:group:-5:topic:7": `{"sessionId":"two","updatedAt":6,"sessionFile":"two-topic-7.jsonl"}`,
		"agent:main:matrix":                    `{"sessionId":"three","updatedAt":6,"sessionFile":"` + three + `"}`,
		"agent:main:noid":                      `{"sessionId":"` + idFor(sessions.Ref{AgentID: "main", Key: "agent:main:noid"}) + `","updatedAt":7,"label":"x"}`,
		"global":                               `{"sessionId":"glob","updatedAt":7}`,
		"agent:work:main":                      `{"sessionId":"w","updatedAt":9}`,
	}; !maps.Equal(got, want) {
		t.Errorf("entries are %v", got)
	}
	files := texts(t, w.state)
	for name, want := range texts(t, w.source) {
		switch base := filepath.Base(name); {
		case base == indexName, strings.HasSuffix(base, ".lock"), base == "models.json":
			if _, ok := files[name]; ok {
				t.Errorf("%s was brought over", name)
			}
			continue
		case strings.Contains(base, "%"):
			name = mainDir + three
		}
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	for name, is := range tree(t, w.state) {
		if strings.HasPrefix(filepath.ToSlash(name), "agents") && !strings.HasPrefix(is, "-rw-------") && !strings.HasPrefix(is, "drwx------") {
			t.Errorf("%s has mode %s", name, is)
		}
	}

	// A line that was cut off is there, and readers do not see it.
	func() {
		s, err := store.Open(t.Context(), w.state, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.Transcripts().Open(sessions.File{AgentID: "main", Name: "two-topic-7.jsonl"})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Size() != int64(len(oneTranscript)) {
			t.Errorf("%d bytes are whole lines", f.Size())
		}
	}()

	before := tree(t, filepath.Join(w.state, agentsDir))
	rep = w.bring(t)
	if n := outcomes(rep); n[Unchanged] != 6+8 || n[Imported] != 0 {
		t.Errorf("again: %+v", rep.Findings)
	}
	if !maps.Equal(before, tree(t, filepath.Join(w.state, agentsDir))) {
		t.Error("the second run wrote")
	}

	back := func(state string, noted *manifest) string {
		out := t.TempDir()
		if rep, err := move(t, state, out, noted, w.cfg, false, exportSessions); err != nil || outcomes(rep)[Fault] != 0 {
			t.Fatalf("%v %+v", err, rep.Findings)
		}
		return out
	}
	first := back(w.state, &manifest{})
	if text := texts(t, first)["agents/work/sessions/sessions.json"]; text != "{\n  \"agent:work:main\": {\n    \"sessionId\": \"w\",\n    \"updatedAt\": 9\n  }\n}" {
		t.Errorf("it is written as %s", text)
	}
	fresh := &world{first, t.TempDir(), w.cfg, manifest{}}
	fresh.bring(t)
	if !maps.Equal(entries(t, w.state), entries(t, fresh.state)) || !maps.Equal(texts(t, w.state), texts(t, fresh.state)) {
		t.Errorf("it came back as %v %v", entries(t, fresh.state), texts(t, fresh.state))
	}
	if second := back(fresh.state, &manifest{}); !maps.Equal(texts(t, first), texts(t, second)) {
		t.Errorf("the second export is %v, the first was %v", texts(t, second), texts(t, first))
	}
}

// change changes an entry of a state directory as a daemon does.
func (w *world) change(t *testing.T, key string, f func(*sessions.Entry) sessions.Change) {
	t.Helper()
	s, err := store.Open(t.Context(), w.state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.UpdateSession(t.Context(), sessions.Ref{AgentID: "main", Key: key}, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
		return f(e), nil
	}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) line(t *testing.T, name, line string) {
	t.Helper()
	s, err := store.Open(t.Context(), w.state, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Transcripts().Append(t.Context(), sessions.File{AgentID: "main", Name: name}, []byte(line)); err != nil {
		t.Fatal(err)
	}
}

// A later run follows the source, and keeps what went on here.
func TestSessionsAgain(t *testing.T) {
	w := newWorld(t)
	index := func(more string) string {
		return `{"agent:main:a":{"sessionId":"a","updatedAt":1` + more + `},"agent:main:b":{"sessionId":"b","updatedAt":1` + more + `},
			"agent:main:c":{"sessionId":"c","updatedAt":1},"agent:main:d":{"sessionId":"d","updatedAt":1}}`
	}
	w.write(t, map[string]string{mainDir + "sessions.json": index("")})
	for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
		w.write(t, map[string]string{mainDir + n + ".jsonl": `"` + n + "\"\n"})
	}
	w.bring(t)

	// Here b, c and f went on; there a and b did, c was put aside, d was removed, e was written anew.
	w.line(t, "b.jsonl", `"here"`)
	w.line(t, "f.jsonl", `"here"`)
	for _, key := range []string{"agent:main:b", "agent:main:c"} {
		w.change(t, key, func(e *sessions.Entry) sessions.Change { e.Label = "here"; return sessions.Change{} })
	}
	w.write(t, map[string]string{
		mainDir + "sessions.json": strings.Replace(index(`,"label":"there"`), `,"agent:main:d":{"sessionId":"d","updatedAt":1}`, "", 1),
		mainDir + "a.jsonl":       "\"a\"\n\"there\"\n", mainDir + "b.jsonl": "\"b\"\n\"there\"\n", mainDir + "e.jsonl": "\"anew\"\n",
	})
	if err := os.Rename(filepath.Join(w.source, mainDir+"d.jsonl"), filepath.Join(w.source, mainDir+"d.jsonl.deleted.2026-01-01T00-00-00.000Z")); err != nil {
		t.Fatal(err)
	}
	rep := w.bring(t)
	if got, want := entries(t, w.state), map[string]string{
		"agent:main:a": `{"sessionId":"a","updatedAt":1,"label":"there"}`, "agent:main:b": `{"sessionId":"b","updatedAt":1,"label":"here"}`,
		"agent:main:c": `{"sessionId":"c","updatedAt":1,"label":"here"}`,
	}; !maps.Equal(got, want) {
		t.Errorf("entries are %v", got)
	}
	if got, want := texts(t, w.state), map[string]string{
		mainDir + "a.jsonl": "\"a\"\n\"there\"\n", mainDir + "b.jsonl": "\"b\"\n\"here\"\n", mainDir + "c.jsonl": "\"c\"\n",
		mainDir + "d.jsonl.deleted.2026-01-01T00-00-00.000Z": "\"d\"\n", mainDir + "e.jsonl": "\"anew\"\n", mainDir + "f.jsonl": "\"f\"\n\"here\"\n",
	}; !maps.Equal(got, want) {
		t.Errorf("files are %v", got)
	}
	if why := told(t, rep, mainDir+"b.jsonl").Why; !strings.Contains(why, "both places") {
		t.Errorf("of b it says %q", why)
	}
	if f := told(t, rep, mainDir+"f.jsonl"); f.Outcome != Kept || !strings.Contains(f.Why, "went on since") {
		t.Errorf("of f it says %+v", f)
	}
	if f := told(t, rep, "agents/main/sessions/sessions.json agent:main:b"); f.Outcome != Kept || !strings.Contains(f.Why, "both places") {
		t.Errorf("of entry b it says %+v", f)
	}

	// What was reset or deleted here does not come back.
	w.change(t, "agent:main:a", func(*sessions.Entry) sessions.Change {
		return sessions.Change{Delete: true, Move: &sessions.Move{From: sessions.File{AgentID: "main", Name: "a.jsonl"}, To: "a.jsonl.deleted.x"}}
	})
	rep = w.bring(t)
	if _, ok := entries(t, w.state)["agent:main:a"]; ok {
		t.Error("a deleted session came back")
	}
	if _, ok := texts(t, w.state)[mainDir+"a.jsonl"]; ok || told(t, rep, mainDir+"a.jsonl").Outcome != Kept {
		t.Error("a deleted transcript came back")
	}

	// A source that was cleared takes nothing away.
	if err := os.RemoveAll(filepath.Join(w.source, agentsDir)); err != nil {
		t.Fatal(err)
	}
	before := texts(t, w.state)
	rep = w.bring(t)
	if f := told(t, rep, "main/agent:main:c"); f.Outcome != Kept {
		t.Errorf("of c it says %+v", f)
	}
	if len(entries(t, w.state)) != 2 || !maps.Equal(before, texts(t, w.state)) {
		t.Errorf("of a cleared source is left %v", entries(t, w.state))
	}
}
