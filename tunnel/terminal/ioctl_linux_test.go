package terminal

import "golang.org/x/sys/unix"

func foreground(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCGPGRP) }
