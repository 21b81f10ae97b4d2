package host

import (
	"os"
	"syscall"
)

const openFlags = 0

// numbers are the volume and the index of an open file.
func numbers(f *os.File, _ os.FileInfo) (device, inode string) {
	var i syscall.ByHandleFileInformation
	if syscall.GetFileInformationByHandle(syscall.Handle(f.Fd()), &i) != nil {
		return "", ""
	}
	return decimal(uint64(i.VolumeSerialNumber)), decimal(uint64(i.FileIndexHigh)<<32 | uint64(i.FileIndexLow))
}
