package usage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/transcript"
)

// Point is what was used between the point before it and its time.
type Point struct {
	At     time.Time
	Tokens Tokens
	// Cost is in US dollars.
	Cost float64
	// TokensSoFar and CostSoFar are the sums up to here.
	TokensSoFar int64
	CostSoFar   float64
}

// Series is the use of one session over its time, in at most 200 points.
type Series struct {
	SessionID string
	Points    []Point
}

// Series reads the use of a session over its time. It reads the whole transcript.
func (s *Service) Series(ctx context.Context, _ identity.Caller, key string) (Series, error) {
	if strings.TrimSpace(key) == "" {
		return Series{}, ErrKeyRequired.With("for", "timeseries")
	}
	c, t, err := s.open(key)
	if err != nil {
		return Series{}, err
	}
	if t == nil {
		return Series{}, ErrNoTranscript.With("key", key)
	}
	defer t.Close()
	out := Series{SessionID: c.id}
	var p points
	sc := transcript.NewScanner(io.NewSectionReader(t, 0, t.Size()), 0)
	for n := 0; sc.Next(); n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return Series{}, gone(ctx)
		}
		if sc.Line().Oversized {
			continue
		}
		e, ok := transcript.ParseEntry(sc.Line().Data)
		if !ok {
			continue
		}
		if point, ok := s.point(e); ok {
			p.add(point)
		}
	}
	out.Points = p.fit(maxPoints)
	return out, sc.Err()
}

// point is what an entry used; false when it used nothing.
func (s *Service) point(e transcript.Entry) (Point, bool) {
	m, ok := e.Message()
	if !ok || m.Role != transcript.RoleAssistant {
		return Point{}, false
	}
	u, ok := m.Usage()
	p := Point{At: m.Timestamp, Tokens: Tokens{u.Input, u.Output, u.CacheRead, u.CacheWrite, u.Total}, Cost: u.Cost.Total}
	if p.At.IsZero() {
		p.At = e.Timestamp
	}
	if !ok || p.At.IsZero() || (m.Provider == transcript.OwnProvider && u.Total == 0) {
		return Point{}, false
	}
	if !u.Priced {
		if price, ok := s.cfg.Price(m.Provider, m.Model); ok {
			p.Cost = price.of(p.Tokens).Total
		}
	}
	return p, true
}

// points merges neighbours as they come, so that any number of them takes the room of few.
type points struct {
	list   []Point
	merged int // how many make one, 0 is 1
	open   int // how many the last one has
	tokens int64
	cost   float64
}

// room is how many points are kept until the end, where they are merged once more.
const room = 8 * maxPoints

func (p *points) add(n Point) {
	p.tokens += n.Tokens.Total
	p.cost += n.Cost
	n.TokensSoFar, n.CostSoFar = p.tokens, p.cost
	p.merged = max(p.merged, 1)
	if p.open > 0 && p.open < p.merged {
		merge(&p.list[len(p.list)-1], n)
		p.open++
		return
	}
	if len(p.list) == room {
		p.list = p.fit(room / 2)
		p.merged *= 2
	}
	p.list, p.open = append(p.list, n), 1
}

// fit merges neighbours until there are at most limit.
func (p *points) fit(limit int) []Point {
	each := (len(p.list) + limit - 1) / limit
	if each <= 1 {
		return p.list
	}
	var out []Point
	for group := range slices.Chunk(p.list, each) {
		one := group[0]
		for _, n := range group[1:] {
			merge(&one, n)
		}
		out = append(out, one)
	}
	return out
}

func merge(p *Point, n Point) {
	p.At, p.TokensSoFar, p.CostSoFar = n.At, n.TokensSoFar, n.CostSoFar
	p.Tokens.add(n.Tokens)
	p.Cost += n.Cost
}

// LogsIn asks for the last messages of a session.
type LogsIn struct {
	Key string
	// Limit is how many; 0 is 200, more than 1000 is 1000.
	Limit int
}

// Log is one message of a session.
type Log struct {
	At   time.Time
	Role string // user, assistant, tool, toolResult
	Text string
	// Tokens and Cost (US dollars) are those of an answer; nil when it states none.
	Tokens *int64
	Cost   *float64
}

// Logs reads the last messages of a session, the oldest of them first. A session without a transcript has none.
func (s *Service) Logs(_ context.Context, _ identity.Caller, in LogsIn) ([]Log, error) {
	if strings.TrimSpace(in.Key) == "" {
		return nil, ErrKeyRequired.With("for", "logs")
	}
	_, t, err := s.open(in.Key)
	if err != nil || t == nil {
		return nil, err
	}
	defer t.Close()
	limit := min(in.Limit, maxLogs)
	if limit <= 0 {
		limit = defaultLogs
	}
	var out []Log
	err = transcript.Backward(t, t.Size(), func(l transcript.Line) bool {
		if !l.Oversized {
			if e, ok := transcript.ParseEntry(l.Data); ok {
				if log, ok := s.log(e); ok {
					out = append(out, log)
				}
			}
		}
		return len(out) < limit
	})
	slices.Reverse(out)
	return out, err
}

func (s *Service) log(e transcript.Entry) (Log, bool) {
	m, ok := e.Message()
	if !ok {
		return Log{}, false
	}
	switch m.Role {
	case transcript.RoleUser, transcript.RoleAssistant, transcript.RoleToolResult, "tool":
	default:
		return Log{}, false
	}
	out := Log{At: m.Timestamp, Role: m.Role, Text: m.Text()}
	if out.At.IsZero() {
		out.At = e.Timestamp
	}
	for _, name := range m.Tools() {
		out.Text = strings.TrimPrefix(out.Text+"\n[Tool: "+name+"]", "\n")
	}
	if out.Text == "" {
		return Log{}, false
	}
	out.Text = cut(out.Text, maxLogText)
	if u, ok := m.Usage(); ok {
		out.Tokens = &u.Total
		if p, ok := s.point(e); ok && (u.Priced || p.Cost > 0) {
			out.Cost = &p.Cost
		}
	}
	return out, true
}

// open finds and opens the transcript of a session; nil when it has none.
func (s *Service) open(key string) (claim, sessions.Transcript, error) {
	claims, err := s.claims()
	if err != nil {
		return claim{}, nil, err
	}
	c, err := s.find(key, claims, ErrKey)
	if err != nil {
		return claim{}, nil, err
	}
	t, err := s.cfg.Files.Open(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil, nil
	}
	return c, t, err
}

// cut shortens a text to limit UTF-16 units and says that it did.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := 0
	for i, r := range s {
		if n += max(utf16.RuneLen(r), 1); n > limit {
			return s[:i] + "…"
		}
	}
	return s
}
