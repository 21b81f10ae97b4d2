package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

const includeKey = "$include"

// includeSite is where an $include stands: the file, the key path, and the files that led there.
type includeSite struct {
	file, path string
	chain      []string
}

// include replaces every object with an $include by what the files hold, merged with the object's
// own keys (control-plane.md §4 "File"). It returns nil after an issue.
func (l *loader) include(n *json5.Node, at includeSite) *json5.Node {
	l.nodes++
	if l.nodes > maxNodes {
		if l.nodes == maxNodes+1 {
			l.fail(at.path, n, fmt.Sprintf("More than %d values after $include", maxNodes))
		}
		return nil
	}
	if at.file != l.config.Path {
		l.origin[n] = at.file
	}
	inside := func(key string) includeSite {
		return includeSite{file: at.file, path: join(at.path, key), chain: at.chain}
	}
	switch n.Kind {
	case json5.Array:
		for i, item := range n.Items {
			if n.Items[i] = l.include(item, inside(fmt.Sprint(i))); n.Items[i] == nil {
				return nil
			}
		}
	case json5.Object:
		var directive *json5.Node
		rest := make([]json5.Member, 0, len(n.Members))
		for _, m := range n.Members {
			if m.Key == includeKey {
				directive = m.Value
				continue
			}
			if m.Value = l.include(m.Value, inside(m.Key)); m.Value == nil {
				return nil
			}
			rest = append(rest, m)
		}
		n.Members = rest
		if directive != nil {
			return l.included(n, directive, at)
		}
	}
	return n
}

func (l *loader) included(n, directive *json5.Node, at includeSite) *json5.Node {
	if at.file != l.config.Path {
		l.origin[directive] = at.file
	}
	fail := func(format string, args ...any) *json5.Node {
		l.fail(join(at.path, includeKey), directive, fmt.Sprintf(format, args...))
		return nil
	}
	names := []*json5.Node{directive}
	if directive.Kind == json5.Array {
		names = directive.Items
	}
	var merged *json5.Node
	for _, name := range names {
		if name.Kind != json5.String {
			return fail("Expected a file name or a list of file names, got %s", name.Kind)
		}
		if len(at.chain) >= maxIncludeDepth {
			return fail("Files include each other more than %d deep at %s", maxIncludeDepth, quote(name.Str))
		}
		if l.includes++; l.includes > maxIncludes {
			return fail("More than %d files are included", maxIncludes)
		}
		file, text, problem := l.readInclude(name.Str, filepath.Dir(at.file))
		if problem != "" {
			return fail("%s", problem)
		}
		if file == l.config.Path || slices.Contains(at.chain, file) {
			return fail("%s includes itself", quote(name.Str))
		}
		if !slices.Contains(l.config.Includes, file) {
			l.config.Includes = append(l.config.Includes, file)
		}
		part, err := json5.Parse(text)
		if err != nil {
			l.syntax(err, file)
			l.issues[len(l.issues)-1].Path = join(at.path, includeKey)
			return nil
		}
		part = l.include(part, includeSite{file: file, path: at.path, chain: append(slices.Clone(at.chain), file)})
		if part == nil {
			return nil
		}
		if merged != nil {
			part = merge(merged, part)
		}
		merged = part
	}
	switch {
	case merged == nil:
		return n
	case len(n.Members) == 0:
		return merged
	case merged.Kind != json5.Object:
		return fail("Keys beside $include need an included object, but the file holds %s", merged.Kind)
	}
	return merge(merged, n)
}

// readInclude reads a file below the directory of the main config file. Links are followed before
// the place is judged, and the file is opened through the directory, so that one swapped in
// meanwhile cannot lead outside.
func (l *loader) readInclude(name, dir string) (file string, text []byte, problem string) {
	top, err := filepath.EvalSymlinks(filepath.Dir(l.config.Path))
	if err != nil {
		return "", nil, fmt.Sprintf("Cannot read the config directory: %v", err)
	}
	file = name
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	outside := "Include path escapes config directory: " + quote(name)
	if !within(filepath.Dir(l.config.Path), file) && !within(top, file) {
		return "", nil, outside
	}
	if text, ok := l.given.include(file); ok {
		l.config.source.Includes[file] = text
		return file, text, ""
	}
	real, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Sprintf("Include file not found: %s", quote(name))
	}
	if err != nil {
		return "", nil, fmt.Sprintf("Cannot read include file %s: %v", quote(name), err)
	}
	rel, err := filepath.Rel(top, real)
	if err != nil || !filepath.IsLocal(rel) {
		return "", nil, outside
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return "", nil, fmt.Sprintf("Cannot read the config directory: %v", err)
	}
	defer root.Close()
	if st, err := root.Stat(rel); err == nil && !st.Mode().IsRegular() {
		return "", nil, fmt.Sprintf("Include file is not a regular file: %s", quote(name))
	}
	f, err := root.Open(rel)
	if err != nil {
		return "", nil, fmt.Sprintf("Cannot read include file %s: %v", quote(name), err)
	}
	defer f.Close()
	if text, err = readAll(f, maxIncludeBytes); err != nil {
		return "", nil, fmt.Sprintf("Cannot read include file %s: %v", quote(name), err)
	}
	l.config.source.Includes[file] = text
	return real, text, ""
}

func within(dir, file string) bool {
	rel, err := filepath.Rel(dir, file)
	return err == nil && filepath.IsLocal(rel) && !strings.HasPrefix(rel, "..")
}

// merge lays over on base: objects key by key, arrays one behind the other, else over wins.
func merge(base, over *json5.Node) *json5.Node {
	switch {
	case base.Kind == json5.Array && over.Kind == json5.Array:
		base.Items = append(base.Items, over.Items...)
		return base
	case base.Kind == json5.Object && over.Kind == json5.Object:
		index := make(map[string]int, len(base.Members))
		for i, m := range base.Members {
			index[m.Key] = i
		}
		for _, m := range over.Members {
			if i, ok := index[m.Key]; ok {
				base.Members[i].Value = merge(base.Members[i].Value, m.Value)
				continue
			}
			base.Members = append(base.Members, m)
		}
		return base
	}
	return over
}
