package sessions

import "time"

// Found is a transcript on disk, or one that was put aside.
type Found struct {
	File
	// Size is in bytes.
	Size    int64
	ModTime time.Time
}
