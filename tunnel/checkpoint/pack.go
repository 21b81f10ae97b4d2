package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// documentName is the first entry of a pack.
const documentName = "checkpoint.json"

// ErrChecksum is an attachment that is not what the document says.
var ErrChecksum = ErrDocument.WithText("an attachment is damaged")

// Opener opens what is stored of an attachment.
type Opener func(ctx context.Context, a Attachment) (io.ReadCloser, error)

// WritePack writes a checkpoint as one stream. The document goes as it is, so that what is stored stays what it was;
// its attachments are those that d lists, each of which has to have the size and the checksum of d (StoredSize and
// StoredSHA256 where set). progress is told the bytes written, and may be nil.
func WritePack(ctx context.Context, w io.Writer, raw []byte, d *Document, open Opener, progress func(n int64)) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: documentName, Mode: 0o600, Size: int64(len(raw))}); err != nil {
		return err
	}
	if _, err := t.Write(raw); err != nil {
		return err
	}
	for _, a := range d.attachments() {
		size, _ := a.stored()
		if err := t.WriteHeader(&tar.Header{Name: a.Name, Mode: 0o600, Size: size}); err != nil {
			return err
		}
		if err := copyAttachment(ctx, t, a, open, progress); err != nil {
			return err
		}
	}
	return t.Close()
}

func (d *Document) attachments() []Attachment {
	if d.Hanzo == nil {
		return nil
	}
	return d.Hanzo.Attachments
}

func (a Attachment) stored() (size int64, sum string) {
	if a.StoredSHA256 != "" {
		return a.StoredSize, a.StoredSHA256
	}
	return a.Size, a.SHA256
}

// copyAttachment copies what is stored of an attachment and fails when it is something else.
func copyAttachment(ctx context.Context, w io.Writer, a Attachment, open Opener, progress func(n int64)) error {
	r, err := open(ctx, a)
	if err != nil {
		return fmt.Errorf("the attachment %s: %w", a.Name, err)
	}
	defer r.Close()
	size, sum := a.stored()
	h := sha256.New()
	n, err := io.Copy(&counter{w: io.MultiWriter(w, h), ctx: ctx, told: progress}, io.LimitReader(r, size+1))
	if err != nil {
		return fmt.Errorf("the attachment %s: %w", a.Name, err)
	}
	if n != size || hex.EncodeToString(h.Sum(nil)) != sum {
		return ErrChecksum.Wrap(errors.New(a.Name + " has not the size and the checksum that the document says"))
	}
	return nil
}

// counter counts what is written, and ends with its context.
type counter struct {
	w    io.Writer
	ctx  context.Context
	told func(n int64)
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.told != nil {
		c.told(c.n)
	}
	return n, err
}

// Pack is a checkpoint read from a stream.
type Pack struct {
	// Raw is the document as it came.
	Raw      []byte
	Document *Document
	tar      *tar.Reader
	next     int
}

// ReadPack reads the document of a pack. The attachments follow in order by Next.
func ReadPack(r io.Reader) (*Pack, error) {
	t := tar.NewReader(r)
	h, err := t.Next()
	if err != nil {
		return nil, ErrDocument.Wrap(err)
	}
	if h.Name != documentName || h.Size > MaxDocument || h.Size < 0 {
		return nil, ErrDocument.Wrap(errors.New("the stream does not begin with a document"))
	}
	raw, err := io.ReadAll(io.LimitReader(t, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	d, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	return &Pack{Raw: raw, Document: d, tar: t}, nil
}

// Next returns the next attachment and a reader of what is stored of it; io.EOF after the last. The reader fails
// with ErrChecksum at its end when it is not what the document says.
func (p *Pack) Next() (Attachment, io.Reader, error) {
	list := p.Document.attachments()
	if p.next == len(list) {
		if _, err := p.tar.Next(); !errors.Is(err, io.EOF) {
			return Attachment{}, nil, ErrDocument.Wrap(errors.New("the stream holds more than the document lists"))
		}
		return Attachment{}, nil, io.EOF
	}
	a := list[p.next]
	p.next++
	h, err := p.tar.Next()
	if errors.Is(err, io.EOF) {
		return a, nil, ErrDocument.Wrap(fmt.Errorf("the stream ends before the attachment %s: %w", a.Name, io.ErrUnexpectedEOF))
	}
	if err != nil {
		return a, nil, err
	}
	size, sum := a.stored()
	if h.Name != a.Name || h.Size != size {
		return a, nil, ErrChecksum.Wrap(fmt.Errorf("%s comes with %d bytes instead of %s with %d", h.Name, h.Size, a.Name, size))
	}
	return a, Verify(p.tar, size, sum, a.Name), nil
}

// Verify returns a reader of r that fails with ErrChecksum, at the end or where it becomes longer than size, when r is
// not what it should be. sum is a SHA-256 in hexadecimal digits.
func Verify(r io.Reader, size int64, sum, name string) io.Reader {
	return &verifier{r: r, left: size, sum: sum, name: name, h: sha256.New()}
}

type verifier struct {
	r    io.Reader
	left int64
	sum  string
	name string
	h    hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.left -= int64(n)
	if v.left < 0 {
		return 0, ErrChecksum.Wrap(errors.New(v.name + " is longer than the document says"))
	}
	if errors.Is(err, io.EOF) {
		if v.left > 0 {
			return n, ErrChecksum.Wrap(errors.New(v.name + " is shorter than the document says"))
		}
		if hex.EncodeToString(v.h.Sum(nil)) != v.sum {
			return n, ErrChecksum.Wrap(errors.New(v.name + " has another checksum than the document says"))
		}
	}
	return n, err
}

// Unpack reads a pack, whose attachments are not encrypted, into a new directory below temp ("" is the system's),
// and returns it as Capture does. Nothing is left on disk when it fails.
func Unpack(r io.Reader, temp string) (_ *Checkpoint, err error) {
	p, err := ReadPack(r)
	if err != nil {
		return nil, err
	}
	c, err := newCheckpoint(temp)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	c.Document, c.Raw = p.Document, p.Raw
	for {
		a, content, err := p.Next()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
		if err := c.keep(a.Name, content); err != nil {
			return nil, err
		}
	}
}

// Checkpoint is a document with its attachments in a directory of its own. It is to be closed.
type Checkpoint struct {
	Document *Document
	// Raw is the document as it is stored.
	Raw []byte
	dir string
}

func newCheckpoint(temp string) (*Checkpoint, error) {
	dir, err := os.MkdirTemp(temp, "hanzo-checkpoint-*")
	if err != nil {
		return nil, err
	}
	return &Checkpoint{dir: dir}, nil
}

// Open opens an attachment. It is an Opener.
func (c *Checkpoint) Open(_ context.Context, a Attachment) (io.ReadCloser, error) {
	if strings.ContainsAny(a.Name, `/\`) {
		return nil, ErrDocument.Wrap(fmt.Errorf("%q cannot be the name of an attachment", a.Name))
	}
	return os.Open(filepath.Join(c.dir, a.Name))
}

// Close removes the directory.
func (c *Checkpoint) Close() error { return os.RemoveAll(c.dir) }

// WriteTo writes the checkpoint as a pack.
func (c *Checkpoint) WriteTo(ctx context.Context, w io.Writer, progress func(n int64)) error {
	return WritePack(ctx, w, c.Raw, c.Document, c.Open, progress)
}

func (c *Checkpoint) keep(name string, r io.Reader) (err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	_, err = io.Copy(f, r)
	return err
}
