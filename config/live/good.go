package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/config"
)

const (
	// goodName is the file of the last configuration that a daemon served with, in the state directory.
	goodName = "config.last-good.json"
	// maxStateFile bounds what is read of a file of ours: a configuration, its includes, and the coding
	// of both as text.
	maxStateFile = 64 << 20
)

// Good is the last configuration that a daemon of this state directory became ready with.
type Good struct {
	// Path is the configuration file, Hash that of its text.
	Path, Hash string
	At         time.Time
	Source     config.Source
}

// goodFile is how it is written. The names of its fields are the format.
type goodFile struct {
	Format   int
	Path     string
	Hash     string
	At       time.Time
	Exists   bool
	Text     []byte
	Includes map[string][]byte
}

const goodFormat = 1

// SaveGood keeps a configuration that works, as a whole or not at all: its file and what that includes,
// with the secrets in them and without those of the environment.
func SaveGood(stateDir string, c *config.Config, now time.Time) error {
	s := c.Source()
	if g, err := LoadGood(stateDir); err == nil && g.Path == c.Path && g.Hash == c.Hash && sameIncludes(g.Source, s) {
		return nil
	}
	text, err := json.Marshal(goodFile{
		Format: goodFormat, Path: c.Path, Hash: c.Hash, At: now.Round(0), Exists: s.Exists, Text: s.Text, Includes: s.Includes,
	})
	if err != nil {
		return err
	}
	return config.WriteFileAtomic(filepath.Join(stateDir, goodName), text, 0o600)
}

func sameIncludes(a, b config.Source) bool {
	if len(a.Includes) != len(b.Includes) {
		return false
	}
	for path, text := range a.Includes {
		if other, ok := b.Includes[path]; !ok || string(other) != string(text) {
			return false
		}
	}
	return true
}

// errNoGood is for state directories where no daemon was ever ready.
var errNoGood = errors.New("no daemon has been ready with this state directory yet")

// LoadGood reads what SaveGood kept.
func LoadGood(stateDir string) (Good, error) {
	var f goodFile
	err := readState(filepath.Join(stateDir, goodName), &f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Good{}, errNoGood
	case err != nil:
		return Good{}, fmt.Errorf("the last configuration that worked cannot be read: %w", err)
	case f.Format != goodFormat:
		return Good{}, fmt.Errorf("the last configuration that worked was written by another version (format %d)", f.Format)
	}
	return Good{Path: f.Path, Hash: f.Hash, At: f.At, Source: config.Source{Exists: f.Exists, Text: f.Text, Includes: f.Includes}}, nil
}

// readState reads a file of ours.
func readState(path string, into any) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() > maxStateFile {
		return fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxStateFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}
