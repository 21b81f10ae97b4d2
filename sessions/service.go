package sessions

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
)

const (
	// maxSessions bounds the sessions: each costs about a kilobyte of memory.
	maxSessions = 100_000
	// locks is how many sessions can be changed at a time.
	locks = 64
	// activeTime is how long a change waits for a run of the session to end (sessions-chat.md §3; frozen).
	activeTime = 15 * time.Second
)

// Runner ends what an agent does in a session, so that the session can be changed.
type Runner interface {
	// Stop ends the runs of a session and what waits behind them, and reports whether it is quiet when ctx
	// ends at the latest.
	Stop(ctx context.Context, r Ref, sessionID string) bool
}

// Settings is how the service is set up.
type Settings struct {
	Store       Store
	Transcripts Transcripts
	Models      Models
	// Thinking is how much a model thinks when nobody says: a level of ThinkingLevels. Nil is off for all.
	Thinking func(Model) string
	// Runner is nil as long as no agents run.
	Runner Runner
	// Config is the configuration in force.
	Config func() *config.Config
	Bus    *events.Bus
	Now    func() time.Time
	Log    *slog.Logger
	// NewID makes the id of a session, a random UUID when nil.
	NewID func() string
}

// Service keeps the sessions. New makes it; Run must be running for session.maintenance.
type Service struct {
	cfg   Settings
	seed  maphash.Seed
	locks [locks]sync.Mutex

	mu     sync.Mutex // of the index, and of what is promised to changes under way
	byRef  map[Ref]*Row
	labels map[Ref]Ref // by agent and label
	making int         // sessions that are being made
	order  atomic.Pointer[[]*Row]
	// agents is the order by agent, made when somebody asks for it.
	agents atomic.Pointer[byAgent]
}

// byAgent is one order, split by agent.
type byAgent struct {
	of   *[]*Row
	rows map[string][]*Row
}

// of are the sessions of an agent, the newest first. They are not to be changed. All agents together cost one
// walk over the sessions for each change of the index.
func (s *Service) of(agentID string) []*Row {
	order, known := s.order.Load(), s.agents.Load()
	if known == nil || known.of != order {
		known = &byAgent{order, map[string][]*Row{}}
		for _, row := range *order {
			known.rows[row.Ref.AgentID] = append(known.rows[row.Ref.AgentID], row)
		}
		s.agents.Store(known)
	}
	return known.rows[agentID]
}

// Row is a session in the index. It is never changed: a change makes a new one. Entry has no Rest.
type Row struct {
	Ref   Ref
	Entry Entry
	// name is what lists show and search.
	name string
	// hidden says that lists leave it out: one run of a job.
	hidden bool
}

// New reads the index. It takes about 10 microseconds for each session.
func New(s Settings) (*Service, error) {
	if s.NewID == nil {
		s.NewID = uuid.NewString
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	out := &Service{cfg: s, seed: maphash.MakeSeed(), byRef: map[Ref]*Row{}, labels: map[Ref]Ref{}}
	var order []*Row
	err := s.Store.Sessions(func(r Ref, e Entry) {
		row := newRow(r, e)
		out.byRef[r] = row
		order = append(order, row)
		if e.Label != "" {
			out.labels[Ref{r.AgentID, e.Label}] = r
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(order, newestFirst)
	out.order.Store(&order)
	return out, nil
}

// newestFirst orders rows as lists do. Those of the same millisecond are in the order of their keys.
func newestFirst(a, b *Row) int {
	if c := b.Entry.UpdatedAt.Compare(a.Entry.UpdatedAt); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Ref.AgentID, b.Ref.AgentID), cmp.Compare(a.Ref.Key, b.Ref.Key))
}

func newRow(r Ref, e Entry) *Row {
	e.Rest = nil
	// Many sessions have these in common: one text serves all.
	for _, s := range []*string{
		&r.AgentID, &e.ChatType, &e.ThinkingLevel, &e.VerboseLevel, &e.ReasoningLevel, &e.ElevatedLevel, &e.ModelProvider, &e.Model, &e.ProviderOverride,
		&e.ModelOverride, &e.Channel, &e.LastChannel, &e.SpawnedBy,
	} {
		*s = common(*s)
	}
	if o := e.Origin; o != nil {
		c := *o
		c.Provider, c.Surface, c.ChatType, c.To = common(c.Provider), common(c.Surface), common(c.ChatType), common(c.To)
		e.Origin = &c
	}
	if d := e.DeliveryContext; d != nil {
		c := *d
		c.Channel = common(c.Channel)
		if c.To == e.LastTo {
			c.To = e.LastTo
		}
		e.DeliveryContext = &c
	}
	return &Row{Ref: r, Entry: e, name: displayName(r.Key, &e), hidden: cronRun(r.Key)}
}

// common returns the same memory for the same text.
func common(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

// rows are all sessions, the newest first. They are not to be changed.
func (s *Service) rows() []*Row { return *s.order.Load() }

// row finds a session in the index.
func (s *Service) row(r Ref) (*Row, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.byRef[r]
	return row, ok
}

// put makes the index hold an entry, or with nil no entry.
func (s *Service) put(r Ref, e *Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.byRef[r]
	if old == nil && e == nil {
		return
	}
	was := s.rows()
	next := make([]*Row, 0, len(was)+1)
	if old != nil {
		i, _ := slices.BinarySearchFunc(was, old, newestFirst)
		next = append(append(next, was[:i]...), was[i+1:]...)
		if old.Entry.Label != "" && s.labels[Ref{r.AgentID, old.Entry.Label}] == r {
			delete(s.labels, Ref{r.AgentID, old.Entry.Label})
		}
	} else {
		next = append(next, was...)
	}
	if e == nil {
		delete(s.byRef, r)
	} else {
		row := newRow(r, *e)
		s.byRef[r] = row
		i, _ := slices.BinarySearchFunc(next, row, newestFirst)
		next = slices.Insert(next, i, row)
		if e.Label != "" {
			s.labels[Ref{r.AgentID, e.Label}] = r
		}
	}
	s.order.Store(&next)
}

// lock keeps others from changing a session until the function that it returns is called.
func (s *Service) lock(r Ref) (unlock func()) {
	m := &s.locks[maphash.Comparable(s.seed, r)%locks]
	m.Lock()
	return m.Unlock
}

// reserve promises a label and the place of a new session to a change, until the function that it returns is
// called. The caller holds the lock of the session.
func (s *Service) reserve(r Ref, label string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, exists := s.byRef[r]
	if !exists && len(s.byRef)+s.making >= maxSessions {
		return nil, ErrTooMany
	}
	labelled := Ref{r.AgentID, label}
	mine := false
	if label != "" {
		switch of, taken := s.labels[labelled]; {
		case taken && of != r:
			return nil, ErrLabelTaken.With("label", label)
		case !taken:
			s.labels[labelled] = r
			mine = true
		}
	}
	if !exists {
		s.making++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !exists {
			s.making--
		}
		if row, ok := s.byRef[r]; mine && (!ok || row.Entry.Label != label) {
			delete(s.labels, labelled)
		}
	}, nil
}

// update changes an entry in the store and then in the index. The caller holds the lock of the session.
func (s *Service) update(ctx context.Context, r Ref, change func(*Entry, bool) (Change, error)) (Entry, error) {
	var last Change
	e, err := s.cfg.Store.UpdateSession(ctx, r, func(e *Entry, exists bool) (Change, error) {
		c, err := change(e, exists)
		last = c
		return c, err
	})
	if err != nil && !errors.Is(err, ErrMove) {
		return Entry{}, err
	}
	switch {
	case last.Delete:
		s.put(r, nil)
	case !last.Same:
		s.put(r, &e)
	}
	return e, err
}

// now is the time as entries keep it.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Millisecond) }

// find resolves a key that a client sent.
func (s *Service) find(key string) (Ref, error) {
	r := Canonical(s.cfg.Config(), key)
	switch {
	case r.Key == "":
		return r, ErrKeyRequired
	case len(r.Key) > maxKey, strings.ContainsRune(r.Key, 0):
		return r, ErrKeyTooLong
	}
	return r, nil
}

// Lookup finds the entry of what a client calls a session, without Rest. ok is false when there is none; the
// canonical key is returned all the same.
func (s *Service) Lookup(key string) (r Ref, e Entry, ok bool) {
	r = Canonical(s.cfg.Config(), key)
	row, ok := s.row(r)
	if !ok {
		return r, Entry{}, false
	}
	return r, row.Entry, true
}

// All returns every session, those that lists leave out among them, the newest first. The rows are not to be
// changed.
func (s *Service) All() []*Row { return s.rows() }

// FileOf is the transcript of an entry.
func FileOf(agentID string, e Entry) File {
	// The original keeps paths, also of machines that the state came from.
	if name := e.SessionFile; name != "" {
		if i := strings.LastIndexAny(name, `/\`); i >= 0 {
			name = name[i+1:]
		}
		if strings.HasSuffix(name, ".jsonl") {
			return File{agentID, name}
		}
	}
	return File{agentID, e.SessionID + ".jsonl"}
}

// TranscriptPath is where the transcript of an entry is, whether it is there or not.
func (s *Service) TranscriptPath(agentID string, e Entry) string {
	return s.cfg.Transcripts.Path(FileOf(agentID, e))
}

// StorePath is the file that holds the entries of an agent as far as clients are concerned: the original's
// sessions.json. hanzod keeps them in its database.
func (s *Service) StorePath(agentID string) string {
	c := s.cfg.Config()
	return filepath.Join(c.StateDir, "agents", agentID, "sessions", "sessions.json")
}

// Count is how many sessions an agent has, one run of a job left out.
func (s *Service) Count(agentID string) int {
	return len(s.of(agentID))
}

// Recent are the newest sessions of an agent, of all agents when the id is empty.
func (s *Service) Recent(agentID string, limit int) []*Row {
	var out []*Row
	from := s.rows()
	if agentID != "" {
		from = s.of(agentID)
	}
	for _, row := range from {
		if len(out) >= limit {
			break
		}
		if row.Ref.Key != GlobalKey && row.Ref.Key != UnknownKey {
			out = append(out, row)
		}
	}
	return out
}

// ModelOf is the model of a session: what was chosen for it, else what was used last, else the default of its
// agent.
func (s *Service) ModelOf(agentID string, e *Entry) Model {
	def := s.cfg.Models.Default(agentID)
	return modelOf(e, def)
}

func modelOf(e *Entry, def Model) Model {
	switch {
	case e.ModelOverride != "":
		return Model{cmp.Or(e.ProviderOverride, def.Provider), e.ModelOverride}
	case e.Model != "":
		return Model{cmp.Or(e.ModelProvider, def.Provider), e.Model}
	}
	return def
}
