// Package files lets others list, read and replace the files of this machine below the directories that it
// offers, its roots (tunnel.md §5.1).
//
// Every path is opened through os.Root, one directory at a time: neither ".." nor a symbolic link leads out of
// a root, also when somebody exchanges directories meanwhile. What is no regular file, such as a FIFO or a
// device, is never read or written. A file appears under its name whole or not at all: what arrives is kept in
// a partial file beside it, which an interrupted upload goes on with, and takes the name once its checksum
// holds. What a method has acknowledged is on disk.
//
// The package imports the errs leaf, the standard library and golang.org/x/sys. It owns no goroutine. Methods
// of Files may be called concurrently.
package files

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits.
const (
	// MaxPath is the longest path in bytes, as on Linux.
	MaxPath = 4096
	// MaxEntries is how many entries List returns at once.
	MaxEntries = 1000
	// MaxDirectory is how many entries a directory may have to be listed: all of its names are held to be put
	// in order.
	MaxDirectory = 200_000
	// MaxOpen is how many calls read or write contents at once; a further one waits for slotWait.
	MaxOpen  = 16
	slotWait = 5 * time.Second
	// Buffer is how many bytes are read or written at once.
	Buffer = 256 << 10
	// maxRecords bounds what is remembered of uploads (some 300 bytes each) and maxKnown of checksums. What is
	// forgotten is read again.
	maxRecords = 64
	maxKnown   = 256
	// maxLinks is how many symbolic links in a row a file to be replaced may be named by.
	maxLinks = 8
	// KeepPartial is how long an upload can be gone on with; older partial files are removed when another
	// upload begins in their directory, of the first sweepNames entries.
	KeepPartial = 7 * 24 * time.Hour
	sweepNames  = 4096
	// takeover is how long an upload waits for an earlier call of the same upload to end.
	takeover = 5 * time.Second
	// flushEvery is how many bytes are written before the disk is asked to begin with them, so that the sync
	// at the end is short.
	flushEvery = 16 << 20
	// hole is the size of a piece that is left out when it is all zeros.
	hole = 64 << 10
	// freeReserve is what an upload of a known size leaves free on the disk.
	freeReserve = 16 << 20
)

// PartialPrefix is how the names of partial files begin.
const PartialPrefix = ".hanzo-part-"

// The errors of this package. Their text names the path.
var (
	ErrPath        = errs.Define(errs.Invalid, "files.path", "the path is not usable")
	ErrOutside     = errs.Define(errs.Denied, "files.outside", "the path is outside of the directories that this machine offers")
	ErrReadOnly    = errs.Define(errs.Denied, "files.read_only", "this directory is offered for reading only")
	ErrNoRoots     = errs.Define(errs.Denied, "files.no_roots", "this machine offers no files; name directories in nodeHost.files.roots or with --files-root")
	ErrPermission  = errs.Define(errs.Denied, "files.permission", "the system does not allow it")
	ErrNotFound    = errs.Define(errs.NotFound, "files.not_found", "no such file or directory")
	ErrExists      = errs.Define(errs.Exists, "files.exists", "there is such a file already")
	ErrDirectory   = errs.Define(errs.Conflict, "files.directory", "this is a directory")
	ErrNoDirectory = errs.Define(errs.Conflict, "files.no_directory", "this is not a directory")
	ErrNotEmpty    = errs.Define(errs.Conflict, "files.not_empty", "the directory is not empty; remove it with all that is in it, or empty it first")
	ErrSpecial     = errs.Define(errs.Conflict, "files.special", "this is neither a regular file nor a directory")
	ErrChanged     = errs.Define(errs.Conflict, "files.changed", "the file has changed meanwhile; begin again")
	ErrPrefix      = errs.Define(errs.Conflict, "files.prefix", "what is here of this upload is something else or less; begin it again at 0")
	ErrChecksum    = errs.Define(errs.Conflict, "files.checksum", "what arrived has another checksum than what was sent; it was thrown away, send it again")
	ErrIncomplete  = errs.Define(errs.Conflict, "files.incomplete", "the upload is not complete; go on with it")
	ErrTaken       = errs.Define(errs.Conflict, "files.taken", "another call has taken this upload over")
	ErrRange       = errs.Define(errs.Invalid, "files.range", "the offset or the length is out of range")
	ErrUpload      = errs.Define(errs.Invalid, "files.upload", "an upload is named by 8 to 64 letters, digits, - and _")
	ErrTooMany     = errs.Define(errs.Exhausted, "files.too_many_entries", "the directory has too many entries to be listed")
	ErrBusy        = errs.Define(errs.Exhausted, "files.busy", "too many files are being read and written on this machine; try again later")
	ErrNoSpace     = errs.Define(errs.Exhausted, "files.no_space", "the disk of this machine is full, or the file is larger than it takes; make room and try again")
	ErrRoot        = errs.Define(errs.Denied, "files.root", "an offered directory itself is neither removed nor renamed")
	ErrNoLinks     = errs.Define(errs.Unavailable, "files.unsupported", "this system cannot do that")
)

// Root is a directory that is offered.
type Root struct {
	// Path is absolute.
	Path     string
	ReadOnly bool
	// Within is a directory that Path is below of, empty for none: no symbolic link is followed on the way from there to Path.
	Within string
}

type root struct {
	Root
	real string // without symbolic links, "" when not known
}

// Files serves the files below some roots.
type Files struct {
	roots func() []Root
	slots chan struct{}

	mu      sync.Mutex
	uploads map[string]*upload // by name of the partial file with its directory; at most maxRecords that nobody uses
	known   map[string]sum     // by path; at most maxKnown
}

// sum is a checksum of a whole file of one version.
type sum struct {
	version string
	sha256  [sha256.Size]byte
}

// New serves what is below the roots, which are asked for anew with each call. The first one is where
// relative paths begin. Roots that do not exist are none.
func New(roots func() []Root) *Files {
	return &Files{roots: roots, slots: make(chan struct{}, MaxOpen), uploads: map[string]*upload{}, known: map[string]sum{}}
}

// Kind is what an entry is.
type Kind string

// The kinds of entries.
const (
	File      Kind = "file"
	Directory Kind = "directory"
	Link      Kind = "link"
	Other     Kind = "other"
)

// Entry is one file or directory.
type Entry struct {
	// Name is the last part of Path; both are bytes of the file system and need not be UTF-8.
	Name string
	Path string
	Kind Kind
	Size int64
	// Mode are the permission bits.
	Mode    fs.FileMode
	ModTime time.Time
	// Target is what a symbolic link says. Entries of Stat are what it leads to, where that is below the root.
	Target string
	// Version is another text when the file is another one or was written. Empty for entries of List.
	Version string
	// SHA256 is that of the whole file where it is known, else nil.
	SHA256 []byte
	// Writable says that the root is not read-only.
	Writable bool
	// Partial says that this is an upload that is not finished.
	Partial bool
}

// place is where a path leads.
type place struct {
	root root
	rel  string // below the root, "." for itself
	full string
}

// place finds the root of a path. Nothing is opened.
func (f *Files) place(path string) (place, error) {
	switch {
	case strings.ContainsRune(path, 0):
		return place{}, ErrPath.WithText("a path has no byte 0")
	case len(path) > MaxPath:
		return place{}, ErrPath.WithText(fmt.Sprintf("a path has %d bytes at the most", MaxPath))
	}
	all := f.roots()
	if len(all) == 0 {
		return place{}, ErrNoRoots
	}
	full := filepath.FromSlash(path)
	if !filepath.IsAbs(full) {
		if full != "" && !filepath.IsLocal(full) {
			return place{}, outside(path)
		}
		full = filepath.Join(all[0].Path, full)
	}
	full = filepath.Clean(full)
	best := place{}
	for _, r := range all {
		here := root{Root: r}
		if real, err := filepath.EvalSymlinks(r.Path); err == nil && real != r.Path {
			here.real = real
		}
		for _, base := range []string{r.Path, here.real} {
			if base == "" || best.root.Path != "" && len(best.root.Path) > len(r.Path) {
				continue
			}
			if rel, ok := below(base, full); ok {
				best = place{here, rel, full}
			}
		}
	}
	if best.root.Path == "" {
		return place{}, outside(path)
	}
	return best, nil
}

func outside(path string) error {
	return ErrOutside.WithText(fmt.Sprintf("%s: %s", shown(path), ErrOutside.Text))
}

// below returns the rest of a clean path below a base.
func below(base, path string) (string, bool) {
	rel, err := filepath.Rel(base, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return rel, true
}

// writable is place for paths that are to be changed.
func (f *Files) writable(path string) (place, error) {
	p, err := f.place(path)
	if err == nil && p.root.ReadOnly {
		return place{}, ErrReadOnly.WithText(fmt.Sprintf("%s: %s", shown(path), ErrReadOnly.Text))
	}
	return p, err
}

func (p place) open() (*os.Root, error) {
	from := p.root.Path
	if p.root.Within != "" {
		from = p.root.Within
	}
	r, err := os.OpenRoot(from)
	if err != nil {
		return nil, p.fault(err)
	}
	if from == p.root.Path {
		return r, nil
	}
	rel, ok := below(from, p.root.Path)
	if !ok {
		_ = r.Close() // nothing was done in it
		return nil, outside(p.full)
	}
	for name := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		next, err := step(r, name)
		_ = r.Close() // what is below is open
		if err != nil {
			return nil, p.fault(err)
		}
		r = next
	}
	return r, nil
}

// step opens a directory of a directory, and no other one that a symbolic link names.
func step(r *os.Root, name string) (*os.Root, error) {
	info, err := r.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
	}
	next, err := r.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	is, err := next.Stat(".")
	if err == nil && !os.SameFile(info, is) {
		err = &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
	}
	if err != nil {
		_ = next.Close() // nothing was done in it
		return nil, err
	}
	return next, nil
}

// parent opens the directory of the file that the place names, following symbolic links of the last part
// below the root. It returns the place of the file itself and its name in the directory.
func (p place) parent() (*os.Root, place, string, error) {
	if p.rel == "." {
		return nil, p, "", ErrDirectory.WithText(shown(p.full) + ": " + ErrDirectory.Text)
	}
	r, err := p.open()
	if err != nil {
		return nil, p, "", err
	}
	defer r.Close()
	for range maxLinks {
		dir, name := filepath.Split(p.rel)
		d, err := r.OpenRoot(filepath.Clean("./" + dir))
		if err != nil {
			return nil, p, "", p.fault(err)
		}
		info, err := d.Lstat(name)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return d, p, name, nil
		}
		target, err := d.Readlink(name)
		_ = d.Close() // only looked at
		if err != nil {
			return nil, p, "", p.fault(err)
		}
		rel := filepath.Join(dir, target)
		if filepath.IsAbs(target) || !filepath.IsLocal(rel) || rel == "." {
			return nil, p, "", outside(p.full)
		}
		p.rel, p.full = rel, filepath.Join(p.root.Path, rel)
	}
	return nil, p, "", ErrPath.WithText(shown(p.full) + ": too many symbolic links")
}

// regular opens a regular file for reading, never waiting for one that is something else.
func (p place) regular() (*os.File, fs.FileInfo, error) {
	r, err := p.open()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	info, err := r.Stat(p.rel)
	if err != nil {
		return nil, nil, p.fault(err)
	}
	if err := p.mustBeFile(info); err != nil {
		return nil, nil, err
	}
	f, err := r.OpenFile(p.rel, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, nil, p.fault(err)
	}
	if info, err = f.Stat(); err == nil {
		err = p.mustBeFile(info)
	}
	if err != nil {
		_ = f.Close() // only read
		return nil, nil, p.fault(err)
	}
	return f, info, nil
}

func (p place) mustBeFile(info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return ErrDirectory.WithText(shown(p.full) + ": " + ErrDirectory.Text)
	}
	return ErrSpecial.WithText(shown(p.full) + ": " + ErrSpecial.Text)
}

// fault words an error of the system for the path.
func (p place) fault(err error) error {
	if _, ok := errs.As(err); ok {
		return err
	}
	of := func(e *errs.Error) error { return e.WithText(shown(p.full) + ": " + e.Text) }
	if pe, ok := errors.AsType[*fs.PathError](err); ok && strings.HasSuffix(pe.Err.Error(), "path escapes from parent") {
		return outside(p.full)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return of(ErrNotFound)
	case errors.Is(err, fs.ErrExist):
		return of(ErrExists)
	case errors.Is(err, fs.ErrPermission):
		return of(ErrPermission)
	case noSpace(err):
		return of(ErrNoSpace)
	case errors.Is(err, syscall.ENOTDIR):
		return of(ErrNoDirectory)
	case errors.Is(err, syscall.EISDIR):
		return of(ErrDirectory)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return ErrPath.WithText(shown(p.full) + ": a name is longer than this file system takes")
	case errors.Is(err, syscall.ELOOP):
		return ErrPath.WithText(shown(p.full) + ": too many symbolic links")
	case errors.Is(err, errors.ErrUnsupported):
		return of(ErrNoLinks)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if says := cause(err); says != err { //nolint:errorlint // the same error, not one like it
		return errs.Wrap(errs.Internal, shown(p.full), says)
	}
	return err
}

// cause is what the system says, without the path that it stands in.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return le.Err
	}
	return err
}

// shown is a path as an error shows it: quoted when it holds what is no text.
func shown(path string) string {
	for _, r := range path {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return fmt.Sprintf("%q", path)
		}
	}
	return path
}

// version names a state of a file.
func version(info fs.FileInfo) string {
	h := sha256.New()
	var b [40]byte
	dev, ino, ctime := identity(info)
	binary.BigEndian.PutUint64(b[0:], dev)
	binary.BigEndian.PutUint64(b[8:], ino)
	binary.BigEndian.PutUint64(b[16:], uint64(info.Size()))
	binary.BigEndian.PutUint64(b[24:], uint64(info.ModTime().UnixNano()))
	binary.BigEndian.PutUint64(b[32:], uint64(ctime))
	h.Write(b[:])
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// remember keeps the checksum of a whole file.
func (f *Files) remember(p place, info fs.FileInfo, sha []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= maxKnown {
		for k := range f.known { // any
			delete(f.known, k)
			break
		}
	}
	s := sum{version: version(info)}
	copy(s.sha256[:], sha)
	f.known[p.full] = s
}

func (f *Files) recall(p place, version string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.known[p.full]; ok && s.version == version {
		return append([]byte(nil), s.sha256[:]...)
	}
	return nil
}

// slot waits for a place among the calls that read and write contents.
func (f *Files) slot(ctx context.Context) (func(), error) {
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	default:
	}
	t := time.NewTimer(slotWait)
	defer t.Stop()
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	case <-t.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
