package checks

import (
	"errors"
	"io/fs"
	"os"
)

// ownerOf is not known: access lists decide, and the directory of a user is the user's.
func ownerOf(fs.FileInfo) (uid string, mine, known bool) { return "", false, false }

func userName() string { return os.Getenv("USERNAME") }

func restrict(string, bool) (string, error) {
	return "", errors.New("access lists are not changed by hanzod")
}

func alive(int) bool { return true }
