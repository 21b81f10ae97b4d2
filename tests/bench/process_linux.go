package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// memoryOf reads the memory of a process from the kernel.
func memoryOf(pid int) (m memory, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 3 {
			continue
		}
		n, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			continue // the line with the address range
		}
		switch fields[0] {
		case "Rss:":
			m.rss += n * 1024
		case "Private_Clean:", "Private_Dirty:":
			m.private += n * 1024
		}
	}
	return m, nil
}

// maxRSS is the largest resident memory of an ended process, in bytes.
func maxRSS(s *os.ProcessState) float64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return float64(u.Maxrss) * 1024
	}
	return 0
}
