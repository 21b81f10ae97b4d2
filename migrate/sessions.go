package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
)

const (
	partSessions = "sessions"
	// partTranscripts is where the manifest keeps the hashes of the files of sessions.
	partTranscripts = "transcripts"

	agentsDir   = "agents"
	sessionsDir = "sessions"

	// putSessions and putBytes bound what is written in one transaction.
	putSessions = 256
	putBytes    = 4 << 20
	// maxEntry bounds one entry in bytes.
	maxEntry = 64 << 20
	// maxSessionID is the longest id that the original takes.
	maxSessionID = 128
	// maxSessionKey is how much package store allows for the name of an agent and a key, in bytes.
	maxSessionKey = 512
)

// sessionStore is what moving sessions needs of the store.
type sessionStore interface {
	// Session returns a whole entry.
	Session(sessions.Ref) (e sessions.Entry, ok bool, err error)
	// WholeSessions hands over every entry in the order of the keys; an error of each ends it.
	WholeSessions(each func(sessions.Stored) error) error
	// ReplaceSessions writes entries and removes others in one transaction.
	ReplaceSessions(ctx context.Context, put []sessions.Stored, remove []sessions.Ref) error
}

// sessionImport is the import of all sessions.
type sessionImport struct {
	r      *run
	cfg    *config.Config
	places []*sessionPlace
	// best is the entry that counts for a session: the newest.
	best map[sessions.Ref]bestEntry
	// extra are transcripts that an entry names elsewhere in the source.
	extra []sessionFile
	// exported is what an export of this state wrote, where the source is one that the original ran on since: what
	// is still so here was not changed here.
	exported manifest
	tally    sessionTally
}

// bestEntry is where an entry is, and how new.
type bestEntry struct {
	place, at int
	updated   int64
}

// importSessions brings over the entries of all agents and the files beside them: transcripts of sessions and of
// those that were put aside. Files come first, so that no entry is ever there without its transcript.
func importSessions(ctx context.Context, r *run) error {
	s := &sessionImport{r: r, cfg: r.config, best: map[sessions.Ref]bestEntry{}}
	defer s.close()
	var err error
	if s.exported, err = readManifest(r.source, exportName); err != nil {
		s.tally.add(exportName, "", Fault, reason(err), 0)
	}
	if err := s.find(ctx); err != nil {
		return err
	}
	for i, p := range s.places {
		if err := s.list(ctx, p); err != nil {
			return err
		}
		if p.index == "" {
			continue
		}
		if err := s.choose(i, p); err != nil {
			return err
		}
	}
	files := append(s.files(), s.extra...)
	var total int64
	for _, f := range files {
		total += f.size
	}
	r.expect(partSessions, total)
	m := &fileMover{r: r, target: r.target, gone: "it was removed or put aside here since the last time", also: s.exported.Parts[partTranscripts]}
	err = m.all(ctx, files)
	s.tally.join(&m.tally)
	if err == nil {
		err = s.entries(ctx)
	}
	if err == nil {
		err = s.removed(ctx)
	}
	s.tally.report(r)
	return err
}

func (s *sessionImport) close() {
	for _, p := range s.places {
		if p.open != nil {
			_ = p.open.Close() // it was only read
		}
		if p.own {
			_ = p.root.Close()
		}
	}
}

// entry reads one entry as it is to be stored; why says what is wrong with it.
func (s *sessionImport) entry(p *sessionPlace, key string, raw json.RawMessage) (out sessions.Stored, why string) {
	out.Ref = refOf(s.cfg, p.agent, key)
	switch {
	case out.Ref.Key == "", strings.ContainsRune(out.Ref.Key, 0):
		return out, "it has no name"
	case len(out.Ref.Key) > maxSessionKey:
		return out, "its name is too long"
	}
	e, err := decodeEntry(raw)
	if err != nil {
		return out, "it is not readable: " + err.Error()
	}
	if e.SessionID == "" {
		if odd := string(e.Rest["sessionId"]); odd != "" && odd != `""` && odd != "null" {
			return out, "its sessionId is no text"
		}
		delete(e.Rest, "sessionId")
		e.SessionID = idFor(out.Ref)
	}
	if name, ok := transcriptName(e.SessionID + ".jsonl"); !ok || name != e.SessionID+".jsonl" || len(e.SessionID) > maxSessionID || e.SessionID[0] == '.' {
		return out, "its sessionId is no name of a file"
	}
	out.Entry = e
	return out, ""
}

// choose finds which entries count, and whose the transcripts are.
func (s *sessionImport) choose(i int, p *sessionPlace) error {
	err := p.readEntries(func(at int, key string, raw json.RawMessage) error {
		it, why := s.entry(p, key, raw)
		if why != "" {
			s.tally.add(p.title+" "+shown(key), p.title+" entries", Fault, why, 0)
			return nil
		}
		s.locate(p, it)
		now := bestEntry{i, at, 0}
		if !it.Entry.UpdatedAt.IsZero() {
			now.updated = it.Entry.UpdatedAt.UnixMilli()
		}
		was, twice := s.best[it.Ref]
		if twice {
			s.tally.add(p.title+" "+shown(key), p.title+" entries", Left,
				"two entries are of the session "+shown(it.Ref.Key)+"; the older one stays behind, its transcript comes along", 0)
		}
		if !twice || now.updated >= was.updated {
			s.best[it.Ref] = now
		}
		return nil
	})
	p.whole = err == nil
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p.broken = true
	s.tally.add(path.Join(p.title, p.index), "", Fault, reason(err)+"; what comes before was read, and all transcripts come along", 0)
	return nil
}

// shown is a key as reports show it.
func shown(key string) string {
	const most = 100
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "…"
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, key)
}

// locate finds the transcript of an entry.
func (s *sessionImport) locate(p *sessionPlace, it sessions.Stored) {
	name := sessions.FileOf(it.Ref.AgentID, it.Entry).Name
	if _, here := p.files[name]; here || it.Entry.SessionFile == "" {
		p.claim(name, it.Ref.AgentID)
		return
	}
	// The entry may name the directory of another agent, as it does when it was forked from there.
	file := strings.ReplaceAll(it.Entry.SessionFile, `\`, "/")
	if !path.IsAbs(file) && !filepath.IsAbs(it.Entry.SessionFile) {
		return
	}
	rel := ""
	if _, after, ok := strings.Cut(file, "/"+agentsDir+"/"); ok {
		rel = path.Join(agentsDir, path.Clean("/" + after)[1:])
	}
	to, ok := transcriptName(name)
	if st, err := s.r.source.Stat(filepath.FromSlash(rel)); ok && rel != "" && err == nil && st.Mode().IsRegular() {
		s.extra = append(s.extra, sessionFile{root: s.r.source, from: rel, to: path.Join(agentsDir, it.Ref.AgentID, sessionsDir, to), size: st.Size()})
		return
	}
	if st, err := os.Lstat(it.Entry.SessionFile); err == nil && st.Mode().IsRegular() {
		s.tally.add(p.title+" "+shown(it.Ref.Key), p.title+" entries", Fault, "its transcript lies outside of the directory that is moved: "+shown(it.Entry.SessionFile), 0)
	}
}

// files are all files and where they go. One that two agents claim goes to both; one that nobody claims to the agent
// of its directory.
func (s *sessionImport) files() []sessionFile {
	var out []sessionFile
	for _, p := range s.places {
		names := make([]string, 0, len(p.files))
		for name := range p.files {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			agents := p.claims[name]
			to := name
			if dir, file := path.Split(name); dir == "" && strings.Contains(file, ".jsonl") {
				base, _, _ := strings.Cut(file, ".jsonl")
				if agents == nil {
					agents = p.claims[base+".jsonl"] // an archive
				}
				var ok bool
				if to, ok = transcriptName(file); !ok {
					s.tally.add(path.Join(p.title, name), "", Fault, "its name is too long", 0)
					continue
				}
			}
			if agents == nil {
				agents = []string{p.agent}
			}
			for _, agent := range agents {
				out = append(out, sessionFile{
					root: p.root, from: path.Join(p.dir, name), to: path.Join(agentsDir, agent, sessionsDir, to), size: p.files[name].Size(),
				})
			}
		}
	}
	return s.unlike(out)
}

// unlike leaves out what would go to a place that is taken: of two stores that hold a file of the same name.
func (s *sessionImport) unlike(files []sessionFile) []sessionFile {
	seen := make(map[string]bool, len(files))
	return slices.DeleteFunc(files, func(f sessionFile) bool {
		if seen[f.to] {
			s.tally.add(f.to, "", Left, "another file of the same name comes from a directory that counts more", 0)
		}
		again := seen[f.to]
		seen[f.to] = true
		return again
	})
}

// noteName is the name of an entry in the manifest.
func noteName(r sessions.Ref) string { return r.AgentID + "/" + r.Key }

// entries writes the entries that count, some at a time.
func (s *sessionImport) entries(ctx context.Context) error {
	var put []sessions.Stored
	var hashes []string
	bytes := 0
	flush := func() error {
		if len(put) == 0 {
			return nil
		}
		if err := s.r.store.ReplaceSessions(ctx, put, nil); err != nil {
			return err
		}
		for i, it := range put {
			s.r.note(partSessions, noteName(it.Ref), hashes[i])
		}
		put, hashes, bytes = put[:0], hashes[:0], 0
		return nil
	}
	for i, p := range s.places {
		if p.index == "" {
			continue
		}
		title := path.Join(p.title, p.index)
		err := p.readEntries(func(at int, key string, raw json.RawMessage) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			it, why := s.entry(p, key, raw)
			if best := s.best[it.Ref]; why != "" || best.place != i || best.at != at {
				return nil
			}
			if it.Entry.SessionFile != "" {
				// Its place depends on the state directory, its name does not.
				it.Entry.SessionFile, _ = transcriptName(sessions.FileOf(it.Ref.AgentID, it.Entry).Name)
			}
			sum := entryHash(&it.Entry)
			o, why, err := s.decide(it, sum)
			if err != nil {
				return err
			}
			s.tally.add(title+" "+shown(key), title, o, why, 0)
			if o == Unchanged {
				s.r.note(partSessions, noteName(it.Ref), sum)
			}
			if o != Imported || s.r.DryRun {
				return nil
			}
			put, hashes = append(put, it), append(hashes, sum)
			if bytes += len(raw); len(put) >= putSessions || bytes >= putBytes {
				return errStore(flush())
			}
			return nil
		})
		var failed storeError
		switch {
		case errors.As(err, &failed):
			return failed.error
		case ctx.Err() != nil:
			return ctx.Err()
		}
		// What is wrong with the file was said before.
	}
	return flush()
}

// storeError is an error of the store, among those of reading a file.
type storeError struct{ error }

func errStore(err error) error {
	if err == nil {
		return nil
	}
	return storeError{err}
}

// decide says what becomes of an entry.
func (s *sessionImport) decide(it sessions.Stored, sum string) (Outcome, string, error) {
	name := noteName(it.Ref)
	noted := s.r.noted(partSessions, name)
	if s.r.store == nil { // a dry run before the first import
		return Imported, "", nil
	}
	ours, ok, err := s.r.store.Session(it.Ref)
	if err != nil {
		return "", "", errStore(err)
	}
	if !ok {
		if noted != "" {
			return Kept, "it was removed here since the last time", nil
		}
		return Imported, "", nil
	}
	switch have := entryHash(&ours); {
	case have == sum:
		return Unchanged, "", nil
	case have == noted, have == s.exported.Parts[partSessions][name]:
		return Imported, "", nil
	case noted == "":
		return Kept, "there is a session of this name here already", nil
	case sum == noted:
		return Kept, "it went on here since the last time", nil
	}
	return Kept, "it went on in both places since the last time", nil
}

// removed follows the source where sessions of the last import are gone from it. A transcript goes only where the
// source has put it aside, which was brought over as well.
func (s *sessionImport) removed(ctx context.Context) error {
	whole := map[string]bool{} // agents whose entries were read
	shared, broken := false, false
	files := map[string]bool{}
	archived := map[string]bool{}
	for _, p := range s.places {
		whole[p.agent] = whole[p.agent] || p.whole
		shared = shared || p.whole && s.cfg.Session.Store != "" && !strings.Contains(s.cfg.Session.Store, "{agentId}")
		broken = broken || p.broken
		for name := range p.files {
			base, rest, _ := strings.Cut(name, ".jsonl")
			safe, _ := transcriptName(base + ".jsonl")
			if rel := path.Join(agentsDir, p.agent, sessionsDir, safe); rest == "" {
				files[rel] = true
			} else if strings.HasPrefix(rest, ".reset.") || strings.HasPrefix(rest, ".deleted.") {
				archived[rel] = true
			}
		}
	}
	var gone []sessions.Ref
	noted := s.r.allNoted(partSessions)
	for name, sum := range s.exported.Parts[partSessions] {
		if _, ok := noted[name]; !ok {
			noted[name] = sum
		}
	}
	for name, sum := range noted {
		agent, key, _ := strings.Cut(name, "/")
		ref := sessions.Ref{AgentID: agent, Key: key}
		if _, there := s.best[ref]; there || s.r.store == nil {
			continue
		}
		if broken || !whole[agent] && !shared {
			s.tally.add(name, "sessions removed in the source", Kept, "whether it is gone from the source cannot be told: its sessions.json is not there or not whole", 0)
			continue
		}
		ours, ok, err := s.r.store.Session(ref)
		switch {
		case err != nil:
			return err
		case !ok:
		case entryHash(&ours) != sum && entryHash(&ours) != s.exported.Parts[partSessions][name]:
			s.tally.add(name, "sessions removed in the source", Kept, "it is gone from the source, and went on here since the last time", 0)
		default:
			s.tally.add(name, "sessions removed in the source", Imported, "it is gone from the source, and so here", 0)
			gone = append(gone, ref)
		}
	}
	if s.r.DryRun {
		return nil
	}
	for batch := range slices.Chunk(gone, putSessions) {
		if err := s.r.store.ReplaceSessions(ctx, nil, batch); err != nil {
			return err
		}
		for _, ref := range batch {
			s.r.note(partSessions, noteName(ref), "")
		}
	}
	buf := make([]byte, moveChunk)
	for rel := range archived {
		if files[rel] {
			continue
		}
		have, err := hashOf(ctx, s.r.target, rel, buf)
		if err != nil || have != s.r.noted(partTranscripts, rel) && have != s.exported.Parts[partTranscripts][rel] {
			continue // it is not here, or went on here
		}
		if err := s.r.target.Remove(filepath.FromSlash(rel)); err != nil {
			return err
		}
		s.r.note(partTranscripts, rel, "")
	}
	return nil
}
