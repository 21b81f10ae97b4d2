package shell

import "strings"

// FormatArgv writes an argv as one line for people. It is not meant for a shell.
func FormatArgv(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsRune(a, '"') || strings.ContainsFunc(a, isSpace) {
			a = `"` + strings.ReplaceAll(a, `"`, `\"`) + `"`
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
