package service

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// orphanAfter is how long a dead process has to lie about before it counts as nobody's. Those that
	// the daemon started itself are waited for from the beginning, so that none of them is there for long.
	orphanAfter = 2 * time.Second
	// maxOrphans bounds how many are remembered between two looks; the others are seen at the next one.
	maxOrphans = 4096
)

// Reap takes in the processes that outlived the commands that started them, when this process is the
// first of its container: the system makes it the parent of all whose own parent ended, and what it does
// not wait for stays in the table of processes. It returns when ctx ends, and at once anywhere else.
func Reap(ctx context.Context, log *slog.Logger) {
	if os.Getpid() != 1 {
		return
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	r := reaper{proc: "/proc", self: 1, seen: map[int]string{}, log: log}
	look := time.NewTimer(0) // some may be there from before
	defer look.Stop()
	waiting := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
			if !waiting {
				waiting = true
				look.Reset(orphanAfter)
			}
		case <-look.C:
			if waiting = r.look(); waiting {
				look.Reset(orphanAfter)
			}
		}
	}
}

// reaper remembers which dead processes it has seen, by number, with the time of their start: the number
// may be another's by the next look.
type reaper struct {
	proc string
	self int
	seen map[int]string
	log  *slog.Logger
}

// look takes in the dead children that were there at the last look already, and reports whether there are
// others.
func (r *reaper) look() bool {
	dirs, err := filepath.Glob(r.proc + "/[0-9]*")
	if err != nil {
		return false
	}
	now := map[int]string{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		began, ok := r.dead(dir)
		switch {
		case !ok:
		case r.seen[pid] != began:
			if len(now) < maxOrphans {
				now[pid] = began
			}
		default:
			var status syscall.WaitStatus
			if got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); err != nil || got != pid {
				r.log.Debug("a process that ended could not be taken in", "pid", pid, "error", err)
			}
		}
	}
	r.seen = now
	return len(now) > 0
}

// dead reports whether a process is a child of this one that has ended, and when it began (proc(5), stat).
func (r *reaper) dead(dir string) (began string, ok bool) {
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return "", false
	}
	// The name of the program, in brackets, may hold anything.
	end := strings.LastIndexByte(string(text), ')')
	f := strings.Fields(string(text[end+1:]))
	const state, parent, start = 0, 1, 19
	if len(f) <= start || f[state] != "Z" || f[parent] != strconv.Itoa(r.self) {
		return "", false
	}
	return f[start], true
}
