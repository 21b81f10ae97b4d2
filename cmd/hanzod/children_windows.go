package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// endChildrenWithMe puts this process into a job that ends with it: whatever it started ends too, also when
// the service manager or the task manager ends the daemon without asking. The handle of the job is never
// closed but by the end of the process.
func endChildrenWithMe() error {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return fmt.Errorf("make a job for the commands: %w", err)
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE},
	}
	if _, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info))); err != nil { //nolint:gosec // what the call takes
		_ = windows.CloseHandle(job) // it holds nobody yet
		return fmt.Errorf("make a job for the commands: %w", err)
	}
	if err := windows.AssignProcessToJobObject(job, windows.CurrentProcess()); err != nil {
		_ = windows.CloseHandle(job) // as above
		return fmt.Errorf("join the job for the commands: %w", err)
	}
	return nil
}
