package migrate

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/sessions"
)

// exportSessions writes the entries of all agents as the original keeps them, and the files beside them. An entry
// names its transcript without a directory, which the original looks for beside sessions.json wherever that is: so
// the result can be moved.
func exportSessions(ctx context.Context, r *run) error {
	var tally sessionTally
	defer func() { tally.report(r) }()
	if r.config.Session.Store != "" {
		tally.add("session.store", "", Left, "sessions are written to their usual places; take session.store out of the configuration before the original starts, or it goes on with the file that is named there", 0)
	}
	files, err := exportedFiles(ctx, r, &tally)
	if err != nil {
		return err
	}
	var total int64
	for _, f := range files {
		total += f.size
	}
	r.expect(partSessions, total)
	m := &fileMover{r: r, target: r.target}
	err = m.all(ctx, files)
	tally.join(&m.tally)
	if err != nil {
		return err
	}
	x := &indexExport{r: r, m: m, tally: &tally, done: map[string]bool{}, seen: map[string]bool{}}
	err = r.store.WholeSessions(func(s sessions.Stored) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return x.add(s)
	})
	if err != nil {
		return errors.Join(err, x.drop())
	}
	if err := x.end(); err != nil {
		return err
	}
	for name := range r.allNoted(partSessions) {
		if !x.seen[name] && !r.DryRun {
			r.note(partSessions, name, "")
		}
	}
	if err := x.empty(); err != nil {
		return err
	}
	if err := dropped(ctx, r, m, files, &tally); err != nil || r.DryRun {
		return err
	}
	return m.syncDirs()
}

// exportedFiles are the files of sessions in the state directory.
func exportedFiles(ctx context.Context, r *run, tally *sessionTally) ([]sessionFile, error) {
	agents, err := fs.ReadDir(r.source.FS(), agentsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []sessionFile
	for _, a := range agents {
		dir := path.Join(agentsDir, a.Name(), sessionsDir)
		st, err := r.source.Stat(filepath.FromSlash(dir))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
			continue
		}
		if err == nil {
			err = listSessions(ctx, r.source, dir, func(name string, st fs.FileInfo) {
				if name == indexName {
					return // not one of ours
				}
				file := path.Join(dir, name)
				out = append(out, sessionFile{root: r.source, from: file, to: file, size: st.Size()})
			}, func(name string, o Outcome, why string) {
				tally.add(path.Join(dir, name), path.Join(dir, "*"), o, why, 0)
			})
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			tally.add(dir, "", Fault, "it cannot be read: "+reason(err), 0)
		}
	}
	slices.SortFunc(out, func(a, b sessionFile) int { return strings.Compare(a.to, b.to) })
	return out, nil
}

// indexExport writes one sessions.json after another: the entries come by agent.
type indexExport struct {
	r     *run
	m     *fileMover
	tally *sessionTally
	done  map[string]bool
	seen  map[string]bool // entries, by their names in the manifest

	agent string
	n     int
	file  *os.File
	temp  string
	out   *indexWriter
}

func (x *indexExport) rel() string { return path.Join(agentsDir, x.agent, sessionsDir, indexName) }

func (x *indexExport) add(s sessions.Stored) error {
	if s.Ref.AgentID != x.agent || x.out == nil {
		if err := x.end(); err != nil {
			return err
		}
		if err := x.begin(s.Ref.AgentID); err != nil {
			return err
		}
	}
	x.n++
	name := noteName(s.Ref)
	x.seen[name] = true
	if !x.r.DryRun {
		x.r.note(partSessions, name, entryHash(&s.Entry)) // for an import of what the original makes of it
	}
	if err := x.out.add(s.Ref.Key, encodeEntry(&s.Entry)); err != nil {
		return x.m.cannot(x.rel(), err)
	}
	return nil
}

// begin begins the file of an agent.
func (x *indexExport) begin(agent string) error {
	x.agent, x.n, x.done[agent] = agent, 0, true
	if x.r.DryRun {
		x.out = newIndexWriter(io.Discard)
		return nil
	}
	dir := path.Dir(x.rel())
	err := x.r.target.MkdirAll(filepath.FromSlash(dir), 0o700)
	if err == nil {
		err = dropTemp(x.r.target, dir)
	}
	if err != nil {
		return x.m.cannot(dir, err)
	}
	x.temp = filepath.FromSlash(path.Join(dir, tempPrefix+"index"))
	if x.file, err = x.r.target.OpenFile(x.temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return x.m.cannot(x.rel(), err)
	}
	x.out = newIndexWriter(x.file)
	return nil
}

// end ends the file of an agent, and puts it in its place.
func (x *indexExport) end() error {
	if x.out == nil {
		return nil
	}
	err := x.out.close()
	if x.r.DryRun {
		x.out = nil
		x.tally.count(x.rel(), Imported, x.n)
		return nil
	}
	if err == nil {
		err = x.file.Sync()
	}
	if err != nil {
		return x.m.cannot(x.rel(), errors.Join(err, x.drop()))
	}
	x.out = nil
	if err := x.file.Close(); err != nil {
		return x.m.cannot(x.rel(), err)
	}
	return x.place()
}

// drop gives up the file that is being written.
func (x *indexExport) drop() error {
	if x.out == nil || x.file == nil {
		return nil
	}
	x.out = nil
	return errors.Join(x.file.Close(), x.r.target.Remove(x.temp))
}

// place puts a written file in its place, unless what is there was written to since the last export.
func (x *indexExport) place() error {
	buf := make([]byte, moveChunk)
	sum, err := hashOf(context.Background(), x.r.target, filepath.ToSlash(x.temp), buf)
	if err != nil {
		return x.m.cannot(x.rel(), err)
	}
	noted := x.r.noted(partTranscripts, x.rel())
	have, err := hashOf(context.Background(), x.r.target, x.rel(), buf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return x.m.cannot(x.rel(), errors.Join(err, x.r.target.Remove(x.temp)))
	}
	switch {
	case have == sum:
		x.tally.count(x.rel(), Unchanged, x.n)
		err = x.r.target.Remove(x.temp)
	case noted != "" && have != noted && have != "":
		x.tally.add(x.rel(), "", Kept, "the original wrote to it since the last export; bring that over first, or export to an empty directory", 0)
		return x.r.target.Remove(x.temp)
	default:
		x.tally.count(x.rel(), Imported, x.n)
		err = x.r.target.Rename(x.temp, filepath.FromSlash(x.rel()))
		x.m.dirs[path.Dir(x.rel())] = true
	}
	if err != nil {
		return x.m.cannot(x.rel(), err)
	}
	x.r.note(partTranscripts, x.rel(), sum)
	return nil
}

// empty writes the files of agents that have no sessions any more, where an export wrote some.
func (x *indexExport) empty() error {
	for name := range x.r.allNoted(partTranscripts) {
		agent, ok := strings.CutSuffix(name, "/"+path.Join(sessionsDir, indexName))
		agent = strings.TrimPrefix(agent, agentsDir+"/")
		if !ok || x.done[agent] || strings.Contains(agent, "/") {
			continue
		}
		if err := x.begin(agent); err != nil {
			return err
		}
		if err := x.end(); err != nil {
			return err
		}
	}
	return nil
}

// dropped removes from an export what an earlier one wrote and is gone here, as far as it is as it was written.
func dropped(ctx context.Context, r *run, m *fileMover, files []sessionFile, tally *sessionTally) error {
	here := map[string]bool{}
	for _, f := range files {
		here[f.to] = true
	}
	buf := make([]byte, moveChunk)
	for name, sum := range r.allNoted(partTranscripts) {
		if here[name] || path.Base(name) == indexName {
			continue
		}
		have, err := hashOf(ctx, r.target, name, buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || have != sum:
			tally.add(name, path.Join(path.Dir(name), "*.jsonl"), Kept, "the original wrote to it since the last export", 0)
			continue
		case r.DryRun:
			continue
		default:
			if err := r.target.Remove(filepath.FromSlash(name)); err != nil {
				return m.cannot(name, err)
			}
			m.dirs[path.Dir(name)] = true
		}
		r.note(partTranscripts, name, "")
	}
	return nil
}
