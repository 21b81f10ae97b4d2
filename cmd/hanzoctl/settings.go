package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSettings bounds each file that hanzoctl keeps, in bytes; they have some hundred kilobytes at the most.
const maxSettings = 1 << 20

var errNoHome = errors.New("the home directory is not known; set HOME")

// settingsDir is where hanzoctl keeps what it knows: ~/.hanzo/hanzoctl.
func (a *app) settingsDir() (string, error) {
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if home := a.getenv(name); home != "" {
			return filepath.Join(home, ".hanzo", "hanzoctl"), nil
		}
	}
	return "", errNoHome
}

// readSettings reads a file of at most so many bytes. Its error is fs.ErrNotExist when there is none.
func readSettings(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return text, err
}

// writeSettings writes a file for this user alone, in one step: who reads it sees the old one or the new one.
func writeSettings(path string, v any) (err error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what failed is reported
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // so that the name outlasts a power cut; not every system can
		_ = d.Close()
	}
	return nil
}

// settings is the file of what this user chose. Keys that this version does not know are kept.
type settings struct {
	path string
	keys map[string]json.RawMessage
	// context is the name of the chosen context, "" for this machine.
	context string
}

// loadSettings reads the file; without one nothing is chosen.
func (a *app) loadSettings() (*settings, error) {
	dir, err := a.settingsDir()
	if err != nil {
		return nil, err
	}
	s := &settings{path: filepath.Join(dir, "config.json"), keys: map[string]json.RawMessage{}}
	text, err := readSettings(s.path, maxSettings)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	const way = `; repair it, or remove it to choose afresh. "hanzoctl --host local" asks this machine meanwhile`
	if err != nil {
		return nil, usagef("the settings cannot be read: %w%s", err, way)
	}
	if err := json.Unmarshal(text, &s.keys); err != nil || s.keys == nil {
		return nil, usagef("%s is damaged%s", s.path, way)
	}
	version := 0
	if raw, ok := s.keys["version"]; ok && json.Unmarshal(raw, &version) != nil || version != 1 {
		return nil, usagef("%s is damaged, or of a newer hanzoctl%s", s.path, way)
	}
	if raw, ok := s.keys["context"]; ok && json.Unmarshal(raw, &s.context) != nil {
		return nil, usagef(`%s is damaged: "context" is no name%s`, s.path, way)
	}
	return s, nil
}

// choose keeps the name of a context as the chosen one; "" is this machine.
func (s *settings) choose(name string) error {
	if s.context == name {
		return nil
	}
	s.context = name
	if s.keys["version"] = json.RawMessage("1"); name == "" {
		delete(s.keys, "context")
		return writeSettings(s.path, s.keys)
	}
	raw, err := json.Marshal(name)
	if err != nil {
		return err
	}
	s.keys["context"] = raw
	return writeSettings(s.path, s.keys)
}
