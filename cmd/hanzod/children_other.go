//go:build !windows

package main

// endChildrenWithMe is for Windows: elsewhere the node host ends process groups, and service managers what
// is left.
func endChildrenWithMe() error { return nil }
