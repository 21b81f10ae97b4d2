package tech

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/files"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// fileQueue is how many messages of a file channel wait: while the disk is busy with some pieces, the next come in.
	fileQueue = 8
	// commitBytes is how much of an upload is written before the disk is waited for.
	commitBytes = 16 << 20
	// filePiece is how much of a file travels at once: it fits one piece of a channel with its head, and what terminals say
	// goes in between. Smaller ones cost more than they spare.
	filePiece = 128 << 10
	// listBytes bounds the entries of one answer, so that they fit a payload.
	listBytes = 48 << 10
	// maxUploads is of how many uploads at once a channel remembers how far they are.
	maxUploads = 16
)

// store is what a file channel serves.
type store struct {
	*served
	in      <-chan message.Message
	next    *message.Message  // taken from in, and not handled yet
	uploads map[string]upload // by path and name
}

// upload is how far an upload is on disk.
type upload struct {
	held int64
	sum  []byte
}

// file serves a channel for files. Each request is answered, one after the other.
func (c *served) file(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	in, ended := make(chan message.Message, fileQueue), make(chan error, 1)
	go func() {
		defer close(in)
		for {
			m, err := c.conn.Receive(ctx)
			if err != nil {
				ended <- err
				cancel() // nobody waits for what is being done
				return
			}
			select {
			case in <- m:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	defer func() {
		cancel()
		_ = c.conn.Close(nil) // ends the goroutine above; serve has said why when there is something to say
		for range in {        //nolint:revive // what came too late
		}
	}()
	s := &store{served: c, in: in, uploads: map[string]upload{}}
	for {
		var m message.Message
		if s.next != nil {
			m, s.next = *s.next, nil
		} else {
			var ok bool
			if m, ok = <-in; !ok {
				return <-ended
			}
		}
		if err := s.work(ctx, m, s.handle); err != nil {
			return err
		}
	}
}

func (s *store) handle(ctx context.Context, m message.Message) error {
	switch m.Type {
	case message.TypeList:
		var p message.Path
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		return s.list(ctx, p)
	case message.TypeRead, message.TypeSum:
		var p message.FileRead
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		if p.Offset < 0 || p.Length < 0 {
			return files.ErrRange
		}
		in := files.ReadIn{Path: s.h.local(pathOf(p.Path, p.PathB64)), Offset: p.Offset, Length: p.Length}
		if in.Length == 0 {
			in.Length = -1
		}
		if m.Type == message.TypeSum {
			return s.sum(ctx, in)
		}
		return s.read(ctx, in)
	case message.TypeWrite:
		p, err := s.writeOf(m)
		if err != nil {
			return err
		}
		if s.h.ReadOnly {
			return errs.New(errs.Denied, "this technician session is for reading only")
		}
		switch {
		case p.Probe:
			return s.probe(ctx, p)
		case p.Upload == "":
			return s.place(ctx, p)
		}
		return s.write(ctx, p)
	}
	return ErrMessage
}

func pathOf(text string, raw []byte) string {
	if len(raw) > 0 {
		return string(raw)
	}
	return text
}

func textOf(s string) (text string, raw []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return strings.ToValidUTF8(s, "\uFFFD"), []byte(s)
}

// list answers with as many entries as fit.
func (s *store) list(ctx context.Context, p message.Path) error {
	out, err := s.h.files.List(ctx, files.ListIn{Path: s.h.local(pathOf(p.Path, p.PathB64)), After: pathOf(p.After, p.AfterB64)})
	if err != nil {
		return err
	}
	answer := message.Entries{Entries: []message.Entry{}, More: out.More}
	size := 0
	for _, e := range out.Entries {
		one := entryOf(e)
		b, err := json.Marshal(one)
		if err != nil {
			return err
		}
		if size += len(b) + 1; size > listBytes {
			answer.More = true
			break
		}
		answer.Entries = append(answer.Entries, one)
	}
	return s.send(ctx, message.TypeEntries, answer, nil)
}

func entryOf(e files.Entry) message.Entry {
	mode := e.Mode.Perm()
	switch e.Kind {
	case files.Directory:
		mode |= fs.ModeDir
	case files.Link:
		mode |= fs.ModeSymlink
	case files.Other:
		mode |= fs.ModeIrregular
	}
	out := message.Entry{Size: e.Size, Mode: modeOf(mode), MtimeMS: e.ModTime.UnixMilli(), Dir: e.Kind == files.Directory, Link: e.Kind == files.Link}
	out.Name, out.NameB64 = textOf(e.Name)
	return out
}

// modeOf writes a mode as ls does.
func modeOf(m fs.FileMode) string {
	first := "-"
	switch {
	case m.IsDir():
		first = "d"
	case m&fs.ModeSymlink != 0:
		first = "l"
	case !m.IsRegular():
		first = "?"
	}
	return first + m.Perm().String()[1:]
}

// sum answers with the checksum of a range.
func (s *store) sum(ctx context.Context, in files.ReadIn) error {
	out, err := s.h.files.Hash(ctx, in)
	if err != nil {
		return err
	}
	return s.send(ctx, message.TypeFileSum, message.FileSum{SHA256: hex.EncodeToString(out.SHA256), Size: out.Bytes}, nil)
}

// read sends a range. What fits one message goes in one; else the last message says how it ended, and has no data.
func (s *store) read(ctx context.Context, in files.ReadIn) error {
	e, err := s.h.files.Stat(ctx, in.Path)
	if err != nil {
		return err
	}
	in.Version = e.Version
	rest := max(e.Size-in.Offset, 0)
	if in.Length >= 0 {
		rest = min(rest, in.Length)
	}
	p := &reading{s: s, ctx: ctx, at: in.Offset, whole: rest <= message.MaxData}
	out, err := s.h.files.Read(ctx, in, p)
	if err != nil {
		return err
	}
	if !p.whole {
		p.held, p.from = nil, p.at
	}
	last := message.FileChunk{Offset: p.from, EOF: out.EOF, Done: true, SHA256: hex.EncodeToString(out.SHA256), Size: out.Entry.Size}
	if p.whole {
		last.Offset = in.Offset
	}
	return s.send(ctx, message.TypeFileChunk, last, p.held)
}

// reading sends pieces of a file, or holds them back when they are one message.
type reading struct {
	s     *store
	ctx   context.Context //nolint:containedctx // of the request
	at    int64
	from  int64
	whole bool
	held  []byte
}

func (r *reading) Write(p []byte) (int, error) {
	if r.whole {
		r.held = append(r.held, p...)
		r.at += int64(len(p))
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), filePiece)
		if err := r.s.send(r.ctx, message.TypeFileChunk, message.FileChunk{Offset: r.at}, rest[:n]); err != nil {
			return 0, err
		}
		rest, r.at = rest[n:], r.at+int64(n)
	}
	return len(p), nil
}

// writing is a piece of an upload, or of a file.
type writing struct {
	message.FileWrite
	path string
	data []byte
	sha  []byte // nil without one
}

func (w writing) end() int64 { return w.Offset + int64(len(w.data)) }

func (w writing) key() string { return w.path + "\x00" + w.Upload }

func (s *store) writeOf(m message.Message) (w writing, err error) {
	if err := m.Into(&w.FileWrite); err != nil {
		return w, errs.New(errs.Invalid, err.Error())
	}
	w.path, w.data = s.h.local(pathOf(w.Path, w.PathB64)), m.Data
	if w.Offset < 0 || w.Size < 0 {
		return w, files.ErrRange
	}
	if w.SHA256 != "" {
		if w.sha, err = hex.DecodeString(w.SHA256); err != nil || len(w.sha) != 32 {
			return w, errs.New(errs.Invalid, "a checksum is a SHA-256 of 64 hexadecimal digits")
		}
	}
	if w.Upload != "" && w.EOF && !w.Probe && w.sha == nil {
		return w, errs.New(errs.Invalid, "sha256 of the whole file is needed to finish an upload")
	}
	return w, nil
}

func (w writing) mode() *fs.FileMode {
	if w.Mode == 0 {
		return nil
	}
	m := fs.FileMode(w.Mode).Perm()
	return &m
}

// probe answers how much of an upload is on disk.
func (s *store) probe(ctx context.Context, p writing) error {
	u, err := s.held(ctx, p)
	if err != nil {
		return err
	}
	return s.send(ctx, message.TypeAck, message.FileAck{Written: u.held, SHA256: hex.EncodeToString(u.sum)}, nil)
}

// held looks how far an upload is, and remembers it.
func (s *store) held(ctx context.Context, p writing) (upload, error) {
	out, err := s.h.files.Held(ctx, p.path, p.Upload)
	if err != nil {
		return upload{}, err
	}
	u := upload{out.Held, out.SHA256}
	s.note(p.key(), u)
	return u, nil
}

func (s *store) note(key string, u upload) {
	if _, ok := s.uploads[key]; !ok && len(s.uploads) >= maxUploads {
		clear(s.uploads) // they are looked up again
	}
	s.uploads[key] = u
}

// place writes a piece in place, without an upload.
func (s *store) place(ctx context.Context, p writing) error {
	if p.Offset == 0 && p.Truncate && p.EOF {
		_, err := s.h.files.Put(ctx, files.PutIn{Path: p.path, Data: p.data, SHA256: p.sha, Mode: p.mode(), Overwrite: true, Parents: p.Parents})
		if err != nil {
			return err
		}
		return s.send(ctx, message.TypeAck, message.FileAck{Written: p.end(), Done: true}, nil)
	}
	_, err := s.h.files.Patch(ctx, files.PatchIn{Path: p.path, Offset: p.Offset, Data: p.data, Truncate: p.Truncate})
	if errors.Is(err, files.ErrNotFound) && p.Offset == 0 {
		_, err = s.h.files.Put(ctx, files.PutIn{Path: p.path, Data: p.data, Mode: p.mode(), Parents: p.Parents})
	}
	if err == nil && p.EOF && p.sha != nil {
		var out files.ReadOut
		if out, err = s.h.files.Hash(ctx, files.ReadIn{Path: p.path, Length: -1}); err == nil && !bytes.Equal(out.SHA256, p.sha) {
			err = errs.New(errs.Conflict, "the file has another checksum than what was sent; write it again")
		}
	}
	if err != nil {
		return err
	}
	return s.send(ctx, message.TypeAck, message.FileAck{Written: p.end(), Done: p.EOF}, nil)
}

// write adds a piece to an upload, with those of it that have come meanwhile: the disk is waited for once.
func (s *store) write(ctx context.Context, first writing) error {
	in := files.WriteIn{Path: first.path, Upload: first.Upload, Offset: first.Offset, Size: -1, Overwrite: true, Parents: first.Parents}
	if first.Size > 0 {
		in.Size = first.Size
	}
	if first.Offset > 0 {
		u, known := s.uploads[first.key()]
		if !known {
			var err error
			if u, err = s.held(ctx, first); err != nil {
				return err
			}
		}
		if u.held != first.Offset {
			return errs.New(errs.Conflict, fmt.Sprintf("%d bytes of this upload are on the node; go on there, or begin again at 0", u.held)).With("held", u.held)
		}
		in.Prefix = u.sum
	}
	group := &pending{s: s, all: []writing{first}, left: commitBytes}
	out, err := s.h.files.Write(ctx, in, group)
	delete(s.uploads, first.key())
	if err == nil {
		s.note(first.key(), upload{out.Held, out.SHA256})
	}
	last := group.all[len(group.all)-1]
	for _, w := range group.all {
		switch {
		case err != nil && (w.EOF || w.end() > out.Held):
			if ctx.Err() != nil {
				return err
			}
			if err := s.refuse(ctx, err); err != nil {
				return err
			}
		case !w.EOF:
			if err := s.send(ctx, message.TypeAck, message.FileAck{Written: w.end()}, nil); err != nil {
				return err
			}
		}
	}
	if err != nil || !last.EOF {
		return nil // told above
	}
	delete(s.uploads, first.key())
	if _, err := s.h.files.Commit(ctx, files.CommitIn{Path: last.path, Upload: last.Upload, Size: last.end(), SHA256: last.sha, Mode: last.mode(), Overwrite: true}); err != nil {
		return err
	}
	return s.send(ctx, message.TypeAck, message.FileAck{Written: last.end(), Done: true}, nil)
}

// pending reads the pieces of an upload that have come, without waiting for any.
type pending struct {
	s    *store
	all  []writing
	at   int // of all
	done int // bytes of that one
	left int
}

func (g *pending) Read(p []byte) (int, error) {
	for {
		if w := g.all[g.at]; g.done < len(w.data) {
			n := copy(p, w.data[g.done:])
			g.done += n
			return n, nil
		}
		if g.at+1 < len(g.all) {
			g.at, g.done = g.at+1, 0
			continue
		}
		if !g.take() {
			return 0, io.EOF
		}
	}
}

// take adds the next piece when it is there, and follows the one before.
func (g *pending) take() bool {
	before := g.all[len(g.all)-1]
	if g.left -= len(before.data); before.EOF || g.left <= 0 || g.s.next != nil {
		return false
	}
	select {
	case m, ok := <-g.s.in:
		if !ok {
			return false
		}
		g.s.next = &m
	default:
		return false
	}
	if g.s.next.Type != message.TypeWrite {
		return false
	}
	w, err := g.s.writeOf(*g.s.next)
	if err != nil || w.Probe || w.path != before.path || w.Upload != before.Upload || w.Offset != before.end() || w.Offset == 0 {
		return false
	}
	g.s.next = nil
	g.all = append(g.all, w)
	return true
}
