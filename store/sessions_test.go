package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store/journal"
)

// filled sets every field of a value.
func filled(v reflect.Value, n *int64) {
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
		filled(v.Elem(), n)
	case reflect.Slice:
		v.SetBytes(fmt.Appendf(nil, `{"raw":%d}`, *n))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]sessions.Raw{"other": sessions.Raw(fmt.Sprintf("[%d]", *n)), "b": sessions.Raw("null")}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.UnixMilli(1_700_000_000_000 + *n).UTC()))
			return
		}
		for _, f := range v.Fields() {
			filled(f, n)
		}
	}
}

// An entry comes back with every field that it had.
func TestSessionEntry(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var whole sessions.Entry
	n := int64(0)
	filled(reflect.ValueOf(&whole).Elem(), &n)
	r := sessions.Ref{AgentID: "main", Key: "agent:main:x"}
	put := func(e sessions.Entry) {
		t.Helper()
		got, err := s.UpdateSession(t.Context(), r, func(old *sessions.Entry, _ bool) (sessions.Change, error) {
			*old = e
			return sessions.Change{}, nil
		})
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v, %v", got, err)
		}
		got, ok, err := s.Session(r)
		if err != nil || !ok || !reflect.DeepEqual(got, e) {
			t.Errorf("stored %+v\ngot %+v, %v", e, got, err)
		}
		light := e
		light.Rest = nil
		listed := 0
		err = s.Sessions(func(ref sessions.Ref, got sessions.Entry) {
			listed++
			if ref != r || !reflect.DeepEqual(got, light) {
				t.Errorf("listed %v %+v", ref, got)
			}
		})
		if err != nil || listed != 1 {
			t.Errorf("%d listed, %v", listed, err)
		}
		check(t, s)
	}
	put(whole)
	for i := range reflect.TypeFor[sessions.Entry]().NumField() { // each field alone, and its going
		name := reflect.TypeFor[sessions.Entry]().Field(i).Name
		if name == "SessionID" {
			continue
		}
		one := sessions.Entry{SessionID: "id"}
		reflect.ValueOf(&one).Elem().Field(i).Set(reflect.ValueOf(whole).Field(i))
		put(one)
	}
	_, err := s.UpdateSession(t.Context(), r, func(e *sessions.Entry, exists bool) (sessions.Change, error) {
		if !exists || e.SessionID != "id" {
			t.Errorf("%+v %v", e, exists)
		}
		return sessions.Change{Delete: true}, nil
	})
	if _, ok, _ := s.Session(r); err != nil || ok {
		t.Errorf("%v, still there %v", err, ok)
	}
	check(t, s)
	for _, bad := range []sessions.Ref{{}, {AgentID: "main"}, {Key: "x"}, {AgentID: "a\x00", Key: "x"}, {AgentID: "a", Key: strings.Repeat("x", maxID)}} {
		if _, _, err := s.Session(bad); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := s.UpdateSession(t.Context(), r, func(*sessions.Entry, bool) (sessions.Change, error) { return sessions.Change{}, nil }); err == nil {
		t.Error("an entry without an id was stored")
	}
	refused := errors.New("no")
	if _, err := s.UpdateSession(t.Context(), r, func(*sessions.Entry, bool) (sessions.Change, error) { return sessions.Change{}, refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}

type oneModel struct{}

func (oneModel) Default(string) sessions.Model { return sessions.Model{Provider: "p", Name: "m"} }
func (oneModel) Choose(_, text string) (sessions.Model, error) {
	return sessions.Model{Provider: "p", Name: text}, nil
}
func (oneModel) ContextTokens() int64 { return 1 }

// serviceOf is the sessions of a store, with a clock that goes on by a second with each look.
func serviceOf(tb testing.TB, s *Store) *sessions.Service {
	tb.Helper()
	cfg := &config.Config{StateDir: s.Dir()}
	cfg.Session.Scope = "per-sender"
	clock := start
	svc, err := sessions.New(sessions.Settings{
		Store: s, Transcripts: s.Transcripts(), Models: oneModel{}, Config: func() *config.Config { return cfg },
		Bus: events.New(time.Now), Now: func() time.Time { clock = clock.Add(time.Second); return clock },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return svc
}

// agree demands that index and logs agree: no move is open, nothing half made is left, every file that the
// journal speaks of is whole.
func agree(tb testing.TB, s *Store) {
	tb.Helper()
	check(tb, s)
	if err := s.view(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketSessionMoves).Cursor().First(); k != nil {
			tb.Error("a move is left open")
		}
		return nil
	}); err != nil {
		tb.Error(err)
	}
	err := filepath.WalkDir(filepath.Join(s.Dir(), "agents"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(path, ".lock") || strings.HasSuffix(path, newSuffix) || strings.HasSuffix(path, ".tmp") {
			tb.Errorf("%s is left over", path)
		}
		text, err := os.ReadFile(path)
		if err == nil && len(text) > 0 && text[len(text)-1] != '\n' {
			tb.Errorf("%s ends with %q", path, text[max(0, len(text)-20):])
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Error(err)
	}
	if err := s.transcripts.log.Settle(); err != nil {
		tb.Error(err)
	}
	if paths, _ := journal.Segments(filepath.Join(s.Dir(), journalDir)); len(paths) != 0 {
		tb.Errorf("the journal holds %v", paths)
	}
}

// filesOf are the names in the sessions directory of an agent, with the number of their lines.
func filesOf(tb testing.TB, dir string) map[string]int {
	tb.Helper()
	out := map[string]int{}
	all, err := os.ReadDir(filepath.Join(dir, "agents", "main", "sessions"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	for _, e := range all {
		text, err := os.ReadFile(filepath.Join(dir, "agents", "main", "sessions", e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		out[e.Name()] = strings.Count(string(text), "\n")
	}
	return out
}

// TestSessionCrash kills the daemon at each step of a reset, a deletion and a compaction: after the next start
// either all of it has happened or nothing (R16).
func TestSessionCrash(t *testing.T) {
	const key = "agent:main:x"
	ref := sessions.Ref{AgentID: "main", Key: key}
	for name, c := range map[string]struct {
		do    func(context.Context, *sessions.Service) error
		steps []string
		// done looks at a state after it.
		done func(e sessions.Entry, ok bool, files map[string]int, oldID string) bool
	}{
		"reset": {
			do: func(ctx context.Context, s *sessions.Service) error {
				_, err := s.Reset(ctx, identity.Internal(), sessions.ResetIn{Key: key})
				return err
			},
			steps: []string{"committed", "rename", "renamed", "moved"},
			done: func(e sessions.Entry, ok bool, files map[string]int, oldID string) bool {
				return ok && e.SessionID != oldID && len(files) == 1 && archive(files, oldID+".jsonl.reset.") == 11
			},
		},
		"delete": {
			do: func(ctx context.Context, s *sessions.Service) error {
				_, err := s.Delete(ctx, identity.Internal(), sessions.DeleteIn{Key: key})
				return err
			},
			steps: []string{"committed", "rename", "renamed", "moved"},
			done: func(_ sessions.Entry, ok bool, files map[string]int, oldID string) bool {
				return !ok && len(files) == 1 && archive(files, oldID+".jsonl.deleted.") == 11
			},
		},
		"compact": {
			do: func(ctx context.Context, s *sessions.Service) error {
				out, err := s.Compact(ctx, identity.Internal(), sessions.CompactIn{Key: key, MaxLines: 4})
				if err == nil && (!out.Compacted || out.Kept != 4) {
					err = fmt.Errorf("%+v", out)
				}
				return err
			},
			steps: []string{"committed", "rename", "renamed", "replaced", "moved"},
			done: func(e sessions.Entry, ok bool, files map[string]int, oldID string) bool {
				return ok && e.SessionID == oldID && e.TotalTokens == nil && len(files) == 2 &&
					archive(files, oldID+".jsonl.bak.") == 11 && files[oldID+".jsonl"] == 4
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			svc := serviceOf(t, s)
			total := int64(7)
			e, err := svc.Update(t.Context(), ref, func(e *sessions.Entry, _ bool) error {
				e.SessionID, e.UpdatedAt, e.TotalTokens = "old-id", start, &total
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				if _, err := svc.Inject(t.Context(), identity.Internal(), sessions.InjectIn{Key: key, Text: fmt.Sprint("note ", i)}); err != nil {
					t.Fatal(err)
				}
			}
			states := []string{killed(t, dir)}
			var steps []string
			testStep = func(step string) {
				steps = append(steps, step)
				states = append(states, killed(t, dir))
			}
			defer func() { testStep = func(string) {} }()
			if err := c.do(t.Context(), svc); err != nil {
				t.Fatal(err)
			}
			testStep = func(string) {}
			if !slices.Equal(steps, c.steps) {
				t.Fatalf("steps %v", steps)
			}
			states = append(states, killed(t, dir))
			for i, state := range states {
				for range 2 { // and a second start changes nothing
					s := open(t, state)
					agree(t, s)
					got, ok, err := s.Session(ref)
					if err != nil {
						t.Fatal(err)
					}
					files := filesOf(t, state)
					before := ok && got.SessionID == e.SessionID && got.TotalTokens != nil && len(files) == 1 && files["old-id.jsonl"] == 11
					if after := c.done(got, ok, files, "old-id"); before != (i == 0) || after != (i > 0) {
						t.Errorf("killed after step %d %v: entry %v %+v, files %v", i, append([]string{"start"}, steps...)[:min(i+1, len(steps)+1)], ok, got, files)
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func archive(files map[string]int, prefix string) int {
	for name, lines := range files {
		if strings.HasPrefix(name, prefix) {
			return lines
		}
	}
	return -1
}

// What Shorten wrote and no change used goes with the next start.
func TestSessionSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	f := fileOf("a")
	for range 5 {
		appendTo(t, s, f, "{}")
	}
	if with, _, err := s.Transcripts().Shorten(t.Context(), f, 2); err != nil || with == "" {
		t.Fatal(with, err)
	}
	left := killed(t, dir)
	agree(t, open(t, left))
	if files := filesOf(t, left); len(files) != 1 || files[f.Name] != 5 {
		t.Error(files)
	}
}

// A transcript that cannot be put aside leaves the change in force, says so, and is put aside at the next start.
func TestMoveFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ref := sessions.Ref{AgentID: "main", Key: "agent:main:x"}
	appendTo(t, s, fileOf("a"), "{}")
	testStep = func(step string) {
		if step == "committed" {
			_ = s.transcripts.root.Close()
		}
	}
	defer func() { testStep = func(string) {} }()
	_, err := s.UpdateSession(t.Context(), ref, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
		e.SessionID = "b"
		return sessions.Change{Move: &sessions.Move{From: fileOf("a"), To: "a.jsonl.reset.x"}}, nil
	})
	testStep = func(string) {}
	if !errors.Is(err, sessions.ErrMove) {
		t.Fatal(err)
	}
	left := killed(t, dir)
	again := open(t, left)
	agree(t, again)
	if e, ok, err := again.Session(ref); err != nil || !ok || e.SessionID != "b" {
		t.Errorf("%+v, %v", e, err)
	}
	if files := filesOf(t, left); len(files) != 1 || files["a.jsonl.reset.x"] != 1 {
		t.Error(files)
	}
	s.transcripts.root, _ = os.OpenRoot(dir)
}

// Entries that are moved in bulk are all there, or none of them.
func TestReplaceSessions(t *testing.T) {
	s := open(t, t.TempDir())
	var whole sessions.Entry
	n := int64(0)
	filled(reflect.ValueOf(&whole).Elem(), &n)
	all := func() map[sessions.Ref]sessions.Entry {
		t.Helper()
		out := map[sessions.Ref]sessions.Entry{}
		if err := s.WholeSessions(func(it sessions.Stored) error {
			out[it.Ref] = it.Entry
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	var put []sessions.Stored
	want := map[sessions.Ref]sessions.Entry{}
	for i := range 600 {
		it := sessions.Stored{Ref: sessions.Ref{AgentID: fmt.Sprint("a", i%3), Key: fmt.Sprint("agent:x:", i)}, Entry: whole}
		it.Entry.SessionID = fmt.Sprint(i)
		put, want[it.Ref] = append(put, it), it.Entry
	}
	if err := s.ReplaceSessions(t.Context(), put, nil); err != nil || !reflect.DeepEqual(all(), want) {
		t.Fatalf("%d of %d are there, %v", len(all()), len(want), err)
	}
	bad := sessions.Stored{Ref: sessions.Ref{AgentID: "a", Key: "new"}, Entry: sessions.Entry{SessionID: "x", Label: "\xff"}}
	good := sessions.Stored{Ref: sessions.Ref{AgentID: "a", Key: "good"}, Entry: sessions.Entry{SessionID: "x"}}
	if err := s.ReplaceSessions(t.Context(), []sessions.Stored{good, bad}, []sessions.Ref{put[0].Ref}); err == nil || !reflect.DeepEqual(all(), want) {
		t.Errorf("a part of what was refused is there: %v", err)
	}
	put[1].Entry.Rest = nil
	want[put[1].Ref] = put[1].Entry
	delete(want, put[0].Ref)
	if err := s.ReplaceSessions(t.Context(), put[1:2], []sessions.Ref{put[0].Ref, {AgentID: "a", Key: "none"}}); err != nil || !reflect.DeepEqual(all(), want) {
		t.Errorf("%d of %d are there, %v", len(all()), len(want), err)
	}
	stop := errors.New("enough")
	if err := s.WholeSessions(func(sessions.Stored) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the walk went on: %v", err)
	}
	if err := s.ReplaceSessions(t.Context(), nil, []sessions.Ref{{Key: "k"}}); !errors.Is(err, ErrKey) {
		t.Errorf("a name without an agent: %v", err)
	}
}
