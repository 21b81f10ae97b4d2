package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Names of variables that never reach a run, because they make programs load or run something else
// (nodes-approvals.md §3.14). Compared in upper case.
var (
	blockedEnv = []string{
		"NODE_OPTIONS", "NODE_PATH", "PYTHONHOME", "PYTHONPATH", "PERL5LIB", "PERL5OPT", "RUBYLIB", "RUBYOPT",
		"BASH_ENV", "ENV", "GIT_EXTERNAL_DIFF", "SHELL", "SHELLOPTS", "PS4", "GCONV_PATH", "IFS", "SSLKEYLOGFILE",
	}
	blockedEnvPrefixes = []string{"DYLD_", "LD_", "BASH_FUNC_"}
	// keptFromBase may not be overridden; the machine's own value is used.
	keptFromBase = []string{"HOME", "ZDOTDIR", "PATH"}
	// shellOverrides are the only overrides that an inline shell gets.
	shellOverrides = []string{"TERM", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "COLORTERM", "NO_COLOR", "FORCE_COLOR"}
)

func blocked(upper string) bool {
	if slices.Contains(blockedEnv, upper) {
		return true
	}
	return slices.ContainsFunc(blockedEnvPrefixes, func(p string) bool { return strings.HasPrefix(upper, p) })
}

// SanitizeEnv returns the environment of a run, as KEY=value sorted by key: base (the host's own, in
// the form of os.Environ) with the overrides of the caller, both without what is never let through.
// dropped are the names of the overrides that were left out, sorted.
func SanitizeEnv(base []string, overrides map[string]string, inlineShell bool) (env, dropped []string) {
	out := map[string]string{}
	for _, kv := range base {
		k, v, ok := strings.Cut(kv, "=")
		// Windows has names such as ProgramFiles(x86), which programs need.
		if !ok || k == "" || !shell.EnvName(trim(k)) && runtime.GOOS != "windows" || blocked(strings.ToUpper(trim(k))) {
			continue
		}
		out[trim(k)] = v
	}
	// Sorted, so that of two names that are equal after trimming the same one always wins.
	for _, raw := range sortedKeys(overrides) {
		k := trim(raw)
		upper := strings.ToUpper(k)
		if !shell.EnvName(k) || blocked(upper) || slices.Contains(keptFromBase, upper) ||
			inlineShell && !slices.Contains(shellOverrides, upper) {
			dropped = append(dropped, raw)
			continue
		}
		out[k] = overrides[raw]
	}
	for _, k := range sortedKeys(out) {
		env = append(env, k+"="+out[k])
	}
	return env, dropped
}

// EnvHash binds an approval to environment overrides (nodes-approvals.md §2.3): the SHA-256, in hex,
// of the sorted name and value pairs as JSON, nil without any. keys are the names, sorted for
// showing, never nil.
func EnvHash(env map[string]string) (hash *string, keys []string) {
	type pair struct{ k, v string }
	var pairs []pair
	for raw, v := range env {
		if k := trim(raw); shell.EnvName(k) {
			pairs = append(pairs, pair{k, v})
		}
	}
	keys = []string{}
	if len(pairs) == 0 {
		return nil, keys
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		switch {
		case localeLess(a.k, b.k):
			return -1
		case localeLess(b.k, a.k):
			return 1
		}
		return cmp.Compare(a.v, b.v)
	})
	text := []byte{'['}
	for i, p := range pairs {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, '[')
		text = append(text, quote(p.k)...)
		text = append(text, ',')
		text = append(text, quote(p.v)...)
		text = append(text, ']')
		keys = append(keys, p.k)
	}
	sum := sha256.Sum256(append(text, ']'))
	h := hex.EncodeToString(sum[:])
	return &h, slices.Compact(keys)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// localeLess orders names of variables for showing and hashing as the original's locale comparison
// does (nodes-approvals.md §2.3): `_`, digits, letters whatever their case; then lower before upper.
func localeLess(a, b string) bool {
	rank := func(c byte) int {
		switch {
		case c == '_':
			return 0
		case c >= '0' && c <= '9':
			return 1 + int(c)
		case c >= 'A' && c <= 'Z':
			return 0x100 + int(c|0x20)
		}
		return 0x100 + int(c)
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := rank(a[i]), rank(b[i]); x != y {
			return x < y
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a > b // the same letters: lower case has the higher byte and goes first
}

func trim(s string) string { return shell.Trim(s) }
