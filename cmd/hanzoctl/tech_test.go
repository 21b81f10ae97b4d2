package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// A terminal in a technician session: what is typed, its size, its exit code, and the keys that hang it up. The session
// that was opened for it is closed after, and Ctrl-C ends a command on the node.
func TestRealTechShell(t *testing.T) {
	d, _, node := realDaemon(t, hanzodtest.Options{})
	active := func() string {
		t.Helper()
		out, code := start(t, d.Socket(), "tech", "list", "--active", "-q").end()
		if code != 0 {
			t.Fatalf("list exits with %d", code)
		}
		return out
	}

	tm := onTerminal(t, d.Socket(), "tech", "shell", node, "--", "/bin/sh")
	tm.until(`[$#] `)
	tm.press("echo si''ze $(stty size)\r")
	tm.until(`size 24 100\r\n`)
	if err := pty.Setsize(tm.f, &pty.Winsize{Rows: 30, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	tm.press("until [ \"$(stty size)\" = '30 90' ]; do sleep 0.05; done; echo resi''zed\r")
	tm.until(`resized\r\n`)
	if strings.TrimSpace(active()) == "" {
		t.Error("no session is open for the terminal")
	}
	tm.press("echo go''ing; sleep 1000\r")
	tm.until(`going\r\n`)
	tm.press("\x03")
	tm.until(`[$#] `)
	tm.press("echo br''oken; exit 5\r")
	tm.until(`broken\r\n`)
	if code := tm.exit(); code != 5 {
		t.Errorf("exit %d, %q", code, tm.all.String())
	}
	if s := active(); s != "" {
		t.Errorf("left open: %s", s)
	}

	tm = onTerminal(t, d.Socket(), "tech", "shell", node, "--", "/bin/sh", "-c", "echo re''ady; exec sleep 1000")
	tm.until(`ready\r\n`)
	tm.press("~.")
	if code := tm.exit(); code != exitSignal+signals["HUP"] || !strings.Contains(tm.all.String(), "hung up") {
		t.Errorf("hung up: exit %d, %q", code, tm.all.String())
	}
	if s := active(); s != "" {
		t.Errorf("left open: %s", s)
	}

	tm = onTerminal(t, d.Socket(), "tech", "run", node, "--", "echo be''gun; exec sleep 1000")
	tm.until(`begun`)
	tm.press("\x03")
	if code := tm.exit(); code != exitInt {
		t.Errorf("interrupted: exit %d, %q", code, tm.all.String())
	}
	if s := active(); s != "" {
		t.Errorf("left open: %s", s)
	}
	p := start(t, d.Socket(), "tech", "shell", node, "-q")
	if _, code := p.end(); code != exitUsage {
		t.Errorf("-q: exit %d, %s", code, p.errOut.String())
	}
}

// A name that is no text goes there and back, and is no other file's.
func TestRealTechNames(t *testing.T) {
	d, _, node := realDaemon(t, hanzodtest.Options{})
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{from, node + ":na\xffme"}, {node + ":na\xffme", to}} {
		p := start(t, d.Socket(), append([]string{"tech", "cp"}, args...)...)
		if _, code := p.end(); code != 0 {
			t.Fatalf("%q: exit %d, %s", args, code, p.errOut.String())
		}
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(d.StateDir, "workspace", "na\xffme")); err != nil {
		t.Error(err)
	}
}
