package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func entryOf(p place, info fs.FileInfo) Entry {
	e := Entry{
		Name: filepath.Base(p.full), Path: p.full, Size: info.Size(), Mode: info.Mode().Perm(), ModTime: info.ModTime(),
		Writable: !p.root.ReadOnly, Kind: Other,
	}
	switch m := info.Mode(); {
	case m.IsRegular():
		e.Kind = File
	case m.IsDir():
		e.Kind, e.Size = Directory, 0
	case m&fs.ModeSymlink != 0:
		e.Kind = Link
	}
	e.Partial = e.Kind == File && strings.HasPrefix(e.Name, PartialPrefix)
	return e
}

// Stat describes a file or a directory. A symbolic link is followed below its root; where it leads out of it
// or nowhere, the link itself is described.
func (f *Files) Stat(_ context.Context, path string) (Entry, error) {
	p, err := f.place(path)
	if err != nil {
		return Entry{}, err
	}
	return f.stat(p)
}

func (f *Files) stat(p place) (Entry, error) {
	r, err := p.open()
	if err != nil {
		return Entry{}, err
	}
	defer r.Close()
	info, err := r.Lstat(p.rel)
	if err != nil {
		return Entry{}, p.fault(err)
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return f.entry(p, info), nil
	}
	target, err := r.Readlink(p.rel)
	if err != nil {
		return Entry{}, p.fault(err)
	}
	if to, err := r.Stat(p.rel); err == nil {
		info = to
	}
	e := f.entry(p, info)
	e.Target = target
	return e, nil
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		Path string
		// After leaves out names up to this one, Limit is how many entries at the most: MaxEntries when it is
		// zero or more than that.
		After string
		Limit int
	}
	ListOut struct {
		Path string
		// Entries are in the order of the bytes of their names. Symbolic links are described themselves.
		Entries []Entry
		// More says that there are further ones after the last.
		More bool
	}
)

// List returns the entries of a directory.
func (f *Files) List(ctx context.Context, in ListIn) (ListOut, error) {
	p, err := f.place(in.Path)
	if err != nil {
		return ListOut{}, err
	}
	if in.Limit <= 0 || in.Limit > MaxEntries {
		in.Limit = MaxEntries
	}
	release, err := f.slot(ctx)
	if err != nil {
		return ListOut{}, err
	}
	defer release()
	r, err := p.open()
	if err != nil {
		return ListOut{}, err
	}
	defer r.Close()
	info, err := r.Stat(p.rel)
	if err != nil {
		return ListOut{}, p.fault(err)
	}
	if !info.IsDir() { // a FIFO is not even opened
		return ListOut{}, ErrNoDirectory.WithText(shown(p.full) + ": " + ErrNoDirectory.Text)
	}
	d, err := r.OpenRoot(p.rel)
	if err != nil {
		return ListOut{}, p.fault(err)
	}
	defer d.Close()
	all, err := namesOf(ctx, d)
	if err != nil {
		return ListOut{}, p.fault(err)
	}
	slices.Sort(all)
	first, found := slices.BinarySearch(all, in.After)
	if found {
		first++
	}
	out := ListOut{Path: p.full}
	for _, name := range all[first:] {
		if len(out.Entries) == in.Limit {
			out.More = true
			break
		}
		at := place{p.root, filepath.Join(p.rel, name), filepath.Join(p.full, name)}
		info, err := d.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went away meanwhile
		}
		if err != nil {
			return ListOut{}, at.fault(err)
		}
		e := entryOf(at, info)
		if e.Kind == Link {
			if e.Target, err = d.Readlink(name); err != nil {
				continue
			}
		}
		out.Entries = append(out.Entries, e)
	}
	return out, nil
}

// namesOf reads the names of a directory.
func namesOf(ctx context.Context, d *os.Root) ([]string, error) {
	h, err := d.Open(".")
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var all []string
	for {
		names, err := h.Readdirnames(4096)
		all = append(all, names...)
		switch {
		case len(all) > MaxDirectory:
			return nil, ErrTooMany.WithText(fmt.Sprintf("the directory has more than %d entries, which are too many to be listed", MaxDirectory))
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

// MkdirIn is the argument of Mkdir.
type MkdirIn struct {
	Path string
	// Parents makes the directories above it too, and takes one that is there already.
	Parents bool
	// Mode is 0755 when zero.
	Mode fs.FileMode
}

// Mkdir makes a directory. It is on disk when Mkdir returns.
func (f *Files) Mkdir(_ context.Context, in MkdirIn) (Entry, error) {
	p, err := f.writable(in.Path)
	if err != nil {
		return Entry{}, err
	}
	mode := in.Mode.Perm()
	if mode == 0 {
		mode = 0o755
	}
	r, err := p.open()
	if err != nil {
		return Entry{}, err
	}
	defer r.Close()
	if in.Parents {
		err = r.MkdirAll(p.rel, mode)
	} else {
		err = r.Mkdir(p.rel, mode)
	}
	if err != nil {
		return Entry{}, p.fault(err)
	}
	info, err := r.Stat(p.rel)
	if err != nil {
		return Entry{}, p.fault(err)
	}
	if !info.IsDir() {
		return Entry{}, p.fault(fs.ErrExist)
	}
	if d, err := r.OpenRoot(filepath.Dir(p.rel)); err == nil {
		err = syncDir(d)
		_ = d.Close() // nothing was written through it
		if err != nil {
			return Entry{}, p.fault(err)
		}
	}
	return f.entry(p, info), nil
}

// RemoveIn is the argument of Remove.
type RemoveIn struct {
	Path string
	// Recursive removes a directory with all that is in it. Symbolic links are removed, never followed.
	Recursive bool
	// Missing takes it when there is no such file.
	Missing bool
	// Upload removes what has arrived of an upload to the path, and not the file itself.
	Upload string
}

// Remove removes a file, a symbolic link or a directory.
func (f *Files) Remove(ctx context.Context, in RemoveIn) error {
	if in.Upload != "" {
		return f.abandon(ctx, in.Path, in.Upload)
	}
	p, err := f.writable(in.Path)
	if err != nil {
		return err
	}
	if p.rel == "." {
		return ErrRoot
	}
	r, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Lstat(p.rel)
	switch {
	case errors.Is(err, fs.ErrNotExist) && in.Missing:
		return nil
	case err != nil:
		return p.fault(err)
	case info.IsDir() && in.Recursive:
		err = r.RemoveAll(p.rel)
	default:
		err = r.Remove(p.rel)
		if err != nil && info.IsDir() && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			err = ErrNotEmpty.WithText(shown(p.full) + ": " + ErrNotEmpty.Text)
		}
	}
	if err != nil {
		return p.fault(err)
	}
	if d, err := r.OpenRoot(filepath.Dir(p.rel)); err == nil {
		err = syncDir(d)
		_ = d.Close() // nothing was written through it
		if err != nil {
			return p.fault(err)
		}
	}
	return nil
}

// RenameIn is the argument of Rename. Both paths are below the same root.
type RenameIn struct {
	From, To  string
	Overwrite bool
}

// Rename moves a file or a directory.
func (f *Files) Rename(_ context.Context, in RenameIn) (Entry, error) {
	from, err := f.writable(in.From)
	if err != nil {
		return Entry{}, err
	}
	to, err := f.writable(in.To)
	if err != nil {
		return Entry{}, err
	}
	if from.rel == "." || to.rel == "." {
		return Entry{}, ErrRoot
	}
	if from.root.Path != to.root.Path {
		return Entry{}, ErrPath.WithText("a file is renamed below the same offered directory only; copy it, then remove it")
	}
	r, err := from.open()
	if err != nil {
		return Entry{}, err
	}
	defer r.Close()
	if _, err := r.Lstat(to.rel); err == nil && !in.Overwrite {
		return Entry{}, to.fault(fs.ErrExist)
	}
	if err := r.Rename(from.rel, to.rel); err != nil {
		return Entry{}, from.fault(err)
	}
	for _, dir := range []string{filepath.Dir(from.rel), filepath.Dir(to.rel)} {
		d, err := r.OpenRoot(dir)
		if err != nil {
			continue
		}
		err = syncDir(d)
		_ = d.Close() // nothing was written through it
		if err != nil {
			return Entry{}, to.fault(err)
		}
	}
	return f.stat(to)
}
