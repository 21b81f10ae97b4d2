//go:build unix

package files_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/files"
)

func allocated(tb testing.TB, path string) int64 {
	tb.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		tb.Fatal(err)
	}
	return s.Blocks * 512
}

// Links lead nowhere but below the root, and what is no file is never opened.
func TestLinksAndSpecialFiles(t *testing.T) {
	f, dir := serve(t)
	ctx := t.Context()
	secret := filepath.Join(filepath.Dir(dir), "secret")
	put(t, secret, []byte("secret"))
	put(t, filepath.Join(dir, "real"), []byte("real"))
	for name, target := range map[string]string{"abs": secret, "up": "../secret", "dirup": "..", "in": "real", "none": "nothing", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, path := range []string{"abs", "up", "dirup/secret", "none", "loop", "fifo", "sock"} {
		done := make(chan error, 1)
		go func() {
			_, err := f.Read(ctx, files.ReadIn{Path: path, Length: -1}, io.Discard)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s was read", path)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s blocks", path)
		}
		if path == "none" { // a dangling link below the root is filled like a file
			continue
		}
		if _, err := f.Put(ctx, files.PutIn{Path: path, Data: []byte("x"), Overwrite: true}); err == nil {
			t.Errorf("%s was written", path)
		}
		if _, err := f.Patch(ctx, files.PatchIn{Path: path, Data: []byte("x")}); err == nil {
			t.Errorf("%s was patched", path)
		}
	}
	if b, _ := os.ReadFile(secret); string(b) != "secret" {
		t.Fatalf("outside was written: %q", b)
	}
	for _, path := range []string{"abs", "up", "none"} {
		e, err := f.Stat(ctx, path)
		if err != nil || e.Kind != files.Link || e.Target == "" {
			t.Errorf("%s: %+v %v", path, e, err)
		}
	}
	// A link below the root stays one: what it names is replaced.
	if _, err := f.Put(ctx, files.PutIn{Path: "in", Data: []byte("new"), Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "real")); string(b) != "new" {
		t.Errorf("%q", b)
	}
	if to, err := os.Readlink(filepath.Join(dir, "in")); err != nil || to != "real" {
		t.Error(to, err)
	}
	if err := f.Remove(ctx, files.RemoveIn{Path: "dirup", Recursive: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Fatal("a link was followed to remove what it names")
	}
	if _, err := f.Stat(ctx, "fifo"); err != nil {
		t.Error(err)
	}
}

// A link in the place of a partial file is not written through.
func TestPartialInTheWay(t *testing.T) {
	f, dir := serve(t)
	ctx := t.Context()
	if _, err := f.Write(ctx, files.WriteIn{Path: "a", Upload: id, Size: -1}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	part, err := filepath.Glob(filepath.Join(dir, files.PartialPrefix+"*"))
	if err != nil || len(part) != 1 {
		t.Fatal(part, err)
	}
	victim := filepath.Join(dir, "victim")
	put(t, victim, []byte("victim"))
	for name, plant := range map[string]func() error{
		"symlink": func() error { return os.Symlink("victim", part[0]) },
		"link":    func() error { return os.Link(victim, part[0]) },
	} {
		if err := os.Remove(part[0]); err != nil {
			t.Fatal(err)
		}
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(ctx, files.WriteIn{Path: "a", Upload: id, Size: -1}, strings.NewReader("y")); !errors.Is(err, files.ErrSpecial) {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(victim); string(b) != "victim" {
			t.Fatalf("%s: written through: %q", name, b)
		}
	}
}

// Names are bytes: what a file system takes comes back as it is.
func TestHostileNames(t *testing.T) {
	f, _ := serve(t)
	ctx := t.Context()
	for _, name := range []string{"new\nline", "\xff\xfe", strings.Repeat("n", 255), "NUL", "com1.txt", "-rf", "a:b", " ", "~", "*", `back\slash`, "\x1b[31m", "..."} {
		if _, err := f.Put(ctx, files.PutIn{Path: name, Data: []byte(name)}); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		var b bytes.Buffer
		if _, err := f.Read(ctx, files.ReadIn{Path: name, Length: -1}, &b); err != nil || b.String() != name {
			t.Errorf("%q: %q %v", name, b.String(), err)
		}
		e, err := f.Stat(ctx, name)
		if err != nil || e.Name != name {
			t.Errorf("%q: %q %v", name, e.Name, err)
		}
		if err := f.Remove(ctx, files.RemoveIn{Path: name}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := f.Put(ctx, files.PutIn{Path: strings.Repeat("n", 256)}); !errors.Is(err, files.ErrPath) {
		t.Error(err)
	}
	if _, err := f.Stat(ctx, strings.Repeat("n/", 4000)); !errors.Is(err, files.ErrPath) {
		t.Error(err)
	}
}

// While a directory turns into a link to another one and back, all the time, nothing outside of the root is
// read, written, listed or removed.
func TestRace(t *testing.T) {
	f, dir := serve(t)
	out := filepath.Join(filepath.Dir(dir), "outside")
	in := filepath.Join(dir, "d")
	for _, d := range []string{out, in, filepath.Join(dir, "spare")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(out, "f"), []byte("outside"))
	put(t, filepath.Join(out, "outside-only"), nil)
	put(t, filepath.Join(in, "f"), []byte("inside"))
	if err := os.Symlink(out, filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		aside := filepath.Join(dir, "aside")
		for ctx.Err() == nil {
			_ = os.Rename(in, aside)
			_ = os.Rename(filepath.Join(dir, "l"), in)
			_ = os.Rename(in, filepath.Join(dir, "l"))
			_ = os.Rename(aside, in)
		}
	})
	var reads atomic.Int64
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var b bytes.Buffer
				if _, err := f.Read(ctx, files.ReadIn{Path: "d/f", Length: -1}, &b); err == nil {
					if reads.Add(1); b.String() == "outside" {
						t.Error("read outside of the root")
						return
					}
				}
				l, err := f.List(ctx, files.ListIn{Path: "d"})
				for _, e := range l.Entries {
					if err == nil && e.Name == "outside-only" {
						t.Error("listed outside of the root")
						return
					}
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = f.Put(ctx, files.PutIn{Path: "d/f", Data: []byte("inside"), Overwrite: true})
				_, _ = f.Put(ctx, files.PutIn{Path: "d/new", Data: []byte("new"), Overwrite: true})
				_, _ = f.Mkdir(ctx, files.MkdirIn{Path: "d/sub/sub", Parents: true})
				_ = f.Remove(ctx, files.RemoveIn{Path: "d/sub", Recursive: true})
				_ = f.Remove(ctx, files.RemoveIn{Path: "d/outside-only"})
			}
		})
	}
	wg.Wait()
	names, err := os.ReadDir(out)
	if err != nil || len(names) != 2 {
		t.Fatalf("outside has changed: %v %v", names, err)
	}
	if b, _ := os.ReadFile(filepath.Join(out, "f")); string(b) != "outside" {
		t.Fatalf("outside was written: %q", b)
	}
	if reads.Load() == 0 {
		t.Error("nothing was read at all")
	}
}

// FuzzPath: no spelling of a path gets at what stands beside the root.
func FuzzPath(f *testing.F) {
	s, dir := serve(f)
	secret := filepath.Join(filepath.Dir(dir), "secret")
	put(f, secret, []byte("secret"))
	put(f, filepath.Join(dir, "f"), []byte("inside"))
	for name, to := range map[string]string{"up": "..", "abs": filepath.Dir(dir), "self": "."} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
	}
	for _, p := range []string{"f", "../secret", "up/secret", "abs/secret", "self/self/../../secret", dir + "/../secret", "./f/", "//f", "a/../../secret", "\x00", "up/../secret", dir + "/up/secret"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		var b bytes.Buffer
		if _, err := s.Read(t.Context(), files.ReadIn{Path: path, Length: -1}, &b); err == nil && b.String() == "secret" {
			t.Fatalf("%q reads outside of the root", path)
		}
		if strings.Contains(path, "secret") {
			if _, err := s.Put(t.Context(), files.PutIn{Path: path, Data: []byte("written"), Overwrite: true}); err == nil {
				if got, _ := os.ReadFile(secret); string(got) != "secret" {
					t.Fatalf("%q writes outside of the root", path)
				}
			}
			_ = s.Remove(t.Context(), files.RemoveIn{Path: path, Recursive: true})
			if _, err := os.Stat(secret); err != nil {
				t.Fatalf("%q removes outside of the root", path)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Fatalf("%q removes the root", path)
			}
		}
	})
}
