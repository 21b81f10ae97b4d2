//go:build unix

package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// user is somebody's home and runtime directory.
type user struct{ home, runtime string }

func newUser(t *testing.T) user {
	dir := proc.Dir(t)
	u := user{filepath.Join(dir, "h"), filepath.Join(dir, "r")}
	for _, d := range []string{u.home, u.runtime} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u user) env() []string { return []string{"HOME=" + u.home, "XDG_RUNTIME_DIR=" + u.runtime} }

func (u user) daemon(t *testing.T) *proc.Daemon {
	return proc.Start(t, proc.Options{Form: proc.Tested, Env: u.env()})
}

// status is "hanzoctl status" of somebody who says nothing about where the daemon is.
func (u user) status(t *testing.T) (string, int) {
	c := proc.Run(t, u.home, proc.Build(t, "hanzoctl", proc.Tested), u.env(), "status").Wait(t, proc.Patience)
	return c.Stdout.String() + c.Stderr.String(), c.Code
}

func TestDaemonIsFoundWhereverItsStateIs(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	if out, code := u.status(t); code == 0 || !strings.Contains(out, filepath.Join(u.home, ".hanzo/hanzod/hanzod.sock")) {
		t.Errorf("nothing runs: %d\n%s", code, out)
	}
	a := u.daemon(t)
	b := u.daemon(t)
	expect := func(what string, d *proc.Daemon) {
		t.Helper()
		if out, code := u.status(t); code != 0 || !strings.Contains(out, "this machine · "+d.Socket()) {
			t.Errorf("%s: %d\n%s", what, code, out)
		}
	}
	expect("the first is found", a)
	b.Stop() // else it takes the place of the first, after a while
	shared := filepath.Join(u.runtime, "hanzod", "daemon.json")
	a.Kill()
	for _, path := range []string{shared, client.DiscoveryFile(a.State)} {
		if f, err := client.ReadDiscovery(path); err != nil || f.StateDir != a.State {
			t.Errorf("kill -9 leaves the file: %+v, %v", f, err)
		}
	}
	if out, code := u.status(t); code == 0 {
		t.Errorf("a stale file was believed: %s", out)
	}
	old, err := client.ReadDiscovery(client.DiscoveryFile(a.State))
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	expect("it is back", a)
	if f, err := client.ReadDiscovery(client.DiscoveryFile(a.State)); err != nil || f.PID == old.PID || f.PID != a.PID() {
		t.Errorf("the next start replaces it: %+v, %v", f, err)
	}
	a.Stop()
	for _, path := range []string{shared, client.DiscoveryFile(a.State)} {
		if _, err := client.ReadDiscovery(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a clean stop leaves %s: %v", path, err)
		}
	}
}

// attachLimit is how long a program of this machine may wait from its first line to the daemon's first
// answer.
const attachLimit = 20 * time.Millisecond

// TestLocalAttachIsFast measures the way from nothing to the first answer.
func TestLocalAttachIsFast(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	t.Setenv("HANZOD_STATE_DIR", d.State)
	measure := func(name string, f func() (*client.Client, error)) {
		var took []time.Duration
		for range 20 {
			began := time.Now()
			c, err := f()
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(began))
			_ = c.Close()
		}
		slices.Sort(took)
		median, worst := took[len(took)/2], took[len(took)-1]
		t.Logf("%s: median %v, worst %v of %d", name, median.Round(time.Microsecond), worst.Round(time.Microsecond), len(took))
		if median > attachLimit && !proc.Race {
			t.Errorf("%s takes %v, more than %v", name, median, attachLimit)
		}
	}
	measure("find, dial and first answer", func() (*client.Client, error) {
		c, err := client.Dial(t.Context(), client.Options{})
		if err == nil {
			_, err = c.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
		}
		return c, err
	})
	measure("EnsureRunning", func() (*client.Client, error) {
		return client.EnsureRunning(t.Context(), client.EnsureOptions{})
	})
}

// TestEnsureRunningSaysWhatIsMissing asks where nothing can be started. That it starts what is installed
// is shown in tests/service.
func TestEnsureRunningSaysWhatIsMissing(t *testing.T) {
	u := newUser(t)
	t.Setenv("HOME", u.home)
	t.Setenv("XDG_RUNTIME_DIR", u.runtime)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(u.home, ".config"))
	t.Setenv("HANZOD_STATE_DIR", "")
	ensure := func(ctx context.Context, o client.EnsureOptions) *client.Error {
		t.Helper()
		c, err := client.EnsureRunning(ctx, o)
		if c != nil {
			_ = c.Close()
		}
		e, ok := errors.AsType[*client.Error](err)
		if !ok {
			t.Fatalf("%T: %v", err, err)
		}
		return e
	}
	expect := func(e *client.Error, code, say string) {
		t.Helper()
		if e.Code != code || !strings.Contains(e.Message, say) {
			t.Errorf("%s: %s; want %s with %q", e.Code, e.Message, code, say)
		}
	}
	hanzod := proc.Build(t, "hanzod", proc.Tested)
	path := os.Getenv("PATH")
	t.Setenv("PATH", u.home)
	expect(ensure(t.Context(), client.EnsureOptions{}), client.CodeNoProgram, "hanzod service install")
	expect(ensure(t.Context(), client.EnsureOptions{Program: filepath.Join(u.home, "nothing")}), client.CodeNoProgram, "nothing")
	expect(ensure(t.Context(), client.EnsureOptions{Program: hanzod}), client.CodeNoService, "hanzod service install")
	t.Setenv("PATH", filepath.Dir(hanzod)+":"+path)
	expect(ensure(t.Context(), client.EnsureOptions{}), client.CodeNoService, "hanzod service install")
	expect(ensure(t.Context(), client.EnsureOptions{Program: "/bin/false"}), client.CodeStartFailed, "/bin/false")
	expect(ensure(t.Context(), client.EnsureOptions{Options: client.Options{Host: "hanzod://box"}}), "", "another machine")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	expect(ensure(gone, client.EnsureOptions{}), client.CodeCanceled, "canceled")
}
