package files_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/tunnel/files"
)

// largest is how long a file of the process below may be.
const largest = 1 << 20

// On a disk that takes no more, the old file stays, nothing is left behind, and the error says what to do. It runs
// in a process of its own, whose files may not grow.
func TestFullDisk(t *testing.T) {
	if os.Getenv("FILES_FULL") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "FILES_FULL=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFullDisk")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	limit := syscall.Rlimit{Cur: largest, Max: largest}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	f, dir := serve(t)
	put(t, filepath.Join(dir, "a"), []byte("old"))
	data := bytesOf(3 * largest)
	_, err := f.Write(t.Context(), files.WriteIn{Path: "a", Upload: id, Size: -1, Overwrite: true}, bytes.NewReader(data))
	if !errors.Is(err, files.ErrNoSpace) || !strings.Contains(err.Error(), "make room") {
		t.Error(err)
	}
	if _, err := f.Put(t.Context(), files.PutIn{Path: "a", Data: data, Overwrite: true}); !errors.Is(err, files.ErrNoSpace) {
		t.Error(err)
	}
	if _, err := f.Patch(t.Context(), files.PatchIn{Path: "a", Offset: 2 * largest, Data: []byte("x")}); !errors.Is(err, files.ErrNoSpace) {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "old" {
		t.Errorf("%q %v", b, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v %v", names, err)
	}
	// A smaller one still goes.
	if _, err := f.Put(t.Context(), files.PutIn{Path: "a", Data: data[:1000], Overwrite: true}); err != nil {
		t.Error(err)
	}
	// One that is announced to be larger than the disk is refused before anything is sent.
	if _, err := f.Write(t.Context(), files.WriteIn{Path: "b", Upload: id, Size: 1 << 60}, strings.NewReader("")); !errors.Is(err, files.ErrNoSpace) {
		t.Error(err)
	}
}
