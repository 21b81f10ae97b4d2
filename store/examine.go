package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/hanzoai/hanzod/approvals/audit"
)

const (
	// examineTime bounds an examination: a daemon that starts meanwhile waits for it, and one that runs
	// reuses no page that it reads.
	examineTime = 3 * time.Second
	// lookTime is how long a file that a daemon has open is tried.
	lookTime = 50 * time.Millisecond
)

// Exam is what an examination found.
type Exam struct {
	// Path is the file, Size how long it is in bytes, InUse how much of that holds something.
	Path  string
	Size  int64
	InUse int64
	// Schema is that of the file, Readable the oldest whose program may open it, Known the newest of this one.
	Schema, Readable, Known uint64
	// Faults are what is wrong, at most maxComplaints; empty means that what was read is whole.
	Faults []error
	// Partial says that time ended it before all was read.
	Partial bool
	// Pages says that all pages are whole, Records that all records were read too.
	Pages, Records bool
	// AuditHead is the newest row of the audit log, nil in a schema without a chain; Anchor is the one that
	// the head file beside the database names, nil when there is none.
	AuditHead, Anchor *audit.Mark
}

// Examine reads the database of a directory that no daemon has open, and changes nothing: pages, records,
// indexes and the chain of the audit log. It fails with ErrLocked when a daemon has it open, and with an error
// that is fs.ErrNotExist when there is none. What is wrong with the file is in the result.
func Examine(ctx context.Context, dir string) (Exam, error) {
	path := filepath.Join(dir, fileName)
	out := Exam{Path: path, Known: uint64(len(migrations))}
	info, err := os.Lstat(path)
	if err != nil {
		return out, err
	}
	out.Size = info.Size()
	if !info.Mode().IsRegular() {
		out.Faults = []error{foreign(path, "it is not a regular file")}
		return out, nil
	}
	if out.Size == 0 {
		out.Faults = []error{foreign(path, "it is empty")}
		return out, nil
	}
	o := boltOptions(false)
	o.ReadOnly, o.Timeout = true, lookTime
	db, err := openBolt(path, o)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return out, ErrLocked
	case errors.Is(err, os.ErrPermission):
		return out, err
	case err != nil:
		out.Faults = []error{openError(path, err)}
		return out, nil
	}
	err = examine(ctx, db, &out)
	out.Anchor = readHead(dir)
	return out, errors.Join(err, db.Close())
}

// readHead is the mark in the head file of a directory.
func readHead(dir string) *audit.Mark {
	f, err := os.Open(filepath.Join(dir, headName))
	if err != nil {
		return nil
	}
	h := auditHead{f: f}
	defer func() { _ = h.close() }()
	return h.read()
}

// Examine does the same in the store that is open, on its last commit, while it goes on.
func (s *Store) Examine(ctx context.Context) (Exam, error) {
	path := filepath.Join(s.dir, fileName)
	out := Exam{Path: path, Known: uint64(len(migrations))}
	info, err := os.Stat(path)
	if err != nil {
		return out, err
	}
	out.Size = info.Size()
	return out, closedErr(examine(ctx, s.db, &out))
}

var errNoTime = errors.New("no time left")

func examine(ctx context.Context, db *bolt.DB, out *Exam) error {
	deadline := time.Now().Add(examineTime)
	stop := func() error {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errNoTime
		}
		return nil
	}
	fault := func(err error) {
		if err != nil && len(out.Faults) < maxComplaints {
			out.Faults = append(out.Faults, err)
		}
	}
	var closed error
	err := withFaults(func() error {
		closed = db.View(func(tx *bolt.Tx) error {
			out.InUse = tx.Size()
			if err := readPages(out.Path, db, tx, stop); err != nil {
				return corrupt(out.Path, err)
			}
			out.Pages = true
			known := false
			if out.Schema, known = schemaOf(tx); !known {
				return foreign(out.Path, "it holds something else")
			}
			if out.Schema == 0 {
				return nil // empty
			}
			if mark, ok, err := headOf(tx); ok && err == nil {
				out.AuditHead = &mark
			}
			out.Readable = readableBy(tx, out.Schema)
			if out.Schema < out.Known || out.Readable > out.Known {
				return nil // its records are read by the program of that schema
			}
			for _, name := range buckets {
				if tx.Bucket(name) == nil {
					return corrupt(out.Path, fmt.Errorf("the bucket %s is missing", name))
				}
			}
			if err := checkRecords(tx, fault, stop); err != nil {
				return err
			}
			out.Records = true
			return nil
		})
		return nil
	})
	switch err = errors.Join(err, closed); {
	case errors.Is(err, errNoTime):
		out.Partial = true
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return err
	default:
		fault(err)
	}
	return nil
}

// Holder is who holds the lock of a state directory.
type Holder struct {
	// Held says that somebody does, as the kernel knows it. PID and Started are what that process wrote; 0
	// and "" when it has not yet.
	Held    bool
	PID     int
	Started string
}

// WhoHolds looks at the lock of a directory. It makes no file; a directory without one is not held.
func WhoHolds(dir string) (Holder, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Holder{}, nil
	}
	if err != nil {
		return Holder{}, err
	}
	defer f.Close()                   // which frees it again
	switch err := tryLock(f, true); { // shared: two who look do not take each other for a daemon
	case err == nil:
		return Holder{}, nil
	case !errors.Is(err, errHeld):
		return Holder{}, err
	}
	h := readHolder(f)
	return Holder{Held: true, PID: h.pid, Started: h.started}, nil
}

// Lock takes the lock of a state directory, which has to be there, for what is done to it without a daemon.
// It fails with ErrLocked when a daemon has it, and with ErrOwner when it is another user's.
func Lock(dir string) (release func() error, err error) {
	if err := checkOwner(dir); err != nil {
		return nil, err
	}
	l, err := lockDir(dir, time.Now())
	if err != nil {
		return nil, err
	}
	return l.release, nil
}

// headOf is the newest row of the audit log in a transaction; known is false in a schema without a chain.
func headOf(tx *bolt.Tx) (m audit.Mark, known bool, err error) {
	if tx.Bucket(bucketAuditMeta) == nil {
		return m, false, nil
	}
	end, err := auditEndAt(tx, keyAuditHead)
	return end.mark(), err == nil, err
}
