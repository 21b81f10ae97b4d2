package sshtest

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func run(t *testing.T, s *Server, home string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-F", home + "/.ssh/config", "-o", "BatchMode=yes"}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAServer(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Env: map[string]string{"HANZOD_STATE_DIR": "/some where"}})
	home := s.ClientHome(s.HostBlock("box"))
	out, err := run(t, s, home, "box", `echo "$HOME" "$HANZOD_STATE_DIR"`)
	if err != nil || !strings.Contains(out, s.Home+" /some where\n") {
		t.Fatalf("%v: %s\n%s", err, out, s.Log())
	}
	if s.Accepted() != 1 {
		t.Fatalf("it counts %d connections", s.Accepted())
	}
	s.NewHostKeys()
	if out, err := run(t, s, home, "box", "true"); err == nil || !strings.Contains(out, "IDENTIFICATION HAS CHANGED") {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestOtherOptionsAJumpAndAnAgent(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Lines: []string{"AllowTcpForwarding no"}})
	jump := Start(t, Options{})
	home := s.ClientHome(s.HostBlock("box", "ProxyJump jump") + jump.HostBlock("jump"))
	if out, err := run(t, s, home, "box", "true"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.Configure(Options{Lines: []string{"MaxSessions 0"}})
	if out, err := run(t, s, home, "box", "true"); err == nil {
		t.Fatalf("a session is opened: %s", out)
	}
	s.Configure(Options{})
	other := s.Dir + "/other"
	KeyPair(t, other, "rsa", "")
	socket := Agent(t, other)
	args := []string{"-o", "IdentityAgent=" + socket, "-o", "IdentityFile=none", "box", "true"}
	config := strings.ReplaceAll(s.HostBlock("box"), "IdentityFile", "#")
	if out, err := run(t, s, s.ClientHome(config), args...); err == nil {
		t.Fatalf("an unknown key is let in: %s", out)
	}
	s.Authorize(other + ".pub")
	if out, err := run(t, s, s.ClientHome(config), args...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestConnectionsAreCutAndFrozen(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	home := s.ClientHome(s.HostBlock("box"))
	long := func() chan error {
		done := make(chan error, 1)
		before := s.Accepted()
		go func() {
			_, err := run(t, s, home, "box", "echo", "there", "&&", "sleep", "30")
			done <- err
		}()
		for deadline := time.Now().Add(stepTime); s.Accepted() == before || !strings.Contains(s.Log(), "Starting session"); {
			if time.Now().After(deadline) {
				t.Fatal("no connection comes")
			}
			<-time.After(5 * time.Millisecond)
		}
		return done
	}
	done := long()
	s.Freeze()
	select {
	case err := <-done:
		t.Fatalf("a frozen connection ends: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	s.Cut()
	if err := <-done; err == nil {
		t.Fatal("a cut connection ends well")
	}
	s.Down()
	if out, err := run(t, s, home, "box", "true"); err == nil {
		t.Fatalf("it answers: %s", out)
	}
	s.Up()
	if out, err := run(t, s, home, "box", "true"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
