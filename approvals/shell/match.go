package shell

import (
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Match reports whether an allow-list pattern covers a resolved path (nodes-approvals.md
// §3.7). A bare name never does, and neither does a
// path that is not clean, so that `/usr/bin/**` cannot be left through `..`. Case is ignored, but no letter of
// another script equals one of ASCII.
func (m Machine) Match(pattern, target string) bool {
	pattern = trim(pattern)
	if pattern == "" || !strings.ContainsAny(pattern, `/\~`) || filepath.Clean(target) != target || !utf8.ValidString(target) {
		return false
	}
	pattern = m.expand(pattern)
	if m.windows() && !strings.ContainsAny(pattern, "*?") {
		pattern, target = realPathOr(pattern), realPathOr(target)
	}
	p, t := m.normal(pattern), m.normal(target)
	if !strings.ContainsAny(p, "*?") {
		return p == t
	}
	return glob(units(p), units(t))
}

// expand replaces a leading ~ by the home directory; ~user stays.
func (m Machine) expand(p string) string {
	if m.Home != "" && (p == "~" || strings.HasPrefix(p, "~/") || strings.HasPrefix(p, `~\`)) {
		return m.Home + p[1:]
	}
	return p
}

func (m Machine) normal(s string) string {
	if m.windows() {
		s = strings.TrimPrefix(strings.TrimPrefix(s, `\\?\`), `\\.\`)
		s = strings.ReplaceAll(s, `\`, "/")
	} else {
		s = strings.ReplaceAll(s, `\\`, "/")
	}
	return foldPath(s)
}

func realPathOr(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	return p
}

// glob matches the whole text: `**` is any run without line ends, `*` any run without `/`, `?` one
// unit that is no line end. It takes the product of the lengths in time and their sum in memory.
func glob(p, t []uint16) bool {
	if len(p) > maxPattern || len(t) > maxPattern {
		return false
	}
	// reach[j] says that the pattern read so far matches t[:j].
	reach := make([]bool, len(t)+1)
	reach[0] = true
	for i := 0; i < len(p); i++ {
		star := p[i] == '*'
		deep := star && i+1 < len(p) && p[i+1] == '*'
		if star {
			for j, c := range t {
				pass := c != '/'
				if deep {
					pass = !lineEnd(c)
				}
				reach[j+1] = reach[j+1] || reach[j] && pass
			}
			if deep {
				i++
			}
			continue
		}
		for j := len(t); j > 0; j-- {
			c := t[j-1]
			reach[j] = reach[j-1] && (c == p[i] || p[i] == '?' && !lineEnd(c))
		}
		reach[0] = false
	}
	return reach[len(t)]
}

func lineEnd(c uint16) bool { return c == '\n' || c == '\r' || c == 0x2028 || c == 0x2029 }

// Home returns the directory that `~` stands for: OPENCLAW_HOME (which may itself start with ~),
// else HOME, else USERPROFILE, else what the system says (nodes-approvals.md §3.1).
func Home(getenv func(string) string) string {
	base := trim(getenv("HOME"))
	if base == "" {
		base = trim(getenv("USERPROFILE"))
	}
	if base == "" {
		base, _ = os.UserHomeDir()
	}
	if own := trim(getenv("OPENCLAW_HOME")); own != "" {
		return Machine{Home: base}.expand(own)
	}
	return base
}
