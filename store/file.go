package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/hanzoai/hanzod/errs"
)

const (
	fileName = "hanzod.db"
	newName  = "hanzod.db.new"

	// fileLockTimeout is how long bbolt tries its own lock. Ours is held, so only a tool that looks
	// into the file can have it, such as Examine, which is waited for.
	fileLockTimeout = examineTime + time.Second
)

// boltOptions are those of every open. The free list is not written but found again when opening,
// which makes commits smaller.
func boltOptions(noSync bool) *bolt.Options {
	return &bolt.Options{
		Timeout:        fileLockTimeout,
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		NoStatistics:   true,
		NoSync:         noSync,
	}
}

// openFile opens the database of a locked directory, or makes it, and brings it to the schema of
// this program. It returns the schema it found.
func openFile(dir string, noSync bool) (db *bolt.DB, from uint64, err error) {
	path := filepath.Join(dir, fileName)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := createFile(dir); err != nil {
			return nil, 0, cannotOpen(path, fmt.Errorf("making the database: %w", err))
		}
	case err != nil:
		return nil, 0, cannotOpen(path, err)
	default:
		if err := inspect(path, info); err != nil {
			return nil, 0, err
		}
		if info.Mode().Perm()&0o077 != 0 {
			if err := os.Chmod(path, 0o600); err != nil {
				return nil, 0, cannotOpen(path, err)
			}
		}
	}
	db, err = openBolt(path, boltOptions(noSync))
	if err != nil {
		return nil, 0, openError(path, err)
	}
	if from, err = migrate(db); err != nil {
		return nil, 0, errors.Join(openError(path, err), db.Close())
	}
	return db, from, nil
}

// createFile makes an empty database beside its place and moves it there, so that a crash leaves
// none or a whole one.
func createFile(dir string) error {
	tmp, path := filepath.Join(dir, newName), filepath.Join(dir, fileName)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(tmp, boltOptions(false))
	if err != nil {
		return err
	}
	_, err = migrate(db)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// inspect looks at a file before anything may change it: is it whole, is it ours, is it of a
// schema that this program knows. It reads every page, as bbolt does right after when it looks for
// the free ones.
func inspect(path string, info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return foreign(path, "it is not a regular file")
	}
	if info.Size() == 0 {
		return foreign(path, "it is empty")
	}
	o := boltOptions(false)
	o.ReadOnly = true
	db, err := openBolt(path, o)
	if err != nil {
		return openError(path, err)
	}
	var schema, readable uint64
	var known bool
	err = withFaults(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if err := readPages(path, db, tx, nil); err != nil {
				return err
			}
			if schema, known = schemaOf(tx); known && schema > 0 {
				readable = readableBy(tx, schema)
			}
			return nil
		})
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return corrupt(path, err)
	case !known:
		return foreign(path, "it holds something else")
	case readable > uint64(len(migrations)):
		e := ErrNewer.With("path", path, "schema", schema, "known", uint64(len(migrations)))
		return e.WithText(fmt.Sprintf(
			"%s was written by a newer hanzod (schema %d; this one knows %d); install that version again, or restore a backup from before the upgrade",
			path, schema, len(migrations)))
	}
	return nil
}

// readPages reads all pages that the last transaction uses. It ends early with the error of stop, if any.
func readPages(path string, db *bolt.DB, tx *bolt.Tx, stop func() error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("it has %d of %d bytes", info.Size(), tx.Size())
	}
	size := uint64(db.Info().PageSize)
	n := uint64(tx.Size()) / size
	w := &pageWalk{r: f, size: size, n: n, seen: make([]bool, n), stop: stop}
	return w.tree(uint64(tx.Cursor().Bucket().RootPage()), nil, nil, 0)
}

// openBolt opens a file; a panic of bbolt over damaged pages becomes an error.
func openBolt(path string, o *bolt.Options) (db *bolt.DB, err error) {
	err = withFaults(func() (err error) {
		db, err = bolt.Open(path, 0o600, o)
		return err
	})
	return db, err
}

// errDamaged is what makes an error of reading one of a damaged file.
var errDamaged = errors.New("damaged")

// withFaults runs fn; a panic or a fault on memory that a damaged page points to, or that the file
// is too short for, becomes an error.
func withFaults(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return fn()
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return foreign(path, err.Error())
	case errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, errDamaged):
		return corrupt(path, err)
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrOpen.With("path", path).WithText(fmt.Sprintf(
			"%s is locked by a program that is not hanzod; end it and start again", path))
	}
	return cannotOpen(path, err)
}

func cannotOpen(path string, err error) *errs.Error {
	return ErrOpen.With("path", path).WithText("cannot open " + path).Wrap(err)
}

func foreign(path, why string) *errs.Error {
	return ErrForeign.With("path", path).WithText(fmt.Sprintf(
		"%s is no database of hanzod (%s) and was left as it is; move it away, or restore a backup", path, why))
}

func corrupt(path string, err error) *errs.Error {
	return ErrCorrupt.With("path", path).WithText(fmt.Sprintf(
		"%s is damaged and was left as it is; restore a backup, or move it away to start empty", path)).Wrap(err)
}
