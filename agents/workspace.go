package agents

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// templates are the texts that a new workspace begins with.
//
//go:embed bootstrap/*.md
var templates embed.FS

// stateName is where a workspace notes how far it is, beside what other programs note there
// (sessions-chat.md §8).
var stateName = filepath.Join(".openclaw", "workspace-state.json")

const (
	// maxState bounds that file.
	maxState     = 64 << 10
	stateVersion = 1
)

// Template is the text that a file of a new workspace begins with, "" for names without one.
func Template(name string) string {
	data, err := templates.ReadFile("bootstrap/" + name)
	if err != nil {
		return ""
	}
	return string(data)
}

// seed makes a workspace: its directory, and the files that are missing. BOOTSTRAP.md comes only into a
// workspace that is new.
func (s *Service) seed(dir string, files bool) error {
	s.files.Lock()
	defer s.files.Unlock()
	root, err := openWorkspace(dir)
	if err != nil || !files {
		if root != nil {
			_ = root.Close()
		}
		return err
	}
	defer root.Close()
	fresh := true
	var missing []string
	for _, name := range bootstrapNames {
		_, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return workspaceFault(err)
		default:
			fresh = false
		}
	}
	state := readState(root)
	if state["bootstrapSeededAt"] != nil || state["onboardingCompletedAt"] != nil {
		fresh = false
	}
	for _, name := range missing {
		if name == bootstrapName && !fresh {
			continue
		}
		if _, err := writeWithin(root, name, []byte(Template(name))); err != nil {
			return workspaceFault(err)
		}
	}
	if !fresh {
		return nil
	}
	state["version"], state["bootstrapSeededAt"] = stateVersion, s.cfg.Now().UTC().Format(time.RFC3339Nano)
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return workspaceFault(err)
	}
	if err := root.MkdirAll(filepath.Dir(stateName), 0o700); err != nil {
		return workspaceFault(err)
	}
	if _, err := writeWithin(root, stateName, append(text, '\n')); err != nil {
		return workspaceFault(err)
	}
	return nil
}

// readState reads the notes of a workspace; without any, and where they cannot be read, there are none.
func readState(root *os.Root) map[string]any {
	state := map[string]any{}
	data, _, err := readWithin(root, stateName, maxState)
	if err != nil || json.Unmarshal(data, &state) != nil || state == nil {
		return map[string]any{}
	}
	return state
}

// onboarded reports whether BOOTSTRAP.md has done its work: the notes say so, or it was there and is gone.
func onboarded(root *os.Root) bool {
	state := readState(root)
	if done, _ := state["onboardingCompletedAt"].(string); strings.TrimSpace(done) != "" {
		return true
	}
	seeded, _ := state["bootstrapSeededAt"].(string)
	_, err := root.Lstat(bootstrapName)
	return seeded != "" && errors.Is(err, fs.ErrNotExist)
}

// introduce adds to the IDENTITY.md of a workspace what it does not say yet.
func (s *Service) introduce(dir string, p Persona) error {
	s.files.Lock()
	defer s.files.Unlock()
	root, err := openWorkspace(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	data, _, err := readWithin(root, identityName, maxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unsafe(identityName, err)
	}
	had := ParseIdentity(data)
	var lines strings.Builder
	for _, l := range []struct{ key, value, had string }{
		{"Name", p.Name, had.Name}, {"Emoji", p.Emoji, had.Emoji}, {"Avatar", p.Avatar, had.Avatar},
	} {
		if value := oneLine(l.value); value != "" && value != l.had {
			lines.WriteString("- " + l.key + ": " + value + "\n")
		}
	}
	if lines.Len() == 0 {
		return nil
	}
	if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
		data = append(data, '\n')
	}
	data = append(append(data, '\n'), lines.String()...)
	if len(data) > maxFile {
		return ErrFileSize.With("name", identityName)
	}
	if _, err := writeWithin(root, identityName, data); err != nil {
		return unsafe(identityName, err)
	}
	return nil
}

// oneLine makes text one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
