package shell

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Locate finds the executable that a first word names (nodes-approvals.md §3.6): a path as it is,
// relative to Cwd, or the first hit in Path. It must be a regular file that may be executed; links are
// followed for that, and not in the answer. Entries of Path that are not absolute are skipped, because
// what they find depends on where one stands.
func (m Machine) Locate(word string) (path string, ok bool) {
	word = trim(word)
	if word == "" || strings.ContainsRune(word, 0) {
		return "", false
	}
	word = m.expand(word)
	if strings.ContainsRune(word, '/') || strings.ContainsRune(word, filepath.Separator) {
		if !filepath.IsAbs(word) {
			abs, err := filepath.Abs(filepath.Join(trim(m.Cwd), word))
			if err != nil {
				return "", false
			}
			word = abs
		}
		return executable(word)
	}
	return search(m.pathDirs(), word)
}

// pathDirs are the directories of Path in order, each once.
func (m Machine) pathDirs() []string {
	dirs := filepath.SplitList(m.Path)
	kept := dirs[:0]
	for _, dir := range dirs {
		if dir = trim(dir); !filepath.IsAbs(dir) {
			continue
		}
		if dir = filepath.Clean(dir); !slices.Contains(kept, dir) {
			kept = append(kept, dir)
		}
	}
	return kept
}

// search finds a name in clean directories.
func search(dirs []string, name string) (string, bool) {
	plain := name != "." && name != ".."
	for _, dir := range dirs {
		var path string
		if plain && dir[len(dir)-1] != filepath.Separator {
			path = dir + string(filepath.Separator) + name
		} else {
			path = filepath.Join(dir, name)
		}
		if p, ok := executable(path); ok {
			return p, true
		}
	}
	return "", false
}

// executable returns the path, on Windows with the extension that makes it one.
func executable(path string) (string, bool) {
	if runtime.GOOS != "windows" {
		return path, runnable(path)
	}
	exts := []string{".exe", ".cmd", ".bat", ".com"}
	if env := os.Getenv("PATHEXT"); env != "" {
		exts = filepath.SplitList(strings.ToLower(env))
	}
	candidates := []string{path}
	if !slices.Contains(exts, strings.ToLower(filepath.Ext(path))) {
		candidates = nil
		for _, e := range exts {
			candidates = append(candidates, path+e)
		}
	}
	for _, c := range candidates {
		if fi, err := os.Stat(c); err == nil && fi.Mode().IsRegular() {
			return c, true
		}
	}
	return path, false
}

// Pinned is the path that really runs: links followed, except the last one to a program that acts by
// the name it is called with.
func Pinned(path string) (string, bool) {
	path = filepath.Clean(path)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", false
	}
	if name := programName(real); name != programName(path) && slices.Contains(multiCall, name) {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", false
		}
		return filepath.Join(dir, filepath.Base(path)), true
	}
	return real, true
}
