package ssh

import "os"

// owned leaves it to the access control of the home directory.
func owned(os.FileInfo) error { return nil }
