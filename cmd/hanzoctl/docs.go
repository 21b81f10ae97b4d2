//go:build docs

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/cmd/docs"
)

func init() {
	docsCmd = func(root *cobra.Command) *cobra.Command {
		return &cobra.Command{
			Use: "docs DIR", Hidden: true, Args: cobra.ExactArgs(1), Short: "Write man pages and completions",
			RunE: func(_ *cobra.Command, args []string) error {
				date, err := docs.Date(os.Getenv)
				if err != nil {
					return err
				}
				return docs.Write(root, args[0], version(), date)
			},
		}
	}
}
