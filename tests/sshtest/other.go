//go:build !unix

package sshtest

import "syscall"

// Start skips the test before any of these is needed.
func apart() *syscall.SysProcAttr { return nil }
func kill(int)                    {}
func stop(int)                    {}
func cont(int)                    {}
