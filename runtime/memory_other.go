//go:build !linux

package runtime

// groupLimit is false: this system has no control groups.
func groupLimit() (int64, bool) { return 0, false }

// forgetStart does nothing here.
func forgetStart() {}
