//go:build !linux

package host

import "os"

// leadsTo reports whether an open file is the one at a path without links.
func leadsTo(_ *os.File, info os.FileInfo, path string) bool {
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(now, info)
}

// hold would keep others from writing to an open file; this system has nothing for that.
func hold(*os.File) (free func(), firm bool, err error) { return nil, false, nil }
