package usage

import (
	"cmp"
	"slices"
	"time"
)

type modelKey struct{ provider, model string }

type modelDayKey struct {
	date string
	modelKey
}

// sum is what spans of any number of transcripts add up to.
type sum struct {
	totals      Totals
	messages    Messages
	first, last int64
	models      map[modelKey]*ModelUsage
	providers   map[string]*ModelUsage
	tools       map[string]*ToolUsage
	modelDays   map[modelDayKey]*ModelDay
	days        map[string]*daySum
	latencies   []uint32
}

type daySum struct {
	date      string
	totals    Totals
	messages  Messages
	latencies []uint32
}

// maxSample is how many answers the latency of a sum is made of at most.
const maxSample = 100_000

func newSum() *sum {
	return &sum{
		models: map[modelKey]*ModelUsage{}, providers: map[string]*ModelUsage{}, tools: map[string]*ToolUsage{},
		modelDays: map[modelDayKey]*ModelDay{}, days: map[string]*daySum{},
	}
}

// add counts spans and returns what they cost.
func (u *sum) add(s *Service, d days, spans []span) (added Totals) {
	for i := range spans {
		sp := &spans[i]
		date := d.date(sp.slot)
		day := at(u.days, date, func(n *daySum, date string) { n.date = date })
		u.messages.add(sp.messages)
		day.messages.add(sp.messages)
		if u.first == 0 || sp.first < u.first {
			u.first = sp.first
		}
		u.last = max(u.last, sp.last)
		if len(u.latencies) < maxSample {
			u.latencies = append(u.latencies, sp.latencies...)
			day.latencies = append(day.latencies, sp.latencies...)
		}
		for _, t := range sp.tools {
			at(u.tools, t.name, func(n *ToolUsage, name string) { n.Name = name }).Count += t.count
		}
		for _, m := range sp.models {
			t := s.totals(m)
			added.add(t)
			day.totals.add(t)
			key := modelKey{m.provider, m.model}
			mu := at(u.models, key, func(n *ModelUsage, k modelKey) { n.Provider, n.Model = k.provider, k.model })
			mu.Count += m.count
			mu.add(t)
			pu := at(u.providers, m.provider, func(n *ModelUsage, p string) { n.Provider = p })
			pu.Count += m.count
			pu.add(t)
			md := at(u.modelDays, modelDayKey{date, key}, func(n *ModelDay, k modelDayKey) {
				n.Date, n.Provider, n.Model = k.date, k.provider, k.model
			})
			md.Tokens += t.Tokens.Total
			md.Cost += t.Cost.Total
			md.Count += m.count
		}
	}
	u.totals.add(added)
	return added
}

func (u *sum) sortedDays() []daySum {
	return sortedBy(u.days, func(d daySum) string { return d.date })
}

func (u *sum) sortedModels() []ModelUsage {
	out := sortedBy(u.models, func(m ModelUsage) string { return m.Provider + "\x00" + m.Model })
	slices.SortStableFunc(out, func(a, b ModelUsage) int { return moreFirst(a.Totals, b.Totals) })
	return out
}

func (u *sum) sortedTools() []ToolUsage {
	out := sortedBy(u.tools, func(t ToolUsage) string { return t.Name })
	slices.SortStableFunc(out, func(a, b ToolUsage) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

func (u *sum) sortedModelDays() []ModelDay {
	out := sortedBy(u.modelDays, func(m ModelDay) string { return m.Date + "\x00" + m.Provider + "\x00" + m.Model })
	slices.SortStableFunc(out, func(a, b ModelDay) int {
		return cmp.Or(cmp.Compare(a.Date, b.Date), cmp.Compare(b.Cost, a.Cost))
	})
	return out
}

func dailyLatency(in []daySum) (out []DayLatency) {
	for _, d := range in {
		if len(d.latencies) > 0 {
			out = append(out, DayLatency{d.date, latencyOf(d.latencies)})
		}
	}
	return out
}

// latencyOf sorts what it gets.
func latencyOf(ms []uint32) (l Latency) {
	if len(ms) == 0 {
		return l
	}
	slices.Sort(ms)
	total := 0.0
	for _, n := range ms {
		total += float64(n)
	}
	l.Count = int64(len(ms))
	l.Avg = total / float64(len(ms))
	l.P95 = float64(ms[min(len(ms)-1, (len(ms)*95+99)/100-1)])
	l.Fastest, l.Longest = float64(ms[0]), float64(ms[len(ms)-1])
	return l
}

// use is the sum as the use of a session.
func (u *sum) use() SessionUse {
	out := SessionUse{
		Totals: u.totals, Messages: u.messages, Tools: u.sortedTools(), Models: u.sortedModels(),
		DailyModels: u.sortedModelDays(), Latency: latencyOf(u.latencies),
	}
	if u.first != 0 {
		out.First, out.Last = time.UnixMilli(u.first).UTC(), time.UnixMilli(u.last).UTC()
	}
	days := u.sortedDays()
	for _, d := range days {
		out.Dates = append(out.Dates, d.date)
		out.Daily = append(out.Daily, DayCost{d.date, d.totals.Tokens.Total, d.totals.Cost.Total})
		out.DailyMessages = append(out.DailyMessages, DayMessages{d.date, d.messages})
	}
	out.DailyLatency = dailyLatency(days)
	return out
}

// aggregates is the sum as that of all sessions.
func (u *sum) aggregates() Aggregates {
	out := Aggregates{
		Messages: u.messages, Tools: u.sortedTools(), ByModel: u.sortedModels(), ModelDaily: u.sortedModelDays(),
		Latency: latencyOf(u.latencies),
	}
	out.ByProvider = sortedBy(u.providers, func(m ModelUsage) string { return m.Provider })
	slices.SortStableFunc(out.ByProvider, func(a, b ModelUsage) int { return moreFirst(a.Totals, b.Totals) })
	days := u.sortedDays()
	for _, d := range days {
		out.Daily = append(out.Daily, Day{
			Date: d.date, Tokens: d.totals.Tokens.Total, Cost: d.totals.Cost.Total,
			Messages: d.messages.Total, ToolCalls: d.messages.ToolCalls, Errors: d.messages.Errors,
		})
	}
	out.DailyLatency = dailyLatency(days)
	return out
}
