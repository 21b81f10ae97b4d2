package policy

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Locate finds the executable that a first word names (nodes-approvals.md §3.6): a path as it is,
// relative to cwd ("" is the process's), or the first hit in pathEnv. It must be a regular file that
// may be executed; links are followed for that, and not in the answer. Entries of pathEnv that are
// not absolute are skipped, because what they find depends on where one stands.
func (f *File) Locate(word, cwd, pathEnv string) (path string, ok bool) {
	return locate(word, cwd, pathEnv, f.home)
}

func locate(word, cwd, pathEnv, home string) (string, bool) {
	word = trim(word)
	if word == "" || strings.ContainsRune(word, 0) {
		return "", false
	}
	word = matcher{home: home}.expand(word)
	if strings.ContainsRune(word, '/') || strings.ContainsRune(word, filepath.Separator) {
		if !filepath.IsAbs(word) {
			abs, err := filepath.Abs(filepath.Join(trim(cwd), word))
			if err != nil {
				return "", false
			}
			word = abs
		}
		return executable(word)
	}
	for _, dir := range filepath.SplitList(pathEnv) {
		if dir = trim(dir); !filepath.IsAbs(dir) {
			continue
		}
		if p, ok := executable(filepath.Join(dir, word)); ok {
			return p, true
		}
	}
	return "", false
}

// executable returns the path, on Windows with the extension that makes it one.
func executable(path string) (string, bool) {
	if runtime.GOOS != "windows" {
		fi, err := os.Stat(path)
		return path, err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
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

// pinned is the path that really runs: links followed, except the last one to a program that acts by
// the name it is called with.
func pinned(path string) (string, bool) {
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

// Pin fixes what an approval of argv will run: the first word of a plain argv becomes its real path.
// Inline shells and wrappers are left as they are. It fails with ErrUnstable when there is no such
// executable (nodes-approvals.md §4.3).
func (f *File) Pin(argv []string, cwd, pathEnv string) ([]string, error) {
	if len(argv) == 0 {
		return nil, ErrUnstable
	}
	if _, inline := findInlineShell(argv); inline || isDispatcher(programName(argv[0])) {
		return argv, nil
	}
	path, ok := f.Locate(argv[0], cwd, pathEnv)
	if ok {
		path, ok = pinned(path)
	}
	if !ok {
		return nil, ErrUnstable.With("executable", argv[0])
	}
	return append([]string{path}, argv[1:]...), nil
}
