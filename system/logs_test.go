package system

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// The end of a log costs what is read of it, however large the log is.
func TestTailOfALargeLog(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no holes here")
	}
	s, _ := newService(t)
	f, err := os.Create(s.cfg.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	// A hole of 1 GB, then lines.
	end := "\n" + strings.Repeat(`{"0":"x","1":"a line of the log"}`+"\n", 30_000)
	if _, err := f.WriteAt([]byte(end), 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]TailIn{
		"the end": {}, "as much as there may be": {Limit: maxTailLines, MaxBytes: maxTailBytes}, "a cursor far back": {Cursor: ptr(7), MaxBytes: maxTailBytes},
	} {
		best := time.Hour
		var out TailOut
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const times = 5
		for range times {
			began := time.Now()
			if out, err = s.TailLogs(t.Context(), identity.Caller{}, in); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(began))
		}
		runtime.ReadMemStats(&after)
		held := (after.TotalAlloc - before.TotalAlloc) / times
		t.Logf("%s: %v, %d lines, %d bytes allocated", name, best, len(out.Lines), held)
		if best > 200*time.Millisecond || len(out.Lines) < tailLines || !out.Truncated || held > 8*maxTailBytes {
			t.Errorf("%s took %v and %d bytes, %d lines", name, best, held, len(out.Lines))
		}
	}
}

func TestTailOfADailyLog(t *testing.T) {
	s, _ := newService(t)
	dir := t.TempDir()
	s.cfg.LogFile = filepath.Join(dir, "openclaw-2026-03-29.log")
	write := func(name, text string, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	tail := func() TailOut {
		t.Helper()
		out, err := s.TailLogs(t.Context(), identity.Caller{}, TailIn{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := tail(); out.File != s.cfg.LogFile || len(out.Lines) != 0 {
		t.Errorf("%+v", out)
	}
	write("openclaw-2026-03-27.log", "old\n", 2*time.Hour)
	write("openclaw-2026-03-28.log", "yesterday\n", time.Hour)
	write("other.log", "newest, and another's\n", 0)
	if out := tail(); !slices.Equal(out.Lines, []string{"yesterday"}) || filepath.Base(out.File) != "openclaw-2026-03-28.log" {
		t.Errorf("%+v", out)
	}
	write("openclaw-2026-03-29.log", "\n", 3*time.Hour)
	if out := tail(); !slices.Equal(out.Lines, []string{""}) || out.File != s.cfg.LogFile {
		t.Errorf("%+v", out)
	}
	// What is no file is not opened.
	s.cfg.LogFile = dir
	if _, err := s.TailLogs(t.Context(), identity.Caller{}, TailIn{}); !errors.Is(err, ErrLogRead) {
		t.Error(err)
	}
}
