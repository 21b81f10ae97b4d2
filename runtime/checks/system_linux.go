package checks

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// timeError is what adjtimex returns for a clock that is not synchronized.
const timeError = 5

// synchronized asks the kernel whether something keeps the clock right.
func synchronized() (synced, known bool) {
	state, err := unix.Adjtimex(&unix.Timex{})
	return state != timeError, err == nil
}

// Listener is the process that listens on a TCP port, as far as this user may know; 0 for none.
func Listener(port int) (pid int, name string) {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		s := bufio.NewScanner(f)
		for n := 0; s.Scan() && n < 100_000; n++ {
			w := strings.Fields(s.Text())
			if len(w) < 10 || w[3] != "0A" || !strings.HasSuffix(w[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			inodes["socket:["+w[9]+"]"] = true
		}
		_ = f.Close()
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err != nil || !inodes[to] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm")) // without a name it is shown all the same
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
}
