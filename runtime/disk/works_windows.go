package disk

import (
	"errors"
	"fmt"
	"os"
)

// Works tries whether files of a directory can be written and synced, with one that goes away again.
func Works(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("files in %s cannot be synced: %w", dir, err)
	}
	return nil
}
