package store

import "github.com/hanzoai/hanzod/errs"

// The errors of this package. Fields name the occurrence.
var (
	// ErrLocked has the field "pid" when the holder could be read.
	ErrLocked = errs.Define(errs.Conflict, "store.locked", "another hanzod has the state directory open")
	// ErrOwner has the field "path".
	ErrOwner = errs.Define(errs.Denied, "store.owner", "the state directory belongs to another user")
	// ErrNewer has the fields "path", "schema" and "known".
	ErrNewer = errs.Define(errs.Conflict, "store.newer", "the database was written by a newer hanzod")
	// ErrForeign has the field "path".
	ErrForeign = errs.Define(errs.Conflict, "store.foreign", "the file is no database of hanzod")
	// ErrCorrupt has the field "path".
	ErrCorrupt = errs.Define(errs.Internal, "store.corrupt", "the database is damaged")
	// ErrOpen has the field "path".
	ErrOpen = errs.Define(errs.Unavailable, "store.open", "the database cannot be opened")
	// ErrRecord has the fields "bucket" and "key".
	ErrRecord = errs.Define(errs.Internal, "store.record", "a stored record cannot be read")
	// ErrText: JSON would change the text on its way to the disk, so it is not taken.
	ErrText = errs.Define(errs.Invalid, "store.text", "the text is not valid UTF-8")
	// ErrKey refuses an empty id, or one too long for a key.
	ErrKey = errs.Define(errs.Invalid, "store.key", "the id is empty or too long")

	ErrBusy    = errs.Define(errs.Exhausted, "store.busy", "too many writes are waiting for the disk; nothing was written; try again")
	ErrClosed  = errs.Define(errs.Unavailable, "store.closed", "the store is closed; nothing was written")
	ErrGaveUp  = errs.Define(errs.Deadline, "store.gave_up", "the call ended before its write began; nothing was written")
	ErrStopped = errs.Define(errs.Unavailable, "store.stopped", "the store stopped after a write error; nothing was written; free disk space or replace the disk, and restart hanzod")
	// ErrNotWritten is a failed commit that certainly left no trace.
	ErrNotWritten = errs.Define(errs.Unavailable, "store.not_written", "the write failed and nothing was written; free disk space or replace the disk, and restart hanzod")
	// ErrUnknown is a failed commit, or one its caller did not wait for.
	ErrUnknown = errs.Define(errs.Unknown, "store.unknown", "outcome unknown: the write may or may not be on disk; look before you repeat it")
)
