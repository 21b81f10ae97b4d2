package sessions

import (
	"context"
	"errors"
	"io/fs"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// compactLines is how many lines sessions.compact keeps when nothing is said (frozen).
	compactLines = 400
)

// ResetIn begins a session anew.
type ResetIn struct {
	Key string
	// Reason is new or reset, for hooks of agents.
	Reason string
}

// ResetOut is the session after it.
type ResetOut struct {
	Ref   Ref
	Entry Entry
}

// Reset gives a session a new transcript and puts the old one aside; it makes the session when there is none
// (sessions-chat.md §3).
func (s *Service) Reset(ctx context.Context, _ identity.Caller, in ResetIn) (ResetOut, error) {
	r, err := s.find(in.Key)
	if err != nil {
		return ResetOut{}, err
	}
	if err := s.quiet(ctx, r); err != nil {
		return ResetOut{}, err
	}
	defer s.lock(r)()
	old, exists, err := s.cfg.Store.Session(r)
	if err != nil {
		return ResetOut{}, err
	}
	next := s.fresh(r, old)
	release, err := s.reserve(r, next.Label)
	if err != nil {
		return ResetOut{}, err
	}
	defer release()
	var move *Move
	if exists {
		if move, err = s.aside(FileOf(r.AgentID, old), ReasonReset); err != nil {
			return ResetOut{}, err
		}
	}
	e, err := s.update(ctx, r, func(e *Entry, _ bool) (Change, error) {
		*e = next
		return Change{Move: move}, nil
	})
	return ResetOut{r, e}, err
}

// fresh is what is left of an entry after a reset.
func (s *Service) fresh(r Ref, old Entry) Entry {
	zero, no, yes := int64(0), false, true
	m := modelOf(&old, s.cfg.Models.Default(r.AgentID))
	e := Entry{
		SessionID: s.cfg.NewID(), UpdatedAt: s.now(), SystemSent: &no, AbortedLastRun: &no, InputTokens: &zero, OutputTokens: &zero,
		TotalTokens: &zero, TotalTokensFresh: &yes, ModelProvider: m.Provider, Model: m.Name,
		ThinkingLevel: old.ThinkingLevel, VerboseLevel: old.VerboseLevel, ReasoningLevel: old.ReasoningLevel, ResponseUsage: old.ResponseUsage,
		ContextTokens: old.ContextTokens, SendPolicy: old.SendPolicy, Label: old.Label, Origin: old.Origin, LastChannel: old.LastChannel, LastTo: old.LastTo,
	}
	if v, ok := old.Rest["skillsSnapshot"]; ok {
		e.Rest = map[string]Raw{"skillsSnapshot": v}
	}
	return e
}

// quiet ends what an agent does in a session. The caller does not hold the lock of the session: what ends still
// writes its results.
func (s *Service) quiet(ctx context.Context, r Ref) error {
	row, ok := s.row(r)
	if !ok || s.cfg.Runner == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, activeTime)
	defer cancel()
	if !s.cfg.Runner.Stop(ctx, r, row.Entry.SessionID) {
		return ErrActive.With("key", r.Key)
	}
	return nil
}

// aside is the move that puts a transcript aside, nil when there is none.
func (s *Service) aside(f File, why Reason) (*Move, error) {
	t, err := s.cfg.Transcripts.Open(f)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrFileName):
		return nil, nil //nolint:nilnil // nil is no move
	case err != nil:
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	to, err := s.cfg.Transcripts.ArchiveName(f, why, s.now())
	if err != nil {
		return nil, err
	}
	return &Move{From: f, To: to}, nil
}

// DeleteIn removes a session.
type DeleteIn struct {
	Key string
	// KeepTranscript leaves its transcript where it is.
	KeepTranscript bool
}

// DeleteOut says what was done.
type DeleteOut struct {
	Ref Ref
	// Deleted is false when there was no session.
	Deleted bool
	// Archived are the files that the transcript was moved to.
	Archived []string
}

// Delete removes a session and puts its transcript aside (sessions-chat.md §3). The main session stays.
func (s *Service) Delete(ctx context.Context, c identity.Caller, in DeleteIn) (DeleteOut, error) {
	r, err := s.find(in.Key)
	if err != nil {
		return DeleteOut{}, err
	}
	if err := notWebchat(c, "delete"); err != nil {
		return DeleteOut{}, err
	}
	if r.Key == MainKey(s.cfg.Config()) {
		return DeleteOut{}, ErrMainSession.With("key", r.Key)
	}
	if err := s.quiet(ctx, r); err != nil {
		return DeleteOut{}, err
	}
	defer s.lock(r)()
	old, exists, err := s.cfg.Store.Session(r)
	if err != nil {
		return DeleteOut{}, err
	}
	out := DeleteOut{Ref: r, Deleted: exists}
	if !exists {
		return out, nil
	}
	var move *Move
	if !in.KeepTranscript {
		if move, err = s.aside(FileOf(r.AgentID, old), ReasonDeleted); err != nil {
			return DeleteOut{}, err
		}
	}
	if err := s.remove(ctx, r, move); err != nil {
		return DeleteOut{}, err
	}
	if move != nil {
		out.Archived = []string{s.cfg.Transcripts.Path(File{r.AgentID, move.To})}
	}
	return out, nil
}

func (s *Service) remove(ctx context.Context, r Ref, move *Move) error {
	_, err := s.update(ctx, r, func(*Entry, bool) (Change, error) {
		return Change{Delete: true, Move: move}, nil
	})
	return err
}

// CompactIn cuts a transcript.
type CompactIn struct {
	Key string
	// MaxLines is how many lines stay, 400 when it is 0.
	MaxLines int
}

// The reasons why a transcript was not cut.
const (
	NoSessionID  = "no sessionId"
	NoTranscript = "no transcript"
)

// CompactOut says what was done.
type CompactOut struct {
	Ref       Ref
	Compacted bool
	// Reason says why nothing was to be cut; "" when the transcript is short enough.
	Reason string
	// Archived is where the whole transcript is now.
	Archived string
	Kept     int
}

// Compact keeps the last lines of a transcript, and the whole of it beside it (sessions-chat.md §3).
func (s *Service) Compact(ctx context.Context, _ identity.Caller, in CompactIn) (CompactOut, error) {
	r, err := s.find(in.Key)
	if err != nil {
		return CompactOut{}, err
	}
	lines := in.MaxLines
	if lines <= 0 {
		lines = compactLines
	}
	defer s.lock(r)()
	e, exists, err := s.cfg.Store.Session(r)
	if err != nil {
		return CompactOut{}, err
	}
	out := CompactOut{Ref: r, Reason: NoSessionID}
	if !exists {
		return out, nil
	}
	f := FileOf(r.AgentID, e)
	with, kept, err := s.cfg.Transcripts.Shorten(ctx, f, lines)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrFileName):
		out.Reason = NoTranscript
		return out, nil
	case err != nil:
		return CompactOut{}, err
	}
	out.Reason, out.Kept = "", kept
	if with == "" {
		return out, nil
	}
	to, err := s.cfg.Transcripts.ArchiveName(f, ReasonBak, s.now())
	if err != nil {
		return CompactOut{}, errors.Join(err, s.cfg.Transcripts.Discard(f, with))
	}
	_, err = s.update(ctx, r, func(e *Entry, _ bool) (Change, error) {
		e.InputTokens, e.OutputTokens, e.TotalTokens, e.TotalTokensFresh = nil, nil, nil, nil
		e.UpdatedAt = s.now()
		return Change{Move: &Move{From: f, To: to, With: with}}, nil
	})
	if err != nil {
		if !errors.Is(err, ErrMove) {
			_ = s.cfg.Transcripts.Discard(f, with) // the next start removes it too
		}
		return CompactOut{}, err
	}
	out.Compacted, out.Archived = true, s.cfg.Transcripts.Path(File{r.AgentID, to})
	return out, nil
}
