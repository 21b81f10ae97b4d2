//go:build !linux

package store

import "testing"

func smallDisk(t *testing.T) (func(*testing.T, int) string, func(*testing.T, string)) {
	t.Skip("mounting a small file system needs Linux")
	return nil, nil
}
