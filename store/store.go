package store

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/store/internal/testhook"
)

// Options are what a store needs from outside. Their zero values are fit for use.
type Options struct {
	// Now is the clock, time.Now when nil. It is asked when the store opens, never in a transaction.
	Now func() time.Time
	// Log hears of migrations and of the write error that stopped the store; nothing when nil.
	Log *slog.Logger
	// OnFatal is called once, after the first failed commit, when its callers have been answered.
	// The daemon has to stop then. It runs in a goroutine of the store: it must not wait for Close. Where both
	// the database and the transcripts fail it is called for each.
	OnFatal func(error)
	// Audit bounds the audit log.
	Audit AuditLimits
	// Held is the lock of the directory, where this process has it already.
	Held *Held
}

// Store is the open state of the daemon. Its methods may be called concurrently.
//
// Reads see the last commit. Methods that write return when the write is on disk; see the package
// comment for their errors.
type Store struct {
	dir   string
	db    *bolt.DB
	lock  atomic.Pointer[dirLock] // nil once it was handed on
	w     *writer
	head  *auditHead
	close func() error

	transcripts *Transcripts
}

var (
	_ nodes.Store     = (*Store)(nil)
	_ approvals.Store = (*Store)(nil)
	_ identity.Store  = (*Store)(nil)
)

// Open opens the store in a directory and makes both when they are missing. Of several processes
// one gets it; the others fail at once with ErrLocked. A file that is damaged, not ours or of a
// newer hanzod is left as it is (ErrCorrupt, ErrForeign, ErrNewer). The context limits nothing
// later.
func Open(ctx context.Context, dir string, opts Options) (*Store, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cannotOpen(dir, err)
	}
	lock, err := opts.take(dir)
	if err != nil {
		return nil, err
	}
	db, from, err := openFile(dir, testhook.NoSync(ctx))
	if err != nil {
		return nil, errors.Join(err, lock.release())
	}
	switch to := uint64(len(migrations)); {
	case from < to:
		opts.Log.Info("store migrated", "path", filepath.Join(dir, fileName), "from", from, "to", to)
	case from > to:
		opts.Log.Warn("the database was written by a newer hanzod; what this one does not know stays as it is",
			"path", filepath.Join(dir, fileName), "schema", from, "known", to)
	}
	s := &Store{dir: dir, db: db}
	s.lock.Store(lock)
	onFatal := func(path string) func(error) {
		return func(err error) {
			opts.Log.Error("store stopped", "path", path, "err", err)
			if opts.OnFatal != nil {
				opts.OnFatal(err)
			}
		}
	}
	// What a crash left of the transcripts is done before anything reads them.
	s.transcripts, err = openTranscripts(dir, testhook.NoSync(ctx), opts.Log, onFatal(filepath.Join(dir, journalDir)))
	if err != nil {
		return nil, errors.Join(err, db.Close(), lock.release())
	}
	s.w = newWriter(db, opts.Audit, from > uint64(len(migrations)), onFatal(filepath.Join(dir, fileName)))
	s.close = sync.OnceValue(func() error {
		terr := s.transcripts.close()
		s.w.close()
		err := errors.Join(terr, s.head.close(), s.db.Close())
		if lock := s.lock.Swap(nil); lock != nil {
			err = errors.Join(err, lock.release())
		}
		return err
	})
	s.startAudit(context.WithoutCancel(ctx), opts)
	if err := s.finishMoves(context.WithoutCancel(ctx)); err != nil {
		return nil, errors.Join(cannotOpen(dir, err), s.Close())
	}
	return s, nil
}

// Dir is the state directory.
func (s *Store) Dir() string { return s.dir }

// Close finishes the writes that were accepted, waits for running reads, closes the file and frees
// the lock. Later calls of any method fail with ErrClosed; a second Close returns what the first
// did.
func (s *Store) Close() error { return s.close() }
