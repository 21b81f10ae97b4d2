package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/store/internal/testhook"
)

// hold keeps the writer busy until the returned function is called, so that other writes queue up.
func hold(tb testing.TB, s *Store) (release func()) {
	tb.Helper()
	running, wait, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		over <- s.w.do(context.Background(), func(*txn) error {
			close(running)
			<-wait
			return nil
		})
	}()
	<-running
	return sync.OnceFunc(func() {
		close(wait)
		if err := <-over; err != nil {
			tb.Error(err)
		}
	})
}

// until waits for a condition of the writer's fields.
func until(s *Store, cond func(w *writer) bool) {
	for ok := false; !ok; runtime.Gosched() {
		s.w.mu.Lock()
		ok = cond(s.w)
		s.w.mu.Unlock()
	}
}

// queued waits until n writes are in the queue.
func queued(s *Store, n int) {
	until(s, func(w *writer) bool { return len(w.queue) >= n })
}

// commits counts the commits of a store from now on.
func commits(s *Store) *atomic.Int32 {
	var n atomic.Int32
	s.w.commit = func(tx *bolt.Tx) error {
		n.Add(1)
		return tx.Commit()
	}
	return &n
}

func TestWritesShareACommit(t *testing.T) {
	s := open(t, t.TempDir())
	n := commits(s)
	release := hold(t, s)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := s.SetNodeName(context.Background(), fmt.Sprintf("n%d", i), "x"); err != nil {
				t.Error(err)
			}
		})
	}
	queued(s, 100)
	release()
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("100 waiting writes took %d commits, want 1", n.Load())
	}
	n.Store(0)
	for range 3 {
		create(t, s, pending(fmt.Sprint("a", n.Load()), 0))
	}
	if n.Load() != 3 {
		t.Errorf("3 writes one after the other took %d commits, want 3", n.Load())
	}
	check(t, s)
}

// TestRefusalsCostNoCommit: neither do writes that change nothing.
func TestRefusalsCostNoCommit(t *testing.T) {
	s := open(t, t.TempDir())
	create(t, s, pending("a", 0))
	n := commits(s)
	if err := s.CreateApproval(t.Context(), pending("a", 0), row("request", "a")); errs.ClassOf(err) != errs.Exists {
		t.Error(err)
	}
	if _, err := deleteDevice(t.Context(), s, "d"); err != nil {
		t.Error(err)
	}
	if n.Load() != 0 {
		t.Errorf("%d commits", n.Load())
	}
}

// TestOneFailsAlone: a write that fails half way, or crashes, leaves the others of its group whole
// and nothing of its own.
func TestOneFailsAlone(t *testing.T) {
	s := open(t, t.TempDir())
	n := commits(s)
	release := hold(t, s)
	mine := errors.New("mine")
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			key := fmt.Appendf(nil, "n%02d", i)
			value, _ := encode(nodeNameRecord{Name: "x"})
			err := s.w.do(context.Background(), func(t *txn) error {
				if err := t.put(bucketNodeNames, key, value); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return mine
				case 2:
					panic("half way")
				}
				return nil
			})
			switch {
			case i%3 == 0 && err != nil, i%3 == 1 && err != mine,
				i%3 == 2 && (errs.ClassOf(err) != errs.Internal || !strings.Contains(err.Error(), "half way")):
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	queued(s, 30)
	release()
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("%d commits, want 1", n.Load())
	}
	for i := range 30 {
		want := ""
		if i%3 == 0 {
			want = "x"
		}
		if name, err := s.NodeName(fmt.Sprintf("n%02d", i)); name != want || err != nil {
			t.Errorf("n%02d: %q, %v", i, name, err)
		}
	}
	check(t, s)
}

func TestQueueIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	release := hold(t, s)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxQueued {
		wg.Go(func() {
			if err := s.SetNodeName(ctx, "n", "x"); errs.ClassOf(err) != errs.Deadline {
				t.Errorf("taken back: %v", err)
			}
		})
	}
	queued(s, maxQueued)
	err := s.SetNodeName(t.Context(), "n", "y")
	wantClass(t, err, errs.Exhausted)
	wantIs(t, err, ErrBusy)
	cancel()
	wg.Wait()
	release()
	until(s, func(w *writer) bool { return len(w.queue) == 0 })
	if err := s.SetNodeName(t.Context(), "m", "y"); err != nil {
		t.Fatal(err)
	}
	if name, _ := s.NodeName("n"); name != "" {
		t.Errorf("a write that was taken back happened: %q", name)
	}
}

// TestGivenUpInFlight: who does not wait for a write that has begun is told that its outcome is
// unknown; it happens all the same.
func TestGivenUpInFlight(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	finish := make(chan struct{})
	s.w.commit = func(tx *bolt.Tx) error {
		cancel()
		<-finish
		return tx.Commit()
	}
	err := s.SetNodeName(ctx, "n", "x")
	wantClass(t, err, errs.Unknown)
	wantIs(t, err, context.Canceled)
	close(finish)
	if err := s.SetNodeName(t.Context(), "m", "y"); err != nil {
		t.Fatal(err)
	}
	if name, _ := s.NodeName("n"); name != "x" {
		t.Errorf("the write is gone: %q", name)
	}
}

func TestCloseFinishesWhatWaits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	release := hold(t, s)
	var wg sync.WaitGroup
	for i := range maxGroup + 50 {
		wg.Go(func() {
			if err := s.SetNodeName(context.Background(), fmt.Sprintf("n%d", i), "x"); err != nil {
				t.Error(err)
			}
		})
	}
	queued(s, maxGroup+50)
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	until(s, func(w *writer) bool { return w.closed })
	wantIs(t, s.SetNodeName(t.Context(), "late", "x"), ErrClosed)
	release()
	wg.Wait()
	_, err := s.NodeName("n0")
	wantIs(t, err, ErrClosed)
	wantIs(t, s.Check(t.Context()), ErrClosed)
	s = open(t, dir)
	for i := range maxGroup + 50 {
		if name, err := s.NodeName(fmt.Sprintf("n%d", i)); name != "x" || err != nil {
			t.Fatalf("n%d: %q, %v", i, name, err)
		}
	}
}

// TestFailedCommit: a commit that fails is answered with what is known of it, the store refuses all
// later writes, reads go on, and the daemon hears of it once.
func TestFailedCommit(t *testing.T) {
	broken := errors.New("input/output error")
	for name, c := range map[string]struct {
		commit func(*bolt.Tx) error
		want   *errs.Error
		kept   bool
	}{
		"before the pages": {func(tx *bolt.Tx) error { return errors.Join(broken, tx.Rollback()) }, ErrNotWritten, false},
		"crash before":     {func(*bolt.Tx) error { panic(broken) }, ErrNotWritten, false},
		"after the meta page": {func(tx *bolt.Tx) error {
			return errors.Join(tx.Commit(), broken)
		}, ErrUnknown, true},
		"crash after": {func(tx *bolt.Tx) error {
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			panic(broken)
		}, ErrUnknown, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fatal := make(chan error, 9)
			s, err := Open(testhook.WithoutSync(t.Context()), dir, Options{OnFatal: func(err error) { fatal <- err }})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SetNodeName(t.Context(), "before", "x"); err != nil {
				t.Fatal(err)
			}
			s.w.commit = c.commit
			release := hold(t, s)
			var wg sync.WaitGroup
			for i := range maxGroup + 20 {
				wg.Go(func() {
					err := s.SetNodeName(context.Background(), fmt.Sprintf("n%03d", i), "x")
					if !errors.Is(err, c.want) && !errors.Is(err, ErrStopped) {
						t.Errorf("%v, want %v", err, c.want)
					}
					if errors.Is(err, c.want) && (errs.ClassOf(err) != c.want.Class || !strings.Contains(err.Error(), broken.Error())) {
						t.Errorf("%v of class %v", err, errs.ClassOf(err))
					}
				})
			}
			queued(s, maxGroup+20)
			release()
			wg.Wait()
			wantIs(t, <-fatal, c.want)

			err = s.SetNodeName(t.Context(), "after", "x")
			wantIs(t, err, ErrStopped)
			wantClass(t, err, errs.Unavailable)
			if !strings.Contains(err.Error(), "free disk space") || !strings.Contains(err.Error(), broken.Error()) {
				t.Errorf("the text does not help: %v", err)
			}
			if got, err := s.NodeName("before"); got != "x" || err != nil {
				t.Errorf("reading after the failure: %q, %v", got, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(fatal) != 0 {
				t.Error("the daemon heard of it more than once")
			}
			s = open(t, dir)
			check(t, s)
			kept := 0
			for i := range maxGroup + 20 {
				if name, _ := s.NodeName(fmt.Sprintf("n%03d", i)); name != "" {
					kept++
				}
			}
			if want := map[bool]int{true: maxGroup}[c.kept]; kept != want {
				t.Errorf("%d writes are there, want %d", kept, want)
			}
			if name, _ := s.NodeName("after"); name != "" {
				t.Error("a refused write happened")
			}
		})
	}
}

// TestFileGone: a database whose file is closed under it fails like a broken disk.
func TestFileGone(t *testing.T) {
	var files []*os.File
	dir := t.TempDir()
	open(t, dir).Close()
	fatal := make(chan error, 1)
	o := boltOptions(false)
	o.OpenFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, perm)
		files = append(files, f)
		return f, err
	}
	db, err := bolt.Open(dir+"/"+fileName, 0o600, o)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{dir: dir, db: db, w: newWriter(db, AuditLimits{}, false, func(err error) { fatal <- err })}
	create(t, s, pending("a", 0))
	files[0].Close()
	_, err = s.UpdateApproval(t.Context(), "a", decide("denied", "deny", start))
	wantIs(t, err, ErrNotWritten)
	<-fatal
	if a, err := s.Approval("a"); err != nil || a.State != "pending" {
		t.Errorf("%+v, %v", a, err)
	}
	s.w.close()
	_ = db.Close()
	s = open(t, dir)
	if a, err := s.Approval("a"); err != nil || a.State != "pending" {
		t.Errorf("%+v, %v", a, err)
	}
	check(t, s)
}
