// Package shell reads a command line or an argv and says what it would run: the segments, pipelines
// and chains of a line, the executables behind wrappers, the inline text of shells, and whether an
// allow-list covers all of it (nodes-approvals.md §3.4–§3.13).
//
// It runs nothing and knows no daemon; all it asks is the file system, for executables. Its functions
// may be called concurrently. None of them panics or takes more than linear time and memory for any
// input; what is longer or has more parts than the limits below is not understood, and what is not
// understood is never covered.
package shell

import (
	"runtime"
	"strings"
)

// Limits. Beyond one of them an analysis fails.
const (
	// MaxText bounds a command line, in bytes: what a person could still judge is far shorter.
	MaxText = 64 << 10
	// MaxSegments bounds the commands of one line, because each is looked for in PATH.
	MaxSegments = 512
	// maxPattern bounds a pattern and what it is matched with, in UTF-16 units, because matching
	// takes their product in time. Longer ones never match.
	maxPattern = 4096
)

// Machine is where a command would run.
type Machine struct {
	// Platform is as GOOS or process.platform write it; what starts with win has the Windows rules.
	// "" is this system's.
	Platform string
	// Home is what a leading ~ stands for, Path the variable PATH, Cwd the working directory; an empty
	// Cwd is the process's.
	Home, Path, Cwd string
}

// windows reports whether the Windows rules hold.
func (m Machine) windows() bool {
	p := m.Platform
	if p == "" {
		p = runtime.GOOS
	}
	return strings.HasPrefix(fold(trim(p)), "win")
}

// An Analysis is what a command would run. OK is false when it was not understood; Reason says why, in
// words for people. Segments has what comes before the failing part of the chain then.
type Analysis struct {
	OK       bool
	Reason   string
	Segments []Segment
	// Exact says that a POSIX shell that is given the text as it stands runs the argv of Segments,
	// byte for byte: nothing in it expands, is a comment, a keyword, an assignment or a builtin that
	// evaluates its arguments. Otherwise only Enforced runs what was decided on, and a decision on the
	// segments must not let the text itself run.
	Exact bool
	// Heredoc says that a segment reads a here-document, which Enforced leaves out.
	Heredoc bool

	windows bool
	// text is what was analysed; words of an argv are joined by blanks.
	text string
	// parts is how the chain is made up: where the segments of each part end, and where it failed.
	parts []part
}

type part struct {
	segments int
	reason   string
}

// A Segment is one simple command of a line, or the one argv.
type Segment struct {
	// Raw is its text.
	Raw string
	// Op is what stands before it: "", "|", "&&", "||" or ";".
	Op string
	// Argv is its words with the quotes removed and nothing expanded; empty ones are left out.
	Argv []string
	// Wrappers are the names of what was looked through, outermost first, and Effective the argv
	// within; Argv when there are none.
	Wrappers  []string
	Effective []string
	// Blocked is the wrapper that hides what would run; a blocked segment is never covered.
	Blocked string
	// Executable is the first word of Effective, trimmed. Path is where it is, links not followed, and
	// RealPath with links followed; both are empty when it was not found.
	Executable, Path, RealPath string

	// literal says that the first word is no keyword and no variable.
	literal bool
	// candidate is Path, or where a path that leads nowhere would be.
	candidate string
}

// A Skill is a program that came with a skill: its bare name and the path that it is resolved to.
type Skill struct{ Name, Path string }

// A List is what may run without a question.
type List struct {
	// Patterns are those of §3.7.
	Patterns []string
	// SafeBins are the names of filters that run with harmless arguments, Profiles what is harmless
	// for which, over the built-in ones, and TrustedDirs where they must be, beside /bin and /usr/bin.
	SafeBins    []string
	Profiles    map[string]Profile
	TrustedDirs []string
	// Skills count when AutoAllowSkills is set.
	Skills          []Skill
	AutoAllowSkills bool
}

// What covers a segment, the words of Coverage.By.
const (
	ByAllowlist = "allowlist"
	BySafeBins  = "safeBins"
	BySkills    = "skills"
)

// Coverage is what a List says about an Analysis.
type Coverage struct {
	// OK is Analysis.OK, or true when a segment before the failing part is not covered: then nothing
	// after it was looked at (nodes-approvals.md §3.5).
	OK bool
	// Satisfied says that every segment is covered.
	Satisfied bool
	// By says of each segment what covers it, up to the first that nothing does, which has "".
	By []string
	// Matches are the patterns that cover, in order.
	Matches []string
	// Listed is how many segments were looked at: all up to the end of the first part of the chain
	// that is not covered.
	Listed int
}
