package skills

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hanzoai/hanzod/config/json5"
)

const (
	fileName = "SKILL.md"
	// maxEntries is how much of a directory is looked at.
	maxEntries = 10_000
	// The bounds of skills.limits: what the configuration may ask for at the most.
	mostCandidates = 10_000
	mostLoaded     = 5000
	mostFile       = 4 << 20
)

// limits are those of skills.limits that hold before any prompt is made (config.md §9).
type limits struct{ candidates, loaded, file int }

func limitsOf(n *json5.Node) limits {
	l := limits{candidates: 300, loaded: 200, file: 256_000}
	for _, k := range []struct {
		key  string
		most float64
		into *int
	}{
		{"maxCandidatesPerRoot", mostCandidates, &l.candidates}, {"maxSkillsLoadedPerSource", mostLoaded, &l.loaded},
		{"maxSkillFileBytes", mostFile, &l.file},
	} {
		if v := n.Get(k.key); v != nil && v.Kind == json5.Number && v.Num >= 0 {
			*k.into = int(min(v.Num, k.most))
		}
	}
	return l
}

// root is a directory of skills.
type root struct{ dir, source string }

// found is a skill that was found.
type found struct {
	meta         Meta
	source, file string
}

// scan finds the skills of a root, sorted by the names of their folders. Links that lead out of the root
// are not followed.
func (r root) scan(l limits) []found {
	if r.dir == "" {
		return nil
	}
	dir, err := os.OpenRoot(r.dir + string(filepath.Separator) + ".") // a named pipe is an error then, and not waited for
	if err != nil {
		return nil
	}
	defer dir.Close()
	if f, ok := r.load(dir, ".", l); ok {
		return []found{f} // the root is a skill itself
	}
	names := folders(dir)
	var out []found
	for _, name := range names[:min(len(names), l.candidates)] {
		if len(out) >= l.loaded {
			break
		}
		if f, ok := r.load(dir, name, l); ok {
			out = append(out, f)
		}
	}
	return out
}

func folders(dir *os.Root) []string {
	f, err := dir.Open(".")
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxEntries) // what was read before a fault counts
	var names []string
	for _, e := range entries {
		name := e.Name()
		if name[0] == '.' || name == "node_modules" {
			continue
		}
		if e.IsDir() || e.Type() == fs.ModeSymlink {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// load reads the skill of one folder.
func (r root) load(dir *os.Root, name string, l limits) (found, bool) {
	data, err := read(dir, filepath.Join(name, fileName), int64(l.file))
	if err != nil {
		return found{}, false
	}
	m, ok := ParseFrontMatter(data)
	if !ok || m.Description == "" {
		return found{}, false
	}
	folder := filepath.Join(r.dir, name)
	if m.Name == "" {
		m.Name = filepath.Base(folder)
	}
	return found{meta: m, source: r.source, file: filepath.Join(folder, fileName)}, true
}

var errNoSkill = errors.New("no regular file of this size")

// read reads a regular file without waiting for anybody who writes it.
func read(dir *os.Root, name string, limit int64) ([]byte, error) {
	st, err := dir.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNoSkill
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|noWait, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, errNoSkill
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errNoSkill
	}
	return data, nil
}
