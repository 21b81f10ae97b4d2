package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// inputWait is how often a reader of keys looks whether it should end, in milliseconds.
const inputWait = 100

// waitInput waits a moment for input.
func waitInput(f *os.File) (bool, error) {
	ev, err := windows.WaitForSingleObject(windows.Handle(f.Fd()), inputWait)
	return ev == windows.WAIT_OBJECT_0, err
}
