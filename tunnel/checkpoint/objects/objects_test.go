package objects

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func put(t *testing.T, s Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content), Info{Size: int64(len(content)), SHA256: sum([]byte(content)), ContentType: "application/json"}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s Store, key string) string {
	t.Helper()
	r, o, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != o.Size {
		t.Fatalf("read %s: %d of %d bytes, %v", key, len(b), o.Size, err)
	}
	return string(b)
}

func list(t *testing.T, s Store, prefix string) []string {
	t.Helper()
	out := []string{}
	for o, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.Key)
	}
	return out
}

// suite is what every store does.
func suite(t *testing.T, s Store) {
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, s, "agent-1/a.json", `{"a":1}`)
	put(t, s, "agent-1/a.json", `{"a":2}`)
	put(t, s, "agent-10/b.json", `{}`)
	put(t, s, "acme/agent-1/c.json", `{"c":1}`)
	put(t, s, "agent-1/a/base bundle", "binary\x00\xff")
	put(t, s, "ü+ %25/~x", "")
	if got := get(t, s, "agent-1/a.json"); got != `{"a":2}` {
		t.Errorf("the second put: %s", got)
	}
	if got := get(t, s, "ü+ %25/~x"); got != "" {
		t.Errorf("empty object: %q", got)
	}
	o, err := s.Stat(t.Context(), "agent-1/a.json")
	if err != nil || o.Size != 7 || o.ContentType != "application/json" || time.Since(o.Modified).Abs() > time.Minute {
		t.Errorf("stat: %+v %v", o, err)
	}
	for prefix, want := range map[string][]string{
		"agent-1":   {"agent-1/a.json", "agent-1/a/base bundle", "agent-10/b.json"},
		"agent-1/":  {"agent-1/a.json", "agent-1/a/base bundle"},
		"agent-1/a": {"agent-1/a.json", "agent-1/a/base bundle"},
		"acme/":     {"acme/agent-1/c.json"},
		"nobody":    {},
		"":          {"acme/agent-1/c.json", "agent-1/a.json", "agent-1/a/base bundle", "agent-10/b.json", "ü+ %25/~x"},
	} {
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q", prefix, got, want)
		}
	}
	_, _, err = s.Get(t.Context(), "agent-1/none.json")
	if want := "An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist."; err == nil || err.Error() != want || !errors.Is(err, ErrNotFound) {
		t.Errorf("missing object: %v", err)
	}
	if _, err := s.Stat(t.Context(), "agent-1/none.json"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stat of a missing object: %v", err)
	}
	for _, bad := range []string{"", "..", "a/../b", "/a", "a/", "a//b", "./a", "a\x00b", "a\nb", strings.Repeat("k", 1025), "\xff"} {
		if err := s.Put(t.Context(), bad, strings.NewReader("x"), Info{Size: 1}); !errors.Is(err, ErrKey) {
			t.Errorf("key %q: %v", bad, err)
		}
	}
	// What is not as announced is not stored, and what was there stays.
	for name, in := range map[string]Info{
		"checksum": {Size: 5, SHA256: sum([]byte("other"))}, "shorter": {Size: 4}, "longer": {Size: 6},
	} {
		if err := s.Put(t.Context(), "agent-1/a.json", strings.NewReader("12345"), in); !errors.Is(err, ErrContent) {
			t.Errorf("content with a wrong %s: %v", name, err)
		}
		if got := get(t, s, "agent-1/a.json"); got != `{"a":2}` {
			t.Fatalf("content with a wrong %s was stored: %q", name, got)
		}
	}
	if err := s.Put(t.Context(), "agent-1/broken", io.MultiReader(strings.NewReader("12"), failing{}), Info{Size: 5}); err == nil || !strings.Contains(err.Error(), "the disk broke") {
		t.Errorf("body that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Put(ctx, "agent-1/broken", &canceller{cancel: cancel, left: 3}, Info{Size: 1 << 20}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := list(t, s, "agent-1/broken"); len(got) != 0 {
		t.Errorf("a broken upload is visible: %v", got)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			key := fmt.Sprintf("many/%d", i%2)
			if err := s.Put(t.Context(), key, strings.NewReader("same"), Info{Size: 4}); err != nil {
				t.Error(err)
			}
			if err := s.Delete(t.Context(), fmt.Sprintf("many/other-%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 2 {
		for _, key := range []string{"many/0", "many/1", "agent-1/a.json", "agent-10/b.json", "acme/agent-1/c.json", "agent-1/a/base bundle", "ü+ %25/~x"} {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Errorf("delete %s: %v", key, err)
			}
		}
	}
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("left after all was deleted: %v", got)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk broke") }

type canceller struct {
	cancel func()
	left   int
}

func (c *canceller) Read(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		c.cancel()
	}
	return copy(p, "some bytes"), nil
}

func TestDir(t *testing.T) {
	at := filepath.Join(t.TempDir(), "deep", "store")
	d, err := NewDir(at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if got := list(t, d, ""); len(got) != 0 {
		t.Errorf("a store nobody wrote to: %v", got)
	}
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Error("reading made the directory")
	}
	suite(t, d)
	put(t, d, "node/x.json", "{}")
	if runtime.GOOS != "windows" {
		for path, mode := range map[string]os.FileMode{at: 0o700, at + "/node": 0o700, at + "/node/x.json": 0o600} {
			if i, err := os.Stat(path); err != nil || i.Mode().Perm() != mode {
				t.Errorf("%s: %v %v", path, i.Mode(), err)
			}
		}
	}
	if parts, _ := os.ReadDir(filepath.Join(at, partDir)); len(parts) != 0 {
		t.Errorf("left of broken writes: %v", parts)
	}
	// Links out of the store, pipes and files of others are nothing of it.
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		if err := errors.Join(os.Symlink(secret, at+"/node/link.json"), os.Symlink(filepath.Dir(secret), at+"/out"), os.WriteFile(at+"/node/A:B", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"node/link.json", "out/secret"} {
			if r, _, err := d.Get(t.Context(), key); err == nil {
				_ = r.Close()
				t.Errorf("%s was read", key)
			}
		}
		if err := d.Put(t.Context(), "out/new", strings.NewReader("x"), Info{Size: 1}); err == nil {
			t.Error("a link led out of the store")
		}
		if got := list(t, d, ""); !slices.Equal(got, []string{"node/x.json"}) {
			t.Errorf("list: %v", got)
		}
	}
	if want := "file://" + filepath.ToSlash(at) + "/node/x.json"; runtime.GOOS != "windows" && d.URL("node/x.json") != want {
		t.Errorf("URL %s, want %s", d.URL("node/x.json"), want)
	}
	// Parts that a crash left go.
	old := filepath.Join(at, partDir, "old")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * partAge)
	if err := errors.Join(os.Chtimes(old, past, past), d.Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what a crash left stays")
	}
}

// gateway starts the S3 server of tunnel.md §8.
func gateway(t *testing.T) S3Config {
	t.Helper()
	bin := os.Getenv("VERSITYGW")
	if bin == "" {
		t.Skip("VERSITYGW names no versitygw (tunnel.md §8)")
	}
	root := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(bin, "--port", addr, "--access", "test-access", "--secret", "test-secret-key", "posix", root)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=test-access", "ROOT_SECRET_KEY=test-secret-key")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return S3Config{Endpoint: "http://" + addr, Bucket: "hanzo-sessions", AccessKey: "test-access", SecretKey: "test-secret-key"}
		}
		if time.Now().After(end) {
			t.Fatalf("versitygw does not listen:\n%s", log.String())
		}
	}
}

func TestS3(t *testing.T) {
	c := gateway(t)
	s, err := NewS3(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil || err.Error() != "An error occurred (404) when calling the HeadBucket operation: Not Found" || !errors.Is(err, ErrNotFound) {
		t.Errorf("no bucket: %v", err)
	}
	c.CreateBucket = true
	if s, err = NewS3(c); err != nil {
		t.Fatal(err)
	}
	suite(t, s)
	// More than one page.
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < 1020; i += 4 {
				if err := s.Put(t.Context(), fmt.Sprintf("p/%04d.json", i), strings.NewReader("{}"), Info{Size: 2}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, s, "p/"); len(got) != 1020 || !slices.IsSorted(got) {
		t.Errorf("%d objects listed", len(got))
	}
	o, err := s.Stat(t.Context(), "p/0001.json")
	if err != nil || o.SHA256 != "" {
		t.Errorf("%+v %v", o, err)
	}
	put(t, s, "sum", "with a sum")
	if o, err = s.Stat(t.Context(), "sum"); err != nil || o.SHA256 != sum([]byte("with a sum")) {
		t.Errorf("%+v %v", o, err)
	}
	c.SecretKey = "a-wrong-secret-key"
	wrong, err := NewS3(c)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = wrong.Get(t.Context(), "sum")
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), c.SecretKey) {
		t.Errorf("wrong secret: %v", err)
	}
	if err := wrong.Check(t.Context()); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "(403) when calling the HeadBucket operation: Forbidden") {
		t.Errorf("wrong secret: %v", err)
	}
	if err := wrong.Put(t.Context(), "x", strings.NewReader("x"), Info{Size: 1}); !errors.Is(err, ErrDenied) {
		t.Errorf("wrong secret: %v", err)
	}
}

// faulty is an S3 server with faults of the network.
func faulty(t *testing.T, stall time.Duration, h http.HandlerFunc) *S3 {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	s, err := NewS3(S3Config{Endpoint: srv.URL, AccessKey: "access", SecretKey: "the-secret", Stall: stall})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFaults(t *testing.T) {
	t.Run("500 at first", func(t *testing.T) {
		n, body := 0, ""
		s := faulty(t, 0, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if n++; n < 3 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			body = string(b)
			w.Header().Set("ETag", `"x"`)
		})
		if err := s.Put(t.Context(), "k", strings.NewReader("hello"), Info{Size: 5}); err != nil || n != 3 || !strings.Contains(body, "hello") {
			t.Errorf("%d tries, %q, %v", n, body, err)
		}
	})
	t.Run("500 for good", func(t *testing.T) {
		n := 0
		s := faulty(t, 0, func(w http.ResponseWriter, r *http.Request) {
			n++
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `<Error><Code>InternalError</Code><Message>no the-secret here</Message></Error>`)
		})
		_, _, err := s.Get(t.Context(), "k")
		if !errors.Is(err, ErrStore) || n != tries || err.Error() != "An error occurred (InternalError) when calling the GetObject operation: no *** here" {
			t.Errorf("%d tries, %v", n, err)
		}
	})
	t.Run("cut upload", func(t *testing.T) {
		var n atomic.Int32
		s := faulty(t, 0, func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		})
		// A body that cannot begin again is sent once.
		if err := s.Put(t.Context(), "k", io.LimitReader(zeros{}, 8<<20), Info{Size: 8 << 20}); !errors.Is(err, ErrStore) || n.Load() != 1 {
			t.Errorf("%d tries, %v", n.Load(), err)
		}
	})
	t.Run("cut download", func(t *testing.T) {
		s := faulty(t, 0, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "only a part")
		})
		r, o, err := s.Get(t.Context(), "k")
		if err != nil || o.Size != 100 {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		if b, err := io.ReadAll(r); err == nil || string(b) != "only a part" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("stalled", func(t *testing.T) {
		wait := make(chan struct{})
		s := faulty(t, 50*time.Millisecond, func(w http.ResponseWriter, r *http.Request) { <-wait })
		defer close(wait)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, _, err := s.Get(ctx, "k")
		if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "Read timeout on endpoint URL") {
			t.Errorf("%v", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		s, err := NewS3(S3Config{Endpoint: "http://127.0.0.1:1", AccessKey: "access", SecretKey: "the-secret"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Check(t.Context()); !errors.Is(err, ErrStore) || !strings.HasPrefix(err.Error(), `Could not connect to the endpoint URL: "http://127.0.0.1:1/hanzo-sessions"`) {
			t.Errorf("%v", err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSettings(t *testing.T) {
	env := map[string]string{}
	if _, err := FromEnv(func(k string) string { return env[k] }); err == nil || err.Error() != "S3_ACCESS_KEY and S3_SECRET_KEY env vars required" {
		t.Errorf("%v", err)
	}
	env["S3_ACCESS_KEY"], env["S3_SECRET_KEY"] = "a", "b"
	c, err := FromEnv(func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewS3(c)
	if err != nil || s.URL("a/b.json") != "s3://hanzo-sessions/a/b.json" || s.host != "s3.hanzo.ai" || !s.tls {
		t.Errorf("%+v %v", s, err)
	}
	for _, bad := range []string{"s3.hanzo.ai", "ftp://x", "http://u:p@x", "http://x/path", "http://x?q", "http://", "::"} {
		if _, err := NewS3(S3Config{Endpoint: bad, AccessKey: "a", SecretKey: "b"}); !errors.Is(err, ErrConfig) {
			t.Errorf("endpoint %q: %v", bad, err)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, k := range []string{"a/b", "..", "a/%2e%2e/b", ".parts/x", "CON", "ü", "a\\..\\b", "x."} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, k string) {
		n, err := name(k)
		if err != nil {
			return
		}
		if !filepath.IsLocal(n) || strings.HasPrefix(n, ".") || strings.Contains(n, "/.") || strings.ContainsAny(n, "\\:\x00") {
			t.Errorf("%q is the file %q", k, n)
		}
		if back, ok := key(n); !ok || back != k {
			t.Errorf("%q is the file %q is the key %q", k, n, back)
		}
	})
}
