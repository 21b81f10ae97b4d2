package runtime

import (
	"bufio"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStart lets go of the pages of the program itself: most of what was read to start is not read again, and
// what is comes back from the cache of the system at its next use.
func forgetStart() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, r := range programRanges(f, exe) {
		// The kernel knows the range by number; it fails where that is not ours any more.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(r.from), uintptr(r.to-r.from), unix.MADV_DONTNEED)
	}
}

type addresses struct{ from, to uint64 }

// programRanges finds the mappings of a file in a text as smaps has it that hold nothing but the file: not
// writable, and no page of them changed, as those of a program that was moved at its start are.
func programRanges(smaps io.Reader, file string) []addresses {
	var out []addresses
	var last *addresses
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 3 && fields[0] == "Anonymous:" && last != nil:
			if fields[1] == "0" {
				out = append(out, *last)
			}
			last = nil
		case len(fields) >= 6 && strings.Contains(fields[0], "-") && !strings.HasSuffix(fields[0], ":"):
			last = nil
			from, to, _ := strings.Cut(fields[0], "-")
			a, errA := strconv.ParseUint(from, 16, 64)
			b, errB := strconv.ParseUint(to, 16, 64)
			mode := fields[1]
			if errA == nil && errB == nil && len(mode) == 4 && mode[1] == '-' && mode[3] == 'p' && strings.Join(fields[5:], " ") == file {
				last = &addresses{a, b}
			}
		}
	}
	return out
}

// groupLimit is the memory that the control group of this process, or one above it, may use. It is
// false without a limit, and where it cannot be known.
func groupLimit() (int64, bool) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	return limitOf(string(text), func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		return string(b)
	})
}

// limitOf finds the smallest limit on the way up from the groups that a process is in. read returns ""
// for files that are not there.
func limitOf(groups string, read func(file string) string) (int64, bool) {
	least := int64(math.MaxInt64)
	for line := range strings.Lines(groups) {
		// hierarchy:controllers:path; version 2 has no controllers.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		root, name := "/sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" {
			root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[1] != "" {
			continue
		}
		for dir := path.Clean("/" + fields[2]); ; dir = path.Dir(dir) {
			n, err := strconv.ParseInt(strings.TrimSpace(read(path.Join(root, dir, name))), 10, 64)
			if err == nil && n > 0 { // "max" is none
				least = min(least, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	// Version 1 says none by a number that no machine has.
	return least, least < 1<<50
}
