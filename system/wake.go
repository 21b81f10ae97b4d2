package system

import (
	"context"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// MaxQueuedEvents is how many system events wait for one session; past it the oldest go. An
	// agent reads all of them at its next turn, so there is no use in more than it can look at.
	MaxQueuedEvents = 20
	// maxEventText is the longest text of a system event in bytes.
	maxEventText = 256 << 10
)

// QueuedEvent is a text that waits for the next turn of a session's agent: something happened
// outside that it should know of.
type QueuedEvent struct {
	Text string
	// Source says who reported it, for people.
	Source string
	At     time.Time
}

// EventQueue keeps system events on disk.
type EventQueue interface {
	// QueueEvent appends to the events of a session and drops the oldest above keep. An event with
	// the text of the last one is not queued again.
	QueueEvent(ctx context.Context, session string, e QueuedEvent, keep int) error
	// QueuedEvents returns the events of a session, oldest first.
	QueuedEvents(session string) ([]QueuedEvent, error)
}

// WakeMode says when an agent looks at what woke it.
type WakeMode string

// The modes, with their legacy names.
const (
	WakeNow           WakeMode = "now"
	WakeNextHeartbeat WakeMode = "next-heartbeat"
)

// WakeIn is the argument of Wake.
type WakeIn struct {
	Text string
	Mode WakeMode
	// Source says who reported it, for people.
	Source string
}

// reason is what a heartbeat that this asks for is because of.
func (in WakeIn) reason() string {
	if name, ok := strings.CutPrefix(in.Source, "hook"); ok {
		if name = strings.TrimSpace(name); name == "" {
			name = "wake"
		}
		return "hook:" + name
	}
	return "wake"
}

// WakeOut is the result of Wake.
type WakeOut struct{ Mode WakeMode }

// The errors of Wake.
var (
	ErrWakeText    = errs.Define(errs.Invalid, "system.wake_text", "text required")
	ErrWakeTooLong = errs.Define(errs.Invalid, "system.wake_too_long", "the text is longer than 262144 bytes")
)

// Wake queues a text for the main session and asks for a heartbeat. It returns when the text is on
// disk; with mode now a heartbeat runs as soon as it can, with the other one at its usual time
// (protocol.md §1.7, control-plane.md §3). The caller's right to do so is the door's to check.
func (s *Service) Wake(ctx context.Context, _ identity.Caller, in WakeIn) (WakeOut, error) {
	text := strings.TrimSpace(in.Text)
	switch {
	case text == "":
		return WakeOut{}, ErrWakeText
	case len(text) > maxEventText:
		return WakeOut{}, ErrWakeTooLong
	}
	if in.Mode != WakeNextHeartbeat {
		in.Mode = WakeNow
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	e := QueuedEvent{Text: text, Source: in.Source, At: s.cfg.Now()}
	if err := s.cfg.Queue.QueueEvent(ctx, s.cfg.MainSession(), e, MaxQueuedEvents); err != nil {
		return WakeOut{}, err
	}
	s.note("")
	if in.Mode == WakeNow && s.cfg.Beat != nil {
		s.cfg.Beat(in.reason())
	}
	return WakeOut{Mode: in.Mode}, nil
}
