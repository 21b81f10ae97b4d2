package approvals

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Signs returns what in a command looks as if it were to hide what runs (nodes-approvals.md §3.13), in
// its text or in its words, nil for nothing. Approvers are shown it, and a command that has any is
// asked about whatever rule or grant covers it.
func Signs(text string, argv []string) []string {
	found := shell.Signs(text)
	// The words as they are: in a text for people their quotes are escaped.
	for _, id := range shell.Signs(strings.Join(argv, " ")) {
		if !slices.Contains(found, id) {
			found = append(found, id)
		}
	}
	return found
}
