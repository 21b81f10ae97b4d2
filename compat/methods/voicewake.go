package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/nodes"
)

type voiceWake struct {
	Triggers wire.List[string] `json:"triggers"`
}

// VoiceWakeFromLegacy reads voicewake.get, whose parameters are ignored.
func VoiceWakeFromLegacy(wire.Value) (nodes.VoiceWakeIn, error) { return nodes.VoiceWakeIn{}, nil }

// SetVoiceWakeFromLegacy reads voicewake.set. The original has no schema for it: it wants an array and
// passes over what in it is no text.
func SetVoiceWakeFromLegacy(p wire.Value) (nodes.SetVoiceWakeIn, error) {
	list, ok := p.Get("triggers")
	if !ok || list.Kind() != wire.Array {
		return nodes.SetVoiceWakeIn{}, nodes.ErrTriggers
	}
	var in nodes.SetVoiceWakeIn
	for v := range list.Items() {
		if v.Kind() == wire.String {
			in.Triggers = append(in.Triggers, v.Str())
		}
	}
	return in, nil
}

// VoiceWakeToLegacy writes the result of voicewake.get and voicewake.set.
func VoiceWakeToLegacy(out nodes.VoiceWakeOut) any { return voiceWake{out.Triggers} }

// VoiceWakeChangedToLegacy writes the payload of the event voicewake.changed.
func VoiceWakeChangedToLegacy(e nodes.VoiceWakeChanged) any { return voiceWake{e.Triggers} }

type skillBins struct {
	Bins wire.List[string] `json:"bins"`
}

// SkillBinsFromLegacy reads skills.bins.
func SkillBinsFromLegacy(wire.Value) (nodes.SkillBinsIn, error) { return nodes.SkillBinsIn{}, nil }

// SkillBinsToLegacy writes the result of skills.bins.
func SkillBinsToLegacy(out nodes.SkillBinsOut) any { return skillBins{out.Bins} }
