package live

import (
	"bytes"
	"context"
	"maps"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// ErrBase is what Rewrite returns where the file does not hold as it is, or would not afterwards.
var ErrBase = errs.Define(errs.Conflict, "config.base", "the configuration file does not hold, so it cannot be changed")

// maxRewrites is how often a change is made again because somebody else wrote in between.
const maxRewrites = 5

// Rewrite changes the file for a part of the daemon that owns some of its keys: change gets the text and
// what it says, and returns the new text; it is called again when somebody else wrote in between. What
// comes of it is checked, noted in the audit log as what, written, and put into force as far as that goes
// without a restart. It returns what the file says then. Errors of change are passed on, and nothing is
// written then. Errors: ErrPending, ErrRead, ErrBase, ErrNotWritten.
func (s *Service) Rewrite(
	ctx context.Context, c identity.Caller, what string, change func(text []byte, now *config.Config) ([]byte, error),
) (*config.Config, error) {
	if err := may(c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.PendingUntil().IsZero() {
		return nil, ErrPending
	}
	for range maxRewrites {
		now, err := config.Load(s.load)
		if err != nil {
			return nil, baseFault(err)
		}
		text, err := change(now.Source().Text, now)
		if err != nil || bytes.Equal(text, now.Source().Text) {
			return now, err
		}
		next, err := s.checked(text, now)
		if err != nil {
			return nil, err
		}
		if err := s.cfg.Record(ctx, Change{At: s.cfg.Now(), By: c.Subject(), What: what}); err != nil {
			return nil, ErrNotWritten.Wrap(err)
		}
		before, exists, err := readText(s.load.Path)
		if err != nil {
			return nil, ErrRead.Wrap(err)
		}
		if exists != now.Exists || !bytes.Equal(before, now.Source().Text) {
			continue
		}
		if err := replaceFile(s.load.Path, next.Source().Text); err != nil {
			return nil, ErrNotWritten.WithText(ErrNotWritten.Text + ": " + err.Error()).Wrap(err)
		}
		s.reloadLocked(ctx)
		return next, nil
	}
	return nil, ErrNotWritten.WithText("somebody else keeps changing the configuration file; try again")
}

// checked stamps a text and reads it as the file would be.
func (s *Service) checked(text []byte, now *config.Config) (*config.Config, error) {
	for _, stamp := range []struct{ key, value string }{
		{"lastTouchedVersion", s.cfg.Version}, {"lastTouchedAt", s.cfg.Now().UTC().Format(time.RFC3339)},
	} {
		stamped, err := json5.Set(text, []string{"meta", stamp.key}, stamp.value)
		if err != nil {
			return nil, ErrBase.Wrap(err)
		}
		text = stamped
	}
	o := s.load
	o.Source = &config.Source{Exists: true, Text: text, Includes: maps.Clone(now.Source().Includes)}
	next, err := config.Load(o)
	if err != nil {
		return nil, baseFault(err)
	}
	return next, nil
}

func baseFault(err error) error {
	what, _ := Reason(err)
	return ErrBase.WithText(ErrBase.Text + ": " + what).Wrap(err)
}
