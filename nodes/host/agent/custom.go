package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
)

// maxText is how long a text parameter may be that names no length, in characters.
const maxText = 4096

// Template is a command of the configuration: an argv with parameters in it. A parameter never becomes more than
// a part of one word, and there is no shell unless the template names one.
type Template struct {
	Description string
	// Argv begins with the program. {name} in a word after it stands for a parameter; a word that is nothing
	// but a parameter is left out when the parameter is.
	Argv   []string
	Params map[string]Param
	// Cwd is where it runs, the agent's directory when empty; Env is added to its environment.
	Cwd     string
	Env     map[string]string
	Timeout time.Duration
	// Replace lets it stand in for a command that there is without it.
	Replace bool
}

// The types of parameters.
const (
	TypeString  = "string"
	TypeInteger = "integer"
	TypeBoolean = "boolean"
	TypePath    = "path"
)

// Param describes a parameter.
type Param struct {
	Type        string
	Description string
	Optional    bool
	// Default stands in for one that is absent, as JSON text; nil is none.
	Default json.RawMessage
	// Pattern has to fit all of a text; Enum lists what it may be; MaxLength is in characters.
	Pattern   string
	Enum      []string
	MaxLength int
	// Dash lets a text begin with a dash, which programs take for an option.
	Dash bool
	// Minimum and Maximum bound an integer.
	Minimum, Maximum *int64
	// Flag is what a boolean stands for that is true, as a word of its own; one that is false is left out.
	// Empty writes true or false.
	Flag string
	// Roots are the directories that a path has to be under; the command's own when there are none.
	Roots []string
}

// template is a Template that was checked.
type template struct {
	Template
	patterns map[string]*regexp.Regexp
}

var placeholder = regexp.MustCompile(`\{[A-Za-z_][A-Za-z0-9_]*\}`)

// Check reports what is wrong with a template.
func (t Template) Check(name string) error {
	_, err := compile(name, t)
	return err
}

func compile(name string, t Template) (*template, error) {
	bad := func(format string, args ...any) (*template, error) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf(format, args...))
	}
	if !nameOK(name) {
		return bad("%q is no name for a command: letters, digits, dots, dashes and underscores", name)
	}
	if b, ok := builtins[name]; ok && !t.Replace {
		return bad("there is a command %s already (%s); say replace to stand in for it", name, b.about)
	}
	if len(t.Argv) == 0 || t.Argv[0] == "" || placeholder.MatchString(t.Argv[0]) {
		return bad("argv has to begin with a program, which is no parameter")
	}
	out := &template{Template: t, patterns: map[string]*regexp.Regexp{}}
	used := map[string]bool{}
	for _, word := range t.Argv[1:] {
		for _, p := range placeholder.FindAllString(word, -1) {
			param := p[1 : len(p)-1]
			spec, ok := t.Params[param]
			if !ok {
				return bad("argv has %s, and params has no %s", p, param)
			}
			used[param] = true
			if word == p {
				continue
			}
			if spec.Optional && spec.Default == nil {
				return bad("%s is a part of a word, so it cannot be left out: give it a default", p)
			}
			if spec.Flag != "" {
				return bad("%s is a part of a word, so it cannot stand for a flag", p)
			}
		}
	}
	for _, param := range slices.Sorted(maps.Keys(t.Params)) {
		spec := t.Params[param]
		switch {
		case !placeholder.MatchString("{"+param+"}") || param == "approved" || param == "agentId":
			return bad("%q is no name for a parameter", param)
		case !used[param]:
			return bad("argv has no {%s}", param)
		case !slices.Contains([]string{TypeString, TypeInteger, TypeBoolean, TypePath}, spec.Type):
			return bad("the type of %s is string, integer, boolean or path", param)
		}
		if spec.Pattern != "" {
			re, err := regexp.Compile(`^(?:` + spec.Pattern + `)$`)
			if err != nil {
				return bad("the pattern of %s: %v", param, err)
			}
			out.patterns[param] = re
		}
		if spec.Default != nil {
			if _, _, err := out.value(param, spec.Default, ""); err != nil && spec.Type != TypePath {
				return bad("the default of %s: %v", param, err)
			}
		}
	}
	return out, nil
}

// describe is what the command does and takes.
func (t *template) describe() string {
	var takes []string
	for _, name := range slices.Sorted(maps.Keys(t.Params)) {
		p := t.Params[name]
		if p.Optional || p.Default != nil {
			name += "?"
		}
		s := name + ": " + p.Type
		if len(p.Enum) > 0 {
			s += " (" + strings.Join(p.Enum, ", ") + ")"
		}
		takes = append(takes, s)
	}
	about := t.Description
	if len(takes) > 0 {
		about = strings.TrimSpace(about + " {" + strings.Join(takes, ", ") + "}")
	}
	return about
}

// words are the argv with its parameters.
func (t *template) words(given map[string]json.RawMessage, dir string) ([]string, error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := t.Params[name]; !ok && name != "approved" && name != "agentId" {
			return nil, fmt.Errorf("there is no parameter %q", name)
		}
	}
	values, have := map[string]string{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t.Params)) {
		raw := given[name]
		if raw == nil || string(raw) == "null" {
			raw = t.Params[name].Default
		}
		if raw == nil {
			if !t.Params[name].Optional {
				return nil, fmt.Errorf("missing %s", name)
			}
			continue
		}
		var err error
		if values[name], have[name], err = t.value(name, raw, dir); err != nil {
			return nil, fmt.Errorf("%s %w", name, err)
		}
	}
	argv := []string{t.Argv[0]}
	for _, word := range t.Argv[1:] {
		if p := placeholder.FindString(word); p == word && p != "" {
			if name := p[1 : len(p)-1]; have[name] {
				argv = append(argv, values[name])
			}
			continue
		}
		argv = append(argv, placeholder.ReplaceAllStringFunc(word, func(p string) string { return values[p[1:len(p)-1]] }))
	}
	return argv, nil
}

// value reads a parameter; have is false for one that is left out.
func (t *template) value(name string, raw json.RawMessage, dir string) (text string, have bool, err error) {
	p := t.Params[name]
	switch p.Type {
	case TypeInteger:
		var f float64
		if json.Unmarshal(raw, &f) != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 || len(raw) == 0 || raw[0] == '"' {
			return "", false, fmt.Errorf("has to be an integer")
		}
		n := int64(f)
		if p.Minimum != nil && n < *p.Minimum || p.Maximum != nil && n > *p.Maximum {
			return "", false, fmt.Errorf("has to be %s", between(p.Minimum, p.Maximum))
		}
		if n < 0 && p.Minimum == nil && !p.Dash {
			return "", false, fmt.Errorf("may not be negative")
		}
		return strconv.FormatInt(n, 10), true, nil
	case TypeBoolean:
		var b *bool
		if json.Unmarshal(raw, &b) != nil || b == nil {
			return "", false, fmt.Errorf("has to be true or false")
		}
		if p.Flag != "" {
			return p.Flag, *b, nil
		}
		return strconv.FormatBool(*b), true, nil
	}
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false, fmt.Errorf("has to be a text")
	}
	most := p.MaxLength
	if most <= 0 {
		most = maxText
	}
	switch {
	case strings.ContainsRune(*s, 0):
		return "", false, fmt.Errorf("holds a null byte")
	case utf8.RuneCountInString(*s) > most:
		return "", false, fmt.Errorf("may have at most %d characters", most)
	case len(p.Enum) > 0 && !slices.Contains(p.Enum, *s):
		return "", false, fmt.Errorf("has to be one of %s", strings.Join(p.Enum, ", "))
	case t.patterns[name] != nil && !t.patterns[name].MatchString(*s):
		return "", false, fmt.Errorf("has to fit %s", p.Pattern)
	case strings.HasPrefix(*s, "-") && !p.Dash && !slices.Contains(p.Enum, *s):
		return "", false, fmt.Errorf("may not begin with a dash")
	}
	if p.Type == TypePath && dir != "" {
		real, err := under(*s, dir, p.Roots)
		return real, true, err
	}
	return *s, true, nil
}

func between(low, high *int64) string {
	switch {
	case low == nil:
		return fmt.Sprintf("at most %d", *high)
	case high == nil:
		return fmt.Sprintf("at least %d", *low)
	}
	return fmt.Sprintf("from %d to %d", *low, *high)
}

// under is where a path really leads, which has to be under one of the roots. What is not there yet has to be in a
// directory that is.
func under(path, dir string, roots []string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	path = filepath.Clean(path)
	real, err := filepath.EvalSymlinks(path)
	if os.IsNotExist(err) {
		if _, here := os.Lstat(path); here == nil {
			return "", fmt.Errorf("leads nowhere")
		}
		var parent string
		if parent, err = filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			real = filepath.Join(parent, filepath.Base(path))
		}
	}
	if err != nil {
		return "", fmt.Errorf("leads nowhere")
	}
	if len(roots) == 0 {
		roots = []string{dir}
	}
	for _, root := range roots {
		if !filepath.IsAbs(root) {
			root = filepath.Join(dir, root)
		}
		if root, err = filepath.EvalSymlinks(root); err != nil {
			continue
		}
		if rel, err := filepath.Rel(root, real); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return real, nil
		}
	}
	return "", fmt.Errorf("is outside of what the command may touch")
}

// template serves a command of the configuration.
func (a *Agent) template(ctx context.Context, r host.Request, t *template) host.Result {
	p, err := read(r.ParamsJSON)
	if err == nil && p.noObject != "" && p.noObject != "NoneType" {
		err = fmt.Errorf("the parameters have to be an object")
	}
	if err != nil {
		return failed("INVALID_PARAMS", err.Error())
	}
	dir := a.dir
	if t.Cwd != "" {
		if dir = t.Cwd; !filepath.IsAbs(dir) {
			dir = filepath.Join(a.dir, dir)
		}
	}
	if err := host.IsDir(dir); err != nil {
		return failed("EXEC_FAILED", dir+": "+err.Error())
	}
	argv, err := t.words(p.members, dir)
	if err != nil {
		return failed("INVALID_PARAMS", r.Command+": "+err.Error())
	}
	release := a.slot(a.runs)
	if release == nil {
		return busy()
	}
	defer release()
	limit := t.Timeout
	if limit <= 0 {
		limit = runTime
	}
	return a.collect(ctx, host.Order{
		Argv: argv, Text: strings.Join(argv, " "), Dir: dir, Env: a.environment(t.Env), AgentID: p.agent(), Approved: p.isTrue("approved"), Timeout: min(limit, maxRunTime),
	})
}
