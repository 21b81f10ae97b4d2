package original_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/runtime/original"
)

// fakeManager puts a systemctl into PATH that knows one unit, and writes down what it was asked for.
func fakeManager(t *testing.T) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	script := `#!/bin/sh
echo "$*" >> "` + dir + `/calls"
case "$*" in
  "--user show"*" openclaw-gateway.service") cat "` + dir + `/state" ;;
  "--user show"*" openclaw-node.service") printf 'LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n' ;;
  "--user disable --now openclaw-gateway.service") printf 'LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n' > "` + dir + `/state" ;;
  *show*) printf 'LoadState=not-found\nActiveState=inactive\nUnitFileState=\n' ;;
  *) echo "no such unit" >&2; exit 5 ;;
esac
`
	for name, text := range map[string]string{"systemctl": script, "state": "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "calls"))
		return string(b)
	}
}

func TestService(t *testing.T) {
	calls := fakeManager(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	f := original.Find(t.Context(), "", port)
	if len(f.Services) != 2 || !f.Listens || f.Gateway || f.PID != os.Getpid() {
		t.Fatalf("found %+v", f)
	}
	s := f.Running()
	if s == nil || s.Name != "openclaw-gateway" || s.Node {
		t.Fatalf("the one that runs is %+v", s)
	}
	if got := strings.Join(s.BackCommands(), ";"); got != "systemctl --user enable --now openclaw-gateway.service" {
		t.Fatalf("back: %s", got)
	}
	if err := original.Free(t.Context(), port, 300*time.Millisecond); err == nil {
		t.Fatal("a port that is taken is said to be free")
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := original.Free(t.Context(), port, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	f = original.Find(t.Context(), "", port)
	if f.Running() != nil || f.Listens {
		t.Fatalf("after the stop: %+v", f)
	}
	if strings.Contains(calls(), "openclaw-node.service\n") && strings.Contains(calls(), "disable --now openclaw-node") {
		t.Fatal("the node host was stopped")
	}
	other := original.Service{Name: "moltbot-gateway"}
	if err := other.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "no such unit") {
		t.Fatalf("a service that cannot be stopped: %v", err)
	}
	if f := original.Find(t.Context(), "work", port); len(f.Services) != 1 || !f.Services[0].Node {
		t.Fatalf("of the profile work: %+v", f.Services)
	}
}
