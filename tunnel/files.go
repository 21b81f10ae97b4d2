package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// Limits of files of nodes.
const (
	// maxFileStreams is how many files are read and written at once over all callers; one more is refused.
	maxFileStreams = 128
	// filePiece is how many bytes travel in one call to a node whose link has no channels.
	filePiece = 512 << 10
	// smallFile is up to which size a file goes to its node in one call.
	smallFile = 128 << 10
	// askFile is how long a node may take to say something of a file, and hashFile to read one and to bring
	// what arrived to its disk.
	askFile  = 30 * time.Second
	hashFile = 30 * time.Minute
	// refusalWait is how long the node's own reason is waited for when it gave a channel up.
	refusalWait = 5 * time.Second
)

// The errors of files of nodes, beside those of the package files.
var (
	ErrFileStreams = errs.Define(errs.Exhausted, "files.too_many", "too many files are being read and written; try again later")
	ErrFileAnswer  = errs.Define(errs.Unavailable, "files.answer", "the node's answer about the file is not understood")
	ErrFileSum     = errs.Define(errs.Unavailable, "files.damaged", "what arrived of the file has another checksum than what the node read; read it again")
	ErrFileEnd     = errs.Define(errs.Invalid, "files.no_end", "the contents ended without their checksum; what arrived of an upload with a name is kept")
	ErrFileSize    = errs.Define(errs.Invalid, "files.size", "the contents are not as long as they were announced to be")
)

// FileChannel is a stream of bytes to and from a node.
type FileChannel interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Close(err error) error
}

// ErrNoFileChannel is what FileNodes.Open fails with when a node's link has no channels.
var ErrNoFileChannel = errors.New("the link has no channels")

// FileNodes send commands to nodes, after everything that decides on them. A node's refusal comes back as
// NodeFault words it.
type FileNodes interface {
	// Call returns the answer as JSON text.
	Call(ctx context.Context, c identity.Caller, nodeID, command string, params []byte, limit time.Duration) ([]byte, error)
	// Open does the same with a channel; the answer is waited for by calling what it returns.
	Open(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) (FileChannel, func(context.Context) ([]byte, error), error)
}

// Files reads and changes files of nodes. Its methods may be called concurrently. It owns no goroutine.
type Files struct {
	nodes FileNodes
	slots chan struct{}
}

// NewFiles makes it.
func NewFiles(nodes FileNodes) *Files {
	return &Files{nodes, make(chan struct{}, maxFileStreams)}
}

func (f *Files) slot() (func(), error) {
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	default:
		return nil, ErrFileStreams
	}
}

// fileParams are the parameters of a command.
type fileParams map[string]any

// path sets a path, which need not be text.
func (p fileParams) path(name, path string) fileParams {
	if utf8.ValidString(path) {
		p[name] = path
	} else {
		p[name+"_b64"] = base64.StdEncoding.EncodeToString([]byte(path))
	}
	return p
}

func (p fileParams) text() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // texts, numbers and booleans only: a fault of this package
	}
	return b
}

// answer is what a node says.
type fileAnswer map[string]json.RawMessage

func answerOf(text []byte) (fileAnswer, error) {
	var a fileAnswer
	if err := json.Unmarshal(text, &a); err != nil || a == nil {
		return nil, ErrFileAnswer
	}
	return a, nil
}

func get[T any](a fileAnswer, name string) T {
	var v T
	_ = json.Unmarshal(a[name], &v) // what is missing is zero
	return v
}

// raw reads a text that may stand in base64.
func (a fileAnswer) raw(name string) string {
	if b := get[[]byte](a, name+"_b64"); len(b) > 0 {
		return string(b)
	}
	return get[string](a, name)
}

func (a fileAnswer) sum(name string) []byte {
	b, err := hex.DecodeString(get[string](a, name))
	if err != nil || len(b) != sha256.Size {
		return nil
	}
	return b
}

func (a fileAnswer) entry() files.Entry {
	ns, _ := strconv.ParseInt(get[string](a, "mtime_ns"), 10, 64)
	e := files.Entry{
		Name: a.raw("name"), Path: a.raw("path"), Target: a.raw("target"), Kind: files.Kind(get[string](a, "kind")), Size: get[int64](a, "size"),
		Mode: fs.FileMode(get[uint32](a, "mode")).Perm(), ModTime: time.Unix(0, ns), Version: get[string](a, "version"), SHA256: a.sum("sha256"),
		Writable: get[bool](a, "writable"), Partial: get[bool](a, "partial"),
	}
	switch e.Kind {
	case files.File, files.Directory, files.Link:
	default:
		e.Kind = files.Other
	}
	return e
}

// call sends a command and reads its answer.
func (f *Files) call(ctx context.Context, c identity.Caller, node, command string, p fileParams, limit time.Duration) (fileAnswer, error) {
	text, err := f.nodes.Call(ctx, c, node, command, p.text(), limit)
	if err != nil {
		return nil, err
	}
	return answerOf(text)
}

func (f *Files) entry(ctx context.Context, c identity.Caller, node, command string, p fileParams) (files.Entry, error) {
	a, err := f.call(ctx, c, node, command, p, askFile)
	if err != nil {
		return files.Entry{}, err
	}
	return get[fileAnswer](a, "entry").entry(), nil
}

// FileIn names a file of a node.
type FileIn struct {
	NodeID string
	Path   string
}

// Stat describes a file or a directory.
func (f *Files) Stat(ctx context.Context, c identity.Caller, in FileIn) (files.Entry, error) {
	return f.entry(ctx, c, in.NodeID, "file.stat", fileParams{}.path("path", in.Path))
}

// ListFilesIn is the argument of List.
type ListFilesIn struct {
	NodeID string
	files.ListIn
}

// List lists a directory. Its entries have no paths.
func (f *Files) List(ctx context.Context, c identity.Caller, in ListFilesIn) (files.ListOut, error) {
	p := fileParams{"limit": in.Limit}.path("path", in.Path).path("after", in.After)
	a, err := f.call(ctx, c, in.NodeID, "file.list", p, askFile)
	if err != nil {
		return files.ListOut{}, err
	}
	out := files.ListOut{Path: a.raw("path"), More: get[bool](a, "more")}
	for _, e := range get[[]fileAnswer](a, "entries") {
		if len(out.Entries) == files.MaxEntries {
			return files.ListOut{}, ErrFileAnswer
		}
		out.Entries = append(out.Entries, e.entry())
	}
	return out, nil
}

// ReadFileIn is the argument of Read and of Hash.
type ReadFileIn struct {
	NodeID string
	files.ReadIn
}

func (in ReadFileIn) params() fileParams {
	p := fileParams{"offset": in.Offset, "version": in.Version}.path("path", in.Path)
	if in.Length >= 0 {
		p["length"] = in.Length
	}
	return p
}

func readOut(a fileAnswer) files.ReadOut {
	return files.ReadOut{
		Bytes: get[int64](a, "bytes"), SHA256: a.sum("sha256"), EOF: get[bool](a, "eof"), Entry: get[fileAnswer](a, "entry").entry(),
	}
}

// Hash returns the checksum of a range of a file.
func (f *Files) Hash(ctx context.Context, c identity.Caller, in ReadFileIn) (files.ReadOut, error) {
	a, err := f.call(ctx, c, in.NodeID, "file.hash", in.params(), hashFile)
	if err != nil {
		return files.ReadOut{}, err
	}
	return readOut(a), nil
}

// Read hands a range of a file to w, in pieces of at most 512 KiB. What w got is as the node read it when it
// returns without an error; w itself compares the checksum.
func (f *Files) Read(ctx context.Context, c identity.Caller, in ReadFileIn, w io.Writer) (files.ReadOut, error) {
	release, err := f.slot()
	if err != nil {
		return files.ReadOut{}, err
	}
	defer release()
	ch, answer, err := f.nodes.Open(ctx, c, in.NodeID, "file.read", in.params().text())
	if errors.Is(err, ErrNoFileChannel) {
		return f.readPieces(ctx, c, in, w)
	}
	if err != nil {
		return files.ReadOut{}, err
	}
	defer func() { _ = ch.Close(nil) }() // it has ended, or its reason is on its way
	defer closeWith(ctx, ch)()
	n, err := io.Copy(w, ch)
	if err != nil {
		_ = ch.Close(err)
		if refusal := f.refusal(ctx, answer); refusal != nil {
			err = refusal
		}
		return files.ReadOut{}, err
	}
	text, err := answer(ctx)
	if err != nil {
		return files.ReadOut{}, err
	}
	a, err := answerOf(text)
	if err != nil {
		return files.ReadOut{}, err
	}
	out := readOut(a)
	if out.Bytes != n || out.SHA256 == nil {
		return files.ReadOut{}, ErrFileSum
	}
	return out, nil
}

// closeWith closes a channel when ctx ends, until the returned function is called.
func closeWith(ctx context.Context, ch FileChannel) func() {
	stop := context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) }) // what waits in it fails
	return func() { stop() }
}

// refusal is the node's own reason for giving a channel up, nil when it says none in time.
func (f *Files) refusal(ctx context.Context, answer func(context.Context) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, refusalWait)
	defer cancel()
	_, err := answer(ctx)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return err
}

func (f *Files) readPieces(ctx context.Context, c identity.Caller, in ReadFileIn, w io.Writer) (files.ReadOut, error) {
	h, all := sha256.New(), files.ReadOut{}
	left := in.Length
	for {
		piece := in
		piece.Offset, piece.Length, piece.Version = in.Offset+all.Bytes, filePiece, all.Entry.Version
		if all.Entry.Version == "" {
			piece.Version = in.Version
		}
		if left >= 0 {
			piece.Length = min(left-all.Bytes, filePiece)
		}
		a, err := f.call(ctx, c, in.NodeID, "file.read", piece.params(), askFile)
		if err != nil {
			return files.ReadOut{}, err
		}
		data, out := get[[]byte](a, "data_b64"), readOut(a)
		if sum := sha256.Sum256(data); out.Bytes != int64(len(data)) || !bytes.Equal(out.SHA256, sum[:]) {
			return files.ReadOut{}, ErrFileSum
		}
		h.Write(data)
		if _, err := w.Write(data); err != nil {
			return files.ReadOut{}, err
		}
		out.Bytes += all.Bytes
		all = out
		if out.EOF || len(data) == 0 || left >= 0 && out.Bytes >= left {
			all.SHA256 = h.Sum(nil)
			return all, nil
		}
	}
}

// WriteFileIn is the argument of Write.
type WriteFileIn struct {
	NodeID string
	// The upload may have no name; then nothing is kept of it when it fails.
	files.WriteIn
	// Mode and ModTime are as for files.CommitIn.
	Mode    *fs.FileMode
	ModTime time.Time
}

// Contents are what is written: pieces, and at the end the checksum of the whole file.
type Contents interface {
	// Next returns a piece, or a checksum and io.EOF. Any other error means that the sender is gone.
	Next() (piece, sha256 []byte, err error)
}

// Write replaces a file once everything has arrived and its checksum holds.
func (f *Files) Write(ctx context.Context, c identity.Caller, in WriteFileIn, from Contents) (files.Entry, error) {
	release, err := f.slot()
	if err != nil {
		return files.Entry{}, err
	}
	defer release()
	if in.Size >= 0 && in.Offset > in.Size || in.Offset < 0 {
		return files.Entry{}, files.ErrRange
	}
	if in.Offset == 0 && in.Size >= 0 && in.Size <= smallFile {
		return f.writeSmall(ctx, c, in, from)
	}
	named := in.Upload != ""
	if !named {
		in.Upload = "once-" + rand.Text()
	}
	e, err := f.upload(ctx, c, in, from)
	if err != nil && !named {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalWait)
		defer cancel()
		p := fileParams{"upload": in.Upload}.path("path", in.Path)
		_, _ = f.call(ctx, c, in.NodeID, "file.remove", p, refusalWait) // else the node itself sweeps it
	}
	return e, err
}

func (in WriteFileIn) params() fileParams {
	p := fileParams{"overwrite": in.Overwrite, "parents": in.Parents}.path("path", in.Path)
	if in.Mode != nil {
		p["mode"] = uint32(*in.Mode)
	}
	if !in.ModTime.IsZero() {
		p["mtime_ns"] = strconv.FormatInt(in.ModTime.UnixNano(), 10)
	}
	if in.Size >= 0 {
		p["size"] = in.Size
	}
	return p
}

func (f *Files) writeSmall(ctx context.Context, c identity.Caller, in WriteFileIn, from Contents) (files.Entry, error) {
	var data []byte
	for {
		piece, sum, err := from.Next()
		switch {
		case errors.Is(err, io.EOF):
			if int64(len(data)) != in.Size {
				return files.Entry{}, ErrFileSize
			}
			own := sha256.Sum256(data)
			if !bytes.Equal(own[:], sum) {
				return files.Entry{}, files.ErrChecksum
			}
			p := in.params()
			p["data_b64"], p["sha256"] = base64.StdEncoding.EncodeToString(data), hex.EncodeToString(sum)
			return f.entry(ctx, c, in.NodeID, "file.write", p)
		case err != nil:
			return files.Entry{}, err
		case int64(len(data)+len(piece)) > in.Size:
			return files.Entry{}, ErrFileSize
		}
		data = append(data, piece...)
	}
}

func (f *Files) upload(ctx context.Context, c identity.Caller, in WriteFileIn, from Contents) (files.Entry, error) {
	p := in.params()
	p["upload"], p["offset"] = in.Upload, in.Offset
	if in.Prefix != nil {
		p["prefix_sha256"] = hex.EncodeToString(in.Prefix)
	}
	whole := in.Size >= 0 // its checksum goes along then, behind the bytes
	if whole {
		p["commit"] = true
	}
	ch, answer, err := f.nodes.Open(ctx, c, in.NodeID, "file.write", p.text())
	if errors.Is(err, ErrNoFileChannel) {
		return f.writePieces(ctx, c, in, from)
	}
	if err != nil {
		return files.Entry{}, err
	}
	defer func() { _ = ch.Close(nil) }() // it has ended, or its reason is on its way
	defer closeWith(ctx, ch)()
	size := in.Offset
	for {
		piece, sum, err := from.Next()
		switch {
		case errors.Is(err, io.EOF) && in.Size >= 0 && size != in.Size:
			err = ErrFileSize
		case errors.Is(err, io.EOF):
			return f.finish(ctx, c, in, ch, answer, size, sum)
		case err == nil && in.Size >= 0 && size+int64(len(piece)) > in.Size:
			err = ErrFileSize
		}
		if err != nil {
			_ = ch.Close(err)
			_ = f.refusal(ctx, answer) // what arrived is on disk then
			return files.Entry{}, err
		}
		if _, err := ch.Write(piece); err != nil {
			_ = ch.Close(err)
			if refusal := f.refusal(ctx, answer); refusal != nil {
				err = refusal
			}
			return files.Entry{}, err
		}
		size += int64(len(piece))
	}
}

// finish ends an upload whose bytes are all on their way.
func (f *Files) finish(
	ctx context.Context, c identity.Caller, in WriteFileIn, ch FileChannel, answer func(context.Context) ([]byte, error), size int64, sum []byte,
) (files.Entry, error) {
	var err error
	if in.Size >= 0 {
		_, err = ch.Write(sum)
	}
	if err == nil {
		err = ch.CloseWrite()
	}
	text, refused := answer(ctx)
	if refused != nil {
		return files.Entry{}, refused
	}
	if err != nil {
		return files.Entry{}, err
	}
	a, err := answerOf(text)
	if err != nil {
		return files.Entry{}, err
	}
	if in.Size >= 0 {
		return get[fileAnswer](a, "entry").entry(), nil
	}
	return f.commit(ctx, c, in, size, sum)
}

func (f *Files) commit(ctx context.Context, c identity.Caller, in WriteFileIn, size int64, sum []byte) (files.Entry, error) {
	in.Size = size
	p := in.params()
	p["upload"], p["commit"], p["sha256"] = in.Upload, true, hex.EncodeToString(sum)
	a, err := f.call(ctx, c, in.NodeID, "file.write", p, hashFile)
	if err != nil {
		return files.Entry{}, err
	}
	return get[fileAnswer](a, "entry").entry(), nil
}

func (f *Files) writePieces(ctx context.Context, c identity.Caller, in WriteFileIn, from Contents) (files.Entry, error) {
	at, prefix := in.Offset, in.Prefix
	var held []byte
	flush := func() error {
		p := fileParams{
			"upload": in.Upload, "offset": at, "overwrite": in.Overwrite, "parents": in.Parents,
			"data_b64": base64.StdEncoding.EncodeToString(held),
		}.path("path", in.Path)
		if in.Size >= 0 {
			p["size"] = in.Size
		}
		if at > 0 {
			p["prefix_sha256"] = hex.EncodeToString(prefix)
		}
		a, err := f.call(ctx, c, in.NodeID, "file.write", p, askFile)
		if err != nil {
			return err
		}
		at += int64(len(held))
		prefix, held = a.sum("sha256"), held[:0]
		if get[int64](a, "held") != at || prefix == nil {
			return ErrFileAnswer
		}
		return nil
	}
	for {
		piece, sum, err := from.Next()
		if errors.Is(err, io.EOF) {
			if err := flush(); err != nil {
				return files.Entry{}, err
			}
			if in.Size >= 0 && in.Size != at {
				return files.Entry{}, ErrFileSize
			}
			return f.commit(ctx, c, in, at, sum)
		}
		if err != nil {
			return files.Entry{}, err
		}
		for len(piece) > 0 {
			n := min(len(piece), filePiece-len(held))
			held, piece = append(held, piece[:n]...), piece[n:]
			if len(held) == filePiece {
				if err := flush(); err != nil {
					return files.Entry{}, err
				}
			}
		}
	}
}

// HeldIn names an upload.
type HeldIn struct {
	NodeID, Path, Upload string
}

// Held reports what is on the node's disk of an upload.
func (f *Files) Held(ctx context.Context, c identity.Caller, in HeldIn) (files.WriteOut, error) {
	if in.Upload == "" {
		return files.WriteOut{}, files.ErrUpload
	}
	a, err := f.call(ctx, c, in.NodeID, "file.stat", fileParams{"upload": in.Upload}.path("path", in.Path), hashFile)
	if err != nil {
		return files.WriteOut{}, err
	}
	out := files.WriteOut{Held: get[int64](a, "held"), SHA256: a.sum("sha256")}
	if out.Held < 0 || out.SHA256 == nil {
		return files.WriteOut{}, ErrFileAnswer
	}
	return out, nil
}

// MakeDirectoryIn is the argument of MakeDirectory.
type MakeDirectoryIn struct {
	NodeID string
	files.MkdirIn
}

// MakeDirectory makes a directory.
func (f *Files) MakeDirectory(ctx context.Context, c identity.Caller, in MakeDirectoryIn) (files.Entry, error) {
	p := fileParams{"parents": in.Parents}.path("path", in.Path)
	if in.Mode != 0 {
		p["mode"] = uint32(in.Mode)
	}
	return f.entry(ctx, c, in.NodeID, "file.mkdir", p)
}

// RemoveFileIn is the argument of Remove.
type RemoveFileIn struct {
	NodeID string
	files.RemoveIn
}

// Remove removes a file, a symbolic link or a directory.
func (f *Files) Remove(ctx context.Context, c identity.Caller, in RemoveFileIn) (struct{}, error) {
	p := fileParams{"recursive": in.Recursive, "missing": in.Missing}.path("path", in.Path)
	if in.Upload != "" {
		p["upload"] = in.Upload
	}
	_, err := f.call(ctx, c, in.NodeID, "file.remove", p, hashFile)
	return struct{}{}, err
}

// RenameFileIn is the argument of Rename.
type RenameFileIn struct {
	NodeID string
	files.RenameIn
}

// Rename moves a file or a directory of a node.
func (f *Files) Rename(ctx context.Context, c identity.Caller, in RenameFileIn) (files.Entry, error) {
	return f.entry(ctx, c, in.NodeID, "file.rename", fileParams{"overwrite": in.Overwrite}.path("path", in.From).path("to", in.To))
}

// faults are the errors of package files by the codes that nodes send.
var faults = []*errs.Error{
	files.ErrPath, files.ErrOutside, files.ErrReadOnly, files.ErrNoRoots, files.ErrPermission, files.ErrNotFound, files.ErrExists, files.ErrDirectory,
	files.ErrNoDirectory, files.ErrNotEmpty, files.ErrSpecial, files.ErrChanged, files.ErrPrefix, files.ErrChecksum, files.ErrIncomplete,
	files.ErrTaken, files.ErrRange, files.ErrUpload, files.ErrTooMany, files.ErrBusy, files.ErrNoSpace, files.ErrRoot, files.ErrNoLinks,
}

// NodeFault words what a node says of a command that failed, nil when it is none of the failures of files.
// Some links lose the code, so that it stands before the text too.
func NodeFault(code, message string) error {
	if first, rest, ok := strings.Cut(message, ": "); ok && strings.HasPrefix(first, "FILES_") {
		code, message = first, rest
	}
	own, ok := strings.CutPrefix(code, "FILES_")
	if !ok {
		return nil
	}
	for _, e := range faults {
		if e.Code == "files."+strings.ToLower(own) {
			return e.WithText(message)
		}
	}
	return errs.New(errs.Unavailable, fmt.Sprintf("the node could not do it: %s", message))
}
