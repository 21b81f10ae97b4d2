package shell

import (
	"slices"
	"strings"
)

// Programs that run what their arguments say (nodes-approvals.md §3.8). They are known by name, so
// this is a help for people, not a fence: the fence is that only a plain argv can be on the list.
var (
	posixShells = []string{"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"}
	powerShells = []string{"powershell", "pwsh"}
	multiCall   = []string{"busybox", "toybox", "coreutils"}
	// opaque wrappers are never looked through.
	opaque = []string{"chrt", "doas", "ionice", "setsid", "sudo", "taskset"}
)

// maxWrappers is how deep an inline shell is looked for.
const maxWrappers = 4

// options of a wrapper that is looked through.
type options struct {
	flags  []string // stand alone
	valued []string // take =value or the next word
	glued  bool     // the first valued option may have its value in the same word: -n5
	digits bool     // -5 is an option
	words  int      // words before the command
}

var wrappers = map[string]options{
	"nice":    {valued: []string{"-n", "--adjustment", "--priority"}, glued: true, digits: true},
	"nohup":   {flags: []string{"--help", "--version"}},
	"stdbuf":  {valued: []string{"-i", "-o", "-e", "--input", "--output", "--error"}},
	"timeout": {flags: []string{"--foreground", "--preserve-status", "-v", "--verbose"}, valued: []string{"-k", "--kill-after", "-s", "--signal"}, words: 1},
}

var envFlags = []string{"-i", "--ignore-environment", "-0", "--null"}
var envValued = []string{"-u", "--unset", "-c", "--chdir", "-s", "--split-string", "--default-signal", "--ignore-signal", "--block-signal"}

// programName is what a word is known by: its last path component in either notation, in lower case,
// without .exe.
func programName(word string) string {
	word = trim(word)
	posix := word[strings.LastIndexByte(word, '/')+1:]
	win := word[strings.LastIndexAny(word, `/\:`)+1:]
	if len(win) < len(posix) {
		posix = win
	}
	return strings.TrimSuffix(fold(trim(posix)), ".exe")
}

func isShell(name string) bool {
	return name == "cmd" || slices.Contains(posixShells, name) || slices.Contains(powerShells, name)
}

func isDispatcher(name string) bool {
	_, known := wrappers[name]
	return known || name == "env" || slices.Contains(opaque, name)
}

// unwrap returns the command inside a wrapper. modified says that env changes the environment
// first.
func unwrap(argv []string) (inner []string, modified, ok bool) {
	name := programName(argv[0])
	if name == "env" {
		return unwrapEnv(argv)
	}
	o, known := wrappers[name]
	if !known {
		return nil, false, false
	}
	i := 1
	for ; i < len(argv); i++ {
		w := trim(argv[i])
		if w == "--" {
			i++
			break
		}
		if !strings.HasPrefix(w, "-") || w == "-" {
			break
		}
		flag, _, hasValue := strings.Cut(fold(w), "=")
		switch {
		case slices.Contains(o.flags, flag) && !hasValue:
		case slices.Contains(o.valued, flag):
			if !hasValue {
				i++
			}
		case o.digits && strings.Trim(w[1:], "0123456789") == "":
		case o.glued && strings.HasPrefix(w, o.valued[0]):
		default:
			return nil, false, false
		}
	}
	i += o.words
	if i >= len(argv) {
		return nil, false, false
	}
	return argv[i:], false, true
}

// maxDispatch is how many wrappers are looked through; one more blocks.
const maxDispatch = 4

// unwrapAll looks through the wrappers of an argv (nodes-approvals.md §3.8). blocked is the wrapper
// that hides what runs.
func unwrapAll(argv []string) (wrappers, effective []string, blocked string) {
	for {
		name := programName(argv[0])
		if !isDispatcher(name) {
			return wrappers, argv, ""
		}
		inner, modified, ok := unwrap(argv)
		switch {
		case !ok || len(wrappers) == maxDispatch:
			return wrappers, argv, name
		case modified, trim(argv[len(argv)-len(inner)-1]) == "-" && name == "env": // env - empties the environment
			return append(wrappers, name), argv, name
		}
		wrappers, argv = append(wrappers, name), inner
	}
}

func unwrapEnv(argv []string) (inner []string, modified, ok bool) {
	i := 1
	for ; i < len(argv); i++ {
		w := trim(argv[i])
		if w == "" {
			continue
		}
		if w == "--" || w == "-" {
			i++
			break
		}
		if name, _, set := strings.Cut(w, "="); set && EnvName(name) {
			modified = true
			continue
		}
		if !strings.HasPrefix(w, "-") {
			break
		}
		flag, _, hasValue := strings.Cut(fold(w), "=")
		modified = true
		switch {
		case slices.Contains(envFlags, flag):
		case slices.Contains(envValued, flag):
			if !hasValue {
				i++
			}
		case !strings.HasPrefix(flag, "--") && len(flag) > 2 && slices.Contains(envValued, flag[:2]):
		default:
			return nil, false, false
		}
	}
	if i >= len(argv) {
		return nil, false, false
	}
	return argv[i:], modified, true
}

// Inline is a command line that a shell in an argv is given as text.
type Inline struct {
	Text string
	// Modified says that env changes the environment before the shell.
	Modified bool
	// More says that words follow the text, which it sees as $0, $1, ….
	More bool
	// Misread says that the shell would run something else than Text, which is found as the original
	// finds it: a script that is named before -c, or a file whose name is the text.
	Misread bool
}

// FindInline looks for one, through wrappers and busybox.
func FindInline(argv []string) (Inline, bool) {
	modified := false
	for depth := 0; depth < maxWrappers && len(argv) > 0; depth++ {
		name := programName(argv[0])
		switch {
		case isBox(name):
			inner, ok := unwrapBox(argv)
			if !ok {
				return Inline{}, false
			}
			argv = inner
		case isShell(name):
			sh, ok := shellPayload(name, argv)
			sh.Modified = modified
			sh.Misread = sh.Misread && !modified && !sh.More // else all words are shown
			return sh, ok
		default:
			inner, m, ok := unwrap(argv)
			if !ok {
				return Inline{}, false
			}
			argv, modified = inner, modified || m
		}
	}
	return Inline{}, false
}

func isBox(name string) bool { return name == "busybox" || name == "toybox" }

// unwrapBox returns the shell that busybox or toybox is asked to be.
func unwrapBox(argv []string) (inner []string, ok bool) {
	inner = argv[1:]
	if len(inner) > 0 && trim(inner[0]) == "--" {
		inner = inner[1:]
	}
	return inner, len(inner) > 0 && isShell(programName(inner[0]))
}

// runsArguments reports whether an argv makes a program run what its arguments name: a script for a
// shell, a command for xargs or find. An entry for the program must not be one for all of them. These
// are the plainest cases; Refusal knows more.
func runsArguments(argv []string) bool {
	name := programName(argv[0])
	switch {
	case isShell(name):
		if _, inline := shellPayload(name, argv); inline {
			return false
		}
		return slices.ContainsFunc(argv[1:], func(w string) bool { return !strings.HasPrefix(trim(w), "-") })
	case name == "xargs":
		return slices.ContainsFunc(argv[1:], func(w string) bool { return !strings.HasPrefix(trim(w), "-") })
	case name == "find":
		return slices.ContainsFunc(argv[1:], func(w string) bool {
			w = trim(w)
			return strings.HasPrefix(w, "-exec") || strings.HasPrefix(w, "-ok")
		})
	}
	return false
}

// hidesShell reports whether a segment has a shell behind as many wrappers as FindInline looks through.
// The original does not see it there, and would let an entry for the shell cover any text.
func hidesShell(s Segment) bool {
	name := programName(s.Effective[0])
	return len(s.Wrappers) >= maxWrappers && (isShell(name) || isBox(name))
}

func shellPayload(name string, argv []string) (Inline, bool) {
	at, payload := -1, ""
scan:
	for i := 1; i < len(argv); i++ {
		w := fold(trim(argv[i]))
		switch {
		case name == "cmd":
			if w == "/c" || w == "/k" {
				payload = trim(strings.Join(argv[i+1:], " "))
				other := slices.ContainsFunc(argv[1:i], func(w string) bool { return !strings.HasPrefix(trim(w), "/") })
				return Inline{Text: payload, Misread: other}, payload != ""
			}
		case slices.Contains(powerShells, name):
			if w == "-c" || w == "-command" || w == "--command" {
				at = i + 1
				break scan
			}
		case w == "--":
			break scan
		case w == "-c" || w == "-lc" || w == "--command":
			at = i + 1
			break scan
		case strings.HasPrefix(w, "-") && !strings.Contains(w[1:], "-") && strings.Contains(w, "c"):
			if glued := trim(argv[i])[strings.IndexByte(w, 'c')+1:]; trim(glued) != "" {
				at, payload = i, glued
			} else {
				at = i + 1
			}
			break scan
		}
	}
	if at < 0 || at >= len(argv) {
		return Inline{}, false
	}
	if payload == "" {
		payload = argv[at]
	}
	payload = trim(payload)
	more := slices.ContainsFunc(argv[at+1:], func(s string) bool { return trim(s) != "" })
	return Inline{Text: payload, More: more, Misread: misread(name, argv, at)}, payload != ""
}

// misread reports whether a shell that is given argv would not run the word at as its text. It is
// lenient where the shell would only complain.
func misread(name string, argv []string, at int) bool {
	if slices.Contains(powerShells, name) {
		free := true // a word here is no value of an option
		for _, w := range argv[1 : at-1] {
			w = fold(trim(w))
			switch {
			case !strings.HasPrefix(w, "-"):
				if free {
					return true
				}
				free = true
			case strings.HasPrefix("-file", w) && w != "-":
				return true
			default:
				free = slices.ContainsFunc([]string{"-no", "-l", "-mta", "-sta", "-i"}, func(s string) bool { return strings.HasPrefix(w, s) })
			}
		}
		return false
	}
	given := false
	for i := 1; i < len(argv); i++ {
		w := argv[i]
		switch {
		case w == "--" || w == "-":
			return !given || i+1 < len(argv) && i+1 != at
		case w == "--command":
			given = true
		case w == "--rcfile" || w == "--init-file" || strings.HasPrefix(w, "--init-command"):
			return true
		case strings.HasPrefix(w, "--"):
		case len(w) > 1 && (w[0] == '-' || w[0] == '+'):
			for _, c := range w[1:] {
				switch c {
				case 'c':
					given = given || w[0] == '-'
				case 'o', 'O':
					i++
				case 'C':
					if name == "fish" {
						return true
					}
				}
			}
		default:
			return !given || i != at
		}
	}
	return !given
}

// RunsOthers reports whether a program, by its name or path, is a shell, a wrapper or a box of them:
// listing it would list everything.
func RunsOthers(path string) bool {
	name := programName(path)
	return isShell(name) || isDispatcher(name) || slices.Contains(multiCall, name)
}

// IsWrapper reports whether a program, by its name or path, is a wrapper such as env or sudo.
func IsWrapper(word string) bool { return isDispatcher(programName(word)) }
