package shell_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// segment is one as the vectors write it.
type segment struct {
	Raw            string
	Argv           []string
	Executable     string
	Path, RealPath *string
	EffectiveArgv  []string
	Wrappers       []string
	PolicyBlocked  bool
	BlockedWrapper string
}

// lineResult is what the vectors say of a line or an argv.
type lineResult struct {
	OK, Satisfied bool
	SatisfiedBy   []*string
	Matches       []string
	Segments      []segment
	AllowAlways   []string
	Planned       []string
	Enforced      struct {
		OK      bool
		Command string
	}
}

func (fx *tree) machine(v vector) (shell.Machine, shell.List) {
	m := shell.Machine{Platform: v.Platform, Home: fx.Home, Path: fx.DefaultPath, Cwd: v.Cwd}
	if v.Path != "" {
		m.Path = v.Path
	}
	l := shell.List{Patterns: v.Allowlist, SafeBins: v.SafeBins, TrustedDirs: fx.TrustedSafeBinDirs, AutoAllowSkills: v.AutoAllowSkills}
	if v.TrustedDirs != nil {
		l.TrustedDirs = v.TrustedDirs
	}
	for _, s := range v.SkillBins {
		l.Skills = append(l.Skills, shell.Skill{Name: s.Name, Path: s.ResolvedPath})
	}
	return m, l
}

// profiles are the configured ones as the configuration reads them.
func (v vector) profiles(t *testing.T) map[string]shell.Profile {
	if v.SafeBinProfiles == nil {
		return nil
	}
	out := map[string]shell.Profile{}
	for name, p := range unpack[map[string]struct {
		MinPositional, MaxPositional   *float64
		AllowedValueFlags, DeniedFlags []string
	}](t, v.SafeBinProfiles) {
		q := shell.Profile{AllowedValueFlags: p.AllowedValueFlags, DeniedFlags: p.DeniedFlags}
		if p.MinPositional != nil && *p.MinPositional >= 0 {
			q.MinPositional = int(*p.MinPositional)
		}
		if p.MaxPositional != nil && *p.MaxPositional >= 0 {
			n := max(int(*p.MaxPositional), q.MinPositional)
			q.MaxPositional = &n
		}
		out[name] = q
	}
	return out
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// evaluate runs a line or an argv as a decision would.
func (fx *tree) evaluate(t *testing.T, v vector, analyse func(shell.Machine) shell.Analysis) (lineResult, shell.Analysis, shell.Machine) {
	m, l := fx.machine(v)
	l.Profiles = v.profiles(t)
	a := analyse(m)
	c := m.Cover(a, l)
	got := lineResult{OK: c.OK, Satisfied: c.Satisfied, Matches: c.Matches}
	if !c.OK {
		return got, a, m
	}
	for _, by := range c.By {
		got.SatisfiedBy = append(got.SatisfiedBy, optional(by))
	}
	for _, s := range a.Segments[:c.Listed] {
		x := segment{
			Raw: s.Raw, Argv: s.Argv, Executable: s.Executable, Path: optional(s.Path), RealPath: optional(s.RealPath),
			Wrappers: s.Wrappers, PolicyBlocked: s.Blocked != "", BlockedWrapper: s.Blocked,
		}
		if !slices.Equal(s.Effective, s.Argv) {
			x.EffectiveArgv = s.Effective
		}
		got.Segments = append(got.Segments, x)
	}
	got.AllowAlways = m.AllowAlways(a.Segments[:c.Listed])
	return got, a, m
}

// compare adds what differs. Lists that are empty on both sides are equal.
func (o *outcome) compare(t *testing.T, expect json.RawMessage, got lineResult) {
	want := unpack[lineResult](t, expect)
	for _, pair := range [][2]*[]string{{&want.Matches, &got.Matches}, {&want.AllowAlways, &got.AllowAlways}, {&want.Planned, &got.Planned}} {
		for _, list := range pair {
			if len(*list) == 0 {
				*list = nil
			}
		}
	}
	if len(want.Segments) == 0 {
		want.Segments = nil
	}
	if len(want.SatisfiedBy) == 0 {
		want.SatisfiedBy = nil
	}
	// Which wrapper it is that blocks, and what else was looked through, is for people.
	for i := range want.Segments {
		if want.Segments[i].PolicyBlocked {
			want.Segments[i].Wrappers = nil
		}
	}
	for i := range got.Segments {
		if got.Segments[i].PolicyBlocked {
			got.Segments[i].Wrappers = nil
		}
	}
	o.different("result", diff(want, got))
	o.loosens("it is covered", got.Satisfied && !want.Satisfied)
	o.loosens("it is understood", got.OK && !want.OK)
	o.loosens("allow-always stores more", !subset(got.AllowAlways, want.AllowAlways))
	o.loosens("something runs", got.Enforced.OK && want.OK && !want.Enforced.OK)
	o.loosens("something is planned", got.Planned != nil && want.OK && want.Planned == nil)
}

func runShell(t *testing.T, fx *tree, v vector) (o outcome) {
	text := v.command(t)
	got, a, m := fx.evaluate(t, v, func(m shell.Machine) shell.Analysis { return m.Line(text) })
	if got.OK {
		line, why := m.Enforced(a)
		got.Enforced.OK, got.Enforced.Command = why == "", line
	}
	o.compare(t, v.Expect, got)
	o.signs(text, unpack[struct{ Obfuscation []string }](t, v.Expect).Obfuscation)
	return o
}

func runArgv(t *testing.T, fx *tree, v vector) (o outcome) {
	got, a, _ := fx.evaluate(t, v, func(m shell.Machine) shell.Analysis { return m.Argv(v.Argv) })
	if got.OK && len(a.Segments) == 1 {
		got.Planned = a.Segments[0].Planned()
	}
	o.compare(t, v.Expect, got)
	return o
}

func runGlob(t *testing.T, fx *tree, v vector) (o outcome) {
	want := unpack[struct{ Match bool }](t, v.Expect).Match
	got := shell.Machine{Platform: "linux", Home: fx.Home}.Match(v.Pattern, v.Target)
	o.different("match", diff(want, got))
	o.loosens("it matches", got && !want)
	return o
}
