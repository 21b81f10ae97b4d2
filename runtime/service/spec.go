package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// specFile is where the Spec of an installed service is kept, so that later commands need not be told
// again.
func specFile(system bool) (string, error) {
	if !system {
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, Name, "service.json"), err
	}
	switch runtime.GOOS {
	case "darwin":
		return "/Library/Application Support/" + Name + "/service.json", nil
	case "windows":
		dir := os.Getenv("ProgramData")
		if dir == "" {
			return "", errors.New("the variable ProgramData is not set")
		}
		return filepath.Join(dir, Name, "service.json"), nil
	}
	return "/etc/" + Name + "/service.json", nil
}

// Load returns the Spec of the installed service of the machine or of this user; ErrNotInstalled when
// there is none.
func Load(system bool) (Spec, error) {
	path, err := specFile(system)
	if err != nil {
		return Spec{}, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Spec{}, ErrNotInstalled
	}
	var s Spec
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("read how the service was installed (%s): %w\nInstall it again with: hanzod service install --force", path, err)
	}
	s.System = system
	return s, nil
}

// Save remembers how the service was installed.
func (s Spec) Save() error {
	path, err := specFile(s.System)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // others may read how a service of the machine runs
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // as above
		return err
	}
	return os.Rename(tmp, path)
}

// Forget removes what Save wrote.
func (s Spec) Forget() error {
	path, err := specFile(s.System)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // unless somebody else has something there
	return nil
}
