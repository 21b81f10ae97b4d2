// Package usage adds up what conversations cost: tokens, prices, messages, tools and answering times, read out of the
// transcripts (control-plane.md §2). Sums of each transcript are kept in memory while the file does not change, and
// reading goes on where it ended when a file has grown.
//
// It imports the leaves, sessions and the format of transcripts, and starts no goroutine. Methods of a Service may be
// called concurrently; scans happen one at a time.
package usage

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/transcript"
)

// The errors of this package.
var (
	// ErrKeyRequired has the field "for": timeseries or logs.
	ErrKeyRequired = errs.Define(errs.Invalid, "usage.key_required", "name the session: its key is required")
	// ErrReference has the field "key".
	ErrReference = errs.Define(errs.Invalid, "usage.reference", "that is no key or id of a session; hanzoctl sessions list shows them")
	// ErrKey has the field "key".
	ErrKey = errs.Define(errs.Invalid, "usage.key", "that is no key of a session; hanzoctl sessions list shows them")
	// ErrNoTranscript has the field "key".
	ErrNoTranscript = errs.Define(errs.NotFound, "usage.no_transcript", "the session has no transcript; it begins with its first message")
)

const (
	// defaultDays is the range when the caller names none (control-plane.md §2; frozen).
	defaultDays = 30
	// maxDays bounds the range, a hundred years.
	maxDays = 36_525

	// defaultLimit is how many sessions are shown unless the caller says otherwise (frozen), maxLimit at most.
	defaultLimit = 50
	maxLimit     = 10_000

	// maxPoints is how many points a series of one session has (frozen).
	maxPoints = 200

	// defaultLogs is how many messages are shown unless the caller says otherwise, maxLogs at most, maxLogText how
	// long each is, in UTF-16 units (frozen).
	defaultLogs = 200
	maxLogs     = 1000
	maxLogText  = 2000
)

// Files are the transcripts of all agents. Its methods may be called concurrently.
type Files interface {
	// List finds what is there now, in any order, what was put aside included.
	List(ctx context.Context) ([]sessions.Found, error)
	// Open opens one; the error is fs.ErrNotExist when it is not there.
	Open(f sessions.File) (sessions.Transcript, error)
	// Path is where it is, for people.
	Path(f sessions.File) string
}

// Index is what is known of sessions.
type Index interface {
	// Sessions hands over every entry, without Rest.
	Sessions(each func(sessions.Ref, sessions.Entry)) error
	// Session returns a whole entry.
	Session(r sessions.Ref) (sessions.Entry, bool, error)
}

// Price is what a model costs, in US dollars for a million tokens.
type Price struct {
	Input, Output, CacheRead, CacheWrite float64
}

func (p Price) of(t Tokens) (c transcript.Cost) {
	c.Input = float64(t.Input) * p.Input / 1e6
	c.Output = float64(t.Output) * p.Output / 1e6
	c.CacheRead = float64(t.CacheRead) * p.CacheRead / 1e6
	c.CacheWrite = float64(t.CacheWrite) * p.CacheWrite / 1e6
	c.Total = c.Input + c.Output + c.CacheRead + c.CacheWrite
	return c
}

// Config is what the service needs.
type Config struct {
	Index Index
	Files Files
	// Current is the configuration in force.
	Current func() *config.Config
	// Price is what a model costs; false when nobody said. Nil is false for all.
	Price func(provider, model string) (Price, bool)
	Now   func() time.Time
	// Zone is the zone of the gateway; nil is that of the machine.
	Zone *time.Location
}

// Service is the usage domain.
type Service struct {
	cfg   Config
	cache cache
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Zone == nil {
		cfg.Zone = time.Local
	}
	if cfg.Price == nil {
		cfg.Price = func(string, string) (Price, bool) { return Price{}, false }
	}
	return &Service{cfg: cfg, cache: newCache(cfg.Files)}
}

// Totals are sums of what answers cost. Cost is in US dollars.
type Totals struct {
	Tokens Tokens
	Cost   transcript.Cost
	// MissingCost counts answers with tokens and without a price: Cost does not include them.
	MissingCost int64
}

func (t *Totals) add(o Totals) {
	t.Tokens.add(o.Tokens)
	addCost(&t.Cost, o.Cost)
	t.MissingCost += o.MissingCost
}

// totals are the totals of the answers of a model, with the prices of now for those that state none.
func (s *Service) totals(m modelSum) Totals {
	t := Totals{Tokens: m.tokens, Cost: m.cost}
	if m.entries == 0 {
		return t
	}
	p, ok := s.cfg.Price(m.provider, m.model)
	if !ok {
		t.MissingCost = m.entries
		return t
	}
	addCost(&t.Cost, p.of(m.unpriced))
	return t
}

// DayTotals are the totals of one day.
type DayTotals struct {
	// Date is YYYY-MM-DD in the zone of the range.
	Date string
	Totals
}

// Cost is what was used in a range of days.
type Cost struct {
	At time.Time
	// Days is the number of days of the range.
	Days  int
	Daily []DayTotals
	Totals
}

// Cost adds up what all agents used in a range. Days without use are not listed.
func (s *Service) Cost(ctx context.Context, _ identity.Caller, in Range) (Cost, error) {
	days := in.resolve(s.cfg.Now(), s.cfg.Zone)
	out := Cost{At: s.cfg.Now(), Days: days.count()}
	daily := map[string]*DayTotals{}
	err := s.each(ctx, days, nil, func(_ sessions.Found, spans []span) {
		for i := range spans {
			for _, m := range spans[i].models {
				t := s.totals(m)
				out.add(t)
				at(daily, days.date(spans[i].slot), func(d *DayTotals, date string) { d.Date = date }).add(t)
			}
		}
	})
	out.Daily = sortedBy(daily, func(d DayTotals) string { return d.Date })
	return out, err
}

// ProviderWindow is how much of a limit of a provider is used.
type ProviderWindow struct {
	Label       string
	UsedPercent float64
	// ResetAt is zero when it is not known.
	ResetAt time.Time
}

// Provider is what a provider says of its limits.
type Provider struct {
	ID, Name, Plan, Error string
	Windows               []ProviderWindow
}

// Status is what the providers say of their limits.
type Status struct {
	At        time.Time
	Providers []Provider
}

// Status asks the providers that the daemon has credentials for. It has none as long as it runs no agents, and
// rows without credentials are left out.
func (s *Service) Status(context.Context, identity.Caller) (Status, error) {
	return Status{At: s.cfg.Now()}, nil
}

// each calls f with what every transcript holds of a range, one after the other. only chooses the transcripts; nil is
// all.
func (s *Service) each(ctx context.Context, days days, only func(sessions.Found) bool, f func(sessions.Found, []span)) error {
	files, err := s.cfg.Files.List(ctx)
	if err != nil {
		return err
	}
	from, to := days.slots()
	for _, file := range files {
		// What was written last before the range began holds nothing of it.
		if !counted(file.Name) || only != nil && !only(file) || file.ModTime.Before(days.from.Add(-slack)) {
			continue
		}
		if err := s.cache.with(ctx, file, func(spans []span) { f(file, within(spans, from, to)) }); err != nil {
			return err
		}
	}
	s.cache.forget(files)
	return nil
}

// slack allows for clocks that differ between what writes the entries and what dates the files.
const slack = 24 * time.Hour
