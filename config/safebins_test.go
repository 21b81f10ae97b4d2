package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The keys of an agent and the general ones, and what is wrong with them.
func TestSafeBins(t *testing.T) {
	c := mustLoad(t, `{
		tools: {exec: {safeBins: ["jq"], safeBinTrustedDirs: ["/opt/a"],
			safeBinProfiles: {rg: {maxPositional: 1.9, minPositional: 3}, jq: {maxPositional: -1}}}},
		agents: {list: [
			{id: "none", tools: {exec: {safeBins: null}}},
			{id: "own", tools: {exec: {safeBins: ["rg"], safeBinTrustedDirs: ["/opt/b"], safeBinProfiles: {rg: {deniedFlags: ["-f"]}}}}},
			{id: "plain"},
		]},
	}`)
	three := 3
	general := SafeBins{
		Bins: []string{"jq"}, TrustedDirs: []string{"/opt/a"},
		Profiles: map[string]SafeBinProfile{"rg": {MinPositional: 3, MaxPositional: &three}, "jq": {}},
	}
	for agent, want := range map[string]SafeBins{
		"plain": general, "main": general, "unknown": general,
		"none": {Bins: []string{}, TrustedDirs: general.TrustedDirs, Profiles: general.Profiles},
		"own": {
			Bins: []string{"rg"}, TrustedDirs: []string{"/opt/a", "/opt/b"},
			Profiles: map[string]SafeBinProfile{"rg": {DeniedFlags: []string{"-f"}}, "jq": {}},
		},
	} {
		if d := cmp.Diff(want, c.SafeBins(agent)); d != "" {
			t.Errorf("%s: %s", agent, d)
		}
	}
}
