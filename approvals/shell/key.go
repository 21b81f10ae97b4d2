package shell

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// Limits of Key.
const (
	// maxKeyText bounds the words of a command that has a key, in bytes together. A longer one is no
	// command that somebody runs again and again.
	maxKeyText = 16 << 10
	// maxKeyDepth bounds shells within shells and wrappers.
	maxKeyDepth = 8
)

// Key returns the canonical form of an argv, by which a grant finds the same command again. Two argv
// have the same key when all their words are the same, wrappers and options included. The text of an
// inline shell (sh -c TEXT) is compared by what it says where every shell reads it alike (Analysis.Exact:
// spacing and quoting do not count then) and byte for byte otherwise: what it expands may be another
// thing each time, and the text that was granted stays the same.
//
// The error says why a command cannot be matched again: what it runs is not in its words. That is a
// shell or an interpreter with a script, or one that reads its commands from its input; a text that
// reads another file as commands, or that starts a program whose name only the run knows. A program
// that is called by a path or name is in the words; that its file stays the same is for the binding.
func Key(argv []string) (string, error) {
	k := keyed{}
	size := 0
	for _, w := range argv {
		size += len(w) + 1
		if strings.Contains(w, Unknown) {
			return "", errors.New("a word holds a NUL byte, which no program can be given")
		}
	}
	switch {
	case len(argv) == 0 || trim(argv[0]) == "":
		return "", errors.New("it names no program")
	case size > maxKeyText:
		return "", fmt.Errorf("it is longer than %d bytes", maxKeyText)
	}
	text, err := k.argv(argv, 0)
	if err != nil {
		return "", err
	}
	b := make([]byte, 0, size+8)
	for i, w := range argv {
		if i > 0 {
			b = append(b, ' ')
		}
		if i == text {
			if lines, ok := canonicalLine(b, w); ok {
				b = lines
				continue
			}
		}
		b = strconv.AppendQuote(b, w)
	}
	return string(b), nil
}

// canonicalLine appends what a text runs, in angle brackets so that it equals no word.
func canonicalLine(b []byte, text string) ([]byte, bool) {
	pieces, exact, _, reason := readLine(text)
	if reason != "" || !exact {
		return nil, false
	}
	b = append(b, '<')
	for _, p := range pieces {
		if p.reason != "" {
			return nil, false
		}
		for _, s := range p.segs {
			b = append(b, s.Op...)
			b = append(b, '(')
			for i, w := range s.Argv {
				if i > 0 {
					b = append(b, ' ')
				}
				b = strconv.AppendQuote(b, w)
			}
			b = append(b, ')')
		}
	}
	return append(b, '>'), true
}

// shellDirs are where the shells of a system are.
var shellDirs = []string{"/bin/", "/usr/bin/", "/usr/local/bin/", "/opt/homebrew/bin/"}

// keyed looks for what a command runs that is not in its words.
type keyed struct{}

// argv returns the index of the word that is the text of an inline shell which is read as one, or -1.
func (k keyed) argv(argv []string, depth int) (text int, err error) {
	if depth > maxKeyDepth {
		return -1, errors.New("it has too many commands within commands")
	}
	name := programName(argv[0])
	if strings.Contains(argv[0], Unknown) {
		return -1, errors.New("only the run knows the name of a program that it starts")
	}
	switch {
	case isDispatcher(name):
		if inner, _, ok := unwrap(argv); ok {
			text, err = k.argv(inner, depth+1)
			if text >= 0 {
				text += len(argv) - len(inner)
			}
			return text, err
		}
		return -1, k.hidden(argv, depth)
	case isBox(name):
		if inner, ok := unwrapBox(argv); ok {
			_, err = k.argv(inner, depth+1)
		}
		return -1, err
	case name == "cmd" || slices.Contains(powerShells, name):
		return -1, k.otherShell(name, argv)
	case posixCalls[name] || otherCalls[name] || isShell(name):
		at, err := shellText(name, argv)
		if err != nil {
			return -1, err
		}
		if err := k.text(name, argv[at], depth+1); err != nil {
			return -1, err
		}
		// Another file of that name may read its text as it likes.
		if dir, _ := filepath.Split(argv[0]); !plainShells[name] || dir != "" && !slices.Contains(shellDirs, dir) {
			at = -1
		}
		return at, nil
	case carriers[plainName(argv[0])].script:
		return -1, interpreterText(plainName(argv[0]), argv)
	case name == "find" && !runsArguments(argv):
	case carriers[name].never || starters[name]:
		return -1, k.hidden(argv, depth)
	}
	return -1, nil
}

// hidden looks at the words of a program that runs some of them, for shells and interpreters.
func (k keyed) hidden(argv []string, depth int) error {
	for i, w := range argv {
		if i == 0 || w == "" {
			continue
		}
		name := programName(w)
		if posixCalls[name] || otherCalls[name] || isShell(name) || carriers[plainName(w)].script {
			if _, err := k.argv(argv[i:], depth+1); err != nil {
				return err
			}
		}
		if strings.ContainsAny(w, " \t\n;|&") && !strings.HasPrefix(w, "-") {
			if err := k.text("sh", w, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// shellText finds the text of a shell among its arguments as POSIX says: the first operand, when -c is
// among the options.
func shellText(name string, argv []string) (at int, err error) {
	given := false
	for i := 1; i < len(argv); i++ {
		w := argv[i]
		switch {
		case w == "--" || w == "-":
			if i++; i < len(argv) && given {
				return i, nil
			}
			i--
			if given || i+1 >= len(argv) {
				return 0, fmt.Errorf("%s reads its commands from its input", name)
			}
			return 0, fmt.Errorf("%s runs the file %s, whose contents are not in the command", name, clip(argv[i+1]))
		case strings.Contains(w, Unknown):
			return 0, fmt.Errorf("only the run knows what %s is given", name)
		case strings.HasPrefix(w, "--"):
			switch w {
			case "--version", "--help":
				return 0, fmt.Errorf("%s is given no command", name)
			case "--login", "--norc", "--noprofile", "--posix", "--restricted", "--noediting", "--command":
				given = given || w == "--command"
			default:
				return 0, fmt.Errorf("%s is given %s, which may name a file", name, clip(w))
			}
		case len(w) > 1 && (w[0] == '-' || w[0] == '+'):
			for j := 1; j < len(w); j++ {
				switch c := w[j]; {
				case c == 'c' && w[0] == '-':
					given = true
				case c == 's' && w[0] == '-':
					return 0, fmt.Errorf("%s reads its commands from its input", name)
				case c == 'o' || c == 'O':
					i++
				case c < 'A' || c > 'z' || c > 'Z' && c < 'a':
					return 0, fmt.Errorf("%s is given %s, which is no option", name, clip(w))
				}
			}
		case given:
			return i, nil
		default:
			return 0, fmt.Errorf("%s runs the file %s, whose contents are not in the command", name, clip(w))
		}
	}
	return 0, fmt.Errorf("%s reads its commands from its input", name)
}

// otherShell is for cmd and PowerShell, whose text is not read.
func (k keyed) otherShell(name string, argv []string) error {
	for i, w := range argv[1:] {
		w = fold(trim(w))
		switch {
		case name == "cmd" && (w == "/c" || w == "/k"), name != "cmd" && (w == "-c" || w == "-command" || w == "--command" || w == "-encodedcommand"):
			if i+2 < len(argv) && trim(argv[i+2]) != "-" {
				return nil
			}
		case name != "cmd" && !strings.HasPrefix(w, "-"):
			return fmt.Errorf("%s runs the file %s, whose contents are not in the command", name, clip(w))
		case name != "cmd" && strings.HasPrefix(w, "-f"):
			return fmt.Errorf("%s runs a file, whose contents are not in the command", name)
		}
	}
	return fmt.Errorf("%s reads its commands from its input", name)
}

// interpreterText accepts an interpreter that is given its program as an argument.
func interpreterText(name string, argv []string) error {
	for _, w := range argv[1:] {
		switch {
		case !strings.HasPrefix(w, "-") || w == "-":
			return fmt.Errorf("%s runs the file %s, whose contents are not in the command", name, clip(w))
		case len(w) > 1 && w[1] != '-':
			// The letters for text of Python (c), Perl, Ruby, Node, Lua, R, Julia (e, E, p) and PHP (r).
			letters := "eE"
			switch name {
			case "python", "python2", "python3", "pypy", "pypy3":
				letters = "c"
				if strings.Contains(w, "m") {
					return fmt.Errorf("%s runs a module, which is not in the command", name)
				}
			case "node", "nodejs":
				letters = "ep"
			case "php", "php-cli":
				letters = "r"
			case "guile":
				letters = "c"
			}
			if i := strings.IndexAny(w, letters); i > 0 {
				return nil
			}
		case w == "--eval" || w == "--print" || strings.HasPrefix(w, "--eval=") || strings.HasPrefix(w, "--print="), w == "--version", w == "--help":
			return nil
		}
	}
	return fmt.Errorf("%s reads its program from its input", name)
}

// text looks at every command of a text, wherever it stands.
func (k keyed) text(shell, text string, depth int) error {
	switch {
	case strings.Contains(text, Unknown):
		return errors.New("only the run knows the text that a shell is given")
	case depth > maxKeyDepth:
		return errors.New("it has too many commands within commands")
	case shell == "fish" || otherCalls[shell]:
		return fmt.Errorf("the text for %s cannot be read", shell)
	case !utf8.ValidString(text):
		return errors.New("its text is not valid UTF-8")
	}
	file, err := parseCalls(text)
	if err != nil {
		return errors.New("its text cannot be read")
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		if err != nil {
			return false
		}
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		words := make([]string, len(call.Args))
		for i, w := range call.Args {
			words[i] = callWord(w)
		}
		err = k.command(words, depth)
		return err == nil
	})
	return err
}

// command is one command of a text.
func (k keyed) command(words []string, depth int) error {
	switch words[0] {
	case "source", ".":
		return errors.New("it reads a file as commands")
	case "eval":
		return k.text("sh", strings.Join(words[1:], " "), depth+1)
	case "trap":
		if len(words) > 2 {
			return k.text("sh", words[1], depth+1)
		}
		return nil
	case "exec", "command", "builtin", "time", "noglob", "nocorrect":
		rest := words[1:]
		for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return nil
		}
		return k.command(rest, depth+1)
	}
	if words[0] == "" {
		return errors.New("only the run knows the name of a program that it starts")
	}
	_, err := k.argv(words, depth+1)
	return err
}

// MatchArgv reports whether a pattern covers an argv. Each word of the pattern stands for one word of
// the argv; a * in it is any run of bytes within that word, and everything else is itself, case
// included. ** as the last word is any further words, also none. There is no way to ask for a literal
// star; Key is for exact commands. It takes linear time.
//
// It is for what permits. So where the argv has a shell, a wrapper or an interpreter in it, a star beside other
// characters is no blank and no character that means something to a shell: `git *` as the text of sh -c
// covers `git status`, and not `git status; rm x`. A word that is one star is any word there too.
func MatchArgv(pattern, argv []string) bool {
	if len(pattern) == 0 || len(argv) == 0 {
		return false
	}
	rest := pattern[len(pattern)-1] == "**"
	if rest {
		pattern = pattern[:len(pattern)-1]
	}
	if len(argv) < len(pattern) || len(argv) > len(pattern) && !rest {
		return false
	}
	lim := carriers[plainName(argv[0])]
	texts := lim.never || lim.script || slices.ContainsFunc(argv, Starts)
	for i, w := range argv[:len(pattern)] {
		if p := pattern[i]; p != "*" && !matchWord(p, w, texts) {
			return false
		}
	}
	return true
}

// shellBytes are those that mean something to some shell.
const shellBytes = " \t\n\r\v\f;|&<>()$`\\\"'*?[]{}~#!=%^"

// matchWord matches the whole word. The pieces between stars are looked for from the left, each after
// the one before, so no piece is looked for twice.
func matchWord(pattern, word string, text bool) bool {
	head, rest, star := strings.Cut(pattern, "*")
	word, ok := strings.CutPrefix(word, head)
	if !star {
		return ok && word == ""
	}
	tail := rest[strings.LastIndexByte(rest, '*')+1:]
	if word, found := strings.CutSuffix(word, tail); ok && found {
		rest = rest[:len(rest)-len(tail)]
		for rest != "" {
			var piece string
			piece, rest, _ = strings.Cut(rest, "*")
			at := strings.Index(word, piece)
			if at < 0 || text && strings.ContainsAny(word[:at], shellBytes) {
				return false
			}
			word = word[at+len(piece):]
		}
		return !text || !strings.ContainsAny(word, shellBytes)
	}
	return false
}
