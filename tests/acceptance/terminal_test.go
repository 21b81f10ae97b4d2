//go:build unix

package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// terminalNode starts a daemon, and a node of it in a process of its own.
func terminalNode(t *testing.T) (d *proc.Daemon, node *proc.Command) {
	t.Helper()
	d = proc.Start(t, proc.Options{})
	home := proc.Dir(t)
	node = proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + d.Socket(), "SHELL=/bin/sh", "PS1=$ ", "LANG=C.UTF-8"},
		"node", "--state-dir", filepath.Join(home, "node"), "--display-name", "box")
	proc.Until(t, "the node", func() bool {
		return strings.Contains(d.Ctl("nodes", "list", "--connected").Wait(t, proc.Patience).Stdout.String(), "box")
	})
	return d, node
}

// expect runs a script; $CTL is hanzoctl, and $env(…) what env says.
func expect(t *testing.T, d *proc.Daemon, script string, env ...string) string {
	t.Helper()
	if _, err := exec.LookPath("expect"); err != nil {
		notHere(t, "H13", "expect is not installed (apt-get install expect)")
	}
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("set timeout 30\nproc fail {} { puts \"\\nNOT SEEN\"; exit 99 }\nexpect_before timeout fail\n"+script), 0o600); err != nil {
		t.Fatal(err)
	}
	env = append([]string{"CTL=" + proc.Build(t, "hanzoctl", proc.Tested) + " --socket " + d.Socket(), "TERM=xterm-256color"}, env...)
	c := proc.Run(t, proc.Dir(t), "expect", env, file).Wait(t, 2*time.Minute)
	if out := c.Stdout.String(); c.Code != 0 {
		t.Fatalf("the script ended with %d:\n%s\n%s", c.Code, out, c.Stderr)
	}
	return c.Stdout.String()
}

// A person at a terminal: a real shell, its size, its signals, an editor, and the exit code.
func TestH13Person(t *testing.T) {
	accept(t, "H13")
	d, _ := terminalNode(t)
	dir := t.TempDir()
	out := expect(t, d, `
spawn sh
expect -re {[$#] $}
stty rows 30 columns 100 < $spawn_out(slave,name)
send "stty -a > $env(DIR)/before; $env(CTL) terminal open box --cwd $env(DIR) --env GREETING=hello; echo code=\$?; stty -a > $env(DIR)/after\r"
expect -re {\n\$ $}
send "tty\r"
expect -re {/dev/(pts/|tty)\S+}
send "stty size; echo \$GREETING; pwd\r"
expect -re {30 100\r\nhello\r\n}
stty rows 43 columns 132 < $spawn_out(slave,name)
sleep 0.5
send "stty size\r"
expect "43 132"
send "sleep 300\r"
expect "sleep 300\r"
sleep 0.5
send "\x03"
expect -re {\$ $}
send "echo still here\r"
expect -re {\nstill here}
send "vi -u NONE note.txt\r"
expect "~"
send "iwritten over the wire\x1b:wq\r"
expect -re {\$ $}
send "cat note.txt\r"
expect -re {\nwritten over the wire}
send "exit 7\r"
expect "code=7"
expect -re {[$#] $}
send "exit\r"
expect eof
`, "DIR="+dir)
	if b, err := os.ReadFile(filepath.Join(dir, "note.txt")); err != nil || string(b) != "written over the wire\n" {
		t.Errorf("the editor wrote %q, %v\n%s", b, err, out)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "before"))
	after, _ := os.ReadFile(filepath.Join(dir, "after"))
	size := regexp.MustCompile(`rows \d+; columns \d+;`)
	if len(before) == 0 || !bytes.Equal(size.ReplaceAll(before, nil), size.ReplaceAll(after, nil)) {
		t.Errorf("the terminal here was not restored: before\n%s\nafter\n%s", before, after)
	}
}

// Leaving, joining again, watching only, listing, ending; and what ends this program from outside.
func TestH13LeaveAndJoin(t *testing.T) {
	accept(t, "H13")
	d, _ := terminalNode(t)
	expect(t, d, `
spawn sh -c "$env(CTL) terminal open box; echo code=\$?; stty -a | grep -o -e -icanon || echo restored"
expect -re {\$ $}
send "MARK=kept\r"
expect -re {\$ $}
send "~?"
expect "this help"
send "~."
expect "left; the program goes on"
expect -re {terminal attach ([0-9a-f-]+)}
set id $expect_out(1,string)
expect "code=0"
expect "restored"
expect eof
wait
spawn sh -c "$env(CTL) terminal attach $id; echo code=\$?"
expect "MARK=kept"
send "echo \$MARK-again\r"
expect "kept-again"
send "exit 3\r"
expect "code=3"
expect eof
wait
spawn sh -c "$env(CTL) terminal open box; echo code=\$?; stty -a | grep -o -e -icanon || echo restored"
expect -re {\$ $}
exec pkill -TERM -P [exp_pid]
expect "the program goes on"
expect -re {terminal kill ([0-9a-f-]+)}
set id $expect_out(1,string)
expect "code=130"
expect "restored"
expect eof
wait
spawn sh -c "$env(CTL) terminal attach $id --read-only --from end; echo code=\$?"
sleep 1
exec sh -c "$env(CTL) terminal resize $id 70x20 2>/dev/null"
exec sh -c "$env(CTL) terminal kill $id 2>/dev/null"
expect "ended by SIGHUP"
expect "code=129"
expect eof
`)
	list := d.Ctl("terminal", "list", "--json").Wait(t, proc.Patience)
	var l struct {
		Terminals []struct {
			Exit *struct{ Signal string }
		}
	}
	if err := json.Unmarshal([]byte(list.Stdout.String()), &l); err != nil || len(l.Terminals) != 2 {
		t.Errorf("%s, %v", list.Stdout, err)
	}
}

// The daemon is killed and comes back: the program at the node goes on, and so does who watches it, without a
// byte lost.
func TestH13OutlivesTheDaemon(t *testing.T) {
	accept(t, "H13")
	d, node := terminalNode(t)
	ctl := proc.Build(t, "hanzoctl", proc.Tested)
	c := proc.Run(t, proc.Dir(t), ctl, nil, "--socket", d.Socket(), "terminal", "open", "box", "--", "sh", "-c", "stty raw -echo; for i in $(seq 400); do echo line $i; sleep 0.01; done; exit 5")
	proc.Until(t, "output", func() bool { return strings.Contains(c.Stdout.String(), "line 20\n") })
	d.Kill()
	d.Start()
	c.Wait(t, time.Minute)
	var want strings.Builder
	for i := range 400 {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if c.Code != 5 || strings.ReplaceAll(c.Stdout.String(), "\r", "") != want.String() {
		t.Errorf("code %d, %d bytes, want %d; it ends with %q\n%s", c.Code, len(c.Stdout.String()), want.Len(), lastPart(c.Stdout.String(), 60), c.Stderr)
	}
	// The node alone knows what runs: when it is stopped, nothing is left.
	c = proc.Run(t, proc.Dir(t), ctl, nil, "--socket", d.Socket(), "terminal", "open", "box", "--detach", "--json", "--", "sleep", "1000")
	var o struct{ Pid json.Number }
	if err := json.Unmarshal([]byte(c.Wait(t, proc.Patience).Stdout.String()), &o); err != nil || o.Pid == "" {
		t.Fatal(c.Stdout, c.Stderr, err)
	}
	node.End(syscall.SIGTERM)
	pid, _ := o.Pid.Int64()
	proc.Until(t, "the end of what ran in the terminal", func() bool { return syscall.Kill(int(pid), 0) != nil })
}

func lastPart(s string, n int) string { return s[max(0, len(s)-n):] }

// Without a terminal here: input from a pipe, the exit code, a recording and its note in the audit log.
func TestH13Pipes(t *testing.T) {
	accept(t, "H13")
	d, _ := terminalNode(t)
	ctl, dir := proc.Build(t, "hanzoctl", proc.Tested), proc.Dir(t)
	cast := filepath.Join(dir, "x.cast")
	c := proc.RunGroup(t, dir, ctl, nil, strings.NewReader("echo from the pipe\nexit 4\n"), "--socket", d.Socket(), "terminal", "record", cast, "box")
	if c.Wait(t, time.Minute); c.Code != 4 || !strings.Contains(c.Stdout.String(), "\r\nfrom the pipe\r\n") {
		t.Fatalf("code %d\n%s\n%s", c.Code, c.Stdout, c.Stderr)
	}
	played := proc.Run(t, dir, ctl, nil, "terminal", "play", cast).Wait(t, time.Minute)
	if played.Code != 0 || played.Stdout.String() != c.Stdout.String() {
		t.Errorf("played %q, shown %q", played.Stdout, c.Stdout)
	}
	if st, err := os.Stat(cast); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if log := d.Ctl("audit", "list", "--json").Wait(t, proc.Patience).Stdout.String(); !strings.Contains(log, "record") {
		t.Errorf("the audit log says nothing of a recording:\n%s", lastPart(log, 2000))
	}
	eof := proc.RunGroup(t, dir, ctl, nil, strings.NewReader("no newline"), "--socket", d.Socket(), "terminal", "open", "box", "--", "cat")
	if eof.Wait(t, time.Minute); eof.Code != 0 || !strings.Contains(eof.Stdout.String(), "no newlineno newline") {
		t.Errorf("code %d, %q", eof.Code, eof.Stdout)
	}
}

// The frames of the Rust dispatcher, sent by a relay to a node of ours.
func TestH13Frames(t *testing.T) {
	accept(t, "H13")
	r := newRelay(t, nil)
	home := proc.Dir(t)
	instance(t, "TUNNEL_URL="+r.url, "INSTANCE_ID=box-1", "WORKSPACE_DIR="+home, "SHELL=/bin/sh", "PS1=$ ")
	c := r.next(20 * time.Second)
	c.registered()
	open := c.do("t1", "terminal.open", map[string]any{})
	data, _ := open["data"].(map[string]any)
	id, _ := data["session_id"].(string)
	if open["ok"] != true || id == "" || data["cols"] != 80.0 || data["rows"] != 24.0 || data["shell"] != "/bin/sh" {
		t.Fatal(open)
	}
	var seen strings.Builder
	output := func(text string) {
		t.Helper()
		for !strings.Contains(seen.String(), text) {
			f := c.hear(20*time.Second, text, func(f map[string]any) bool { return f["event"] == "terminal.output" })
			data := f["data"].(map[string]any)
			if data["session_id"] != id {
				t.Fatal(f)
			}
			seen.WriteString(data["data"].(string))
		}
	}
	ok := func(f map[string]any) {
		t.Helper()
		if data, _ := f["data"].(map[string]any); f["ok"] != true || data["ok"] != true {
			t.Fatal(f)
		}
	}
	ok(c.do("t2", "terminal.input", map[string]any{"session_id": id, "data": "tty; stty size\n"}))
	output("24 80")
	ok(c.do("t3", "terminal.resize", map[string]any{"session_id": id, "cols": 132, "rows": 43}))
	ok(c.do("t4", "terminal.input", map[string]any{"session_id": id, "data": "stty size\n"}))
	output("43 132")
	list := c.do("t5", "terminal.list", map[string]any{})
	if rows, _ := list["data"].([]any); len(rows) != 1 || rows[0].(map[string]any)["cols"] != 132.0 || rows[0].(map[string]any)["session_id"] != id {
		t.Error(list)
	}
	for method, want := range map[string]string{"terminal.input": "missing session_id", "terminal.resize": "missing session_id", "terminal.close": "missing session_id"} {
		if f := c.do("e-"+method, method, map[string]any{}); f["ok"] != false || f["error"] != want {
			t.Error(method, f)
		}
	}
	if f := c.do("t6", "terminal.input", map[string]any{"session_id": "none", "data": "x"}); f["error"] != "session not found: none" {
		t.Error(f)
	}
	ok(c.do("t7", "terminal.close", map[string]any{"session_id": id}))
	exit := c.hear(20*time.Second, "the exit", func(f map[string]any) bool { return f["event"] == "terminal.exit" })["data"].(map[string]any)
	if code, there := exit["exit_code"]; exit["session_id"] != id || !there || code != nil {
		t.Error(exit)
	}
}
