package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// upload is what is known of one partial file.
type upload struct {
	turn   chan struct{}      // holds a token while a call works on it
	cancel context.CancelFunc // ends that call; nil without one
	users  int                // calls that work on it or wait
	used   time.Time

	// What the last call left, empty when it is not known: the state of the hash after size bytes of the file of
	// that version.
	state   []byte
	size    int64
	version string
}

// take lets a call work on an upload alone; an earlier call of the same is ended for it. The context ends when
// a later one wants it.
func (f *Files) take(ctx context.Context, key string) (context.Context, *upload, func(), error) {
	f.mu.Lock()
	u := f.uploads[key]
	if u == nil {
		f.forget()
		u = &upload{turn: make(chan struct{}, 1)}
		f.uploads[key] = u
	}
	u.users++
	if u.cancel != nil {
		u.cancel()
	}
	f.mu.Unlock()
	leave := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		u.users--
		u.used = time.Now()
	}
	t := time.NewTimer(takeover)
	defer t.Stop()
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, nil, nil, ctx.Err()
	case <-t.C:
		leave()
		return nil, nil, nil, ErrBusy.WithText("an earlier call of this upload does not end; try again later")
	}
	ctx, cancel := context.WithCancel(ctx)
	f.mu.Lock()
	u.cancel = cancel
	f.mu.Unlock()
	return ctx, u, func() {
		f.mu.Lock()
		u.cancel = nil
		f.mu.Unlock()
		cancel()
		<-u.turn
		leave()
	}, nil
}

// forget makes room for one more upload.
func (f *Files) forget() {
	for len(f.uploads) >= maxRecords {
		oldest := ""
		for key, u := range f.uploads {
			if u.users == 0 && (oldest == "" || u.used.Before(f.uploads[oldest].used)) {
				oldest = key
			}
		}
		if oldest == "" {
			return // all are in use: MaxOpen bounds them
		}
		delete(f.uploads, oldest)
	}
}

// WriteIn and WriteOut are the arguments and the result of Write.
type (
	WriteIn struct {
		Path string
		// Upload names the upload: who goes on with it uses the same name.
		Upload string
		// Offset is how much has arrived before, and Prefix its checksum; with 0 the upload begins anew.
		Offset int64
		Prefix []byte
		// Size is that of the whole file, negative when it is not known.
		Size int64
		// Overwrite lets it replace a file.
		Overwrite bool
		// Parents makes the directories above it.
		Parents bool
	}
	WriteOut struct {
		// Held is how much of the upload is on disk, SHA256 its checksum.
		Held   int64
		SHA256 []byte
	}
)

// Write adds to an upload what r has. What it reports is on disk, also beside an error of r, and stays there
// until Commit gives the file its name, Remove throws it away, or it is older than KeepPartial.
func (f *Files) Write(ctx context.Context, in WriteIn, r io.Reader) (WriteOut, error) {
	if in.Offset < 0 || in.Size > math.MaxInt64-Buffer || in.Size >= 0 && in.Offset > in.Size {
		return WriteOut{}, ErrRange
	}
	p, err := f.writable(in.Path)
	if err != nil {
		return WriteOut{}, err
	}
	release, err := f.slot(ctx)
	if err != nil {
		return WriteOut{}, err
	}
	defer release()
	if in.Parents {
		if err := p.makeParents(); err != nil {
			return WriteOut{}, err
		}
	}
	part, err := p.partial(in.Upload)
	if err != nil {
		return WriteOut{}, err
	}
	defer part.dir.Close()
	if err := part.mayReplace(in.Overwrite); err != nil {
		return WriteOut{}, err
	}
	mine, u, done, err := f.take(ctx, part.key)
	if err != nil {
		return WriteOut{}, err
	}
	defer done()
	if in.Offset == 0 {
		part.sweep()
	}
	file, info, err := part.open(in.Offset == 0)
	if err != nil {
		return WriteOut{}, err
	}
	defer file.Close()
	if in.Size >= 0 {
		if room, ok := free(file); ok && in.Size-info.Size() > room-freeReserve {
			return WriteOut{}, ErrNoSpace.WithText(fmt.Sprintf("%s: there is no room for %d more bytes on the disk; make room and try again", shown(p.full), in.Size-info.Size()))
		}
	}
	h, err := u.resume(mine, part, file, info, in)
	if err != nil {
		return WriteOut{}, err
	}
	u.state = nil // not known until this call has ended
	held, err := part.fill(mine, file, h, in, r)
	if noSpace(err) {
		// A full disk harms more than what has to be sent again.
		_ = part.dir.Remove(part.name) // else the next sweep has it
		return WriteOut{}, part.fault(err)
	}
	if err2 := syncData(file); err2 != nil {
		return WriteOut{}, part.fault(err2)
	}
	if info, err2 := file.Stat(); err2 == nil {
		if state, err2 := h.(encoding.BinaryMarshaler).MarshalBinary(); err2 == nil {
			u.state, u.size, u.version = state, held, version(info)
		}
	}
	out := WriteOut{Held: held, SHA256: h.Sum(nil)}
	if err != nil {
		if ctx.Err() == nil && mine.Err() != nil {
			err = ErrTaken
		}
		return out, part.fault(err)
	}
	return out, nil
}

// Held reports what is on disk of an upload; nothing is an upload too.
func (f *Files) Held(ctx context.Context, path, id string) (WriteOut, error) {
	p, err := f.writable(path)
	if err != nil {
		return WriteOut{}, err
	}
	part, err := p.partial(id)
	if errors.Is(err, ErrNotFound) { // its directory is still to be made
		return WriteOut{SHA256: sha256.New().Sum(nil)}, nil
	}
	if err != nil {
		return WriteOut{}, err
	}
	defer part.dir.Close()
	release, err := f.slot(ctx)
	if err != nil {
		return WriteOut{}, err
	}
	defer release()
	ctx, u, done, err := f.take(ctx, part.key)
	if err != nil {
		return WriteOut{}, err
	}
	defer done()
	if _, err := part.dir.Lstat(part.name); errors.Is(err, fs.ErrNotExist) {
		return WriteOut{SHA256: sha256.New().Sum(nil)}, nil
	}
	file, info, err := part.open(false)
	if err != nil {
		return WriteOut{}, err
	}
	defer file.Close()
	if err := syncData(file); err != nil {
		return WriteOut{}, part.fault(err)
	}
	h, err := u.hashed(ctx, part, file, info, info.Size())
	if err != nil {
		return WriteOut{}, err
	}
	return WriteOut{Held: info.Size(), SHA256: h.Sum(nil)}, nil
}

// CommitIn is the argument of Commit.
type CommitIn struct {
	Path   string
	Upload string
	// Size and SHA256 are those of the whole file; it gets its name only when they hold.
	Size   int64
	SHA256 []byte
	// Mode is that of the file that is replaced when nil, 0644 where there is none.
	Mode *fs.FileMode
	// ModTime is now when zero.
	ModTime   time.Time
	Overwrite bool
}

// Commit gives an upload its name: contents, name and directory are on disk when it returns.
func (f *Files) Commit(ctx context.Context, in CommitIn) (Entry, error) {
	p, err := f.writable(in.Path)
	if err != nil {
		return Entry{}, err
	}
	part, err := p.partial(in.Upload)
	if err != nil {
		return Entry{}, err
	}
	defer part.dir.Close()
	release, err := f.slot(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer release()
	ctx, u, done, err := f.take(ctx, part.key)
	if err != nil {
		return Entry{}, err
	}
	defer done()
	if _, err := part.dir.Lstat(part.name); err != nil {
		return Entry{}, part.fault(err)
	}
	file, info, err := part.open(false)
	if err != nil {
		return Entry{}, err
	}
	defer file.Close()
	if info.Size() < in.Size {
		return Entry{}, ErrIncomplete.WithText(fmt.Sprintf("%s: %d of %d bytes have arrived; go on with the upload", shown(p.full), info.Size(), in.Size))
	}
	h, err := u.hashed(ctx, part, file, info, info.Size())
	if err != nil {
		return Entry{}, err
	}
	sha := h.Sum(nil)
	if info.Size() != in.Size || !bytes.Equal(sha, in.SHA256) {
		_ = part.dir.Remove(part.name) // of no use to anybody
		u.state = nil
		return Entry{}, ErrChecksum.WithText(shown(p.full) + ": " + ErrChecksum.Text)
	}
	info, err = part.publish(file, in)
	if err != nil {
		return Entry{}, part.fault(err)
	}
	u.state = nil
	f.remember(part.place, info, sha)
	e := entryOf(part.place, info)
	e.Version, e.SHA256 = version(info), sha
	return e, nil
}

// publish gives the file its mode, its time and its name.
func (part partial) publish(file *os.File, in CommitIn) (fs.FileInfo, error) {
	mode := fs.FileMode(0o644)
	old, err := part.dir.Lstat(part.base)
	if err == nil {
		if !in.Overwrite {
			return nil, fs.ErrExist
		}
		if !old.Mode().IsRegular() {
			return nil, part.mustBeFile(old)
		}
		mode = old.Mode().Perm()
		chownLike(file, old)
	}
	if in.Mode != nil {
		mode = in.Mode.Perm()
	}
	if err := file.Chmod(mode); err != nil {
		return nil, err
	}
	if !in.ModTime.IsZero() {
		if err := part.dir.Chtimes(part.name, time.Time{}, in.ModTime); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil { // open files cannot be renamed everywhere
		return nil, err
	}
	switch {
	case in.Overwrite:
		err = part.dir.Rename(part.name, part.base)
	default:
		// A link is refused when there is such a name meanwhile, a rename is not.
		if err = part.dir.Link(part.name, part.base); err == nil {
			err = part.dir.Remove(part.name)
		} else if !errors.Is(err, fs.ErrExist) {
			err = part.dir.Rename(part.name, part.base) // a file system without links
		}
	}
	if err != nil {
		return nil, err
	}
	if err := syncDir(part.dir); err != nil {
		return nil, err
	}
	return part.dir.Lstat(part.base)
}

// PutIn is the argument of Put.
type PutIn struct {
	Path      string
	Data      []byte
	SHA256    []byte // nil is not compared
	Mode      *fs.FileMode
	ModTime   time.Time
	Overwrite bool
	Parents   bool
}

// Put is an upload of a small file in one call: the file is there whole, or nothing is.
func (f *Files) Put(ctx context.Context, in PutIn) (Entry, error) {
	sha := sha256.Sum256(in.Data)
	if in.SHA256 != nil && !bytes.Equal(in.SHA256, sha[:]) {
		return Entry{}, ErrChecksum
	}
	id := "put-" + rand.Text()
	_, err := f.Write(ctx, WriteIn{Path: in.Path, Upload: id, Size: int64(len(in.Data)), Overwrite: in.Overwrite, Parents: in.Parents}, bytes.NewReader(in.Data))
	if err == nil {
		var e Entry
		e, err = f.Commit(ctx, CommitIn{
			Path: in.Path, Upload: id, Size: int64(len(in.Data)), SHA256: sha[:], Mode: in.Mode, ModTime: in.ModTime, Overwrite: in.Overwrite,
		})
		if err == nil {
			return e, nil
		}
	}
	_ = f.abandon(context.WithoutCancel(ctx), in.Path, id) // else the next sweep has it
	return Entry{}, err
}

// PatchIn is the argument of Patch.
type PatchIn struct {
	Path   string
	Offset int64
	Data   []byte
	// Truncate ends the file behind the data.
	Truncate bool
}

// Patch writes a range of a file that exists, in place: readers see it half done, and a crash may leave it so.
// What it wrote is on disk when it returns.
func (f *Files) Patch(ctx context.Context, in PatchIn) (Entry, error) {
	if in.Offset < 0 || in.Offset > math.MaxInt64-int64(len(in.Data)) {
		return Entry{}, ErrRange
	}
	p, err := f.writable(in.Path)
	if err != nil {
		return Entry{}, err
	}
	release, err := f.slot(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer release()
	r, err := p.open()
	if err != nil {
		return Entry{}, err
	}
	defer r.Close()
	info, err := r.Stat(p.rel)
	if err == nil {
		err = p.mustBeFile(info)
	}
	if err != nil {
		return Entry{}, p.fault(err)
	}
	file, err := r.OpenFile(p.rel, os.O_RDWR|openFlags, 0)
	if err != nil {
		return Entry{}, p.fault(err)
	}
	defer file.Close()
	if info, err = file.Stat(); err == nil {
		err = p.mustBeFile(info)
	}
	if err == nil {
		_, err = file.WriteAt(in.Data, in.Offset)
	}
	if err == nil && in.Truncate {
		err = file.Truncate(in.Offset + int64(len(in.Data)))
	}
	if err == nil {
		err = syncData(file)
	}
	if err == nil {
		info, err = file.Stat()
	}
	if err != nil {
		return Entry{}, p.fault(err)
	}
	return f.entry(p, info), nil
}

// abandon throws an upload away.
func (f *Files) abandon(ctx context.Context, path, id string) error {
	p, err := f.writable(path)
	if err != nil {
		return err
	}
	part, err := p.partial(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer part.dir.Close()
	_, u, done, err := f.take(ctx, part.key)
	if err != nil {
		return err
	}
	defer done()
	u.state = nil
	if err := part.dir.Remove(part.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return part.fault(err)
	}
	return nil
}

// partial is the partial file of an upload, in the directory of the file that it becomes.
type partial struct {
	place
	dir  *os.Root
	base string // of the file that it becomes
	name string
	key  string
}

func (p place) partial(id string) (partial, error) {
	if len(id) < 8 || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return partial{}, ErrUpload
	}
	dir, at, base, err := p.parent()
	if err != nil {
		return partial{}, err
	}
	sum := sha256.Sum256([]byte(base + "\x00" + id))
	part := partial{place: at, dir: dir, base: base, name: PartialPrefix + hex.EncodeToString(sum[:16])}
	part.key = at.full + "\x00" + part.name
	return part, nil
}

func (p place) makeParents() error {
	if p.rel == "." {
		return nil
	}
	r, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	dir := filepath.Dir(p.rel)
	if _, err := r.Stat(dir); err == nil {
		return nil
	}
	if err := r.MkdirAll(dir, 0o755); err != nil {
		return p.fault(err)
	}
	return nil
}

// mayReplace looks at what has the name now.
func (part partial) mayReplace(overwrite bool) error {
	info, err := part.dir.Lstat(part.base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return part.fault(err)
	case !info.Mode().IsRegular():
		return part.mustBeFile(info)
	case !overwrite:
		return part.fault(fs.ErrExist)
	}
	return nil
}

// open opens the partial file, and empties it for an upload that begins.
func (part partial) open(begin bool) (*os.File, fs.FileInfo, error) {
	flags := os.O_RDWR | openFlags
	if begin {
		flags |= os.O_CREATE
	}
	file, err := part.dir.OpenFile(part.name, flags, 0o600)
	if err != nil && !begin && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, prefix(part, 0)
	}
	if err != nil {
		return nil, nil, part.fault(err)
	}
	info, err := file.Stat()
	if err == nil {
		// Whoever can write into the directory could have put a link to another file here.
		var named fs.FileInfo
		named, err = part.dir.Lstat(part.name)
		if err == nil && (!named.Mode().IsRegular() || !os.SameFile(info, named) || !alone(info)) {
			err = ErrSpecial.WithText(shown(part.full) + ": there is something else in the place of the partial file " + part.name)
		}
	}
	if err == nil && begin && info.Size() > 0 {
		if err = file.Truncate(0); err == nil {
			info, err = file.Stat()
		}
	}
	if err != nil {
		_ = file.Close() // nothing was written
		return nil, nil, part.fault(err)
	}
	return file, info, nil
}

func prefix(part partial, held int64) error {
	return ErrPrefix.With("held", held).WithText(fmt.Sprintf("%s: %s", shown(part.full), ErrPrefix.Text))
}

// hashed is the hash of the first n bytes of the partial file.
func (u *upload) hashed(ctx context.Context, part partial, file *os.File, info fs.FileInfo, n int64) (hash.Hash, error) {
	h := sha256.New()
	if u.state != nil && u.size == n && u.version == version(info) {
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.state); err == nil {
			return h, nil
		}
		h.Reset()
	}
	if err := hashPrefix(ctx, file, n, h); err != nil {
		return nil, part.fault(err)
	}
	if state, err := h.(encoding.BinaryMarshaler).MarshalBinary(); err == nil {
		u.state, u.size, u.version = state, n, version(info)
	}
	return h, nil
}

// resume makes the partial file end at the offset, once it is the beginning of what is sent.
func (u *upload) resume(ctx context.Context, part partial, file *os.File, info fs.FileInfo, in WriteIn) (hash.Hash, error) {
	if in.Offset == 0 {
		return sha256.New(), nil
	}
	if info.Size() < in.Offset || in.Prefix == nil {
		return nil, prefix(part, info.Size())
	}
	h, err := u.hashed(ctx, part, file, info, in.Offset)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(h.Sum(nil), in.Prefix) {
		return nil, prefix(part, 0)
	}
	if info.Size() > in.Offset {
		if err := file.Truncate(in.Offset); err != nil {
			return nil, part.fault(err)
		}
	}
	return h, nil
}

var zeros [hole]byte

// fill appends what r has and returns how long the file is then.
func (part partial) fill(ctx context.Context, file *os.File, h hash.Hash, in WriteIn, r io.Reader) (int64, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	at, flushed, length := in.Offset, in.Offset, in.Offset
	grow := func() error { // what was left out at the end
		if length == at {
			return nil
		}
		length = at
		return file.Truncate(at)
	}
	for {
		if ctx.Err() != nil {
			return at, errors.Join(ctx.Err(), grow())
		}
		n, err := r.Read(*buf)
		b := (*buf)[:n]
		if in.Size >= 0 && at+int64(n) > in.Size {
			return at, errors.Join(ErrRange.WithText(shown(part.full)+": more arrives than the size that was announced"), grow())
		}
		h.Write(b)
		for len(b) > 0 {
			if blank(b) {
				at, b = at+hole, b[hole:]
				continue
			}
			end := min(len(b), hole)
			for end < len(b) && !blank(b[end:]) {
				end = min(len(b), end+hole)
			}
			if _, err := file.WriteAt(b[:end], at); err != nil {
				return at, err
			}
			at, b = at+int64(end), b[end:]
			length = at
		}
		if at-flushed >= flushEvery {
			flush(file, flushed, at-flushed)
			flushed = at
		}
		if errors.Is(err, io.EOF) {
			return at, grow()
		}
		if err != nil {
			return at, errors.Join(err, grow())
		}
	}
}

// blank reports whether the bytes begin with a hole: a piece that is all zeros.
func blank(b []byte) bool { return len(b) >= hole && b[0] == 0 && bytes.Equal(b[:hole], zeros[:]) }

// sweep removes partial files that nobody goes on with.
func (part partial) sweep() {
	d, err := part.dir.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(sweepNames)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, PartialPrefix) || name == part.name {
			continue
		}
		if info, err := part.dir.Lstat(name); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > KeepPartial {
			_ = part.dir.Remove(name) // else the next one has it
		}
	}
}
