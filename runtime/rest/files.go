package rest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

// The contents of files of nodes are bytes and no JSON, so that they have routes of their own in front of the
// gateway's: GET, HEAD and PUT of /v1/nodes/{node_id}/files/{path}. They reach the same handlers in the same way.

const (
	// filePiece is how much of a body is read at once.
	filePiece = 256 << 10
	// pieceTimeout is how long a piece of a body may take to arrive.
	pieceTimeout = 30 * time.Second
)

var (
	errDigest      = errs.Define(errs.Invalid, "rest.digest", `the header Content-Digest must be "sha-256=:<base64>:"`)
	errDigestOther = errs.Define(errs.Conflict, "rest.digest_mismatch", "the body has another checksum than Content-Digest says")
	errMode        = errs.Define(errs.Invalid, "rest.file_mode", "the mode must be permission bits in octal, such as 0644")
)

// fileRoute splits the path of the contents of a file.
func fileRoute(path string) (node, file string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v1/nodes/")
	if !ok {
		return "", "", false
	}
	node, rest, ok = strings.Cut(rest, "/")
	file, is := strings.CutPrefix(rest, "files/")
	if !ok || !is || node == "" {
		return "", "", false
	}
	node, err := url.PathUnescape(node)
	if err != nil {
		return "", "", false
	}
	file, err = url.PathUnescape(file)
	return node, file, err == nil && file != ""
}

func isFileRoute(path string) bool {
	_, _, ok := fileRoute(path)
	return ok
}

// contents serves the contents of a file.
func (s *server) contents(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut:
	default:
		s.mux.ServeHTTP(w, r)
		return
	}
	w.Header()["Cache-Control"] = noStore
	c, err := s.guard(r)
	if err != nil {
		refuse(w, err)
		return
	}
	node, path, _ := fileRoute(r.URL.EscapedPath())
	r = r.WithContext(rpc.WithCaller(r.Context(), c))
	if r.Method == http.MethodPut {
		s.putFile(w, r, node, path)
		return
	}
	s.getFile(w, r, node, path)
}

// filePath is the path in a request: in the field that can carry it.
func filePath(path string) (string, []byte) {
	if strings.ToValidUTF8(path, "") == path {
		return path, nil
	}
	return "", []byte(path)
}

func fileTag(e *tunnelv1.FileEntry) string {
	if len(e.GetSha256()) > 0 {
		return `"` + hex.EncodeToString(e.GetSha256()) + `"`
	}
	return `"v-` + e.GetVersion() + `"`
}

func tagIn(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}

func (s *server) getFile(w http.ResponseWriter, r *http.Request, node, path string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	text, raw := filePath(path)
	found, err := s.files.StatFile(ctx, &tunnelv1.StatFileRequest{NodeId: node, Path: text, RawPath: raw})
	if err != nil {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	e := found.GetEntry()
	if e.GetKind() != tunnelv1.FileKind_FILE_KIND_FILE {
		writeProblem(w, problem{Status: http.StatusConflict, Detail: "this is no regular file; GET …/files:stat?path= describes it, and …/files:list?path= lists a directory", Code: "files.special"})
		return
	}
	h, tag := w.Header(), fileTag(e)
	h.Set("ETag", tag)
	h.Set("Last-Modified", e.GetModifiedAt().AsTime().UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "private, no-cache")
	if none := r.Header.Get("If-None-Match"); none != "" && tagIn(none, tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	first, length, partial, ok := int64(0), e.GetSize(), false, true
	if want := r.Header.Get("Range"); want != "" && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == tag) {
		first, length, partial, ok = rangeOf(want, e.GetSize())
	}
	if !ok {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", e.GetSize()))
		writeProblem(w, problem{Status: http.StatusRequestedRangeNotSatisfiable, Detail: fmt.Sprintf("the file has %d bytes", e.GetSize()), Code: "rest.range"})
		return
	}
	begin := func() {
		h["Content-Type"] = []string{"application/octet-stream"}
		h["Content-Disposition"] = []string{"attachment"} // never a page of this origin
		h.Set("Content-Length", strconv.FormatInt(length, 10))
		code := http.StatusOK
		if partial {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, e.GetSize()))
			code = http.StatusPartialContent
		}
		w.WriteHeader(code)
	}
	if r.Method == http.MethodHead || length == 0 {
		begin()
		return
	}
	stream, err := s.files.ReadFile(ctx, &tunnelv1.ReadFileRequest{NodeId: node, Path: text, RawPath: raw, Offset: first, Length: &length, Version: e.GetVersion()})
	rc, sent := http.NewResponseController(w), int64(0)
	for err == nil {
		var m *tunnelv1.ReadFileResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		if m.GetEnd() != nil {
			if sent != length {
				panic(http.ErrAbortHandler) // the reader sees that something is missing
			}
			_ = rc.SetWriteDeadline(time.Time{})
			return
		}
		if sent == 0 {
			begin()
		}
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := w.Write(m.GetData()); err != nil {
			return // the reader is gone
		}
		sent += int64(len(m.GetData()))
	}
	if sent > 0 {
		panic(http.ErrAbortHandler)
	}
	for _, name := range []string{"ETag", "Last-Modified", "Accept-Ranges"} {
		h.Del(name)
	}
	writeProblem(w, problemOf(status.Convert(err)))
}

// rangeOf reads a header Range. Several ranges, and what is not understood, are the whole file.
func rangeOf(want string, size int64) (first, length int64, partial, ok bool) {
	spec, is := strings.CutPrefix(want, "bytes=")
	from, to, cut := strings.Cut(strings.TrimSpace(spec), "-")
	if !is || !cut || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	last := size - 1
	if from == "" {
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil || n < 0 {
			return 0, size, false, true
		}
		if n == 0 || size == 0 {
			return 0, 0, false, false
		}
		first = max(size-n, 0)
		return first, size - first, true, true
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil || first < 0 {
		return 0, size, false, true
	}
	if to != "" {
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil || n < first {
			return 0, size, false, true
		}
		last = min(n, last)
	}
	if first >= size {
		return 0, 0, false, false
	}
	return first, last - first + 1, true, true
}

func (s *server) putFile(w http.ResponseWriter, r *http.Request, node, path string) {
	digest, err := digestOf(r.Header)
	if err != nil {
		refuse(w, err)
		return
	}
	begin := &tunnelv1.FileUpload{NodeId: node, Overwrite: true}
	begin.Path, begin.RawPath = filePath(path)
	q := r.URL.Query()
	begin.Parents = q.Get("parents") == "true"
	if text := q.Get("mode"); text != "" {
		mode, err := strconv.ParseUint(text, 8, 32)
		if err != nil || mode > 0o777 {
			refuse(w, errMode)
			return
		}
		m := uint32(mode)
		begin.Mode = &m
	}
	if r.ContentLength >= 0 {
		begin.Size = &r.ContentLength
	}
	begin.Overwrite = r.Header.Get("If-None-Match") != "*"
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel() // a body that breaks off leaves nothing
	if match := r.Header.Get("If-Match"); match != "" {
		found, err := s.files.StatFile(ctx, &tunnelv1.StatFileRequest{NodeId: node, Path: begin.GetPath(), RawPath: begin.GetRawPath()})
		if err != nil && status.Code(err) != codes.NotFound {
			writeProblem(w, problemOf(status.Convert(err)))
			return
		}
		if err != nil || !tagIn(match, fileTag(found.GetEntry())) {
			writeProblem(w, problem{Status: http.StatusPreconditionFailed, Detail: "the file is not the one that If-Match names", Code: "rest.if_match"})
			return
		}
	}
	stream, err := s.files.WriteFile(ctx)
	if err == nil {
		err = stream.Send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Begin{Begin: begin}})
	}
	rc, h := http.NewResponseController(w), sha256.New()
	for err == nil {
		buf := make([]byte, filePiece) // the in-process channel hands it on as it is
		_ = rc.SetReadDeadline(time.Now().Add(pieceTimeout))
		n, broken := fill(r.Body, buf)
		h.Write(buf[:n])
		if n > 0 {
			err = stream.Send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Data{Data: buf[:n]}})
		}
		switch {
		case errors.Is(broken, io.EOF):
		case broken != nil:
			writeProblem(w, problem{Status: http.StatusBadRequest, Detail: "the request body could not be read to its end", Code: "rest.body"})
			return
		default:
			continue
		}
		break
	}
	_ = rc.SetReadDeadline(time.Time{})
	sum := h.Sum(nil)
	if err == nil && digest != nil && string(digest) != string(sum) {
		refuse(w, errDigestOther)
		return
	}
	if err == nil {
		err = stream.Send(&tunnelv1.WriteFileRequest{Message: &tunnelv1.WriteFileRequest_Sha256{Sha256: sum}})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	out, err := stream.Recv()
	if err != nil {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	body, err := newMarshaler(false).Marshal(out)
	if err != nil {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	w.Header().Set("ETag", fileTag(out.GetEntry()))
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(body)
}

// fill reads until the buffer is full or the reader ends. A body that breaks off is no end.
func fill(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		got, err := r.Read(buf[n:])
		if n += got; err != nil {
			return n, err
		}
	}
	return n, nil
}

// digestOf reads the header Content-Digest (RFC 9530), nil without one.
func digestOf(h http.Header) ([]byte, error) {
	text := h.Get("Content-Digest")
	if text == "" {
		return nil, nil
	}
	b64, ok := strings.CutPrefix(strings.TrimSpace(text), "sha-256=:")
	b64, ok2 := strings.CutSuffix(b64, ":")
	sum, err := base64.StdEncoding.DecodeString(b64)
	if !ok || !ok2 || err != nil || len(sum) != sha256.Size {
		return nil, errDigest
	}
	return sum, nil
}
