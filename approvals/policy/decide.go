package policy

import (
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Verdict is the decision on one run. Reason and Message are empty when it may run.
type Verdict struct {
	Run bool
	// Reason is the word for exec.denied, Message the text for the caller (nodes-approvals.md §4.3).
	Reason  string
	Message string
}

// Decide is the decision table of an executing machine (nodes-approvals.md §7.1). covered says that
// the allow-list covers the command, inline that it is an inline shell, approved that an approval came
// with it.
func Decide(sec Security, ask Ask, covered, inline, approved bool) Verdict {
	switch {
	case sec != SecurityAllowlist && sec != SecurityFull:
		return Verdict{Reason: "security=deny", Message: "SYSTEM_RUN_DISABLED: security=deny"}
	case approved:
		return Verdict{Run: true}
	case ask != AskOff && ask != AskOnMiss:
		return Verdict{Reason: "approval-required", Message: "SYSTEM_RUN_DENIED: approval required"}
	case sec == SecurityFull || covered && !inline:
		return Verdict{Run: true}
	case ask == AskOnMiss:
		return Verdict{Reason: "approval-required", Message: "SYSTEM_RUN_DENIED: approval required"}
	}
	v := Verdict{Reason: "allowlist-miss", Message: "SYSTEM_RUN_DENIED: allowlist miss"}
	if inline && runtime.GOOS == "windows" {
		v.Message += " (Windows shell wrappers like cmd.exe /c require approval; approve once/always or run with --ask on-miss|always)"
	} else if inline {
		v.Message += " (shell wrappers like sh/bash/zsh -c require approval; approve once/always or run with --ask on-miss|always)"
	}
	return v
}

// coverage is what the allow-list says about one argv.
type coverage struct {
	inline bool
	// segment is what runs, and run how; set when it is an executable that was found and is neither a
	// shell nor a wrapper that hides what runs: the only thing that an allow-list can cover.
	segment *shell.Segment
	run     []string
	// entry is the first entry that covers it, nil when none does. covered is also set when a safe bin
	// or a skill covers it.
	entry   *Entry
	covered bool
	// by is what covers it: allowlist, safeBins or skills.
	by string
}

func (f *File) cover(agentID *string, eff Effective, argv []string, cwd, pathEnv string) coverage {
	if _, inline := shell.FindInline(argv); inline {
		return coverage{inline: true}
	}
	m := shell.Machine{Home: f.home, Path: pathEnv, Cwd: cwd}
	a := m.Argv(argv)
	if !a.OK {
		return coverage{}
	}
	s := &a.Segments[0]
	// What is compared must be what runs: a file that is there, by a path that leads nowhere else.
	if s.Blocked != "" || s.Path == "" || filepath.Clean(s.Path) != s.Path {
		return coverage{}
	}
	run := s.Planned()
	switch {
	case run == nil || shell.RunsOthers(s.Path) || shell.RunsOthers(run[0]):
		return coverage{}
	case len(s.Wrappers) == 0:
		run = append(run[:1:1], argv[1:]...) // with its empty words
	}
	c := coverage{segment: s, run: run}
	agent := mainAgent
	if agentID != nil {
		agent = *agentID
	}
	bins := f.safeBins(agent)
	l := shell.List{
		SafeBins: bins.Bins, Profiles: bins.Profiles, TrustedDirs: bins.TrustedDirs, AutoAllowSkills: eff.AutoAllowSkills,
	}
	if f.skills != nil && eff.AutoAllowSkills {
		l.Skills = f.skills()
	}
	for _, e := range eff.Allowlist {
		l.Patterns = append(l.Patterns, e.Pattern)
	}
	says, why := m.Permit(a, l)
	if why != "" {
		return c
	}
	if !a.Exact {
		// Empty words were left out of what was judged, and run: to a filter the word after one is another.
		whole := *s
		whole.Argv, whole.Effective = argv, argv
		if len(s.Wrappers) > 0 || says.By[0] == shell.BySafeBins || m.Refusal(whole, l) != "" {
			return c
		}
	}
	if len(s.Wrappers) > 0 { // what an approval would keep, the list keeps
		kept, ok := m.Kept(*s)
		if !ok {
			return c
		}
		c.run = kept
	}
	c.covered = true
	if len(says.By) > 0 {
		c.by = says.By[0]
	}
	if len(says.Matches) > 0 {
		i := slices.IndexFunc(eff.Allowlist, func(e Entry) bool { return e.Pattern == says.Matches[0] })
		c.entry = &eff.Allowlist[i]
	}
	return c
}

// Command reads the parameters command and rawCommand (JSON values, nil when absent) as ParseCommand
// does. It fails with ErrMisread, too, where the text would hide what runs: what people approve is what
// they are shown.
func (f *File) Command(command, raw []byte) (argv []string, text string, inline bool, err error) {
	c, err := ParseCommand(command, raw)
	if sh, _ := shell.FindInline(c.Argv); err == nil && sh.Misread {
		return nil, "", false, ErrMisread
	}
	return c.Argv, c.Text, c.Shell != nil, err
}

// Environment is SanitizeEnv.
func (f *File) Environment(base []string, overrides map[string]string, inlineShell bool) (env, dropped []string) {
	return SanitizeEnv(base, overrides, inlineShell)
}

// Admit decides on one run of an agent (nil is main). When it may run, reason is empty and run is
// what to run: the argv as given or, when the allow-list covered it and nothing else lets it run, with
// the real path in front; pinned says so. A file that cannot be read denies, with the error beside the
// refusal.
func (f *File) Admit(agentID *string, argv []string, cwd, pathEnv string, approved bool) (run []string, pinned bool, reason, message string, err error) {
	eff, err := f.Effective(agentID)
	c := coverage{}
	if eff.Security == SecurityAllowlist {
		c = f.cover(agentID, eff, argv, cwd, pathEnv)
	} else {
		_, c.inline = shell.FindInline(argv)
	}
	v := Decide(eff.Security, eff.Ask, c.covered, c.inline, approved)
	if !v.Run {
		return nil, false, v.Reason, v.Message, err
	}
	if c.covered && !approved {
		return c.run, true, "", "", nil
	}
	return argv, false, "", "", nil
}

// Record remembers a run that is about to happen: with always, the executable goes on the agent's
// list, also from within wrappers; an entry of the agent's own list that covers it gets a stamp. Inline
// shells and what a wrapper hides are never remembered, and nothing is in the modes deny and full
// (nodes-approvals.md §3.11, §4.3).
func (f *File) Record(agentID *string, argv []string, cwd, pathEnv, text string, always bool) error {
	eff, err := f.Effective(agentID)
	if err != nil || eff.Security != SecurityAllowlist {
		return err
	}
	c := f.cover(agentID, eff, argv, cwd, pathEnv)
	if c.segment == nil {
		return nil
	}
	// An entry that would not cover the same command again is none that was asked for.
	if m := (shell.Machine{Home: f.home, Path: pathEnv, Cwd: cwd}); always && m.Refusal(*c.segment, shell.List{}) == "" {
		for _, path := range m.AllowAlways([]shell.Segment{*c.segment}) {
			if err := f.AddAllow(agentID, path); err != nil {
				return err
			}
		}
	}
	if c.entry == nil {
		return nil
	}
	return f.Stamp(agentID, c.entry.Pattern, text, c.segment.Path)
}

// escapeFree reports whether a path can be stored as a pattern that matches itself alone.
func escapeFree(path string) bool { return !strings.ContainsAny(path, "*?") }

// Locate finds the executable that a first word names, as shell.Machine.Locate does.
func (f *File) Locate(word, cwd, pathEnv string) (path string, ok bool) {
	return shell.Machine{Home: f.home, Path: pathEnv, Cwd: cwd}.Locate(word)
}

// Pin fixes what an approval of argv will run: the first word of a plain argv becomes its real path.
// Inline shells and wrappers are left as they are. It fails with ErrUnstable when there is no such
// executable (nodes-approvals.md §4.3).
func (f *File) Pin(argv []string, cwd, pathEnv string) ([]string, error) {
	if len(argv) == 0 {
		return nil, ErrUnstable
	}
	if _, inline := shell.FindInline(argv); inline || shell.IsWrapper(argv[0]) {
		return argv, nil
	}
	path, ok := f.Locate(argv[0], cwd, pathEnv)
	if ok {
		path, ok = shell.Pinned(path)
	}
	if !ok {
		return nil, ErrUnstable.With("executable", argv[0])
	}
	return append([]string{path}, argv[1:]...), nil
}

// Programs returns what a wrapper or an inline shell starts, as shell.Machine.Programs does.
func (f *File) Programs(argv []string, cwd, pathEnv string) (inner [][]string, why string) {
	return shell.Machine{Home: f.home, Path: pathEnv, Cwd: cwd}.Programs(argv)
}
