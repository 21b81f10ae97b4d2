package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
	// partDir holds the files that are being written; no key has such a name.
	partDir = ".parts"
	// partAge is how long a file may be written; older ones are what a crash left behind.
	partAge = 24 * time.Hour
	// maxName is how long the name of a file may be, in bytes.
	maxName = 255
	// plain are the characters besides letters and digits that names of files have as they are; others are written %XX.
	plain = "-_.=@+,~ "
)

// Dir keeps objects as files below a directory, which the first Put makes with mode 0700; files have 0600.
type Dir struct {
	path string

	mu   sync.Mutex
	root *os.Root
}

// NewDir returns a store below path, which need not exist yet.
func NewDir(path string) (*Dir, error) {
	if path == "" {
		return nil, ErrConfig.WithText("name the directory of the checkpoints")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, ErrConfig.Wrap(err)
	}
	return &Dir{path: abs}, nil
}

// open returns the directory; fs.ErrNotExist without make when nothing was ever put.
func (d *Dir) open(create bool) (*os.Root, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root != nil {
		if _, err := os.Lstat(d.path); err == nil {
			return d.root, nil
		}
		// Somebody took the directory away; what is opened now is the one of that name.
		_ = d.root.Close()
		d.root = nil
	}
	if create {
		if err := os.MkdirAll(d.path, dirMode); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	d.root = root
	return root, nil
}

// Close gives the directory up. The next use opens it again.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root == nil {
		return nil
	}
	err := d.root.Close()
	d.root = nil
	return err
}

// name is the path of a key below the directory.
func name(key string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	var b strings.Builder
	for i, part := range strings.Split(key, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		from := b.Len()
		for j := range len(part) {
			c := part[j]
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
				b.WriteByte(c)
			case strings.IndexByte(plain, c) >= 0 && (j > 0 && j < len(part)-1 || c != '.' && c != ' '):
				b.WriteByte(c)
			default:
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		if b.Len()-from > maxName {
			return "", ErrKey.WithText("a part of the name of an object is too long for a file")
		}
	}
	return b.String(), nil
}

// key is the key of a file's path, false when name makes no such path.
func key(file string) (string, bool) {
	k, err := url.PathUnescape(file)
	if err != nil {
		return "", false
	}
	back, err := name(k)
	return k, err == nil && back == file
}

// failed words a fault of the file system.
func failed(operation string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noSuchKey(operation)
	case errors.Is(err, fs.ErrPermission):
		return &Failure{Operation: operation, Code: "AccessDenied", Message: "Access Denied.", Err: ErrDenied.WithText("this user may not use the directory of the checkpoints").Wrap(err)}
	}
	return ErrStore.Wrap(err)
}

func (d *Dir) Put(ctx context.Context, key string, body io.Reader, in Info) (err error) {
	if err := checkInfo(in); err != nil {
		return err
	}
	file, err := name(key)
	if err != nil {
		return err
	}
	root, err := d.open(true)
	if err != nil {
		return failed("PutObject", err)
	}
	dir := path.Dir(file)
	if err := root.MkdirAll(dir, dirMode); err != nil {
		return failed("PutObject", err)
	}
	if err := root.MkdirAll(partDir, dirMode); err != nil {
		return failed("PutObject", err)
	}
	part := path.Join(partDir, uuid.NewString())
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return failed("PutObject", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = root.Remove(part)
		}
	}()
	c := newChecked(body, in)
	if _, err := io.Copy(f, &until{ctx: ctx, r: c}); err != nil {
		if c.failed() != nil || ctx.Err() != nil {
			return err
		}
		return failed("PutObject", err)
	}
	if err := f.Sync(); err != nil {
		return failed("PutObject", err)
	}
	if err := f.Close(); err != nil {
		return failed("PutObject", err)
	}
	if err := root.Rename(part, file); err != nil {
		return failed("PutObject", err)
	}
	// The file and the directories that lead to it are on disk before anybody hears of them.
	for at := dir; ; at = path.Dir(at) {
		if err := syncDir(root, at); err != nil {
			return failed("PutObject", err)
		}
		if at == "." {
			return nil
		}
	}
}

// until ends a copy with its context.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

func (d *Dir) Get(ctx context.Context, key string) (io.ReadCloser, Object, error) {
	file, err := name(key)
	if err != nil {
		return nil, Object{}, err
	}
	root, err := d.open(false)
	if err != nil {
		return nil, Object{}, failed("GetObject", err)
	}
	f, err := openFile(root, file)
	if err != nil {
		return nil, Object{}, failed("GetObject", err)
	}
	o, err := stat(f, key)
	if err != nil {
		_ = f.Close()
		return nil, Object{}, failed("GetObject", err)
	}
	return &exactly{r: &until{ctx: ctx, r: f}, c: f, left: o.Size}, o, nil
}

func stat(f *os.File, key string) (Object, error) {
	i, err := f.Stat()
	if err != nil {
		return Object{}, err
	}
	if !i.Mode().IsRegular() {
		return Object{}, fs.ErrNotExist
	}
	return Object{Key: key, Size: i.Size(), Modified: i.ModTime().UTC(), ContentType: contentType(key)}, nil
}

func contentType(key string) string {
	if strings.HasSuffix(key, ".json") {
		return "application/json"
	}
	return "application/octet-stream"
}

// exactly reads a known number of bytes, no more and no fewer.
type exactly struct {
	r    io.Reader
	c    io.Closer
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if e.left > 0 {
			err = io.ErrUnexpectedEOF
		} else if n == 0 {
			err = io.EOF
		}
	}
	return n, err
}

func (e *exactly) Close() error { return e.c.Close() }

func (d *Dir) Stat(ctx context.Context, key string) (Object, error) {
	if err := ctx.Err(); err != nil {
		return Object{}, err
	}
	r, o, err := d.Get(ctx, key)
	if err != nil {
		if f, ok := errors.AsType[*Failure](err); ok {
			f.Operation = "HeadObject"
		}
		return Object{}, err
	}
	return o, r.Close()
}

func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := name(key)
	if err != nil {
		return err
	}
	root, err := d.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed("DeleteObject", err)
	}
	if i, err := root.Lstat(file); errors.Is(err, fs.ErrNotExist) || err == nil && i.IsDir() {
		return nil
	}
	if err := root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("DeleteObject", err)
	}
	// Directories that are empty now go; one that a Put fills meanwhile stays.
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if root.Remove(dir) != nil {
			return syncAgain(root, dir)
		}
	}
	return syncAgain(root, ".")
}

func syncAgain(root *os.Root, dir string) error {
	if err := syncDir(root, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("DeleteObject", err)
	}
	return nil
}

// List reads one directory at a time; its memory is that of the largest.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		root, err := d.open(false)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(Object{}, failed("ListObjectsV2", err))
			return
		}
		d.walk(ctx, root, "", prefix, yield)
	}
}

// walk yields what is below the key under, which is empty or ends in a slash. It reports whether to go on.
func (d *Dir) walk(ctx context.Context, root *os.Root, under, prefix string, yield func(Object, error) bool) bool {
	dir := "."
	if under != "" {
		var err error
		if dir, err = name(strings.TrimSuffix(under, "/")); err != nil {
			return true
		}
	}
	f, err := root.Open(dir)
	var entries []fs.DirEntry
	if err == nil {
		entries, err = f.ReadDir(-1)
		_ = f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return yield(Object{}, failed("ListObjectsV2", err)) && false
	}
	type entry struct {
		key string // of a directory, with the slash
		fs.DirEntry
	}
	list := make([]entry, 0, len(entries))
	for _, e := range entries {
		k, ok := key(e.Name())
		if !ok || !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		k = under + k
		if e.IsDir() {
			k += "/"
		}
		if strings.HasPrefix(k, prefix) || e.IsDir() && strings.HasPrefix(prefix, k) {
			list = append(list, entry{k, e})
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return yield(Object{}, context.Cause(ctx)) && false
		}
		if e.IsDir() {
			if !d.walk(ctx, root, e.key, prefix, yield) {
				return false
			}
			continue
		}
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return yield(Object{}, failed("ListObjectsV2", err)) && false
		}
		if !yield(Object{Key: e.key, Size: i.Size(), Modified: i.ModTime().UTC()}, nil) {
			return false
		}
	}
	return true
}

// Check makes the directory and removes what broken writes have left in it.
func (d *Dir) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	root, err := d.open(true)
	if err != nil {
		return failed("HeadBucket", err)
	}
	parts, err := fs.ReadDir(root.FS(), partDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("HeadBucket", err)
	}
	for _, p := range parts {
		if i, err := p.Info(); err == nil && time.Since(i.ModTime()) > partAge {
			_ = root.Remove(path.Join(partDir, p.Name()))
		}
	}
	return nil
}

// URL is a file URL.
func (d *Dir) URL(key string) string {
	file, err := name(key)
	if err != nil {
		return ""
	}
	at := filepath.ToSlash(filepath.Join(d.path, filepath.FromSlash(file)))
	if !strings.HasPrefix(at, "/") {
		at = "/" + at // a drive of Windows
	}
	return (&url.URL{Scheme: "file", Path: at}).String()
}
