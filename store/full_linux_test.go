package store

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk returns a function that mounts a file system of a size, and one that makes it larger.
func smallDisk(t *testing.T) (small func(*testing.T, int) string, large func(*testing.T, string)) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	small = func(t *testing.T, kib int) string {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kib)); err != nil {
			t.Skipf("mounting a small file system: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	large = func(t *testing.T, dir string) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
	return small, large
}
