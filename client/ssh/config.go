package ssh

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// settings are the values that hold for one machine, by keyword in lower case. The first value that is
// found holds; those in manyValues add up, one element for each line.
type settings map[string][][]string

// manyValues are the keywords whose lines add up.
var manyValues = []string{"identityfile", "certificatefile"}

// first is the one argument of a keyword, "" when it was not set.
func (s settings) first(key string) string {
	if v := s[key]; len(v) > 0 && len(v[0]) > 0 {
		return v[0][0]
	}
	return ""
}

// is says whether a keyword is yes or no; or is the answer when it says neither.
func (s settings) is(key string, or bool) bool {
	switch strings.ToLower(s.first(key)) {
	case "yes", "true", "on":
		return true
	case "no", "false", "off":
		return false
	}
	return or
}

// beyond says that a configuration means something that this package does not do itself.
type beyond struct{ what string }

func (e *beyond) Error() string { return e.what }

// configReader reads ssh_config for one machine. It knows the syntax of ssh_config(5), Host, Include, and
// of Match the criteria all, host, originalhost, user and localuser; others end in a *beyond, because only
// the ssh program can tell what they mean.
//
// The package that was considered for it takes tabs for parts of a name, keeps quotes in patterns, reads ?
// as "at most one character", looks for included files in the home directory of the passwd database, and
// fails at Match user.
type configReader struct {
	home      string // of ~ and of ~/.ssh
	alias     string // the name as it was given
	user      string // as it was given, "" when it was not
	localUser string
	getenv    func(string) string

	got   settings
	files int
}

// read reads a file into what was read before. A file that is missing is empty.
func (c *configReader) read(path string, system bool) error {
	active := true
	err := c.file(path, system, &active, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c *configReader) file(path string, system bool, active *bool, depth int) error {
	if c.files++; depth > maxDepth || c.files > maxFiles {
		return fmt.Errorf("%s: too many files include each other", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && depth > 0 {
		return nil // a directory among the files that a pattern names
	}
	if !system {
		// What others can write here can make us run their programs and trust their keys.
		if err := owned(info); err != nil {
			return fmt.Errorf("%s %w; correct it with: chmod go-w %s", path, err, path)
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return err
	}
	if len(text) > maxConfig {
		return fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	for n, line := range strings.Split(string(text), "\n") {
		if err := c.line(line, path, system, active, depth); err != nil {
			if far, ok := errors.AsType[*beyond](err); ok {
				return &beyond{fmt.Sprintf("%s (%s:%d)", far.what, path, n+1)}
			}
			return fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
	}
	return nil
}

// line reads one line. Files that an inactive block includes are not read: nothing in them holds.
func (c *configReader) line(line, path string, system bool, active *bool, depth int) error {
	key, args, err := splitLine(line)
	if err != nil || key == "" {
		return err
	}
	if len(args) == 0 {
		return fmt.Errorf("%s has no value", key)
	}
	switch key {
	case "host":
		*active = matchList(args, c.alias, true)
	case "match":
		var err error
		if *active, err = c.match(args); err != nil {
			return err
		}
	case "include":
		if !*active {
			return nil
		}
		for _, pattern := range args {
			if pattern = c.expandHome(pattern); !filepath.IsAbs(pattern) {
				dir := filepath.Join(c.home, ".ssh")
				if system {
					dir = filepath.Dir(path)
				}
				pattern = filepath.Join(dir, pattern)
			}
			matches, err := filepath.Glob(pattern)
			if err != nil {
				return fmt.Errorf("include %q: %w", pattern, err)
			}
			for _, m := range matches {
				inner := true
				if err := c.file(m, system, &inner, depth+1); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	default:
		if !*active {
			return nil
		}
		if slices.Contains(manyValues, key) {
			if len(c.got[key]) < maxFiles {
				c.got[key] = append(c.got[key], args)
			}
		} else if _, set := c.got[key]; !set {
			c.got[key] = [][]string{args}
		}
	}
	return nil
}

// match decides about the criteria of a Match line. One that cannot be decided counts only when none
// before it has failed.
func (c *configReader) match(args []string) (bool, error) {
	result := true
	for len(args) > 0 {
		name, negate := strings.CutPrefix(strings.ToLower(args[0]), "!")
		name, value, has := strings.Cut(name, "=")
		if has {
			value = args[0][len(args[0])-len(value):]
		}
		args = args[1:]
		var hit bool
		switch name {
		case "all":
			hit = true
		case "canonical":
			hit = false // names are not made canonical here; see program.go
		case "host", "originalhost", "user", "localuser":
			if !has {
				if len(args) == 0 {
					return false, fmt.Errorf("match %s has no value", name)
				}
				value, args = args[0], args[1:]
			}
			var subject string
			switch name {
			case "host":
				if subject = c.alias; c.got.first("hostname") != "" {
					subject = strings.ReplaceAll(c.got.first("hostname"), "%h", c.alias)
				}
			case "originalhost":
				subject = c.alias
			case "user":
				if subject = c.user; subject == "" {
					subject = c.got.first("user")
				}
				if subject == "" {
					subject = c.localUser
				}
			case "localuser":
				subject = c.localUser
			}
			hit = matchList(strings.Split(value, ","), subject, name == "user" || name == "localuser")
		default:
			if !result {
				return false, nil
			}
			return false, &beyond{"Match " + plain(name)}
		}
		if hit == negate {
			result = false
		}
	}
	return result, nil
}

func (c *configReader) expandHome(p string) string { return expandHome(p, c.home) }

func expandHome(p, home string) string {
	if p == "~" {
		return home
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return p
}

// splitLine splits a line into its keyword, in lower case, and its arguments. Quotes hold words together,
// and a word that begins with # is a comment to the end of the line.
func splitLine(line string) (key string, args []string, err error) {
	line = strings.Trim(line, " \t\r\f")
	if line == "" || line[0] == '#' {
		return "", nil, nil
	}
	end := strings.IndexAny(line, " \t=\"")
	if end < 0 {
		return strings.ToLower(line), nil, nil
	}
	if end == 0 {
		return "", nil, errors.New("the line has no keyword")
	}
	key = strings.ToLower(line[:end])
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	switch key {
	case "proxycommand", "localcommand", "remotecommand", "knownhostscommand":
		if rest == "" {
			return key, nil, nil
		}
		return key, []string{rest}, nil // a command line is not for us to take apart
	}
	for rest != "" && rest[0] != '#' {
		var word strings.Builder
		quote := byte(0)
		i := 0
	word:
		for ; i < len(rest); i++ {
			switch b := rest[i]; {
			case b == '\\' && i+1 < len(rest) && (rest[i+1] == '"' || rest[i+1] == '\'' || rest[i+1] == '\\' || quote == 0 && rest[i+1] == ' '):
				i++
				word.WriteByte(rest[i])
			case quote != 0 && b == quote:
				quote = 0
			case quote == 0 && (b == '"' || b == '\''):
				quote = b
			case quote == 0 && (b == ' ' || b == '\t'):
				break word
			default:
				word.WriteByte(b)
			}
		}
		if quote != 0 {
			return "", nil, errors.New("a quote is not closed")
		}
		args = append(args, word.String())
		rest = strings.TrimLeft(rest[i:], " \t")
	}
	return key, args, nil
}

// matchList says whether a name fits a list of patterns: one of them fits, and none that is negated does.
func matchList(patterns []string, name string, exactCase bool) bool {
	if !exactCase {
		name = strings.ToLower(name)
	}
	hit := false
	for _, p := range patterns {
		p, negated := strings.CutPrefix(strings.TrimSpace(p), "!")
		if !exactCase {
			p = strings.ToLower(p)
		}
		if !matchPattern(p, name) {
			continue
		}
		if negated {
			return false
		}
		hit = true
	}
	return hit
}

// matchPattern matches * with any text and ? with any one character. It takes time in proportion to the
// product of the lengths at most.
func matchPattern(p, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == s[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
