//go:build !windows && !linux

package terminal

import (
	"errors"
	"os/exec"
)

// session is not known here; the groups of the program and of the foreground are.
func session(int) []member { return nil }

// await waits for a program. Its number is another's from then on.
func await(cmd *exec.Cmd) { _ = cmd.Wait() } // how it ended is in its state

// reap returns nothing: the program was waited for.
func reap(*exec.Cmd) error { return errWaited }

var errWaited = errors.New("how the program ended is not known")
