package shell

import "strings"

// windowsTokens may stand nowhere in a line for cmd, also not in quotes, because cmd looks at them
// before it looks at quotes.
const windowsTokens = "&|<>^()%!\r\n"

// windowsLine reads a line with the Windows rules (nodes-approvals.md §3.5): words at white space
// outside of double quotes, the quotes vanish, and there are no chains or pipes.
func windowsLine(text string) (Segment, string) {
	if len(text) > MaxText {
		return Segment{}, "the command line is too long"
	}
	if continues(text) {
		return Segment{}, "line continuation"
	}
	if i := strings.IndexAny(text, windowsTokens); i >= 0 {
		token := text[i : i+1]
		if token == "\n" || token == "\r" {
			token = "newline"
		}
		return Segment{}, "unsupported windows shell token: " + token
	}
	if trim(text) == "" {
		return Segment{}, "empty command"
	}
	var argv []string
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			argv = append(argv, word.String())
			word.Reset()
		}
	}
	quoted := false
	for _, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && isSpace(r):
			end()
		default:
			word.WriteRune(r)
		}
	}
	end()
	if quoted || len(argv) == 0 {
		return Segment{}, "unable to parse windows command"
	}
	return Segment{Raw: trim(text), Argv: argv, literal: true}, ""
}
