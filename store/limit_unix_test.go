//go:build unix

package store

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestFileSizeLimit is TestFullDisk for those who may not mount: the second process may write files
// up to a size only, which the shell sets.
func TestFileSizeLimit(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	for _, blocks := range []int{1024, 1500, 2048, 5000} { // of 512 bytes
		t.Run(fmt.Sprint(blocks/2, " KiB"), func(t *testing.T) {
			dir := t.TempDir()
			cmd := start2(t, dir, "fill")
			limited := exec.Command(sh, "-c", fmt.Sprintf(`ulimit -f %d && exec "$0"`, blocks), cmd.Path)
			limited.Env = cmd.Env
			var out bytes.Buffer
			limited.Stdout, limited.Stderr = &out, os.Stderr
			if err := limited.Run(); err != nil {
				t.Fatalf("%v\n%s", err, tail(out.Bytes()))
			}
			wantFull(t, dir, out.Bytes())
		})
	}
}
