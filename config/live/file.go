package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/config"
)

const (
	// backups is how many earlier texts are kept: .bak and .bak.1 to .bak.4 (control-plane.md §4).
	backups = 5
	// maxConfigFile is the largest configuration file that is read or written.
	maxConfigFile = 16 << 20
)

// readText reads the configuration file; one that is not there is empty.
func readText(path string) (text []byte, exists bool, err error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case !st.Mode().IsRegular():
		return nil, false, fmt.Errorf("%s is not a regular file", path)
	case st.Size() > maxConfigFile:
		return nil, false, fmt.Errorf("%s is larger than %d bytes", path, maxConfigFile)
	}
	text, err = os.ReadFile(path)
	return text, err == nil, err
}

// replaceFile puts a text in the place of the configuration file: on return it is on disk, and whoever
// reads the file finds the old text or the new one. A symbolic link stays one. What stood there is kept as
// .bak, and what was that before as .bak.1 to .bak.4.
func replaceFile(path string, text []byte) error {
	real, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if real, err = missingTarget(path); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(real), 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := keepBackup(path, real); err != nil {
			return fmt.Errorf("keep the text before: %w", err)
		}
	}
	return config.WriteFileAtomic(real, text, 0o600)
}

// missingTarget is where a file is made that is not there: at the end of the link, where path is one.
func missingTarget(path string) (string, error) {
	to, err := os.Readlink(path)
	if err != nil {
		return path, nil //nolint:nilerr // no link
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	if _, err := os.Readlink(to); err == nil {
		return "", fmt.Errorf("%s is a link to a link to nothing; make the file first", path)
	}
	return to, nil
}

// keepBackup moves the backups on and keeps the text of today.
func keepBackup(path, real string) error {
	text, _, err := readText(real)
	if err != nil {
		return err
	}
	name := func(i int) string {
		if i == 0 {
			return path + ".bak"
		}
		return fmt.Sprintf("%s.bak.%d", path, i)
	}
	for i := backups - 1; i > 0; i-- {
		if err := os.Rename(name(i-1), name(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return config.WriteFileAtomic(name(0), text, 0o600)
}

// removeFile removes the configuration file, keeping its text as a backup.
func removeFile(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = keepBackup(path, real)
	}
	if err == nil {
		err = os.Remove(real)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(real))
}
