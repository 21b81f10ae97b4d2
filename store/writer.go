package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// maxQueued bounds the writes that wait; one more is refused with ErrBusy. At 64 writers on a
	// slow disk the queue holds 64; this many wait only when the disk hangs.
	maxQueued = 4096
	// maxGroup bounds the writes in one transaction, so that the first of them does not wait for
	// thousands of others.
	maxGroup = 512
)

// Where a write stands. Its caller may take it back only while it is queued.
const (
	opQueued int32 = iota
	opTaken
	opAbandoned
)

// op is one write on its way.
type op struct {
	fn    func(*txn) error
	state atomic.Int32
	// err is fn's own; removed says that fn failed after it had changed something, so that the
	// others run again without it.
	err     error
	removed bool
	done    chan error
}

// txn is the transaction that a write sees. It notes whether anything was changed, so that a
// refused write costs no rerun and a group of refusals no commit.
type txn struct {
	tx    *bolt.Tx
	dirty bool
	// head is where the newest row of the audit log is told, limits bound the log.
	head   *auditEnd
	limits AuditLimits
	// newer says that the database may hold what this program does not know.
	newer bool
}

func (t *txn) get(bucket, key []byte) []byte { return t.tx.Bucket(bucket).Get(key) }

func (t *txn) put(bucket, key, value []byte) error {
	t.dirty = true
	b := t.tx.Bucket(bucket)
	if t.newer {
		value = carry(bucket, b.Get(key), value)
	}
	return b.Put(key, value)
}

func (t *txn) delete(bucket, key []byte) error {
	t.dirty = true
	return t.tx.Bucket(bucket).Delete(key)
}

func (t *txn) next(bucket []byte) (uint64, error) {
	t.dirty = true
	return t.tx.Bucket(bucket).NextSequence()
}

// writer makes every commit, in one goroutine.
type writer struct {
	db      *bolt.DB
	onFatal func(error)
	// commit is (*bolt.Tx).Commit; tests put a failing one in its place.
	commit func(*bolt.Tx) error
	// audited hears of the newest row of the audit log once it is on disk; nil when nobody does.
	audited func(auditEnd)
	limits  atomic.Pointer[AuditLimits]
	newer   bool // see txn
	// head is the newest row that the transaction at hand wrote, zero when it wrote none.
	head auditEnd

	mu     sync.Mutex
	wake   sync.Cond
	queue  []*op
	closed bool
	failed error

	stopped chan struct{}
}

func newWriter(db *bolt.DB, limits AuditLimits, newer bool, onFatal func(error)) *writer {
	w := &writer{db: db, onFatal: onFatal, newer: newer, commit: (*bolt.Tx).Commit, stopped: make(chan struct{})}
	limits = limits.orDefault()
	w.limits.Store(&limits)
	w.wake.L = &w.mu
	go w.run()
	return w
}

// close refuses new writes, waits until those that were accepted are answered, and stops the
// goroutine.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.wake.Signal()
	w.mu.Unlock()
	<-w.stopped
}

// do runs fn in a transaction and returns after its commit. fn runs in the writer's goroutine, more
// than once when another write of the same transaction fails. After an error of class errs.Unknown
// it may still be running; after any other it is not, and nothing of it was written.
func (w *writer) do(ctx context.Context, fn func(*txn) error) error {
	if err := ctx.Err(); err != nil {
		return ErrGaveUp.Wrap(err)
	}
	o := &op{fn: fn, done: make(chan error, 1)}
	if err := w.enqueue(o); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
	}
	if o.state.CompareAndSwap(opQueued, opAbandoned) {
		return ErrGaveUp.Wrap(ctx.Err())
	}
	select {
	case err := <-o.done:
		return err
	default:
		return ErrUnknown.Wrap(ctx.Err())
	}
}

func (w *writer) enqueue(o *op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failed != nil:
		return ErrStopped.Wrap(w.failed)
	case w.closed:
		return ErrClosed
	case len(w.queue) >= maxQueued:
		return ErrBusy
	}
	w.queue = append(w.queue, o)
	w.wake.Signal()
	return nil
}

func (w *writer) run() {
	defer close(w.stopped)
	for {
		group, failed := w.take()
		switch {
		case group == nil:
			return
		case failed != nil:
			for _, o := range group {
				o.done <- ErrStopped.Wrap(failed)
			}
		default:
			w.write(group)
			// Those just answered often write again: let them queue up, so that they share the
			// next commit instead of missing it.
			runtime.Gosched()
		}
	}
}

// take waits for writes and returns the next group without those that were taken back; nil when
// the store is closed and nothing waits.
func (w *writer) take() ([]*op, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.queue) == 0 {
			if w.closed {
				return nil, nil
			}
			w.wake.Wait()
		}
		n := min(len(w.queue), maxGroup)
		group := make([]*op, 0, n)
		for _, o := range w.queue[:n] {
			if o.state.CompareAndSwap(opQueued, opTaken) {
				group = append(group, o)
			}
		}
		rest := copy(w.queue, w.queue[n:])
		clear(w.queue[rest:])
		w.queue = w.queue[:rest]
		if len(group) > 0 {
			return group, w.failed
		}
	}
}

// write runs a group in one transaction and answers it.
func (w *writer) write(group []*op) {
	tx, err := w.prepare(group)
	var id int
	if tx != nil {
		id = tx.ID()
		err = guard(func() error { return w.commit(tx) })
		if err != nil {
			// After an error bbolt has rolled back already and this does nothing; after a panic it
			// frees the writer's lock, which closing needs.
			_ = guard(tx.Rollback)
		}
	}
	if err != nil {
		w.fail(group, id, err)
		return
	}
	if tx != nil && w.head.seq != 0 && w.audited != nil {
		w.audited(w.head)
	}
	for _, o := range group {
		o.done <- o.err
	}
	if tx != nil && w.head.seq != 0 && w.audited != nil {
		w.audited(w.head)
	}
}

// prepare returns a transaction in which every write of the group has run or was refused; nil when
// there is nothing to commit.
func (w *writer) prepare(group []*op) (*bolt.Tx, error) {
	for {
		tx, err := w.db.Begin(true)
		if err != nil {
			return nil, err
		}
		w.head = auditEnd{}
		changed, again := false, false
		for _, o := range group {
			if o.removed {
				continue
			}
			t := &txn{tx: tx, head: &w.head, limits: *w.limits.Load(), newer: w.newer}
			o.err = call(o.fn, t)
			if o.err != nil && t.dirty {
				o.removed, again = true, true
				break
			}
			changed = changed || t.dirty
		}
		if !again && changed {
			return tx, nil
		}
		if err := tx.Rollback(); err != nil {
			return nil, err
		}
		if !again {
			return nil, nil
		}
	}
}

// call runs one write. A panic in it fails this write alone.
func call(fn func(*txn) error, t *txn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errs.Wrap(errs.Internal, "the write crashed; nothing was written", fmt.Errorf("%v\n%s", r, debug.Stack()))
		}
	}()
	return fn(t)
}

// guard turns a panic of the database into an error.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the database crashed: %v", r)
		}
	}()
	return fn()
}

// fail answers a group whose commit failed and stops all writing. The id is that of the failed
// transaction, 0 when none began.
func (w *writer) fail(group []*op, id int, cause error) {
	answer := ErrUnknown
	if w.leftNoTrace(id) {
		answer = ErrNotWritten
	}
	err := answer.Wrap(cause)
	w.mu.Lock()
	w.failed = cause
	w.mu.Unlock()
	for _, o := range group {
		if o.removed {
			o.done <- o.err
			continue
		}
		o.done <- err
	}
	if w.onFatal != nil {
		w.onFatal(err)
	}
}

// leftNoTrace reports whether a failed transaction certainly does not exist. A transaction is
// there from the moment its meta page is written, which is the last thing a commit does before the
// last sync. All writes pass the page cache, which readers see: as long as they see the transaction
// before, the meta page was never written, and the next open finds the same.
func (w *writer) leftNoTrace(id int) bool {
	if id == 0 {
		return true
	}
	seen := id
	err := guard(func() error {
		return w.db.View(func(tx *bolt.Tx) error {
			seen = tx.ID()
			return nil
		})
	})
	return err == nil && seen < id
}

// closedErr words what bbolt says about reads after Close.
func closedErr(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}
