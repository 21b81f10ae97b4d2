//go:build !linux

package journal

import "os"

// syncData makes the content of a file durable, and its length where that changed.
func syncData(f *os.File) error { return f.Sync() }
