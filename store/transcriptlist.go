package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
)

const (
	// maxListed bounds a list of transcripts: each costs a look at its file and about 150 bytes.
	maxListed = 400_000
	// listChunk is how many names are read at a time.
	listChunk = 1024
)

// List finds the transcripts of all agents, those that were put aside among them, in any order. What is no regular
// file, or has a name that no transcript has, is left out.
func (t *Transcripts) List(ctx context.Context) ([]sessions.Found, error) {
	var out []sessions.Found
	err := t.eachName(ctx, agentsDir, func(agent fs.DirEntry) error {
		if !agent.IsDir() || !plain(agent.Name(), 64) {
			return nil
		}
		return t.eachName(ctx, filepath.Join(agentsDir, agent.Name(), sessionsDir), func(e fs.DirEntry) error {
			f := sessions.File{AgentID: agent.Name(), Name: e.Name()}
			if _, err := relOf(f); err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // it is another file
			}
			st, err := e.Info()
			if err != nil {
				return nil //nolint:nilerr // it went away meanwhile
			}
			if len(out) >= maxListed {
				return errs.New(errs.Exhausted, "there are too many transcripts to look at; let session.maintenance remove old ones")
			}
			out = append(out, sessions.Found{File: f, Size: st.Size(), ModTime: st.ModTime()})
			return nil
		})
	})
	return out, err
}

// eachName calls f with what is in a directory; one that is not there is empty, and one that is a link counts as not
// there.
func (t *Transcripts) eachName(ctx context.Context, dir string, f func(fs.DirEntry) error) error {
	if st, err := t.root.Lstat(dir); err != nil || !st.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	d, err := t.root.Open(dir)
	if err != nil {
		return err
	}
	defer func(d *os.File) { _ = d.Close() }(d)
	for {
		if ctx.Err() != nil {
			return errs.Wrap(errs.Unavailable, "look for transcripts", ctx.Err())
		}
		entries, err := d.ReadDir(listChunk)
		for _, e := range entries {
			if err := f(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
