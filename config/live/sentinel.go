package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/config"
)

// sentinelName is the note to the daemon after a restart, in the frozen format (control-plane.md §4).
const sentinelName = "restart-sentinel.json"

// maxSentinel bounds what is read of a note, in bytes.
const maxSentinel = 1 << 20

// Sentinel says to the daemon after a restart why there was one.
type Sentinel struct {
	// Kind is config-apply, config-patch, update or restart; Status is ok, error or skipped.
	Kind, Status string
	At           time.Time
	// SessionKey is whom to tell, "" for the main session.
	SessionKey string
	// Message is what whoever asked wants said, nil for nothing.
	Message *string
	// Hint says what to do when it did not go well; nil for nothing.
	Hint *string
	// Mode is what asked for the restart, Root the directory of the program; "" when unknown.
	Mode, Root string
}

// Payload is the note as clients are shown it.
func (s Sentinel) Payload() map[string]any {
	stats := map[string]any{"mode": s.Mode}
	if s.Root != "" {
		stats["root"] = s.Root
	}
	out := map[string]any{
		"kind": s.Kind, "status": s.Status, "ts": s.At.UnixMilli(), "message": s.Message, "doctorHint": s.Hint, "stats": stats,
	}
	if s.SessionKey != "" {
		out["sessionKey"] = s.SessionKey
	}
	return out
}

// Text is what the session is told.
func (s Sentinel) Text() string {
	text := fmt.Sprintf("Gateway restart %s %s (%s)", s.Kind, s.Status, s.Mode)
	if s.Message != nil && *s.Message != "" {
		text += "\n" + *s.Message
	}
	return text
}

// writeSentinel keeps a note on disk and returns where.
func writeSentinel(stateDir string, s Sentinel) (string, error) {
	text, err := json.MarshalIndent(map[string]any{"version": 1, "payload": s.Payload()}, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(stateDir, sentinelName)
	return path, config.WriteFileAtomic(path, append(text, '\n'), 0o600)
}

// TakeSentinel reads the note of before the restart and removes it; ok is false when there is none. One
// that cannot be understood is removed too.
func TakeSentinel(stateDir string) (s Sentinel, ok bool, err error) {
	path := filepath.Join(stateDir, sentinelName)
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Sentinel{}, false, nil
	}
	if err != nil {
		return Sentinel{}, false, err
	}
	var text []byte
	if st.Mode().IsRegular() && st.Size() <= maxSentinel {
		if text, err = os.ReadFile(path); err != nil {
			return Sentinel{}, false, err
		}
	}
	if err := os.Remove(path); err != nil {
		return Sentinel{}, false, err
	}
	var f struct {
		Version int
		Payload struct {
			Kind, Status, SessionKey string
			TS                       float64
			Message, DoctorHint      *string
			Stats                    struct{ Mode, Root string }
		}
	}
	if err := json.Unmarshal(text, &f); err != nil || f.Version != 1 || f.Payload.Kind == "" {
		return Sentinel{}, false, fmt.Errorf("%s was not understood and is removed", path)
	}
	p := f.Payload
	return Sentinel{
		Kind: p.Kind, Status: p.Status, At: time.UnixMilli(int64(p.TS)), SessionKey: p.SessionKey, Message: p.Message, Hint: p.DoctorHint,
		Mode: p.Stats.Mode, Root: p.Stats.Root,
	}, true, nil
}
