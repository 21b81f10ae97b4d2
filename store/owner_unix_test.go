//go:build unix

package store_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

// TestOwner: root, too, makes nothing in the state of somebody else, who could not read it.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has what belongs to others")
	}
	dir := t.TempDir()
	if err := storetest.OpenDir(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Skip(err)
	}
	if _, err := store.Lock(dir); !errors.Is(err, store.ErrOwner) || !strings.Contains(err.Error(), "sudo -u") {
		t.Errorf("lock: %v", err)
	}
	if _, err := store.SnapshotDir(t.Context(), dir, &bytes.Buffer{}, noLimit); !errors.Is(err, store.ErrOwner) {
		t.Errorf("snapshot: %v", err)
	}
}
