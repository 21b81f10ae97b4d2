package terminal

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// session returns the processes of a session that still live.
func session(leader int) (out []member) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // what was read counts
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The name in parentheses may hold anything; state, parent, group and session follow it.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 4 || fields[0][0] == 'Z' {
			continue
		}
		group, err1 := strconv.Atoi(string(fields[2]))
		sid, err2 := strconv.Atoi(string(fields[3]))
		if err1 == nil && err2 == nil && sid == leader {
			out = append(out, member{pid, group})
		}
	}
	return out
}

// await waits for a program and leaves its number to it.
func await(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return // anything else is for who reaps it
		}
	}
}

func reap(cmd *exec.Cmd) error { return cmd.Wait() }
