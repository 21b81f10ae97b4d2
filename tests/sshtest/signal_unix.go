//go:build unix

package sshtest

import "syscall"

// They reach the whole group: an sshd of root serves a connection with two processes.
func kill(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may have ended by itself
func stop(pid int) { _ = syscall.Kill(-pid, syscall.SIGSTOP) }
func cont(pid int) { _ = syscall.Kill(-pid, syscall.SIGCONT) }
