package shell

import (
	"path/filepath"
	"strings"
)

// Permit says whether a list lets a command run without a question; why is empty when it does, and says
// in words for people what is in the way otherwise. It is Cover, which reads the list as the original
// does, and what the original lets through and should not: a program that is not there yet or is named
// by a path that leads elsewhere, shells and boxes of programs, arguments that run something else, and a
// text that shows signs of hiding what it does. What then runs is Enforced, or Planned of a direct argv,
// never the text as it was written.
func (m Machine) Permit(a Analysis, l List) (c Coverage, why string) {
	switch {
	case !a.OK:
		return Coverage{}, a.Reason
	case a.Heredoc:
		return Coverage{}, "a here-document is not covered by a list"
	}
	if signs := a.signs(); len(signs) > 0 {
		return Coverage{}, "it looks as if it hides what it runs: " + strings.Join(signs, ", ")
	}
	for _, s := range a.Segments {
		if why := s.unfit(); why != "" {
			return Coverage{}, why
		}
	}
	c = m.Cover(a, l)
	if !c.Satisfied {
		i := max(len(c.By)-1, 0)
		return c, clip(a.Segments[i].Executable) + " is not in the list"
	}
	for i, s := range a.Segments {
		if c.By[i] == BySafeBins {
			continue
		}
		if why := m.Refusal(s, l); why != "" {
			return c, why
		}
	}
	return c, ""
}

// signs are those of the whole text, and of the words, which quotes may keep apart in the text.
func (a Analysis) signs() []string {
	if signs := Signs(a.text); len(signs) > 0 || len(a.Segments) == 1 && a.Segments[0].Raw == a.text {
		return signs
	}
	for _, s := range a.Segments {
		if signs := Signs(strings.Join(s.Argv, " ")); len(signs) > 0 {
			return signs
		}
	}
	return nil
}

// unfit says why no list can let a segment run, "" when one can.
func (s Segment) unfit() string {
	if s.Blocked != "" {
		return s.Blocked + " hides what it runs"
	}
	for _, w := range s.Argv {
		if strings.ContainsRune(w, 0) {
			return "a word has a zero byte in it"
		}
	}
	switch {
	case s.Path == "" || s.RealPath == "":
		return clip(s.Executable) + " is not there"
	case filepath.Clean(s.Path) != s.Path:
		return clip(s.Executable) + " is no plain path"
	}
	// The real file may be a box of many programs, which goes by the name it is called with.
	if real := programName(s.RealPath); RunsOthers(s.Path) || isShell(real) || isDispatcher(real) {
		return clip(s.Executable) + " runs what its arguments or its input say"
	}
	return ""
}
