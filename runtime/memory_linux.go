package runtime

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

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
