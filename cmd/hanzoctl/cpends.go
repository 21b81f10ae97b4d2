package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

var errDamaged = &client.Error{Code: "files.damaged", Class: client.Unavailable, Message: "what arrived has another checksum than what was sent"}

func (k *copier) reader(from spot, what fileFound) reads {
	if from.node == nil {
		return &localFile{path: from.path, what: what}
	}
	return &nodeFile{c: k.c, w: from, what: what}
}

func (k *copier) writer(from, to spot, what fileFound) writes {
	id := uploadID(from.identity(what), to.node.GetNodeId(), to.path)
	if to.node == nil {
		return &localTarget{k: k, path: to.path, what: what, id: id}
	}
	return &nodeTarget{k: k, w: to, what: what, id: id}
}

// localFile is a file of this machine that is read.
type localFile struct {
	path string
	what fileFound
	// h is the hash of the first n bytes.
	h hash.Hash
	n int64
}

func (l *localFile) open() (*os.File, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, fileError(err)
	}
	info, err := f.Stat()
	if err == nil && (info.Size() != l.what.size || !info.ModTime().Equal(l.what.modTime)) {
		err = &client.Error{Code: "files.changed", Class: client.Conflict, Message: "the file has changed while it was copied; copy it again"}
	}
	if err != nil {
		_ = f.Close() // only read
		return nil, err
	}
	return f, nil
}

func (l *localFile) prefix(ctx context.Context, n int64) ([]byte, error) {
	f, err := l.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l.h, l.n = sha256.New(), 0
	buf := make([]byte, pieceSize)
	for l.n < n {
		got, err := f.Read(buf[:min(n-l.n, pieceSize)])
		l.h.Write(buf[:got])
		l.n += int64(got)
		if err != nil && l.n < n {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return l.h.Sum(nil), nil
}

func (l *localFile) from(ctx context.Context, at int64, w func([]byte) error) error {
	f, err := l.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if l.h == nil || l.n != at { // begun anew
		l.h, l.n = sha256.New(), 0
	}
	if l.n != at {
		return errAgain
	}
	buf := make([]byte, pieceSize)
	for {
		n, err := f.ReadAt(buf, l.n)
		if n > 0 {
			l.h.Write(buf[:n])
			l.n += int64(n)
			if err := w(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fileError(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (l *localFile) whole(context.Context) ([]byte, error) { return l.h.Sum(nil), nil }

// nodeFile is a file of a node that is read.
type nodeFile struct {
	c    *client.Client
	w    spot
	what fileFound
	sum  []byte // of the whole, when it was read from its beginning
}

func (n *nodeFile) prefix(ctx context.Context, length int64) ([]byte, error) {
	req := &tunnelv1.HashFileRequest{NodeId: n.w.node.GetNodeId(), Length: &length, Version: n.what.version}
	req.Path, req.RawPath = rawPath(n.w.path)
	out, err := n.c.Files.HashFile(ctx, req)
	return out.GetContent().GetSha256(), err
}

func (n *nodeFile) from(ctx context.Context, at int64, w func([]byte) error) error {
	req := &tunnelv1.ReadFileRequest{NodeId: n.w.node.GetNodeId(), Offset: at, Version: n.what.version}
	req.Path, req.RawPath = rawPath(n.w.path)
	s, err := n.c.Files.ReadFile(ctx, req)
	if err != nil {
		return err
	}
	h := sha256.New()
	for {
		m, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errDamaged // it said no end
			}
			return err
		}
		if end := m.GetEnd(); end != nil {
			sum := h.Sum(nil)
			if !bytes.Equal(end.GetSha256(), sum) {
				return errDamaged
			}
			if at == 0 {
				n.sum = sum
			}
			return nil
		}
		h.Write(m.GetData())
		if err := w(m.GetData()); err != nil {
			return err
		}
	}
}

func (n *nodeFile) whole(ctx context.Context) ([]byte, error) {
	if n.sum != nil {
		return n.sum, nil
	}
	return n.prefix(ctx, n.what.size)
}

// localTarget is a file of this machine that is written. Its directory is held open: what is written stays
// there.
type localTarget struct {
	k    *copier
	path string
	what fileFound
	id   string

	dir  *os.Root
	part string
	f    *os.File
	at   int64
	h    hash.Hash // of what is in the partial file
}

func (l *localTarget) open() error {
	if l.dir != nil {
		return nil
	}
	dir, err := os.OpenRoot(filepath.Dir(l.path))
	if err != nil {
		return fileError(err)
	}
	if info, err := dir.Stat(filepath.Base(l.path)); err == nil && !info.Mode().IsRegular() {
		_ = dir.Close() // only looked at
		return &codeError{code: exitConflict, text: Text(l.path) + " is there and is no regular file"}
	}
	l.dir, l.part = dir, partialPrefix+l.id[:32]
	return nil
}

func (l *localTarget) held(ctx context.Context) (int64, []byte, error) {
	if err := l.open(); err != nil {
		return 0, nil, err
	}
	info, err := l.dir.Lstat(l.part)
	if err != nil || !info.Mode().IsRegular() {
		return 0, nil, nil
	}
	f, err := l.dir.Open(l.part)
	if err != nil {
		return 0, nil, fileError(err)
	}
	defer f.Close()
	l.h = sha256.New()
	buf := make([]byte, pieceSize)
	for l.at = 0; ; {
		n, err := f.Read(buf)
		l.h.Write(buf[:n])
		l.at += int64(n)
		if errors.Is(err, io.EOF) {
			return l.at, l.h.Sum(nil), nil
		}
		if err != nil {
			return 0, nil, fileError(err)
		}
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
	}
}

func (l *localTarget) begin(_ context.Context, at int64, _ []byte) error {
	if err := l.open(); err != nil {
		return err
	}
	if info, err := l.dir.Lstat(l.part); err == nil && !info.Mode().IsRegular() {
		return &codeError{code: exitConflict, text: "there is something in the place of " + Text(l.part)}
	}
	f, err := l.dir.OpenFile(l.part, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(at)
	}
	if err != nil {
		return fileError(err)
	}
	l.f, l.at = f, at
	return nil
}

func (l *localTarget) write(p []byte) error {
	n, err := l.f.WriteAt(p, l.at)
	l.at += int64(n)
	if err != nil {
		return fileError(err)
	}
	return nil
}

func (l *localTarget) abort() {
	if l.f != nil {
		_ = l.f.Close() // what did not arrive is sent again
		l.f = nil
	}
}

// finish names the file. Its contents were compared as they arrived.
func (l *localTarget) finish([]byte) error {
	f := l.f
	l.f = nil
	base := filepath.Base(l.path)
	mode := l.k.modeOf(l.what)
	if old, err := l.dir.Stat(base); err == nil && !l.k.preserve {
		m := old.Mode().Perm()
		mode = &m
	}
	if mode == nil {
		m := 0o666 &^ umask()
		mode = &m
	}
	err := errors.Join(f.Chmod(*mode), f.Sync(), f.Close())
	if err == nil && l.k.preserve {
		err = l.dir.Chtimes(l.part, time.Time{}, l.what.modTime)
	}
	if err == nil {
		if l.k.keep {
			if _, there := l.dir.Lstat(base); there == nil {
				err = fs.ErrExist
			}
		}
	}
	if err == nil {
		name := base
		if real, linked := l.dir.Readlink(base); linked == nil && filepath.IsLocal(real) {
			name = real // a link stays one
		}
		err = l.dir.Rename(l.part, name)
	}
	if err != nil {
		return fileError(err)
	}
	return nil
}

func (l *localTarget) close() {
	l.abort()
	if l.dir != nil {
		_ = l.dir.Close() // nothing was written through it
	}
}

// nodeTarget is a file of a node that is written.
type nodeTarget struct {
	k    *copier
	w    spot
	what fileFound
	id   string

	s      tunnelv1.FileService_WriteFileClient
	cancel context.CancelFunc
}

func (n *nodeTarget) held(ctx context.Context) (int64, []byte, error) {
	req := &tunnelv1.GetUploadRequest{NodeId: n.w.node.GetNodeId(), UploadId: n.id}
	req.Path, req.RawPath = rawPath(n.w.path)
	out, err := n.k.c.Files.GetUpload(ctx, req)
	return out.GetHeld(), out.GetSha256(), err
}

func (n *nodeTarget) begin(ctx context.Context, at int64, prefix []byte) error {
	ctx, n.cancel = context.WithCancel(ctx)
	s, err := n.k.c.Files.WriteFile(ctx)
	if err != nil {
		return err
	}
	up := &tunnelv1.FileUpload{
		NodeId: n.w.node.GetNodeId(), UploadId: n.id, Offset: at, PrefixSha256: prefix, Size: &n.what.size, Overwrite: !n.k.keep,
	}
	up.Path, up.RawPath = rawPath(n.w.path)
	if mode := n.k.modeOf(n.what); mode != nil {
		bits := uint32(*mode)
		up.Mode = &bits
	}
	if n.k.preserve {
		up.ModifiedAt = timestamppb.New(n.what.modTime)
	}
	n.s = s
	return n.put(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Begin{Begin: up}})
}

// put sends a message; a stream that has ended says why.
func (n *nodeTarget) put(m *tunnelv1.WriteFileRequest) error {
	err := n.s.Send(m)
	if errors.Is(err, io.EOF) {
		_, err = n.s.Recv()
		if err == nil {
			err = errDamaged
		}
		err = again(err)
	}
	return err
}

// again says that a copy begins anew when what the node has is something else.
func again(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && (e.Code == "files.prefix" || e.Code == "files.checksum") {
		return errors.Join(errAgain, err)
	}
	return err
}

func (n *nodeTarget) write(p []byte) error {
	return n.put(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Data{Data: p}})
}

func (n *nodeTarget) finish(sum []byte) error {
	if err := n.put(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Sha256{Sha256: sum}}); err != nil {
		return err
	}
	if err := n.s.CloseSend(); err != nil {
		return err
	}
	_, err := n.s.Recv()
	return again(err)
}

func (n *nodeTarget) abort() {
	if n.cancel != nil {
		n.cancel()
	}
}

func (n *nodeTarget) close() { n.abort() }
