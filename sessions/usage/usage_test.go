package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

// memory is transcripts and entries without a disk. It counts what is read.
type memory struct {
	files   map[sessions.File]string
	mod     map[sessions.File]time.Time
	entries map[sessions.Ref]sessions.Entry
	opened  int
	read    int
}

type open struct {
	*bytes.Reader
	m   *memory
	mod time.Time
}

func (o open) ReadAt(p []byte, at int64) (int, error) {
	n, err := o.Reader.ReadAt(p, at)
	o.m.read += n
	return n, err
}
func (o open) Close() error       { return nil }
func (o open) ModTime() time.Time { return o.mod }

func (m *memory) List(context.Context) (out []sessions.Found, err error) {
	for f, text := range m.files {
		out = append(out, sessions.Found{File: f, Size: int64(len(text)), ModTime: m.mod[f]})
	}
	return out, nil
}

func (m *memory) Open(f sessions.File) (sessions.Transcript, error) {
	text, ok := m.files[f]
	if !ok {
		return nil, fs.ErrNotExist
	}
	m.opened++
	return open{bytes.NewReader([]byte(text)), m, m.mod[f]}, nil
}

func (m *memory) Path(f sessions.File) string { return "/s/" + f.AgentID + "/" + f.Name }

func (m *memory) Sessions(each func(sessions.Ref, sessions.Entry)) error {
	for r, e := range m.entries {
		e.Rest = nil
		each(r, e)
	}
	return nil
}

func (m *memory) Session(r sessions.Ref) (sessions.Entry, bool, error) {
	e, ok := m.entries[r]
	return e, ok, nil
}

var now = time.Date(2026, 3, 18, 12, 0, 0, 0, time.UTC)

func newMemory() *memory {
	return &memory{files: map[sessions.File]string{}, mod: map[sessions.File]time.Time{}, entries: map[sessions.Ref]sessions.Entry{}}
}

func (m *memory) put(agent, name, text string) {
	f := sessions.File{AgentID: agent, Name: name}
	m.files[f], m.mod[f] = text, now
}

func (m *memory) service(zone *time.Location) *Service {
	c := &config.Config{}
	return New(Config{
		Index: m, Files: m, Current: func() *config.Config { return c }, Now: func() time.Time { return now }, Zone: zone,
		Price: func(provider, model string) (Price, bool) {
			return Price{Input: 2, Output: 4, CacheRead: 1, CacheWrite: 8}, model == "priced"
		},
	})
}

func user(at time.Time) string {
	return fmt.Sprintf(`{"type":"message","message":{"role":"user","content":"question","timestamp":%d}}`+"\n", at.UnixMilli())
}

func answer(at time.Time, model string, tokens int, cost string) string {
	return fmt.Sprintf(`{"type":"message","timestamp":%q,"message":{"role":"assistant","content":[{"type":"text","text":"a"},{"type":"toolCall","name":"exec"}],`+
		`"provider":"p","model":%q,"usage":{"input":%d,"output":%d,"cacheRead":0,"cacheWrite":0,"totalTokens":%d%s},"stopReason":"stop"}}`+"\n",
		at.Format(time.RFC3339Nano), model, tokens, tokens, 2*tokens, cost)
}

const header = `{"type":"session","version":3,"id":"s"}` + "\n"

func TestCost(t *testing.T) {
	m := newMemory()
	day := func(d, h int) time.Time { return time.Date(2026, 3, d, h, 0, 0, 0, time.UTC) }
	m.put("main", "a.jsonl", header+"not JSON\n"+
		answer(day(1, 0), "said", 9, `,"cost":{"input":1,"output":2,"total":3}`)+
		answer(day(16, 23), "said", 10, `,"cost":{"input":1,"output":2,"total":3}`)+
		answer(day(17, 1), "priced", 1_000_000, "")+
		answer(day(17, 2), "dear", 7, ""))
	m.put("other", "b.jsonl.reset.2026-03-17T00-00-00.000Z", answer(day(17, 3), "said", 1, `,"cost":{"total":0.5}`))
	m.put("other", "b.jsonl.bak.2026-03-17T00-00-00.000Z", answer(day(17, 3), "said", 1, `,"cost":{"total":0.5}`))
	s := m.service(time.UTC)
	got, err := s.Cost(t.Context(), identity.Caller{}, Range{StartDate: "2026-03-16", EndDate: "2026-03-17"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Days != 2 || len(got.Daily) != 2 || got.Daily[0].Date != "2026-03-16" || got.Daily[0].Cost.Total != 3 || got.Daily[0].Tokens.Total != 20 {
		t.Errorf("%+v", got)
	}
	if d := got.Daily[1]; d.Cost.Total != 6.5 || d.Cost.Input != 2 || d.Cost.Output != 4 || d.MissingCost != 1 || d.Tokens.Total != 2_000_000+14+2 {
		t.Errorf("%+v", d)
	}
	if got.Cost.Total != 9.5 || got.MissingCost != 1 {
		t.Errorf("totals %+v", got.Totals)
	}
	// In another zone the day begins at another time.
	got, err = s.Cost(t.Context(), identity.Caller{}, Range{StartDate: "2026-03-16", EndDate: "2026-03-16", Mode: "specific", UTCOffset: "UTC+2"})
	if err != nil || len(got.Daily) != 0 {
		t.Errorf("%+v %v", got.Daily, err)
	}
	got, _ = s.Cost(t.Context(), identity.Caller{}, Range{StartDate: "2026-03-16", EndDate: "2026-03-16", Mode: "specific", UTCOffset: "UTC-2:30"})
	if len(got.Daily) != 1 || got.Daily[0].Tokens.Total != 20+2_000_000+14 {
		t.Errorf("%+v", got.Daily)
	}
	if got, _ = s.Cost(t.Context(), identity.Caller{}, Range{}); got.Days != 30 || got.Tokens.Total != 18+20+2_000_000+14+2 {
		t.Errorf("the last 30 days: %d, %+v", got.Days, got.Tokens)
	}
	if got, _ = s.Cost(t.Context(), identity.Caller{}, Range{Days: 2, StartDate: "2026-99-99"}); got.Days != 2 || got.Daily[0].Date != "2026-03-17" {
		t.Errorf("two days: %+v", got)
	}
	if got, err = s.Cost(t.Context(), identity.Caller{}, Range{StartDate: "2026-03-17", EndDate: "2026-03-16"}); err != nil || got.Days != 0 || len(got.Daily) != 0 {
		t.Errorf("a range the wrong way round: %+v %v", got, err)
	}
}

func TestRanges(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	// 29 March 2026 has 23 hours there.
	d := Range{StartDate: "2026-03-28", EndDate: "2026-03-30", Mode: "gateway"}.resolve(now, berlin)
	if d.count() != 3 || d.first() != "2026-03-28" || d.last() != "2026-03-30" || d.until.Sub(d.from) != 71*time.Hour {
		t.Errorf("%+v", d)
	}
	for text, want := range map[string]int{"UTC+2": 7200, "UTC-5:30": -19800, "UTC+99": 0, "GMT+1": 0, "": 0} {
		zone := Range{Mode: "specific", UTCOffset: text}.zone(berlin)
		if _, got := now.In(zone).Zone(); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}

func TestSumsAreKept(t *testing.T) {
	m := newMemory()
	s := m.service(time.UTC)
	cost := func() int64 {
		t.Helper()
		got, err := s.Cost(t.Context(), identity.Caller{}, Range{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Tokens.Total
	}
	text := header + strings.Repeat(answer(now.Add(-time.Hour), "x", 1, ""), 1000)
	m.put("main", "a.jsonl", text)
	first := cost()
	if again := cost(); first != 2000 || again != first || m.opened != 1 {
		t.Fatalf("%d, then %d; opened %d times", first, again, m.opened)
	}
	f := sessions.File{AgentID: "main", Name: "a.jsonl"}
	m.files[f] = text + answer(now, "x", 5, "")
	if m.read = 0; cost() != 2010 || m.read > 2000 {
		t.Errorf("%d bytes were read of a file that grew a little", m.read)
	}
	m.files[f] = text + answer(now, "x", 5, "") + strings.TrimSuffix(answer(now, "x", 5, ""), "\n") // still growing
	if got := cost(); got != 2010 {
		t.Errorf("a torn line counts: %d", got)
	}
	m.files[f] = header + strings.Repeat(answer(now, "x", 7, ""), 2000) // another file of that name
	if got := cost(); got != 28_000 {
		t.Errorf("got %d", got)
	}
	m.files[f], m.mod[f] = header, now.Add(time.Second)
	if got := cost(); got != 0 {
		t.Errorf("got %d", got)
	}
	delete(m.files, f)
	if cost(); len(s.cache.kept) != 0 || s.cache.spans != 0 {
		t.Errorf("%d are kept", len(s.cache.kept))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.put("main", "b.jsonl", text)
	if _, err := s.Cost(ctx, identity.Caller{}, Range{}); errs.ClassOf(err) != errs.Unavailable {
		t.Errorf("who is gone waits for nothing: %v", err)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	m := newMemory()
	var b strings.Builder
	for i := range maxSpans {
		b.WriteString(answer(now.Add(-time.Duration(i)*slot*time.Millisecond), "x", 1, ""))
	}
	m.put("main", "a.jsonl", b.String())
	m.put("main", "b.jsonl", answer(now, "x", 1, ""))
	s := m.service(time.UTC)
	if _, err := s.Cost(t.Context(), identity.Caller{}, Range{}); err != nil {
		t.Fatal(err)
	}
	if s.cache.spans > maxSpans {
		t.Errorf("%d spans are kept", s.cache.spans)
	}
}

func TestSessions(t *testing.T) {
	m := newMemory()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes-600) * time.Minute) }
	m.put("main", "one.jsonl", header+user(at(0))+answer(at(2), "priced", 10, "")+
		`{"type":"message","message":{"role":"toolResult","toolName":"exec","content":[],"isError":true,"timestamp":`+fmt.Sprint(at(3).UnixMilli())+"}}\n"+
		`{"type":"compaction","id":"0"}`+"\n"+
		user(at(4))+answer(at(5), "said", 1, `,"cost":{"total":0.25}`))
	m.put("main", "lost.jsonl", user(at(7)))
	m.put("ops", "two.jsonl", answer(at(10), "said", 2, `,"cost":{"total":1}`))
	m.put("main", "old.jsonl", answer(now.AddDate(0, -3, 0), "said", 2, `,"cost":{"total":1}`))
	m.entries[sessions.Ref{AgentID: "main", Key: "agent:main:main"}] = sessions.Entry{
		SessionID: "one", UpdatedAt: at(5), Label: "One", Channel: "telegram",
		Rest: map[string]sessions.Raw{"systemPromptReport": sessions.Raw(`{"source":"run"}`)},
	}
	m.entries[sessions.Ref{AgentID: "ops", Key: "agent:ops:main"}] = sessions.Entry{SessionID: "two", UpdatedAt: at(10), Origin: &sessions.Origin{Provider: "slack"}}
	m.entries[sessions.Ref{AgentID: "main", Key: "agent:main:quiet"}] = sessions.Entry{SessionID: "quiet", UpdatedAt: at(11)}
	s := m.service(time.UTC)
	got, err := s.Sessions(t.Context(), identity.Caller{}, SessionsIn{ContextWeight: true})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range got.Sessions {
		keys = append(keys, r.Key)
	}
	if fmt.Sprint(keys) != "[agent:main:lost agent:ops:main agent:main:main]" {
		t.Errorf("rows %v", keys)
	}
	one := got.Sessions[2]
	if one.Use == nil || one.Entry.Label != "One" || string(one.ContextWeight) != `{"source":"run"}` || one.Use.File != "/s/main/one.jsonl" {
		t.Fatalf("%+v", one)
	}
	u := one.Use
	if u.Messages != (Messages{Total: 4, User: 2, Assistant: 2, ToolCalls: 2, ToolResults: 1, Errors: 1}) || !u.First.Equal(at(0)) || !u.Last.Equal(at(5)) {
		t.Errorf("%+v %v %v", u.Messages, u.First, u.Last)
	}
	if l := u.Latency; l.Count != 2 || l.Avg != 90_000 || l.Fastest != 60_000 || l.Longest != 120_000 || l.P95 != 120_000 {
		t.Errorf("%+v", l)
	}
	if math.Abs(u.Cost.Total-0.25-60e-6) > 1e-12 || fmt.Sprint(u.Tools) != "[{exec 2}]" || len(u.Models) != 2 || u.Models[0].Model != "said" {
		t.Errorf("%+v %v %v", u.Cost, u.Tools, u.Models)
	}
	a := got.Aggregates
	if a.Messages.Total != 6 || len(a.ByAgent) != 2 || a.ByAgent[0].Name != "ops" || len(a.ByChannel) != 2 || a.ByChannel[0].Name != "slack" ||
		len(a.ByProvider) != 1 || a.ByProvider[0].Count != 3 || len(a.Daily) != 1 || a.Daily[0].Messages != 6 || len(a.ModelDaily) != 2 {
		t.Errorf("%+v", a)
	}
	if got.Totals != sumOf(got.Sessions) {
		t.Errorf("%+v is not what the rows add up to", got.Totals)
	}
	short, err := s.Sessions(t.Context(), identity.Caller{}, SessionsIn{Limit: 1})
	if err != nil || len(short.Sessions) != 1 || short.Totals != got.Totals {
		t.Errorf("the totals are those of all: %+v %v", short.Totals, err)
	}
	for key, want := range map[string]string{
		"main": "[agent:main:main]", "agent:main:main": "[agent:main:main]", "one": "[agent:main:main]", "agent:main:one": "[agent:main:main]",
		"agent:main:lost": "[agent:main:lost]", "lost": "[agent:main:lost]", "agent:main:quiet": "[agent:main:quiet]", "agent:ops:main": "[agent:ops:main]", "nobody": "[]",
	} {
		out, err := s.Sessions(t.Context(), identity.Caller{}, SessionsIn{Key: key})
		var keys []string
		for _, r := range out.Sessions {
			keys = append(keys, r.Key)
		}
		if err != nil || fmt.Sprint(keys) != want {
			t.Errorf("%s: %v %v", key, keys, err)
		}
	}
	for _, key := range []string{"../x", "a/b", "agent:main:../../x", strings.Repeat("x", 200)} {
		if _, err := s.Sessions(t.Context(), identity.Caller{}, SessionsIn{Key: key}); !errors.Is(err, ErrReference) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func sumOf(rows []Session) (t Totals) {
	for _, r := range rows {
		if r.Use != nil {
			t.add(r.Use.Totals)
		}
	}
	return t
}

func TestSeries(t *testing.T) {
	m := newMemory()
	s := m.service(time.UTC)
	for _, n := range []int{0, 1, 199, 200, 201, 1600, 1601, 5000} {
		var b strings.Builder
		b.WriteString(header)
		for i := range n {
			b.WriteString(answer(now.Add(time.Duration(i)*time.Second), "said", 1, `,"cost":{"total":0.5}`))
		}
		m.put("main", "one.jsonl", b.String())
		got, err := s.Series(t.Context(), identity.Caller{}, "agent:main:one")
		if err != nil || len(got.Points) > maxPoints || (n <= maxPoints && len(got.Points) != n) {
			t.Fatalf("%d: %d points, %v", n, len(got.Points), err)
		}
		var tokens int64
		var cost float64
		for i, p := range got.Points {
			tokens += p.Tokens.Total
			cost += p.Cost
			if p.TokensSoFar != tokens || p.CostSoFar != cost || (i > 0 && !p.At.After(got.Points[i-1].At)) {
				t.Fatalf("%d: point %d: %+v, so far %d", n, i, p, tokens)
			}
		}
		if tokens != int64(2*n) {
			t.Errorf("%d: %d tokens", n, tokens)
		}
	}
	for key, want := range map[string]error{"": ErrKeyRequired, " ": ErrKeyRequired, "none": ErrNoTranscript, "a/b": ErrKey} {
		if _, err := s.Series(t.Context(), identity.Caller{}, key); !errors.Is(err, want) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestLogs(t *testing.T) {
	m := newMemory()
	m.put("main", "one.jsonl", header+user(now)+answer(now, "priced", 1_000_000, "")+
		`{"type":"message","message":{"role":"system","content":"no"}}`+"\n"+
		`{"type":"message","message":{"role":"toolResult","content":[{"type":"text","text":"`+strings.Repeat("é", 2001)+`"}],"timestamp":1}}`+"\n")
	s := m.service(time.UTC)
	got, err := s.Logs(t.Context(), identity.Caller{}, LogsIn{Key: "one"})
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	if a := got[1]; a.Text != "a\n[Tool: exec]" || *a.Tokens != 2_000_000 || *a.Cost != 6 || !a.At.Equal(now) {
		t.Errorf("%+v", a)
	}
	if got[0].Tokens != nil || got[2].Text != strings.Repeat("é", 2000)+"…" {
		t.Errorf("%+v", got)
	}
	if got, _ = s.Logs(t.Context(), identity.Caller{}, LogsIn{Key: "one", Limit: 1}); len(got) != 1 || got[0].Role != "toolResult" {
		t.Errorf("%+v", got)
	}
	if got, err = s.Logs(t.Context(), identity.Caller{}, LogsIn{Key: "none"}); err != nil || got != nil {
		t.Errorf("%+v %v", got, err)
	}
	if _, err = s.Logs(t.Context(), identity.Caller{}, LogsIn{}); !errors.Is(err, ErrKeyRequired) {
		t.Error(err)
	}
}
