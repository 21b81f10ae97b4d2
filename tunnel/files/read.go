package files

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"
)

// buffers are what files are read into and written from.
var buffers = sync.Pool{New: func() any { b := make([]byte, Buffer); return &b }}

// ReadIn and ReadOut are the arguments and the result of Read.
type (
	ReadIn struct {
		Path string
		// Offset is where to begin; one behind the end reads nothing. Length is how many bytes at the most,
		// negative for all.
		Offset, Length int64
		// Version is that of the file that is meant, empty for any: another one fails with ErrChanged.
		Version string
	}
	ReadOut struct {
		// Bytes is how many were read, SHA256 their checksum.
		Bytes  int64
		SHA256 []byte
		// EOF says that the end of the file was reached.
		EOF   bool
		Entry Entry
	}
)

// Read hands the contents of a regular file to w, in pieces of at most Buffer. It fails with ErrChanged when
// the file was written or exchanged meanwhile: what w got is to be thrown away then.
func (f *Files) Read(ctx context.Context, in ReadIn, w io.Writer) (ReadOut, error) {
	return f.read(ctx, in, func(p []byte) error {
		_, err := w.Write(p)
		return err
	})
}

// HashIn is the argument of Hash: that of Read.
type HashIn = ReadIn

// Hash is Read for those who need the checksum alone.
func (f *Files) Hash(ctx context.Context, in HashIn) (ReadOut, error) {
	if in.Offset == 0 && in.Length < 0 {
		if p, err := f.place(in.Path); err == nil {
			if e, err := f.stat(p); err == nil && e.SHA256 != nil && (in.Version == "" || in.Version == e.Version) {
				return ReadOut{Bytes: e.Size, SHA256: e.SHA256, EOF: true, Entry: e}, nil
			}
		}
	}
	return f.read(ctx, in, func([]byte) error { return nil })
}

func (f *Files) read(ctx context.Context, in ReadIn, each func([]byte) error) (ReadOut, error) {
	var out ReadOut
	if in.Offset < 0 {
		return out, ErrRange
	}
	p, err := f.place(in.Path)
	if err != nil {
		return out, err
	}
	release, err := f.slot(ctx)
	if err != nil {
		return out, err
	}
	defer release()
	file, info, err := p.regular()
	if err != nil {
		return out, err
	}
	defer file.Close()
	out.Entry = f.entry(p, info)
	if in.Version != "" && in.Version != out.Entry.Version {
		return out, changed(p)
	}
	left := max(info.Size()-in.Offset, 0)
	if in.Length >= 0 {
		left = min(left, in.Length)
	}
	h := sha256.New()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for at := in.Offset; left > 0; {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		n, err := file.ReadAt((*buf)[:min(left, Buffer)], at)
		if n > 0 {
			h.Write((*buf)[:n])
			if err := each((*buf)[:n]); err != nil {
				return out, err
			}
			at, left, out.Bytes = at+int64(n), left-int64(n), out.Bytes+int64(n)
		}
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			return out, changed(p)
		case err != nil && !errors.Is(err, io.EOF):
			return out, p.fault(err)
		}
	}
	after, err := file.Stat()
	if err != nil {
		return out, p.fault(err)
	}
	if version(after) != out.Entry.Version {
		return out, changed(p)
	}
	out.SHA256, out.EOF = h.Sum(nil), in.Offset+out.Bytes >= info.Size()
	if out.Bytes == info.Size() {
		f.remember(p, info, out.SHA256)
		out.Entry.SHA256 = out.SHA256
	}
	return out, nil
}

func changed(p place) error {
	return ErrChanged.WithText(fmt.Sprintf("%s: %s", shown(p.full), ErrChanged.Text))
}

// hashPrefix reads n bytes of an open file into the hash.
func hashPrefix(ctx context.Context, file io.ReaderAt, n int64, h hash.Hash) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for at := int64(0); at < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := file.ReadAt((*buf)[:min(n-at, Buffer)], at)
		h.Write((*buf)[:got])
		at += int64(got)
		if err != nil && at < n {
			return err
		}
	}
	return nil
}

// entry describes an open file.
func (f *Files) entry(p place, info fs.FileInfo) Entry {
	e := entryOf(p, info)
	e.Version = version(info)
	e.SHA256 = f.recall(p, e.Version)
	return e
}
