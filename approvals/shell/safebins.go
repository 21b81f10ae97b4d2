package shell

import (
	"path/filepath"
	"slices"
	"strings"
)

// A Profile says which arguments of a safe bin are harmless (nodes-approvals.md §3.9).
type Profile struct {
	MinPositional int
	// MaxPositional is nil for none in a configured profile that asks for none either: who wants words
	// beside the options says how many.
	MaxPositional     *int
	AllowedValueFlags []string
	DeniedFlags       []string
}

// DefaultSafeBins are the filters that run unlisted when nothing is configured.
var DefaultSafeBins = []string{"jq", "cut", "uniq", "head", "tail", "tr", "wc"}

// systemBinDirs are the directories whose programs are what their names say.
var systemBinDirs = []string{"/bin", "/usr/bin"}

func upTo(n int) *int { return &n }

// safeBin reports whether a segment is a filter with harmless arguments (nodes-approvals.md §3.9). Unlike
// the original it asks of the directory of the real file, too, that it is a trusted one: whoever may
// write a link must not decide what the name stands for.
func (m Machine) safeBin(s Segment, l List) bool {
	if m.windows() || s.Blocked != "" || s.Path == "" || s.RealPath == "" || len(s.Effective) == 0 {
		return false
	}
	name := fold(filepath.Base(s.Path))
	if !slices.ContainsFunc(l.SafeBins, func(b string) bool { return fold(trim(b)) == name }) {
		return false
	}
	// The real one may well be a box of many, which goes by the name that it is called with.
	if real := programName(s.RealPath); RunsOthers(s.Path) || isShell(real) || isDispatcher(real) {
		return false
	}
	if !l.trusts(filepath.Dir(s.Path)) || !l.trusts(filepath.Dir(s.RealPath)) {
		return false
	}
	p, ok := profiles[name]
	for key, own := range l.Profiles {
		if fold(trim(key)) == name {
			p, ok = own, true
		}
	}
	return ok && p.permits(s.Effective[1:])
}

// SafeBinProblems says, in words for people, which of its safe bins a list will never let run, and why.
func (l List) SafeBinProblems() (out []string) {
	for _, b := range l.SafeBins {
		name := fold(trim(b))
		_, ok := profiles[name]
		for key := range l.Profiles {
			ok = ok || fold(trim(key)) == name
		}
		switch {
		case RunsOthers(name):
			out = append(out, b+" runs whatever it is told to, so it is no safe bin")
		case !ok:
			out = append(out, b+" has no profile in tools.exec.safeBinProfiles that says which arguments are harmless")
		}
	}
	return out
}

// trusts reports whether a directory is one whose programs are what their names say.
func (l List) trusts(dir string) bool {
	return slices.Contains(systemBinDirs, dir) || slices.ContainsFunc(l.TrustedDirs, func(d string) bool {
		d = trim(d)
		return filepath.IsAbs(d) && filepath.Clean(d) == dir
	})
}

// skill reports whether a segment is a program of a skill, called by its bare name
// (nodes-approvals.md §3.10).
func (m Machine) skill(s Segment, l List) bool {
	if !l.AutoAllowSkills || s.Blocked != "" || s.Path == "" || strings.ContainsAny(s.Executable, `/\`) {
		return false
	}
	name := fold(trim(s.Executable))
	return slices.ContainsFunc(l.Skills, func(k Skill) bool {
		return fold(trim(k.Name)) == name && filepath.Clean(k.Path) == filepath.Clean(s.Path)
	})
}

// profiles are the built-in ones. None of them reads or writes a file that is named in an argument.
var profiles = map[string]Profile{
	"jq": {
		MaxPositional: upTo(1), AllowedValueFlags: []string{"--arg", "--argjson", "--argstr"},
		DeniedFlags: []string{"--argfile", "--rawfile", "--slurpfile", "--from-file", "--library-path", "-L", "-f"},
	},
	"grep": {
		MaxPositional: upTo(0),
		AllowedValueFlags: []string{
			"--regexp", "--max-count", "--after-context", "--before-context", "--context", "--devices", "--binary-files", "--exclude",
			"--include", "--label", "-e", "-m", "-A", "-B", "-C", "-D",
		},
		DeniedFlags: []string{"--file", "--exclude-from", "--dereference-recursive", "--directories", "--recursive", "-f", "-d", "-r", "-R"},
	},
	"cut": {
		MaxPositional:     upTo(0),
		AllowedValueFlags: []string{"--bytes", "--characters", "--fields", "--delimiter", "--output-delimiter", "-b", "-c", "-f", "-d"},
	},
	"sort": {
		MaxPositional:     upTo(0),
		AllowedValueFlags: []string{"--key", "--field-separator", "--buffer-size", "--parallel", "--batch-size", "-k", "-t", "-S"},
		DeniedFlags: []string{
			"--compress-program", "--files0-from", "--output", "--random-source", "--temporary-directory", "-T", "-o",
		},
	},
	"uniq": {
		MaxPositional:     upTo(0),
		AllowedValueFlags: []string{"--skip-fields", "--skip-chars", "--check-chars", "--group", "-f", "-s", "-w"},
	},
	"head": {MaxPositional: upTo(0), AllowedValueFlags: []string{"--lines", "--bytes", "-n", "-c"}},
	"tail": {
		MaxPositional:     upTo(0),
		AllowedValueFlags: []string{"--lines", "--bytes", "--sleep-interval", "--max-unchanged-stats", "--pid", "-n", "-c"},
	},
	"tr": {MinPositional: 1, MaxPositional: upTo(2)},
	"wc": {MaxPositional: upTo(0), DeniedFlags: []string{"--files0-from"}},
}

// permits reports whether the words after the program are harmless. Where it cannot tell it says no.
func (p Profile) permits(args []string) bool {
	positional := 0
	for i := 0; i < len(args); i++ {
		w := args[i]
		switch {
		case w == "" || w == "-":
		case w == "--":
			for _, rest := range args[i+1:] {
				if rest == "" || rest == "-" {
					continue
				}
				if !safeLiteral(rest) {
					return false
				}
				positional++
			}
			i = len(args)
		case strings.HasPrefix(w, "--"):
			flag, value, hasValue := strings.Cut(w, "=")
			flag = p.longFlag(flag)
			if flag == "" || slices.Contains(p.DeniedFlags, flag) {
				return false
			}
			if !hasValue {
				if i++; i == len(args) || args[i] == "" {
					return false
				}
				value = args[i]
			}
			if !safeLiteral(value) {
				return false
			}
		case w[0] == '-':
			value, rest, ok := p.shortFlags(w[1:], args[i+1:])
			if !ok || !safeLiteral(value) {
				return false
			}
			i = len(args) - len(rest) - 1
		default:
			if !safeLiteral(w) {
				return false
			}
			positional++
		}
	}
	most := p.MinPositional
	if p.MaxPositional != nil {
		most = max(most, *p.MaxPositional)
	}
	return positional >= p.MinPositional && positional <= most
}

// longFlag completes a long flag as programs do: the whole name or the beginning of one known name.
// "" is none.
func (p Profile) longFlag(flag string) string {
	found := ""
	for _, known := range [][]string{p.AllowedValueFlags, p.DeniedFlags} {
		for _, k := range known {
			switch {
			case k == flag:
				return k
			case !strings.HasPrefix(k, "--") || !strings.HasPrefix(k, flag):
			case found != "" && found != k:
				return ""
			default:
				found = k
			}
		}
	}
	return found
}

// shortFlags reads the letters of one word up to the first that takes a value: the rest of the word,
// or the next one.
func (p Profile) shortFlags(letters string, after []string) (value string, rest []string, ok bool) {
	for i, c := range letters {
		flag := "-" + string(c)
		if slices.Contains(p.DeniedFlags, flag) {
			return "", nil, false
		}
		if !slices.Contains(p.AllowedValueFlags, flag) {
			continue
		}
		if value = letters[i+len(string(c)):]; value != "" {
			return value, after, true
		}
		if len(after) == 0 || after[0] == "" {
			return "", nil, false
		}
		return after[0], after[1:], true
	}
	return "", nil, false
}

// safeLiteral reports whether an argument is neither a path from elsewhere nor a pattern.
func safeLiteral(s string) bool {
	if s == "" || s == "-" {
		return true
	}
	drive := len(s) >= 3 && s[1] == ':' && (s[2] == '\\' || s[2] == '/') && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z'
	return !drive && !strings.ContainsAny(s, "*?[]") && !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "./") &&
		!strings.HasPrefix(s, "../") && !strings.HasPrefix(s, "~")
}
