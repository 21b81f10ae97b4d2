package rpc

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// maxFilePiece bounds what travels in one message of a file.
const maxFilePiece = 256 << 10

// Files is what the door needs of tunnel.Files.
type Files interface {
	Stat(context.Context, identity.Caller, tunnel.FileIn) (files.Entry, error)
	List(context.Context, identity.Caller, tunnel.ListFilesIn) (files.ListOut, error)
	Read(context.Context, identity.Caller, tunnel.ReadFileIn, io.Writer) (files.ReadOut, error)
	Hash(context.Context, identity.Caller, tunnel.ReadFileIn) (files.ReadOut, error)
	Write(context.Context, identity.Caller, tunnel.WriteFileIn, tunnel.Contents) (files.Entry, error)
	Held(context.Context, identity.Caller, tunnel.HeldIn) (files.WriteOut, error)
	MakeDirectory(context.Context, identity.Caller, tunnel.MakeDirectoryIn) (files.Entry, error)
	Remove(context.Context, identity.Caller, tunnel.RemoveFileIn) (struct{}, error)
	Rename(context.Context, identity.Caller, tunnel.RenameFileIn) (files.Entry, error)
}

var errFileBegin = errs.Define(errs.Invalid, "rpc.file_begin", "the first message says what file it is, and no other one does")

type filesServer struct {
	tunnelv1.UnimplementedFileServiceServer
	s *Server
}

// pathFrom takes the bytes where there are some: a path need not be text.
func pathFrom(text string, raw []byte) string {
	if len(raw) > 0 {
		return string(raw)
	}
	return text
}

// rawText splits bytes into text, and the bytes where they are none.
func rawText(s string) (string, []byte) {
	if utf8.ValidString(s) {
		return s, nil
	}
	return cleanText(s), []byte(s)
}

var fileKinds = map[files.Kind]tunnelv1.FileKind{
	files.File: tunnelv1.FileKind_FILE_KIND_FILE, files.Directory: tunnelv1.FileKind_FILE_KIND_DIRECTORY,
	files.Link: tunnelv1.FileKind_FILE_KIND_LINK, files.Other: tunnelv1.FileKind_FILE_KIND_OTHER,
}

func fileEntryToProto(e files.Entry) *tunnelv1.FileEntry {
	out := &tunnelv1.FileEntry{
		Kind: fileKinds[e.Kind], Size: e.Size, Mode: uint32(e.Mode), Version: cleanText(e.Version), Sha256: e.SHA256, Writable: e.Writable, Partial: e.Partial,
	}
	out.Name, out.RawName = rawText(e.Name)
	out.Path, out.RawPath = rawText(e.Path)
	out.Target, out.RawTarget = rawText(e.Target)
	if !e.ModTime.IsZero() {
		out.ModifiedAt = timestamppb.New(e.ModTime)
	}
	return out
}

func fileListToProto(l files.ListOut) (*tunnelv1.ListFilesResponse, error) {
	out := &tunnelv1.ListFilesResponse{More: l.More, Entries: make([]*tunnelv1.FileEntry, len(l.Entries))}
	out.Path, out.RawPath = rawText(l.Path)
	for i, e := range l.Entries {
		out.Entries[i] = fileEntryToProto(e)
	}
	return out, nil
}

func fileContentToProto(o files.ReadOut) *tunnelv1.FileContent {
	return &tunnelv1.FileContent{Bytes: o.Bytes, Sha256: o.SHA256, Eof: o.EOF, Entry: fileEntryToProto(o.Entry)}
}

func statFileFromProto(r *tunnelv1.StatFileRequest) (tunnel.FileIn, error) {
	return tunnel.FileIn{NodeID: r.GetNodeId(), Path: pathFrom(r.GetPath(), r.GetRawPath())}, nil
}

func (f *filesServer) StatFile(ctx context.Context, req *tunnelv1.StatFileRequest) (*tunnelv1.StatFileResponse, error) {
	return call(ctx, req, statFileFromProto, f.s.d.Files.Stat, func(e files.Entry) (*tunnelv1.StatFileResponse, error) {
		return &tunnelv1.StatFileResponse{Entry: fileEntryToProto(e)}, nil
	})
}

func listFilesFromProto(r *tunnelv1.ListFilesRequest) (tunnel.ListFilesIn, error) {
	return tunnel.ListFilesIn{NodeID: r.GetNodeId(), ListIn: files.ListIn{
		Path: pathFrom(r.GetPath(), r.GetRawPath()), After: string(r.GetAfter()), Limit: int(r.GetLimit()),
	}}, nil
}

func (f *filesServer) ListFiles(ctx context.Context, req *tunnelv1.ListFilesRequest) (*tunnelv1.ListFilesResponse, error) {
	return call(ctx, req, listFilesFromProto, f.s.d.Files.List, fileListToProto)
}

// fileRange is what requests for a range of a file have in common.
type fileRange interface {
	GetNodeId() string
	GetPath() string
	GetRawPath() []byte
	GetOffset() int64
	GetLength() int64
	GetVersion() string
}

func fileRangeFromProto(r fileRange, all bool) (tunnel.ReadFileIn, error) {
	in := tunnel.ReadFileIn{NodeID: r.GetNodeId(), ReadIn: files.ReadIn{
		Path: pathFrom(r.GetPath(), r.GetRawPath()), Offset: r.GetOffset(), Length: r.GetLength(), Version: r.GetVersion(),
	}}
	switch {
	case all:
		in.Length = -1
	case in.Length < 0:
		return in, files.ErrRange
	}
	return in, nil
}

func readFileFromProto(r *tunnelv1.ReadFileRequest) (tunnel.ReadFileIn, error) {
	return fileRangeFromProto(r, r.Length == nil)
}

func hashFileFromProto(r *tunnelv1.HashFileRequest) (tunnel.ReadFileIn, error) {
	return fileRangeFromProto(r, r.Length == nil)
}

func (f *filesServer) HashFile(ctx context.Context, req *tunnelv1.HashFileRequest) (*tunnelv1.HashFileResponse, error) {
	return call(ctx, req, hashFileFromProto, lasting(f.s, f.s.d.Files.Hash), func(o files.ReadOut) (*tunnelv1.HashFileResponse, error) {
		return &tunnelv1.HashFileResponse{Content: fileContentToProto(o)}, nil
	})
}

// pieceWriter sends what is written to it.
type pieceWriter struct {
	stream tunnelv1.FileService_ReadFileServer
}

func (w pieceWriter) Write(p []byte) (int, error) {
	all := 0
	for len(p) > 0 {
		piece := p[:min(len(p), maxFilePiece)]
		if err := w.stream.Send(&tunnelv1.ReadFileResponse{Message: &tunnelv1.ReadFileResponse_Data{Data: piece}}); err != nil {
			return all, err
		}
		all, p = all+len(piece), p[len(piece):]
	}
	return all, nil
}

func (f *filesServer) ReadFile(req *tunnelv1.ReadFileRequest, stream tunnelv1.FileService_ReadFileServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in, err := readFileFromProto(req)
	if err != nil {
		return err
	}
	out, err := f.s.d.Files.Read(ctx, c, in, pieceWriter{stream})
	if err != nil {
		return err
	}
	return stream.Send(&tunnelv1.ReadFileResponse{Message: &tunnelv1.ReadFileResponse_End{End: fileContentToProto(out)}})
}

// sentContents are the contents that a client sends.
type sentContents struct {
	stream tunnelv1.FileService_WriteFileServer
}

// Next implements tunnel.Contents.
func (s sentContents) Next() ([]byte, []byte, error) {
	m, err := s.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, nil, tunnel.ErrFileEnd
	}
	if err != nil {
		return nil, nil, err
	}
	switch m := m.GetMessage().(type) {
	case *tunnelv1.WriteFileRequest_Data:
		return m.Data, nil, nil
	case *tunnelv1.WriteFileRequest_Sha256:
		if len(m.Sha256) != 32 {
			return nil, nil, files.ErrChecksum
		}
		return nil, m.Sha256, io.EOF
	}
	return nil, nil, errFileBegin
}

func writeFileFromProto(b *tunnelv1.FileUpload) (tunnel.WriteFileIn, error) {
	in := tunnel.WriteFileIn{NodeID: b.GetNodeId(), WriteIn: files.WriteIn{
		Path: pathFrom(b.GetPath(), b.GetRawPath()), Upload: b.GetUploadId(), Offset: b.GetOffset(), Prefix: b.GetPrefixSha256(), Size: -1,
		Overwrite: b.GetOverwrite(), Parents: b.GetParents(),
	}}
	if b.Size != nil {
		if in.Size = b.GetSize(); in.Size < 0 {
			return in, files.ErrRange
		}
	}
	if b.Mode != nil {
		mode := fs.FileMode(b.GetMode()).Perm()
		in.Mode = &mode
	}
	if at := b.GetModifiedAt(); at != nil {
		if err := at.CheckValid(); err != nil {
			return in, errTime.Wrap(err)
		}
		in.ModTime = at.AsTime()
	}
	return in, nil
}

func (f *filesServer) WriteFile(stream tunnelv1.FileService_WriteFileServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	m, err := stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if m.GetBegin() == nil {
		return errFileBegin
	}
	in, err := writeFileFromProto(m.GetBegin())
	if err != nil {
		return err
	}
	e, err := f.s.d.Files.Write(ctx, c, in, sentContents{stream})
	if err != nil {
		return err
	}
	return stream.Send(&tunnelv1.WriteFileResponse{Entry: fileEntryToProto(e)})
}

func heldFromProto(r *tunnelv1.GetUploadRequest) (tunnel.HeldIn, error) {
	return tunnel.HeldIn{NodeID: r.GetNodeId(), Path: pathFrom(r.GetPath(), r.GetRawPath()), Upload: r.GetUploadId()}, nil
}

func (f *filesServer) GetUpload(ctx context.Context, req *tunnelv1.GetUploadRequest) (*tunnelv1.GetUploadResponse, error) {
	return call(ctx, req, heldFromProto, lasting(f.s, f.s.d.Files.Held), func(o files.WriteOut) (*tunnelv1.GetUploadResponse, error) {
		return &tunnelv1.GetUploadResponse{Held: o.Held, Sha256: o.SHA256}, nil
	})
}

func makeDirectoryFromProto(r *tunnelv1.MakeDirectoryRequest) (tunnel.MakeDirectoryIn, error) {
	return tunnel.MakeDirectoryIn{NodeID: r.GetNodeId(), MkdirIn: files.MkdirIn{
		Path: pathFrom(r.GetPath(), r.GetRawPath()), Parents: r.GetParents(), Mode: fs.FileMode(r.GetMode()).Perm(),
	}}, nil
}

func (f *filesServer) MakeDirectory(ctx context.Context, req *tunnelv1.MakeDirectoryRequest) (*tunnelv1.MakeDirectoryResponse, error) {
	return call(ctx, req, makeDirectoryFromProto, f.s.d.Files.MakeDirectory, func(e files.Entry) (*tunnelv1.MakeDirectoryResponse, error) {
		return &tunnelv1.MakeDirectoryResponse{Entry: fileEntryToProto(e)}, nil
	})
}

func removeFileFromProto(r *tunnelv1.RemoveFileRequest) (tunnel.RemoveFileIn, error) {
	return tunnel.RemoveFileIn{NodeID: r.GetNodeId(), RemoveIn: files.RemoveIn{
		Path: pathFrom(r.GetPath(), r.GetRawPath()), Recursive: r.GetRecursive(), Missing: r.GetMissingOk(), Upload: r.GetUploadId(),
	}}, nil
}

func (f *filesServer) RemoveFile(ctx context.Context, req *tunnelv1.RemoveFileRequest) (*tunnelv1.RemoveFileResponse, error) {
	return call(ctx, req, removeFileFromProto, lasting(f.s, f.s.d.Files.Remove), func(struct{}) (*tunnelv1.RemoveFileResponse, error) {
		return &tunnelv1.RemoveFileResponse{}, nil
	})
}

func renameFileFromProto(r *tunnelv1.RenameFileRequest) (tunnel.RenameFileIn, error) {
	return tunnel.RenameFileIn{NodeID: r.GetNodeId(), RenameIn: files.RenameIn{
		From: pathFrom(r.GetPath(), r.GetRawPath()), To: pathFrom(r.GetNewPath(), r.GetRawNewPath()), Overwrite: r.GetOverwrite(),
	}}, nil
}

func (f *filesServer) RenameFile(ctx context.Context, req *tunnelv1.RenameFileRequest) (*tunnelv1.RenameFileResponse, error) {
	return call(ctx, req, renameFileFromProto, f.s.d.Files.Rename, func(e files.Entry) (*tunnelv1.RenameFileResponse, error) {
		return &tunnelv1.RenameFileResponse{Entry: fileEntryToProto(e)}, nil
	})
}
