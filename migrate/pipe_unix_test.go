//go:build unix

package migrate

import "syscall"

func makePipe(name string) error { return syscall.Mkfifo(name, 0o600) }
