//go:build !unix

package checkpoint

import (
	"os"
	"os/exec"
)

// lock holds a file for this process. An open file cannot be removed here, so that another process fails later.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// ownGroup leaves it at the program: its pipes are closed soon after it.
func ownGroup(*exec.Cmd) {}
