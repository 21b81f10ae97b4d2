//go:build !unix

package mux

func (d *direct) try(uintptr) bool { return true }
