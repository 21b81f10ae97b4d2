package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// closing is how long the pipes of a program that has ended may stay open: a child may hold them.
const closing = 500 * time.Millisecond

// errSilent ends a program that prints nothing.
var errSilent = errors.New("silent")

// run asks a program for secrets. It gets {"protocolVersion":1,"provider":ALIAS,"ids":[…]} on its standard
// input and prints {"protocolVersion":1,"values":{ID:TEXT},"errors":{ID:{"message":…}}}.
func (s Settings) run(ctx context.Context, q *question) (map[string]Result, error) {
	p := q.provider
	path, err := program(p)
	if err != nil {
		return nil, problemf("Secret provider %s: %w", quote(q.alias), err)
	}
	request, err := json.Marshal(map[string]any{"protocolVersion": 1, "provider": q.alias, "ids": q.ids})
	if err != nil {
		return nil, err
	}
	if limit := within(s.MaxBatchBytes, defaultBatch, maxBatch); len(request) > limit {
		return nil, problemf("Secret provider %s is asked with %d bytes, and secrets.resolution.maxBatchBytes allows %d", quote(q.alias), len(request), limit)
	}
	out, err := output(ctx, p, path, s.environ(p), append(request, '\n'))
	if err != nil {
		return nil, problemf("Secret provider %s: the program %s %w", quote(q.alias), filepath.Base(path), err)
	}
	return parse(q, out)
}

// environ is the environment of a program: what was named, and what Windows programs do not start
// without.
func (s Settings) environ(p Provider) []string {
	env := []string{}
	for _, name := range append(systemEnv, p.PassEnv...) {
		if v := s.Env(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	for name, v := range p.Env {
		env = append(env, name+"="+v)
	}
	return env
}

// output runs a program within its limits. Everything that it started is ended when it returns.
func output(ctx context.Context, p Provider, path string, env []string, input []byte) ([]byte, error) {
	timeout := within(p.Timeout, defaultTimeout, maxTimeout)
	silence := min(within(p.Silence, defaultSilence, maxTimeout), timeout)
	limit := within(p.MaxBytes, maxBytes, maxBytes)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
	defer clock.Stop()
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()

	cmd := exec.CommandContext(ctx, path, p.Args...)
	cmd.Env, cmd.Dir = env, filepath.Dir(path)
	cmd.Stdin = bytes.NewReader(input)
	heard := func() { quiet.Reset(silence) }
	stdout := &limited{limit: limit, heard: heard, full: func() { cancel(errTooMuch) }}
	cmd.Stdout = stdout
	cmd.Stderr = &limited{heard: heard, discard: true} // it may hold anything, and is shown nowhere
	cmd.WaitDelay = closing
	g := newGroup(cmd)
	cmd.Cancel = g.kill
	if err := g.start(); err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return nil, fmt.Errorf("cannot be started: %w", err)
	}
	err := cmd.Wait()
	_ = g.kill() // what it left behind
	g.end()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent):
		return nil, fmt.Errorf("printed nothing for %s; raise noOutputTimeoutMs of the provider if it is slow by nature", silence)
	case errors.Is(cause, context.DeadlineExceeded):
		return nil, fmt.Errorf("took longer than %s; raise timeoutMs of the provider if it is slow by nature", timeout)
	case errors.Is(cause, errTooMuch):
		return nil, fmt.Errorf("printed more than %d bytes; see maxOutputBytes of the provider", limit)
	case cause != nil:
		return nil, errors.New("was ended with the daemon")
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("failed (%s); run it yourself to see why", exit.ProcessState)
	}
	// A program may end before it has read its question, and a child may hold its output open.
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) && !errors.Is(err, io.ErrClosedPipe) && !brokenPipe(err) {
		return nil, errors.New("could not be run to its end")
	}
	return stdout.buf.Bytes(), nil
}

var errTooMuch = errors.New("too much")

// limited keeps what is written up to a limit.
type limited struct {
	buf     bytes.Buffer
	limit   int64
	heard   func()
	full    func()
	discard bool
	over    atomic.Bool
}

func (l *limited) Write(b []byte) (int, error) {
	l.heard()
	if l.discard || l.over.Load() {
		return len(b), nil
	}
	if int64(l.buf.Len()+len(b)) > l.limit {
		l.over.Store(true)
		l.full()
		return len(b), nil
	}
	return l.buf.Write(b)
}

// parse reads what a program printed.
func parse(q *question, out []byte) (map[string]Result, error) {
	fault := func(what string) error {
		return problemf("Secret provider %s: the program %s %s", quote(q.alias), filepath.Base(q.provider.Command), what)
	}
	results := map[string]Result{}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(out, &top); err != nil || top["protocolVersion"] == nil {
		if q.provider.AnyText && len(q.ids) == 1 {
			results[q.ids[0]] = Result{Text: strings.TrimRight(string(out), "\r\n")}
			return results, nil
		}
		return nil, fault(`printed no answer in JSON with "protocolVersion" 1; a program that prints one bare secret needs jsonOnly false`)
	}
	if string(bytes.TrimSpace(top["protocolVersion"])) != "1" {
		return nil, fault(`answered with a "protocolVersion" other than 1`)
	}
	var values, faults map[string]json.RawMessage
	if top["values"] != nil && json.Unmarshal(top["values"], &values) != nil || top["errors"] != nil && json.Unmarshal(top["errors"], &faults) != nil {
		return nil, fault(`answered with "values" or "errors" that are no objects`)
	}
	for _, id := range q.ids {
		var text string
		switch {
		case faults[id] != nil:
			results[id] = Result{Err: fault("has no secret " + quote(id))} // its own words may hold anything
		case values[id] == nil:
			results[id] = Result{Err: fault("did not answer for " + quote(id))}
		case json.Unmarshal(values[id], &text) != nil:
			results[id] = Result{Err: fault("answered with no string for " + quote(id))}
		default:
			results[id] = Result{Text: text}
		}
	}
	return results, nil
}

// program checks that a command is what it is meant to be and that only its owner changes it. It returns
// the path to run: that of the file itself.
func program(p Provider) (string, error) {
	switch {
	case p.Command == "":
		return "", errors.New("it needs a command")
	case !filepath.IsAbs(p.Command):
		return "", fmt.Errorf("the command %s is no absolute path", quote(p.Command))
	}
	path := filepath.Clean(p.Command)
	st, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("the command %s is not there", quote(p.Command))
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		if !p.AllowSymlink {
			return "", fmt.Errorf("the command %s is a symbolic link; name the program itself, or set allowSymlinkCommand and trustedDirs", quote(p.Command))
		}
	}
	// Links on the way are followed before the place is judged.
	if path, err = filepath.EvalSymlinks(path); err == nil {
		st, err = os.Stat(path)
	}
	if err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("the command %s is not a regular file", quote(p.Command))
	}
	if len(p.TrustedDirs) > 0 {
		trusted := false
		for _, dir := range p.TrustedDirs {
			if real, err := filepath.EvalSymlinks(dir); err == nil && filepath.IsAbs(dir) && beneath(real, path) {
				trusted = true
			}
		}
		if !trusted {
			return "", fmt.Errorf("the command %s is not beneath the trustedDirs of the provider", quote(p.Command))
		}
	}
	if p.Insecure {
		return path, nil
	}
	// Whoever can change the file, or put another one in its place, runs as the daemon.
	for at := path; ; at = filepath.Dir(at) {
		st, err := os.Stat(at)
		if err != nil {
			return "", fmt.Errorf("the command %s is not there", quote(p.Command))
		}
		if err := unchangeable(st); err != nil {
			return "", fmt.Errorf("%s: %w", quote(at), err)
		}
		if at == filepath.Dir(at) {
			return path, nil
		}
	}
}

func beneath(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
