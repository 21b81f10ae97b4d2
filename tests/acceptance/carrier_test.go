//go:build unix

package acceptance

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// standIn is a process that behaves as the published driver does.
type standIn struct {
	*proc.Command
	t    *testing.T
	seen int // events that were taken
}

// hoodyDriver starts the stand-in for the published driver (testdata/driver.mjs).
func hoodyDriver(t *testing.T, row, url, token string, args ...string) *standIn {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		notHere(t, row, "there is no node (20 or newer)")
	}
	script, err := filepath.Abs("testdata/driver.mjs")
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--no-warnings", "--experimental-websocket", script, "--url", url, "--token", token}, args...)
	return &standIn{proc.Run(t, proc.Dir(t), "node", nil, args...), t, 0}
}

// driverOf is hoodyDriver at a daemon of the test.
func driverOf(t *testing.T, row string, d *proc.Daemon, args ...string) *standIn {
	t.Helper()
	return hoodyDriver(t, row, d.WS()+"/api/v1/tunnel/connect", proc.Token, args...)
}

// events are those that it has told so far.
func (s *standIn) events() (out []object) {
	text := s.Stdout.String()
	for line := range strings.Lines(text) {
		var e object
		if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil {
			out = append(out, e)
		}
	}
	return out
}

// next is the next event of a name; those before it are passed over.
func (s *standIn) next(event string) object {
	s.t.Helper()
	return s.nextFor(proc.Patience, event)
}

func (s *standIn) nextFor(limit time.Duration, event string) (found object) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		all := s.events()
		for i := s.seen; i < len(all); i++ {
			if all[i]["event"] == event {
				s.seen = i + 1
				return all[i]
			}
		}
		if time.Now().After(deadline) || s.Ended() && len(s.events()) == len(all) {
			s.t.Fatalf("the driver told no %s within %v (ended %v):\n%s%s", event, limit, s.Ended(), s.Stdout, s.Stderr)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// bound is the port of the next binding.
func (s *standIn) bound() int {
	s.t.Helper()
	return int(s.next("bound")["port"].(float64))
}

// get asks the endpoints of tunnels; an array comes as it is.
func tunnelsGet(t *testing.T, d *proc.Daemon, token, path string, header ...string) (int, any) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, d.URL()+"/api/v1/tunnel/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if json.Unmarshal(text, &out) != nil {
		out = string(text)
	}
	return res.StatusCode, out
}

// tunnelList is the seed's list of tunnels.
func tunnelList(t *testing.T, d *proc.Daemon) (out []object) {
	t.Helper()
	code, body := tunnelsGet(t, d, proc.Token, "tunnels")
	if code != http.StatusOK {
		t.Fatalf("%d %v", code, body)
	}
	for _, x := range slicesOf(body) {
		out = append(out, x.(object))
	}
	return out
}

func tunnelOf(t *testing.T, d *proc.Daemon, id string) object {
	t.Helper()
	for _, x := range tunnelList(t, d) {
		if x["session_id"] == id {
			return x
		}
	}
	return nil
}

// permits are the descriptors in use, of all tunnels.
func permits(t *testing.T, d *proc.Daemon) int {
	t.Helper()
	code, body := tunnelsGet(t, d, proc.Token, "metrics")
	text, _ := body.(string)
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "hoody_tunnel_fd_permits_permit_count "); ok && code == http.StatusOK {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no figure of permits: %d %.500s", code, text)
	return 0
}

// openFiles are the descriptors of a process.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return -1
	}
	return len(all)
}

// site is a local service that is exposed.
type site struct {
	port int
	// slow is how many visits of /slow wait for the gate.
	slow    atomic.Int32
	gate    chan struct{}
	openOne sync.Once
}

func (s *site) open() { s.openOne.Do(func() { close(s.gate) }) }

// localSite serves what rows need: / says hello, /echo what came, /sum its SHA-256, /sse events, /chunked pieces,
// /slow a piece now and the rest behind the gate, /drip a byte every 20 ms for n, /ws a WebSocket that echoes.
func localSite(t *testing.T, name string) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{port: l.Addr().(*net.TCPAddr).Port, gate: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", name, r.Method, r.URL.RequestURI())
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1.1 has it
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	mux.HandleFunc("/sse", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d %d\n\n", i, time.Now().UnixNano())
			w.(http.Flusher).Flush()
			<-time.After(100 * time.Millisecond)
		}
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, _ *http.Request) {
		for i := range 50 {
			_, _ = w.Write(make([]byte, 1000+i))
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		s.slow.Add(1)
		defer s.slow.Add(-1)
		fmt.Fprint(w, "begin ")
		w.(http.Flusher).Flush()
		select {
		case <-s.gate:
			fmt.Fprint(w, "end")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/drip", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for range n {
			fmt.Fprint(w, ".")
			w.(http.Flusher).Flush()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		for {
			typ, m, err := ws.Read(r.Context())
			if err != nil || ws.Write(r.Context(), typ, append([]byte("echo "), m...)) != nil {
				return
			}
		}
	})
	h := &http.Server{Handler: mux}
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.Serve(l) })
	t.Cleanup(func() {
		s.open()
		_ = h.Close()
		wg.Wait()
	})
	return s
}

// localEcho is a TCP service that says what it hears.
func localEcho(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // a socket has deadlines
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

// cutter passes connections to a daemon, and cuts them.
type cutter struct {
	t     *testing.T
	url   string
	mu    sync.Mutex
	conns []net.Conn
	down  atomic.Bool
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &cutter{t: t, url: "ws://" + l.Addr().String() + "/api/v1/tunnel/connect"}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			if k.down.Load() {
				_ = in.Close()
				continue
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			k.mu.Lock()
			k.conns = append(k.conns, in, out)
			k.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		k.cut(-1)
		wg.Wait()
	})
	return k
}

// cut ends the nth connection that came, or all of them when n is negative, as a network does.
func (k *cutter) cut(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, c := range k.conns {
		if n < 0 || i/2 == n {
			if tc, ok := c.(*net.TCPConn); ok {
				_ = tc.SetLinger(0)
			}
			_ = c.Close()
		}
	}
}

// need ends the test where a program is missing.
func need(t *testing.T, row string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			notHere(t, row, p+" is not installed")
		}
	}
}

// tool runs a program to its end and returns what it printed.
func tool(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	c := proc.Run(t, proc.Dir(t), name, nil, args...).Wait(t, limit)
	if c.Code != 0 {
		t.Errorf("%s %s ended with %d: %s%s", name, strings.Join(args, " "), c.Code, c.Stdout, c.Stderr)
	}
	return c.Stdout.String()
}

func at(port int, path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", port, path) }

// visitOnce gets a page with a connection of its own.
func visitOnce(url string) (int, http.Header, string, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	res, err := c.Get(url)
	if err != nil {
		return 0, nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(body), err
}

func TestY1Health(t *testing.T) {
	accept(t, "Y1")
	need(t, "Y1", "curl")
	d := carrierDaemon(t, proc.Token, nil)
	members := []string{"status", "service", "built", "started", "memory", "fds", "pid", "ip", "userAgent"}
	for _, c := range []struct {
		status string
		args   []string
		memory []string
	}{
		{"ready", nil, []string{"rss", "heapTotal", "heapUsed"}},
		{"ok", []string{"-H", "Accept: application/vnd.hoody.kit+json"}, []string{"heap", "rss"}},
		{"ok", []string{"-H", "X-Hoody-Client-ID: cli"}, []string{"heap", "rss"}},
		{"ok", []string{"-H", "X-Hoody-Client-Name: cli"}, []string{"heap", "rss"}},
	} {
		text := tool(t, proc.Patience, "curl", append(c.args, "-sf", d.URL()+"/api/v1/tunnel/health")...)
		var got object
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		memory, _ := got["memory"].(object)
		if len(got) != len(members) || got["status"] != c.status || got["service"] != "hoody-tunnel" || got["pid"] != float64(d.PID()) || got["ip"] != "127.0.0.1" ||
			!strings.HasPrefix(fmt.Sprint(got["userAgent"]), "hoody-tunnel/") {
			t.Errorf("%v: %s", c.args, text)
		}
		for _, m := range members {
			if _, ok := got[m]; !ok {
				t.Errorf("%v: %s is missing in %s", c.args, m, text)
			}
		}
		for _, m := range c.memory {
			if n, ok := memory[m].(float64); !ok || n <= 0 {
				t.Errorf("%v: memory.%s is %v", c.args, m, memory[m])
			}
		}
		if _, err := time.Parse(time.RFC3339, fmt.Sprint(got["started"])); err != nil {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	if code, body := tunnelsGet(t, d, "", "health?shape=kit"); code != 200 || body.(object)["status"] != "ok" {
		t.Errorf("%d %v", code, body)
	}
}

// shape demands exactly these members, and their types.
func shape(t *testing.T, what string, got any, want object) {
	t.Helper()
	o, ok := got.(object)
	if !ok {
		t.Errorf("%s is %v", what, got)
		return
	}
	for k, x := range want {
		v, there := o[k]
		if !there {
			t.Errorf("%s: %s is missing in %v", what, k, o)
			continue
		}
		if x != nil && fmt.Sprintf("%T", v) != fmt.Sprintf("%T", x) {
			t.Errorf("%s: %s is %v (%T), want a %T", what, k, v, v, x)
		}
	}
}

func TestY2Lists(t *testing.T) {
	accept(t, "Y2")
	d := carrierDaemon(t, proc.Token, nil)
	web, echo := localSite(t, "web"), localEcho(t)
	hd := driverOf(t, "Y2", d, fmt.Sprint("expose:", web.port), fmt.Sprint("pull:", echo))
	id := hd.next("hello")["sessionId"].(string)
	exposed, pulled := hd.bound(), hd.bound()
	one := tunnelOf(t, d, id)
	shape(t, "a tunnel", one, object{"session_id": "", "container_id": "", "protocol_version": "", "created_at": "", "bindings": []any{}, "stream_count": 0.0, "orphan_count": 0.0, "fd_budget": object{}})
	budget, _ := one["fd_budget"].(object)
	shape(t, "the budget", budget, object{"used": 0.0, "limit": 0.0})
	if one["protocol_version"] != "hoody-tunnel.v1" || budget["used"] != 2.0 || budget["limit"] != 100.0 || one["stream_count"] != 0.0 || one["orphan_count"] != 0.0 {
		t.Errorf("%v", one)
	}
	wantBindings := fmt.Sprint([]any{
		object{"bind_id": "bind_expose_001", "kind": "EXPOSE", "mode": "tcp", "port": float64(exposed)}, object{"bind_id": "bind_pull_002", "kind": "PULL", "mode": "tcp", "port": float64(pulled)},
	})
	plain := func(list any) string {
		var out []any
		for _, b := range slicesOf(list) {
			o := b.(object)
			out = append(out, object{"bind_id": o["bind_id"], "kind": o["kind"], "mode": o["mode"], "port": o["port"]})
		}
		return fmt.Sprint(out)
	}
	if got := plain(one["bindings"]); got != wantBindings {
		t.Errorf("bindings\n%s, want\n%s", got, wantBindings)
	}
	_, sessions := tunnelsGet(t, d, proc.Token, "sessions")
	if all := slicesOf(sessions); len(all) != 1 {
		t.Errorf("%v", sessions)
	} else {
		shape(t, "a session", all[0], object{"session_id": "", "container_id": "", "protocol_version": "", "created_at": "", "bindings": []any{}, "stream_count": 0.0, "max_streams": 0.0})
		if o := all[0].(object); o["max_streams"] != 256.0 || plain(o["bindings"]) != wantBindings {
			t.Errorf("%v", o)
		}
	}
	_, bindings := tunnelsGet(t, d, proc.Token, "bindings")
	if all := slicesOf(bindings); len(all) != 2 || plain(bindings) != wantBindings || all[0].(object)["session_id"] != id {
		t.Errorf("%v", bindings)
	}
	// The kit's shape, by each way to ask for it.
	for _, how := range []string{"Accept: application/vnd.hoody.kit+json", "X-Hoody-Client-ID: x", "X-Hoody-Client-Name: x"} {
		_, kit := tunnelsGet(t, d, proc.Token, "tunnels", how)
		shape(t, "the kit's tunnels", kit, object{"fdPermitsAvailable": 0.0, "orphanedSessions": 0.0, "sessions": []any{}, "totalBindings": 0.0, "totalStreams": 0.0})
		o, _ := kit.(object)
		s := slicesOf(o["sessions"])
		if len(s) != 1 || o["totalBindings"] != 2.0 || o["totalStreams"] != 0.0 || o["orphanedSessions"] != 0.0 {
			t.Fatalf("%s: %v", how, kit)
		}
		shape(t, "the kit's session", s[0], object{"sessionId": "", "peerAddr": "", "protocol": "", "connectionsGranted": 0.0, "activeStreams": 0.0, "exposeBindings": []any{}, "pullBindings": []any{}})
		e := slicesOf(s[0].(object)["exposeBindings"])
		if len(e) != 1 || e[0].(object)["bindId"] != 1.0 || e[0].(object)["containerPort"] != float64(exposed) {
			t.Errorf("%v", s[0])
		}
	}
	_, kit := tunnelsGet(t, d, proc.Token, "sessions?shape=kit")
	o, _ := kit.(object)
	if s := slicesOf(o["sessions"]); o["total"] != 1.0 || len(s) != 1 {
		t.Errorf("%v", kit)
	} else {
		shape(t, "the kit's session", s[0], object{"sessionId": "", "peerAddr": "", "isV2": false, "connectionsGranted": 0.0, "activeStreams": 0.0, "maxStreams": 0.0, "bindings": []any{}})
		for _, b := range slicesOf(s[0].(object)["bindings"]) {
			shape(t, "the kit's binding", b, object{"bindId": 0.0, "kind": "", "mode": "", "containerPort": 0.0})
		}
	}
	_, kit = tunnelsGet(t, d, proc.Token, "bindings?shape=kit")
	if o, _ = kit.(object); o["total"] != 2.0 {
		t.Errorf("%v", kit)
	}
	for i, b := range slicesOf(o["bindings"]) {
		shape(t, "the kit's binding", b, object{"sessionId": "", "bindId": 0.0, "kind": "", "mode": "", "port": 0.0})
		x := b.(object)
		if want := []string{"http expose", "tcp pull"}[i]; fmt.Sprint(x["kind"], " ", x["mode"]) != want || i == 1 && x["bindAddr"] == nil {
			t.Errorf("%v, want %s", x, want)
		}
	}
	// Nobody but who may reads them.
	for _, path := range []string{"tunnels", "sessions", "bindings"} {
		if code, body := tunnelsGet(t, d, "", path); code != 401 {
			t.Errorf("%s without a credential: %d %v", path, code, body)
		}
	}
	// hanzoctl and REST say the same.
	if out := d.Ctl("tunnel", "list", "-q").Wait(t, proc.Patience); strings.TrimSpace(out.Stdout.String()) != id {
		t.Errorf("%s%s", out.Stdout, out.Stderr)
	}
	if code, out := rest(t, d, "GET", "/v1/tunnels", nil); code != 200 || len(slicesOf(out["tunnels"])) != 1 {
		t.Errorf("%d %v", code, out)
	}
}

func TestY3Metrics(t *testing.T) {
	accept(t, "Y3")
	d := carrierDaemon(t, proc.Token, nil)
	web, echo := localSite(t, "web"), localEcho(t)
	hd := driverOf(t, "Y3", d, fmt.Sprint("expose:", web.port), fmt.Sprint("pull:", echo))
	port := hd.bound()
	hd.bound()
	if code, _, body, err := visitOnce(at(port, "/x")); err != nil || code != 200 || body != "web GET /x" {
		t.Errorf("%d %q %v", code, body, err)
	}
	refused := driverOf(t, "Y3", d, "--once", fmt.Sprintf("expose:%d:22", web.port))
	if e := refused.next("bind-error"); e["code"] != "RESERVED_PORT" {
		t.Errorf("%v", e)
	}
	refused.Wait(t, proc.Patience)
	proc.Until(t, "its tunnel is gone", func() bool { return len(tunnelList(t, d)) == 1 })
	code, body := tunnelsGet(t, d, proc.Token, "metrics")
	text, _ := body.(string)
	if code != 200 {
		t.Fatalf("%d %v", code, body)
	}
	for _, want := range []string{
		"hoody_tunnel_sessions_active 1\n", "hoody_tunnel_bindings_active{kind=\"http\",mode=\"expose\"} 1\n", "hoody_tunnel_bindings_active{kind=\"tcp\",mode=\"pull\"} 1\n",
		"hoody_tunnel_fd_permits_permit_count 2\n", "hoody_tunnel_fd_permits_available ", "# TYPE hoody_tunnel_sessions_active gauge\n", "# HELP hoody_tunnel_sessions_active ",
		"hoody_tunnel_orphans 0\n", "hoody_tunnel_streams_active{", "hoody_tunnel_streams_total{", "hoody_tunnel_bytes_total{direction=", "hoody_tunnel_window_stall_seconds_total ",
		"hoody_tunnel_resumes_total{", "hoody_tunnel_takeovers_total ", "hoody_tunnel_kills_total ", "hoody_tunnel_binds_rejected_total{code=\"RESERVED_PORT\"} 1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if _, err := exec.LookPath("promtool"); err != nil {
		notHere(t, "Y3", "promtool is not installed (apt-get install prometheus)")
	}
	check := proc.RunGroup(t, proc.Dir(t), "promtool", nil, strings.NewReader(text), "check", "metrics").Wait(t, proc.Patience)
	for line := range strings.Lines(check.Stdout.String() + check.Stderr.String()) {
		// The original's own name is not what promtool likes.
		if !strings.HasPrefix(line, `hoody_tunnel_fd_permits_permit_count non-histogram and non-summary metrics should not have "_count" suffix`) {
			t.Errorf("promtool: %s", line)
		}
	}
	if check.Code != 0 && check.Code != 3 {
		t.Errorf("promtool ended with %d", check.Code)
	}
	if code, _ := tunnelsGet(t, d, "", "metrics"); code != 401 {
		t.Errorf("without a credential: %d", code)
	}
}

func TestY4Connect(t *testing.T) {
	accept(t, "Y4")
	d := carrierDaemon(t, proc.Token, nil)
	url := d.WS() + "/api/v1/tunnel/connect"
	for _, sub := range []string{"", "hoody-tunnel.v3", "chat"} {
		if _, res, err := tryCarrier(t, url, sub, bearer(proc.Token)); err == nil || res == nil || res.StatusCode != 400 {
			t.Errorf("subprotocol %q: %v %v", sub, res, err)
		}
	}
	if code, _ := tunnelsGet(t, d, proc.Token, "connect"); code != http.StatusUpgradeRequired {
		t.Errorf("no upgrade: %d", code)
	}
	hello := func(version string) tframe {
		return jframe(tHello, object{"version": version, "capabilities": []string{}, "auth": object{"kind": "bearer", "token": proc.Token}})
	}
	for name, first := range map[string]tframe{
		"BIND": jframe(tBind, object{"clientBindRef": 1, "kind": "http", "mode": "expose", "containerPort": 0}), "PING": {typ: tPing, payload: make([]byte, 8)},
		"DATA": {tData, 2, []byte("x")}, "another version": hello("hoody-tunnel.v2"), "unknown": {typ: 0x99},
	} {
		c := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
		c.write(first)
		if code, reason := c.ended(4 * time.Second); code != 1002 {
			t.Errorf("%s: closed with %d %q", name, code, reason)
		}
	}
	// Silence, and 32 of them at once.
	var silent []*rawCarrier
	began := time.Now()
	for range 32 {
		silent = append(silent, openCarrier(t, d, "hoody-tunnel.v2", bearer(proc.Token)))
	}
	proc.UntilFor(t, 4*time.Second, "the 33rd is turned away", func() bool {
		c, _, err := tryCarrier(t, url, "hoody-tunnel.v1", bearer(proc.Token))
		if err != nil {
			return false
		}
		select {
		case <-c.done:
			var e websocket.CloseError
			return !errors.As(c.end, &e) || e.Code == websocket.StatusNoStatusRcvd
		case <-time.After(500 * time.Millisecond):
			return false
		}
	})
	for _, c := range silent {
		code, _ := c.ended(8 * time.Second)
		if took := time.Since(began); code != 1006 && code != 1005 || took < 4500*time.Millisecond {
			t.Fatalf("a silent socket was closed with %d after %v", code, took)
		}
	}
	c := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	c.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}}))
	c.want(tHelloOK)
	// Text is no frame.
	_ = c.ws.Write(context.Background(), websocket.MessageText, []byte("{}")) // who reads says that it is gone
	if code, _ := c.ended(5 * time.Second); code != 1003 {
		t.Errorf("text: closed with %d", code)
	}
}

func TestY5Authentication(t *testing.T) {
	accept(t, "Y5")
	d := carrierDaemon(t, proc.Token, nil)
	plain := jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}})
	with := func(token string) tframe {
		return jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}, "auth": object{"kind": "bearer", "token": token}})
	}
	for name, c := range map[string]struct {
		header http.Header
		hello  tframe
		ok     bool
	}{
		"nothing": {nil, plain, false}, "a wrong token in HELLO": {nil, with("wrong"), false}, "a wrong header": {bearer("wrong"), plain, false},
		"the header": {bearer(proc.Token), plain, true}, "HELLO": {nil, with(proc.Token), true}, "basic": {basic(proc.Token), plain, true},
	} {
		k := openCarrier(t, d, "hoody-tunnel.v1", c.header)
		k.write(c.hello)
		if c.ok {
			k.want(tHelloOK)
			continue
		}
		away, err := k.await(proc.Patience, func(f tframe) bool { return f.typ == tGoAway || f.typ == tHelloOK })
		if err != nil || away.typ != tGoAway || away.json()["code"] != 11.0 || away.json()["message"] != "unauthorized" {
			t.Errorf("%s: %v %v", name, away, err)
		}
		if code, _ := k.ended(5 * time.Second); code != 1008 {
			t.Errorf("%s: closed with %d", name, code)
		}
	}
	for _, args := range [][]string{{"expose:1"}, {"--header", "expose:1"}} {
		hd := driverOf(t, "Y5", d, args...)
		hd.bound()
		bad := hoodyDriver(t, "Y5", d.WS()+"/api/v1/tunnel/connect", "wrong", append([]string{"--once"}, args...)...)
		if away := bad.next("goaway"); away["code"] != 11.0 {
			t.Errorf("%v: %v", args, away)
		}
		bad.Wait(t, proc.Patience)
	}
	if text := strings.Join(d.Outputs(), ""); strings.Contains(text, proc.Token) {
		t.Error("the log holds the token")
	}
}

func TestY6Expose(t *testing.T) {
	accept(t, "Y6")
	need(t, "Y6", "curl")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	hd := driverOf(t, "Y6", d, fmt.Sprint("expose:", web.port))
	port := hd.bound()
	if port < 20000 || port > 65534 {
		t.Errorf("the port is %d", port)
	}
	curl := func(args ...string) string {
		return tool(t, time.Minute, "curl", append([]string{"-sS", "--fail"}, args...)...)
	}
	if got := curl(at(port, "/a/b?c=d%20e")); got != "web GET /a/b?c=d%20e" {
		t.Errorf("GET: %q", got)
	}
	if got := curl("-I", at(port, "/head")); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("HEAD: %q", got)
	}
	big := make([]byte, 10<<20)
	_, _ = rand.Read(big) // never fails
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(big)
	want := fmt.Sprintf("%d %x", len(big), sum)
	if got := curl("--data-binary", "@"+file, at(port, "/sum")); got != want {
		t.Errorf("POST of 10 MB: %q", got)
	}
	if got := curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@"+file, at(port, "/sum")); got != want {
		t.Errorf("POST in chunks: %q", got)
	}
	back := filepath.Join(t.TempDir(), "back")
	if curl("--data-binary", "@"+file, "-o", back, at(port, "/echo")); sumOf(t, back) != hex.EncodeToString(sum[:]) {
		t.Error("an echo of 10 MB is another file")
	}
	if got := curl(at(port, "/chunked")); len(got) != 50*1000+49*25 {
		t.Errorf("chunked: %d bytes", len(got))
	}
	// Events come when they are sent.
	res, err := http.Get(at(port, "/sse"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var n int
		var sent int64
		if k, _ := fmt.Sscanf(lines.Text(), "data: %d %d", &n, &sent); k == 2 {
			if late := time.Since(time.Unix(0, sent)); n != events || late > 90*time.Millisecond && n > 0 {
				t.Logf("event %d came after %v", n, late)
			}
			events++
		}
	}
	if events != 5 {
		t.Errorf("%d events", events)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			path := fmt.Sprintf("/n/%d", i)
			if code, _, body, err := visitOnce(at(port, path)); err != nil || code != 200 || body != "web GET "+path {
				t.Errorf("%s: %d %q %v", path, code, body, err)
			}
		})
	}
	wg.Wait()
	if _, err := exec.LookPath("wscat"); err != nil {
		notHere(t, "Y6", "wscat is not installed (npm install -g wscat)")
	}
	stay, end, err := os.Pipe() // it ends when its input does
	if err != nil {
		t.Fatal(err)
	}
	defer stay.Close()
	defer end.Close()
	ws := proc.RunGroup(t, proc.Dir(t), "wscat", nil, stay, "--no-color", "-c", fmt.Sprintf("ws://127.0.0.1:%d/ws", port), "-x", "hello", "-w", "1").Wait(t, proc.Patience)
	if !strings.Contains(ws.Stdout.String(), "echo hello") {
		t.Errorf("wscat: %d %s%s", ws.Code, ws.Stdout, ws.Stderr)
	}
	// A local service that is gone.
	gone := driverOf(t, "Y6", d, fmt.Sprint("expose:", proc.FreePort(t)))
	if code, _, _, err := visitOnce(at(gone.bound(), "/")); err != nil || code != http.StatusBadGateway {
		t.Errorf("nobody listens: %d %v", code, err)
	}
}

// postgres starts a server in a directory of its own.
func postgres(t *testing.T) (port int) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		notHere(t, "Y7", "there is no PostgreSQL server (apt-get install postgresql)")
	}
	need(t, "Y7", "psql", "pgbench")
	bin, dir := bins[len(bins)-1], proc.Dir(t)
	run := func(name string, args ...string) *proc.Command {
		if os.Geteuid() == 0 { // the server refuses to be root
			need(t, "Y7", "runuser")
			args = append([]string{"-u", "postgres", "--", filepath.Join(bin, name)}, args...)
			name = "runuser"
		} else {
			name = filepath.Join(bin, name)
		}
		return proc.RunGroup(t, dir, name, nil, nil, args...)
	}
	if os.Geteuid() == 0 {
		if out, err := exec.Command("chown", "postgres", dir).CombinedOutput(); err != nil {
			notHere(t, "Y7", fmt.Sprintf("there is no user for PostgreSQL: %s", out))
		}
	}
	data := filepath.Join(dir, "data")
	if c := run("initdb", "-D", data, "-A", "trust", "-U", "bench", "--no-sync").Wait(t, time.Minute); c.Code != 0 {
		t.Fatalf("initdb: %s%s", c.Stdout, c.Stderr)
	}
	port = proc.FreePort(t)
	server := run("postgres", "-D", data, "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-k", dir, "-F")
	proc.Until(t, "PostgreSQL is ready", func() bool {
		return proc.Run(t, dir, "psql", nil, "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "bench", "-d", "postgres", "-c", "select 1").Wait(t, proc.Patience).Code == 0
	})
	t.Cleanup(func() { server.End(syscall.SIGINT) })
	return port
}

func TestY7PullPostgreSQL(t *testing.T) {
	accept(t, "Y7")
	db := postgres(t)
	d := carrierDaemon(t, proc.Token, nil)
	hd := driverOf(t, "Y7", d, fmt.Sprint("pull:", db))
	port := fmt.Sprint(hd.bound())
	if got := tool(t, time.Minute, "psql", "-h", "127.0.0.1", "-p", port, "-U", "bench", "-d", "postgres", "-Atc", "select 6*7"); strings.TrimSpace(got) != "42" {
		t.Errorf("psql: %q", got)
	}
	tool(t, time.Minute, "pgbench", "-h", "127.0.0.1", "-p", port, "-U", "bench", "-i", "-q", "-s", "1", "postgres")
	out := tool(t, time.Minute, "pgbench", "-h", "127.0.0.1", "-p", port, "-U", "bench", "-c", "8", "-j", "2", "-t", "100", "postgres")
	if !strings.Contains(out, "800/800") {
		t.Errorf("pgbench: %s", out)
	}
	t.Log(strings.TrimSpace(out[strings.LastIndex(out, "latency average"):]))
}

// largeCopy is the size of what scp takes: LARGE=1 copies the gigabyte of the row.
func largeCopy() int {
	if os.Getenv("LARGE") != "" {
		return 1 << 30
	}
	return 256 << 20
}

// sumOf is the SHA-256 of a file.
func sumOf(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill writes a file of random bytes.
func fill(t *testing.T, file string, size int) {
	t.Helper()
	f, err := os.Create(file)
	if err == nil {
		_, err = io.CopyN(f, rand.Reader, int64(size))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
