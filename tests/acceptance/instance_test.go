//go:build unix

package acceptance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// relay plays the server's part of links.
type relay struct {
	testing.TB
	url     string
	headers chan http.Header
	conns   chan *relayConn
}

type relayConn struct {
	testing.TB
	ws   *websocket.Conn
	done chan struct{}
	// frames are those that came and nobody took.
	frames chan map[string]any
	early  []map[string]any
}

// newRelay listens, with TLS when wrap is not nil.
func newRelay(tb testing.TB, wrap func(net.Listener) net.Listener) *relay {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	scheme := "ws"
	if wrap != nil {
		l, scheme = wrap(l), "wss"
	}
	r := &relay{tb, fmt.Sprintf("%s://%s/v1/tunnel", scheme, l.Addr()), make(chan http.Header, 4096), make(chan *relayConn, 4096)}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		wg.Add(1)
		defer wg.Done()
		ws, err := websocket.Accept(w, q, nil)
		if err != nil {
			return
		}
		ws.SetReadLimit(10 << 20)
		r.headers <- q.Header.Clone()
		c := &relayConn{tb, ws, make(chan struct{}), make(chan map[string]any, 1024), nil}
		r.conns <- c
		defer close(c.done)
		for {
			_, data, err := ws.Read(ctx)
			if err != nil {
				return
			}
			var f map[string]any
			if json.Unmarshal(data, &f) != nil {
				tb.Errorf("the instance sent what is no JSON: %.200s", data)
			}
			c.frames <- f
		}
	})}
	wg.Go(func() { _ = s.Serve(l) })
	tb.Cleanup(func() {
		cancel()
		_ = s.Close()
		wg.Wait()
	})
	return r
}

// next is the next connection.
func (r *relay) next(limit time.Duration) *relayConn {
	r.Helper()
	select {
	case c := <-r.conns:
		return c
	case <-time.After(limit):
		r.Fatalf("no connection within %s", limit)
		return nil
	}
}

func (c *relayConn) say(f any) {
	c.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		c.Fatal(err)
	}
	if err := c.ws.Write(context.Background(), websocket.MessageText, text); err != nil {
		c.Errorf("the instance is gone: %v", err)
	}
}

// hear is the first frame that ok takes; others wait for who wants them.
func (c *relayConn) hear(limit time.Duration, what string, ok func(map[string]any) bool) map[string]any {
	c.Helper()
	deadline := time.After(limit)
	if i := slices.IndexFunc(c.early, ok); i >= 0 {
		f := c.early[i]
		c.early = slices.Delete(c.early, i, i+1)
		return f
	}
	for {
		select {
		case f := <-c.frames:
			if ok(f) {
				return f
			}
			c.early = append(c.early, f)
		case <-deadline:
			c.Fatalf("no %s within %s", what, limit)
		}
	}
}

func typed(kind string) func(map[string]any) bool {
	return func(f map[string]any) bool { return f["type"] == kind }
}

// registered takes the registration and answers it.
func (c *relayConn) registered() map[string]any {
	c.Helper()
	f := c.hear(10*time.Second, "register", typed("register"))
	c.say(map[string]any{"type": "registered", "instance_id": f["instance_id"]})
	return f
}

// do sends a command and waits for its response.
func (c *relayConn) do(id, method string, params any) map[string]any {
	c.Helper()
	f := map[string]any{"type": "command", "id": id, "method": method}
	if params != nil {
		f["params"] = params
	}
	c.say(f)
	return c.response(id, 60*time.Second)
}

func (c *relayConn) response(id string, limit time.Duration) map[string]any {
	c.Helper()
	return c.hear(limit, "response to "+id, func(f map[string]any) bool { return f["type"] == "response" && f["id"] == id })
}

// recording is a line of a recording.
type recording struct {
	Dir   string
	Frame map[string]any
	Note  string
}

func readRecording(t *testing.T, file string) (out []recording) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r recording
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

var (
	ofAgent    = regexp.MustCompile(`^(agent-[a-z])[ :]`)
	ofRegister = regexp.MustCompile(`^register \((agent-[a-z])\)`)
	ofScenario = regexp.MustCompile(`^scenario (\d+)`)
)

// ofProcess is which run of the agent a line is of.
func ofProcess(note string) string {
	if strings.Contains(note, "started without S3 credentials") {
		return "bare"
	}
	for _, re := range []*regexp.Regexp{ofRegister, ofAgent} {
		if m := re.FindStringSubmatch(note); m != nil {
			return m[1]
		}
	}
	if m := ofScenario.FindStringSubmatch(note); m != nil {
		return "scenario " + m[1]
	}
	return note
}

// theirs are the notes of recordings in which a node of ours deliberately does something else (tunnel.md §7).
var theirs = map[string]string{
	"terminal.open is not implemented": "terminals are served",
	"scenario 1 ":                      "a frame before the answer to register ends nothing",
	"scenario 5 ":                      "commands run in parallel",
}

// chatStandIn is the chat program of the recordings.
const chatStandIn = `#!/bin/sh
[ "$2" = EXIT2 ] && { echo boom; exit 2; }
printf 'reply to: %s [%s %s %s]\n' "$2" "$1" "$3" "$4"
echo "CLAUDECODE=${CLAUDECODE-unset} OTEL_SDK_DISABLED=$OTEL_SDK_DISABLED DO_NOT_TRACK=$DO_NOT_TRACK"
`

// writeProgram writes a script that can be run.
func writeProgram(tb testing.TB, path, text string) {
	tb.Helper()
	syscall.ForkLock.RLock() // a fork in between would keep it open for writing
	defer syscall.ForkLock.RUnlock()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		tb.Fatal(err)
	}
}

// instance starts a hanzod node from the environment alone.
func instance(tb testing.TB, env ...string) *proc.Command {
	tb.Helper()
	return proc.Run(tb, proc.Dir(tb), proc.Build(tb, "hanzod", proc.Tested), env, "node")
}

// A node of ours plays the agent's part of every recorded exchange.
func TestH12Recordings(t *testing.T) {
	accept(t, "H12")
	for _, file := range instanceRecordings() {
		groups, order := map[string][]recording{}, []string{}
		for _, r := range readRecording(t, file) {
			p := ofProcess(r.Note)
			if groups[p] == nil {
				order = append(order, p)
			}
			groups[p] = append(groups[p], r)
		}
		for _, p := range order {
			t.Run(filepath.Base(file)+" "+p, func(t *testing.T) { replay(t, p, groups[p]) })
		}
	}
}

func instanceRecordings() []string {
	out := []string{"../../fixtures/tunnel/agent-bridge.jsonl"}
	if more := os.Getenv("LINK_FIXTURES"); more != "" {
		out = append(out, filepath.SplitList(more)...)
	}
	return out
}

// needsStore says that an exchange needs checkpoints, or what one brought: nodes/host/checkpoints replays those.
func needsStore(process, note string, f map[string]any) bool {
	method, _ := f["method"].(string)
	return process != "bare" && strings.HasPrefix(method, "session.") || strings.Contains(note, "after restore")
}

func replay(t *testing.T, process string, lines []recording) {
	if i := slices.IndexFunc(lines, func(r recording) bool {
		return strings.HasPrefix(r.Note, "scenario 1 ") || strings.HasPrefix(r.Note, "scenario 5 ")
	}); i >= 0 {
		for begin, why := range theirs {
			if strings.HasPrefix(lines[i].Note, begin) {
				t.Log("not as recorded: " + why)
			}
		}
	}
	r := newRelay(t, nil)
	bin, dir := filepath.Join(t.TempDir(), "bin"), t.TempDir()
	var reg map[string]any
	for _, l := range lines {
		if l.Frame["type"] == "register" {
			reg = l.Frame
			break
		}
	}
	env := []string{"TUNNEL_URL=" + r.url, "WORKSPACE_DIR=" + dir, "USER=agent", "CLAUDECODE=1"}
	if process != "bare" {
		writeProgram(t, filepath.Join(bin, "claude"), chatStandIn)
		env = append(env, "PATH="+bin+":"+os.Getenv("PATH"))
	} else {
		env = append(env, "PATH=/usr/bin:/bin")
		if _, err := exec.LookPath("/usr/bin/claude"); err == nil {
			t.Skip("this machine has a chat program where it should have none")
		}
	}
	if reg != nil {
		env = append(env, "INSTANCE_ID="+reg["instance_id"].(string), "APP_KIND="+reg["app_kind"].(string))
	}
	node := instance(t, env...)
	c := r.next(20 * time.Second)
	var began time.Time
	got := c.hear(10*time.Second, "register", typed("register"))
	if reg != nil {
		same(t, lines[0].Note, want(reg, dir), plain(got))
	} else {
		c.say(map[string]any{"type": "registered", "instance_id": "agent-a"})
	}
	first := true
	open := map[string]string{} // notes of commands that were left out
	for i, l := range lines {
		switch kind := l.Frame["type"]; {
		case kind == "register" && first:
			first = false
		case kind == "register": // the next connection; the time since the last is in the note
			if strings.Contains(lines[i-1].Note, "scenario 3") || strings.Contains(lines[i-1].Note, "scenario 2") {
				code := websocket.StatusGoingAway
				if strings.Contains(l.Note, "scenario 3") {
					code = websocket.StatusPolicyViolation
				}
				_ = c.ws.Close(code, "")
			}
			began = time.Now()
			c = r.next(15 * time.Second)
			same(t, l.Note, want(l.Frame, dir), plain(c.hear(10*time.Second, "register", typed("register"))))
			t.Logf("%s: again after %s", l.Note, time.Since(began).Round(10*time.Millisecond))
		case kind == "registered" && l.Dir == "in", kind == "ping" && l.Dir == "in", kind == "pong" && l.Dir == "in", kind == "event" && l.Dir == "in":
			c.say(l.Frame)
		case kind == "command" && needsStore(process, l.Note, l.Frame):
			open[l.Frame["id"].(string)] = l.Note
		case kind == "command":
			c.say(l.Frame)
		case kind == "pong" && l.Dir == "out":
			c.hear(10*time.Second, "pong", typed("pong"))
		case kind == "response":
			id := l.Frame["id"].(string)
			if open[id] != "" {
				t.Logf("%s: left out, it needs a store of checkpoints", l.Note)
				continue
			}
			got := c.response(id, 60*time.Second)
			if strings.Contains(l.Note, "terminal.open is not implemented") {
				if got["ok"] != true && got["error"] != "unknown command: terminal.open" {
					t.Errorf("%s: %v", l.Note, got)
				}
				continue
			}
			same(t, l.Note, want(l.Frame, dir), plain(got))
		}
	}
	if node.Ended() {
		t.Errorf("the node ended:\n%s", node.Stderr)
	}
}

// volatile are the members that differ from run to run (tunnel.md §9). Counters follow from commands of which some
// are not recorded.
var volatile = []string{"pid", "started_at", "hostname", "display_name", "python", "platform", "version", "session_stats", "session"}

// want is a recorded frame with the directory of this run.
func want(f map[string]any, dir string) any { return plain(put(f, dir).(map[string]any)) }

func put(v any, dir string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = put(x, dir)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = put(x, dir)
		}
		return out
	case string:
		if strings.HasPrefix(v, "/workspace") {
			return dir
		}
	}
	return v
}

// plain is a frame with the types of what is volatile in place of it.
func plain(f map[string]any) any {
	return fold(f, "")
}

func fold(v any, key string) any {
	if slices.Contains(volatile, key) {
		if m, ok := v.(map[string]any); ok {
			out := map[string]any{}
			for k, x := range m {
				out[k] = fmt.Sprintf("%T", x)
			}
			return out
		}
		return fmt.Sprintf("%T", v)
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = fold(x, k)
			if list, ok := x.([]any); ok && k == "commands" && len(list) >= 6 && v["type"] == "register" {
				out[k] = list[:6] // a node of ours offers more behind those of the bridge
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = fold(x, "")
		}
		return out
	}
	return v
}

func same(t *testing.T, note string, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		w, _ := json.Marshal(want)
		g, _ := json.Marshal(got)
		t.Errorf("%s\nwant %.600s\ngot  %.600s", note, w, g)
	}
}

// A chat that takes 100 s is answered, and the link stays up meanwhile.
func TestH12LongChat(t *testing.T) {
	accept(t, "H12")
	r := newRelay(t, nil)
	bin := filepath.Join(t.TempDir(), "bin")
	writeProgram(t, filepath.Join(bin, "claude"), "#!/bin/sh\nsleep 100\necho done\n")
	instance(t, "TUNNEL_URL="+r.url, "INSTANCE_ID=long", "PATH="+bin+":"+os.Getenv("PATH"))
	c := r.next(20 * time.Second)
	c.registered()
	c.say(map[string]any{"type": "command", "id": "chat", "method": "chat.send", "params": map[string]any{"message": "m"}})
	for i := range 9 { // other commands are served, and pings answered
		time.Sleep(10 * time.Second)
		if got := c.do(fmt.Sprint("s", i), "status.get", map[string]any{}); got["ok"] != true {
			t.Errorf("%v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := c.ws.Ping(ctx); err != nil {
			t.Errorf("a ping during a chat: %v", err)
		}
		cancel()
	}
	got := c.response("chat", 30*time.Second)
	if data, _ := got["data"].(map[string]any); got["ok"] != true || data["response"] != "done" || data["exitCode"] != 0.0 {
		t.Errorf("%v", got)
	}
}

// The crate's commands, at a real node (tunnel.md §1.6).
func TestH15(t *testing.T) {
	accept(t, "H15")
	r := newRelay(t, nil)
	bin, dir := filepath.Join(t.TempDir(), "bin"), t.TempDir()
	writeProgram(t, filepath.Join(bin, "hanzo-dev"), "#!/bin/sh\necho started \"$@\"\nsleep 300 &\necho $! > child\nwait\n")
	node := instance(t, "TUNNEL_URL="+r.url, "INSTANCE_ID=h15", "WORKSPACE_DIR="+dir, "USER=agent", "SHELL=/bin/sh", "HOSTNAME=box", "PATH="+bin+":"+os.Getenv("PATH"))
	c := r.next(20 * time.Second)
	c.registered()

	info, _ := c.do("1", "system.info", map[string]any{})["data"].(map[string]any)
	for _, name := range []string{"os", "arch", "hostname", "home", "cwd", "shell", "user"} {
		if s, ok := info[name].(string); !ok || s == "" {
			t.Errorf("system.info has no %s: %v", name, info)
		}
	}
	if info["cwd"] != dir || info["user"] != "agent" || info["shell"] != "/bin/sh" || info["hostname"] != "box" || len(info) != 7 {
		t.Errorf("system.info: %v", info)
	}

	began := time.Now()
	got := c.do("2", "system.run", map[string]any{"cmd": "sleep 60 & echo $! > left; sleep 60; true", "timeout_ms": 500})
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("the answer took %s", took)
	}
	if _, data := got["data"]; got["ok"] != false || got["error"] != "command timed out" || data {
		t.Errorf("%v", got)
	}
	ended(t, filepath.Join(dir, "left"))
	for _, x := range []struct {
		params map[string]any
		want   map[string]any
	}{
		{map[string]any{"command": "echo a; echo b >&2; exit 7"}, map[string]any{"exit_code": 7.0, "stdout": "a\n", "stderr": "b\n"}},
		{map[string]any{"cmd": "kill -9 $$"}, map[string]any{"exit_code": nil, "stdout": "", "stderr": ""}},
	} {
		got := c.do("3", "system.run", x.params)
		if _, has := got["error"]; got["ok"] != true || has || !reflect.DeepEqual(got["data"], any(x.want)) {
			t.Errorf("%v: %v", x.params, got)
		}
	}

	launched, _ := c.do("4", "dev.launch", map[string]any{"message": "hello"})["data"].(map[string]any)
	pid, _ := launched["pid"].(float64)
	if launched["binary"] != filepath.Join(bin, "hanzo-dev") || launched["model"] != "claude-sonnet-4-6" || launched["cwd"] != nil || pid == 0 {
		t.Errorf("dev.launch: %v", launched)
	}
	status, _ := c.do("5", "dev.status", map[string]any{})["data"].(map[string]any)
	if pids, _ := status["pids"].([]any); status["running"] != true || len(pids) != 1 || pids[0] != fmt.Sprint(int(pid)) {
		t.Errorf("dev.status: %v", status)
	}
	proc.Until(t, "a log of the development program", func() bool {
		text, _ := os.ReadFile(fmt.Sprint(launched["log"]))
		return string(text) == "started --model claude-sonnet-4-6 hello\n"
	})
	proc.Until(t, "its child", func() bool { _, err := os.Stat(filepath.Join(dir, "child")); return err == nil })
	node.Signal(syscall.SIGTERM)
	node.Wait(t, 10*time.Second)
	ended(t, filepath.Join(dir, "child")) // stopped with the node
}

// ended waits for the process whose number a file holds to be gone.
func ended(tb testing.TB, file string) {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		tb.Fatal(err)
	}
	proc.Until(tb, fmt.Sprintf("the end of process %d", pid), func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || strings.Contains(string(state), ") Z ")
	})
}

// A node needs nothing but the variables of the bridge (tunnel.md §1.15).
func TestH26(t *testing.T) {
	accept(t, "H26")
	r := newRelay(t, nil)
	dir := t.TempDir()
	node := instance(t, "TUNNEL_URL="+strings.Replace(r.url, "ws://", "ws://bot:hk-secret@", 1), "INSTANCE_ID=pod-7", "APP_KIND=cloud", "WORKSPACE_DIR="+dir,
		"S3_ENDPOINT_URL=http://127.0.0.1:1", "S3_ACCESS_KEY=key-secret", "S3_SECRET_KEY=word-secret", "S3_BUCKET=b")
	c := r.next(20 * time.Second)
	if got := (<-r.headers).Get("Authorization"); got != "Basic Ym90OmhrLXNlY3JldA==" {
		t.Errorf("it shows %q", got)
	}
	f := c.registered()
	for name, want := range map[string]any{"instance_id": "pod-7", "app_kind": "cloud", "cwd": dir} {
		if f[name] != want {
			t.Errorf("%s is %v, want %v", name, f[name], want)
		}
	}
	if name, _ := f["display_name"].(string); !strings.HasPrefix(name, "user@") || strings.Contains(name, ".") {
		t.Errorf("it is called %q", f["display_name"])
	}
	if !reflect.DeepEqual(f["capabilities"], []any{"chat", "exec", "tools", "terminal"}) {
		t.Errorf("capabilities %v", f["capabilities"])
	}
	got, _ := c.do("1", "exec.run", map[string]any{"command": "pwd; env"})["data"].(map[string]any)
	out, _ := got["stdout"].(string)
	if !strings.HasPrefix(out, dir+"\n") || strings.Contains(out, "secret") {
		t.Errorf("a command sees\n%s", out)
	}
	if strings.Contains(node.Stderr.String(), "secret") {
		t.Errorf("the log holds a secret:\n%s", node.Stderr)
	}
	if !strings.Contains(node.Stderr.String(), "everything that the relay asks for runs here") {
		t.Errorf("the log does not say that everything runs:\n%s", node.Stderr)
	}
	node.Signal(syscall.SIGTERM)
	if node.Wait(t, 10*time.Second).Code != 0 {
		t.Errorf("it ended with %d:\n%s", node.Code, node.Stderr)
	}
	// Without an id it is the host name and the number of the process.
	r2 := newRelay(t, nil)
	two := instance(t, "TUNNEL_URL="+r2.url)
	if id, _ := r2.next(20 * time.Second).registered()["instance_id"].(string); !strings.HasSuffix(id, fmt.Sprint("-", two.PID())) {
		t.Errorf("the id is %q", id)
	}
}

// bare is a relay that sees an instance which runs as uid 1001, from variables alone.
func bare(t *testing.T, c *relayConn, dir string) {
	t.Helper()
	if f := c.registered(); f["instance_id"] != "pod-8" || f["cwd"] != dir {
		t.Errorf("it registers as %v", f)
	}
	got, _ := c.do("1", "exec.run", map[string]any{"command": "id -u; echo kept > note; cat note"})["data"].(map[string]any)
	if got["stdout"] != "1001\nkept\n" {
		t.Errorf("a command there answers %v", got)
	}
}

// The user of the image has no name, no home and nothing to write but the workspace.
func TestH26User(t *testing.T) {
	accept(t, "H26")
	const setpriv = "/usr/bin/setpriv"
	if _, err := os.Stat(setpriv); err != nil || os.Geteuid() != 0 {
		notHere(t, "H26", "running as uid 1001 needs root and setpriv")
	}
	open, err := os.MkdirTemp("", "hanzod-user-") // other users cannot look into the directories of tests
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(open) })
	dir, program := filepath.Join(open, "workspace"), filepath.Join(open, "hanzod")
	text, err := os.ReadFile(proc.Build(t, "hanzod", proc.Shipped))
	if err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock() // no program that starts meanwhile keeps it open for writing
	err = errors.Join(os.WriteFile(program, text, 0o700), os.Mkdir(dir, 0o700), os.Chown(dir, 1001, 1001), os.Chmod(open, 0o755), os.Chmod(program, 0o755))
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, nil)
	node := proc.Run(t, proc.Dir(t), setpriv, []string{"HOME=/nonexistent", "TUNNEL_URL=" + r.url, "INSTANCE_ID=pod-8", "APP_KIND=cloud", "WORKSPACE_DIR=" + dir},
		"--reuid", "1001", "--regid", "1001", "--clear-groups", program, "node")
	bare(t, r.next(20*time.Second), dir)
	node.Signal(syscall.SIGTERM)
	node.Wait(t, 10*time.Second)
}

func TestH26Image(t *testing.T) {
	accept(t, "H26")
	if exec.Command("docker", "info").Run() != nil {
		notHere(t, "H26", "building the image needs docker with a running engine; tests/deploy reads the Containerfile without one, and TestH26User runs as its user would")
	}
	image, err := exec.Command("docker", "build", "-q", "--target", "node", proc.Root(t)).Output()
	if err != nil {
		t.Fatalf("build the image: %v", err)
	}
	r := newRelay(t, nil)
	dir := "/tmp"
	node := proc.Run(t, proc.Dir(t), "docker", nil, "run", "--rm", "--network", "host", "--user", "1001", "-e", "TUNNEL_URL="+r.url, "-e", "INSTANCE_ID=pod-8",
		"-e", "WORKSPACE_DIR="+dir, "-w", dir, strings.TrimSpace(string(image)))
	bare(t, r.next(30*time.Second), dir)
	node.Signal(syscall.SIGTERM)
	node.Wait(t, 20*time.Second)
}

// A swarm is one process with many instances, which end together.
func TestH27NodeSwarm(t *testing.T) {
	accept(t, "H27")
	const n = 4
	r := newRelay(t, nil)
	node := proc.Run(t, proc.Dir(t), proc.Build(t, "hanzod", proc.Tested), []string{"TUNNEL_URL=" + r.url, "INSTANCE_ID=swarm-agent"}, "node", "--count", fmt.Sprint(n))
	var all []*relayConn
	var ids []string
	for range n {
		c := r.next(20 * time.Second)
		ids = append(ids, c.registered()["instance_id"].(string))
		all = append(all, c)
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []string{"swarm-agent-1", "swarm-agent-2", "swarm-agent-3", "swarm-agent-4"}) {
		t.Errorf("the ids are %v", ids)
	}
	for i, c := range all {
		if got := c.do("1", "exec.run", map[string]any{"command": fmt.Sprint("echo ", i)}); got["ok"] != true {
			t.Errorf("%v", got)
		}
		got, _ := c.do("2", "status.get", map[string]any{})["data"].(map[string]any)
		if session, _ := got["session"].(map[string]any); session["command_count"] != 1.0 {
			t.Errorf("instances share a session: %v", got)
		}
	}
	for _, id := range ids {
		if !strings.Contains(node.Stderr.String(), id) {
			t.Errorf("no line of the log is marked %s", id)
		}
	}
	node.Signal(syscall.SIGTERM)
	node.Wait(t, 10*time.Second)
	for _, c := range all {
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			t.Error("an instance outlived the swarm")
		}
	}
}
