package sessions

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
)

const (
	// firstPass is when sessions are looked after for the first time, passEvery how often after that.
	firstPass = time.Minute
	passEvery = time.Hour
	// passSessions bounds the sessions that one pass removes; the next goes on.
	passSessions = 1000
)

// Pass is what one pass of session.maintenance found or did (sessions-chat.md §2).
type Pass struct {
	// Old are sessions that nobody used for session.maintenance.pruneAfter, Surplus those beyond its maxEntries,
	// Large those that go for its maxDiskBytes.
	Old, Surplus, Large int
	// Archives are transcripts that were put aside long ago, or that go for maxDiskBytes.
	Archives int
	// Bytes is what all files take.
	Bytes int64
}

func (p Pass) nothing() bool { return p.Old+p.Surplus+p.Large+p.Archives == 0 }

// Run keeps the sessions within session.maintenance until ctx ends.
func (s *Service) Run(ctx context.Context) {
	next := time.NewTimer(firstPass)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(passEvery)
		}
		p, err := s.Maintain(ctx)
		enforced := s.cfg.Config().Session.Maintenance.Mode == modeEnforce
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.Log.Error("sessions could not be kept within session.maintenance", "error", err)
		case p.nothing():
		case enforced:
			s.cfg.Log.Info("sessions were removed by session.maintenance", "old", p.Old, "surplus", p.Surplus, "large", p.Large, "archives", p.Archives)
		default:
			s.cfg.Log.Warn(`sessions are beyond session.maintenance; "mode: enforce" removes them`, "old", p.Old, "surplus", p.Surplus, "large", p.Large, "archives", p.Archives, "bytes", p.Bytes)
		}
	}
}

const modeEnforce = "enforce"

// Maintain does one pass: with mode warn it only looks. A session that is removed has its transcript put aside, as
// with Delete; the main sessions stay.
func (s *Service) Maintain(ctx context.Context) (Pass, error) {
	c := s.cfg.Config()
	m := c.Session.Maintenance
	enforce := m.Mode == modeEnforce
	var p Pass
	files, err := s.cfg.Transcripts.List(ctx)
	if err != nil {
		return p, err
	}
	sizes := map[File]int64{}
	for _, f := range files {
		p.Bytes += f.Size
		sizes[f.File] = f.Size
	}
	now := s.now()
	// Archives first: they are nobody's any more.
	slices.SortFunc(files, func(a, b Found) int { return a.ModTime.Compare(b.ModTime) })
	bytes := p.Bytes
	for _, f := range files {
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		if !archived(f.File.Name) {
			continue
		}
		old := m.ResetArchiveRetention > 0 && now.Sub(f.ModTime) > m.ResetArchiveRetention
		if !old && !tooLarge(m, p.Bytes, bytes) {
			continue
		}
		if enforce {
			if err := s.cfg.Transcripts.Remove(f.File); err != nil {
				return p, err
			}
		}
		p.Archives++
		bytes -= f.Size
	}
	keep := map[string]int{} // sessions of an agent, the newest first
	type victim struct {
		row   *Row
		count *int
	}
	var victims []victim
	var rest []*Row
	for _, row := range s.rows() {
		if mainSession(c, row.Ref) {
			continue
		}
		keep[row.Ref.AgentID]++
		switch {
		case m.PruneAfter > 0 && now.Sub(row.Entry.UpdatedAt) > m.PruneAfter:
			victims = append(victims, victim{row, &p.Old})
		case m.MaxEntries > 0 && keep[row.Ref.AgentID] > m.MaxEntries:
			victims = append(victims, victim{row, &p.Surplus})
		default:
			rest = append(rest, row)
		}
	}
	slices.Reverse(victims) // the oldest first
	slices.Reverse(rest)
	for _, v := range victims {
		bytes -= sizes[FileOf(v.row.Ref.AgentID, v.row.Entry)]
	}
	for _, row := range rest {
		size := sizes[FileOf(row.Ref.AgentID, row.Entry)]
		if size > 0 && tooLarge(m, p.Bytes, bytes) {
			victims = append(victims, victim{row, &p.Large})
			bytes -= size
		}
	}
	removed := 0
	for _, v := range victims {
		if !enforce {
			*v.count++
			continue
		}
		if removed++; removed > passSessions {
			break
		}
		gone, err := s.prune(ctx, v.row, v.count == &p.Large)
		if err != nil {
			return p, err
		}
		if gone {
			*v.count++
		}
	}
	return p, nil
}

// tooLarge reports whether something is to go: from more than MaxDiskBytes down to HighWaterBytes.
func tooLarge(m config.SessionMaintenance, all, left int64) bool {
	return m.MaxDiskBytes > 0 && all > m.MaxDiskBytes && left > m.HighWaterBytes
}

// archived reports whether a file is a transcript that was put aside.
func archived(name string) bool {
	_, after, ok := strings.Cut(name, ".jsonl.")
	for _, why := range []Reason{ReasonReset, ReasonDeleted, ReasonBak} {
		if ok && strings.HasPrefix(after, string(why)+".") {
			return true
		}
	}
	return false
}

// mainSession reports whether a session is one that cannot be deleted.
func mainSession(c *config.Config, r Ref) bool {
	return r.Key == GlobalKey || r.Key == MainKey(c) || r.Key == agentMain(r.AgentID)
}

// prune removes a session that has not changed since it was chosen. To make room the transcript goes for good.
func (s *Service) prune(ctx context.Context, chosen *Row, room bool) (bool, error) {
	r := chosen.Ref
	if row, ok := s.row(r); !ok || row != chosen {
		return false, nil
	}
	if err := s.quiet(ctx, r); errors.Is(err, ErrActive) {
		return false, nil // it is used
	} else if err != nil {
		return false, err
	}
	defer s.lock(r)()
	e, exists, err := s.cfg.Store.Session(r)
	if err != nil || !exists || !e.UpdatedAt.Equal(chosen.Entry.UpdatedAt) {
		return false, err
	}
	move, err := s.aside(FileOf(r.AgentID, e), ReasonDeleted)
	if err != nil {
		return false, err
	}
	if err := s.remove(ctx, r, move); err != nil {
		return false, err
	}
	if room && move != nil {
		return true, s.cfg.Transcripts.Remove(File{r.AgentID, move.To})
	}
	return true, nil
}
