package main

import (
	"io"

	"github.com/spf13/cobra"
)

func nodeCmd(io.Writer) *cobra.Command {
	return &cobra.Command{Use: "node", Short: "Offer this machine to a gateway", RunE: func(*cobra.Command, []string) error { return nil }}
}
