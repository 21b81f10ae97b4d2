package main

import (
	"os"
	"testing"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/cmd/docs/docstest"
)

// TestDocs: man pages and completions can be made, and those who read them find no fault.
func TestDocs(t *testing.T) {
	docstest.Check(t, func() *cobra.Command { return (&app{getenv: os.Getenv}).root() })
}
