//go:build !tailnet

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A build without the tailnet says which one has it, and what else to do.
func TestWithoutTheTailnet(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{gateway:{tailnet:{enabled:true}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"run", "--tailnet", "--state-dir", t.TempDir()}, exitUsage},
		{[]string{"run", "--port", "0", "--state-dir", dir}, exitConfig},
	} {
		root := rootCmd(io.Discard, io.Discard)
		root.SetArgs(c.args)
		err := root.ExecuteContext(t.Context())
		if err == nil || exitCode(err) != c.code {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		for _, part := range []string{"make dist", "--bind tailnet"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q does not say %s", c.args, err, part)
			}
		}
	}
}
