package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// reference matches ${NAME} and, to leave it alone, $${NAME}.
var reference = regexp.MustCompile(`\$?\$\{([A-Z_][A-Z0-9_]*)\}`)

// substitute replaces ${NAME} in every string of the tree (control-plane.md §4 "File"). The
// environment wins over the file's own env section.
func (l *loader) substitute(n *json5.Node, path string) {
	switch n.Kind {
	case json5.String:
		n.Str = reference.ReplaceAllStringFunc(n.Str, func(ref string) string {
			if strings.HasPrefix(ref, "$$") {
				return ref[1:]
			}
			name := ref[2 : len(ref)-1]
			l.filled[n] = true
			if v := l.env(name); v != "" {
				return v
			}
			if v := l.config.EnvVars[name]; v.IsSet() {
				return v.Reveal()
			}
			l.fail(path, n, `Missing env var "`+name+`" referenced at config path: `+path)
			return ""
		})
	case json5.Array:
		for i, item := range n.Items {
			l.substitute(item, join(path, strconv.Itoa(i)))
		}
	case json5.Object:
		for _, m := range n.Members {
			l.substitute(m.Value, join(path, m.Key))
		}
	}
}

// Names that the config file must not set for other programs: they choose what code runs
// (config.md §1, nodes-approvals.md).
var (
	unsafeNames = []string{
		"PATH", "HOME", "ZDOTDIR", "NODE_OPTIONS", "NODE_PATH", "PYTHONHOME", "PYTHONPATH", "PERL5LIB",
		"PERL5OPT", "RUBYLIB", "RUBYOPT", "BASH_ENV", "ENV", "GIT_EXTERNAL_DIFF", "SHELL", "SHELLOPTS",
		"PS4", "GCONV_PATH", "IFS", "SSLKEYLOGFILE",
	}
	unsafePrefixes = []string{"DYLD_", "LD_", "BASH_FUNC_"}
)

func unsafeName(name string) bool {
	name = strings.ToUpper(name)
	return slices.Contains(unsafeNames, name) ||
		slices.ContainsFunc(unsafePrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// envVars collects env.vars and the string keys directly under env. A value that itself refers to
// a variable is left out when that variable is missing; substitute reports it.
func (l *loader) envVars(root *json5.Node) map[string]Secret {
	vars := map[string]Secret{}
	add := func(n *json5.Node) {
		if n == nil || n.Kind != json5.Object {
			return
		}
		for _, m := range n.Members {
			if m.Value.Kind != json5.String || unsafeName(m.Key) || strings.ContainsAny(m.Key, "=\x00") || m.Key == "" {
				continue
			}
			missing := false
			v := reference.ReplaceAllStringFunc(m.Value.Str, func(ref string) string {
				if strings.HasPrefix(ref, "$$") {
					return ref[1:]
				}
				v := l.env(ref[2 : len(ref)-1])
				missing = missing || v == ""
				return v
			})
			if !missing {
				vars[m.Key] = NewSecret(v)
			}
		}
	}
	env := root.Get("env")
	add(env)
	add(env.Get("vars"))
	return vars
}
