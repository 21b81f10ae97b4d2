//go:build unix

package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// asAccount runs f with the rights of an account when the administrator runs hanzod: what belongs to the
// account is touched with no more than its own rights, and its daemon knows the caller for its own. Nothing
// else may run meanwhile, since it is the whole process that changes.
func asAccount(name string, f func() error) error {
	if name == "" || os.Geteuid() != 0 {
		return f()
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("the account of the service: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("the account %s has the number %q: %w", name, u.Uid, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return fmt.Errorf("the account %s has the group %q: %w", name, u.Gid, err)
	}
	if uid == 0 {
		return f()
	}
	group := os.Getegid()
	if err := syscall.Setregid(-1, gid); err != nil {
		return fmt.Errorf("act as %s: %w", name, err)
	}
	if err := syscall.Setreuid(-1, uid); err != nil {
		_ = syscall.Setregid(-1, group) // nothing was done yet, and the caller ends
		return fmt.Errorf("act as %s: %w", name, err)
	}
	defer func() {
		if err := syscall.Setreuid(-1, 0); err != nil {
			fail(fmt.Errorf("act as the administrator again: %w", err))
		}
		if err := syscall.Setregid(-1, group); err != nil {
			fail(fmt.Errorf("act as the administrator again: %w", err))
		}
	}()
	return f()
}
