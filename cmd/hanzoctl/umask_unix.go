//go:build unix

package main

import (
	"io/fs"
	"sync"
	"syscall"
)

// umask is that of this process. It can only be asked by setting it, which is done once.
var umask = sync.OnceValue(func() fs.FileMode {
	old := syscall.Umask(0o077)
	syscall.Umask(old)
	return fs.FileMode(old).Perm()
})
