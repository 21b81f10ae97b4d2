package source

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

// systemEnv are variables without which programs do not start.
var systemEnv = []string{"SystemRoot", "SystemDrive", "TEMP"}

func openFlags(bool) int { return 0 }

// Who may read or change a file is not judged here, so it has to be said that it is all right.
var errUnjudged = errors.New("on Windows it is not checked who may read or change it; set allowInsecurePath of the provider when only you may")

func private(fs.FileInfo) error      { return errUnjudged }
func unchangeable(fs.FileInfo) error { return errUnjudged }

func brokenPipe(err error) bool {
	return errors.Is(err, windows.ERROR_BROKEN_PIPE) || errors.Is(err, windows.ERROR_NO_DATA)
}
