//go:build unix && !linux

package proc

import "testing"

// RSS skips the test: this system has no /proc.
func RSS(tb testing.TB, _ int) int64 {
	tb.Helper()
	tb.Skip("reading the memory of a process needs /proc")
	return 0
}

// Private skips the test as well.
func Private(tb testing.TB, pid int) int64 { return RSS(tb, pid) }
