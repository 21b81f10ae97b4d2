package live

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/config"
)

const (
	// undoName is the file of a change that undoes itself unless it is confirmed, in the state directory.
	undoName = "config.undo.json"
	// MinConfirm and MaxConfirm bound the time that a change waits to be confirmed. The shortest leaves
	// room for a restart and for a client to come back.
	MinConfirm = 5 * time.Second
	MaxConfirm = time.Hour
)

// Pending is a change that undoes itself unless it is confirmed in time.
type Pending struct {
	// Path is the configuration file.
	Path string
	// Existed and Before are the file before the change, BeforeHash the hash of Before; Hash is that of
	// the file with the change.
	Existed          bool
	Before           []byte
	BeforeHash, Hash string
	// By is who made the change, as the daemon verified it.
	By string
	At time.Time
	// Window is how long there is for an answer. It begins anew when the change is in force, which Begun
	// says, because a restart takes its time; Deadline is when it ends.
	Window   time.Duration
	Begun    bool
	Deadline time.Time
}

type undoFile struct {
	Format  int
	Pending Pending
}

func undoPath(stateDir string) string { return filepath.Join(stateDir, undoName) }

// LoadPending reads the change that waits for an answer; ok is false when there is none. A file that
// cannot be read is an error, and stays.
func LoadPending(stateDir string) (p Pending, ok bool, err error) {
	var f undoFile
	err = readState(undoPath(stateDir), &f)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // the state directory is a file: the store says so
		return Pending{}, false, nil
	case err != nil:
		return Pending{}, false, fmt.Errorf("what would undo the last change of the configuration cannot be read: %w; remove the file when the change is to stay", err)
	case f.Format != 1:
		return Pending{}, false, fmt.Errorf("%s was written by another version", undoPath(stateDir))
	}
	return f.Pending, true, nil
}

func savePending(stateDir string, p Pending) error {
	text, err := json.Marshal(undoFile{1, p})
	if err != nil {
		return err
	}
	return config.WriteFileAtomic(undoPath(stateDir), text, 0o600)
}

// dropPending forgets the change: it stays, or it is undone.
func dropPending(stateDir string) error {
	if err := os.Remove(undoPath(stateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(stateDir)
}

// undo puts the file back and forgets the change, in this order, so that a crash between them is mended
// by the next start.
func undo(stateDir string, p Pending) error {
	now, exists, err := readText(p.Path)
	if err != nil {
		return fmt.Errorf("undo the change of the configuration: %w", err)
	}
	switch {
	case exists == p.Existed && hashOf(now) == p.BeforeHash:
	case !p.Existed:
		err = removeFile(p.Path)
	default:
		err = replaceFile(p.Path, p.Before)
	}
	if err != nil {
		return fmt.Errorf("undo the change of the configuration: %w", err)
	}
	return dropPending(stateDir)
}

// Recover is called before a daemon reads its configuration: a change whose time is up is undone, and one
// that was never written is forgotten. It returns what happened, "" when nothing did.
func Recover(stateDir string, now time.Time) (what string, err error) {
	p, ok, err := LoadPending(stateDir)
	if err != nil || !ok {
		return "", err
	}
	text, exists, err := readText(p.Path)
	if err != nil {
		return "", err
	}
	if exists == p.Existed && hashOf(text) == p.BeforeHash {
		return "", dropPending(stateDir)
	}
	if p.left(now) > 0 {
		return "", nil
	}
	if err := undo(stateDir, p); err != nil {
		return "", err
	}
	return fmt.Sprintf("the change of %s by %s was not confirmed within %s and is undone", p.At.Local().Format(time.DateTime), p.By, p.Window), nil
}

// left is how long there is for an answer. A clock that was set back does not lengthen it beyond what a
// restart and the window take together.
func (p Pending) left(now time.Time) time.Duration {
	return min(p.Deadline.Sub(now), p.Window+MaxRestartDelay+restartCooldown+maxHold)
}

// FailedStart undoes a change that waits for an answer because the daemon could not start with it.
func FailedStart(stateDir string) (undone bool, err error) {
	p, ok, err := LoadPending(stateDir)
	if err != nil || !ok {
		return false, err
	}
	return true, undo(stateDir, p)
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
