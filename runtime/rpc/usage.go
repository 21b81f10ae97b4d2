package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions/transcript"
	"github.com/hanzoai/hanzod/sessions/usage"
)

// Usage is what the door needs of usage.Service.
type Usage interface {
	Cost(context.Context, identity.Caller, usage.Range) (usage.Cost, error)
	Status(context.Context, identity.Caller) (usage.Status, error)
	Sessions(context.Context, identity.Caller, usage.SessionsIn) (usage.Sessions, error)
	Series(ctx context.Context, c identity.Caller, key string) (usage.Series, error)
	Logs(context.Context, identity.Caller, usage.LogsIn) ([]usage.Log, error)
}

type usageServer struct {
	sessionsv1.UnimplementedUsageServiceServer
	s *Server
}

func (x *usageServer) GetCost(ctx context.Context, req *sessionsv1.GetCostRequest) (*sessionsv1.GetCostResponse, error) {
	return call(ctx, req, costFromProto, x.s.d.Usage.Cost, costToProto)
}

func (x *usageServer) GetProviders(ctx context.Context, req *sessionsv1.GetProvidersRequest) (*sessionsv1.GetProvidersResponse, error) {
	return call(ctx, req, nothing, without(x.s.d.Usage.Status), providersToProto)
}

func (x *usageServer) GetSessionsUsage(ctx context.Context, req *sessionsv1.GetSessionsUsageRequest) (*sessionsv1.GetSessionsUsageResponse, error) {
	return call(ctx, req, sessionsUsageFromProto, x.s.d.Usage.Sessions, sessionsUsageToProto)
}

func (x *usageServer) GetSessionSeries(ctx context.Context, req *sessionsv1.GetSessionSeriesRequest) (*sessionsv1.GetSessionSeriesResponse, error) {
	return call(ctx, req, func(r *sessionsv1.GetSessionSeriesRequest) (string, error) { return r.GetKey(), nil }, x.s.d.Usage.Series, seriesToProto)
}

func (x *usageServer) GetSessionLogs(ctx context.Context, req *sessionsv1.GetSessionLogsRequest) (*sessionsv1.GetSessionLogsResponse, error) {
	return call(ctx, req, usageLogsFromProto, x.s.d.Usage.Logs, usageLogsToProto)
}

func rangeFromProto(r *sessionsv1.DayRange) usage.Range {
	return usage.Range{StartDate: r.GetStartDate(), EndDate: r.GetEndDate(), Days: int(r.GetDays()), Mode: r.GetMode(), UTCOffset: r.GetUtcOffset()}
}

func costFromProto(r *sessionsv1.GetCostRequest) (usage.Range, error) {
	return rangeFromProto(r.GetRange()), nil
}

func tokensToProto(t usage.Tokens) *sessionsv1.Tokens {
	return &sessionsv1.Tokens{Input: t.Input, Output: t.Output, CacheRead: t.CacheRead, CacheWrite: t.CacheWrite, Total: t.Total}
}

func priceToProto(c transcript.Cost) *sessionsv1.Price {
	return &sessionsv1.Price{Input: c.Input, Output: c.Output, CacheRead: c.CacheRead, CacheWrite: c.CacheWrite, Total: c.Total}
}

func totalsToProto(t usage.Totals) *sessionsv1.Totals {
	return &sessionsv1.Totals{Tokens: tokensToProto(t.Tokens), Cost: priceToProto(t.Cost), MissingCost: t.MissingCost}
}

func costToProto(out usage.Cost) (*sessionsv1.GetCostResponse, error) {
	r := &sessionsv1.GetCostResponse{At: timeToProto(out.At), Days: clampInt32(out.Days), Totals: totalsToProto(out.Totals)}
	for _, d := range out.Daily {
		r.Daily = append(r.Daily, &sessionsv1.DayTotals{Date: cleanText(d.Date), Totals: totalsToProto(d.Totals)})
	}
	return r, nil
}

func providersToProto(out usage.Status) (*sessionsv1.GetProvidersResponse, error) {
	r := &sessionsv1.GetProvidersResponse{At: timeToProto(out.At)}
	for _, p := range out.Providers {
		x := &sessionsv1.ProviderUsage{Id: cleanText(p.ID), Name: cleanText(p.Name), Plan: cleanText(p.Plan), Error: cleanText(p.Error)}
		for _, w := range p.Windows {
			x.Windows = append(x.Windows, &sessionsv1.ProviderWindow{Label: cleanText(w.Label), UsedPercent: w.UsedPercent, ResetAt: timeToProto(w.ResetAt)})
		}
		r.Providers = append(r.Providers, x)
	}
	return r, nil
}

func sessionsUsageFromProto(r *sessionsv1.GetSessionsUsageRequest) (usage.SessionsIn, error) {
	return usage.SessionsIn{Range: rangeFromProto(r.GetRange()), Key: r.GetKey(), Limit: int(r.GetLimit()), ContextWeight: r.GetContextWeight()}, nil
}

func messageCountsToProto(m usage.Messages) *sessionsv1.MessageCounts {
	return &sessionsv1.MessageCounts{
		Total: m.Total, User: m.User, Assistant: m.Assistant, ToolCalls: m.ToolCalls, ToolResults: m.ToolResults, Errors: m.Errors,
	}
}

func toolsToProto(in []usage.ToolUsage) (out []*sessionsv1.ToolUsage) {
	for _, t := range in {
		out = append(out, &sessionsv1.ToolUsage{Name: cleanText(t.Name), Count: t.Count})
	}
	return out
}

func modelUsageToProto(in []usage.ModelUsage) (out []*sessionsv1.ModelUsage) {
	for _, m := range in {
		out = append(out, &sessionsv1.ModelUsage{Provider: cleanText(m.Provider), Model: cleanText(m.Model), Count: m.Count, Totals: totalsToProto(m.Totals)})
	}
	return out
}

func modelDaysToProto(in []usage.ModelDay) (out []*sessionsv1.ModelDay) {
	for _, m := range in {
		out = append(out, &sessionsv1.ModelDay{
			Date: cleanText(m.Date), Provider: cleanText(m.Provider), Model: cleanText(m.Model), Tokens: m.Tokens, Cost: m.Cost, Count: m.Count,
		})
	}
	return out
}

func latencyToProto(l usage.Latency) *sessionsv1.Latency {
	millis := func(ms float64) *durationpb.Duration {
		return durationpb.New(time.Duration(ms * float64(time.Millisecond)))
	}
	return &sessionsv1.Latency{Count: l.Count, Average: millis(l.Avg), P95: millis(l.P95), Fastest: millis(l.Fastest), Longest: millis(l.Longest)}
}

func dayLatenciesToProto(in []usage.DayLatency) (out []*sessionsv1.DayLatency) {
	for _, d := range in {
		out = append(out, &sessionsv1.DayLatency{Date: cleanText(d.Date), Latency: latencyToProto(d.Latency)})
	}
	return out
}

func namedToProto(in []usage.NamedTotals) (out []*sessionsv1.NamedTotals) {
	for _, n := range in {
		out = append(out, &sessionsv1.NamedTotals{Name: cleanText(n.Name), Totals: totalsToProto(n.Totals)})
	}
	return out
}

func useToProto(u *usage.SessionUse) *sessionsv1.SessionUse {
	if u == nil {
		return nil
	}
	p := &sessionsv1.SessionUse{
		Totals: totalsToProto(u.Totals), SessionId: cleanText(u.SessionID), File: cleanText(u.File), First: timeToProto(u.First), Last: timeToProto(u.Last),
		Dates: cleanTexts(u.Dates), DailyLatency: dayLatenciesToProto(u.DailyLatency), DailyModels: modelDaysToProto(u.DailyModels),
		Messages: messageCountsToProto(u.Messages), Tools: toolsToProto(u.Tools), Models: modelUsageToProto(u.Models), Latency: latencyToProto(u.Latency),
	}
	for _, d := range u.Daily {
		p.Daily = append(p.Daily, &sessionsv1.DayCost{Date: cleanText(d.Date), Tokens: d.Tokens, Cost: d.Cost})
	}
	for _, d := range u.DailyMessages {
		p.DailyMessages = append(p.DailyMessages, &sessionsv1.DayMessages{Date: cleanText(d.Date), Messages: messageCountsToProto(d.Messages)})
	}
	return p
}

func sessionsUsageToProto(out usage.Sessions) (*sessionsv1.GetSessionsUsageResponse, error) {
	a := out.Aggregates
	r := &sessionsv1.GetSessionsUsageResponse{
		At: timeToProto(out.At), StartDate: cleanText(out.StartDate), EndDate: cleanText(out.EndDate), Totals: totalsToProto(out.Totals),
		Aggregates: &sessionsv1.Aggregates{
			Messages: messageCountsToProto(a.Messages), Tools: toolsToProto(a.Tools), ByModel: modelUsageToProto(a.ByModel),
			ByProvider: modelUsageToProto(a.ByProvider), ByAgent: namedToProto(a.ByAgent), ByChannel: namedToProto(a.ByChannel),
			Latency: latencyToProto(a.Latency), DailyLatency: dayLatenciesToProto(a.DailyLatency), ModelDaily: modelDaysToProto(a.ModelDaily),
		},
	}
	for _, d := range a.Daily {
		r.Aggregates.Daily = append(r.Aggregates.Daily, &sessionsv1.Day{
			Date: cleanText(d.Date), Tokens: d.Tokens, Cost: d.Cost, Messages: d.Messages, ToolCalls: d.ToolCalls, Errors: d.Errors,
		})
	}
	for _, s := range out.Sessions {
		row := &sessionsv1.SessionUsage{
			Key: cleanText(s.Key), AgentId: cleanText(s.AgentID), SessionId: cleanText(s.SessionID), UpdatedAt: timeToProto(s.UpdatedAt),
			Channel: cleanText(s.Channel()), Use: useToProto(s.Use),
		}
		if e := s.Entry; e != nil {
			row.Label, row.ChatType = cleanText(e.Label), cleanText(e.ChatType)
			row.ProviderOverride, row.ModelOverride = cleanText(e.ProviderOverride), cleanText(e.ModelOverride)
			row.ModelProvider, row.Model = cleanText(e.ModelProvider), cleanText(e.Model)
		}
		if len(s.ContextWeight) > 0 {
			row.ContextWeight, _ = structFromJSON(s.ContextWeight) // one that is no object is left out
		}
		r.Sessions = append(r.Sessions, row)
	}
	return r, nil
}

func seriesToProto(out usage.Series) (*sessionsv1.GetSessionSeriesResponse, error) {
	r := &sessionsv1.GetSessionSeriesResponse{SessionId: cleanText(out.SessionID)}
	for _, p := range out.Points {
		r.Points = append(r.Points, &sessionsv1.UsagePoint{
			At: timeToProto(p.At), Tokens: tokensToProto(p.Tokens), Cost: p.Cost, TokensSoFar: p.TokensSoFar, CostSoFar: p.CostSoFar,
		})
	}
	return r, nil
}

func usageLogsFromProto(r *sessionsv1.GetSessionLogsRequest) (usage.LogsIn, error) {
	return usage.LogsIn{Key: r.GetKey(), Limit: int(r.GetLimit())}, nil
}

func usageLogsToProto(logs []usage.Log) (*sessionsv1.GetSessionLogsResponse, error) {
	r := &sessionsv1.GetSessionLogsResponse{}
	for _, l := range logs {
		r.Logs = append(r.Logs, &sessionsv1.UsageLog{At: timeToProto(l.At), Role: cleanText(l.Role), Text: cleanText(l.Text), Tokens: l.Tokens, Cost: l.Cost})
	}
	return r, nil
}
