package tech

import (
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hanzoai/hanzod/tunnel/files"
)

// admitted asks the policy of this machine whether a session may work on it, as for its shell.
func (h *held) admitted() error {
	shell := h.m.shell()
	_, _, reason, message, err := h.m.c.Policy.Admit(h.AgentID, []string{shell}, h.m.c.Dir, lookup(h.m.c.Env(), "PATH"), h.Approved)
	switch {
	case reason != "":
		return ErrDenied.WithText(message)
	case err != nil:
		return ErrDenied.WithText("the exec approvals of this node cannot be read: " + err.Error())
	}
	return nil
}

// shell is $SHELL, else /bin/sh; on Windows %ComSpec%.
func (m *Module) shell() string {
	name, otherwise := "SHELL", "/bin/sh"
	if runtime.GOOS == "windows" {
		name, otherwise = "ComSpec", "cmd.exe"
	}
	if v := lookup(m.c.Env(), name); v != "" {
		return v
	}
	return otherwise
}

// lookup returns a variable of an environment; on Windows the case of names does not count.
func lookup(env []string, name string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == name || runtime.GOOS == "windows" && strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// clean reports whether a path can be one.
func clean(path string) bool { return path != "" && !strings.ContainsRune(path, 0) }

// narrowed are the roots as far as they are below of the directories, or the other way round. Directories have no symbolic
// links in them.
func narrowed(roots []files.Root, dirs []directory) []files.Root {
	if len(dirs) == 0 {
		return roots
	}
	var out []files.Root
	for _, d := range dirs {
		for _, r := range roots {
			real, err := filepath.EvalSymlinks(r.Path)
			switch {
			case err != nil: // no root
			case below(d.real, real):
				out = append(out, r)
			case below(real, d.real):
				out = append(out, files.Root{Path: d.real, ReadOnly: r.ReadOnly, Within: real})
			}
		}
	}
	return out
}

// local is a path as the files of the session know it: without symbolic links of a directory's own name.
func (h *held) local(path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	for _, d := range h.dirs {
		if rel, err := filepath.Rel(d.named, path); err == nil && d.named != d.real && filepath.IsLocal(rel) {
			return filepath.Join(d.real, rel)
		}
	}
	return path
}

// below reports whether a clean path is base or below of it.
func below(base, path string) bool {
	rel, err := filepath.Rel(base, path)
	return err == nil && filepath.IsLocal(rel)
}
