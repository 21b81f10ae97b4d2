package nodes

import (
	"context"
	"slices"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/identity"
)

// defaultTriggers wake a voice client until somebody sets other words (control-plane.md §8; frozen).
var defaultTriggers = []string{"openclaw", "claude", "computer"}

// The arguments and results of the voice wake operations.
type (
	VoiceWakeIn    struct{}
	SetVoiceWakeIn struct {
		Triggers []string
	}
	VoiceWakeOut struct {
		Triggers []string
	}
)

// VoiceWakeChanged is the payload of the event voicewake.changed.
type VoiceWakeChanged struct {
	Triggers []string
}

// VoiceWake returns the words that wake voice clients.
func (s *Service) VoiceWake(context.Context, identity.Caller, VoiceWakeIn) (VoiceWakeOut, error) {
	t, err := s.store.VoiceWake()
	if err != nil {
		return VoiceWakeOut{}, err
	}
	return VoiceWakeOut{Triggers: orDefault(t)}, nil
}

// SetVoiceWake replaces the words: trimmed, without blanks, the first 32 and 64 characters of each.
// With none the defaults are back. All clients and nodes are told.
func (s *Service) SetVoiceWake(ctx context.Context, _ identity.Caller, in SetVoiceWakeIn) (VoiceWakeOut, error) {
	var words []string
	for _, w := range in.Triggers {
		if w = trim(w); w != "" && len(words) < maxTriggers {
			words = append(words, cutUnits(w, maxTrigger))
		}
	}
	// Two changes are told in the order in which they are written.
	s.voiceWake.Lock()
	defer s.voiceWake.Unlock()
	if err := s.store.SetVoiceWake(ctx, words); err != nil {
		return VoiceWakeOut{}, err
	}
	out := VoiceWakeOut{Triggers: orDefault(words)}
	s.bus.Publish("voicewake.changed", VoiceWakeChanged(out))
	return out, nil
}

func orDefault(words []string) []string {
	if len(words) == 0 {
		return slices.Clone(defaultTriggers)
	}
	return words
}

// cutUnits cuts a text to so many UTF-16 units, as the original counts, and never inside a character.
func cutUnits(s string, n int) string {
	for i, r := range s {
		if n -= utf16.RuneLen(r); n < 0 {
			return trim(s[:i])
		}
	}
	return s
}

// SkillBinsIn and SkillBinsOut are the argument and the result of SkillBins.
type (
	SkillBinsIn  struct{}
	SkillBinsOut struct {
		// Bins are names of programs, sorted and without repeats.
		Bins []string
	}
)

// SkillBins names the programs that skills need: a node with autoAllowSkills lets them run.
func (s *Service) SkillBins(context.Context, identity.Caller, SkillBinsIn) (SkillBinsOut, error) {
	if s.skillBins == nil {
		return SkillBinsOut{Bins: []string{}}, nil
	}
	return SkillBinsOut{Bins: sortedSet(s.skillBins())}, nil
}
