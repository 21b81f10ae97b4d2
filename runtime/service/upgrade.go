package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// versionTime bounds how long a new program may take to say its version.
	versionTime = 10 * time.Second
	// previous is added to the name of the program that an upgrade replaced.
	previous = ".previous"
	// askEvery is how often a daemon that starts is asked for its version.
	askEvery = 100 * time.Millisecond
)

// Upgrade replaces the program of the service by another and restarts it. The daemon drains, its clients
// come back by themselves. running asks the daemon for its version. When the new one does not come up
// within a minute, the old one is put back and runs again. say is told each step.
func (s *Service) Upgrade(ctx context.Context, binary string, running func(context.Context) (version string, pid int, err error), say func(string)) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if !st.Installed {
		return ErrNotInstalled
	}
	version, err := versionOf(ctx, binary)
	if err != nil {
		return err
	}
	target := s.spec.Executable
	say(fmt.Sprintf("%s is hanzod %s; it replaces %s", binary, version, target))
	if err := replace(binary, target); err != nil {
		return fmt.Errorf("replace %s: %w", target, explain(err))
	}
	if !st.Running {
		say("the service is stopped and stays so")
		return nil
	}
	_, old, err := running(ctx)
	if err != nil {
		old = 0 // it does not answer: whoever does, is new
	}
	say("restarting the service")
	if err = s.svc.Restart(); err == nil {
		err = await(ctx, version, old, running)
	}
	if err == nil {
		say("hanzod " + version + " runs")
		return nil
	}
	say("hanzod " + version + " does not come up; the old program is put back")
	back := os.Rename(target+previous, target)
	if back == nil {
		back = s.svc.Restart()
	}
	return errors.Join(fmt.Errorf("start hanzod %s: %w", version, explain(err)), back)
}

// versionOf starts a program and asks it for its version: what does not run here must not replace what
// does.
func versionOf(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return "", fmt.Errorf("%s does not run here: %w", binary, err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), Name+" ")
	if !ok {
		return "", fmt.Errorf("%s is not hanzod: it says %.60q", binary, out)
	}
	return version, nil
}

// replace puts a copy of a program in the place of another in one step, and keeps the other.
func replace(binary, target string) error {
	from, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer from.Close()
	fi, err := from.Stat()
	if err != nil {
		return err
	}
	if old, err := os.Stat(target); err == nil && os.SameFile(fi, old) {
		return nil // it is in its place already
	}
	tmp, err := os.CreateTemp(filepath.Dir(target), "."+Name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // when it is not in its place
	_, err = io.Copy(tmp, from)
	if err == nil {
		err = tmp.Chmod(0o755)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// The old one is renamed, not overwritten: it runs, and Windows would refuse.
	_ = os.Remove(target + previous)
	if err := os.Rename(target, target+previous); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), target); err != nil {
		return errors.Join(err, os.Rename(target+previous, target))
	}
	return nil
}

// await waits until another process than the old one answers with a version.
func await(ctx context.Context, version string, old int, running func(context.Context) (version string, pid int, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var last error
	for {
		got, pid, err := running(ctx)
		switch {
		case err != nil:
			last = err
		case pid == old:
			last = fmt.Errorf("the old process (%d) still answers", pid)
		case got != version:
			last = fmt.Errorf("hanzod %s answers", got)
		default:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("it does not answer within %s", startTime), last)
		}
	}
}
