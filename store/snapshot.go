package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/errs"
)

// FileName is the name of the database in a state directory.
const FileName = fileName

// snapshotTime bounds the copying of the database. Pages that are freed meanwhile are not used again, so the
// file grows, and a write that has to enlarge the map of the file waits.
const snapshotTime = 30 * time.Second

// ErrSlowCopy is a snapshot that took longer than the store goes without reusing pages.
var ErrSlowCopy = errs.Define(errs.Unavailable, "store.slow_copy", "the database could not be copied within 30 s: the disk is too slow or too busy; try again, or stop hanzod first")

// Snapshot says what was copied.
type Snapshot struct {
	Size   int64
	Schema uint64
	// AuditHead is the mark of the newest row of the audit log, "" in a schema without a chain.
	AuditHead string
}

// Snapshot writes the database as the last commit left it, while the store goes on. room is told the size in
// bytes before; its error ends it. The writer must be as fast as a local disk: after 30 s it fails with
// ErrSlowCopy.
func (s *Store) Snapshot(ctx context.Context, w io.Writer, room func(int64) error) (Snapshot, error) {
	out, err := snapshot(ctx, s.db, w, room)
	return out, closedErr(err)
}

// SnapshotDir does the same with a directory that no daemon uses, under its lock and without migrating it. It
// fails as Open does.
func SnapshotDir(ctx context.Context, dir string, w io.Writer, room func(int64) error) (out Snapshot, err error) {
	path := filepath.Join(dir, fileName)
	info, err := os.Stat(path) // before the lock, which makes a file
	if err != nil {
		return out, cannotOpen(path, err)
	}
	if err := checkOwner(dir); err != nil {
		return out, err
	}
	lock, err := lockDir(dir, time.Now())
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := inspect(path, info); err != nil {
		return out, err
	}
	o := boltOptions(false)
	o.ReadOnly = true
	db, err := openBolt(path, o)
	if err != nil {
		return out, openError(path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return snapshot(ctx, db, w, room)
}

func snapshot(ctx context.Context, db *bolt.DB, w io.Writer, room func(int64) error) (out Snapshot, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTime, ErrSlowCopy)
	defer cancel()
	var closed error
	err = withFaults(func() error {
		closed = db.View(func(tx *bolt.Tx) error {
			out.Size = tx.Size()
			if err := room(out.Size); err != nil {
				return err
			}
			out.Schema, _ = schemaOf(tx)
			mark, known, err := headOf(tx)
			if err != nil {
				return err
			}
			if known {
				out.AuditHead = mark.String()
			}
			_, err = tx.WriteTo(untilDone{ctx, w})
			return err
		})
		return nil
	})
	return out, errors.Join(err, closed)
}

// untilDone is a writer that a context ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // of one call
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.w.Write(p)
}
