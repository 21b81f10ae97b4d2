//go:build !unix

package objects

import "os"

func openFile(root *os.Root, file string) (*os.File, error) { return root.Open(file) }

// syncDir has nothing to do: directories cannot be synced here.
func syncDir(*os.Root, string) error { return nil }
