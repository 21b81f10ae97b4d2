package store

import (
	"context"
	"os"
	"time"
)

// Held is the lock of a state directory whose store is closed. It keeps other processes out between two
// stores of one process.
type Held struct{ lock *dirLock }

// Hold takes the lock of a state directory, which it makes when it is missing, for what has to be done
// before its store is opened. It fails as Open does.
func Hold(ctx context.Context, dir string) (*Held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cannotOpen(dir, err)
	}
	lock, err := lockDir(dir, time.Now())
	if err != nil {
		return nil, err
	}
	return &Held{lock: lock}, nil
}

// CloseHeld is Close that keeps the lock, for Options.Held of the store that follows. After a Close there
// is none to keep, and it returns nil.
func (s *Store) CloseHeld() (*Held, error) {
	lock := s.lock.Swap(nil)
	err := s.Close()
	if lock == nil {
		return nil, err
	}
	return &Held{lock: lock}, err
}

// Release frees the lock. It may be called on nil and after Open has taken it over.
func (h *Held) Release() error {
	if h == nil || h.lock == nil {
		return nil
	}
	lock := h.lock
	h.lock = nil
	return lock.release()
}

// take is the lock for a store that opens: the held one, or the directory's own.
func (o Options) take(dir string) (*dirLock, error) {
	if h := o.Held; h != nil && h.lock != nil {
		lock := h.lock
		h.lock = nil
		if err := lock.sign(o.Now()); err != nil {
			_ = lock.release()
			return nil, cannotOpen(dir, err)
		}
		return lock, nil
	}
	return lockDir(dir, o.Now())
}
