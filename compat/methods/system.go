package methods

import (
	"slices"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/system"
)

type heartbeatShape struct {
	Enabled     bool             `json:"enabled"`
	Every       string           `json:"every"`
	EveryMs     wire.Opt[int64]  `json:"everyMs"`
	Prompt      string           `json:"prompt"`
	Target      string           `json:"target"`
	Model       wire.Opt[string] `json:"model,omitzero"`
	AckMaxChars int              `json:"ackMaxChars"`
}

type recentSession struct {
	Key       string          `json:"key"`
	UpdatedAt wire.Opt[int64] `json:"updatedAt"`
	Age       wire.Opt[int64] `json:"age"`
}

type sessionsShape struct {
	Path   string                   `json:"path"`
	Count  int                      `json:"count"`
	Recent wire.List[recentSession] `json:"recent"`
}

// changedToLegacy writes when a session changed and how long ago that is; both null when nobody knows.
func changedToLegacy(s system.Session, now time.Time) (updatedAt, age wire.Opt[int64]) {
	d, ok := s.Age(now)
	if !ok {
		return wire.NullOf[int64](), wire.NullOf[int64]()
	}
	return wire.Some(ms(s.UpdatedAt)), wire.Some(d.Milliseconds())
}

type agentHealth struct {
	AgentID   string           `json:"agentId"`
	Name      wire.Opt[string] `json:"name,omitzero"`
	IsDefault bool             `json:"isDefault"`
	Heartbeat heartbeatShape   `json:"heartbeat"`
	Sessions  sessionsShape    `json:"sessions"`
}

type healthShape struct {
	OK               bool                   `json:"ok"`
	TS               int64                  `json:"ts"`
	DurationMs       int64                  `json:"durationMs"`
	Channels         map[string]any         `json:"channels"`
	ChannelOrder     wire.List[string]      `json:"channelOrder"`
	ChannelLabels    map[string]string      `json:"channelLabels"`
	HeartbeatSeconds int64                  `json:"heartbeatSeconds"`
	DefaultAgentID   string                 `json:"defaultAgentId"`
	Agents           wire.List[agentHealth] `json:"agents"`
	Sessions         sessionsShape          `json:"sessions"`
}

func everyMs(h system.Heartbeat) wire.Opt[int64] {
	if h.Interval <= 0 {
		return wire.NullOf[int64]()
	}
	return wire.Some(h.Interval.Milliseconds())
}

// HealthFromLegacy reads health, which takes anything.
func HealthFromLegacy(p wire.Value) (bool, error) {
	probe, _ := p.Get("probe")
	return probe.Bool(), nil
}

// HealthToLegacy writes the health summary (control-plane.md §1). No channel is served yet.
func HealthToLegacy(h system.Health) any {
	out := healthShape{
		OK: true, TS: ms(h.At), DurationMs: h.Took.Milliseconds(),
		Channels: map[string]any{}, ChannelLabels: map[string]string{}, DefaultAgentID: h.DefaultAgentID,
	}
	for _, a := range h.Agents {
		s := sessionsShape{Path: a.SessionsPath, Count: a.SessionCount}
		for _, one := range a.Recent {
			row := recentSession{Key: one.Key}
			row.UpdatedAt, row.Age = changedToLegacy(one, h.At)
			s.Recent = append(s.Recent, row)
		}
		out.Agents = append(out.Agents, agentHealth{
			AgentID: a.ID, Name: wire.NonZero(a.Name), IsDefault: a.Default,
			Heartbeat: heartbeatShape{
				Enabled: a.Heartbeat.Enabled, Every: a.Heartbeat.Every, EveryMs: everyMs(a.Heartbeat),
				Prompt: a.Heartbeat.Prompt, Target: a.Heartbeat.Target, Model: wire.NonZero(a.Heartbeat.Model),
				AckMaxChars: a.Heartbeat.AckMaxChars,
			},
			Sessions: s,
		})
		if a.Default {
			out.Sessions = s
			out.HeartbeatSeconds = int64(a.Heartbeat.Interval / time.Second)
		}
	}
	return out
}

type agentHeartbeat struct {
	AgentID string          `json:"agentId"`
	Enabled bool            `json:"enabled"`
	Every   string          `json:"every"`
	EveryMs wire.Opt[int64] `json:"everyMs"`
}

type sessionStatus struct {
	AgentID          wire.Opt[string]  `json:"agentId,omitzero"`
	Key              string            `json:"key"`
	Kind             string            `json:"kind"`
	SessionID        wire.Opt[string]  `json:"sessionId,omitzero"`
	UpdatedAt        wire.Opt[int64]   `json:"updatedAt"`
	Age              wire.Opt[int64]   `json:"age"`
	ThinkingLevel    wire.Opt[string]  `json:"thinkingLevel,omitzero"`
	VerboseLevel     wire.Opt[string]  `json:"verboseLevel,omitzero"`
	ReasoningLevel   wire.Opt[string]  `json:"reasoningLevel,omitzero"`
	ElevatedLevel    wire.Opt[string]  `json:"elevatedLevel,omitzero"`
	SystemSent       wire.Opt[bool]    `json:"systemSent,omitzero"`
	AbortedLastRun   wire.Opt[bool]    `json:"abortedLastRun,omitzero"`
	InputTokens      wire.Opt[int64]   `json:"inputTokens,omitzero"`
	OutputTokens     wire.Opt[int64]   `json:"outputTokens,omitzero"`
	CacheRead        wire.Opt[int64]   `json:"cacheRead,omitzero"`
	CacheWrite       wire.Opt[int64]   `json:"cacheWrite,omitzero"`
	TotalTokens      wire.Opt[int64]   `json:"totalTokens"`
	TotalTokensFresh bool              `json:"totalTokensFresh"`
	RemainingTokens  wire.Opt[int64]   `json:"remainingTokens"`
	PercentUsed      wire.Opt[int]     `json:"percentUsed"`
	Model            wire.Opt[string]  `json:"model"`
	ContextTokens    wire.Opt[int64]   `json:"contextTokens"`
	Flags            wire.List[string] `json:"flags"`
}

// absent writes a value, or nothing for nil.
func absent[T any](v *T) wire.Opt[T] {
	if v == nil {
		return wire.Opt[T]{}
	}
	return wire.Some(*v)
}

func sessionStatusToLegacy(s system.Session, now time.Time) sessionStatus {
	out := sessionStatus{
		AgentID: wire.NonZero(s.AgentID), Key: s.Key, Kind: s.Kind, SessionID: wire.NonZero(s.ID),
		ThinkingLevel: wire.NonZero(s.Thinking), VerboseLevel: wire.NonZero(s.Verbose), ReasoningLevel: wire.NonZero(s.Reasoning),
		ElevatedLevel: wire.NonZero(s.Elevated), SystemSent: absent(s.SystemSent), AbortedLastRun: absent(s.Aborted),
		InputTokens: absent(s.Input), OutputTokens: absent(s.Output), CacheRead: absent(s.CacheRead), CacheWrite: absent(s.CacheWrite),
		TotalTokens: wire.NullOf[int64](), TotalTokensFresh: s.Fresh(), Model: wire.NullOf[string](), ContextTokens: wire.SomeOrNull(s.Context),
		Flags: s.Flags(),
	}
	out.UpdatedAt, out.Age = changedToLegacy(s, now)
	if s.Fresh() {
		out.TotalTokens = wire.Some(*s.Total)
	}
	if s.Model != "" {
		out.Model = wire.Some(s.Model)
	}
	left, percent := s.Remaining()
	out.RemainingTokens, out.PercentUsed = wire.SomeOrNull(left), wire.SomeOrNull(percent)
	return out
}

type agentSessions struct {
	AgentID string                   `json:"agentId"`
	Path    string                   `json:"path"`
	Count   int                      `json:"count"`
	Recent  wire.List[sessionStatus] `json:"recent"`
}

type sessionDefaults struct {
	Model         wire.Opt[string] `json:"model"`
	ContextTokens wire.Opt[int64]  `json:"contextTokens"`
}

type statusHeartbeat struct {
	DefaultAgentID string                    `json:"defaultAgentId"`
	Agents         wire.List[agentHeartbeat] `json:"agents"`
}

type statusSessions struct {
	Paths    wire.List[string]        `json:"paths"`
	Count    int                      `json:"count"`
	Defaults sessionDefaults          `json:"defaults"`
	Recent   wire.List[sessionStatus] `json:"recent"`
	ByAgent  wire.List[agentSessions] `json:"byAgent"`
}

type statusShape struct {
	Heartbeat          statusHeartbeat   `json:"heartbeat"`
	ChannelSummary     wire.List[string] `json:"channelSummary"`
	QueuedSystemEvents wire.List[string] `json:"queuedSystemEvents"`
	Sessions           statusSessions    `json:"sessions"`
}

// maxRecent is how many sessions of all agents status names.
const maxRecent = 10

// StatusToLegacy writes status (control-plane.md §1). Callers without the admin scope see no
// paths.
func StatusToLegacy(s system.Status) any {
	out := statusShape{Heartbeat: statusHeartbeat{DefaultAgentID: s.DefaultAgentID}, QueuedSystemEvents: s.QueuedEvents}
	out.Sessions.Defaults = sessionDefaults{Model: wire.NullOf[string](), ContextTokens: wire.SomeOrNull(s.Defaults.Context)}
	if s.Defaults.Model != "" {
		out.Sessions.Defaults.Model = wire.Some(s.Defaults.Model)
	}
	var all []system.Session
	for _, a := range s.Agents {
		out.Heartbeat.Agents = append(out.Heartbeat.Agents, agentHeartbeat{
			AgentID: a.ID, Enabled: a.Heartbeat.Enabled, Every: a.Heartbeat.Every, EveryMs: everyMs(a.Heartbeat),
		})
		of := agentSessions{AgentID: a.ID, Path: "[redacted]", Count: a.SessionCount}
		if s.Admin {
			of.Path = a.SessionsPath
			out.Sessions.Paths = append(out.Sessions.Paths, of.Path)
		}
		for _, one := range a.Recent {
			of.Recent = append(of.Recent, sessionStatusToLegacy(one, s.At))
		}
		all = append(all, a.Recent...)
		out.Sessions.Count += a.SessionCount
		out.Sessions.ByAgent = append(out.Sessions.ByAgent, of)
	}
	slices.SortStableFunc(all, func(a, b system.Session) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	for _, one := range all[:min(len(all), maxRecent)] {
		out.Sessions.Recent = append(out.Sessions.Recent, sessionStatusToLegacy(one, s.At))
	}
	return out
}

// Presence is an entry of system-presence (protocol.md §6.4).
type Presence struct {
	Host             wire.Opt[string]  `json:"host,omitzero"`
	IP               wire.Opt[string]  `json:"ip,omitzero"`
	Version          wire.Opt[string]  `json:"version,omitzero"`
	Platform         wire.Opt[string]  `json:"platform,omitzero"`
	DeviceFamily     wire.Opt[string]  `json:"deviceFamily,omitzero"`
	ModelIdentifier  wire.Opt[string]  `json:"modelIdentifier,omitzero"`
	LastInputSeconds wire.Opt[float64] `json:"lastInputSeconds,omitzero"`
	Mode             wire.Opt[string]  `json:"mode,omitzero"`
	Reason           wire.Opt[string]  `json:"reason,omitzero"`
	DeviceID         wire.Opt[string]  `json:"deviceId,omitzero"`
	Roles            []string          `json:"roles,omitempty"`
	Scopes           []string          `json:"scopes,omitempty"`
	InstanceID       wire.Opt[string]  `json:"instanceId,omitzero"`
	Text             string            `json:"text"`
	TS               int64             `json:"ts"`
}

func presenceToLegacy(p system.Presence) Presence {
	out := Presence{
		Host: wire.NonZero(p.Host), IP: wire.NonZero(p.IP), Version: wire.NonZero(p.Version),
		Platform: wire.NonZero(p.Platform), DeviceFamily: wire.NonZero(p.DeviceFamily),
		ModelIdentifier: wire.NonZero(p.ModelIdentifier), Mode: wire.NonZero(p.Mode),
		Reason: wire.NonZero(p.Reason), DeviceID: wire.NonZero(p.DeviceID),
		InstanceID: wire.NonZero(p.InstanceID), Text: p.Text, TS: ms(p.At),
	}
	if p.LastInputSeconds != nil {
		out.LastInputSeconds = wire.Some(*p.LastInputSeconds)
	}
	for _, r := range p.Roles {
		out.Roles = append(out.Roles, string(r))
	}
	for _, s := range p.Scopes {
		out.Scopes = append(out.Scopes, string(s))
	}
	return out
}

// PresenceToLegacy writes the result of system-presence.
func PresenceToLegacy(entries []system.Presence) any {
	out := make(wire.List[Presence], len(entries))
	for i, p := range entries {
		out[i] = presenceToLegacy(p)
	}
	return out
}

// PresenceRow writes one entry of system-presence.
func PresenceRow(p system.Presence) any { return presenceToLegacy(p) }

type presenceEvent struct {
	Presence any `json:"presence"`
}

// PresenceChangedToLegacy writes the payload of the event presence.
func PresenceChangedToLegacy(e system.PresenceChanged) any {
	return presenceEvent{PresenceToLegacy(e.Entries)}
}

type tailParams struct {
	Cursor   wire.Opt[wire.Int] `json:"cursor"`
	Limit    wire.Opt[wire.Int] `json:"limit"`
	MaxBytes wire.Opt[wire.Int] `json:"maxBytes"`
}

type tailResult struct {
	File      string            `json:"file"`
	Cursor    int64             `json:"cursor"`
	Size      int64             `json:"size"`
	Lines     wire.List[string] `json:"lines"`
	Truncated bool              `json:"truncated"`
	Reset     bool              `json:"reset"`
}

// TailFromLegacy reads logs.tail.
func TailFromLegacy(p wire.Value) (system.TailIn, error) {
	var in tailParams
	if err := wire.Decode(p, &in); err != nil {
		return system.TailIn{}, err
	}
	out := system.TailIn{Limit: int(in.Limit.Or(0)), MaxBytes: int(in.MaxBytes.Or(0))}
	if c, ok := in.Cursor.Get(); ok {
		n := int64(c)
		out.Cursor = &n
	}
	return out, nil
}

// TailToLegacy writes the result of logs.tail.
func TailToLegacy(out system.TailOut) any {
	return tailResult{
		File: out.File, Cursor: out.Cursor, Size: out.Size, Lines: out.Lines,
		Truncated: out.Truncated, Reset: out.Reset,
	}
}

type tickEvent struct {
	TS int64 `json:"ts"`
}

// TickToLegacy writes the payload of the event tick.
func TickToLegacy(e system.Tick) any { return tickEvent{ms(e.At)} }

type shutdownEvent struct {
	Reason            string          `json:"reason"`
	RestartExpectedMs wire.Opt[int64] `json:"restartExpectedMs"`
}

// ShutdownToLegacy writes the payload of the event shutdown.
func ShutdownToLegacy(e system.Shutdown) any {
	out := shutdownEvent{Reason: e.Reason, RestartExpectedMs: wire.NullOf[int64]()}
	if e.RestartExpected != nil {
		out.RestartExpectedMs = wire.Some(e.RestartExpected.Milliseconds())
	}
	return out
}
