package host

import (
	"path/filepath"
	"slices"
	"strings"
)

// An interpreter is a program that runs a file which its arguments name. They are known by name: one
// that is not known is bound as any program, and the files that it reads are not.
type interpreter struct {
	// find looks for the script among the words that follow the program.
	find func(words []string) found
	// reopens says that it looks for the real path of its script and opens that, so that a descriptor
	// handed over does not keep it from reading another file.
	reopens bool
}

// found is what an interpreter is given to run: the word at an index, or none and, unless the text of
// the command says it all, why that is not known.
type found struct {
	at  int // -1 is no file
	why string
}

var nothing = found{at: -1}

func unknown(why string) found { return found{at: -1, why: why} }

// flags say how the options of an interpreter are read. A word that is neither known nor plain ends
// the search: it could take the next word with it.
type flags struct {
	// letters stand alone, inline ones say that code or something else than a file follows, valued ones
	// take the rest of the word or the next word, glued ones the rest of the word only.
	letters, inline, valued, glued string
	// long options stand alone, or hold their value after =; longValued ones take the next word,
	// longInline ones are as inline.
	long, longValued, longInline []string
	// moduleLetter is an option that names a module instead of a file: its files are looked for by the
	// interpreter.
	module string
	// plus says that options may begin with + too.
	plus bool
	// anyLong takes every long option without a value of its own as one that stands alone.
	anyLong bool
}

func (f flags) find(words []string) found {
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			return file(words, i+1)
		case w == "-":
			return nothing // the standard input, which is closed
		case strings.HasPrefix(w, "--"):
			name, _, hasValue := strings.Cut(w, "=")
			switch {
			case slices.Contains(f.longInline, name):
				return nothing
			case hasValue, slices.Contains(f.long, name):
			case slices.Contains(f.longValued, name):
				i++
			case !f.anyLong:
				return unknown("which of its arguments is a script cannot be told, because of the option " + clip(w))
			}
		case strings.HasPrefix(w, "-") || f.plus && strings.HasPrefix(w, "+") && len(w) > 1:
			next, end, why := f.cluster(w[1:])
			switch {
			case why != "":
				return unknown(why)
			case end:
				return nothing
			case next:
				i++
			}
		default:
			return file(words, i)
		}
	}
	return nothing
}

// cluster reads the letters of one word. next says that it takes the following word, end that no file
// follows.
func (f flags) cluster(letters string) (next, end bool, why string) {
	for i := 0; i < len(letters); i++ {
		c := letters[i : i+1]
		switch {
		case strings.Contains(f.inline, c):
			return false, true, ""
		case strings.Contains(f.module, c):
			return false, true, "the files of the module that it is told to run are not looked for"
		case strings.Contains(f.valued, c):
			return i+1 == len(letters), false, ""
		case strings.Contains(f.glued, c):
			return false, false, ""
		case strings.Contains(f.letters, c) || c >= "0" && c <= "9":
		default:
			return false, false, "which of its arguments is a script cannot be told, because of the option -" + clip(letters)
		}
	}
	return false, false, ""
}

func file(words []string, at int) found {
	if at >= len(words) {
		return nothing
	}
	return found{at: at}
}

// clip keeps a note about an argument short.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// only is for interpreters whose first word is the script or nothing that can be told.
func only(words []string) found {
	if len(words) == 0 {
		return nothing
	}
	if strings.HasPrefix(words[0], "-") {
		return unknown("which of its arguments is a script cannot be told, because of the option " + clip(words[0]))
	}
	return file(words, 0)
}

// after is only, behind a word that says what to do.
func after(verbs ...string) func([]string) found {
	return func(words []string) found {
		skip := 0
		if len(words) > 0 && slices.Contains(verbs, words[0]) {
			skip = 1
		}
		f := only(words[skip:])
		if f.at >= 0 {
			f.at += skip
		}
		return f
	}
}

func findJava(words []string) found {
	for i, w := range words {
		switch {
		case w == "-jar":
			return file(words, i+1)
		case w == "-version" || w == "--version":
			return nothing
		case strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "-D") && !strings.HasPrefix(w, "-X"):
			return unknown("the files of the classes that it is told to run are not looked for")
		case !strings.HasPrefix(w, "-"):
			if strings.HasSuffix(w, ".java") {
				return file(words, i)
			}
			return unknown("the files of the classes that it is told to run are not looked for")
		}
	}
	return nothing
}

func findPowerShell(words []string) found {
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch l := strings.ToLower(w); {
		case l == "-file" || l == "-f":
			return file(words, i+1)
		case l == "-command" || l == "-c" || l == "-ec" || len(l) > 1 && strings.HasPrefix("-encodedcommand", l):
			return nothing
		case l == "-executionpolicy" || l == "-ex" || l == "-ep":
			i++
		case l == "-noprofile" || l == "-nop" || l == "-nologo" || l == "-noninteractive":
		case strings.HasPrefix(w, "-"):
			return unknown("which of its arguments is a script cannot be told, because of the option " + clip(w))
		default:
			return file(words, i)
		}
	}
	return nothing
}

// findAwk looks for -f: without it the program is in the text.
func findAwk(words []string) found {
	at := nothing
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--" || !strings.HasPrefix(w, "-") {
			return at
		}
		switch {
		case w == "-f" || w == "--file":
			if at.at >= 0 {
				return unknown("it is given more than one program")
			}
			at = file(words, i+1)
			i++
		case strings.HasPrefix(w, "-f") || strings.HasPrefix(w, "--file="),
			w == "-i", w == "--include", w == "-l", w == "--load", w == "-E", w == "--exec":
			return unknown("which of its arguments is a program cannot be told, because of the option " + clip(w))
		case w == "-v" || w == "-F":
			i++
		}
	}
	return at
}

var (
	shell = interpreter{find: flags{
		letters: "abefhiklmnprtuvxBCDEHPTgqw", inline: "cs", valued: "oO", plus: true,
		long: []string{
			"--debug", "--debugger", "--dump-po-strings", "--dump-strings", "--help", "--login", "--noediting", "--noprofile",
			"--norc", "--posix", "--pretty-print", "--restricted", "--verbose", "--version", "--wordexp",
		},
		longValued: []string{"--init-file", "--rcfile"}, longInline: []string{"--command"},
	}.find}
	python = interpreter{find: flags{
		letters: "bBdEhiIOPqRsStuvVx?3", inline: "c", module: "m", valued: "WXQ",
		longValued: []string{"--check-hash-based-pycs"}, long: []string{"--version", "--help", "--help-all", "--help-env", "--help-xoptions"},
	}.find}
	perl = interpreter{find: flags{
		letters: "acfhnpstTuUvwWXl", inline: "eE", valued: "I", glued: "mMFixCDVdg", module: "S",
		long: []string{"--help", "--version"},
	}.find}
	ruby = interpreter{find: flags{
		letters: "achlnpsUvwy", inline: "e", valued: "IrE", glued: "0FiKTWx", module: "SCX",
		long: []string{"--version", "--verbose", "--yjit", "--jit", "--help", "--copyright"},
	}.find}
	lua = interpreter{find: flags{letters: "ivEW", valued: "el"}.find}
	php = interpreter{reopens: true, find: func(words []string) found {
		for i, w := range words {
			if w == "-f" || w == "--file" {
				return file(words, i+1)
			}
			if !strings.HasPrefix(w, "-") {
				break
			}
		}
		return flags{letters: "aChHilmnqsvw", inline: "rBRE", valued: "cdFfStTzZ", long: []string{"--version", "--help", "--info", "--no-php-ini"}}.find(words)
	}}
	node = interpreter{reopens: true, find: flags{
		letters: "chiv", inline: "ep", valued: "rC",
		long: []string{
			"--check", "--no-warnings", "--trace-warnings", "--enable-source-maps", "--experimental-strip-types",
			"--experimental-vm-modules", "--expose-gc", "--inspect", "--inspect-brk", "--preserve-symlinks", "--version", "--help",
		},
		longValued: []string{"--require", "--import", "--loader", "--experimental-loader", "--conditions"},
		longInline: []string{"--eval", "--print"},
	}.find}
)

// interpreters are known by the name of the program, without its version.
var interpreters = map[string]interpreter{
	"sh": shell, "ash": shell, "bash": shell, "dash": shell, "ksh": shell, "mksh": shell, "rbash": shell, "zsh": shell, "fish": shell,
	"python": python, "pypy": python, "perl": perl, "ruby": ruby, "lua": lua, "luajit": lua, "php": php,
	"node": node, "nodejs": node, "bun": {after("run"), true}, "deno": {after("run"), true},
	"tclsh": {only, false}, "wish": {only, false}, "expect": {only, false}, "Rscript": {only, true}, "osascript": {only, true},
	"awk": {findAwk, false}, "gawk": {findAwk, false}, "mawk": {findAwk, false}, "nawk": {findAwk, false},
	"java": {findJava, true}, "pwsh": {findPowerShell, true}, "powershell": {findPowerShell, true},
}

// interpreterOf returns what is known about a program.
func interpreterOf(program string) (interpreter, bool) {
	name := filepath.Base(program)
	if foldNames {
		name = strings.ToLower(name)
	}
	name = strings.TrimSuffix(name, ".exe")
	i, ok := interpreters[name]
	if !ok {
		// python3.12, perl5.36.0, lua5.4, ruby3.1, php8.2
		i, ok = interpreters[strings.TrimRight(strings.TrimRight(name, "0123456789."), "-")]
	}
	return i, ok
}

// maxShebang bounds the first line of a script, as Linux does; a longer one is no script.
const maxShebang = 255

// shebang reads the first line of a file: the interpreter, and the one argument that it gets before
// the script, "" for none.
func shebang(head []byte) (program, arg string, ok bool) {
	line, isScript := strings.CutPrefix(string(head), "#!")
	if !isScript {
		return "", "", false
	}
	end := strings.IndexByte(line, '\n')
	if end < 0 && len(head) > maxShebang {
		return "", "", false
	}
	if end >= 0 {
		line = line[:end]
	}
	line = strings.Trim(line, " \t\x00")
	program, arg, _ = strings.Cut(line, " ")
	if tab := strings.IndexByte(program, '\t'); tab >= 0 {
		program, arg = line[:tab], line[tab+1:]
	}
	return program, strings.Trim(arg, " \t"), program != ""
}

// throughEnv reads the argument that a first line gives to env: the words of the program that env
// would start, nil when that takes more than splitting.
func throughEnv(arg string) []string {
	if split, ok := strings.CutPrefix(arg, "-S"); ok {
		if strings.ContainsAny(split, `"'\$#`) {
			return nil
		}
		arg = split
	} else if strings.ContainsAny(arg, " \t") {
		return nil // one word with blanks in it
	}
	words := strings.Fields(arg)
	if len(words) == 0 || strings.HasPrefix(words[0], "-") || strings.Contains(words[0], "=") {
		return nil
	}
	return words
}
