package host

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openFlags keep the opening of a pipe or a terminal from waiting for somebody.
const openFlags = unix.O_NONBLOCK | unix.O_NOCTTY

// writerWait is how long a file that is open for writing is waited for: who has just written it closes
// it in a moment. writerPoll is how often it is asked for.
const (
	writerWait = 50 * time.Millisecond
	writerPoll = time.Millisecond
)

// leadsTo reports whether an open file is the one at a path without links, as the kernel says.
func leadsTo(f *os.File, _ os.FileInfo, path string) bool {
	at, err := os.Readlink(descriptor(f.Fd()))
	return err == nil && at == path
}

// hold keeps others from writing to an open file until free is called: who opens it for writing waits
// (a read lease; the kernel breaks it after /proc/sys/fs/lease-break-time, 45 s). It works for files
// of this process's user, for root with CAP_LEASE and on local file systems; elsewhere firm is false.
// A file that is open for writing already is an error.
func hold(f *os.File) (free func(), firm bool, err error) {
	for wait := time.Duration(0); ; wait += writerPoll {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		if err == nil {
			return sync.OnceFunc(func() { _, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK) }), true, nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		if wait >= writerWait {
			return nil, false, errors.New("it is being written to")
		}
		<-time.After(writerPoll)
	}
	// Nobody but root can write to this one.
	var st unix.Stat_t
	firm = unix.Fstat(int(f.Fd()), &st) == nil && st.Uid == 0 && st.Mode&0o022 == 0
	return nil, firm, nil
}
