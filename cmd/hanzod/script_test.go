package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hanzoai/hanzod/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hanzod": func() { os.Exit(Main()) }})
}

// scriptTime bounds the start and the stop of a daemon of a story.
const scriptTime = 20 * time.Second

// TestScripts runs the stories in testdata, each with a state directory of its own, STATE. Commands are added:
// "daemon" starts hanzod there, "end" and "kill9" end it, "exits N command…" demands an exit code, "mode M path"
// a mode, "truncate path" halves a file.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			dir, err := os.MkdirTemp("", "hd") // short: the directory of a story can be too long for a socket
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(dir) })
			e.Setenv("STATE", dir)
			e.Setenv("HANZOD_STATE_DIR", dir)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "run"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "xdg"))
			e.Values[running{}] = &process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": startDaemon, "exits": exits, "mode": demandMode, "truncate": truncate,
			"end":   func(ts *testscript.TestScript, _ bool, _ []string) { end(ts, os.Interrupt) },
			"kill9": func(ts *testscript.TestScript, _ bool, _ []string) { end(ts, os.Kill) },
		},
	})
}

type running struct{}

// process is the daemon of a story.
type process struct{ cmd *exec.Cmd }

func startDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	if runtime.GOOS == "windows" {
		ts.Fatalf("ending a daemon is not tried on Windows")
	}
	p := ts.Value(running{}).(*process)
	path, err := exec.LookPath("hanzod")
	ts.Check(err)
	p.cmd = exec.Command(path, "run", "--port", "0")
	p.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "HANZOD_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "PATH"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	var said strings.Builder
	p.cmd.Stderr = &said
	ts.Check(p.cmd.Start())
	ts.Defer(func() {
		if p.cmd != nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	socket := client.SocketPath(ts.Getenv("STATE"))
	for deadline := time.Now().Add(scriptTime); client.Answers(context.Background(), socket) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon does not come up: %s", said.String())
		}
	}
}

func end(ts *testscript.TestScript, sig os.Signal) {
	p := ts.Value(running{}).(*process)
	ts.Check(p.cmd.Process.Signal(sig))
	killer := time.AfterFunc(scriptTime, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	killer.Stop()
	if sig != os.Kill && err != nil {
		ts.Fatalf("the daemon ended with %v", err)
	}
	p.cmd = nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command args...")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func demandMode(ts *testscript.TestScript, _ bool, args []string) {
	fi, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", fi.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

func truncate(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	fi, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Truncate(path, fi.Size()/2))
	ts.Logf("%s has %s bytes", path, strconv.FormatInt(fi.Size()/2, 10))
}
