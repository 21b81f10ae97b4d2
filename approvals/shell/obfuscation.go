package shell

import (
	"regexp"
	"slices"
	"strings"
)

// Signs returns what in a command text looks as if it were to hide what runs: the ids of
// nodes-approvals.md §3.13 in the order of that table, then those of our own (invisible-characters).
// Nil means none. It is a help for the person who is asked, and reason enough to ask one; it is no
// fence, because whoever knows the patterns can write around them.
//
// It takes linear time and reads the whole text.
func Signs(text string) []string {
	if text == "" {
		return nil
	}
	folded := fold(text)
	s := scan{text: folded}
	s.pipes = pipeShell.FindAllStringIndex(folded, -1)
	var found []string
	for _, c := range signs {
		in := &s
		if c.exact {
			in = &scan{text: text}
		}
		if c.when(in) {
			found = append(found, c.id)
		}
	}
	if strings.ContainsFunc(text, invisible) {
		found = append(found, "invisible-characters")
	}
	return found
}

// The parts that the patterns are made of. Case is folded before they are used.
const (
	blank  = `[\s\v\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}]`
	shells = `(?:sh|bash|zsh|dash|ksh|fish)\b`
	decode = `base64` + blank + `+(?:-d|--decode)`
	remote = `<\(` + blank + `*(?:curl|wget)`
)

var (
	pipeShell  = regexp.MustCompile(`\|` + blank + `*` + shells)
	atLineEnd  = regexp.MustCompile(`^(?:` + blank + `+[^|;\n\r]+)?` + blank + `*(?:$|[\n\r\x{2028}\x{2029}])`)
	base64Flag = regexp.MustCompile(decode)
	pipeBase64 = regexp.MustCompile(`\|` + blank + `*` + decode)
	xxdReverse = regexp.MustCompile(`xxd` + blank + `+-r`)
	printf     = regexp.MustCompile(`printf`)
	hexByte    = regexp.MustCompile(`\\x[0-9a-f]{2}`)
	evalWord   = regexp.MustCompile(`eval` + blank + `+`)
	decoders   = regexp.MustCompile(`base64|xxd|printf|decode`)
	fetch      = regexp.MustCompile(`(?:curl|wget)` + blank + `+`)
	scripting  = regexp.MustCompile(`(?:python[23]?|perl|ruby)` + blank + `+-[ec]` + blank + `+`)
	evaluators = regexp.MustCompile(`base64|decode|exec|system|eval`)
	inlineText = regexp.MustCompile(shells + blank + `+-c` + blank + `*["'][^"']*\$\([^"']*(?:` + decode + `|xxd` + blank + `+-r|printf[^"']*\\x[0-9a-f]{2})[^"']*\)[^"']*["']`)
	procRemote = regexp.MustCompile(shells + blank + `*` + remote)
	sourced    = regexp.MustCompile(`(?:^|[;&]|` + blank + `)(?:source|\.)` + blank + `*` + remote)
	heredoc    = regexp.MustCompile(shells + blank + `+<<-?` + blank + `*['"]?[a-z_]`)
	octalBytes = regexp.MustCompile(`\$'[^']*\\[0-7]{3}[^']*\\[0-7]{3}`)
	hexBytes   = regexp.MustCompile(`\$'[^']*\\x[0-9A-Fa-f]{2}[^']*\\x[0-9A-Fa-f]{2}`)
	shortNames = regexp.MustCompile(`(?:[A-Za-z_]\w{0,2}=[^\s;]+` + blank + `*;` + blank + `*){2}`)
	useOfName  = regexp.MustCompile(`\$\{?[A-Za-z_]`)
	address    = regexp.MustCompile(`https?://[^\s"'|]+`)
)

// A scan is one reading of a text.
type scan struct {
	text  string
	pipes [][]int // where a bar is followed by a shell
	ends  []int   // where lines end; nil until it is asked for
}

// row finds the parts in their order within one line each: any characters but line ends between one
// and the next. Every text is read once for every part.
func (s *scan) row(parts ...[][]int) bool {
	at := make([]int, len(parts))
next:
	for _, first := range parts[0] {
		e := first[1]
		for i := 1; i < len(parts); i++ {
			for at[i] < len(parts[i]) && parts[i][at[i]][0] < e {
				at[i]++
			}
			if at[i] == len(parts[i]) {
				return false // nor after any later beginning
			}
			if parts[i][at[i]][0] > s.lineEnd(e) {
				continue next
			}
			e = parts[i][at[i]][1]
		}
		return true
	}
	return false
}

// lineEnd returns where the line ends that a place is in.
func (s *scan) lineEnd(at int) int {
	if s.ends == nil {
		for i, r := range s.text {
			if r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029 {
				s.ends = append(s.ends, i)
			}
		}
		s.ends = append(s.ends, len(s.text))
	}
	i, _ := slices.BinarySearch(s.ends, at)
	return s.ends[i]
}

func (s *scan) all(re *regexp.Regexp) [][]int { return re.FindAllStringIndex(s.text, -1) }

func (s *scan) has(words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s.text, w) })
}

// signs in the order of nodes-approvals.md §3.13. What a text must hold at least is looked for first:
// most texts hold none of it.
var signs = []struct {
	id    string
	exact bool // case counts
	when  func(*scan) bool
}{
	{"base64-pipe-exec", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("base64") && s.row(s.all(base64Flag), s.pipes)
	}},
	{"hex-pipe-exec", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("xxd") && s.row(s.all(xxdReverse), s.pipes)
	}},
	{"printf-pipe-exec", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("printf") && s.row(s.all(printf), s.all(hexByte), s.pipes)
	}},
	{"eval-decode", false, func(s *scan) bool {
		return s.has("eval") && s.row(s.all(evalWord), s.all(decoders))
	}},
	{"base64-decode-to-shell", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("base64") && s.row(s.all(pipeBase64), s.pipes)
	}},
	{"pipe-to-shell", false, (*scan).pipeEndsLine},
	{"command-substitution-decode-exec", false, func(s *scan) bool {
		return s.has("$(") && s.has("base64", "xxd", "printf") && inlineText.MatchString(s.text)
	}},
	{"process-substitution-remote-exec", false, func(s *scan) bool {
		return s.has("<(") && s.has("curl", "wget") && procRemote.MatchString(s.text)
	}},
	{"source-process-substitution-remote", false, func(s *scan) bool {
		return s.has("<(") && s.has("curl", "wget") && sourced.MatchString(s.text)
	}},
	{"shell-heredoc-exec", false, func(s *scan) bool { return s.has("<<") && heredoc.MatchString(s.text) }},
	{"octal-escape", true, func(s *scan) bool { return s.has("$'") && octalBytes.MatchString(s.text) }},
	{"hex-escape", true, func(s *scan) bool { return s.has("$'") && hexBytes.MatchString(s.text) }},
	{"python-exec-encoded", false, func(s *scan) bool {
		return s.has("python", "perl", "ruby") && s.row(s.all(scripting), s.all(evaluators))
	}},
	{"curl-pipe-shell", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("curl", "wget") && !s.wellKnownInstaller() && s.row(s.all(fetch), s.pipes)
	}},
	{"var-expansion-obfuscation", true, func(s *scan) bool {
		return s.has("$") && s.has(";") && s.row(s.all(shortNames), s.all(useOfName))
	}},
}

// pipeEndsLine reports a shell that is the last of its line and gets its text from the left.
func (s *scan) pipeEndsLine() bool {
	for i, p := range s.pipes {
		rest := s.text[p[1]:]
		// What ends this one before the line does: a bar, which the next of them has too.
		if i+1 < len(s.pipes) {
			rest = s.text[p[1] : s.pipes[i+1][0]+1]
		}
		if atLineEnd.MatchString(rest) {
			return true
		}
	}
	return false
}

// installers are places that a person may well pipe into a shell (nodes-approvals.md §3.13).
var installers = []string{
	"raw.githubusercontent.com/homebrew", "brew.sh", "raw.githubusercontent.com/nvm-sh/nvm", "sh.rustup.rs",
	"get.docker.com", "install.python-poetry.org", "get.pnpm.io", "bun.sh/install",
}

// wellKnownInstaller reports whether the only address in the text is one of them, fetched with curl.
func (s *scan) wellKnownInstaller() bool {
	urls := address.FindAllString(s.text, 2)
	if len(urls) != 1 || strings.Contains(s.text, "wget") {
		return false
	}
	_, place, _ := strings.Cut(urls[0], "://")
	return slices.ContainsFunc(installers, func(p string) bool {
		rest, ok := strings.CutPrefix(place, p)
		return ok && (rest == "" || strings.ContainsRune("/?#", rune(rest[0])))
	})
}

// invisible reports characters that a person does not see, or that turn the order of what is seen.
func invisible(r rune) bool {
	switch {
	case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7F, r == 0xAD, r == 0x34F, r == 0x61C, r == 0x115F, r == 0x1160,
		r == 0x17B4, r == 0x17B5, r >= 0x180B && r <= 0x180F, r >= 0x200B && r <= 0x200F, r >= 0x202A && r <= 0x202E,
		r >= 0x2060 && r <= 0x206F, r == 0x3164, r >= 0xFE00 && r <= 0xFE0F, r == 0xFEFF, r == 0xFFA0, r >= 0xFFF0 && r <= 0xFFFB,
		r >= 0xE0000 && r <= 0xE0FFF:
		return true
	}
	return false
}
