//go:build linux

package terminals_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/terminals"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node and what its gateway hears.
type world struct {
	testing.TB
	m *terminals.Module
	h *host.Host

	mu     sync.Mutex
	events []string
	slow   chan struct{} // nil, or what an event waits for
	ended  chan struct{}
}

func newWorld(t testing.TB, security policy.Security) *world {
	t.Helper()
	w := &world{TB: t, ended: make(chan struct{})}
	f := policy.Open(filepath.Join(t.TempDir(), "exec-approvals.json"), policy.Options{
		HomeDir: t.TempDir(), Defaults: policy.Overrides{Security: security, Ask: policy.AskOff},
	})
	env := func() []string { return []string{"PATH=/usr/bin:/bin", "SHELL=/bin/sh", "PS1=$ ", "LANG=C.UTF-8"} }
	w.m = terminals.New(terminals.Config{Policy: f, Env: env, Dir: t.TempDir(), Terminals: terminal.Config{Grace: [2]time.Duration{100 * time.Millisecond, 300 * time.Millisecond}}})
	w.h = host.New(host.Config{Policy: f, Modules: []host.Module{w.m}, Env: env})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := w.m.Close(ctx); err != nil {
			t.Error("the terminals do not end: ", err)
		}
		w.cut()
	})
	return w
}

func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.ended:
	default:
		close(w.ended)
	}
}

func (w *world) request(command, params string) host.Request {
	r := host.Request{ID: "r", Command: command, Ended: w.ended}
	ended := w.ended
	if params != "" {
		r.ParamsJSON = &params
	}
	r.Send = func(event, payload string) error {
		w.mu.Lock()
		slow := w.slow
		w.mu.Unlock()
		if slow != nil {
			select {
			case <-slow:
			case <-ended:
			}
		}
		select {
		case <-ended:
			return errors.New("the link is lost")
		default:
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, event+" "+payload)
		return nil
	}
	return r
}

// do is the payload of an answer, or "code: message".
func (w *world) do(command, params string) string {
	w.Helper()
	r := w.h.Handle(context.Background(), w.request(command, params))
	if r.OK {
		return *r.PayloadJSON
	}
	return r.Error.Code + ": " + r.Error.Message
}

func (w *world) open(params string) string {
	w.Helper()
	var o struct {
		Session string `json:"session_id"`
	}
	if got := w.do("terminal.open", params); json.Unmarshal([]byte(got), &o) != nil || o.Session == "" {
		w.Fatal(got)
	}
	return o.Session
}

// output is what came for a terminal until now, checked for its numbers; exit is "" before it came.
func (w *world) output(session string) (all []byte, exit string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		name, payload, _ := strings.Cut(e, " ")
		var p struct {
			Session string  `json:"session_id"`
			Data    string  `json:"data"`
			Base64  *string `json:"data_b64"`
			Seq     int64   `json:"seq"`
		}
		if err := json.Unmarshal([]byte(payload), &p); err != nil {
			w.Fatal(err)
		}
		if p.Session != session {
			continue
		}
		if exit != "" {
			w.Fatal("something after the exit: ", e)
		}
		if name == "terminal.exit" {
			exit = payload
			continue
		}
		data := []byte(p.Data)
		if p.Base64 != nil {
			data, _ = base64.StdEncoding.DecodeString(*p.Base64)
		} else if strings.Contains(p.Data, "\uFFFD") || !utf8.ValidString(p.Data) {
			w.Fatalf("a character was cut: %q", p.Data)
		}
		if p.Seq != int64(len(all)) {
			w.Fatalf("number %d after %d bytes", p.Seq, len(all))
		}
		all = append(all, data...)
	}
	return all, exit
}

func (w *world) until(session, text string) {
	w.Helper()
	for range 4000 {
		if all, _ := w.output(session); strings.Contains(string(all), text) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	all, _ := w.output(session)
	w.Fatalf("no %q in %q", text, all)
}

func (w *world) exit(session string) string {
	w.Helper()
	for range 6000 {
		w.mu.Lock()
		ended := slices.ContainsFunc(w.events, func(e string) bool {
			return strings.HasPrefix(e, "terminal.exit ") && strings.Contains(e, session)
		})
		w.mu.Unlock()
		if ended {
			_, exit := w.output(session)
			return exit
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.Fatal("no exit")
	return ""
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestTerminalSet(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	var o struct {
		Session string `json:"session_id"`
		Shell   string `json:"shell"`
		PID     int    `json:"pid"`
		Cols    int    `json:"cols"`
		Rows    int    `json:"rows"`
	}
	text := w.do("terminal.open", "{}")
	if err := json.Unmarshal([]byte(text), &o); err != nil || o.Shell != "/bin/sh" || o.Cols != 80 || o.Rows != 24 || o.PID <= 0 {
		t.Fatal(text)
	}
	if want := fmt.Sprintf(`{"session_id":%q,"shell":"/bin/sh","pid":%d,"cols":80,"rows":24}`, o.Session, o.PID); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
	id := quote(o.Session)
	for _, c := range [][3]string{
		{"terminal.input", `{"session_id":` + id + `,"data":"tty; stty size; echo $TERM $COLUMNS $LINES\n"}`, `{"ok":true}`},
		{"terminal.resize", `{"session_id":` + id + `,"cols":132,"rows":43}`, `{"ok":true}`},
		{"terminal.input", `{"session_id":` + id + `,"data_b64":"` + base64.StdEncoding.EncodeToString([]byte("stty size\n")) + `"}`, `{"ok":true}`},
		{"terminal.input", `{"data":"x"}`, "INVALID_PARAMS: missing session_id"},
		{"terminal.input", `{"session_id":` + id + `}`, "INVALID_PARAMS: missing data"},
		{"terminal.input", `{"session_id":"no","data":"x"}`, "INPUT_FAILED: session not found: no"},
		{"terminal.close", `{"session_id":"no"}`, "CLOSE_FAILED: session not found: no"},
		{"terminal.close", `{}`, "INVALID_PARAMS: missing session_id"},
		{"terminal.resize", `{"session_id":"no"}`, "RESIZE_FAILED: session not found: no"},
		{"terminal.resize", `{"session_id":` + id + `,"cols":70000}`, "INVALID_PARAMS: cols must be a whole number from 0 to 65535"},
		{"terminal.open", `{"cols":"80"}`, "INVALID_PARAMS: cols must not be a string"},
		{"terminal.open", `{"shell":"/no/such/shell"}`, "SPAWN_FAILED: spawn failed: there is no such executable on this node"},
		{"terminal.open", `{"cwd":"/no/such/dir"}`, "SPAWN_FAILED: spawn failed: /no/such/dir: no such file or directory"},
		{"terminal.attach", `{"session_id":"no"}`, "ATTACH_FAILED: session not found: no"},
		{"terminal.ack", `{"session_id":"no","seq":1}`, "ACK_FAILED: session not found: no"},
	} {
		if got := w.do(c[0], c[1]); got != c[2] {
			t.Errorf("%s %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
	w.until(o.Session, "xterm-256color 80 24")
	w.until(o.Session, "43 132")
	if list := w.do("terminal.list", ""); !strings.HasPrefix(list, fmt.Sprintf(`[{"session_id":%q,"shell":"/bin/sh","pid":%d,"cols":132,"rows":43,`, o.Session, o.PID)) {
		t.Error(list)
	}
	w.do("terminal.input", `{"session_id":`+id+`,"data":"exit 6\n"}`)
	if got, want := w.exit(o.Session), fmt.Sprintf(`{"session_id":%q,"exit_code":6}`, o.Session); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := w.do("terminal.input", `{"session_id":`+id+`,"data":"x"}`); got != "INPUT_FAILED: stdin closed" {
		t.Error(got)
	}
	if list := w.do("terminal.list", "{}"); list != "[]" {
		t.Error(list)
	}
	killed := w.open(`{"cmd":["sleep","100"]}`)
	w.do("terminal.close", `{"session_id":`+quote(killed)+`}`)
	by := "SIGHUP"
	if signal.Ignored(syscall.SIGHUP) { // with nohup
		by = "SIGTERM"
	}
	if got, want := w.exit(killed), fmt.Sprintf(`{"session_id":%q,"exit_code":null,"signal":%q}`, killed, by); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Characters are whole, whatever the program writes at once; what is no text comes as bytes.
func TestEventsAreText(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	text := strings.Repeat("äöü€😀漢字", 4000)
	id := w.open(`{"cmd":["sh","-c","stty raw; for i in $(seq 4000); do printf äöü€😀漢字; done; printf '\\377\\376\\342\\202'"]}`)
	w.exit(id)
	if all, _ := w.output(id); string(all) != text+"\xff\xfe\xe2\x82" {
		t.Fatalf("%d bytes, want %d", len(all), len(text)+4)
	}
}

// A slow link stops the program; a gateway that acknowledges is never sent more than its window.
func TestSlowLinkStopsTheProgram(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.slow = make(chan struct{})
	id := w.open(`{"cmd":["sh","-c","stty raw; exec seq 1 200000"]}`)
	var last int64 = -1
	for range 500 {
		time.Sleep(20 * time.Millisecond)
		var l []struct {
			Seq int64 `json:"seq"`
		}
		if json.Unmarshal([]byte(w.do("terminal.list", "")), &l) != nil || len(l) != 1 {
			t.Fatal("the program has ended")
		}
		if l[0].Seq == last && last > 0 {
			break
		}
		last = l[0].Seq
	}
	if last > terminal.Ring {
		t.Fatalf("%d bytes were written that nobody took", last)
	}
	close(w.slow)
	w.exit(id)
	all, _ := w.output(id)
	if want := 1288895; len(all) != want || !strings.HasSuffix(string(all), "199999\n200000\n") {
		t.Fatalf("%d bytes, want %d", len(all), want)
	}

	id = w.open(`{"window":1000,"cmd":["sh","-c","stty raw; exec seq 1 5000"]}`)
	w.until(id, "200\n")
	time.Sleep(100 * time.Millisecond)
	if all, _ := w.output(id); len(all) != 1000 {
		t.Fatalf("%d bytes without an acknowledgement", len(all))
	}
	for acked := 0; ; {
		all, exit := w.output(id)
		if exit != "" {
			if !strings.HasSuffix(string(all), "\n5000\n") {
				t.Fatal("the end is missing")
			}
			return
		}
		if len(all) > acked+1000 {
			t.Fatalf("%d bytes beyond the window", len(all)-acked)
		}
		acked = len(all)
		w.do("terminal.ack", fmt.Sprintf(`{"session_id":%q,"seq":%d}`, id, acked))
	}
}

// A terminal outlives its link, and is found with all of its output.
func TestTerminalSurvivesTheLink(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	id := w.open(`{}`)
	w.do("terminal.input", `{"session_id":`+quote(id)+`,"data":"echo be''fore\n"}`)
	w.until(id, "before")
	w.cut()
	all, _ := w.output(id)
	w.ended = make(chan struct{})
	if !strings.Contains(w.do("terminal.list", ""), id) {
		t.Fatal("the terminal is gone")
	}
	if got := w.do("terminal.attach", fmt.Sprintf(`{"session_id":%q,"from":%d}`, id, len(all))); !strings.Contains(got, id) {
		t.Fatal(got)
	}
	w.do("terminal.input", `{"session_id":`+quote(id)+`,"data":"echo af''ter; exit\n"}`)
	w.until(id, "after")
	w.exit(id)

	// A gateway that knows no terminal.attach hears of it when it uses the terminal.
	id = w.open(`{}`)
	w.until(id, "$ ")
	w.cut()
	time.Sleep(50 * time.Millisecond)
	w.ended = make(chan struct{})
	w.do("terminal.input", `{"session_id":`+quote(id)+`,"data":"echo ag''ain; exit\n"}`)
	w.until(id, "again")
	w.exit(id)
}

// The policy of the machine decides.
func TestPolicyDecides(t *testing.T) {
	for _, c := range []struct {
		security policy.Security
		params   string
		want     string
	}{
		{policy.SecurityDeny, `{}`, "DENIED: SYSTEM_RUN_DISABLED: security=deny"},
		{policy.SecurityDeny, `{"approved":true}`, "DENIED: SYSTEM_RUN_DISABLED: security=deny"},
		{policy.SecurityAllowlist, `{}`, "DENIED: SYSTEM_RUN_DENIED: "},
		{policy.SecurityAllowlist, `{"cmd":["true"]}`, "DENIED: SYSTEM_RUN_DENIED: "},
		{policy.SecurityAllowlist, `{"cmd":["true"],"approved":true}`, `{"session_id":`},
		{policy.SecurityAllowlist, `{"cmd":["true"],"Approved":true}`, "DENIED: SYSTEM_RUN_DENIED: "},
		{policy.SecurityFull, `{"cmd":"exit 3"}`, `{"session_id":`},
	} {
		w := newWorld(t, c.security)
		if got := w.do("terminal.open", c.params); !strings.HasPrefix(got, c.want) {
			t.Errorf("%v %s: %s, want %s", c.security, c.params, got, c.want)
		}
	}
}

// Parameters of any kind break nothing.
func FuzzParams(f *testing.F) {
	for _, p := range []string{
		"", "null", "[]", "{}", `{"session_id":1}`, `{"cols":-1,"rows":1e300}`, `{"session_id":"x","data":"\ud800"}`, `{"cmd":[""]}`, `{"cmd":{}}`,
		`{"env":{"A=B":"x"}}`, `{"env":{"A":"\u0000"}}`, `{"from":0.5,"session_id":"x"}`, `{"channel":"x"}`, `{"window":1e300}`,
	} {
		for _, c := range []string{"open", "input", "resize", "close", "list", "attach", "ack"} {
			f.Add(c, p)
		}
	}
	w := newWorld(f, policy.SecurityDeny)
	f.Fuzz(func(t *testing.T, command, params string) {
		r := w.request("terminal."+command, params)
		_ = w.m.Sequence(r)
		if got := w.m.Handle(context.Background(), r); got.OK != (got.Error == nil) {
			t.Fatalf("%+v", got)
		}
	})
}
