package store_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/store/storetest"
)

func TestTranscriptsAreListed(t *testing.T) {
	st := storetest.Open(t)
	if got, err := st.Transcripts().List(t.Context()); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	root := filepath.Join(st.Dir(), "agents")
	for _, name := range []string{
		"main/sessions/a.jsonl", "main/sessions/a.jsonl.reset.2026-01-01T00-00-00.000Z", "ops/sessions/b.jsonl",
		"main/sessions/sessions.json", "main/sessions/.hidden.jsonl", "main/sessions/sub/c.jsonl", "main/d.jsonl", "b d/sessions/e.jsonl",
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if runtime.GOOS != "windows" { // links need a privilege there
		for _, link := range []string{"main/sessions/link.jsonl", "other"} {
			if err := os.Symlink(filepath.Join(root, "ops"), filepath.Join(root, filepath.FromSlash(link))); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := st.Transcripts().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got {
		names = append(names, f.AgentID+"/"+f.Name)
		if f.Size != 5 || f.ModTime.IsZero() {
			t.Errorf("%+v", f)
		}
	}
	slices.Sort(names)
	if want := []string{"main/a.jsonl", "main/a.jsonl.reset.2026-01-01T00-00-00.000Z", "ops/b.jsonl"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Transcripts().List(ctx); errs.ClassOf(err) != errs.Unavailable {
		t.Error(err)
	}
}
