// Package disk asks the system about the disk that a directory is on.
//
// It imports the standard library and the system call packages, and owns no goroutine.
package disk

// Space is how much room a file system has, in bytes. Free is what this user may fill.
type Space struct{ Free, Total uint64 }
