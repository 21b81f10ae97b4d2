package shell

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// The bounds of Calls and Plain. A command that needs more is not judged.
const (
	// maxCallText bounds one text that is parsed, in bytes; a longer one is cut into words only.
	maxCallText = 64 << 10
	// maxCalls bounds the calls of one command.
	maxCalls = 4096
	// maxCallWords bounds the words of all of them together: wrappers repeat their words.
	maxCallWords = 1 << 16
	// maxCallDepth bounds shells within shells.
	maxCallDepth = 8
)

// Unknown stands in the words of a Call for text that only the run knows: an expansion, a substitution
// or a pattern for file names. An argv cannot hold it.
const Unknown = "\x00"

// Call is one command that a run visibly starts.
type Call struct {
	// Words are what it is given; see Unknown. Name is what the first is known by, see CallName.
	Words []string
	Name  string
	// Moved says that the directory may have been changed before it.
	Moved bool
}

// Calls lists every command that an argv visibly starts: the argv itself, what wrappers in it start, and
// every command in the text of inline shells, substitutions and functions included. It errs on the side
// of more: of a program that starts others, any of its words may begin a command. So it is for rules that
// forbid. all is false when there is more than it lists.
func Calls(argv []string) (calls []Call, all bool) {
	c := caller{}
	c.argv(argv, false, 0)
	return c.calls, !c.full
}

// CallsOf is Calls for a command line.
func CallsOf(text string) (calls []Call, all bool) {
	c := caller{}
	c.text(text, false, 0)
	return c.calls, !c.full
}

type caller struct {
	calls []Call
	words int
	full  bool
}

// starters run what their words say. In quoted words of a starter a whole line may stand.
var starters = map[string]bool{
	"env": true, "nice": true, "nohup": true, "stdbuf": true, "timeout": true, "chrt": true, "doas": true, "ionice": true,
	"setsid": true, "sudo": true, "taskset": true, "busybox": true, "toybox": true, "coreutils": true, "xargs": true,
	"find": true, "fd": true, "parallel": true, "watch": true, "time": true, "command": true, "builtin": true, "exec": true,
	"eval": true, "trap": true, "su": true, "runuser": true, "script": true, "flock": true, "unshare": true,
	"nsenter": true, "chroot": true, "strace": true, "ltrace": true, "gdb": true, "setpriv": true, "systemd-run": true,
	"pkexec": true, "caffeinate": true, "arch": true, "open": true, "start": true, "call": true, "forfiles": true,
	"ssh": true, "coproc": true, "noglob": true, "nocorrect": true, "prlimit": true, "numactl": true, "dbus-run-session": true,
	"entr": true, "unbuffer": true, "rlwrap": true, "faketime": true, "fakeroot": true, "proot": true, "firejail": true, "bwrap": true,
	"start-process": true, "invoke-expression": true, "iex": true, "invoke-command": true, "icm": true, "saps": true, "runas": true, "wsl": true,
}

// posixCalls and otherCalls are the shells; the text of the others is cut into words only.
var (
	posixCalls = map[string]bool{"ash": true, "bash": true, "dash": true, "ksh": true, "ksh93": true, "mksh": true, "rbash": true, "sh": true, "zsh": true, "yash": true}
	otherCalls = map[string]bool{"fish": true, "cmd": true, "powershell": true, "pwsh": true, "csh": true, "tcsh": true, "nu": true, "elvish": true, "xonsh": true}
)

// CallName is what a word is known by as a program: its last path component in either notation, in
// lower case (ASCII), without the extension of an executable.
func CallName(word string) string {
	word = strings.TrimSpace(word)
	word = word[strings.LastIndexAny(word, `/\`)+1:]
	if len(word) > 2 && word[1] == ':' {
		word = word[2:]
	}
	word = lowerASCII(word)
	if len(word) > 4 && word[len(word)-4] == '.' {
		switch word[len(word)-3:] {
		case "exe", "com", "cmd", "bat":
			return word[:len(word)-4]
		}
	}
	return word
}

func lowerASCII(s string) string {
	upper := false
	for i := range len(s) {
		upper = upper || s[i] >= 'A' && s[i] <= 'Z'
	}
	if !upper {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Starts reports whether a program, by its word, runs what it is given: a shell or a wrapper.
func Starts(word string) bool {
	n := CallName(word)
	return starters[n] || posixCalls[n] || otherCalls[n]
}

func (c *caller) add(words []string, moved bool) bool {
	if len(words) == 0 {
		return false
	}
	if len(c.calls) >= maxCalls || c.words+len(words) > maxCallWords {
		c.full = true
		return false
	}
	c.calls, c.words = append(c.calls, Call{Words: words, Name: CallName(words[0]), Moved: moved}), c.words+len(words)
	return true
}

// argv adds a command and what it starts.
func (c *caller) argv(words []string, moved bool, depth int) {
	if !c.add(words, moved) {
		return
	}
	c.inside(words, moved, depth)
	if !starters[callName(words[0])] {
		return
	}
	for i := 1; i < len(words) && !c.full; i++ {
		w := words[i]
		if w == "" {
			continue
		}
		c.add(words[i:], true)
		c.inside(words[i:], true, depth)
		if !strings.ContainsAny(w, " \t\n;|&") {
			continue
		}
		if _, value, ok := strings.Cut(w, "="); ok && w[0] == '-' { // --split-string=…
			w = value
		} else if w[0] == '-' && len(w) > 2 { // -S…
			w = w[2:]
		}
		c.text(w, true, depth+1)
	}
}

// callName is the name of a program; an expansion in it may leave nothing.
func callName(word string) string {
	if strings.Contains(word, Unknown) {
		word = strings.ReplaceAll(word, Unknown, "")
	}
	return CallName(word)
}

// inside adds what a shell is given as text.
func (c *caller) inside(words []string, moved bool, depth int) {
	name := callName(words[0])
	if otherCalls[name] {
		c.rough(strings.Join(words[1:], " "))
	}
	if !posixCalls[name] {
		return
	}
	for i, w := range words[1:] {
		if !inlineOption(w) {
			continue
		}
		if at := strings.IndexAny(w, "cC"); at+1 < len(w) {
			c.text(w[at+1:], moved, depth+1) // some take it from the same word
		}
		for _, text := range words[i+2:] {
			c.text(text, moved, depth+1)
		}
		return
	}
}

// callParsers are kept, because making one costs as much as parsing a line.
var callParsers = sync.Pool{New: func() any { return syntax.NewParser(syntax.Variant(syntax.LangBash)) }}

var errNested = errors.New("the text has too much in it that may nest")

func parseCalls(text string) (*syntax.File, error) {
	if nests(text) {
		return nil, errNested
	}
	p, _ := callParsers.Get().(*syntax.Parser)
	defer callParsers.Put(p)
	return p.Parse(strings.NewReader(text), "")
}

// text adds the commands of a line for a POSIX shell.
func (c *caller) text(text string, moved bool, depth int) {
	if c.full || strings.TrimSpace(text) == "" {
		return
	}
	if depth > maxCallDepth {
		c.full = true
		return
	}
	if len(text) > maxCallText || strings.Contains(text, Unknown) {
		c.rough(strings.ReplaceAll(text, Unknown, " "))
		return
	}
	file, err := parseCalls(text)
	if err != nil {
		c.rough(text)
		return
	}
	piped := false
	var later []string // texts that a shell may read from elsewhere
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CallExpr:
			words := make([]string, len(n.Args))
			for i, w := range n.Args {
				words[i] = callWord(w)
				if strings.ContainsAny(words[i], " \t\n;|&") {
					later = append(later, words[i])
				}
			}
			if len(words) > 0 {
				if first := literals(n.Args[0]); strings.Contains(first, "{") {
					c.rough(first + " " + strings.Join(words[1:], " ")) // {a,b} may become a command and its words
				}
				c.argv(words, moved, depth)
				name := callName(words[0])
				moved = moved || name == "cd" || name == "pushd" || name == "popd"
				piped = piped || posixCalls[name]
			}
			for _, a := range n.Assigns {
				if a.Value != nil {
					later = append(later, callWord(a.Value))
				}
			}
		case *syntax.Redirect:
			for _, w := range []*syntax.Word{n.Hdoc, n.Word} {
				if w != nil {
					later = append(later, callWord(w))
				}
			}
		case *syntax.DeclClause:
			words := []string{n.Variant.Value}
			for _, a := range n.Args {
				if a.Name != nil {
					words = append(words, a.Name.Value)
				} else if a.Value != nil {
					words = append(words, callWord(a.Value))
				}
			}
			c.add(words, moved)
		case *syntax.FuncDecl, *syntax.CoprocClause, *syntax.TimeClause:
			// Their bodies are walked.
		}
		return !c.full
	})
	if !piped {
		return
	}
	// A shell stands in the line: what other commands print, or a heredoc holds, may be for it.
	for _, t := range later {
		c.text(t, moved, depth+1)
	}
}

// rough adds what a text that cannot be read may start: any of its words may begin a command.
func (c *caller) rough(text string) {
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(";|&(){}<>`\"'$^!,=", r) })
	for i := range words {
		words[i] = strings.NewReplacer(`\`, "", "`", "").Replace(words[i])
		if words[i] == "" {
			words[i] = Unknown
		}
	}
	for i := range words {
		if c.full {
			return
		}
		// With backslashes kept a Windows path keeps its name: CallName takes both notations.
		c.add(words[i:min(len(words), i+maxRoughWords)], true)
	}
}

// maxRoughWords is how many words of an unreadable text are compared with a rule; a rule that wants
// more to forbid something would be a strange one.
const maxRoughWords = 16

// callWord is the value of a word, with Unknown for what only the run knows.
func callWord(w *syntax.Word) string {
	var b strings.Builder
	for _, p := range w.Parts {
		callPart(&b, p, false)
	}
	return b.String()
}

// literals is the unquoted text of a word.
func literals(w *syntax.Word) string {
	if lit, ok := w.Parts[0].(*syntax.Lit); ok && len(w.Parts) == 1 {
		return lit.Value
	}
	var b strings.Builder
	for _, p := range w.Parts {
		if lit, ok := p.(*syntax.Lit); ok {
			b.WriteString(lit.Value)
		}
	}
	return b.String()
}

func callPart(b *strings.Builder, p syntax.WordPart, quoted bool) {
	switch p := p.(type) {
	case *syntax.Lit:
		callLit(b, p.Value, quoted)
	case *syntax.SglQuoted:
		if p.Dollar {
			callEscapes(b, p.Value)
			return
		}
		b.WriteString(p.Value)
	case *syntax.DblQuoted:
		for _, x := range p.Parts {
			callPart(b, x, true)
		}
	default:
		b.WriteString(Unknown)
	}
}

// callLit adds literal text without its escapes.
func callLit(b *strings.Builder, s string, quoted bool) {
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\\' && i+1 < len(s):
			i++
			switch {
			case s[i] == '\n':
			case !quoted || strings.IndexByte("$`\"\\", s[i]) >= 0:
				b.WriteByte(s[i])
			default:
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
		case !quoted && strings.IndexByte("*?[{", ch) >= 0:
			b.WriteString(Unknown)
			if end := strings.IndexAny(s[i:], "]}"); (ch == '[' || ch == '{') && end > 0 {
				i += end
			}
		default:
			b.WriteByte(ch)
		}
	}
}

// callEscapes adds the value of $'…'.
func callEscapes(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		digits := func(base rune, most int) {
			v, n := rune(0), 0
			for n < most && i+1 < len(s) {
				d := strings.IndexByte("0123456789abcdef", lowerASCII(s[i+1 : i+2])[0])
				if d < 0 || rune(d) >= base {
					break
				}
				v, n, i = v*base+rune(d), n+1, i+1
			}
			switch {
			case n == 0 || v == 0:
				b.WriteString(Unknown)
			case base == 8 || most == 2:
				b.WriteByte(byte(v))
			default:
				b.WriteRune(v)
			}
		}
		switch ch := s[i]; ch {
		case 'n', 't', 'r', 'f', 'v', 'a', 'b', 'e', 'E':
			b.WriteByte(' ')
		case 'x':
			digits(16, 2)
		case 'u':
			digits(16, 4)
		case 'U':
			digits(16, 8)
		case 'c':
			b.WriteString(Unknown)
			i++
		case '0', '1', '2', '3', '4', '5', '6', '7':
			i--
			digits(8, 3)
		default:
			b.WriteByte(ch)
		}
	}
}

// Simple is one command of a line whose every word is known from its text.
type Simple struct {
	Argv []string
	// Moved says that a cd stands before it: where it runs is not known. Starts is Starts of the first word.
	Moved, Starts bool
}

// plainShells are those whose quoting is the same for what PlainText takes, by the path people use.
var plainShells = map[string]bool{
	"sh": true, "ash": true, "bash": true, "dash": true, "ksh": true, "zsh": true,
}

// changers are builtins after which a later command may be another than its words say. Each is refused.
var changers = map[string]bool{
	"alias": true, "autoload": true, "bind": true, "builtin": true, "command": true, "coproc": true, "declare": true, "emulate": true,
	"enable": true, "eval": true, "exec": true, "export": true, "fc": true, "hash": true, "let": true, "local": true, "mapfile": true,
	"nameref": true, "noglob": true, "read": true, "readarray": true, "readonly": true, "rehash": true, "set": true, "setopt": true,
	"shopt": true, "source": true, ".": true, "trap": true, "typeset": true, "unalias": true, "unhash": true, "unset": true, "unsetopt": true,
	"zmodload": true, "function": true, "getopts": true, "complete": true, "compgen": true, "compopt": true, "history": true,
	"disown": true, "suspend": true, "ulimit": true, "umask": true,
}

// Plain splits an argv into the commands that it runs, when all of them are known from its text. An argv
// that is no shell is one command. A shell with inline text (sh -c TEXT) is those of the text. why says
// what is not known; then nothing may be taken for granted. It is for rules that permit.
func Plain(argv []string) (commands []Simple, why string) {
	if len(argv) == 0 || strings.TrimSpace(argv[0]) == "" {
		return nil, "there is no command"
	}
	if strings.ContainsFunc(argv[0], func(r rune) bool { return !unicode.IsPrint(r) }) || strings.TrimSpace(argv[0]) != argv[0] {
		return nil, "the name of the program holds characters that cannot be seen"
	}
	for _, w := range argv {
		if strings.Contains(w, Unknown) {
			return nil, "a word holds a NUL byte"
		}
	}
	name := CallName(argv[0])
	if !posixCalls[name] && !otherCalls[name] {
		return []Simple{{Argv: argv, Starts: starters[name] || posixCalls[name] || otherCalls[name]}}, ""
	}
	if !slices.ContainsFunc(argv[1:], inlineOption) && !otherCalls[name] {
		return []Simple{{Argv: argv, Starts: starters[name] || posixCalls[name] || otherCalls[name]}}, ""
	}
	switch dir := strings.TrimSuffix(argv[0], name); {
	case !plainShells[name]:
		return nil, "text for " + name + " cannot be read"
	case dir != "" && dir != "/bin/" && dir != "/usr/bin/":
		return nil, "the shell is not one of the system"
	case len(argv) != 3 || !plainOption(argv[1]):
		return nil, "the shell has more than the option -c and one text"
	}
	return PlainText(argv[2])
}

// inlineOption reports an option that gives a shell its text.
func inlineOption(w string) bool {
	return len(w) > 1 && (w[0] == '-' || w[0] == '+') && strings.ContainsAny(w, "cC")
}

// plainOption reports -c, with the options that change nothing about what runs.
func plainOption(w string) bool {
	rest, ok := strings.CutSuffix(w, "c")
	return ok && len(rest) > 0 && rest[0] == '-' && strings.Trim(rest[1:], "leu") == ""
}

// PlainText is Plain for the text of an inline shell.
func PlainText(text string) (commands []Simple, why string) {
	if len(text) > maxCallText {
		return nil, "it is longer than 64 KiB"
	}
	if !utf8.ValidString(text) {
		return nil, "it is not valid UTF-8"
	}
	for _, r := range text {
		if r < ' ' && r != '\t' && r != '\n' || r == 0x7f || r > 0x7f && (unicode.IsSpace(r) || !unicode.IsPrint(r)) {
			return nil, "it holds characters that cannot be seen"
		}
	}
	file, err := parseCalls(text)
	if err != nil {
		return nil, "it is not a line that a shell can read"
	}
	p := plain{}
	if !p.stmts(file.Stmts) {
		return nil, p.why
	}
	if len(p.commands) == 0 {
		return nil, "there is no command"
	}
	return p.commands, ""
}

type plain struct {
	commands []Simple
	moved    bool
	why      string
	depth    int
}

func (p *plain) refuse(why string) bool {
	p.why = why
	return false
}

func (p *plain) stmts(all []*syntax.Stmt) bool {
	for _, s := range all {
		if !p.stmt(s) {
			return false
		}
	}
	return true
}

func (p *plain) stmt(s *syntax.Stmt) bool {
	switch {
	case len(s.Redirs) > 0:
		return p.refuse("it redirects input or output")
	case s.Background || s.Coprocess || s.Disown:
		return p.refuse("it leaves a command in the background")
	case s.Negated:
		return p.refuse("it negates a command")
	case len(p.commands) >= maxCalls:
		return p.refuse("it has too many commands")
	}
	switch cmd := s.Cmd.(type) {
	case *syntax.BinaryCmd:
		if cmd.Op != syntax.AndStmt && cmd.Op != syntax.OrStmt && cmd.Op != syntax.Pipe {
			return p.refuse("it joins commands with " + cmd.Op.String())
		}
		if p.depth++; p.depth > maxCalls {
			return p.refuse("it has too many commands")
		}
		return p.stmt(cmd.X) && p.stmt(cmd.Y)
	case *syntax.CallExpr:
		return p.call(cmd)
	}
	return p.refuse("it is more than commands in a row")
}

func (p *plain) call(cmd *syntax.CallExpr) bool {
	if len(cmd.Assigns) > 0 {
		return p.refuse("it sets variables")
	}
	argv := make([]string, len(cmd.Args))
	for i, w := range cmd.Args {
		value, ok := plainWord(w)
		if !ok {
			return p.refuse("it has words that only the run knows")
		}
		argv[i] = value
	}
	if len(argv) == 0 || argv[0] == "" {
		return p.refuse("there is no command")
	}
	if changers[argv[0]] {
		return p.refuse(argv[0] + " changes what later words mean")
	}
	if name := CallName(argv[0]); otherCalls[name] || posixCalls[name] && slices.ContainsFunc(argv[1:], inlineOption) {
		return p.refuse("it starts another shell with text")
	}
	p.commands = append(p.commands, Simple{Argv: argv, Moved: p.moved, Starts: Starts(argv[0])})
	p.moved = p.moved || argv[0] == "cd" || argv[0] == "pushd" || argv[0] == "popd" || argv[0] == "chdir"
	return true
}

// plainWord is the value of a word without expansions.
func plainWord(w *syntax.Word) (string, bool) {
	var b strings.Builder
	for i, part := range w.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			// ~ and = at the start, and patterns anywhere, are for the shell; ^ and # are to some.
			if strings.ContainsAny(part.Value, "*?[]{}^#!") || i == 0 && strings.HasPrefix(part.Value, "=") || strings.Contains(part.Value, "~") {
				return "", false
			}
			callLit(&b, part.Value, false)
		case *syntax.SglQuoted:
			if part.Dollar {
				return "", false
			}
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			if part.Dollar {
				return "", false
			}
			for _, x := range part.Parts {
				lit, ok := x.(*syntax.Lit)
				if !ok || strings.Contains(lit.Value, "!") {
					return "", false
				}
				callLit(&b, lit.Value, true)
			}
		default:
			return "", false
		}
	}
	return b.String(), true
}
