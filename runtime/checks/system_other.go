//go:build !linux

package checks

// synchronized is not known without asking other programs.
func synchronized() (synced, known bool) { return false, false }

// Listener is the process that listens on a TCP port; this system is not asked.
func Listener(int) (pid int, name string) { return 0, "" }
