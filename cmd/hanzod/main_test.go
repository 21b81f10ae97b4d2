package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/store"
)

// TestExitCode: 78 is for what a restart does not mend, however deep the error is.
func TestExitCode(t *testing.T) {
	plain := errors.New("x")
	for _, tc := range []struct {
		err  error
		want int
	}{
		{plain, 1},
		{usageError{plain}, 2},
		{configError{plain}, 78},
		{store.ErrLocked, 78},
		{store.ErrCorrupt.With("path", "p").WithText("damaged").Wrap(plain), 78},
		{store.ErrForeign.With("path", "p"), 78},
		{store.ErrNewer.With("schema", 9), 78},
		// A file that cannot be opened now may be opened later.
		{store.ErrOpen.Wrap(os.ErrPermission), 1},
		{store.ErrStopped, 1},
	} {
		for _, err := range []error{tc.err, fmt.Errorf("starting: %w", tc.err), errors.Join(plain, tc.err)} {
			if got := exitCode(err); got != tc.want {
				t.Errorf("%q: exit code %d, want %d", err, got, tc.want)
			}
		}
	}
}

// TestRunRefusesDatabase: run ends with 78 over a database that is not hanzod's, and leaves it.
func TestRunRefusesDatabase(t *testing.T) {
	state := t.TempDir()
	t.Setenv("HOME", state)
	file, text := filepath.Join(state, "hanzod.db"), []byte("SQLite format 3\x00")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	root := rootCmd(io.Discard, io.Discard)
	root.SetArgs([]string{"run", "--state-dir", state, "--port", "0"})
	err := root.ExecuteContext(t.Context())
	if err == nil || exitCode(err) != 78 || !strings.Contains(err.Error(), file) {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, text) {
		t.Errorf("the file was changed to %q (%v)", now, err)
	}
}

// TestRunHelp: the help names every exit code.
func TestRunHelp(t *testing.T) {
	var out bytes.Buffer
	root := rootCmd(&out, io.Discard)
	root.SetArgs([]string{"run", "--help"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0 stopped", "1 failed", "2 wrong flags", "78 the configuration", "database is damaged"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help says nothing of %q:\n%s", want, out.String())
		}
	}
}
