package shell

import (
	"slices"
	"strings"
	"unicode/utf8"
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
	if strings.Contains(folded, "|") {
		s.pipes = s.all(pipeShell)
	}
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

// A form is a short pattern: one of some words, then steps that follow it directly. Case is folded before
// it is used.
type form struct {
	heads []string
	steps []step
}

// A step is blanks (as ECMAScript has them), at least so many, and then one of some words; no words are
// nothing more. ends says that no letter, digit or underscore follows.
type step struct {
	blanks int
	words  []string
	ends   bool
}

var (
	shellNames = []string{"sh", "bash", "zsh", "dash", "ksh", "fish"}
	// pipeShell is a bar and a shell that reads from it.
	pipeShell  = form{[]string{"|"}, []step{{0, shellNames, true}}}
	base64Flag = form{[]string{"base64"}, []step{{1, []string{"-d", "--decode"}, false}}}
	pipeBase64 = form{[]string{"|"}, []step{{0, []string{"base64"}, false}, {1, []string{"-d", "--decode"}, false}}}
	xxdReverse = form{[]string{"xxd"}, []step{{1, []string{"-r"}, false}}}
	printf     = form{[]string{"printf"}, nil}
	evalWord   = form{[]string{"eval"}, []step{{1, nil, false}}}
	decoders   = form{[]string{"base64", "xxd", "printf", "decode"}, nil}
	fetch      = form{[]string{"curl", "wget"}, []step{{1, nil, false}}}
	scripting  = form{[]string{"python3", "python2", "python", "perl", "ruby"}, []step{{1, []string{"-e", "-c"}, false}, {1, nil, false}}}
	evaluators = form{[]string{"base64", "decode", "exec", "system", "eval"}, nil}
	inlineText = form{shellNames, []step{{1, []string{"-c"}, false}, {0, []string{`"`, "'"}, false}}}
	remote     = form{[]string{"<("}, []step{{0, []string{"curl", "wget"}, false}}}
)

// end returns where the steps end that begin at a place, -1 when they do not.
func (f form) end(s string, at int) int {
	for _, st := range f.steps {
		after := skipBlanks(s, at)
		if st.blanks > 0 && after == at {
			return -1
		}
		at = after
		if st.words == nil {
			continue
		}
		i := slices.IndexFunc(st.words, func(w string) bool {
			rest, ok := strings.CutPrefix(s[at:], w)
			return ok && (!st.ends || rest == "" || !isWord(rest[0]))
		})
		if i < 0 {
			return -1
		}
		at += len(st.words[i])
	}
	return at
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func skipBlanks(s string, at int) int {
	for at < len(s) {
		r, n := utf8.DecodeRuneInString(s[at:])
		if !isSpace(r) {
			break
		}
		at += n
	}
	return at
}

// skipBlanksBack is where the blanks begin that end at a place.
func skipBlanksBack(s string, at int) int {
	for at > 0 {
		r, n := utf8.DecodeLastRuneInString(s[:at])
		if !isSpace(r) {
			break
		}
		at -= n
	}
	return at
}

// A span is a part of the text.
type span struct{ from, to int }

// all finds a form everywhere, each after the end of the one before.
func (s *scan) all(f form) (out []span) {
	var first [256]bool
	for _, h := range f.heads {
		first[h[0]] = true
	}
	for i := 0; i < len(s.text); i++ {
		if !first[s.text[i]] {
			continue
		}
		for _, h := range f.heads {
			if !strings.HasPrefix(s.text[i:], h) {
				continue
			}
			if end := f.end(s.text, i+len(h)); end >= 0 {
				out = append(out, span{i, end})
				i = max(i, end-1)
				break
			}
		}
	}
	return out
}

// A scan is one reading of a text.
type scan struct {
	text  string
	pipes []span // where a bar is followed by a shell
	ends  []int  // where lines end; nil until it is asked for
}

// row finds the parts in their order within one line each: any characters but line ends between one
// and the next. Every text is read once for every part.
func (s *scan) row(parts ...[]span) bool {
	at := make([]int, len(parts))
next:
	for _, first := range parts[0] {
		e := first.to
		for i := 1; i < len(parts); i++ {
			for at[i] < len(parts[i]) && parts[i][at[i]].from < e {
				at[i]++
			}
			if at[i] == len(parts[i]) {
				return false // nor after any later beginning
			}
			if parts[i][at[i]].from > s.lineEnd(e) {
				continue next
			}
			e = parts[i][at[i]].to
		}
		return true
	}
	return false
}

// lineEnd returns where the line ends that a place is in.
func (s *scan) lineEnd(at int) int {
	if s.ends == nil {
		for i, r := range s.text {
			if endsLine(r) {
				s.ends = append(s.ends, i)
			}
		}
		s.ends = append(s.ends, len(s.text))
	}
	i, _ := slices.BinarySearch(s.ends, at)
	return s.ends[i]
}

func endsLine(r rune) bool { return r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029 }

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
		return len(s.pipes) > 0 && s.has("printf") && s.row(s.all(printf), s.codes('x', 2, isHex), s.pipes)
	}},
	{"eval-decode", false, func(s *scan) bool {
		return s.has("eval") && s.row(s.all(evalWord), s.all(decoders))
	}},
	{"base64-decode-to-shell", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("base64") && s.row(s.all(pipeBase64), s.pipes)
	}},
	{"pipe-to-shell", false, (*scan).pipeEndsLine},
	{"command-substitution-decode-exec", false, func(s *scan) bool {
		return s.has("$(") && s.has("base64", "xxd", "printf") && s.decodesInline()
	}},
	{"process-substitution-remote-exec", false, func(s *scan) bool {
		return s.has("<(") && slices.ContainsFunc(s.all(remote), func(at span) bool { return s.shellBefore(skipBlanksBack(s.text, at.from)) })
	}},
	{"source-process-substitution-remote", false, func(s *scan) bool {
		return s.has("<(") && slices.ContainsFunc(s.all(remote), func(at span) bool { return s.sourceBefore(at.from) })
	}},
	{"shell-heredoc-exec", false, func(s *scan) bool { return s.has("<<") && s.shellHeredoc() }},
	{"octal-escape", true, func(s *scan) bool { return s.has("$'") && s.quotedCodes(0, 3, isOctal) }},
	{"hex-escape", true, func(s *scan) bool { return s.has("$'") && s.quotedCodes('x', 2, isHex) }},
	{"python-exec-encoded", false, func(s *scan) bool {
		return s.has("python", "perl", "ruby") && s.row(s.all(scripting), s.all(evaluators))
	}},
	{"curl-pipe-shell", false, func(s *scan) bool {
		return len(s.pipes) > 0 && s.has("curl", "wget") && !s.wellKnownInstaller() && s.row(s.all(fetch), s.pipes)
	}},
	{"var-expansion-obfuscation", true, func(s *scan) bool {
		return s.has("$") && s.has(";") && s.row(s.assignments(), s.uses())
	}},
}

func isHex(c byte) bool   { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }
func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// codes are the places of a backslash, a letter (0 for none) and so many digits.
func (s *scan) codes(letter byte, digits int, is func(byte) bool) (out []span) {
	return codesIn(s.text, 0, len(s.text), letter, digits, is)
}

func codesIn(text string, from, to int, letter byte, digits int, is func(byte) bool) (out []span) {
	for i := from; i < to; i++ {
		if text[i] != '\\' {
			continue
		}
		j := i + 1
		if letter != 0 {
			if j >= to || text[j] != letter {
				continue
			}
			j++
		}
		if j+digits > to {
			continue
		}
		ok := true
		for _, c := range []byte(text[j : j+digits]) {
			ok = ok && is(c)
		}
		if ok {
			out = append(out, span{i, j + digits})
			i = j + digits - 1
		}
	}
	return out
}

// quotedCodes finds two or more codes within one $'…'.
func (s *scan) quotedCodes(letter byte, digits int, is func(byte) bool) bool {
	for i := 0; ; {
		at := strings.Index(s.text[i:], "$'")
		if at < 0 {
			return false
		}
		from := i + at + 2
		to := len(s.text)
		if n := strings.IndexByte(s.text[from:], '\''); n >= 0 {
			to = from + n
		}
		if len(codesIn(s.text, from, to, letter, digits, is)) >= 2 {
			return true
		}
		i = max(from, to-1) // the dollar before the quote that ended it may begin another
	}
}

// decodesInline finds a text that a shell is given with -c and that runs what it decodes: within the
// quotes $(, a decoder and ) in this order.
func (s *scan) decodesInline() bool {
	return slices.ContainsFunc(s.all(inlineText), func(head span) bool {
		n := strings.IndexAny(s.text[head.to:], `"'`)
		if n < 0 {
			return false
		}
		_, inner, ok := strings.Cut(s.text[head.to:head.to+n], "$(")
		if !ok {
			return false
		}
		end := strings.LastIndexByte(inner, ')')
		if end < 0 {
			return false
		}
		in := &scan{text: inner[:end]}
		return len(in.all(base64Flag)) > 0 || len(in.all(xxdReverse)) > 0 || in.has("printf") && in.row2(in.all(printf), in.codes('x', 2, isHex))
	})
}

// row2 finds one span after another, across lines.
func (s *scan) row2(a, b []span) bool { return len(a) > 0 && len(b) > 0 && b[len(b)-1].from >= a[0].to }

// shellBefore reports whether a shell's name ends at a place.
func (s *scan) shellBefore(at int) bool {
	return slices.ContainsFunc(shellNames, func(n string) bool { return strings.HasSuffix(s.text[:at], n) })
}

// sourceBefore reports whether source or . as a word of its own ends before a place, blanks aside.
func (s *scan) sourceBefore(at int) bool {
	before := s.text[:skipBlanksBack(s.text, at)]
	rest, ok := strings.CutSuffix(before, "source")
	if !ok {
		if rest, ok = strings.CutSuffix(before, "."); !ok {
			return false
		}
	}
	r, _ := utf8.DecodeLastRuneInString(rest)
	return rest == "" || r == ';' || r == '&' || isSpace(r)
}

// shellHeredoc finds a shell that reads a here-document.
func (s *scan) shellHeredoc() bool {
	for i := 0; ; i += 2 {
		n := strings.Index(s.text[i:], "<<")
		if n < 0 {
			return false
		}
		i += n
		name := skipBlanksBack(s.text, i)
		if name == i || !s.shellBefore(name) {
			continue
		}
		rest := strings.TrimPrefix(s.text[i+2:], "-")
		rest = rest[skipBlanks(rest, 0):]
		if rest != "" && (rest[0] == '\'' || rest[0] == '"') {
			rest = rest[1:]
		}
		if rest != "" && (rest[0] == '_' || rest[0] >= 'a' && rest[0] <= 'z') {
			return true
		}
	}
}

// assignments are the places of two in a row of the form x=…; with names of one to three characters.
func (s *scan) assignments() (out []span) {
	before := false // the part that ended at the last semicolon ends in one
	for i := 0; i < len(s.text); {
		n := strings.IndexByte(s.text[i:], ';')
		if n < 0 {
			break
		}
		part := s.text[i : i+n]
		whole := part[skipBlanks(part, 0):]
		whole = whole[:skipBlanksBack(whole, len(whole))]
		if before && shortAssignment(whole, true) {
			end := skipBlanks(s.text, i+n+1)
			out = append(out, span{i, end})
		}
		before = shortAssignment(whole, false)
		i += n + 1
	}
	return out
}

// shortAssignment reports whether a text is name=value with a name of one to three characters and a value
// without blanks, or, when it need not be all of the text, ends in one.
func shortAssignment(s string, all bool) bool {
	if i := strings.LastIndexFunc(s, isSpace); i >= 0 {
		if all {
			return false
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		s = s[i+n:]
	}
	for i := 1; i < len(s)-1; i++ {
		if s[i] != '=' {
			continue
		}
		for from := i - 1; from >= 0 && from >= i-3 && isWord(s[from]); from-- {
			if (s[from] < '0' || s[from] > '9') && (from == 0 || !all) {
				return true
			}
		}
		if all {
			return false
		}
	}
	return false
}

// uses are the places of $name and ${name.
func (s *scan) uses() (out []span) {
	for i := 0; i < len(s.text)-1; i++ {
		if s.text[i] != '$' {
			continue
		}
		j := i + 1
		if s.text[j] == '{' {
			j++
		}
		if j < len(s.text) && isWord(s.text[j]) && (s.text[j] < '0' || s.text[j] > '9') {
			out = append(out, span{i, j + 1})
		}
	}
	return out
}

// pipeEndsLine reports a shell that is the last of its line and gets its text from the left: after its
// name there are only words, without a bar or a semicolon.
func (s *scan) pipeEndsLine() bool {
	for i, p := range s.pipes {
		to := len(s.text)
		if i+1 < len(s.pipes) {
			to = s.pipes[i+1].from + 1 // the bar of the next one ends this at the latest
		}
		rest := s.text[p.to:to]
		args := skipBlanks(rest, 0)
		if strings.ContainsFunc(rest[:args], endsLine) || args == len(rest) {
			return true
		}
		if args == 0 {
			continue
		}
		switch n := strings.IndexAny(rest[args:], "|;\n\r"); {
		case n < 0, rest[args+n] == '\n', rest[args+n] == '\r', strings.ContainsAny(rest[args:args+n], "\u2028\u2029"):
			return true
		}
	}
	return false
}

// firstAddresses are the first addresses of a text, up to two, without their scheme.
func firstAddresses(text string) (out []string) {
	for len(out) < 2 {
		i := strings.Index(text, "://")
		if i < 0 {
			break
		}
		before := text[:i]
		text = text[i+3:]
		if !strings.HasSuffix(before, "http") && !strings.HasSuffix(before, "https") {
			continue
		}
		n := strings.IndexFunc(text, func(r rune) bool { return isSpace(r) || r == '"' || r == '\'' || r == '|' })
		if n < 0 {
			n = len(text)
		}
		if n > 0 {
			out = append(out, text[:n])
		}
		text = text[n:]
	}
	return out
}

// installers are places that a person may well pipe into a shell (nodes-approvals.md §3.13).
var installers = []string{
	"raw.githubusercontent.com/homebrew", "brew.sh", "raw.githubusercontent.com/nvm-sh/nvm", "sh.rustup.rs",
	"get.docker.com", "install.python-poetry.org", "get.pnpm.io", "bun.sh/install",
}

// wellKnownInstaller reports whether the only address in the text is one of them, fetched with curl.
func (s *scan) wellKnownInstaller() bool {
	places := firstAddresses(s.text)
	if len(places) != 1 || strings.Contains(s.text, "wget") {
		return false
	}
	place := places[0]
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
