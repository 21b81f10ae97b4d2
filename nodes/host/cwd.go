package host

import (
	"os"
	"path/filepath"
	"strings"
)

// canonicalDir is the directory of an approved run. Nil is the host's own.
type canonicalDir struct {
	path string
	info os.FileInfo
	// held is the open directory: while it is open, nothing else can get its identity.
	held *os.File
}

func (d *canonicalDir) close() {
	if d != nil {
		d.held.Close()
	}
}

func (d *canonicalDir) orEmpty() string {
	if d == nil {
		return ""
	}
	return d.path
}

// unchanged reports whether the directory still is the one that was checked.
func (d *canonicalDir) unchanged() bool {
	if d == nil {
		return true
	}
	now, err := os.Lstat(d.path)
	return err == nil && now.IsDir() && os.SameFile(now, d.info)
}

// canonical checks the working directory of an approved run: an approval is for one directory, so
// nothing that somebody could turn elsewhere may lead to it (nodes-approvals.md §4.3).
// The caller closes it.
func canonical(cwd string) (*canonicalDir, *denial) {
	if cwd == "" {
		return nil, nil
	}
	refuse := func(why string) (*canonicalDir, *denial) {
		return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: " + why}
	}
	path, err := filepath.Abs(cwd)
	if err != nil {
		return refuse("approval requires an existing canonical cwd")
	}
	link, err1 := os.Lstat(path)
	info, err2 := os.Stat(path)
	real, err3 := filepath.EvalSymlinks(path)
	if err1 != nil || err2 != nil || err3 != nil {
		return refuse("approval requires an existing canonical cwd")
	}
	if !info.IsDir() {
		return refuse("approval requires cwd to be a directory")
	}
	if throughMutableLink(path) {
		return refuse("approval requires canonical cwd (no symlink path components)")
	}
	if link.Mode()&os.ModeSymlink != 0 {
		return refuse("approval requires canonical cwd (no symlink cwd)")
	}
	held, err := os.Open(real)
	if err != nil {
		return refuse("approval requires an existing canonical cwd")
	}
	d := &canonicalDir{path: real, held: held}
	if d.info, err = held.Stat(); err != nil || !os.SameFile(info, link) || !os.SameFile(info, d.info) || !d.unchanged() {
		d.close()
		return refuse("approval cwd identity mismatch")
	}
	return d, nil
}

// throughMutableLink reports whether a component of the path, the last included, is a link in a
// directory that this process can write.
func throughMutableLink(path string) bool {
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at := root
	for part := range strings.SplitSeq(strings.TrimPrefix(path, root), string(filepath.Separator)) {
		parent := at
		at = filepath.Join(at, part)
		if fi, err := os.Lstat(at); err != nil || fi.Mode()&os.ModeSymlink != 0 && writable(parent) {
			return true
		}
	}
	return false
}
