//go:build !windows

package live

import (
	"errors"
	"os"
)

// syncDir makes what was removed from a directory stay removed after a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
