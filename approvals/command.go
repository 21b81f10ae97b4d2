package approvals

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
)

// commandKey is the canonical form of a command, or why there is none.
func commandKey(argv []string) (key, refused string) {
	if len(argv) == 0 {
		return "", "it has no words"
	}
	size := 0
	for _, w := range argv {
		if size += len(w) + 1; size > maxKeyBytes {
			return "", "it is longer than 4 KiB"
		}
	}
	key, err := shell.Key(argv)
	switch {
	case err != nil:
		return "", err.Error()
	case len(key) > 2*maxKeyBytes:
		return "", "its canonical form is longer than 8 KiB"
	}
	return key, ""
}

func matchArgv(pattern, argv []string) bool { return shell.MatchArgv(pattern, argv) }

// argvOf is what an approval would run: the plan of a node, or on the gateway host the words, else the
// line for a shell.
func argvOf(a Approval) []string {
	switch {
	case a.Plan != nil:
		return a.Plan.Argv
	case len(a.CommandArgv) > 0:
		return a.CommandArgv
	default:
		return []string{"sh", "-c", a.Command}
	}
}

// programOf is the program that an approval would run.
func programOf(a Approval) string {
	if argv := argvOf(a); len(argv) > 0 {
		return argv[0]
	}
	return ""
}

// keepable reports whether it is known what an approval would run, and where, so that a grant can
// cover it again.
func keepable(a Approval) bool { return whyNotKept(a) == "" }

func whyNotKept(a Approval) string {
	switch {
	case a.Plan != nil, a.Binding != nil && a.Binding.Call != nil:
		return ""
	case a.Host == nil || strings.TrimSpace(*a.Host) != "gateway":
		return "it is neither for a node nor for the gateway host"
	case len(a.CommandArgv) > 0 && policy.FormatArgv(a.CommandArgv) != a.Command:
		return "its words and its text say different things"
	}
	return ""
}

// cutText keeps the beginning of a text, on the edge of a character, with a mark.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// cutWords keeps the first words, as many as fit.
func cutWords(words []string, n int) []string {
	for i, w := range words {
		if n -= len(w) + 1; n < 0 {
			return append(slices.Clone(words[:i]), cutText(w, max(n+len(w)+1, 8)))
		}
	}
	return words
}
