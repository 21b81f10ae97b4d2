package host

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// job is one command about to run.
type job struct {
	argv       []string
	text       string
	cwd        string // "" is the host's own
	env        []string
	timeout    time.Duration // 0 is none
	sessionKey string
	runID      string
	tap        *tap   // nil when nobody wants the output while it runs
	image      *image // what to start, nil for what argv leads to
}

// exec runs a job with its standard input closed, in a process group of its own. The group is killed
// at the timeout and when ctx ends. After the command's end its output is read to the end, for
// pipeGrace at most when children still hold it.
func (h *Host) exec(ctx context.Context, j job) outcome {
	i := j.image
	if i == nil {
		i = (&bound{}).byPath(j.argv)
		i.dir = j.cwd
	}
	defer i.close()
	if i.path == "" {
		var ok bool
		if i.path, ok = h.policy.Locate(j.argv[0], j.cwd, lookup(j.env, "PATH")); !ok {
			return spawnFailed(j, "ENOENT")
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var timedOut, killed atomic.Bool
	out := &output{left: h.cap}
	cmd := exec.CommandContext(ctx, i.path)
	cmd.Args, cmd.Dir, cmd.ExtraFiles = i.argv, i.dir, i.pass
	cmd.Env = append([]string{}, j.env...) // never nil, which would mean all of the host's own
	cmd.Stdout, cmd.Stderr = stream{out, &out.stdout, j.tap, "stdout"}, stream{out, &out.stderr, j.tap, "stderr"}
	cmd.WaitDelay = pipeGrace
	group := newGroup(cmd)
	cmd.Cancel = func() error {
		err := group.kill()
		killed.Store(err == nil)
		return err
	}
	if err := group.start(); err != nil {
		why := err.Error()
		if i.from != "" {
			why = "fork/exec " + i.from + ": " + reasonOf(err).Error()
		}
		return spawnFailed(j, why)
	}
	i.began()
	if j.timeout > 0 {
		timer := time.AfterFunc(j.timeout, func() {
			timedOut.Store(true)
			cancel()
		})
		defer timer.Stop()
	}
	err := cmd.Wait()
	group.end()
	o := outcome{TimedOut: timedOut.Load() && killed.Load()}
	o.Stdout, o.Stderr = out.text()
	if code := cmd.ProcessState.ExitCode(); code >= 0 && !killed.Load() {
		o.ExitCode = &code
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		text := err.Error()
		o.Error = &text
	}
	o.Success = o.ExitCode != nil && *o.ExitCode == 0 && o.Error == nil
	return o
}

// spawnFailed is the answer when nothing could be started: a result, not an error
// (nodes-approvals.md §4.3).
func spawnFailed(j job, why string) outcome {
	text := "spawn " + j.argv[0] + " " + why
	if why == "ENOENT" {
		text += " (no such executable on this node)"
	}
	return outcome{Error: &text}
}

// output collects both streams up to a common limit and drops the rest.
type output struct {
	mu             sync.Mutex
	left           int
	cut            bool
	stdout, stderr bytes.Buffer
}

// stream is one of them.
type stream struct {
	o    *output
	buf  *bytes.Buffer
	tap  *tap
	name string
}

func (s stream) Write(p []byte) (int, error) {
	s.tap.write(s.name, p)
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	n := min(len(p), s.o.left)
	s.buf.Write(p[:n])
	s.o.left -= n
	s.o.cut = s.o.cut || n < len(p)
	return len(p), nil
}

// text returns the streams, with a mark when something was dropped.
func (o *output) text() (stdout, stderr string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	stdout, stderr = o.clean(&o.stdout), o.clean(&o.stderr)
	if o.cut {
		const mark = "\n... (truncated)"
		if strings.TrimSpace(stderr) != "" {
			stderr += mark
		} else {
			stdout += mark
		}
	}
	return stdout, stderr
}

// clean makes valid UTF-8. A character that the limit split is left out whole.
func (o *output) clean(buf *bytes.Buffer) string {
	b := buf.Bytes()
	if o.cut {
		for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
			if c := b[len(b)-i]; utf8.RuneStart(c) {
				if !utf8.FullRune(b[len(b)-i:]) {
					b = b[:len(b)-i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
