package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/runtime/disk"
	"github.com/hanzoai/hanzod/store"
)

const (
	// spare is what a copy of the database leaves free on the disk, in bytes: the daemon writes on.
	spare = 64 << 20
	// copyPattern names the copies of the database while a backup is made.
	copyPattern = ".backup-*"
)

// beside are the files of a state directory next to the database, where they are: the policy of this machine,
// the rules, the certificate, and the identity of its node host.
var beside = []string{"exec-approvals.json", "policy.json", "gateway/tls/gateway-cert.pem", "gateway/tls/gateway-key.pem", "node.json", "identity/device.json"}

// Source is what a backup is made of.
type Source struct {
	StateDir string
	// Config is the configuration file, Includes what it includes; absolute paths.
	Config   string
	Includes []string
	// Snapshot copies the database, as store.(*Store).Snapshot does.
	Snapshot func(ctx context.Context, w io.Writer, room func(int64) error) (store.Snapshot, error)
	// Hold keeps transcripts where they are until the function that it returns is called; nil while no daemon
	// runs.
	Hold func() (release func())
	// Hanzod is the version of this program, Running whether a daemon runs.
	Hanzod  string
	Running bool
	Now     func() time.Time
}

// Write makes a backup. The database is copied beside itself first, so that a slow reader holds up nothing;
// that needs as much room on the disk. progress, which may be nil, is told the bytes of all files together
// and those that went out. Memory does not depend on the size.
func Write(ctx context.Context, w io.Writer, src Source, progress func(done, all int64)) (Manifest, error) {
	m := Manifest{
		Format: format, Version: 1, Hanzod: src.Hanzod, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Taken: src.Now().UTC().Truncate(time.Second), Running: src.Running, StateDir: src.StateDir,
	}
	sweep(src.StateDir)
	db, err := os.CreateTemp(src.StateDir, copyPattern)
	if err != nil {
		return m, fmt.Errorf("copy the database: %w", err)
	}
	defer func() {
		_ = db.Close()
		_ = os.Remove(db.Name()) // gone already where open files can be removed
	}()
	_ = os.Remove(db.Name()) // it stays while it is open; on Windows it goes later
	sum := sha256.New()
	release := func() {}
	if src.Hold != nil {
		release = sync.OnceFunc(src.Hold())
	}
	defer release()
	var kept *transcripts
	snap, err := src.Snapshot(ctx, io.MultiWriter(db, sum), func(size int64) error {
		if err := Room(src.StateDir, size); err != nil {
			return err
		}
		// What is to be copied of the database stands. The transcripts are to be of the same moment.
		var err error
		kept, err = keepTranscripts(src.StateDir, !src.Running)
		release()
		return err
	})
	if kept != nil {
		defer kept.drop()
	}
	if err != nil {
		return m, fmt.Errorf("copy the database: %w", err)
	}
	m.Schema, m.AuditHead = snap.Schema, snap.AuditHead
	m.Files = []File{{Name: database, Size: snap.Size, SHA256: hex.EncodeToString(sum.Sum(nil))}}
	texts := [][]byte{nil}
	add := func(name, file, from string) error {
		text, err := readSmall(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return ErrFile.WithText("cannot back up " + file).Wrap(err)
		}
		sum := sha256.Sum256(text)
		m.Files = append(m.Files, File{Name: name, Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:]), From: from})
		texts = append(texts, text)
		return nil
	}
	for _, f := range src.files() {
		if err := add(f.Name, f.file, f.From); err != nil {
			return m, err
		}
	}
	for i := range kept.files {
		f, err := kept.files[i].sum(ctx)
		if err != nil {
			return m, ErrFile.WithText("cannot back up " + kept.files[i].rel).Wrap(err)
		}
		m.Files = append(m.Files, f)
		m.Version = version
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	if _, err := parseManifest(manifest); err != nil {
		return m, ErrFile.WithText("the state cannot be backed up").Wrap(err)
	}
	if _, err := db.Seek(0, io.SeekStart); err != nil {
		return m, err
	}
	// Speed matters more than size: much of a database is empty pages.
	gz, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return m, err
	}
	tw := tar.NewWriter(gz)
	put := func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: m.Taken, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	if err := put(manifestName, int64(len(manifest)), bytes.NewReader(manifest)); err != nil {
		return m, err
	}
	c := &counter{ctx: ctx, all: m.Total(), tell: progress}
	for i, f := range m.Files {
		var r io.Reader = db
		switch {
		case i >= len(texts):
			file, err := os.Open(kept.files[i-len(texts)].link)
			if err != nil {
				return m, err
			}
			err = put(f.Name, f.Size, c.of(io.LimitReader(file, f.Size)))
			if err := errors.Join(err, file.Close()); err != nil {
				return m, err
			}
			continue
		case i > 0:
			r = bytes.NewReader(texts[i])
		}
		if err := put(f.Name, f.Size, c.of(r)); err != nil {
			return m, err
		}
	}
	return m, errors.Join(tw.Close(), gz.Close())
}

type sourceFile struct {
	File
	file string
}

// files are those that go into a backup beside the database, as far as they are there.
func (s Source) files() []sourceFile {
	var all []sourceFile
	taken := map[string]bool{}
	add := func(rel, file string) {
		name := statePrefix + rel
		if !taken[strings.ToLower(name)] {
			taken[strings.ToLower(name)] = true
			all = append(all, sourceFile{File{Name: name}, file})
		}
	}
	outside := 0
	for _, file := range slices.Concat([]string{s.Config}, s.Includes) {
		if file == "" {
			continue
		}
		if rel, ok := s.below(file); ok {
			add(filepath.ToSlash(rel), file)
			continue
		}
		name := fmt.Sprintf("%s%d-%s", outPrefix, outside, filepath.Base(file))
		if checkName(name) != nil {
			name = fmt.Sprintf("%s%d", outPrefix, outside)
		}
		outside++
		all = append(all, sourceFile{File{Name: name, From: file}, file})
	}
	for _, rel := range beside {
		add(rel, filepath.Join(s.StateDir, filepath.FromSlash(rel)))
	}
	return all
}

// below is the name of a file within the state directory; included files have no links in their paths.
func (s Source) below(file string) (string, bool) {
	dirs := []string{s.StateDir}
	if real, err := filepath.EvalSymlinks(s.StateDir); err == nil {
		dirs = append(dirs, real)
	}
	for _, dir := range dirs {
		rel, err := filepath.Rel(dir, file)
		if err == nil && filepath.IsLocal(rel) && checkName(statePrefix+path.Clean(filepath.ToSlash(rel))) == nil {
			return rel, true
		}
	}
	return "", false
}

// sweep removes the copies of backups that were killed. Only who holds the lock makes backups.
func sweep(dir string) {
	old, err := filepath.Glob(filepath.Join(dir, copyPattern))
	if err != nil {
		return
	}
	for _, f := range old {
		_ = os.RemoveAll(f) // one more file is no harm
	}
}

// Room fails with ErrSpace when the disk of a directory has no room for a number of bytes and some more.
func Room(dir string, size int64) error {
	s, err := disk.Of(dir)
	if err != nil {
		return nil //nolint:nilerr // writing will say
	}
	if s.Free < uint64(size)+spare {
		return ErrSpace.WithText(fmt.Sprintf("%s has %d MiB free, and %d are needed: free some, or use another disk", dir, s.Free>>20, (uint64(size)+spare)>>20+1))
	}
	return nil
}

// readSmall reads a file beside the database. It follows links, as the daemon does.
func readSmall(file string) ([]byte, error) {
	if st, err := os.Stat(file); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	return text, err
}

// counter tells of progress, and ends a copy with its context.
type counter struct {
	ctx       context.Context //nolint:containedctx // of one call
	done, all int64
	tell      func(done, all int64)
	r         io.Reader
}

func (c *counter) of(r io.Reader) io.Reader {
	c.r = r
	return c
}

func (c *counter) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.tell != nil && n > 0 {
		c.tell(c.done, c.all)
	}
	return n, err
}
