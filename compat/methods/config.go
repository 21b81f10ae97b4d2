package methods

import (
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/config/schema"
)

type configIssueShape struct {
	Path          string        `json:"path"`
	Message       string        `json:"message"`
	AllowedValues []string      `json:"allowedValues,omitempty"`
	HiddenCount   wire.Opt[int] `json:"allowedValuesHiddenCount,omitzero"`
}

type configShape struct {
	Path         string                      `json:"path"`
	Exists       bool                        `json:"exists"`
	Raw          wire.Opt[string]            `json:"raw"`
	Parsed       wire.Raw                    `json:"parsed"`
	Resolved     wire.Raw                    `json:"resolved"`
	Valid        bool                        `json:"valid"`
	Config       wire.Raw                    `json:"config"`
	Hash         string                      `json:"hash"`
	Issues       wire.List[configIssueShape] `json:"issues"`
	Warnings     wire.List[configIssueShape] `json:"warnings"`
	LegacyIssues wire.List[configIssueShape] `json:"legacyIssues"`
}

// ConfigGetFromLegacy reads config.get, which has no parameters.
func ConfigGetFromLegacy(wire.Value) (live.GetIn, error) { return live.GetIn{}, nil }

// ConfigToLegacy writes the result of config.get.
func ConfigToLegacy(o live.GetOut) any {
	v := o.View
	out := configShape{
		Path: v.Path, Exists: v.Exists, Raw: null(v.Raw), Parsed: treeToLegacy(v.Parsed), Resolved: treeToLegacy(v.Resolved),
		Valid: v.Valid, Config: treeToLegacy(v.Config), Hash: v.Hash,
	}
	out.Issues, out.Warnings, out.LegacyIssues = issuesToLegacy(v.Issues), issuesToLegacy(o.Warnings), issuesToLegacy(v.LegacyIssues)
	if !v.Valid && o.Fault != "" {
		out.Issues = append(out.Issues, configIssueShape{Message: o.Fault}) // that another configuration is in force
	}
	return out
}

func issuesToLegacy(in []config.Issue) (out []configIssueShape) {
	for _, i := range in {
		is := configIssueShape{Path: i.Path, Message: i.Message, AllowedValues: i.AllowedValues}
		if len(i.AllowedValues) > 0 {
			is.HiddenCount = wire.Some(i.Hidden)
		}
		out = append(out, is)
	}
	return out
}

// ConfigIssues are the details of a configuration that was refused.
func ConfigIssues(in []config.Issue) wire.Raw {
	return wire.MustMarshal(struct {
		Issues wire.List[configIssueShape] `json:"issues"`
	}{issuesToLegacy(in)})
}

type configWrite struct {
	Raw            string             `json:"raw"`
	BaseHash       wire.Opt[string]   `json:"baseHash"`
	SessionKey     wire.Opt[string]   `json:"sessionKey"`
	Note           wire.Opt[string]   `json:"note"`
	RestartDelayMs wire.Opt[wire.Int] `json:"restartDelayMs"`
}

func text(o wire.Opt[string]) string {
	if v, ok := o.Get(); ok {
		return v
	}
	return ""
}

// ConfigSetFromLegacy reads config.set.
func ConfigSetFromLegacy(p wire.Value) (live.SetIn, error) {
	var in configWrite
	if err := wire.Decode(p, &in); err != nil {
		return live.SetIn{}, err
	}
	return live.SetIn{Raw: in.Raw, BaseHash: text(in.BaseHash)}, nil
}

// ConfigApplyFromLegacy reads config.apply and config.patch.
func ConfigApplyFromLegacy(p wire.Value) (live.ApplyIn, error) {
	var in configWrite
	if err := wire.Decode(p, &in); err != nil {
		return live.ApplyIn{}, err
	}
	out := live.ApplyIn{
		SetIn: live.SetIn{Raw: in.Raw, BaseHash: text(in.BaseHash)}, SessionKey: strings.TrimSpace(text(in.SessionKey)), Note: strings.TrimSpace(text(in.Note)),
	}
	if ms, ok := in.RestartDelayMs.Get(); ok {
		// Beyond what a restart may wait it makes no difference.
		d := time.Duration(min(int64(ms), live.MaxRestartDelay.Milliseconds())) * time.Millisecond
		out.Delay = &d
	}
	return out, nil
}

type configWritten struct {
	OK     bool     `json:"ok"`
	Path   string   `json:"path"`
	Config wire.Raw `json:"config"`
}

// ConfigSetToLegacy writes the result of config.set.
func ConfigSetToLegacy(o live.SetOut) any {
	return configWritten{true, o.Path, treeToLegacy(o.View)}
}

type restartShape struct {
	OK                bool             `json:"ok"`
	PID               int              `json:"pid"`
	Signal            string           `json:"signal"`
	DelayMs           int64            `json:"delayMs"`
	Reason            wire.Opt[string] `json:"reason,omitzero"`
	Mode              string           `json:"mode"`
	Coalesced         bool             `json:"coalesced"`
	CooldownMsApplied int64            `json:"cooldownMsApplied"`
}

// RestartToLegacy writes a planned restart (control-plane.md §4 "R").
func RestartToLegacy(r live.Restart) any {
	return restartShape{
		OK: true, PID: r.PID, Signal: "SIGUSR1", DelayMs: r.Delay.Milliseconds(), Reason: wire.NonZero(r.Reason), Mode: "emit",
		Coalesced: r.Coalesced, CooldownMsApplied: r.Cooldown.Milliseconds(),
	}
}

type sentinelStats struct {
	Mode string           `json:"mode"`
	Root wire.Opt[string] `json:"root,omitzero"`
}

type sentinelPayload struct {
	Kind       string           `json:"kind"`
	Status     string           `json:"status"`
	TS         int64            `json:"ts"`
	SessionKey wire.Opt[string] `json:"sessionKey,omitzero"`
	Message    wire.Opt[string] `json:"message"`
	DoctorHint wire.Opt[string] `json:"doctorHint"`
	Stats      sentinelStats    `json:"stats"`
}

type sentinelShape struct {
	Path    wire.Opt[string] `json:"path"`
	Payload sentinelPayload  `json:"payload"`
}

// SentinelToLegacy writes the note for after the restart.
func SentinelToLegacy(path string, s live.Sentinel) any {
	out := sentinelShape{Path: wire.NullOf[string](), Payload: sentinelPayload{
		Kind: s.Kind, Status: s.Status, TS: ms(s.At), SessionKey: wire.NonZero(s.SessionKey), Message: null(s.Message), DoctorHint: null(s.Hint),
		Stats: sentinelStats{s.Mode, wire.NonZero(s.Root)},
	}}
	if path != "" {
		out.Path = wire.Some(path)
	}
	return out
}

type configApplied struct {
	OK       bool     `json:"ok"`
	Path     string   `json:"path"`
	Config   wire.Raw `json:"config"`
	Restart  any      `json:"restart"`
	Sentinel any      `json:"sentinel"`
}

// ConfigApplyToLegacy writes the result of config.apply and config.patch.
func ConfigApplyToLegacy(o live.ApplyOut) any {
	return configApplied{true, o.Path, treeToLegacy(o.View), RestartToLegacy(o.Restart), SentinelToLegacy(o.SentinelPath, o.Sentinel)}
}

type hintShape struct {
	Label     wire.Opt[string] `json:"label,omitzero"`
	Help      wire.Opt[string] `json:"help,omitzero"`
	Tags      []string         `json:"tags,omitempty"`
	Group     wire.Opt[string] `json:"group,omitzero"`
	Order     wire.Opt[int]    `json:"order,omitzero"`
	Advanced  bool             `json:"advanced,omitempty"`
	Sensitive bool             `json:"sensitive,omitempty"`
}

func hintToLegacy(h *schema.Hint) wire.Opt[hintShape] {
	if h == nil {
		return wire.Opt[hintShape]{}
	}
	return wire.Some(hintShape{
		Label: wire.NonZero(h.Label), Help: wire.NonZero(h.Help), Tags: h.Tags, Group: wire.NonZero(h.Group), Order: wire.NonZero(h.Order),
		Advanced: h.Advanced, Sensitive: h.Sensitive,
	})
}

func hintPath(h *schema.Hint) wire.Opt[string] {
	if h == nil {
		return wire.Opt[string]{}
	}
	return wire.Some(h.Path)
}

// ConfigSchemaToLegacy writes the result of config.schema.
func ConfigSchemaToLegacy(o live.SchemaOut) any {
	hints := []byte{'{'}
	for i, h := range o.Hints {
		if i > 0 {
			hints = append(hints, ',')
		}
		hints = append(wire.AppendString(hints, h.Path), ':')
		hints = append(hints, wire.MustMarshal(hintToLegacy(&h))...)
	}
	return struct {
		Schema      wire.Raw `json:"schema"`
		UIHints     wire.Raw `json:"uiHints"`
		Version     string   `json:"version"`
		GeneratedAt string   `json:"generatedAt"`
	}{treeToLegacy(o.Schema), append(hints, '}'), o.Version, o.At.UTC().Format("2006-01-02T15:04:05.000Z")}
}

// ConfigLookupFromLegacy reads config.schema.lookup.
func ConfigLookupFromLegacy(p wire.Value) (live.LookupIn, error) {
	var in struct {
		Path string `json:"path"`
	}
	err := wire.Decode(p, &in)
	return live.LookupIn{Path: in.Path}, err
}

type schemaChild struct {
	Key         string              `json:"key"`
	Path        string              `json:"path"`
	Type        wire.Opt[string]    `json:"type,omitzero"`
	Required    bool                `json:"required"`
	HasChildren bool                `json:"hasChildren"`
	Hint        wire.Opt[hintShape] `json:"hint,omitzero"`
	HintPath    wire.Opt[string]    `json:"hintPath,omitzero"`
}

// ConfigLookupToLegacy writes the result of config.schema.lookup.
func ConfigLookupToLegacy(l schema.Lookup) any {
	out := struct {
		Path     string                 `json:"path"`
		Schema   wire.Raw               `json:"schema"`
		Hint     wire.Opt[hintShape]    `json:"hint,omitzero"`
		HintPath wire.Opt[string]       `json:"hintPath,omitzero"`
		Children wire.List[schemaChild] `json:"children"`
	}{Path: l.Path, Schema: treeToLegacy(l.Schema), Hint: hintToLegacy(l.Hint), HintPath: hintPath(l.Hint)}
	for _, c := range l.Children {
		out.Children = append(out.Children, schemaChild{
			Key: c.Key, Path: c.Path, Type: wire.NonZero(c.Type), Required: c.Required, HasChildren: c.HasChildren, Hint: hintToLegacy(c.Hint), HintPath: hintPath(c.Hint),
		})
	}
	return out
}

// ConfigChangedToLegacy writes the event config.changed, which this door does not deliver.
func ConfigChangedToLegacy(c live.Changed) any {
	return struct {
		Hash   string            `json:"hash"`
		Paths  wire.List[string] `json:"paths"`
		Effect string            `json:"effect"`
		Fault  wire.Opt[string]  `json:"fault,omitzero"`
		TS     int64             `json:"ts"`
	}{c.Hash, c.Paths, c.Effect.String(), wire.NonZero(c.Fault), ms(c.At)}
}

// treeToLegacy writes a tree as JSON, keys in order; null without one.
func treeToLegacy(n *json5.Node) wire.Raw { return appendTree(nil, n) }

func appendTree(dst []byte, n *json5.Node) []byte {
	if n == nil {
		return append(dst, "null"...)
	}
	switch n.Kind {
	case json5.Bool:
		return strconv.AppendBool(dst, n.Bool)
	case json5.Number:
		return wire.AppendNumber(dst, n.Num)
	case json5.String:
		return wire.AppendString(dst, n.Str)
	case json5.Array:
		dst = append(dst, '[')
		for i, item := range n.Items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendTree(dst, item)
		}
		return append(dst, ']')
	case json5.Object:
		dst = append(dst, '{')
		for i, m := range n.Members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(wire.AppendString(dst, m.Key), ':')
			dst = appendTree(dst, m.Value)
		}
		return append(dst, '}')
	default:
		return append(dst, "null"...)
	}
}
