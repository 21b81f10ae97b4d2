package files_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hanzoai/hanzod/tunnel/files"
)

const id = "upload-one"

func serve(tb testing.TB) (*files.Files, string) {
	tb.Helper()
	dir, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	dir = filepath.Join(dir, "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return files.New(func() []files.Root { return []files.Root{{Path: dir}} }), dir
}

func put(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tb.Fatal(err)
	}
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func sumOf(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

func TestUploadAndRead(t *testing.T) {
	f, dir := serve(t)
	ctx, data := t.Context(), bytesOf(1_000_000)
	put(t, filepath.Join(dir, "a"), []byte("old"))
	if err := os.Chmod(filepath.Join(dir, "a"), 0o640); err != nil {
		t.Fatal(err)
	}
	out, err := f.Write(ctx, files.WriteIn{Path: "a", Upload: id, Size: int64(len(data)), Overwrite: true}, iotest.HalfReader(bytes.NewReader(data)))
	if err != nil || out.Held != int64(len(data)) || !bytes.Equal(out.SHA256, sumOf(data)) {
		t.Fatal(out, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "a")); string(b) != "old" {
		t.Error("the file changed before it was whole")
	}
	at := time.Unix(1_700_000_000, 123_000_000)
	e, err := f.Commit(ctx, files.CommitIn{Path: "a", Upload: id, Size: int64(len(data)), SHA256: sumOf(data), Overwrite: true, ModTime: at})
	if err != nil || e.Mode != 0o640 && runtime.GOOS != "windows" || !e.ModTime.Equal(at) || !bytes.Equal(e.SHA256, sumOf(data)) {
		t.Fatal(e, err)
	}
	if s, err := f.Stat(ctx, filepath.Join(dir, "a")); err != nil || s.Version != e.Version || !bytes.Equal(s.SHA256, e.SHA256) {
		t.Errorf("the checksum of what was written is not known: %+v %v", s, err)
	}
	var got bytes.Buffer
	r, err := f.Read(ctx, files.ReadIn{Path: "a", Offset: 1000, Length: 500_000, Version: e.Version}, &got)
	if err != nil || r.Bytes != 500_000 || r.EOF || !bytes.Equal(got.Bytes(), data[1000:501_000]) || !bytes.Equal(r.SHA256, sumOf(got.Bytes())) {
		t.Error(r.Bytes, r.EOF, err)
	}
	if _, err := f.Read(ctx, files.ReadIn{Path: "a", Length: -1, Version: "other"}, io.Discard); !errors.Is(err, files.ErrChanged) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, files.PartialPrefix+"*")); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

// What arrived before a cut is gone on with, but only when it is the beginning of what is sent now.
func TestUploadGoesOn(t *testing.T) {
	f, dir := serve(t)
	ctx, data := t.Context(), bytesOf(700_000)
	cut := errors.New("cut")
	in := files.WriteIn{Path: "a", Upload: id, Size: int64(len(data))}
	out, err := f.Write(ctx, in, io.MultiReader(bytes.NewReader(data[:300_000]), iotest.ErrReader(cut)))
	if !errors.Is(err, cut) || out.Held != 300_000 {
		t.Fatal(out, err)
	}
	again := files.New(func() []files.Root { return []files.Root{{Path: dir}} }) // another process
	for _, g := range []*files.Files{f, again} {
		held, err := g.Held(ctx, "a", id)
		if err != nil || held.Held != 300_000 || !bytes.Equal(held.SHA256, sumOf(data[:300_000])) {
			t.Fatal(held, err)
		}
	}
	for name, bad := range map[string]files.WriteIn{
		"another beginning": {Path: "a", Upload: id, Offset: 300_000, Prefix: sumOf([]byte("x")), Size: in.Size},
		"no checksum":       {Path: "a", Upload: id, Offset: 300_000, Size: in.Size},
		"a gap":             {Path: "a", Upload: id, Offset: 300_001, Prefix: sumOf(data[:300_001]), Size: in.Size},
		"another upload":    {Path: "a", Upload: "upload-two", Offset: 300_000, Prefix: sumOf(data[:300_000]), Size: in.Size},
	} {
		if _, err := again.Write(ctx, bad, bytes.NewReader(data[300_000:])); !errors.Is(err, files.ErrPrefix) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := again.Commit(ctx, files.CommitIn{Path: "a", Upload: id, Size: in.Size, SHA256: sumOf(data)}); !errors.Is(err, files.ErrIncomplete) {
		t.Error(err)
	}
	in.Offset, in.Prefix = 200_000, sumOf(data[:200_000])
	if out, err = again.Write(ctx, in, bytes.NewReader(data[200_000:])); err != nil || out.Held != in.Size {
		t.Fatal(out, err)
	}
	if _, err := again.Commit(ctx, files.CommitIn{Path: "a", Upload: id, Size: in.Size, SHA256: sumOf(data)}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "a")); !bytes.Equal(b, data) {
		t.Error("another file")
	}
}

func TestCommitChecks(t *testing.T) {
	f, dir := serve(t)
	ctx := t.Context()
	if _, err := f.Write(ctx, files.WriteIn{Path: "a", Upload: id, Size: -1}, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Commit(ctx, files.CommitIn{Path: "a", Upload: id, Size: 5, SHA256: sumOf([]byte("other"))}); !errors.Is(err, files.ErrChecksum) {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(dir); len(names) > 0 {
		t.Error("something is left", names)
	}
	put(t, filepath.Join(dir, "b"), []byte("there"))
	if _, err := f.Put(ctx, files.PutIn{Path: "b", Data: []byte("x")}); !errors.Is(err, files.ErrExists) {
		t.Error(err)
	}
	if _, err := f.Put(ctx, files.PutIn{Path: "c/d", Data: []byte("x")}); !errors.Is(err, files.ErrNotFound) {
		t.Error(err)
	}
	if _, err := f.Put(ctx, files.PutIn{Path: "c/d", Data: []byte("x"), Parents: true}); err != nil {
		t.Error(err)
	}
	if _, err := f.Write(ctx, files.WriteIn{Path: "e", Upload: id, Size: 2}, strings.NewReader("hello")); !errors.Is(err, files.ErrRange) {
		t.Error("more than was announced:", err)
	}
}

// A later call of an upload ends the one before, which may hang on a link that is gone.
func TestUploadIsTakenOver(t *testing.T) {
	f, _ := serve(t)
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, err := f.Write(t.Context(), files.WriteIn{Path: "a", Upload: id, Size: -1}, r)
		first <- err
	}()
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := f.Write(t.Context(), files.WriteIn{Path: "a", Upload: id, Size: 5}, strings.NewReader("HELLO"))
		second <- err
	}()
	for stop := false; !stop; { // the reader of the first hangs until its link ends
		select {
		case err := <-first:
			if !errors.Is(err, files.ErrTaken) {
				t.Error(err)
			}
			stop = true
		case <-time.After(20 * time.Millisecond):
			go w.Write([]byte("x"))
		}
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	r.Close()
}

func TestHoles(t *testing.T) {
	f, dir := serve(t)
	data := make([]byte, 8<<20)
	copy(data[1<<20:], bytesOf(1000))
	copy(data[5<<20:], bytesOf(300_000))
	if _, err := f.Put(t.Context(), files.PutIn{Path: "a", Data: data}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal("another file", err)
	}
	if n := allocated(t, filepath.Join(dir, "a")); n > 2<<20 {
		t.Errorf("%d bytes on disk", n)
	}
}

func TestRoots(t *testing.T) {
	base := t.TempDir()
	for _, d := range []string{"work/sub", "ro", "other"} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(base, "ro", "f"), []byte("x"))
	put(t, filepath.Join(base, "other", "f"), []byte("x"))
	roots := []files.Root{{Path: filepath.Join(base, "work")}, {Path: filepath.Join(base, "ro"), ReadOnly: true}}
	f := files.New(func() []files.Root { return roots })
	ctx := t.Context()
	if _, err := f.Stat(ctx, filepath.Join(base, "ro", "f")); err != nil {
		t.Error(err)
	}
	if _, err := f.Put(ctx, files.PutIn{Path: filepath.Join(base, "ro", "g"), Data: []byte("x")}); !errors.Is(err, files.ErrReadOnly) {
		t.Error(err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: filepath.Join(base, "ro", "f")}); !errors.Is(err, files.ErrReadOnly) {
		t.Error(err)
	}
	for _, path := range []string{filepath.Join(base, "other", "f"), "../other/f", "sub/../../other/f", base, "/", "/etc/passwd", filepath.Join(base, "work2")} {
		if _, err := f.Stat(ctx, path); !errors.Is(err, files.ErrOutside) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{".", filepath.Join(base, "work")} {
		if err := f.Remove(ctx, files.RemoveIn{Path: path, Recursive: true}); !errors.Is(err, files.ErrRoot) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := f.Stat(ctx, "a\x00b"); !errors.Is(err, files.ErrPath) {
		t.Error(err)
	}
	roots = nil
	if _, err := f.Stat(ctx, "a"); !errors.Is(err, files.ErrNoRoots) {
		t.Error(err)
	}
}

func TestListInPages(t *testing.T) {
	f, dir := serve(t)
	for _, name := range []string{"c", "a", "b", "é"} {
		put(t, filepath.Join(dir, name), nil)
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	var got []string
	in := files.ListIn{Limit: 2}
	for range 10 {
		out, err := f.List(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range out.Entries {
			got = append(got, e.Name)
		}
		if !out.More {
			break
		}
		in.After = out.Entries[len(out.Entries)-1].Name
	}
	if s := strings.Join(got, " "); s != "a b c d é" {
		t.Error(s)
	}
}

func TestTree(t *testing.T) {
	f, dir := serve(t)
	ctx := t.Context()
	if _, err := f.Mkdir(ctx, files.MkdirIn{Path: "a/b"}); !errors.Is(err, files.ErrNotFound) {
		t.Error(err)
	}
	if _, err := f.Mkdir(ctx, files.MkdirIn{Path: "a/b", Parents: true}); err != nil {
		t.Error(err)
	}
	if _, err := f.Mkdir(ctx, files.MkdirIn{Path: "a"}); !errors.Is(err, files.ErrExists) {
		t.Error(err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: "a"}); !errors.Is(err, files.ErrNotEmpty) {
		t.Error(err)
	}
	put(t, filepath.Join(dir, "f"), []byte("x"))
	put(t, filepath.Join(dir, "g"), []byte("y"))
	if _, err := f.Rename(ctx, files.RenameIn{From: "f", To: "g"}); !errors.Is(err, files.ErrExists) {
		t.Error(err)
	}
	if _, err := f.Rename(ctx, files.RenameIn{From: "f", To: "a/b/g"}); err != nil {
		t.Error(err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: "a", Recursive: true}); err != nil {
		t.Error(err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: "a"}); !errors.Is(err, files.ErrNotFound) {
		t.Error(err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: "a", Missing: true}); err != nil {
		t.Error(err)
	}
	if e, err := f.Patch(ctx, files.PatchIn{Path: "g", Offset: 3, Data: []byte("z")}); err != nil || e.Size != 4 {
		t.Error(e, err)
	}
	if _, err := f.Patch(ctx, files.PatchIn{Path: "none", Data: []byte("z")}); !errors.Is(err, files.ErrNotFound) {
		t.Error(err)
	}
	if _, err := f.Read(ctx, files.ReadIn{Path: ".", Length: -1}, io.Discard); !errors.Is(err, files.ErrDirectory) {
		t.Error(err)
	}
}

// A file that is written while it is read is not taken for one.
func TestChangedWhileRead(t *testing.T) {
	f, dir := serve(t)
	path := filepath.Join(dir, "a")
	put(t, path, bytesOf(1<<20))
	n := 0
	_, err := f.Read(t.Context(), files.ReadIn{Path: "a", Length: -1}, writerFunc(func(p []byte) (int, error) {
		if n++; n == 2 {
			put(t, path, bytesOf(1<<20))
		}
		return len(p), nil
	}))
	if !errors.Is(err, files.ErrChanged) {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// Old partial files go when another upload begins.
func TestSweep(t *testing.T) {
	f, dir := serve(t)
	old, young := filepath.Join(dir, files.PartialPrefix+"old"), filepath.Join(dir, files.PartialPrefix+"young")
	put(t, old, []byte("x"))
	put(t, young, []byte("x"))
	past := time.Now().Add(-2 * files.KeepPartial)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Put(t.Context(), files.PutIn{Path: "a", Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the old one is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}

func TestSlotsAreBounded(t *testing.T) {
	f, dir := serve(t)
	put(t, filepath.Join(dir, "a"), []byte("x"))
	hold := make(chan struct{})
	entered := make(chan struct{}, files.MaxOpen)
	for range files.MaxOpen {
		go f.Read(t.Context(), files.ReadIn{Path: "a", Length: -1}, writerFunc(func(p []byte) (int, error) {
			entered <- struct{}{}
			<-hold
			return len(p), nil
		}))
	}
	for range files.MaxOpen {
		<-entered
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Read(ctx, files.ReadIn{Path: "a", Length: -1}, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(hold)
}
