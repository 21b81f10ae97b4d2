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
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	tb.Fatalf("/proc/%d/status names no VmRSS", pid)
	return 0
}
