// Package files serves the commands file.* of a node: the files below the roots of its machine, for a gateway
// (tunnel.md §5.1). Bytes ride the channel that a request names; without one they go in pieces of at most
// MaxPiece, in base64.
//
// It imports the errs leaf, nodes/host, tunnel/files and the standard library, and owns no goroutine beyond a
// call.
package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// MaxPiece is how many bytes travel in one request or answer without a channel. In base64 they are below the
// smallest limit of a link.
const MaxPiece = 512 << 10

// Module is the host.Module. Its methods may be called concurrently.
type Module struct{ files *files.Files }

// New serves the commands from the files.
func New(f *files.Files) *Module { return &Module{f} }

var commands = map[string]func(*Module, context.Context, host.Request, params) (any, error){
	"file.stat": (*Module).stat, "file.list": (*Module).list, "file.read": (*Module).read, "file.hash": (*Module).hash,
	"file.write": (*Module).write, "file.mkdir": (*Module).mkdir, "file.remove": (*Module).remove, "file.rename": (*Module).rename,
}

// Commands implements host.Module.
func (m *Module) Commands() []string {
	return []string{"file.hash", "file.list", "file.mkdir", "file.read", "file.remove", "file.rename", "file.stat", "file.write"}
}

// Caps implements host.Module.
func (m *Module) Caps() []string { return []string{"files"} }

// Handle implements host.Module.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	serve := commands[r.Command]
	if serve == nil {
		return failed(errs.New(errs.Invalid, "unknown command: "+r.Command))
	}
	var p params
	if r.ParamsJSON == nil || json.Unmarshal([]byte(*r.ParamsJSON), &p) != nil {
		return failed(errs.New(errs.Invalid, "the parameters are no JSON object with the members of "+r.Command))
	}
	p.Path = pathOf(p.Path, p.PathB64)
	out, err := serve(m, ctx, r, p)
	if err != nil {
		return failed(err)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return failed(err)
	}
	s := string(text)
	return host.Result{OK: true, PayloadJSON: &s}
}

// codes are what a failure is called, by its class; errors of tunnel/files have codes of their own.
var codes = map[errs.Class]string{
	errs.Invalid: "INVALID_REQUEST", errs.NotFound: "NOT_FOUND", errs.Exists: "EXISTS", errs.Conflict: "CONFLICT",
	errs.Denied: "DENIED", errs.Exhausted: "EXHAUSTED", errs.Deadline: "TIMEOUT", errs.Unavailable: "UNAVAILABLE",
}

// failed words a failure: its code stands before its text too, because some links lose the code.
func failed(err error) host.Result {
	code := "UNAVAILABLE"
	if e, ok := errs.As(err); ok {
		if own, is := strings.CutPrefix(e.Code, "files."); is {
			code = "FILES_" + strings.ToUpper(own)
		} else if c := codes[e.Class]; c != "" {
			code = c
		}
	}
	return host.Result{Error: &host.Error{Code: code, Message: code + ": " + strings.ToValidUTF8(err.Error(), "\uFFFD")}}
}

// params are the members of the parameters of all commands. A path that is no UTF-8 stands in path_b64.
type params struct {
	Path    string `json:"path"`
	PathB64 string `json:"path_b64"`
	To      string `json:"to"`
	ToB64   string `json:"to_b64"`
	Channel string `json:"channel"`

	Offset  int64  `json:"offset"`
	Length  *int64 `json:"length"`
	Version string `json:"version"`

	After    string `json:"after"`
	AfterB64 string `json:"after_b64"`
	Limit    int    `json:"limit"`

	Upload       string  `json:"upload"`
	PrefixSHA256 string  `json:"prefix_sha256"`
	Size         *int64  `json:"size"`
	SHA256       string  `json:"sha256"`
	DataB64      *string `json:"data_b64"`
	Commit       bool    `json:"commit"`
	InPlace      bool    `json:"in_place"`
	Truncate     bool    `json:"truncate"`
	Overwrite    bool    `json:"overwrite"`
	Parents      bool    `json:"parents"`
	Mode         *uint32 `json:"mode"`
	// MTimeNs is in nanoseconds since 1970.
	MTimeNs int64 `json:"mtime_ns,string"`

	Recursive bool `json:"recursive"`
	Missing   bool `json:"missing"`
}

func pathOf(text, b64 string) string {
	if b64 == "" {
		return text
	}
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return "\x00" // no path
	}
	return string(b)
}

// entry is how an entry is written. The members with _b64 are there where the text is no UTF-8.
type entry struct {
	Name      string `json:"name"`
	NameB64   string `json:"name_b64,omitempty"`
	Path      string `json:"path,omitempty"`
	PathB64   string `json:"path_b64,omitempty"`
	Kind      string `json:"kind"`
	Size      int64  `json:"size"`
	Mode      uint32 `json:"mode"`
	MTimeMs   int64  `json:"mtime_ms"`
	MTimeNs   int64  `json:"mtime_ns,string"`
	Dir       bool   `json:"dir"`
	Target    string `json:"target,omitempty"`
	TargetB64 string `json:"target_b64,omitempty"`
	Version   string `json:"version,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	Writable  bool   `json:"writable"`
	Partial   bool   `json:"partial,omitempty"`
}

func raw(s string) (text, b64 string) {
	if utf8.ValidString(s) {
		return s, ""
	}
	return strings.ToValidUTF8(s, "\uFFFD"), base64.StdEncoding.EncodeToString([]byte(s))
}

func entryOf(e files.Entry) entry {
	out := entry{
		Kind: string(e.Kind), Size: e.Size, Mode: uint32(e.Mode), MTimeMs: e.ModTime.UnixMilli(), MTimeNs: e.ModTime.UnixNano(), Dir: e.Kind == files.Directory,
		Version: e.Version, SHA256: hex.EncodeToString(e.SHA256), Writable: e.Writable, Partial: e.Partial,
	}
	out.Name, out.NameB64 = raw(e.Name)
	out.Path, out.PathB64 = raw(e.Path)
	out.Target, out.TargetB64 = raw(e.Target)
	return out
}

type found struct {
	Entry entry `json:"entry"`
}

func (m *Module) stat(ctx context.Context, _ host.Request, p params) (any, error) {
	if p.Upload != "" {
		held, err := m.files.Held(ctx, p.Path, p.Upload)
		return written{Held: held.Held, SHA256: hex.EncodeToString(held.SHA256)}, err
	}
	e, err := m.files.Stat(ctx, p.Path)
	return found{entryOf(e)}, err
}

func (m *Module) list(ctx context.Context, _ host.Request, p params) (any, error) {
	out, err := m.files.List(ctx, files.ListIn{Path: p.Path, After: pathOf(p.After, p.AfterB64), Limit: p.Limit})
	if err != nil {
		return nil, err
	}
	l := struct {
		Path    string  `json:"path"`
		PathB64 string  `json:"path_b64,omitempty"`
		Entries []entry `json:"entries"`
		More    bool    `json:"more"`
	}{Entries: make([]entry, len(out.Entries)), More: out.More}
	l.Path, l.PathB64 = raw(out.Path)
	for i, e := range out.Entries {
		l.Entries[i] = entryOf(e)
		l.Entries[i].Path, l.Entries[i].PathB64 = "", "" // that of the directory and the name
	}
	return l, nil
}

// content is the answer to file.read and file.hash.
type content struct {
	Bytes   int64   `json:"bytes"`
	SHA256  string  `json:"sha256"`
	EOF     bool    `json:"eof"`
	Entry   entry   `json:"entry"`
	DataB64 *string `json:"data_b64,omitempty"`
}

func contentOf(out files.ReadOut) content {
	return content{Bytes: out.Bytes, SHA256: hex.EncodeToString(out.SHA256), EOF: out.EOF, Entry: entryOf(out.Entry)}
}

func (p params) readIn() files.ReadIn {
	in := files.ReadIn{Path: p.Path, Offset: p.Offset, Length: -1, Version: p.Version}
	if p.Length != nil {
		in.Length = *p.Length
	}
	return in
}

func (m *Module) read(ctx context.Context, r host.Request, p params) (any, error) {
	in := p.readIn()
	if p.Channel == "" {
		if in.Length < 0 || in.Length > MaxPiece {
			in.Length = MaxPiece
		}
		var b bytes.Buffer
		out, err := m.files.Read(ctx, in, &b)
		if err != nil {
			return nil, err
		}
		c, data := contentOf(out), base64.StdEncoding.EncodeToString(b.Bytes())
		c.DataB64 = &data
		return c, nil
	}
	ch, err := channel(ctx, r, p.Channel)
	if err != nil {
		return nil, err
	}
	defer broken(ctx, ch)()
	out, err := m.files.Read(ctx, in, ch)
	if err != nil {
		_ = ch.Close(err) // the answer says it too
		return nil, err
	}
	if err := ch.CloseWrite(); err != nil {
		_ = ch.Close(err) // it is broken
		return nil, err
	}
	_ = ch.Close(nil) // what was written arrives
	return contentOf(out), nil
}

func channel(ctx context.Context, r host.Request, name string) (host.Channel, error) {
	if r.Channel == nil {
		return nil, errs.New(errs.Unavailable, "this link has no channels; leave the channel away, and the bytes go in pieces")
	}
	return r.Channel(ctx, name)
}

// broken closes a channel when ctx ends, until the returned function is called.
func broken(ctx context.Context, ch host.Channel) func() {
	stop := context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) }) // what waits in it fails
	return func() { stop() }
}

func (m *Module) hash(ctx context.Context, _ host.Request, p params) (any, error) {
	out, err := m.files.Hash(ctx, p.readIn())
	return contentOf(out), err
}

// written is the answer to file.write of an upload that is not finished.
type written struct {
	Held   int64  `json:"held"`
	SHA256 string `json:"sha256"`
}

func (m *Module) write(ctx context.Context, r host.Request, p params) (any, error) {
	sum, err := checksum(p.SHA256)
	if err != nil {
		return nil, err
	}
	prefix, err := checksum(p.PrefixSHA256)
	if err != nil {
		return nil, err
	}
	var data []byte
	if p.DataB64 != nil {
		if len(*p.DataB64) > base64.StdEncoding.EncodedLen(MaxPiece) {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("data_b64 holds %d bytes at the most; send the file in pieces", MaxPiece))
		}
		if data, err = base64.StdEncoding.DecodeString(*p.DataB64); err != nil {
			return nil, errs.New(errs.Invalid, "data_b64 is no base64")
		}
	}
	var mode *fs.FileMode
	if p.Mode != nil {
		m := fs.FileMode(*p.Mode).Perm()
		mode = &m
	}
	var at time.Time
	if p.MTimeNs != 0 {
		at = time.Unix(0, p.MTimeNs)
	}
	switch {
	case p.Upload != "" && p.Commit && p.Channel == "":
		if p.Size == nil || sum == nil {
			return nil, errs.New(errs.Invalid, "size and sha256 of the whole file are needed to finish an upload")
		}
		e, err := m.files.Commit(ctx, files.CommitIn{Path: p.Path, Upload: p.Upload, Size: *p.Size, SHA256: sum, Mode: mode, ModTime: at, Overwrite: p.Overwrite})
		return found{entryOf(e)}, err
	case p.Upload != "":
		in := files.WriteIn{Path: p.Path, Upload: p.Upload, Offset: p.Offset, Prefix: prefix, Size: -1, Overwrite: p.Overwrite, Parents: p.Parents}
		if p.Size != nil {
			in.Size = *p.Size
		}
		if p.Channel == "" {
			out, err := m.files.Write(ctx, in, bytes.NewReader(data))
			return written{out.Held, hex.EncodeToString(out.SHA256)}, err
		}
		return m.upload(ctx, r, p, in, func(sum []byte) (any, error) {
			e, err := m.files.Commit(ctx, files.CommitIn{Path: p.Path, Upload: p.Upload, Size: in.Size, SHA256: sum, Mode: mode, ModTime: at, Overwrite: p.Overwrite})
			return found{entryOf(e)}, err
		})
	case p.DataB64 == nil:
		return nil, errs.New(errs.Invalid, "data_b64 or upload is needed")
	case p.InPlace:
		e, err := m.files.Patch(ctx, files.PatchIn{Path: p.Path, Offset: p.Offset, Data: data, Truncate: p.Truncate})
		return found{entryOf(e)}, err
	case p.Offset != 0:
		return nil, errs.New(errs.Invalid, "an offset needs in_place, or an upload")
	}
	e, err := m.files.Put(ctx, files.PutIn{Path: p.Path, Data: data, SHA256: sum, Mode: mode, ModTime: at, Overwrite: p.Overwrite, Parents: p.Parents})
	return found{entryOf(e)}, err
}

// upload takes an upload from a channel. With commit, the checksum of the whole file comes behind its bytes, and
// the file gets its name then.
func (m *Module) upload(ctx context.Context, r host.Request, p params, in files.WriteIn, commit func(sum []byte) (any, error)) (any, error) {
	if p.Commit && in.Size < 0 {
		return nil, errs.New(errs.Invalid, "size of the whole file is needed to finish an upload")
	}
	ch, err := channel(ctx, r, p.Channel)
	if err != nil {
		return nil, err
	}
	defer broken(ctx, ch)()
	give := func(err error) (any, error) {
		_ = ch.Close(err) // whoever sends stops
		return nil, err
	}
	from := io.Reader(ch)
	if p.Commit {
		from = io.LimitReader(ch, in.Size-in.Offset)
	}
	held, err := m.files.Write(ctx, in, from)
	if err != nil {
		return give(err)
	}
	var out any = written{held.Held, hex.EncodeToString(held.SHA256)}
	if p.Commit {
		sum := make([]byte, sha256.Size)
		if _, err := io.ReadFull(ch, sum); err != nil {
			return give(fmt.Errorf("the checksum of the file did not come: %w", err))
		}
		if out, err = commit(sum); err != nil {
			return give(err)
		}
	}
	_ = ch.Close(nil) // there is no more to read
	return out, nil
}

func checksum(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 32 {
		return nil, errs.New(errs.Invalid, "a checksum is a SHA-256 of 64 hexadecimal digits")
	}
	return b, nil
}

func (m *Module) mkdir(ctx context.Context, _ host.Request, p params) (any, error) {
	in := files.MkdirIn{Path: p.Path, Parents: p.Parents}
	if p.Mode != nil {
		in.Mode = fs.FileMode(*p.Mode)
	}
	e, err := m.files.Mkdir(ctx, in)
	return found{entryOf(e)}, err
}

type ok struct {
	OK bool `json:"ok"`
}

func (m *Module) remove(ctx context.Context, _ host.Request, p params) (any, error) {
	err := m.files.Remove(ctx, files.RemoveIn{Path: p.Path, Recursive: p.Recursive, Missing: p.Missing, Upload: p.Upload})
	return ok{true}, err
}

func (m *Module) rename(ctx context.Context, _ host.Request, p params) (any, error) {
	to := pathOf(p.To, p.ToB64)
	if to == "" {
		return nil, errs.New(errs.Invalid, "to is missing: the new path")
	}
	e, err := m.files.Rename(ctx, files.RenameIn{From: p.Path, To: to, Overwrite: p.Overwrite})
	return found{entryOf(e)}, err
}
