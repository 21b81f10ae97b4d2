package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// versionTime bounds how long a new program may take to say its version.
	versionTime = 10 * time.Second
	// previous is added to the name of the program that an upgrade replaced.
	previous = ".previous"
	// maxVersion bounds the text of a version, in bytes.
	maxVersion = 200
	// askEvery is how often a daemon that starts is asked for its version.
	askEvery = 100 * time.Millisecond
)

// Facts are what a program says of itself with "version --output json".
type Facts struct {
	Version string `json:"version"`
	// Schema is the newest schema of the database that it writes, ReadableFrom the oldest whose hanzod
	// reads that. Both are 0 for a program that does not say.
	Schema       uint64 `json:"schema"`
	ReadableFrom uint64 `json:"readableFrom"`
}

// UpgradeOptions of Upgrade.
type UpgradeOptions struct {
	// Binary is the new program.
	Binary string
	// OneWay allows a program whose database the installed one could not read: there is no way back then
	// but a backup.
	OneWay bool
	// Running asks the daemon for its version and process.
	Running func(ctx context.Context) (version string, pid int, err error)
	// Say is told each step.
	Say func(string)
}

// Upgrade replaces the program of the service by another and restarts it. The daemon drains, its clients
// come back by themselves. When the new one does not come up within a minute, the old one is put back
// and runs again: what the new one acknowledged meanwhile is in the database, which the old one can read,
// because a program that would change it too far is refused beforehand.
func (s *Service) Upgrade(ctx context.Context, o UpgradeOptions) error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	if !st.Installed {
		return ErrNotInstalled
	}
	target := s.spec.Executable
	if a, err := os.Stat(o.Binary); err == nil {
		if b, err := os.Stat(target); err == nil && os.SameFile(a, b) {
			return fmt.Errorf("%s is the installed program itself; to run what is there now: hanzod service restart", o.Binary)
		}
	}
	next, err := factsOf(ctx, o.Binary)
	if err != nil {
		return err
	}
	now, oldErr := factsOf(ctx, target)
	if oldErr != nil {
		o.Say(fmt.Sprintf("the installed program does not run (%v); there is no way back to it", oldErr))
	} else if err := crossing(now, next, o.OneWay); err != nil {
		return err
	}
	back := oldErr == nil && crossing(now, next, false) == nil
	o.Say(fmt.Sprintf("%s is hanzod %s; it replaces %s", o.Binary, next.Version, target))
	if err := replace(o.Binary, target); err != nil {
		return fmt.Errorf("replace %s: %w", target, explain(err))
	}
	if !st.Running {
		o.Say("the service is stopped and stays so; the program before is kept as " + target + previous)
		return nil
	}
	_, old, err := o.Running(ctx)
	if err != nil {
		old = 0 // it does not answer: whoever does, is new
	}
	o.Say("restarting the service")
	if err = s.svc.Restart(); err == nil {
		err = await(ctx, next.Version, old, o.Running)
	}
	if err == nil {
		o.Say("hanzod " + next.Version + " runs")
		return nil
	}
	err = fmt.Errorf("start hanzod %s: %w", next.Version, explain(err))
	if !back {
		return fmt.Errorf("%w\nIt stays in its place, because the program before cannot read its database any more. See why with: hanzod service logs\nThe program before is %s; it needs a backup from before the upgrade", err, target+previous)
	}
	o.Say("hanzod " + next.Version + " does not come up; hanzod " + now.Version + " is put back")
	if back := s.putBack(context.WithoutCancel(ctx), now.Version, o.Running); back != nil {
		return errors.Join(err, fmt.Errorf("and hanzod %s does not come back: %w\nSee why with: hanzod service logs", now.Version, explain(back)))
	}
	o.Say("hanzod " + now.Version + " runs again")
	return err
}

// putBack puts the program before in its place and waits until it answers. A stop by the user does not
// end it halfway.
func (s *Service) putBack(ctx context.Context, version string, running func(context.Context) (string, int, error)) error {
	target := s.spec.Executable
	if err := os.Rename(target+previous, target); err != nil {
		return err
	}
	_, failed, err := running(ctx)
	if err != nil {
		failed = 0
	}
	if err := s.svc.Restart(); err != nil {
		return err
	}
	return await(ctx, version, failed, running)
}

// crossing refuses a program that could not read the database of the installed one, and one whose
// database that could not read any more.
func crossing(now, next Facts, oneWay bool) error {
	switch {
	case now.Schema == 0 || next.Schema == 0:
		return nil // one of them is from before programs said so; the database itself decides
	case next.Schema < now.ReadableFrom:
		return fmt.Errorf("hanzod %s cannot read the database of hanzod %s, which runs here (schema %d; it needs at least %d)\nTo go back that far, restore a backup that it has made", next.Version, now.Version, next.Schema, now.ReadableFrom)
	case next.ReadableFrom > now.Schema && !oneWay:
		return fmt.Errorf("hanzod %s changes the database so that hanzod %s, which runs here, cannot read it any more: there is no way back but a backup\nMake one with: hanzod backup\nThen repeat this with --one-way", next.Version, now.Version)
	}
	return nil
}

// factsOf starts a program and asks it for its version: what does not run here must not replace what
// does.
func factsOf(ctx context.Context, binary string) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	ask := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.WaitDelay = time.Second // whoever holds its output open does not hold us up
		return cmd.Output()
	}
	var f Facts
	out, err := ask("version", "--output", "json")
	if err == nil && json.Unmarshal(out, &f) == nil && f.Version != "" && len(f.Version) <= maxVersion {
		return f, nil
	}
	if out, err = ask("version"); err != nil { // one that does not know the flag yet
		return f, fmt.Errorf("%s does not run here: %w", binary, err)
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), Name+" ")
	if !ok || len(version) > maxVersion {
		return f, fmt.Errorf("%s is not hanzod: it says %.60q", binary, out)
	}
	return Facts{Version: version}, nil
}

// replace puts a copy of a program in the place of another in one step, and keeps the other.
func replace(binary, target string) error {
	from, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer from.Close()
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
	if err := os.Remove(target + previous); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if runtime.GOOS != "windows" && os.Link(target, target+previous) == nil {
		return os.Rename(tmp.Name(), target) // at no moment is there no program
	}
	// Windows refuses to overwrite a program that runs, and some file systems have no links.
	if err := os.Rename(target, target+previous); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// Facing looks at a program that is to take the place of another: whether it runs here, and whether each can
// read the database of the other.
func Facing(ctx context.Context, binary, target string) (now, next Facts, err error) {
	if next, err = factsOf(ctx, binary); err != nil {
		return now, next, err
	}
	if now, err = factsOf(ctx, target); err != nil {
		return now, next, err
	}
	return now, next, crossing(now, next, false)
}

// Swap puts a copy of a program in the place of another in one step, and keeps the other for PutBack.
func Swap(binary, target string) error { return explained(replace(binary, target)) }

func explained(err error) error {
	if err == nil {
		return nil
	}
	return explain(err)
}

// PutBack undoes Swap.
func PutBack(target string) error { return explained(os.Rename(target+previous, target)) }
