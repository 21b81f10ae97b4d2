package main

import "io/fs"

// umask: there is none.
func umask() fs.FileMode { return 0 }
