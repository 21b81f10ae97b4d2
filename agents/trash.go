package agents

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const trashName = "trash"

// emptyTrash removes for good what has been in the trash for long, and refuses when there is no room.
func (s *Service) emptyTrash(stateDir string) error {
	dir := filepath.Join(stateDir, trashName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return workspaceFault(err)
	}
	root, err := openRoot(dir)
	if err != nil {
		return workspaceFault(err)
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return workspaceFault(err)
	}
	entries, err := f.ReadDir(-1)
	_ = f.Close() // nothing was written
	if err != nil {
		return workspaceFault(err)
	}
	kept := 0
	for _, e := range entries {
		stamp, _, _ := strings.Cut(e.Name(), "-")
		at, err := time.Parse(trashStamp, stamp)
		if err == nil && s.cfg.Now().Sub(at) > trashFor && root.RemoveAll(e.Name()) == nil {
			continue
		}
		kept++
	}
	if kept >= maxTrash {
		return ErrTrash
	}
	return nil
}

const trashStamp = "20060102T150405Z"

// dropSessions removes the sessions of an agent. It returns false when some are left, whose transcripts then
// have to stay.
func (s *Service) dropSessions(ctx context.Context, id string) bool {
	if s.cfg.DropSessions == nil {
		return true
	}
	if err := s.cfg.DropSessions(ctx, id); err != nil {
		s.cfg.Log.Warn("sessions of a removed agent are left", "agent", id, "error", err)
		return false
	}
	return true
}

// discard moves the files of an agent to the trash. What others use too, and what lies where it cannot be
// moved from, stays.
func (s *Service) discard(v *View, a *Agent, sessions bool) (trash string, kept []string) {
	state := v.Config.StateDir
	bin := filepath.Join(state, trashName, s.cfg.Now().UTC().Format(trashStamp)+"-"+a.ID+"-"+strings.ToLower(rand.Text()[:6]))
	for _, d := range []struct{ name, path string }{
		{"workspace", a.Workspace}, {"agent", a.AgentDir}, {"sessions", SessionsDir(state, a.ID)},
	} {
		if _, err := os.Lstat(d.path); err != nil {
			continue
		}
		if d.name == "sessions" && !sessions || !s.only(v, a, d.path) {
			kept = append(kept, d.path)
			continue
		}
		err := os.MkdirAll(bin, 0o700)
		if err == nil {
			err = os.Rename(d.path, filepath.Join(bin, d.name))
		}
		if err != nil {
			s.cfg.Log.Warn("files of a removed agent stay where they are", "agent", a.ID, "path", d.path, "error", err)
			kept = append(kept, d.path)
			continue
		}
		trash = bin
	}
	_ = os.Remove(filepath.Join(state, "agents", a.ID)) // it is empty, or it stays
	return trash, kept
}

// only reports whether a directory is that of one agent alone: it holds neither the home directory, nor
// anything of the daemon, nor the workspace or directory of another agent, and lies in none of these but
// the state directory.
func (s *Service) only(v *View, a *Agent, dir string) bool {
	dir = real(dir)
	if within(real(v.Config.StateDir), dir) || within(real(v.Config.Home), dir) || within(real(v.Config.Path), dir) || filepath.Dir(dir) == dir {
		return false
	}
	if rel, err := filepath.Rel(real(v.Config.StateDir), dir); err == nil && filepath.IsLocal(rel) {
		// In the state directory, only what is an agent's may go.
		own := rel == "workspace-"+a.ID || strings.HasPrefix(rel, filepath.Join("agents", a.ID)+string(filepath.Separator))
		if !own && !strings.HasPrefix(rel, "workspace") {
			return false
		}
	}
	others := []string{v.Config.Workspace(v.DefaultID)}
	if a.ID == v.DefaultID {
		others = nil
	}
	for i := range v.List {
		if o := &v.List[i]; o.ID != a.ID {
			others = append(others, o.Workspace, o.AgentDir)
		}
	}
	for _, o := range others {
		if o = real(o); within(o, dir) || within(dir, o) {
			return false
		}
	}
	return true
}

// within reports whether path is dir or lies in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// real resolves links where the path exists.
func real(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return filepath.Clean(path)
}
