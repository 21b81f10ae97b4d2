package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// RSS is the resident memory of a process in bytes.
func RSS(tb testing.TB, pid int) int64 {
	tb.Helper()
	return memory(tb, pid, "VmRSS:")
}

// Private is the resident memory of a process without the files that it has mapped, in bytes: the pages
// of a database that grows are the kernel's to take back.
func Private(tb testing.TB, pid int) int64 {
	tb.Helper()
	return memory(tb, pid, "RssAnon:")
}

func memory(tb testing.TB, pid int, name string) int64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	tb.Fatalf("/proc/%d/status names no %s", pid, name)
	return 0
}
