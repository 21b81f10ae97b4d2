package migrate

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/store"
)

// TestLarge moves 10,000 sessions with 2 GB of transcripts, which may take a minute: in, again, and out. It says the
// times, and runs with LARGE=1 only; LARGE=n moves n thousand sessions.
func TestLarge(t *testing.T) {
	thousands, err := strconv.Atoi(os.Getenv("LARGE"))
	if err != nil || thousands < 1 {
		t.Skip("LARGE=1 moves 10,000 sessions with 2 GB of transcripts")
	}
	if thousands == 1 {
		thousands = 10
	}
	w := newWorld(t)
	w.many(t, 4, thousands*250, 206) // of 200 KiB each
	limit := time.Duration(thousands) * 6 * time.Second

	// What is held in memory is watched from beside.
	var most uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		var m runtime.MemStats
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	timed := func(what string, f func() (Report, error)) Report {
		t.Helper()
		began := time.Now()
		rep, err := f()
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		var bytes int64
		for _, f := range rep.Findings {
			bytes += f.Bytes
		}
		t.Logf("%s: %v, %d MB written", what, took.Round(10*time.Millisecond), bytes>>20)
		if took > limit {
			t.Errorf("%s took %v, want %v at most", what, took, limit)
		}
		return rep
	}
	rep := timed("import", func() (Report, error) { return move(t, w.source, w.state, &w.noted, w.cfg, false, importSessions) })
	if n := outcomes(rep); n[Imported] != 2*thousands*1000 || n[Fault]+n[Kept]+n[Left] > 0 {
		t.Errorf("%+v", rep.Findings)
	}
	rep = timed("import again", func() (Report, error) { return move(t, w.source, w.state, &w.noted, w.cfg, false, importSessions) })
	if n := outcomes(rep); n[Unchanged] != 2*thousands*1000 || n[Imported] > 0 {
		t.Errorf("%+v", rep.Findings)
	}
	if err := os.RemoveAll(w.source); err != nil { // room for the copy
		t.Fatal(err)
	}
	out := t.TempDir()
	timed("export", func() (Report, error) { return move(t, w.state, out, &manifest{}, w.cfg, false, exportSessions) })
	close(stop)
	<-stopped
	st, err := os.Stat(filepath.Join(w.state, store.FileName))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("at most %d MB of memory; the database has %d MB", most>>20, st.Size()>>20)
	if most > 256<<20 {
		t.Errorf("%d MB of memory were in use", most>>20)
	}
}
