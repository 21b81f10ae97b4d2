package config

import "github.com/hanzoai/hanzod/config/json5"

// HiddenText is the text of the file as it is written, comments and all, with Sentinel for every secret. ok is
// false when the file is not there or is no JSON5: what is a secret in it is not known then.
func HiddenText(opts Options) (text string, ok bool) {
	l, raw, err := find(Options{
		Path: opts.Path, StateDir: opts.StateDir, Env: opts.Env, Unresolved: true, Source: opts.Source,
	})
	if err != nil || !l.config.Exists {
		return "", false
	}
	n, err := json5.Parse(raw)
	if err != nil || n.Kind != json5.Object {
		return "", false
	}
	out, err := json5.Rewrite(raw, hider{filled: map[*json5.Node]bool{}}.hide(n, nil))
	if err != nil {
		return "", false
	}
	return string(out), true
}

// SecretAt reports whether what stands at a path is a secret by the name of its key.
func SecretAt(path []string) bool { return secretAt(path) }
