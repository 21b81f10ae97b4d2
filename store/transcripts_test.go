package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store/journal"
)

func fileOf(name string) sessions.File { return sessions.File{AgentID: "main", Name: name + ".jsonl"} }

func appendTo(tb testing.TB, s *Store, f sessions.File, lines ...string) {
	tb.Helper()
	var b [][]byte
	for _, l := range lines {
		b = append(b, []byte(l))
	}
	if err := s.Transcripts().Append(tb.Context(), f, b...); err != nil {
		tb.Fatal(err)
	}
}

// textOf is what readers see of a transcript.
func textOf(tb testing.TB, s *Store, f sessions.File) string {
	tb.Helper()
	in, err := s.Transcripts().Open(f)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.NewSectionReader(in, 0, 1<<40))
	if err != nil || int64(len(text)) != in.Size() {
		tb.Fatalf("%d bytes of %d, %v", len(text), in.Size(), err)
	}
	return string(text)
}

// killed copies a state as a process that is killed leaves it.
func killed(tb testing.TB, dir string) string {
	tb.Helper()
	to := filepath.Join(tb.TempDir(), "state")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		tb.Fatal(err)
	}
	return to
}

func TestTranscripts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := fileOf("a")
	if _, err := s.Transcripts().Open(a); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	appendTo(t, s, a, `{"n":1}`, `{"n":2}`)
	appendTo(t, s, a, `{"n":3}`)
	appendTo(t, s, a)
	if got := textOf(t, s, a); got != "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n" {
		t.Errorf("%q", got)
	}
	path := filepath.Join(dir, "agents", "main", "sessions", "a.jsonl")
	if s.Transcripts().Path(a) != path {
		t.Error(s.Transcripts().Path(a))
	}
	if runtime.GOOS != "windows" {
		for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700 | fs.ModeDir, filepath.Join(dir, "journal"): 0o700 | fs.ModeDir} {
			if st, err := os.Stat(p); err != nil || st.Mode() != want {
				t.Errorf("%s: %v %v", p, st.Mode(), err)
			}
		}
	}
	for _, lines := range [][][]byte{{nil}, {[]byte("a\nb")}, {[]byte("a"), {}}} {
		if err := s.Transcripts().Append(t.Context(), a, lines...); !errors.Is(err, sessions.ErrLine) {
			t.Errorf("%q: %v", lines, err)
		}
	}
	if err := s.Transcripts().Append(t.Context(), a, make([]byte, journal.MaxData)); !errors.Is(err, journal.ErrTooLarge) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Transcripts().Append(ctx, a, []byte("x")); !errors.Is(err, ErrGaveUp) {
		t.Error(err)
	}
}

func TestTranscriptNames(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	long := strings.Repeat("a", maxFileName)
	for _, f := range []sessions.File{
		{}, {AgentID: "main"}, {Name: "a.jsonl"}, {AgentID: "main", Name: "../a.jsonl"}, {AgentID: "..", Name: "a.jsonl"}, {AgentID: "main", Name: ".a.jsonl"},
		{AgentID: "main", Name: "a/b.jsonl"}, {AgentID: "main", Name: `a\b.jsonl`}, {AgentID: "main", Name: "a\x00.jsonl"}, {AgentID: "main", Name: "a.txt"},
		{AgentID: "main", Name: "ä.jsonl"}, {AgentID: "a/b", Name: "a.jsonl"}, {AgentID: "main", Name: "c:a.jsonl"}, {AgentID: "main", Name: long + ".jsonl"},
		{AgentID: "main", Name: "a.jsonl."}, {AgentID: "main", Name: "a b.jsonl"},
	} {
		err := s.Transcripts().Append(t.Context(), f, []byte("{}"))
		if !errors.Is(err, sessions.ErrFileName) {
			t.Errorf("%q: %v", f, err)
		}
		if _, err := s.Transcripts().Open(f); !errors.Is(err, sessions.ErrFileName) {
			t.Errorf("%q: %v", f, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "agents")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made")
	}
}

// Where a file is expected, nothing else is written to or read.
func TestTranscriptLinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege there")
	}
	dir, outside := t.TempDir(), t.TempDir()
	s := open(t, dir)
	appendTo(t, s, fileOf("real"), "{}")
	in := filepath.Join(dir, "agents", "main", "sessions")
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"out": secret, "in": filepath.Join(in, "real.jsonl"), "none": filepath.Join(outside, "new")} {
		if err := os.Symlink(target, filepath.Join(in, name+".jsonl")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(in, "dir.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "agents", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agents", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []sessions.File{fileOf("out"), fileOf("in"), fileOf("none"), fileOf("dir"), {AgentID: "link", Name: "a.jsonl"}, {AgentID: "file", Name: "a.jsonl"}} {
		err := s.Transcripts().Append(t.Context(), f, []byte("{}"))
		if !errors.Is(err, sessions.ErrNotRegular) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v: %v", f, err)
		}
		if in, err := s.Transcripts().Open(f); err == nil {
			t.Errorf("%v was read", f)
			_ = in.Close()
		}
		if _, _, err := s.Transcripts().Shorten(t.Context(), f, 1); err == nil {
			t.Errorf("%v was shortened", f)
		}
	}
	if text, _ := os.ReadFile(secret); string(text) != "secret\n" {
		t.Errorf("the file outside holds %q", text)
	}
	if all, _ := os.ReadDir(outside); len(all) != 1 {
		t.Errorf("outside there are %v", all)
	}
	if got := textOf(t, s, fileOf("real")); got != "{}\n" {
		t.Errorf("%q", got)
	}
}

// What a crash cut off goes before the next line is written, and readers never see it.
func TestTornTranscript(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	in := filepath.Join(dir, "agents", "main", "sessions")
	if err := os.MkdirAll(in, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ left, want string }{
		{"", ""}, {"{}\n", "{}\n"}, {"{}\n{\"a\":", "{}\n"}, {"{\"a\":", ""}, {"{}\n{\"a\":1}", "{}\n{\"a\":1}\n"},
		{"{}\n\x00\x00\x00\x00", "{}\n"}, {"{}\r\n{\"x", "{}\r\n"}, {"{}\n" + strings.Repeat("x", 3<<20), "{}\n"}, {"\n\n", "\n\n"},
	} {
		f := fileOf(fmt.Sprint("torn", i))
		if err := os.WriteFile(filepath.Join(in, f.Name), []byte(c.left), 0o600); err != nil {
			t.Fatal(err)
		}
		seen := textOf(t, s, f)
		if strings.TrimSuffix(seen, "\n") != strings.TrimSuffix(c.want, "\n") {
			t.Errorf("%d: readers see %.40q", i, seen)
		}
		appendTo(t, s, f, `{"next":true}`)
		if got := textOf(t, s, f); got != c.want+"{\"next\":true}\n" {
			t.Errorf("%d: %.60q", i, got)
		}
	}
}

// However much of the files is lost with the page cache, what was acknowledged comes back from the journal.
func TestTranscriptReplay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b := fileOf("a"), sessions.File{AgentID: "other", Name: "b-topic-7.jsonl"}
	want := ""
	for i := range 5 {
		line := fmt.Sprintf(`{"line":%d}`, i)
		want += line + "\n"
		appendTo(t, s, a, line)
	}
	appendTo(t, s, b, "{}")
	path := filepath.Join("agents", "main", "sessions", "a.jsonl")
	for cut := -1; cut <= len(want)+2; cut++ {
		left := killed(t, dir)
		var err error
		switch {
		case cut < 0:
			err = os.RemoveAll(filepath.Join(left, "agents"))
		case cut <= len(want):
			err = os.Truncate(filepath.Join(left, path), int64(cut))
		case cut == len(want)+1: // blocks that were given to the file and never written
			err = os.WriteFile(filepath.Join(left, path), append([]byte(want[:11]), make([]byte, len(want)-11)...), 0o600)
		default: // a line that nobody was told of
			err = os.WriteFile(filepath.Join(left, path), []byte(want+`{"half`), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		again := open(t, left)
		if got := textOf(t, again, a); got != want {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		if textOf(t, again, b) != "{}\n" {
			t.Fatal("the other one is lost")
		}
		appendTo(t, again, a, "{}")
		if got := textOf(t, again, a); got != want+"{}\n" {
			t.Fatalf("cut at %d, then appended: %q", cut, got)
		}
		if paths, _ := journal.Segments(filepath.Join(left, "journal")); len(paths) != 1 {
			t.Fatalf("segments %v", paths)
		}
		check(t, again)
	}
}

// A journal that names files of others, or a directory that is none, is survived or refused in words.
func TestHostileJournal(t *testing.T) {
	dir := t.TempDir()
	l, err := journal.Open(filepath.Join(dir, "journal"), nil, journal.Options{Settle: func([]string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x.jsonl", "hanzod.db", "agents/main/x.jsonl", "agents/main/sessions/../../../hanzod.db", "agents/../../etc/sessions/a.jsonl", ""} {
		if err := l.Append(journal.Record{Kind: journal.KindAppend, Name: name, Data: []byte("x\n")}); err != nil {
			t.Fatal(err)
		}
	}
	left := killed(t, dir)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, left)
	check(t, s)
	if _, err := os.Stat(filepath.Join(left, "agents")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made")
	}
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "journal"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), bad, Options{}); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), "move it away") {
		t.Error(err)
	}
	open(t, t.TempDir()) // the lock of the other one was freed
	if err := os.Remove(filepath.Join(bad, "journal")); err != nil {
		t.Fatal(err)
	}
	open(t, bad)
}

// Many sessions at once: more than stay open, each whole and in order.
func TestManyTranscripts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	const files, writers, each = 2*maxOpen + 7, 8, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				for f := w; f < files; f += writers {
					if i%4 != f%4 {
						continue
					}
					if err := s.Transcripts().Append(t.Context(), fileOf(fmt.Sprint(f)), fmt.Appendf(nil, `{"i":%d}`, i)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	// And several who append to the same one.
	for w := range 4 {
		wg.Go(func() {
			for i := range each {
				if err := s.Transcripts().Append(t.Context(), fileOf("shared"), fmt.Appendf(nil, `{"w":%d,"i":%d}`, w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.Transcripts().open); n > maxOpen+1 {
		t.Errorf("%d files are open", n)
	}
	for f := range files {
		want := ""
		for i := range each {
			if i%4 == f%4 {
				want += fmt.Sprintf("{\"i\":%d}\n", i)
			}
		}
		if got := textOf(t, s, fileOf(fmt.Sprint(f))); got != want {
			t.Fatalf("%d: %q", f, got)
		}
	}
	lines := strings.Split(strings.TrimSpace(textOf(t, s, fileOf("shared"))), "\n")
	slices.Sort(lines)
	if len(slices.Compact(lines)) != 4*each {
		t.Errorf("the shared one has %d lines", len(lines))
	}
}

func TestShorten(t *testing.T) {
	s := open(t, t.TempDir())
	f := fileOf("a")
	if _, _, err := s.Transcripts().Shorten(t.Context(), f, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for i := range 5 {
		appendTo(t, s, f, fmt.Sprintf(`{"i":%d}`, i), " ", "\r")
	}
	for want := 1; want <= 6; want++ {
		with, kept, err := s.Transcripts().Shorten(t.Context(), f, want)
		if err != nil {
			t.Fatal(err)
		}
		if want >= 5 {
			if with != "" || kept != 5 {
				t.Errorf("%d lines: %q, %d", want, with, kept)
			}
			continue
		}
		text, err := os.ReadFile(s.Transcripts().Path(sessions.File{AgentID: "main", Name: with}))
		if err != nil || kept != want || strings.Count(string(text), "\n") != want || !strings.HasSuffix(string(text), "{\"i\":4}\n") {
			t.Errorf("%d lines: %d, %q, %v", want, kept, text, err)
		}
		if err := s.Transcripts().Discard(f, with); err != nil {
			t.Error(err)
		}
	}
	if err := s.Transcripts().Discard(f, f.Name); !errors.Is(err, sessions.ErrFileName) {
		t.Errorf("a transcript was discarded: %v", err)
	}
}

// A disk that gets full refuses in words, loses nothing, and takes more when there is room again.
func TestFullDiskOfTranscripts(t *testing.T) {
	small, large := smallDisk(t)
	for _, kib := range []int{700, 1100} {
		t.Run(fmt.Sprint(kib, " KiB"), func(t *testing.T) {
			dir := small(t, kib)
			fatal := make(chan error, 9)
			s, err := Open(t.Context(), dir, Options{OnFatal: func(err error) { fatal <- err }})
			if err != nil {
				t.Fatal(err)
			}
			acked := map[sessions.File]int{}
			refused := 0
			for i := 0; refused < 20; i++ {
				f := fileOf(fmt.Sprint(i % 5))
				err := s.Transcripts().Append(t.Context(), f, fmt.Appendf(nil, `{"n":%d,"text":%q}`, acked[f], strings.Repeat("x", 3000)))
				switch {
				case err == nil:
					acked[f]++
				case errors.Is(err, journal.ErrNotWritten) && errs.ClassOf(err) == errs.Unavailable && strings.Contains(err.Error(), "free disk space"):
					refused++
				default:
					t.Fatal(err)
				}
			}
			select {
			case err := <-fatal:
				t.Fatalf("the daemon would stop: %v", err)
			default:
			}
			look := func(s *Store) {
				t.Helper()
				for f, n := range acked {
					text := textOf(t, s, f)
					if strings.Count(text, "\n") != n || (n > 0 && !strings.Contains(text, fmt.Sprintf(`{"n":%d,`, n-1))) {
						t.Errorf("%s: %d lines of %d", f.Name, strings.Count(text, "\n"), n)
					}
				}
			}
			look(s)
			left := killed(t, dir)
			large(t, dir)
			appendTo(t, s, fileOf("0"), fmt.Sprintf(`{"n":%d,"again":true}`, acked[fileOf("0")]))
			acked[fileOf("0")]++
			look(s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			look(open(t, dir))
			acked[fileOf("0")]--
			look(open(t, left))
		})
	}
}

func FuzzRepair(f *testing.F) {
	for _, s := range []string{"", "{}\n", "{}\n{", "{}", "\x00\x00\n\x00", "a\nb"} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.Create(filepath.Join(dir, "x"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		size, err := repair(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file.Name())
		if err != nil || int64(len(got)) != size {
			t.Fatalf("%d bytes, said %d, %v", len(got), size, err)
		}
		// Whole lines stay as they are, and the file ends with one.
		whole := data[:bytes.LastIndexByte(data, '\n')+1]
		if !bytes.HasPrefix(got, whole) || (len(got) > 0 && got[len(got)-1] != '\n') {
			t.Fatalf("%q became %q", data, got)
		}
		if rest := got[len(whole):]; len(rest) > 0 && !bytes.Equal(rest, append(bytes.Clone(data[len(whole):]), '\n')) {
			t.Fatalf("%q became %q", data, got)
		}
		if again, err := repair(file); err != nil || again != size {
			t.Fatalf("a second repair: %d, %v", again, err)
		}
	})
}
