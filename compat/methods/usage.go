package methods

import (
	"math"
	"strconv"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/sessions/usage"
)

// UsageCostFromLegacy reads usage.cost, whose parameters nobody checks: what makes no sense counts as absent.
func UsageCostFromLegacy(p wire.Value) (usage.Range, error) {
	in := usage.Range{
		StartDate: looseText(p, "startDate"), EndDate: looseText(p, "endDate"), Mode: looseText(p, "mode"),
		UTCOffset: looseText(p, "utcOffset"), Days: looseCount(p, "days"),
	}
	if text := looseText(p, "days"); text != "" {
		if n, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(n) {
			in.Days = int(max(1, min(math.Floor(n), math.MaxInt32)))
		}
	}
	return in, nil
}

type totalsShape struct {
	Input              int64   `json:"input"`
	Output             int64   `json:"output"`
	CacheRead          int64   `json:"cacheRead"`
	CacheWrite         int64   `json:"cacheWrite"`
	TotalTokens        int64   `json:"totalTokens"`
	TotalCost          float64 `json:"totalCost"`
	InputCost          float64 `json:"inputCost"`
	OutputCost         float64 `json:"outputCost"`
	CacheReadCost      float64 `json:"cacheReadCost"`
	CacheWriteCost     float64 `json:"cacheWriteCost"`
	MissingCostEntries int64   `json:"missingCostEntries"`
}

func totalsOf(t usage.Totals) totalsShape {
	return totalsShape{
		t.Tokens.Input, t.Tokens.Output, t.Tokens.CacheRead, t.Tokens.CacheWrite, t.Tokens.Total,
		t.Cost.Total, t.Cost.Input, t.Cost.Output, t.Cost.CacheRead, t.Cost.CacheWrite, t.MissingCost,
	}
}

type dayTotals struct {
	Date string `json:"date"`
	totalsShape
}

type usageCostResult struct {
	UpdatedAt int64                `json:"updatedAt"`
	Days      int                  `json:"days"`
	Daily     wire.List[dayTotals] `json:"daily"`
	Totals    totalsShape          `json:"totals"`
}

// UsageCostToLegacy writes the result of usage.cost.
func UsageCostToLegacy(out usage.Cost) any {
	r := usageCostResult{UpdatedAt: ms(out.At), Days: out.Days, Totals: totalsOf(out.Totals)}
	for _, d := range out.Daily {
		r.Daily = append(r.Daily, dayTotals{d.Date, totalsOf(d.Totals)})
	}
	return r
}

type usageWindow struct {
	Label       string          `json:"label"`
	UsedPercent float64         `json:"usedPercent"`
	ResetAt     wire.Opt[int64] `json:"resetAt,omitzero"`
}

type usageProvider struct {
	Provider    string                 `json:"provider"`
	DisplayName string                 `json:"displayName"`
	Windows     wire.List[usageWindow] `json:"windows"`
	Plan        wire.Opt[string]       `json:"plan,omitzero"`
	Error       wire.Opt[string]       `json:"error,omitzero"`
}

type usageStatusResult struct {
	UpdatedAt int64                    `json:"updatedAt"`
	Providers wire.List[usageProvider] `json:"providers"`
}

// UsageStatusToLegacy writes the result of usage.status.
func UsageStatusToLegacy(out usage.Status) any {
	r := usageStatusResult{UpdatedAt: ms(out.At)}
	for _, p := range out.Providers {
		shape := usageProvider{Provider: p.ID, DisplayName: p.Name, Plan: wire.NonZero(p.Plan), Error: wire.NonZero(p.Error)}
		for _, w := range p.Windows {
			shape.Windows = append(shape.Windows, usageWindow{w.Label, w.UsedPercent, maybeMS(w.ResetAt)})
		}
		r.Providers = append(r.Providers, shape)
	}
	return r
}

type sessionsUsageParams struct {
	Key                  wire.Opt[string]   `json:"key"`
	StartDate            wire.Opt[string]   `json:"startDate"`
	EndDate              wire.Opt[string]   `json:"endDate"`
	Mode                 wire.Opt[string]   `json:"mode"`
	UTCOffset            wire.Opt[string]   `json:"utcOffset"`
	Limit                wire.Opt[wire.Int] `json:"limit"`
	IncludeContextWeight wire.Opt[bool]     `json:"includeContextWeight"`
}

// SessionsUsageFromLegacy reads sessions.usage.
func SessionsUsageFromLegacy(p wire.Value) (usage.SessionsIn, error) {
	var in sessionsUsageParams
	if err := wire.Decode(p, &in); err != nil {
		return usage.SessionsIn{}, err
	}
	return usage.SessionsIn{
		Range: usage.Range{StartDate: in.StartDate.Or(""), EndDate: in.EndDate.Or(""), Mode: in.Mode.Or(""), UTCOffset: in.UTCOffset.Or("")},
		Key:   in.Key.Or(""), Limit: count(in.Limit), ContextWeight: in.IncludeContextWeight.Or(false),
	}, nil
}

type messageCounts struct {
	Total       int64 `json:"total"`
	User        int64 `json:"user"`
	Assistant   int64 `json:"assistant"`
	ToolCalls   int64 `json:"toolCalls"`
	ToolResults int64 `json:"toolResults"`
	Errors      int64 `json:"errors"`
}

type dayMessages struct {
	Date string `json:"date"`
	messageCounts
}

type toolCount struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

type toolUsage struct {
	TotalCalls  int64                `json:"totalCalls"`
	UniqueTools int                  `json:"uniqueTools"`
	Tools       wire.List[toolCount] `json:"tools"`
}

func toolsOf(in []usage.ToolUsage) toolUsage {
	out := toolUsage{UniqueTools: len(in)}
	for _, t := range in {
		out.TotalCalls += t.Count
		out.Tools = append(out.Tools, toolCount(t))
	}
	return out
}

type modelUsage struct {
	Provider wire.Opt[string] `json:"provider,omitzero"`
	Model    wire.Opt[string] `json:"model,omitzero"`
	Count    int64            `json:"count"`
	Totals   totalsShape      `json:"totals"`
}

func modelsOf(in []usage.ModelUsage) (out wire.List[modelUsage]) {
	for _, m := range in {
		out = append(out, modelUsage{wire.NonZero(m.Provider), wire.NonZero(m.Model), m.Count, totalsOf(m.Totals)})
	}
	return out
}

type modelDay struct {
	Date     string           `json:"date"`
	Provider wire.Opt[string] `json:"provider,omitzero"`
	Model    wire.Opt[string] `json:"model,omitzero"`
	Tokens   int64            `json:"tokens"`
	Cost     float64          `json:"cost"`
	Count    int64            `json:"count"`
}

func modelDaysOf(in []usage.ModelDay) (out wire.List[modelDay]) {
	for _, m := range in {
		out = append(out, modelDay{m.Date, wire.NonZero(m.Provider), wire.NonZero(m.Model), m.Tokens, m.Cost, m.Count})
	}
	return out
}

type latencyShape struct {
	Count int64   `json:"count"`
	AvgMs float64 `json:"avgMs"`
	P95Ms float64 `json:"p95Ms"`
	MinMs float64 `json:"minMs"`
	MaxMs float64 `json:"maxMs"`
}

func latencyOf(l usage.Latency) wire.Opt[latencyShape] {
	if l.Count == 0 {
		return wire.Opt[latencyShape]{}
	}
	return wire.Some(latencyShape{l.Count, l.Avg, l.P95, l.Fastest, l.Longest})
}

type dayLatency struct {
	Date string `json:"date"`
	latencyShape
}

func dayLatenciesOf(in []usage.DayLatency) (out wire.List[dayLatency]) {
	for _, d := range in {
		out = append(out, dayLatency{d.Date, latencyShape{d.Count, d.Avg, d.P95, d.Fastest, d.Longest}})
	}
	return out
}

type dayCost struct {
	Date   string  `json:"date"`
	Tokens int64   `json:"tokens"`
	Cost   float64 `json:"cost"`
}

type sessionUse struct {
	totalsShape
	SessionID          wire.Opt[string]                `json:"sessionId,omitzero"`
	SessionFile        wire.Opt[string]                `json:"sessionFile,omitzero"`
	FirstActivity      wire.Opt[int64]                 `json:"firstActivity,omitzero"`
	LastActivity       wire.Opt[int64]                 `json:"lastActivity,omitzero"`
	DurationMs         wire.Opt[int64]                 `json:"durationMs,omitzero"`
	ActivityDates      wire.List[string]               `json:"activityDates"`
	DailyBreakdown     wire.List[dayCost]              `json:"dailyBreakdown"`
	DailyMessageCounts wire.List[dayMessages]          `json:"dailyMessageCounts"`
	DailyLatency       wire.Opt[wire.List[dayLatency]] `json:"dailyLatency,omitzero"`
	DailyModelUsage    wire.Opt[wire.List[modelDay]]   `json:"dailyModelUsage,omitzero"`
	MessageCounts      messageCounts                   `json:"messageCounts"`
	ToolUsage          wire.Opt[toolUsage]             `json:"toolUsage,omitzero"`
	ModelUsage         wire.Opt[wire.List[modelUsage]] `json:"modelUsage,omitzero"`
	Latency            wire.Opt[latencyShape]          `json:"latency,omitzero"`
}

// some is a list that is left out when it is empty.
func some[T any](l wire.List[T]) wire.Opt[wire.List[T]] {
	if len(l) == 0 {
		return wire.Opt[wire.List[T]]{}
	}
	return wire.Some(l)
}

func useOf(u *usage.SessionUse) wire.Opt[sessionUse] {
	if u == nil {
		return wire.NullOf[sessionUse]()
	}
	out := sessionUse{
		totalsShape: totalsOf(u.Totals), SessionID: wire.NonZero(u.SessionID), SessionFile: wire.NonZero(u.File),
		FirstActivity: maybeMS(u.First), LastActivity: maybeMS(u.Last), ActivityDates: u.Dates,
		DailyLatency: some(dayLatenciesOf(u.DailyLatency)), DailyModelUsage: some(modelDaysOf(u.DailyModels)),
		MessageCounts: messageCounts(u.Messages), ModelUsage: some(modelsOf(u.Models)), Latency: latencyOf(u.Latency),
	}
	if !u.First.IsZero() {
		out.DurationMs = wire.Some(u.Last.Sub(u.First).Milliseconds())
	}
	if len(u.Tools) > 0 {
		out.ToolUsage = wire.Some(toolsOf(u.Tools))
	}
	for _, d := range u.Daily {
		out.DailyBreakdown = append(out.DailyBreakdown, dayCost(d))
	}
	for _, d := range u.DailyMessages {
		out.DailyMessageCounts = append(out.DailyMessageCounts, dayMessages{d.Date, messageCounts(d.Messages)})
	}
	return wire.Some(out)
}

type sessionUsage struct {
	Key              string               `json:"key"`
	Label            wire.Opt[string]     `json:"label,omitzero"`
	SessionID        wire.Opt[string]     `json:"sessionId,omitzero"`
	UpdatedAt        wire.Opt[int64]      `json:"updatedAt,omitzero"`
	AgentID          wire.Opt[string]     `json:"agentId,omitzero"`
	Channel          wire.Opt[string]     `json:"channel,omitzero"`
	ChatType         wire.Opt[string]     `json:"chatType,omitzero"`
	Origin           wire.Raw             `json:"origin,omitzero"`
	ModelOverride    wire.Opt[string]     `json:"modelOverride,omitzero"`
	ProviderOverride wire.Opt[string]     `json:"providerOverride,omitzero"`
	ModelProvider    wire.Opt[string]     `json:"modelProvider,omitzero"`
	Model            wire.Opt[string]     `json:"model,omitzero"`
	Usage            wire.Opt[sessionUse] `json:"usage"`
	ContextWeight    wire.Opt[wire.Raw]   `json:"contextWeight,omitzero"`
}

type agentTotals struct {
	AgentID string      `json:"agentId"`
	Totals  totalsShape `json:"totals"`
}

type channelTotals struct {
	Channel string      `json:"channel"`
	Totals  totalsShape `json:"totals"`
}

type usageDay struct {
	Date      string  `json:"date"`
	Tokens    int64   `json:"tokens"`
	Cost      float64 `json:"cost"`
	Messages  int64   `json:"messages"`
	ToolCalls int64   `json:"toolCalls"`
	Errors    int64   `json:"errors"`
}

type usageAggregates struct {
	Messages     messageCounts            `json:"messages"`
	Tools        toolUsage                `json:"tools"`
	ByModel      wire.List[modelUsage]    `json:"byModel"`
	ByProvider   wire.List[modelUsage]    `json:"byProvider"`
	ByAgent      wire.List[agentTotals]   `json:"byAgent"`
	ByChannel    wire.List[channelTotals] `json:"byChannel"`
	Latency      wire.Opt[latencyShape]   `json:"latency,omitzero"`
	DailyLatency wire.List[dayLatency]    `json:"dailyLatency"`
	ModelDaily   wire.List[modelDay]      `json:"modelDaily"`
	Daily        wire.List[usageDay]      `json:"daily"`
}

type sessionsUsageResult struct {
	UpdatedAt  int64                   `json:"updatedAt"`
	StartDate  string                  `json:"startDate"`
	EndDate    string                  `json:"endDate"`
	Sessions   wire.List[sessionUsage] `json:"sessions"`
	Totals     totalsShape             `json:"totals"`
	Aggregates usageAggregates         `json:"aggregates"`
}

// SessionsUsageToLegacy writes the result of sessions.usage.
func SessionsUsageToLegacy(out usage.Sessions) any {
	a := out.Aggregates
	r := sessionsUsageResult{
		UpdatedAt: ms(out.At), StartDate: out.StartDate, EndDate: out.EndDate, Totals: totalsOf(out.Totals),
		Aggregates: usageAggregates{
			Messages: messageCounts(a.Messages), Tools: toolsOf(a.Tools), ByModel: modelsOf(a.ByModel), ByProvider: modelsOf(a.ByProvider),
			Latency: latencyOf(a.Latency), DailyLatency: dayLatenciesOf(a.DailyLatency), ModelDaily: modelDaysOf(a.ModelDaily),
		},
	}
	for _, t := range a.ByAgent {
		r.Aggregates.ByAgent = append(r.Aggregates.ByAgent, agentTotals{t.Name, totalsOf(t.Totals)})
	}
	for _, t := range a.ByChannel {
		r.Aggregates.ByChannel = append(r.Aggregates.ByChannel, channelTotals{t.Name, totalsOf(t.Totals)})
	}
	for _, d := range a.Daily {
		r.Aggregates.Daily = append(r.Aggregates.Daily, usageDay(d))
	}
	for _, s := range out.Sessions {
		row := sessionUsage{
			Key: s.Key, SessionID: wire.NonZero(s.SessionID), AgentID: wire.NonZero(s.AgentID), UpdatedAt: maybeMS(s.UpdatedAt),
			Channel: wire.NonZero(s.Channel()), Usage: useOf(s.Use),
		}
		if e := s.Entry; e != nil {
			row.Label, row.ChatType, row.Origin = wire.NonZero(e.Label), wire.NonZero(e.ChatType), originToLegacy(e.Origin)
			row.ModelOverride, row.ProviderOverride = wire.NonZero(e.ModelOverride), wire.NonZero(e.ProviderOverride)
			row.ModelProvider, row.Model = wire.NonZero(e.ModelProvider), wire.NonZero(e.Model)
		}
		if out.ContextWeight {
			row.ContextWeight = wire.NullOf[wire.Raw]()
			if len(s.ContextWeight) > 0 {
				row.ContextWeight = wire.Some(wire.Raw(s.ContextWeight))
			}
		}
		r.Sessions = append(r.Sessions, row)
	}
	return r
}

// UsageSeriesFromLegacy reads sessions.usage.timeseries, whose parameters nobody checks.
func UsageSeriesFromLegacy(p wire.Value) (string, error) { return looseText(p, "key"), nil }

type usagePoint struct {
	Timestamp        int64   `json:"timestamp"`
	Input            int64   `json:"input"`
	Output           int64   `json:"output"`
	CacheRead        int64   `json:"cacheRead"`
	CacheWrite       int64   `json:"cacheWrite"`
	TotalTokens      int64   `json:"totalTokens"`
	Cost             float64 `json:"cost"`
	CumulativeTokens int64   `json:"cumulativeTokens"`
	CumulativeCost   float64 `json:"cumulativeCost"`
}

type usageSeriesResult struct {
	SessionID wire.Opt[string]      `json:"sessionId,omitzero"`
	Points    wire.List[usagePoint] `json:"points"`
}

// UsageSeriesToLegacy writes the result of sessions.usage.timeseries.
func UsageSeriesToLegacy(out usage.Series) any {
	r := usageSeriesResult{SessionID: wire.NonZero(out.SessionID)}
	for _, p := range out.Points {
		t := p.Tokens
		r.Points = append(r.Points, usagePoint{ms(p.At), t.Input, t.Output, t.CacheRead, t.CacheWrite, t.Total, p.Cost, p.TokensSoFar, p.CostSoFar})
	}
	return r
}

// UsageLogsFromLegacy reads sessions.usage.logs, whose parameters nobody checks.
func UsageLogsFromLegacy(p wire.Value) (usage.LogsIn, error) {
	return usage.LogsIn{Key: looseText(p, "key"), Limit: looseCount(p, "limit")}, nil
}

type usageLog struct {
	Timestamp int64             `json:"timestamp"`
	Role      string            `json:"role"`
	Content   string            `json:"content"`
	Tokens    wire.Opt[int64]   `json:"tokens,omitzero"`
	Cost      wire.Opt[float64] `json:"cost,omitzero"`
}

type usageLogsResult struct {
	Logs wire.List[usageLog] `json:"logs"`
}

// UsageLogsToLegacy writes the result of sessions.usage.logs.
func UsageLogsToLegacy(logs []usage.Log) any {
	var r usageLogsResult
	for _, l := range logs {
		row := usageLog{Role: l.Role, Content: l.Text}
		if !l.At.IsZero() {
			row.Timestamp = ms(l.At)
		}
		if l.Tokens != nil {
			row.Tokens = wire.Some(*l.Tokens)
		}
		if l.Cost != nil {
			row.Cost = wire.Some(*l.Cost)
		}
		r.Logs = append(r.Logs, row)
	}
	return r
}
