//go:build !linux

package migrate

import "testing"

func smallDisk(t *testing.T, _ int) (dir string, larger func()) {
	t.Skip("mounting a small file system is for Linux")
	return "", nil
}
