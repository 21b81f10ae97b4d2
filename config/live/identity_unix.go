//go:build !windows

package live

import (
	"fmt"
	"os"
	"syscall"
)

// identityOf tells a file from another one of the same time.
func identityOf(st os.FileInfo) string {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(st.Size(), sys.Ino)
	}
	return fmt.Sprint(st.Size())
}
