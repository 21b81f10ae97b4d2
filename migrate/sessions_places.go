package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
)

// sessionPlace is a directory that holds sessions.
type sessionPlace struct {
	root *os.Root
	// own says that root is to be closed after use.
	own bool
	// dir is the directory, within root; title is how reports call it.
	dir, title string
	// index is the name of the file with the entries, "" when it is not read.
	index string
	// agent has what no entry says another of.
	agent string

	// open is the index while it is read: twice, and the original may put another in its place meanwhile.
	open  *os.File
	files map[string]fs.FileInfo // by their names in dir
	// claims are the agents that have a transcript, by its name, where an entry says so.
	claims map[string][]string
	// whole says that the index was read to its end, broken that it could not be.
	whole, broken bool
}

func (p *sessionPlace) claim(name, agent string) {
	if p.claims == nil {
		p.claims = map[string][]string{}
	}
	if !slices.Contains(p.claims[name], agent) {
		p.claims[name] = append(p.claims[name], agent)
	}
}

// find finds the directories: the one of each agent, and those that session.store names instead.
func (s *sessionImport) find(ctx context.Context) error {
	index := indexName
	if store := s.cfg.Session.Store; store != "" {
		index = "" // the original does not look there then
		if err := s.findStores(store); err != nil {
			return err
		}
	}
	// The oldest versions had one agent, whose sessions lay in the state directory itself. What lies elsewhere counts
	// more.
	defer func() {
		if st, err := s.r.source.Stat(sessionsDir); err == nil && st.IsDir() {
			s.place(&sessionPlace{root: s.r.source, dir: sessionsDir, title: sessionsDir, index: index, agent: s.cfg.DefaultAgentID()})
		}
	}()
	st, err := s.r.source.Stat(agentsDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || !st.IsDir():
		s.tally.add(agentsDir, "", Fault, "it is no directory, or a link that leads out of the one that is moved; import a copy that holds the files themselves (cp -rL)", 0)
		return nil
	}
	entries, err := fs.ReadDir(s.r.source.FS(), agentsDir)
	if err != nil {
		s.tally.add(agentsDir, "", Fault, "it cannot be read: "+reason(err), 0)
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		dir := path.Join(agentsDir, e.Name(), sessionsDir)
		st, err := s.r.source.Stat(filepath.FromSlash(dir))
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && !st.IsDir():
			continue
		case err != nil:
			if e.IsDir() || e.Type() == fs.ModeSymlink {
				s.tally.add(dir, "", Fault, "it cannot be read, or is a link that leads out of the directory; import a copy that holds the files themselves (cp -rL)", 0)
			}
			continue
		}
		s.place(&sessionPlace{root: s.r.source, dir: dir, title: dir, index: index, agent: config.AgentID(e.Name())})
	}
	return nil
}

// place adds a directory, once.
func (s *sessionImport) place(p *sessionPlace) {
	st, err := p.root.Stat(filepath.FromSlash(p.dir))
	for _, q := range s.places {
		if other, oerr := q.root.Stat(filepath.FromSlash(q.dir)); err == nil && oerr == nil && os.SameFile(st, other) && (p.index == "" || p.index == q.index) {
			if p.own {
				_ = p.root.Close()
			}
			return
		}
	}
	s.places = append(s.places, p)
}

// findStores finds the files that session.store names (sessions-chat.md §2).
func (s *sessionImport) findStores(store string) error {
	agents := []string{s.cfg.DefaultAgentID()}
	if strings.Contains(store, "{agentId}") {
		agents = s.cfg.AgentIDs()
		entries, err := fs.ReadDir(s.r.source.FS(), agentsDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.tally.add(agentsDir, "", Fault, "it cannot be read: "+reason(err), 0)
		}
		for _, e := range entries {
			if id := config.AgentID(e.Name()); !slices.Contains(agents, id) {
				agents = append(agents, id)
			}
		}
	}
	for _, agent := range agents {
		file := strings.ReplaceAll(store, "{agentId}", agent)
		if rest, ok := strings.CutPrefix(file, "~"); ok && (rest == "" || rest[0] == '/' || rest[0] == '\\') {
			file = filepath.Join(s.cfg.Home, rest)
		}
		if !filepath.IsAbs(file) {
			s.tally.add("session.store", "", Fault, "the path in session.store depends on where the original was started; write it in full and run it again", 0)
			return nil
		}
		dir := filepath.Dir(file)
		root, err := os.OpenRoot(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.tally.add(dir, "", Fault, "it cannot be read: "+reason(err), 0)
			}
			continue
		}
		s.place(&sessionPlace{root: root, own: true, dir: ".", title: filepath.ToSlash(dir), index: filepath.Base(file), agent: agent})
	}
	return nil
}

// usualSessions takes session.store out of a configuration: hanzod keeps sessions in their usual places, and so does
// the original that runs on an export.
func (r *run) usualSessions(text []byte) ([]byte, error) {
	if r.config.Session.Store == "" {
		return text, nil
	}
	n, err := json5.Parse(text)
	if err != nil {
		return nil, err
	}
	if n.Get("session").Get("store") != nil {
		if out, err := json5.Delete(text, []string{"session", "store"}); err == nil {
			r.found(Finding{Part: partConfig, Path: "session.store", Outcome: Imported, Why: "taken out: sessions are in their usual places from now on"})
			return out, nil
		}
	}
	r.found(Finding{Part: partConfig, Path: "session.store", Outcome: Left, Why: "it has no effect any more; take it out by hand where it stands"})
	return text, nil
}

// list reads the names in a directory.
func (s *sessionImport) list(ctx context.Context, p *sessionPlace) error {
	p.files = map[string]fs.FileInfo{}
	err := listSessions(ctx, p.root, p.dir, func(name string, st fs.FileInfo) {
		if name != p.index && name != indexName {
			p.files[name] = st
		}
	}, func(name string, o Outcome, why string) {
		if name == p.index && o == Fault {
			return // said when it is read
		}
		s.tally.add(path.Join(p.title, name), path.Join(p.title, "*"), o, why, 0)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.tally.add(p.title, "", Fault, "it cannot be read: "+reason(err), 0)
	}
	if p.index == "" {
		if _, err := p.root.Lstat(filepath.FromSlash(path.Join(p.dir, indexName))); err == nil {
			s.tally.add(path.Join(p.title, indexName), "", Left, "session.store names another file", 0)
		}
	}
	return nil
}

// readEntries reads the index of a place.
func (p *sessionPlace) readEntries(each func(at int, key string, raw json.RawMessage) error) error {
	if p.open == nil {
		f, st, err := openRegular(p.root, path.Join(p.dir, p.index))
		if err != nil {
			return err
		}
		p.open = f
		if st.Size() > maxIndex {
			return fmt.Errorf("it has more than %d bytes", maxIndex)
		}
	} else if _, err := p.open.Seek(0, io.SeekStart); err != nil {
		return err
	}
	at := 0
	return readIndex(io.LimitReader(p.open, maxIndex), maxEntry, func(key string, raw json.RawMessage) error {
		at++
		return each(at, key, raw)
	})
}
