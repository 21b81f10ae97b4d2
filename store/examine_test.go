package store_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

func noLimit(int64) error { return nil }

// TestExamine: it changes nothing, makes nothing, and leaves alone what a daemon has open.
func TestExamine(t *testing.T) {
	dir := t.TempDir()
	if _, err := store.Examine(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	s := storetest.OpenDir(t, dir)
	if err := s.AppendAudit(t.Context(), store.AuditRow{At: time.Now(), Kind: "test"}); err != nil {
		t.Fatal(err)
	}
	own, err := s.Examine(t.Context())
	if err != nil || len(own.Faults) > 0 || !own.Pages || !own.Records || own.Schema != own.Known || own.AuditHead == nil || own.AuditHead.Seq != 1 {
		t.Errorf("by itself: %+v %v", own, err)
	}
	if _, err := store.Examine(t.Context(), dir); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside a daemon: %v", err)
	}
	if h, err := store.WhoHolds(dir); err != nil || !h.Held || h.PID != os.Getpid() {
		t.Errorf("%+v %v", h, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if h, err := store.WhoHolds(dir); err != nil || h.Held {
		t.Errorf("%+v %v", h, err)
	}
	path := filepath.Join(dir, store.FileName)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := store.Examine(t.Context(), dir)
	if err != nil || len(e.Faults) > 0 || !e.Records || e.Anchor == nil || *e.Anchor != *e.AuditHead {
		t.Errorf("%+v %v", e, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("it changed the file (%v)", err)
	}
	if now, err := os.ReadDir(dir); err != nil || len(now) != len(names) {
		t.Errorf("it made files: %v %v", now, err)
	}
	// Time that is over leaves it at what was read.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if e, err := store.Examine(gone, dir); err != nil || !e.Partial || len(e.Faults) > 0 {
		t.Errorf("%+v %v", e, err)
	}
	// A daemon that starts meanwhile waits for it.
	var both sync.WaitGroup
	for range 20 {
		both.Go(func() {
			if _, err := store.Examine(t.Context(), dir); err != nil && !errors.Is(err, store.ErrLocked) {
				t.Error(err)
			}
			if _, err := store.WhoHolds(dir); err != nil {
				t.Error(err)
			}
		})
	}
	for range 5 {
		if err := storetest.OpenDir(t, dir).Close(); err != nil {
			t.Error(err)
		}
	}
	both.Wait()
}

// TestSnapshot: a copy is a whole database, of a store in use and of one that is closed, and its size is told
// before.
// TestWhoHoldsBesideOthers: those who look at a free lock do not take each other for a daemon.
func TestWhoHoldsBesideOthers(t *testing.T) {
	dir := t.TempDir()
	if err := storetest.OpenDir(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for range 1000 {
				if h, err := store.WhoHolds(dir); err != nil || h.Held {
					t.Errorf("%+v, %v", h, err)
					return
				}
			}
		})
	}
	looking.Wait()
}

func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	s := storetest.OpenDir(t, dir)
	row := store.AuditRow{At: time.Now(), Kind: "test", Detail: strings.Repeat("x", 10_000)}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.AppendAudit(context.Background(), row); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		copyOf := t.TempDir()
		f, err := os.OpenFile(filepath.Join(copyOf, store.FileName), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		var told int64
		snap, err := s.Snapshot(t.Context(), f, func(n int64) error { told = n; return nil })
		if err := errors.Join(err, f.Close()); err != nil || told != snap.Size {
			t.Fatalf("%v, told %d of %d", err, told, snap.Size)
		}
		e, err := store.Examine(t.Context(), copyOf)
		if err != nil || len(e.Faults) > 0 || !e.Records || e.Size != snap.Size || e.AuditHead.String() != snap.AuditHead {
			t.Errorf("%+v %v", e, err)
		}
	}
	full := errors.New("full")
	if _, err := s.Snapshot(t.Context(), &bytes.Buffer{}, func(int64) error { return full }); !errors.Is(err, full) {
		t.Errorf("without room: %v", err)
	}
	if _, err := store.SnapshotDir(t.Context(), dir, &bytes.Buffer{}, noLimit); !errors.Is(err, store.ErrLocked) {
		t.Errorf("of a store in use: %v", err)
	}
	close(stop)
	writer.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if snap, err := store.SnapshotDir(t.Context(), dir, &b, noLimit); err != nil || int64(b.Len()) != snap.Size {
		t.Errorf("of a closed one: %d bytes, %v", b.Len(), err)
	}
	if _, err := store.SnapshotDir(t.Context(), t.TempDir(), &b, noLimit); err == nil {
		t.Error("of nothing")
	}
}

// TestSnapshotOlder: a database of an older schema is copied as it is, so that a backup before an upgrade is one.
func TestSnapshotOlder(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("testdata", "schema1.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, store.FileName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := store.Examine(t.Context(), dir); err != nil || e.Schema != 1 || len(e.Faults) > 0 {
		t.Errorf("%+v %v", e, err)
	}
	var b bytes.Buffer
	snap, err := store.SnapshotDir(t.Context(), dir, &b, noLimit)
	if err != nil || snap.Schema != 1 || snap.AuditHead != "" {
		t.Errorf("%+v %v", snap, err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, store.FileName)); err != nil || !bytes.Equal(now, text) {
		t.Errorf("it was changed (%v)", err)
	}
}
