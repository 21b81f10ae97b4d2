package usage

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/transcript"
)

const (
	// slot is the grain of the sums, in milliseconds. The day of every zone in use begins on one.
	slot = 15 * 60 * 1000

	// maxLatency is the longest time between a question and its answer that counts as one; after longer ones
	// somebody was away.
	maxLatency = 12 * time.Hour

	// maxLatencies is how many answers of one slot are kept for the percentile.
	maxLatencies = 512

	// maxNames is how many models or tools are told apart in one slot; the rest count as one, without a name.
	maxNames = 64

	// checkEvery is after how many lines a scan looks whether its caller is still there.
	checkEvery = 1024
)

// Tokens counts tokens.
type Tokens struct {
	Input, Output, CacheRead, CacheWrite, Total int64
}

func (t *Tokens) add(o Tokens) {
	t.Input += o.Input
	t.Output += o.Output
	t.CacheRead += o.CacheRead
	t.CacheWrite += o.CacheWrite
	t.Total += o.Total
}

// Messages counts messages.
type Messages struct {
	// Total is User and Assistant together.
	Total, User, Assistant int64
	// ToolCalls counts calls of tools, ToolResults what they answered.
	ToolCalls, ToolResults int64
	// Errors counts answers that ended in an error or were cut off, and tools that failed.
	Errors int64
}

func (m *Messages) add(o Messages) {
	m.Total += o.Total
	m.User += o.User
	m.Assistant += o.Assistant
	m.ToolCalls += o.ToolCalls
	m.ToolResults += o.ToolResults
	m.Errors += o.Errors
}

// modelSum is what the answers of one model add up to. What said its price is in cost, the tokens of the rest are in
// unpriced too.
type modelSum struct {
	provider, model string
	count           int64
	tokens          Tokens
	cost            transcript.Cost
	unpriced        Tokens
	entries         int64 // how many are unpriced
}

type toolSum struct {
	name  string
	count int64
}

// span is what happened in one slot. Times are milliseconds since the epoch.
type span struct {
	slot        int64
	first, last int64
	messages    Messages
	models      []modelSum
	tools       []toolSum
	latencies   []uint32 // milliseconds
}

// sums is what one transcript adds up to, and where its reading can go on when it grows.
type sums struct {
	spans []span // by slot
	size  int64  // of the file then, in bytes
	mod   time.Time
	read  int64 // bytes
	tail  string
	asked time.Time // the question that waits for its answer
	at    time.Time // of the last entry that had a time
}

// tailBytes is how much of the end of what was read is kept, to see that a file only grew.
const tailBytes = 64

// scan adds the lines of a transcript from s.read on.
func (s *sums) scan(ctx context.Context, t sessions.Transcript) error {
	size := t.Size()
	sc := transcript.NewScanner(io.NewSectionReader(t, s.read, size-s.read), s.read)
	for n := 0; sc.Next(); n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		l := sc.Line()
		if l.Torn {
			break // it may still be growing
		}
		if !l.Oversized {
			if e, ok := transcript.ParseEntry(l.Data); ok {
				s.add(e)
			}
		}
		s.read = l.Offset + l.Size + 1
	}
	if err := sc.Err(); err != nil {
		return err
	}
	slices.SortStableFunc(s.spans, func(a, b span) int { return cmp.Compare(a.slot, b.slot) })
	s.size, s.mod = size, t.ModTime()
	var err error
	s.tail, err = tailAt(t, s.read)
	return err
}

// grown reports whether a transcript begins with what was read of it.
func (s *sums) grown(t sessions.Transcript) bool {
	if t.Size() < s.size || s.read == 0 {
		return false
	}
	tail, err := tailAt(t, s.read)
	return err == nil && tail == s.tail
}

func tailAt(r io.ReaderAt, end int64) (string, error) {
	buf := make([]byte, min(end, tailBytes))
	if len(buf) == 0 {
		return "", nil
	}
	if n, err := r.ReadAt(buf, end-int64(len(buf))); n < len(buf) {
		return "", err
	}
	return string(buf), nil
}

// add counts one entry.
func (s *sums) add(e transcript.Entry) {
	m, ok := e.Message()
	if !ok {
		return
	}
	at := m.Timestamp
	if at.IsZero() {
		at = e.Timestamp
	}
	if at.IsZero() {
		at = s.at
	}
	if at.IsZero() {
		return
	}
	s.at = at
	sp := s.span(at.UnixMilli())
	switch m.Role {
	case transcript.RoleUser:
		sp.messages.Total++
		sp.messages.User++
		s.asked = at
	case transcript.RoleAssistant:
		sp.messages.Total++
		sp.messages.Assistant++
		s.answer(sp, m, at)
	case transcript.RoleToolResult, "tool":
		sp.messages.ToolResults++
		if m.IsError {
			sp.messages.Errors++
		}
	}
}

func (s *sums) answer(sp *span, m transcript.Message, at time.Time) {
	switch m.StopReason {
	case "error", "aborted", "timeout":
		sp.messages.Errors++
	}
	for _, name := range m.Tools() {
		sp.messages.ToolCalls++
		sp.tool(name).count++
	}
	took, stated := m.Duration()
	if !stated && !s.asked.IsZero() {
		took = at.Sub(s.asked)
	}
	if (stated || !s.asked.IsZero()) && took >= 0 && took <= maxLatency && len(sp.latencies) < maxLatencies {
		sp.latencies = append(sp.latencies, uint32(took.Milliseconds()))
	}
	s.asked = time.Time{}
	u, ok := m.Usage()
	if !ok || (m.Provider == transcript.OwnProvider && u.Total == 0) {
		return
	}
	ms := sp.model(m.Provider, m.Model)
	ms.count++
	t := Tokens{u.Input, u.Output, u.CacheRead, u.CacheWrite, u.Total}
	ms.tokens.add(t)
	switch {
	case u.Priced:
		addCost(&ms.cost, u.Cost)
	case u.Total > 0:
		ms.unpriced.add(t)
		ms.entries++
	}
}

func addCost(c *transcript.Cost, o transcript.Cost) {
	c.Input += o.Input
	c.Output += o.Output
	c.CacheRead += o.CacheRead
	c.CacheWrite += o.CacheWrite
	c.Total += o.Total
}

// span finds or makes the span of a time; entries mostly come in order.
func (s *sums) span(ms int64) *span {
	at := ms / slot
	if ms < 0 && ms%slot != 0 {
		at--
	}
	for i := len(s.spans) - 1; i >= 0; i-- {
		if sp := &s.spans[i]; sp.slot == at {
			sp.first, sp.last = min(sp.first, ms), max(sp.last, ms)
			return sp
		} else if sp.slot < at && i == len(s.spans)-1 {
			break
		}
	}
	s.spans = append(s.spans, span{slot: at, first: ms, last: ms})
	return &s.spans[len(s.spans)-1]
}

func (sp *span) model(provider, model string) *modelSum {
	if len(sp.models) >= maxNames {
		provider, model = "", ""
	}
	for i := range sp.models {
		if m := &sp.models[i]; m.provider == provider && m.model == model {
			return m
		}
	}
	sp.models = append(sp.models, modelSum{provider: intern(provider), model: intern(model)})
	return &sp.models[len(sp.models)-1]
}

func (sp *span) tool(name string) *toolSum {
	if len(sp.tools) >= maxNames {
		name = ""
	}
	for i := range sp.tools {
		if t := &sp.tools[i]; t.name == name {
			return t
		}
	}
	sp.tools = append(sp.tools, toolSum{name: intern(name)})
	return &sp.tools[len(sp.tools)-1]
}

// maxName is the longest name of a model or tool that is kept, in bytes.
const maxName = 128

// intern copies a name out of the line it stood in.
func intern(s string) string { return strings.Clone(s[:min(len(s), maxName)]) }
