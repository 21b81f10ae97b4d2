package usage

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

// SessionsIn asks for the use of sessions.
type SessionsIn struct {
	Range
	// Key names one session; empty is all.
	Key string
	// Limit is how many are shown, those used last first; 0 is 50, more than 10,000 is 10,000.
	Limit int
	// ContextWeight asks for what the system prompt of each session holds.
	ContextWeight bool
}

// ModelUsage is the use of a model, or of all of a provider.
type ModelUsage struct {
	Provider, Model string
	// Count is the number of answers.
	Count int64
	Totals
}

// ModelDay is the use of a model on one day.
type ModelDay struct {
	Date, Provider, Model string
	Tokens, Count         int64
	// Cost is in US dollars.
	Cost float64
}

// ToolUsage is how often a tool was called.
type ToolUsage struct {
	Name  string
	Count int64
}

// Latency is how long answers took, in milliseconds.
type Latency struct {
	Count                      int64
	Avg, P95, Fastest, Longest float64
}

// DayLatency is the same for one day.
type DayLatency struct {
	Date string
	Latency
}

// DayMessages counts the messages of one day.
type DayMessages struct {
	Date string
	Messages
}

// DayCost is what one day cost.
type DayCost struct {
	Date   string
	Tokens int64
	// Cost is in US dollars.
	Cost float64
}

// Day is a day of all sessions together.
type Day struct {
	Date                        string
	Tokens                      int64
	Cost                        float64 // US dollars
	Messages, ToolCalls, Errors int64
}

// SessionUse is what one session used in the range.
type SessionUse struct {
	Totals
	SessionID, File string
	// First and Last are the first and the last message in the range.
	First, Last   time.Time
	Dates         []string
	Daily         []DayCost
	DailyMessages []DayMessages
	DailyLatency  []DayLatency
	DailyModels   []ModelDay
	Messages      Messages
	Tools         []ToolUsage
	Models        []ModelUsage
	Latency       Latency
}

// Session is a row.
type Session struct {
	// Key is that of the session, or agent:<agent>:<id> for a transcript that no session claims.
	Key, AgentID, SessionID string
	UpdatedAt               time.Time
	// Entry is what is known of the session; nil when it has none.
	Entry *sessions.Entry
	// Use is nil for a session without a transcript.
	Use *SessionUse
	// ContextWeight is the report of the system prompt as stored, nil when there is none or nobody asked.
	ContextWeight sessions.Raw
}

// Channel is where the session is, "" when it is not known.
func (s Session) Channel() string {
	switch {
	case s.Entry == nil:
		return ""
	case s.Entry.Channel != "":
		return s.Entry.Channel
	case s.Entry.Origin != nil:
		return s.Entry.Origin.Provider
	}
	return ""
}

// NamedTotals are totals of an agent or a channel.
type NamedTotals struct {
	Name string
	Totals
}

// Aggregates are sums over all sessions of the range, whether they are shown or not.
type Aggregates struct {
	Messages     Messages
	Tools        []ToolUsage
	ByModel      []ModelUsage
	ByProvider   []ModelUsage
	ByAgent      []NamedTotals
	ByChannel    []NamedTotals
	Latency      Latency
	DailyLatency []DayLatency
	ModelDaily   []ModelDay
	Daily        []Day
}

// Sessions is what sessions used in a range.
type Sessions struct {
	At time.Time
	// StartDate and EndDate are YYYY-MM-DD.
	StartDate, EndDate string
	ContextWeight      bool
	Sessions           []Session
	Totals
	Aggregates Aggregates
}

// Sessions adds up what each session used, and all together.
func (s *Service) Sessions(ctx context.Context, _ identity.Caller, in SessionsIn) (Sessions, error) {
	days := in.resolve(s.cfg.Now(), s.cfg.Zone)
	out := Sessions{At: s.cfg.Now(), StartDate: days.first(), EndDate: days.last(), ContextWeight: in.ContextWeight}
	claims, err := s.claims()
	if err != nil {
		return out, err
	}
	var only func(sessions.Found) bool
	rows := map[sessions.File]*row{}
	if in.Key != "" {
		named, err := s.find(in.Key, claims, ErrReference)
		if err != nil {
			return out, err
		}
		only = func(f sessions.Found) bool {
			return f.AgentID == named.file.AgentID && stem(f.Name) == stem(named.file.Name)
		}
		if named.entry != nil {
			rows[named.file] = newRow(named, time.Time{})
		}
	}
	all := newSum()
	agents, channels := map[string]*NamedTotals{}, map[string]*NamedTotals{}
	err = s.each(ctx, days, only, func(f sessions.Found, spans []span) {
		if len(spans) == 0 {
			return
		}
		at := sessions.File{AgentID: f.AgentID, Name: stem(f.Name) + ".jsonl"}
		r := rows[at]
		if r == nil {
			c, ok := claims[at]
			if !ok {
				c = claim{file: at, key: "agent:" + at.AgentID + ":" + stem(at.Name), id: stem(at.Name)}
			}
			r = newRow(c, f.ModTime)
			rows[at] = r
		}
		if r.sum == nil {
			r.sum = newSum()
		}
		t := r.sum.add(s, days, spans)
		all.add(s, days, spans)
		addNamed(agents, f.AgentID, t)
		if channel := r.session.Channel(); channel != "" {
			addNamed(channels, channel, t)
		}
	})
	if err != nil {
		return out, err
	}
	out.Totals = all.totals
	out.Aggregates = all.aggregates()
	out.Aggregates.ByAgent, out.Aggregates.ByChannel = byCost(agents), byCost(channels)
	for _, r := range rows {
		if r.sum != nil {
			use := r.sum.use()
			use.SessionID, use.File = r.session.SessionID, s.cfg.Files.Path(r.file)
			r.session.Use = &use
		}
		out.Sessions = append(out.Sessions, r.session)
	}
	slices.SortFunc(out.Sessions, func(a, b Session) int {
		return cmp.Or(b.UpdatedAt.Compare(a.UpdatedAt), cmp.Compare(a.Key, b.Key))
	})
	limit := min(in.Limit, maxLimit)
	if limit <= 0 {
		limit = defaultLimit
	}
	out.Sessions = out.Sessions[:min(limit, len(out.Sessions))]
	if in.ContextWeight {
		err = s.weigh(out.Sessions)
	}
	return out, err
}

// weigh adds what the system prompts hold.
func (s *Service) weigh(rows []Session) error {
	for i := range rows {
		if rows[i].Entry == nil {
			continue
		}
		e, ok, err := s.cfg.Index.Session(sessions.Ref{AgentID: rows[i].AgentID, Key: rows[i].Key})
		if err != nil {
			return err
		}
		if ok {
			rows[i].ContextWeight = e.Rest["systemPromptReport"]
		}
	}
	return nil
}

// claim is a transcript that a session has.
type claim struct {
	file    sessions.File
	key, id string
	entry   *sessions.Entry
}

type row struct {
	file    sessions.File
	session Session
	sum     *sum
}

func newRow(c claim, written time.Time) *row {
	r := &row{file: c.file, session: Session{Key: c.key, AgentID: c.file.AgentID, SessionID: c.id, UpdatedAt: written, Entry: c.entry}}
	if c.entry != nil && !c.entry.UpdatedAt.IsZero() {
		r.session.UpdatedAt = c.entry.UpdatedAt
	}
	return r
}

// claims are the sessions by their transcripts.
func (s *Service) claims() (map[sessions.File]claim, error) {
	out := map[sessions.File]claim{}
	err := s.cfg.Index.Sessions(func(r sessions.Ref, e sessions.Entry) {
		f := sessions.FileOf(r.AgentID, e)
		if old, taken := out[f]; taken && old.entry.UpdatedAt.After(e.UpdatedAt) {
			return
		}
		out[f] = claim{file: f, key: r.Key, id: e.SessionID, entry: &e}
	})
	return out, err
}

var safeID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`) })

// find is the transcript that a key, or the id of a session, names; whether it is there is another question. For what
// can be neither the error is bad.
func (s *Service) find(key string, claims map[sessions.File]claim, bad *errs.Error) (claim, error) {
	r := sessions.Canonical(s.cfg.Current(), key)
	if c, ok := findIn(r, key, claims); ok {
		return c, nil
	}
	id, agent := strings.TrimSpace(key), r.AgentID
	if p, ok := sessions.ParseKey(key); ok {
		id, agent = p.Rest, r.AgentID
	}
	if !safeID().MatchString(id) {
		return claim{}, bad.With("key", key)
	}
	return claim{file: sessions.File{AgentID: agent, Name: id + ".jsonl"}, key: r.Key, id: id}, nil
}

// findIn looks for a session by its key, then by its id.
func findIn(r sessions.Ref, key string, claims map[sessions.File]claim) (claim, bool) {
	id := strings.TrimSpace(key)
	agent := ""
	if p, ok := sessions.ParseKey(key); ok {
		agent, id = p.AgentID, p.Rest
	}
	var byID *claim
	for _, c := range claims {
		if c.file.AgentID == r.AgentID && c.key == r.Key {
			return c, true
		}
		if strings.EqualFold(c.id, id) && (agent == "" || c.file.AgentID == agent) {
			byID = &c
		}
	}
	if byID != nil {
		return *byID, true
	}
	return claim{}, false
}

func addNamed(m map[string]*NamedTotals, name string, t Totals) {
	at(m, name, func(n *NamedTotals, name string) { n.Name = name }).add(t)
}

func byCost(m map[string]*NamedTotals) []NamedTotals {
	out := sortedBy(m, func(n NamedTotals) string { return n.Name })
	slices.SortStableFunc(out, func(a, b NamedTotals) int { return moreFirst(a.Totals, b.Totals) })
	return out
}

// moreFirst puts what cost more first.
func moreFirst(a, b Totals) int {
	return cmp.Or(cmp.Compare(b.Cost.Total, a.Cost.Total), cmp.Compare(b.Tokens.Total, a.Tokens.Total))
}

// at is the value of a key, made by name when it is not there.
func at[K comparable, V any](m map[K]*V, key K, name func(*V, K)) *V {
	v := m[key]
	if v == nil {
		v = new(V)
		name(v, key)
		m[key] = v
	}
	return v
}

// sortedBy are the values of a map in the order of a text.
func sortedBy[K comparable, V any](m map[K]*V, by func(V) string) []V {
	out := make([]V, 0, len(m))
	for v := range maps.Values(m) {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b V) int { return cmp.Compare(by(a), by(b)) })
	return out
}
