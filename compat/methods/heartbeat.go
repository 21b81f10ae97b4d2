package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system"
)

// heartbeatReport is the event heartbeat and the result of last-heartbeat (control-plane.md §3).
type heartbeatReport struct {
	TS         int64            `json:"ts"`
	Status     string           `json:"status"`
	To         wire.Opt[string] `json:"to,omitzero"`
	AccountID  wire.Opt[string] `json:"accountId,omitzero"`
	Preview    wire.Opt[string] `json:"preview,omitzero"`
	DurationMs wire.Opt[int64]  `json:"durationMs,omitzero"`
	HasMedia   wire.Opt[bool]   `json:"hasMedia,omitzero"`
	Reason     wire.Opt[string] `json:"reason,omitzero"`
	Channel    wire.Opt[string] `json:"channel,omitzero"`
	Silent     wire.Opt[bool]   `json:"silent,omitzero"`
	Indicator  wire.Opt[string] `json:"indicatorType,omitzero"`
}

// HeartbeatToLegacy writes the payload of the event heartbeat.
func HeartbeatToLegacy(r heartbeat.Report) any {
	out := heartbeatReport{
		TS: ms(r.At), Status: string(r.Status), To: wire.NonZero(r.To), AccountID: wire.NonZero(r.AccountID),
		Preview: wire.NonZero(r.Preview), HasMedia: wire.NonZero(r.HasMedia), Reason: wire.NonZero(r.Reason),
		Channel: wire.NonZero(r.Channel), Silent: wire.NonZero(r.Silent), Indicator: wire.NonZero(r.Indicator),
	}
	if r.Took != nil {
		out.DurationMs = wire.Some(r.Took.Milliseconds())
	}
	return out
}

// LastHeartbeatToLegacy writes the result of last-heartbeat: null before the first.
func LastHeartbeatToLegacy(r *heartbeat.Report) any {
	if r == nil {
		return wire.Raw("null")
	}
	return HeartbeatToLegacy(*r)
}

type setHeartbeats struct {
	OK      bool `json:"ok"`
	Enabled bool `json:"enabled"`
}

// SetHeartbeatsFromLegacy reads set-heartbeats.
func SetHeartbeatsFromLegacy(p wire.Value) (heartbeat.SetIn, error) {
	v, _ := p.Get("enabled")
	return heartbeat.SetIn{Enabled: v.Bool()}, nil
}

// SetHeartbeatsToLegacy writes the result of set-heartbeats.
func SetHeartbeatsToLegacy(out heartbeat.SetOut) any { return setHeartbeats{true, out.Enabled} }

type wakeParams struct {
	Mode string `json:"mode"`
	Text string `json:"text"`
}

// WakeFromLegacy reads wake.
func WakeFromLegacy(p wire.Value) (system.WakeIn, error) {
	var in wakeParams
	if err := wire.Decode(p, &in); err != nil {
		return system.WakeIn{}, err
	}
	return system.WakeIn{Text: in.Text, Mode: system.WakeMode(in.Mode)}, nil
}

// WakeToLegacy writes the result of wake.
func WakeToLegacy(system.WakeOut) any { return OK{true} }

// SystemEventFromLegacy reads system-event, which has no schema: a value of the wrong type counts as absent, and
// so does a list with an item that is no text.
func SystemEventFromLegacy(p wire.Value) (system.EventIn, error) {
	text := func(key string) *string {
		if v, ok := p.Get(key); ok && v.Kind() == wire.String {
			s := v.Str()
			return &s
		}
		return nil
	}
	in := system.EventIn{
		DeviceID: text("deviceId"), InstanceID: text("instanceId"), Host: text("host"), IP: text("ip"), Mode: text("mode"),
		Version: text("version"), Platform: text("platform"), DeviceFamily: text("deviceFamily"),
		ModelIdentifier: text("modelIdentifier"), Reason: text("reason"),
		Roles: textsOf[identity.Role](p, "roles"), Scopes: textsOf[identity.Scope](p, "scopes"),
	}
	if t := text("text"); t != nil {
		in.Text = *t
	}
	if v, ok := p.Get("lastInputSeconds"); ok && v.Kind() == wire.Number {
		n := v.Num()
		in.LastInputSeconds = &n
	}
	return in, nil
}

func textsOf[T ~string](p wire.Value, key string) []T {
	list, ok := p.Get(key)
	if !ok || list.Kind() != wire.Array {
		return nil
	}
	var out []T
	for v := range list.Items() {
		if v.Kind() != wire.String {
			return nil
		}
		out = append(out, T(v.Str()))
	}
	return out
}

// SystemEventToLegacy writes the result of system-event.
func SystemEventToLegacy(system.EventOut) any { return OK{true} }

type memoryStatus struct {
	AgentID   string           `json:"agentId"`
	Provider  wire.Opt[string] `json:"provider,omitzero"`
	Embedding struct {
		OK    bool             `json:"ok"`
		Error wire.Opt[string] `json:"error,omitzero"`
	} `json:"embedding"`
}

// MemoryToLegacy writes the result of doctor.memory.status.
func MemoryToLegacy(m system.Memory) any {
	out := memoryStatus{AgentID: m.AgentID, Provider: wire.NonZero(m.Provider)}
	out.Embedding.OK, out.Embedding.Error = m.OK, wire.NonZero(m.Fault)
	return out
}
