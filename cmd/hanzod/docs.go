//go:build docs

package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/cmd/docs"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/runtime/service"
)

func init() {
	docsCmd = func(root *cobra.Command) *cobra.Command {
		return &cobra.Command{
			Use: "docs DIR", Hidden: true, Args: cobra.ExactArgs(1), Short: "Write man pages, completions and systemd units",
			RunE: func(_ *cobra.Command, args []string) error {
				date, err := docs.Date(os.Getenv)
				if err != nil {
					return err
				}
				for name, text := range service.Packaged() {
					file := filepath.Join(args[0], "systemd", name)
					if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
						return err
					}
					if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
						return err
					}
				}
				return docs.Write(root, args[0], runtime.Version, date)
			},
		}
	}
}
