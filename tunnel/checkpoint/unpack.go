package checkpoint

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is one of files.tar.gz.
type entry struct {
	name string
	kind byte
	link string
	mode fs.FileMode
	at   time.Time
	size int64
}

// walkArchive calls visit for each entry of files.tar.gz, of which it refuses all but files, links and directories
// with proper names, each once, within the limits.
func walkArchive(ctx context.Context, r io.Reader, l Limits, visit func(entry, io.Reader) error) error {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return ErrDocument.Wrap(fmt.Errorf("%s: %w", AttachFiles, err))
	}
	// Headers are small, but what they expand to is bounded too.
	t := tar.NewReader(io.LimitReader(zip, l.Archive+int64(l.Files)*(MaxPath+4096)+1<<20))
	seen := map[string]bool{}
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return ErrDocument.Wrap(fmt.Errorf("%s: %w", AttachFiles, err))
		}
		e := entry{name: strings.TrimSuffix(h.Name, "/"), kind: h.Typeflag, link: h.Linkname, mode: fs.FileMode(h.Mode).Perm(), at: h.ModTime, size: h.Size}
		total += max(h.Size, 0)
		bad := checkPath(e.name)
		switch {
		case bad != nil:
		case seen[e.name]:
			bad = fmt.Errorf("%q comes twice", e.name)
		case len(seen) >= l.Files:
			bad = fmt.Errorf("there are more than %d files", l.Files)
		case h.Size < 0 || h.Size > l.File || total > l.Archive:
			bad = fmt.Errorf("%q would be larger than is allowed", e.name)
		case e.kind != tar.TypeReg && e.kind != tar.TypeSymlink && e.kind != tar.TypeDir:
			bad = fmt.Errorf("%q is neither a file nor a link nor a directory", e.name)
		case e.kind != tar.TypeReg && h.Size != 0, e.kind == tar.TypeSymlink && (e.link == "" || len(e.link) > MaxPath || strings.IndexByte(e.link, 0) >= 0):
			bad = fmt.Errorf("the link %q is wrong", e.name)
		}
		if bad != nil {
			return ErrDocument.Wrap(fmt.Errorf("%s: %w", AttachFiles, bad))
		}
		seen[e.name] = true
		if err := visit(e, t); err != nil {
			return err
		}
	}
}

// place puts files below the top of a workspace, and never through a link.
type place struct {
	root *os.Root
	dirs map[string]bool // known to be directories
}

// parents makes the directories above a name. One that is a link or a file is an error.
func (p *place) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." || p.dirs[dir] {
		return nil
	}
	if err := p.parents(dir); err != nil {
		return err
	}
	at := filepath.FromSlash(dir)
	info, err := p.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		err = p.root.Mkdir(at, 0o777)
	} else if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", dir)
	}
	if err == nil {
		p.dirs[dir] = true
	}
	return err
}

// put writes a file, a directory or a link in place of what is there.
func (p *place) put(e entry, content io.Reader) error {
	if err := p.parents(e.name); err != nil {
		return err
	}
	at := filepath.FromSlash(e.name)
	info, err := p.root.Lstat(at)
	if err == nil {
		if info.IsDir() {
			if e.kind == tar.TypeDir {
				return nil
			}
			// One that removed files left behind may go; another is not empty.
			if err := p.root.Remove(at); err != nil {
				return fmt.Errorf("%s is a directory: %w", e.name, err)
			}
		} else if err := p.root.Remove(at); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch e.kind {
	case tar.TypeDir:
		return p.root.Mkdir(at, 0o777)
	case tar.TypeSymlink:
		return p.root.Symlink(filepath.FromSlash(e.link), at)
	}
	f, err := p.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = p.root.Chmod(at, e.mode|0o600)
	}
	if err == nil && !e.at.IsZero() {
		err = p.root.Chtimes(at, e.at, e.at)
	}
	return err
}

// remove takes a file away and the directories that are empty then.
func (p *place) remove(name string) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		info, err := p.root.Lstat(filepath.FromSlash(dir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return nil // it is not there
		}
	}
	info, err := p.root.Lstat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return nil
	}
	if err := p.root.Remove(filepath.FromSlash(name)); err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if p.root.Remove(filepath.FromSlash(dir)) != nil {
			break // not empty
		}
		delete(p.dirs, dir)
	}
	return nil
}

// hashTree returns what the named files of a workspace are; those that are not there are left out.
func hashTree(ctx context.Context, root *os.Root, names []string) (tree, error) {
	out := tree{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at := filepath.FromSlash(name)
		info, err := root.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := root.Readlink(at)
			if err != nil {
				return nil, err
			}
			out[name] = sumLink(filepath.ToSlash(target))
		case info.Mode().IsRegular():
			f, err := root.Open(at)
			if err != nil {
				return nil, err
			}
			h := sha256.New()
			_, err = io.Copy(h, f)
			_ = f.Close() // only read
			if err != nil {
				return nil, err
			}
			out[name] = sumFile(info.Mode(), h)
		}
	}
	return out, nil
}

// listDir names the files of a directory that is no repository.
func listDir(root *os.Root) ([]string, error) {
	var names []string
	err := fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case checkPath(name) != nil:
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !e.IsDir():
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}
