//go:build unix

package main

import "os"

// openTerminal opens the terminal of this process.
func openTerminal() (in, out *os.File, err error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	out, err = os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		_ = f.Close() // nothing was done with it
		return nil, nil, err
	}
	return f, out, nil
}
