package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
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

// tick is the unit of processor times in /proc on Linux: a hundredth of a second.
const tick = 10 * time.Millisecond

// cpuOf is the processor time that a process has used, 0 when it cannot be read.
func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name may hold anything; what follows it is numbers, user and system time being 12th and
	// 13th.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// usageNow reads what the processors did since the system started.
func usageNow() (u usage) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return usage{}
	}
	line, _, _ := strings.Cut(string(text), "\n")
	// cpu user nice system idle iowait irq softirq steal guest guest_nice
	fields := strings.Fields(line)
	for i, f := range fields[min(1, len(fields)):] {
		n, err := strconv.Atoi(f)
		if err != nil || i > 7 {
			break // guests are counted as users already
		}
		u.all += time.Duration(n) * tick
		if i != 3 && i != 4 {
			u.busy += time.Duration(n) * tick
		}
	}
	for _, whose := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(whose, &r); err != nil {
			return usage{}
		}
		u.own += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return u
}
