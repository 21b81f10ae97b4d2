package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	agentsDir   = "agents"
	sessionsDir = "sessions"
	journalDir  = "journal"
	// linksPattern names the directories that keep the transcripts while a backup is made.
	linksPattern = ".backup-files-*"
)

// transcripts are the files of sessions as they were when the database was copied. They grow while a backup is
// made, and some are moved; links keep them.
type transcripts struct {
	dir   string
	files []keptFile
}

// keptFile is one of them: its name below the state directory, with slashes, and its link.
type keptFile struct {
	rel, link string
	size      int64
}

// keepTranscripts takes hold of all transcripts of a state directory, and of the journal of a daemon that does not
// run: a restored state repairs itself with it. Nothing moves a transcript meanwhile.
func keepTranscripts(stateDir string, journal bool) (t *transcripts, err error) {
	t = &transcripts{}
	defer func() {
		if err != nil {
			t.drop()
		}
	}()
	dirs, err := filepath.Glob(filepath.Join(stateDir, agentsDir, "*", sessionsDir))
	if err != nil {
		return t, err
	}
	if journal {
		dirs = append(dirs, filepath.Join(stateDir, journalDir))
	}
	for _, dir := range dirs {
		if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
			continue // nothing of ours
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return t, err
		}
		for _, e := range entries {
			if ours := strings.Contains(e.Name(), ".jsonl") || filepath.Ext(e.Name()) == ".wal"; !ours || !e.Type().IsRegular() {
				continue
			}
			file := filepath.Join(dir, e.Name())
			rel, err := filepath.Rel(stateDir, file)
			if err != nil {
				return t, err
			}
			if rel = filepath.ToSlash(rel); checkName(statePrefix+rel) != nil {
				continue // no name that a daemon gives
			}
			if err := t.keep(stateDir, rel, file); err != nil {
				return t, fmt.Errorf("keep %s: %w", file, err)
			}
		}
	}
	slices.SortFunc(t.files, func(a, b keptFile) int { return strings.Compare(a.rel, b.rel) })
	return t, nil
}

func (t *transcripts) keep(stateDir, rel, file string) error {
	if len(t.files) >= maxFiles/2 {
		return fmt.Errorf("there are more than %d files; remove transcripts that were put aside", maxFiles/2)
	}
	if t.dir == "" {
		dir, err := os.MkdirTemp(stateDir, linksPattern)
		if err != nil {
			return err
		}
		t.dir = dir
	}
	link := filepath.Join(t.dir, strconv.Itoa(len(t.files)))
	if err := os.Link(file, link); err != nil {
		if err := copyFile(file, link); err != nil { // a file system without links
			return err
		}
	}
	st, err := os.Stat(link)
	if err != nil {
		return err
	}
	t.files = append(t.files, keptFile{rel, link, st.Size()})
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// drop removes the links.
func (t *transcripts) drop() {
	if t.dir != "" {
		_ = os.RemoveAll(t.dir) // the next backup removes what is left
	}
}

// sum reads a file to the size that it had.
func (k *keptFile) sum(ctx context.Context) (File, error) {
	f, err := os.Open(k.link)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, &counter{ctx: ctx, r: io.LimitReader(f, k.size)})
	if err != nil {
		return File{}, err
	}
	k.size = n // shorter where an append that nobody was told of was taken back
	return File{Name: statePrefix + k.rel, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// ofTranscripts reports whether a name in a backup is one of a transcript or the journal: they may be many and
// large.
func ofTranscripts(name string) bool {
	rel, ok := strings.CutPrefix(name, statePrefix)
	first, rest, _ := strings.Cut(rel, "/")
	return ok && rest != "" && (first == agentsDir || first == journalDir)
}

// sessionDirs are the directories of a state that hold transcripts, as they are, and the journal.
func sessionDirs(root *os.Root) ([]string, error) {
	var out []string
	entries, err := fs.ReadDir(root.FS(), agentsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name := path.Join(agentsDir, e.Name(), sessionsDir)
		if _, err := root.Lstat(filepath.FromSlash(name)); err == nil {
			out = append(out, name)
		}
	}
	if _, err := root.Lstat(journalDir); err == nil {
		out = append(out, journalDir)
	}
	return out, nil
}

// prepared are the transcripts of a state that is ready to be put in its place: opening it may have moved some.
func prepared(root *os.Root) ([]string, error) {
	base := path.Join(newDir, strings.TrimSuffix(statePrefix, "/"))
	var out []string
	for _, dir := range []string{agentsDir, journalDir} {
		err := fs.WalkDir(root.FS(), path.Join(base, dir), func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && !d.IsDir() {
				out = append(out, strings.TrimPrefix(name, base+"/"))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
