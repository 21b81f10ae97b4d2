package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
)

// maxTail bounds the zeros after the last entry of an archive, in bytes.
const maxTail = 1 << 20

// Read reads a backup and checks each file against the manifest. Into, which may be nil, is where the files are
// written, each synced, with mode 0600. begin, which may be nil, sees the manifest before anything is
// written; its error ends it. What is no whole backup fails with ErrArchive, whatever is wrong with it, and
// leaves what was written.
func Read(ctx context.Context, r io.Reader, into *os.Root, begin func(Manifest) error, progress func(done, all int64)) (Manifest, error) {
	src := &source{r: r}
	m, err := read(ctx, bufio.NewReaderSize(src, 1<<16), into, begin, progress)
	switch {
	case src.err != nil:
		return m, src.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return m, bad("it is cut off")
	}
	return m, err
}

// source remembers an error of reading itself, which says nothing about the archive.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func read(ctx context.Context, br *bufio.Reader, into *os.Root, begin func(Manifest) error, progress func(done, all int64)) (Manifest, error) {
	var m Manifest
	gz, err := gzip.NewReader(br)
	if err != nil {
		return m, damaged(err)
	}
	gz.Multistream(false)
	tr := tar.NewReader(gz)
	h, err := next(tr, manifestName)
	if err != nil {
		return m, err
	}
	if h.Size > maxManifest {
		return m, bad("its %s has %d bytes", manifestName, h.Size)
	}
	text := make([]byte, h.Size)
	if _, err := io.ReadFull(tr, text); err != nil {
		return m, damaged(err)
	}
	if m, err = parseManifest(text); err != nil {
		return m, err
	}
	if begin != nil {
		if err := begin(m); err != nil {
			return m, err
		}
	}
	c := &counter{ctx: ctx, all: m.Total(), tell: progress}
	buf := make([]byte, 1<<17)
	for _, f := range m.Files {
		h, err := next(tr, f.Name)
		if err != nil {
			return m, err
		}
		if h.Size != f.Size {
			return m, bad("%q has %d bytes, and its manifest says %d", f.Name, h.Size, f.Size)
		}
		if err := one(c.of(tr), f, into, buf); err != nil {
			return m, err
		}
	}
	if h, err := tr.Next(); err == nil {
		return m, bad("it holds %q, which its manifest does not name", h.Name)
	} else if !errors.Is(err, io.EOF) {
		return m, damaged(err)
	}
	for n := 0; ; {
		k, err := gz.Read(buf)
		if n += k; n > maxTail || len(bytes.Trim(buf[:k], "\x00")) > 0 {
			return m, bad("there is more after its end")
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, damaged(err)
		}
	}
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		return m, bad("there is more after its end")
	}
	return m, nil
}

// next is the header of the next entry, which must be a plain file of that name.
func next(tr *tar.Reader, name string) (*tar.Header, error) {
	h, err := tr.Next()
	switch {
	case err != nil:
		return nil, damaged(err)
	case h.Name != name:
		return nil, bad("it holds %q where %q has to be", h.Name, name)
	case h.Typeflag != tar.TypeReg:
		return nil, bad("%q is not a plain file", name)
	}
	return h, nil
}

// one reads one file of the size that the manifest says.
func one(r io.Reader, f File, into *os.Root, buf []byte) (err error) {
	sum := sha256.New()
	var w io.Writer = sum
	if into != nil {
		name := filepath.FromSlash(f.Name)
		if err := into.MkdirAll(filepath.FromSlash(path.Dir(f.Name)), 0o700); err != nil {
			return err
		}
		out, err := into.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = out.Sync()
			}
			err = errors.Join(err, out.Close())
		}()
		w = io.MultiWriter(out, sum)
	}
	// struct{...} hides what io.Copy would use instead of the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf)
	switch {
	case err != nil:
		return damaged(err)
	case n != f.Size:
		return io.ErrUnexpectedEOF
	case hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
		return bad("%q is not what was backed up: its SHA-256 differs", f.Name)
	}
	return nil
}

// damaged words an error of the formats; others stay as they are.
func damaged(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return err
	case errors.Is(err, gzip.ErrHeader):
		return bad("it is not compressed as backups are")
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), isCorrupt(err):
		return bad("it is damaged (%v)", err)
	}
	return err
}

func isCorrupt(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	_, internal := errors.AsType[flate.InternalError](err)
	return corrupt || internal
}
