package shell

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Programs returns the argvs that the program in front of argv starts as far as the text says: the one
// behind a wrapper, or the commands in the line that an inline shell is given, in their order. Words
// that only the shell knows the value of stay as they are written. why says what else it may run. It
// looks one level deep; a plain program starts none.
func (m Machine) Programs(argv []string) (inner [][]string, why string) {
	if len(argv) == 0 {
		return nil, ""
	}
	name := programName(argv[0])
	switch {
	case isDispatcher(name):
		words, _, ok := unwrap(argv)
		if !ok {
			return nil, "what it starts cannot be told from its arguments"
		}
		return [][]string{words}, ""
	case slices.Contains(multiCall, name):
		rest := argv[1:]
		if len(rest) > 0 && trim(rest[0]) == "--" {
			rest = rest[1:]
		}
		if len(rest) == 0 || !isShell(programName(rest[0])) {
			return nil, ""
		}
		return m.Programs(rest)
	case slices.Contains(posixShells, name):
		if in, ok := shellPayload(name, argv); ok {
			return commandsIn(in.Text)
		}
	case isShell(name):
		if _, ok := shellPayload(name, argv); ok {
			return nil, "what the line that it is given starts is not looked for"
		}
	}
	return nil, ""
}

// commandsIn returns the simple commands of a line, wherever they stand in it.
func commandsIn(text string) (inner [][]string, why string) {
	if len(text) > MaxText {
		return nil, "the line that it is given is too long to be read"
	}
	file, err := parseCalls(text)
	if err != nil {
		return nil, "the line that it is given cannot be read"
	}
	moved := false
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 || len(inner) >= MaxSegments {
			return true
		}
		var words []string
		for i, w := range call.Args {
			s, known := literal(w)
			if !known && i == 0 {
				why = "what its line starts is not in its text"
				return true
			}
			words = append(words, s)
		}
		switch words[0] {
		case "cd", "pushd", "popd":
			moved = true
		case "eval", "source", ".", "command", "exec", "builtin", "alias":
			why = "what its line starts is not in its text"
		}
		if moved && strings.Contains(words[0], "/") && !strings.HasPrefix(words[0], "/") {
			why = "its line changes the directory, and starts a program by a relative path"
			return true
		}
		inner = append(inner, words)
		return true
	})
	return inner, why
}

// literal is a word without its quotes. Where it holds anything that the shell expands, it is as
// written and known is false.
func literal(w *syntax.Word) (s string, known bool) {
	var b strings.Builder
	for _, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			if strings.ContainsAny(p.Value, `*?[\`) || strings.HasPrefix(p.Value, "~") {
				return written(w), false
			}
			b.WriteString(p.Value)
		case *syntax.SglQuoted:
			if p.Dollar {
				return written(w), false
			}
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			for _, q := range p.Parts {
				lit, ok := q.(*syntax.Lit)
				if !ok || strings.Contains(lit.Value, `\`) {
					return written(w), false
				}
				b.WriteString(lit.Value)
			}
		default:
			return written(w), false
		}
	}
	return b.String(), true
}

func written(w *syntax.Word) string {
	var b strings.Builder
	if syntax.NewPrinter().Print(&b, w) != nil {
		return "?"
	}
	return b.String()
}
