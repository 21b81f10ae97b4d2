package main

import "github.com/spf13/cobra"

func (a *app) attachCmd() *cobra.Command { return &cobra.Command{Use: "attach"} }
func attachedAt(string) string           { return "" }
