package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// world is what the files of a journal's owner hold.
type world struct {
	mu      sync.Mutex
	files   map[string][]byte
	settled []string
	fatal   error
}

func newWorld() *world { return &world{files: map[string][]byte{}} }

func (w *world) apply(r Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.files[r.Name]
	if n := int(r.Offset) + len(r.Data); len(f) < n {
		f = append(f, make([]byte, n-len(f))...)
	}
	copy(f[r.Offset:], r.Data)
	w.files[r.Name] = f
	return nil
}

func (w *world) settle(names []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled = append(w.settled, names...)
	return nil
}

func (w *world) open(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir, w.apply, Options{Settle: w.settle, OnFatal: func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fatal = err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// crash copies the journal as a killed process leaves it, and returns the copy.
func crash(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestReplay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	l := newWorld().open(t, dir)
	for i, r := range []Record{
		{KindAppend, "a", 0, []byte("one\n")}, {KindAppend, "b", 7, []byte("two\n")}, {KindAppend, "a", 4, []byte("three\n")},
		{KindVoid, "b", 0, nil}, {KindAppend, "b", 0, []byte("new\n")}, {KindAppend, "c", 0, []byte("gone\n")}, {KindVoid, "c", 0, nil},
	} {
		if err := l.Append(r); err != nil {
			t.Fatal(i, err)
		}
	}
	left := crash(t, dir)
	w := newWorld()
	again := w.open(t, left)
	if got := string(w.files["a"]) + "|" + string(w.files["b"]); got != "one\nthree\n|new\n" || len(w.files) != 2 {
		t.Errorf("replayed %q, %d files", got, len(w.files))
	}
	if !slices.Equal(w.settled, []string{"a", "b"}) {
		t.Errorf("settled %v", w.settled)
	}
	if paths, _ := Segments(left); len(paths) != 0 {
		t.Errorf("segments stay: %v", paths)
	}
	// What comes after a crash is not taken for what was before it.
	if err := again.Append(Record{KindAppend, "a", 10, []byte("four\n")}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), again.Close()); err != nil {
		t.Fatal(err)
	}
	if paths, _ := Segments(dir); len(paths) != 0 {
		t.Errorf("a journal that was closed leaves %v", paths)
	}
	if err := l.Append(Record{Kind: KindAppend, Name: "a"}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

// A journal that was cut off anywhere gives the records before the cut, and nothing else.
func TestTorn(t *testing.T) {
	var whole []byte
	var ends []int
	for i := range 5 {
		whole = appendRecord(whole, 3, Record{KindAppend, "name", int64(i), fmt.Appendf(nil, "line %d\n", i)})
		ends = append(ends, len(whole))
	}
	for cut := range len(whole) + 1 {
		for _, tail := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xffgarbage that follows"} {
			want := 0
			for want < len(ends) && ends[want] <= cut {
				want++
			}
			got := 0
			err := read(bytes.NewReader(append(bytes.Clone(whole[:cut]), tail...)), 3, func(r Record) error {
				if r.Offset != int64(got) || string(r.Data) != fmt.Sprintf("line %d\n", got) {
					t.Errorf("cut %d: record %+v", cut, r)
				}
				got++
				return nil
			})
			if err != nil || got != want {
				t.Errorf("cut at %d: %d records, want %d, %v", cut, got, want, err)
			}
		}
	}
	// Every flipped bit ends it there.
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		n := 0
		_ = read(bytes.NewReader(bad), 3, func(Record) error { n++; return nil })
		if max := slices.IndexFunc(ends, func(e int) bool { return e > i }); n != max {
			t.Fatalf("byte %d flipped: %d records, want %d", i, n, max)
		}
	}
	if err := read(bytes.NewReader(whole), 4, func(Record) error { return errors.New("a record of another segment") }); err != nil {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	w := newWorld()
	l := w.open(t, dir)
	if err := l.Append(Record{KindAppend, "a", 0, []byte("kept\n")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	full := true
	l.write = func(f *os.File, b []byte, at int64) (int, error) {
		if full {
			n, _ := f.WriteAt(b[:len(b)/2], at)
			return n, syscall.ENOSPC
		}
		return f.WriteAt(b, at)
	}
	for range 3 {
		err := l.Append(Record{KindAppend, "a", 5, []byte("refused\n")})
		if !errors.Is(err, ErrNotWritten) || !errors.Is(err, syscall.ENOSPC) || errs.ClassOf(err) != errs.Unavailable {
			t.Fatal(err)
		}
	}
	full = false
	if err := l.Append(Record{KindAppend, "a", 5, []byte("later\n")}); err != nil {
		t.Fatal(err)
	}
	after := newWorld()
	if err := after.open(t, crash(t, dir)).Close(); err != nil {
		t.Fatal(err)
	}
	if got := string(after.files["a"]); got != "\x00\x00\x00\x00\x00later\n" || w.fatal != nil {
		t.Errorf("%q, fatal %v", got, w.fatal)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestFailedSync(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	w := newWorld()
	l := w.open(t, dir)
	if err := l.Append(Record{KindAppend, "a", 0, []byte("kept\n")}); err != nil {
		t.Fatal(err)
	}
	l.sync = func(*os.File) error { return syscall.EIO }
	if err := l.Append(Record{KindAppend, "a", 5, []byte("who knows\n")}); !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	if err := l.Append(Record{KindAppend, "a", 5, []byte("no\n")}); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if err := l.Close(); err == nil {
		t.Error("a journal that lost something closes without saying so")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fatal == nil {
		t.Error("nobody was told")
	}
	if len(w.settled) != 0 {
		t.Errorf("after a failed sync %v were settled", w.settled)
	}
	if paths, _ := Segments(dir); len(paths) != 1 {
		t.Errorf("the records are gone: %v", paths)
	}
}

// A file that cannot be made durable stops the journal, and its records stay.
func TestFailedSettle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	fatal := make(chan error, 2)
	l, err := Open(dir, nil, Options{Settle: func([]string) error { return syscall.EIO }, OnFatal: func(err error) { fatal <- err }})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Record{KindAppend, "a", 0, []byte("kept\n")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Settle(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := <-fatal; !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if err := l.Append(Record{KindAppend, "a", 5, []byte("no\n")}); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if err := l.Close(); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if _, err := Open(dir, func(Record) error { return nil }, Options{Settle: func([]string) error { return syscall.ENOSPC }}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("opened over files that cannot be made durable: %v", err)
	}
	w := newWorld()
	if err := w.open(t, dir).Close(); err != nil || string(w.files["a"]) != "kept\n" {
		t.Errorf("%q, %v", w.files["a"], err)
	}
}

// Many appends share syncs and fill segments, which go when their files are durable.
func TestSegments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	w := newWorld()
	l := w.open(t, dir)
	const producers, each = 8, 60
	data := bytes.Repeat([]byte("x"), 100<<10)
	var wg sync.WaitGroup
	most := 0
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(Record{KindAppend, fmt.Sprint(p), int64(i * len(data)), data}); err != nil {
					t.Error(err)
				}
				if p == 0 {
					paths, err := Segments(dir)
					if err != nil {
						t.Error(err)
					}
					most = max(most, len(paths))
				}
			}
		})
	}
	wg.Wait()
	if most > maxSegments+2 {
		t.Errorf("%d segments", most)
	}
	if err := l.Settle(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after a settle there are %v, %v", left, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A segment that takes the place of an older one gives its own records only, wherever it was cut off.
func TestSpare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	l := newWorld().open(t, dir)
	old := bytes.Repeat([]byte("old line\n"), 1<<20/9)
	for i := range 2 * SegmentBytes / len(old) {
		if err := l.Append(Record{KindAppend, "old", int64(i * len(old)), old}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(dir, spareName)); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no spare segment")
		}
		time.Sleep(time.Millisecond)
	}
	for { // until the spare one is in use
		if err := l.Append(Record{KindAppend, "old", 0, old}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, spareName)); err != nil {
			break
		}
	}
	for i := range 3 {
		if err := l.Append(Record{KindAppend, "new", int64(4 * i), []byte("new\n")}); err != nil {
			t.Fatal(err)
		}
	}
	left := crash(t, dir)
	paths, err := Segments(left)
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	last := paths[len(paths)-1]
	if st, err := os.Stat(last); err != nil || st.Size() < SegmentBytes {
		t.Errorf("it is no longer one: %v, %v", st.Size(), err)
	}
	n := 0
	if err := Read(last, func(r Record) error {
		if r.Name == "new" {
			n++
		}
		return nil
	}); err != nil || n != 3 {
		t.Errorf("%d records, %v", n, err)
	}
	w := newWorld()
	if err := errors.Join(w.open(t, left).Close(), l.Close()); err != nil || string(w.files["new"]) != "new\nnew\nnew\n" {
		t.Errorf("%q, %v", w.files["new"], err)
	}
	for _, d := range []string{dir, left} {
		if all, _ := os.ReadDir(d); len(all) != 0 {
			t.Errorf("%s holds %v", d, all)
		}
	}
}

func TestLimits(t *testing.T) {
	l := newWorld().open(t, filepath.Join(t.TempDir(), "journal"))
	defer l.Close()
	if err := l.Append(Record{KindAppend, "a", 0, make([]byte, MaxData+1)}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := l.Append(Record{KindAppend, "a", 0, make([]byte, MaxData)}); err != nil {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	var b []byte
	for i := range 3 {
		b = appendRecord(b, 0, Record{KindAppend, "agents/main/sessions/a.jsonl", int64(i), []byte("{}\n")})
	}
	f.Add(b)
	f.Add(append(b, 0, 0, 0, 40, 1, 2, 3, 4))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		err := read(bytes.NewReader(data), 0, func(r Record) error {
			if r.Offset < 0 || len(r.Name) > MaxName || len(r.Data) > MaxData || (r.Kind != KindAppend && r.Kind != KindVoid) {
				t.Errorf("record %+v", r)
			}
			again = appendRecord(again, 0, r)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if !bytes.HasPrefix(data, again) {
			t.Error("what was read is not what is there")
		}
	})
}
