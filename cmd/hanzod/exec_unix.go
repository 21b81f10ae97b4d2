//go:build unix

package main

import (
	"os"
	"syscall"
)

// execWith goes on as another program in this process: with its arguments, and the environment that it was
// started with.
func execWith(env []string) func(string) error {
	return func(program string) error { return syscall.Exec(program, os.Args, env) }
}
