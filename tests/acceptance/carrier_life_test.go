//go:build unix

package acceptance

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

// carrierNode starts a daemon, and a node of it in a process of its own.
func carrierNode(t *testing.T, tunnel object) (*proc.Daemon, *proc.Command) {
	t.Helper()
	d := carrierDaemon(t, proc.Token, tunnel)
	home := proc.Dir(t)
	node := proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + d.Socket()}, "node", "--state-dir", filepath.Join(home, "node"), "--display-name", "box")
	proc.Until(t, "the node", func() bool {
		return strings.Contains(d.Ctl("nodes", "list", "--connected").Wait(t, proc.Patience).Stdout.String(), "box")
	})
	return d, node
}

// secure runs ssh or scp with the key of a server.
func secure(t *testing.T, limit time.Duration, name string, s *sshtest.Server, options []string, args ...string) string {
	t.Helper()
	all := append([]string{"-q", "-F", "none", "-i", s.Key, "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"}, options...)
	return tool(t, limit, name, append(all, args...)...)
}

func TestY7PullSSH(t *testing.T) {
	accept(t, "Y7")
	need(t, "Y7", "ssh", "scp")
	s := sshtest.Start(t, sshtest.Options{Lines: []string{"Subsystem sftp internal-sftp"}})
	d := carrierDaemon(t, proc.Token, nil)
	hd := driverOf(t, "Y7", d, fmt.Sprint("pull:", s.Port))
	port := fmt.Sprint(hd.bound())
	if got := secure(t, time.Minute, "ssh", s, []string{"-p", port}, s.User+"@127.0.0.1", "echo over $((40+2))"); got != "over 42\n" {
		t.Errorf("ssh: %q", got)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(s.Home, "to")
	fill(t, from, largeCopy())
	began := time.Now()
	secure(t, 10*time.Minute, "scp", s, []string{"-P", port}, from, s.User+"@127.0.0.1:"+to)
	t.Logf("scp of %d MB took %v", largeCopy()>>20, time.Since(began).Round(time.Millisecond))
	if sumOf(t, from) != sumOf(t, to) {
		t.Error("scp made another file")
	}
}

func TestY8Dial(t *testing.T) {
	accept(t, "Y8")
	need(t, "Y8", "ssh", "scp")
	s := sshtest.Start(t, sshtest.Options{Lines: []string{"Subsystem sftp internal-sftp"}})
	d, _ := carrierNode(t, nil)
	ctl := proc.Build(t, "hanzoctl", proc.Tested) + " --socket " + d.Socket()
	for name, proxy := range map[string]string{
		"a node": fmt.Sprintf("%s tunnel dial box %d", ctl, s.Port), "the daemon": fmt.Sprintf("%s tunnel dial 127.0.0.1:%d", ctl, s.Port),
	} {
		if got := secure(t, time.Minute, "ssh", s, []string{"-o", "ProxyCommand=" + proxy}, s.User+"@anything", "cat; echo $((40+2)); exit 0"); got != "42\n" {
			t.Errorf("ssh by %s: %q", name, got)
		}
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(s.Home, "to")
		fill(t, from, 32<<20)
		secure(t, 2*time.Minute, "scp", s, []string{"-o", "ProxyCommand=" + proxy}, from, s.User+"@anything:"+to)
		if sumOf(t, from) != sumOf(t, to) {
			t.Errorf("scp by %s made another file", name)
		}
	}
	// Half-closes: the answer comes behind the end of the question.
	echo := localEcho(t)
	c := proc.RunGroup(t, proc.Dir(t), proc.Build(t, "hanzoctl", proc.Tested), nil, strings.NewReader("to and fro"), "--socket", d.Socket(), "tunnel", "dial", "box", fmt.Sprint(echo)).Wait(t, proc.Patience)
	if c.Code != 0 || c.Stdout.String() != "to and fro" {
		t.Errorf("%d %q %s", c.Code, c.Stdout, c.Stderr)
	}
	gone := d.Ctl("tunnel", "dial", "box", fmt.Sprint(proc.FreePort(t))).Wait(t, proc.Patience)
	if gone.Code == 0 || gone.Stdout.String() != "" || gone.Stderr.String() == "" {
		t.Errorf("nobody listens: %d %q %q", gone.Code, gone.Stdout, gone.Stderr)
	}
	// What is not loopback is not reached through a node that was not told so.
	far := d.Ctl("tunnel", "dial", "box", "192.0.2.1:22").Wait(t, proc.Patience)
	if far.Code == 0 || far.Stdout.String() != "" {
		t.Errorf("another machine: %d %q %q", far.Code, far.Stdout, far.Stderr)
	}
	// Ports of this machine that lead to the node.
	local := proc.FreePort(t)
	pull := d.Ctl("tunnel", "pull", "box", fmt.Sprintf("%d:127.0.0.1:%d", local, echo))
	proc.Until(t, "the port is there", func() bool { return strings.Contains(pull.Stdout.String(), "leads to") })
	talkTo(t, local, "through the node")
	pull.End(syscall.SIGINT)
	if pull.Code != 0 {
		t.Errorf("pull ended with %d: %s", pull.Code, pull.Stderr)
	}
	// EXPOSE of TCP: by this machine, and by the node.
	here := d.Ctl("tunnel", "expose", fmt.Sprint("127.0.0.1:", echo), "--tcp", "--json")
	var port int
	proc.Until(t, "the port of the daemon", func() bool {
		_, _ = fmt.Sscanf(after(here.Stdout.String(), `"port": `), "%d", &port)
		return port != 0
	})
	talkTo(t, port, "tcp exposed here")
	here.End(syscall.SIGINT)
	there := d.Ctl("tunnel", "expose", "box", fmt.Sprint(echo), "--tcp", "--access", "public", "--detach", "--json").Wait(t, proc.Patience)
	port = 0
	_, _ = fmt.Sscanf(after(there.Stdout.String(), `"port": `), "%d", &port)
	if there.Code != 0 || port == 0 {
		t.Fatalf("%d %s%s", there.Code, there.Stdout, there.Stderr)
	}
	talkTo(t, port, "tcp exposed there")
}

func after(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	return rest
}

// talkTo demands an echo at a port.
func talkTo(t *testing.T, port int, text string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second)) // a socket has deadlines
	_, _ = io.WriteString(c, text)
	_ = c.(*net.TCPConn).CloseWrite() // it was dialled
	if got, err := io.ReadAll(c); err != nil || string(got) != text {
		t.Errorf("%s: %q %v", text, got, err)
	}
}

func TestY9SeveralBindings(t *testing.T) {
	accept(t, "Y9")
	d := carrierDaemon(t, proc.Token, nil)
	a, b, echo := localSite(t, "a"), localSite(t, "b"), localEcho(t)
	hd := driverOf(t, "Y9", d, fmt.Sprint("expose:", a.port), fmt.Sprint("expose:", b.port), fmt.Sprint("pull:", echo))
	id := hd.next("hello")["sessionId"].(string)
	pa, pb, pe := hd.bound(), hd.bound(), hd.bound()
	if got := slicesOf(tunnelOf(t, d, id)["bindings"]); len(got) != 3 {
		t.Errorf("%v", got)
	}
	// The slow visitors of one hold nobody up elsewhere.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _, _, _, _ = visitOnce(at(pa, "/slow")) })
	}
	proc.Until(t, "the slow visitors", func() bool { return a.slow.Load() == 20 })
	for _, c := range []struct {
		port int
		want string
	}{{pa, "a GET /1"}, {pb, "b GET /1"}} {
		if code, _, body, err := visitOnce(at(c.port, "/1")); err != nil || code != 200 || body != c.want {
			t.Errorf("%d %q %v", code, body, err)
		}
	}
	talkTo(t, pe, "pulled")
	a.open()
	wg.Wait()
	hd.Signal(syscall.SIGUSR2) // unbinds
	for range 3 {
		hd.next("unbound")
	}
	if got := slicesOf(tunnelOf(t, d, id)["bindings"]); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if _, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", pe), time.Second); err == nil {
		t.Error("the port still listens")
	}
}

func TestY10Life(t *testing.T) {
	accept(t, "Y10")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	if got := tunnelList(t, d); len(got) != 0 {
		t.Errorf("before: %v", got)
	}
	first := driverOf(t, "Y10", d, fmt.Sprint("expose:", web.port))
	id := first.next("hello")["sessionId"].(string)
	first.bound()
	if tunnelOf(t, d, id) == nil {
		t.Error("it is not listed")
	}
	first.End(syscall.SIGTERM) // a close without a code
	proc.Until(t, "it is gone", func() bool { return len(tunnelList(t, d)) == 0 })
	again := driverOf(t, "Y10", d, fmt.Sprint("expose:", web.port))
	if other := again.next("hello")["sessionId"]; other == id {
		t.Error("the same id")
	}
}

func TestY11Orphans(t *testing.T) {
	accept(t, "Y11")
	d := carrierDaemon(t, proc.Token, object{"graceSeconds": 4})
	web, echo := localSite(t, "web"), localEcho(t)
	hd := driverOf(t, "Y11", d, fmt.Sprint("expose:", web.port), fmt.Sprint("pull:", echo))
	id := hd.next("hello")["sessionId"].(string)
	port, pulled := hd.bound(), hd.bound()
	hd.End(syscall.SIGKILL)
	parked := func() bool {
		code, head, _, err := visitOnce(at(port, "/"))
		return err == nil && code == 503 && head.Get("Retry-After") == "5"
	}
	proc.UntilFor(t, 3*time.Second, "visitors are told to come again", parked)
	if one := tunnelOf(t, d, id); one == nil || one["orphan_count"] != 1.0 {
		t.Errorf("%v", one)
	}
	if _, kit := tunnelsGet(t, d, proc.Token, "tunnels?shape=kit"); kit.(object)["orphanedSessions"] != 1.0 {
		t.Errorf("%v", kit)
	}
	// Others do not get the ports.
	other := driverOf(t, "Y11", d, "--once", fmt.Sprintf("expose:%d:%d", web.port, port))
	if e := other.next("bind-error"); e["code"] != "ALREADY_BOUND" {
		t.Errorf("%v", e)
	}
	// The same session is back on its ports.
	back := driverOf(t, "Y11", d, "--resume", id, fmt.Sprintf("expose:%d:%d", web.port, port), fmt.Sprintf("pull:%d:%d", echo, pulled))
	hello := back.next("hello")
	if hello["resumed"] != true || hello["sessionId"] != id || len(slicesOf(hello["resumedBinds"])) != 2 {
		t.Errorf("%v", hello)
	}
	proc.Until(t, "visitors are served", func() bool {
		code, _, body, err := visitOnce(at(port, "/r"))
		return err == nil && code == 200 && body == "web GET /r"
	})
	talkTo(t, pulled, "pulled again")
	if _, kit := tunnelsGet(t, d, proc.Token, "tunnels?shape=kit"); kit.(object)["orphanedSessions"] != 0.0 {
		t.Errorf("%v", kit)
	}
	// After the grace all is gone, and the session does not come back.
	back.End(syscall.SIGKILL)
	proc.UntilFor(t, 10*time.Second, "it is gone", func() bool { return tunnelOf(t, d, id) == nil })
	if _, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
		t.Error("the port still listens")
	}
	late := driverOf(t, "Y11", d, "--once", "--resume", id, fmt.Sprint("expose:", web.port))
	late.next("closed")
	if away := late.Stdout.String(); !strings.Contains(away, "resume grace expired") || !strings.Contains(away, "1008") {
		t.Errorf("%s", away)
	}
	// A network that breaks: the driver comes back by itself, visitors never get a wrong answer.
	k := newCutter(t, d.Addr())
	cut := hoodyDriver(t, "Y11", k.url, proc.Token, fmt.Sprint("expose:", web.port))
	port = cut.bound()
	var wrong atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			code, _, body, err := visitOnce(at(port, "/cut"))
			if err == nil && (code == 200 && body != "web GET /cut" || code != 200 && code != 503 && code != 502) {
				wrong.Add(1)
			}
		}
	})
	k.cut(-1)
	if hello := cut.next("hello"); hello["resumed"] != true && hello["event"] == "hello" {
		hello = cut.next("hello") // the first was before the cut
		if hello["resumed"] != true {
			t.Errorf("%v", hello)
		}
	}
	proc.Until(t, "visitors are served again", func() bool {
		code, _, _, err := visitOnce(at(port, "/cut"))
		return err == nil && code == 200
	})
	cancel()
	wg.Wait()
	if wrong.Load() > 0 {
		t.Errorf("%d wrong answers", wrong.Load())
	}
}

func TestY12Kill(t *testing.T) {
	accept(t, "Y12")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	del := func(path string) (int, object) { return rest(t, d, "DELETE", "/api/v1/tunnel/sessions/"+path, nil) }
	open := func() (*standIn, string, int) {
		hd := driverOf(t, "Y12", d, fmt.Sprint("expose:", web.port))
		return hd, hd.next("hello")["sessionId"].(string), hd.bound()
	}
	hd, id, port := open()
	for path, want := range map[string]int{
		id + "?session_id=S-other": 400, id + "?grace_ms=5001": 400, id + "?grace_ms=-1": 400, id + "?grace_ms=x": 400, "S-00000000-0000-4000-8000-000000000000": 404,
	} {
		if code, body := del(path); code != want || body["error"] == nil {
			t.Errorf("%s: %d %v, want %d", path, code, body, want)
		}
	}
	// A slow download finishes within the grace, and nobody else comes in.
	got := make(chan string, 1)
	go func() {
		_, _, body, err := visitOnce(at(port, "/drip?n=75")) // 1.5 s
		got <- fmt.Sprint(len(body), err)
	}()
	proc.Until(t, "the download", func() bool { return tunnelOf(t, d, id)["stream_count"] == 1.0 })
	code, body := del(id + "?session_id=" + id + "&grace_ms=5000")
	if code != 202 || body["session_id"] != id || body["sessionId"] != id || body["status"] != "closing" {
		t.Errorf("%d %v", code, body)
	}
	if code, _, _, err := visitOnce(at(port, "/")); err == nil && code != 503 && code != 502 {
		t.Errorf("a new visitor got %d", code)
	}
	if end := <-got; end != "75 <nil>" {
		t.Errorf("the download ended with %s", end)
	}
	if away := hd.next("goaway"); away["code"] != 0.0 {
		t.Errorf("%v", away)
	}
	hd.next("closed")
	proc.Until(t, "it is gone", func() bool { return len(tunnelList(t, d)) == 0 })
	if code, body := del(id); code != 404 {
		t.Errorf("%d %v", code, body)
	}
	// Without the copy in the query; a grace of nothing; and a parked one.
	hd, id, _ = open()
	if code, _ := del(id + "?grace_ms=0"); code != 202 {
		t.Error(code)
	}
	hd.next("closed")
	hd, id, _ = open()
	hd.End(syscall.SIGKILL)
	proc.Until(t, "it is parked", func() bool { one := tunnelOf(t, d, id); return one != nil && one["orphan_count"] == 1.0 })
	if code, _ := del(id + "?grace_ms=5000"); code != 202 {
		t.Error(code)
	}
	proc.UntilFor(t, time.Second, "a parked one goes at once", func() bool { return len(tunnelList(t, d)) == 0 })
	_, id, _ = open()
	if c := d.Ctl("tunnel", "kill", id[:10], "--grace", "1s").Wait(t, proc.Patience); c.Code != 0 {
		t.Errorf("%d %s", c.Code, c.Stderr)
	}
	proc.Until(t, "it is gone", func() bool { return len(tunnelList(t, d)) == 0 })
}

func TestY13Caps(t *testing.T) {
	accept(t, "Y13")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	hd := driverOf(t, "Y13", d, fmt.Sprint("expose:", web.port))
	id := hd.next("hello")["sessionId"].(string)
	port := hd.bound()
	if _, _, _, err := visitOnce(at(port, "/warm")); err != nil {
		t.Fatal(err)
	}
	proc.Until(t, "it is quiet", func() bool { return tunnelOf(t, d, id)["stream_count"] == 0.0 })
	used, files := permits(t, d), openFiles(t, d.PID())
	var ok, full, other atomic.Int32
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			code, head, body, err := visitOnce(at(port, "/slow"))
			switch {
			case err == nil && code == 200 && body == "begin end":
				ok.Add(1)
			case err == nil && code == 503 && head.Get("Retry-After") == "1" && strings.Contains(body, "max streams exceeded"):
				full.Add(1)
			default:
				other.Add(1)
				t.Logf("%d %v %q %v", code, head, body, err)
			}
		})
	}
	proc.UntilFor(t, time.Minute, "all are in or turned away", func() bool { return int(web.slow.Load()+full.Load()+other.Load()) == 300 })
	if budget, _ := tunnelOf(t, d, id)["fd_budget"].(object); budget["used"] != budget["limit"] {
		t.Errorf("the budget is %v", budget)
	}
	web.open()
	wg.Wait()
	if ok.Load() < 90 || full.Load() == 0 || other.Load() > 0 {
		t.Errorf("%d served, %d turned away, %d otherwise", ok.Load(), full.Load(), other.Load())
	}
	proc.Until(t, "the permits are back", func() bool { return permits(t, d) == used })
	proc.Until(t, "the descriptors are back", func() bool { return openFiles(t, d.PID()) <= files })
	if code, _, _, err := visitOnce(at(port, "/")); err != nil || code != 200 {
		t.Errorf("%d %v", code, err)
	}
}

func TestY14FlowControl(t *testing.T) {
	accept(t, "Y14")
	d := carrierDaemon(t, proc.Token, object{"permitsPerTunnel": 300})
	const streams, each = 100, 2 << 20
	var stalled atomic.Bool
	hold := make(chan struct{})
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
			stall := stalled.CompareAndSwap(true, false)
			wg.Go(func() {
				defer c.Close()
				if stall {
					<-hold // takes nothing
					return
				}
				_, _ = io.Copy(io.Discard, c)
				_, _ = io.WriteString(c, "taken")
			})
		}
	})
	defer wg.Wait()
	defer l.Close()
	defer close(hold)
	hd := driverOf(t, "Y14", d, fmt.Sprint("pull:", l.Addr().(*net.TCPAddr).Port))
	port := hd.bound()
	piece := make([]byte, 64<<10)
	run := func(n int) time.Duration {
		began := time.Now()
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // a socket has deadlines
				for sent := 0; sent < each; sent += len(piece) {
					if _, err := c.Write(piece); err != nil {
						t.Error(err)
						return
					}
				}
				_ = c.(*net.TCPConn).CloseWrite() // it was dialled
				if got, err := io.ReadAll(c); err != nil || string(got) != "taken" {
					t.Errorf("%q %v", got, err)
				}
			})
		}
		all.Wait()
		return time.Since(began)
	}
	run(streams - 1)
	best := func() time.Duration { // a machine has its moods
		return min(run(streams-1), run(streams-1), run(streams-1), run(streams-1))
	}
	before := best()
	// One visitor whose target takes nothing.
	stalled.Store(true)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	filled := 0
	for {
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // a socket has deadlines
		n, err := c.Write(piece)
		if filled += n; err != nil {
			break
		}
		if filled > 64<<20 {
			t.Fatalf("%d bytes went to who takes none", filled)
		}
	}
	beside := best()
	t.Logf("99 streams of 2 MiB: %v alone, %v beside a stalled one, which took %d KiB", before, beside, filled>>10)
	if float64(before)/float64(beside) < 0.8 {
		t.Errorf("beside a stalled stream the others have %.0f %% of their rate", 100*float64(before)/float64(beside))
	}
	// DATA beyond a window, and credit beyond one.
	raw := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	raw.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}}))
	raw.want(tHelloOK)
	raw.write(tframe{tWindow, 0, u32(1)})
	if away := raw.want(tGoAway).json(); away["code"] != 3.0 {
		t.Errorf("credit above the window: %v", away)
	}
	raw = openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	raw.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}}))
	raw.want(tHelloOK)
	raw.write(tframe{tWindow, 0, u32(0)})
	if away := raw.want(tGoAway).json(); away["code"] != 1.0 {
		t.Errorf("no credit: %v", away)
	}
}

func TestY15Takeover(t *testing.T) {
	accept(t, "Y15")
	d := carrierDaemon(t, proc.Token, nil)
	a, b := localSite(t, "old"), localSite(t, "new")
	first := driverOf(t, "Y15", d, fmt.Sprint("expose:", a.port))
	port := first.bound()
	ctx, cancel := context.WithCancel(context.Background())
	var visits, refused, byNew, cutOff atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				code, _, body, err := visitOnce(at(port, "/"))
				visits.Add(1)
				switch {
				case code == 200 && err != nil: // it was under way at the old owner, whose streams are reset
					cutOff.Add(1)
				case err != nil || code != 200:
					refused.Add(1)
					t.Logf("%d %q %v", code, body, err)
				case strings.HasPrefix(body, "new "):
					byNew.Add(1)
				}
			}
		})
	}
	proc.Until(t, "visits", func() bool { return visits.Load() > 50 })
	// Who does not ask for it does not get it; a takeover that is asked for is whole.
	plain := driverOf(t, "Y15", d, "--once", fmt.Sprintf("expose:%d:%d", b.port, port))
	if e := plain.next("bind-error"); e["code"] != "ALREADY_BOUND" {
		t.Errorf("%v", e)
	}
	slow := make(chan string, 1)
	go func() {
		_, _, body, err := visitOnce(at(port, "/slow"))
		slow <- fmt.Sprint(body, err)
	}()
	proc.Until(t, "a slow visitor", func() bool { return a.slow.Load() == 1 })
	second := driverOf(t, "Y15", d, "--takeover", fmt.Sprintf("expose:%d:%d", b.port, port))
	if got := second.bound(); got != port {
		t.Errorf("the port is %d", got)
	}
	if r := first.next("revoked"); r["bindId"] != 1.0 || r["reason"] == "" {
		t.Errorf("%v", r)
	}
	if text := first.Stdout.String(); !strings.Contains(text, `"event":"reset"`) || !strings.Contains(text, `"code":13`) || strings.Index(text, `"code":13`) > strings.Index(text, `"event":"revoked"`) {
		t.Errorf("no RESET 13 before BIND_REVOKED:\n%s", text)
	}
	if end := <-slow; strings.HasSuffix(end, "end<nil>") {
		t.Errorf("the old visitor got %s", end)
	}
	proc.Until(t, "the new owner is visited", func() bool { return byNew.Load() > 50 })
	cancel()
	wg.Wait()
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d visitors were refused", n, visits.Load())
	}
	if n := cutOff.Load(); n > 4 {
		t.Errorf("%d visits of four visitors were cut off", n)
	}
	// PULL cannot be taken over.
	raw := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	raw.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}}))
	raw.want(tHelloOK)
	raw.write(jframe(tBind, object{"clientBindRef": 1, "kind": "tcp", "mode": "pull", "containerPort": 0, "takeover": true}))
	if e := raw.want(tBindErr).json(); e["code"] != "INVALID_KIND" {
		t.Errorf("%v", e)
	}
}

func TestY16Shards(t *testing.T) {
	accept(t, "Y16")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	k := newCutter(t, d.Addr())
	hd := hoodyDriver(t, "Y16", k.url, proc.Token, "--v2", "--connections", "4", fmt.Sprint("expose:", web.port))
	hello := hd.next("hello")
	if hello["granted"] != 4.0 {
		t.Errorf("%v", hello)
	}
	for range 3 {
		hd.next("joined")
	}
	var port int
	for _, e := range hd.events() {
		if e["event"] == "bound" {
			port = int(e["port"].(float64))
		}
	}
	if port == 0 {
		port = hd.bound()
	}
	_, kit := tunnelsGet(t, d, proc.Token, "sessions?shape=kit")
	if s := slicesOf(kit.(object)["sessions"]); len(s) != 1 || s[0].(object)["isV2"] != true || s[0].(object)["connectionsGranted"] != 4.0 {
		t.Errorf("%v", kit)
	}
	var ended, whole atomic.Int32
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, _, body, err := visitOnce(at(port, "/slow")); err == nil && body == "begin end" {
				whole.Add(1)
				return
			}
			ended.Add(1)
		})
	}
	proc.Until(t, "the visitors", func() bool { return web.slow.Load() == 40 })
	k.cut(2) // a secondary: the third socket that came
	lost := hd.next("shard-closed")
	proc.Until(t, "its streams end", func() bool { return float64(ended.Load()) == lost["streams"].(float64) })
	if n := ended.Load(); n == 0 || n == 40 {
		t.Errorf("%d of 40 streams ended with one of four sockets", n)
	}
	web.open()
	wg.Wait()
	if ended.Load()+whole.Load() != 40 || float64(ended.Load()) != lost["streams"].(float64) {
		t.Errorf("%d ended, %d whole, %v were on the socket", ended.Load(), whole.Load(), lost["streams"])
	}
	if code, _, _, err := visitOnce(at(port, "/")); err != nil || code != 200 {
		t.Errorf("after it: %d %v", code, err)
	}
	// A ticket is good once.
	raw := openCarrier(t, d, "hoody-tunnel.v2", bearer(proc.Token))
	raw.write(jframe(tJoin, object{"sessionId": hello["sessionId"], "index": 1, "nonce": "n-1"}))
	if e := raw.want(tJoinErr).json(); e["code"] == nil {
		t.Errorf("%v", e)
	}
}

// lifecycle is the seed's loop: what belongs to an old container and is older than a time is ended.
const lifecycle = `set -eu
base=$1 container=$2 threshold=$3
auth="Authorization: Bearer $TOKEN"
curl -sf -H "$auth" "$base/api/v1/tunnel/tunnels" |
jq -r --arg c "$container" --arg t "$threshold" '.[] | select(.container_id == $c and .created_at < $t) | .session_id' |
while read -r id; do
  curl -sf -o /dev/null -X DELETE -H "$auth" "$base/api/v1/tunnel/sessions/$id?session_id=$id"
  echo "Cleaned up stale session $id"
done
sleep 1
curl -sf -H "$auth" "$base/api/v1/tunnel/tunnels" | jq length
`

func TestY17Lifecycle(t *testing.T) {
	accept(t, "Y17")
	need(t, "Y17", "curl", "jq")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	var stale []string
	for range 3 {
		hd := driverOf(t, "Y17", d, fmt.Sprint("expose:", web.port))
		stale = append(stale, hd.next("hello")["sessionId"].(string))
		hd.bound()
	}
	time.Sleep(1100 * time.Millisecond) // times may be whole seconds
	threshold := time.Now().UTC().Format(time.RFC3339)
	time.Sleep(1100 * time.Millisecond)
	hd := driverOf(t, "Y17", d, fmt.Sprint("expose:", web.port))
	keep := hd.next("hello")["sessionId"].(string)
	hd.bound()
	container, _ := tunnelOf(t, d, keep)["container_id"].(string)
	if container == "" {
		t.Fatal("no container_id")
	}
	c := proc.RunGroup(t, proc.Dir(t), "sh", []string{"TOKEN=" + proc.Token}, nil, "-c", lifecycle, "sh", d.URL(), container, threshold).Wait(t, time.Minute)
	out := c.Stdout.String()
	for _, id := range stale {
		if !strings.Contains(out, "Cleaned up stale session "+id) {
			t.Errorf("%s is left", id)
		}
	}
	if c.Code != 0 || !strings.HasSuffix(out, "\n1\n") || tunnelOf(t, d, keep) == nil {
		t.Errorf("%d %s%s", c.Code, out, c.Stderr)
	}
}

func TestY18MalformedFrames(t *testing.T) {
	accept(t, "Y18")
	d := carrierDaemon(t, proc.Token, nil)
	hello := jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}})
	for name, c := range map[string]struct {
		message []byte
		code    float64
	}{
		"a frame that is cut off":    {[]byte{tData, 0, 0, 0, 2, 0, 0, 0, 9, 1}, 5},
		"a payload above 64 KiB":     {[]byte{tData, 0, 0, 0, 2, 0, 1, 0, 1}, 5},
		"nothing":                    {[]byte{}, 1},
		"a mandatory unknown frame":  {tframe{typ: 0x99}.append(nil), 1},
		"a reserved one":             {tframe{typ: 0x3f}.append(nil), 1},
		"HELLO again":                {hello.append(nil), 1},
		"BIND that is no JSON":       {tframe{typ: tBind, payload: []byte("{")}.append(nil), 1},
		"WINDOW of three bytes":      {tframe{tWindow, 0, []byte{1, 2, 3}}.append(nil), 1},
		"DATA on the session":        {tframe{tData, 0, []byte{1}}.append(nil), 1},
		"PING of four bytes":         {tframe{tPing, 0, []byte{1, 2, 3, 4}}.append(nil), 1},
		"an even stream of a client": {tframe{tOpen, 2, []byte(`{"kind":"tcp"}`)}.append(nil), 1},
	} {
		raw := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
		raw.write(hello)
		raw.want(tHelloOK)
		_ = raw.ws.Write(context.Background(), 2, c.message) // who reads says that it is gone
		away, err := raw.await(5*time.Second, func(f tframe) bool { return f.typ == tGoAway })
		if err != nil {
			t.Errorf("%s: no GOAWAY: %v", name, err)
			continue
		}
		if code, _ := away.json()["code"].(float64); code != c.code && !(code == 1 || code == 5) {
			t.Errorf("%s: GOAWAY %v", name, away)
		}
		raw.ended(5 * time.Second)
	}
	// Unknown extensions are skipped.
	raw := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	raw.write(hello)
	raw.want(tHelloOK)
	raw.write(tframe{0x7f, 9, []byte("x")}, tframe{typ: tPing, payload: []byte("12345678")})
	if pong := raw.want(tPong); string(pong.payload) != "12345678" {
		t.Errorf("%v", pong)
	}
	// Fuzzing, for some seconds here; make fuzz does it for as long as it is told.
	for _, c := range [][2]string{{"./tunnel/wire", "FuzzMessage"}, {"./tunnel/wire", "FuzzBodies"}, {"./tunnel/mux", "FuzzServer"}, {"./tunnel/mux", "FuzzClient"}} {
		cmd := exec.Command("go", "test", c[0], "-run", "^$", "-fuzz", "^"+c[1]+"$", "-fuzztime", "5s")
		cmd.Dir, cmd.WaitDelay = proc.Root(t), time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c[1], err, out)
		}
	}
}

// The figures are those of make bench-tunnel, side by side with chisel and frp. Here it is shown that a tunnel of ours
// moves what it has to on any machine.
func TestY19Speed(t *testing.T) {
	accept(t, "Y19")
	d, _ := carrierNode(t, nil)
	const size = 256 << 20
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
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
				_, _ = io.WriteString(c, "taken")
			})
		}
	})
	defer wg.Wait()
	defer l.Close()
	target := l.Addr().(*net.TCPAddr).Port
	send := func(port int) time.Duration {
		began := time.Now()
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // a socket has deadlines
		piece := make([]byte, 256<<10)
		for sent := 0; sent < size; sent += len(piece) {
			if _, err := c.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		_ = c.(*net.TCPConn).CloseWrite() // it was dialled
		if got, err := io.ReadAll(c); err != nil || string(got) != "taken" {
			t.Fatalf("%q %v", got, err)
		}
		return time.Since(began)
	}
	direct := send(target)
	local := proc.FreePort(t)
	pull := d.Ctl("tunnel", "pull", "box", fmt.Sprintf("%d:%d", local, target))
	proc.Until(t, "the port is there", func() bool { return strings.Contains(pull.Stdout.String(), "leads to") })
	through := min(send(local), send(local))
	rate := float64(size) * 8 / through.Seconds() / 1e9
	t.Logf("one stream through hanzoctl, daemon and node: %.2f Gbit/s; direct %.2f Gbit/s; make bench-tunnel has the figures", rate, float64(size)*8/direct.Seconds()/1e9)
	if rate < 0.2 {
		t.Errorf("%.2f Gbit/s", rate)
	}
}

// H11: one suite runs over every carrier.
func TestH11Carriers(t *testing.T) {
	accept(t, "H11")
	for _, p := range []string{"./tunnel/mux", "./compat/socket", "./client/carrier"} {
		cmd := exec.Command("go", "test", p, "-count=1", "-run", "^Test(Pipe|Streams)$")
		cmd.Dir, cmd.WaitDelay = proc.Root(t), time.Second
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "no tests to run") {
			t.Errorf("%s: %v\n%s", p, err, out)
		}
	}
}

// H22: what an instance exposes is reached through a carrier of its own.
func TestH22Carriers(t *testing.T) {
	accept(t, "H22")
	d := carrierDaemon(t, proc.Token, nil)
	web := localSite(t, "web")
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(object{"type": "register", "instance_id": "exposer", "app_kind": "node", "display_name": "", "capabilities": []string{}, "metadata": nil})
	l.want("registered")
	l.send(object{"type": "event", "event": "expose.request", "data": object{"name": "site", "local_addr": fmt.Sprint("127.0.0.1:", web.port), "protocol": "http"}})
	f := l.want("event")
	data, _ := f["data"].(object)
	url, _ := data["url"].(string)
	if f["event"] != "expose.assigned" || url == "" {
		t.Fatal(f)
	}
	if code, head, _, err := visitOnce(url); err != nil || code != 503 || head.Get("Retry-After") != "5" {
		t.Errorf("no carrier: %d %v", code, err)
	}
	// A carrier with the credential of the link, as published drivers open it.
	hd := driverOf(t, "H22", d, fmt.Sprint("expose:", web.port))
	hd.bound()
	proc.Until(t, "visitors are served", func() bool {
		code, _, body, err := visitOnce(url + "x")
		return err == nil && code == 200 && body == "web GET /x"
	})
	l.send(object{"type": "event", "event": "expose.stop", "data": object{"name": "site"}})
	proc.Until(t, "it is gone", func() bool {
		code, _, _, err := visitOnce(url)
		return err == nil && code == 404
	})
}

// V2: tests/auth asks every door, with tokens of two organisations.
func TestV2Tenants(t *testing.T) {
	accept(t, "V2")
	cmd := exec.Command("go", "test", "./tests/auth", "-count=1", "-v", "-run", "Tenants")
	cmd.Dir, cmd.WaitDelay = proc.Root(t), time.Second
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "--- PASS: "); err != nil || n < 3 {
		t.Errorf("%d passed, %v\n%s", n, err, out)
	}
}

// An instance that exposes a service by itself, and what visitors see while it is away.
func TestH22InstanceExposes(t *testing.T) {
	accept(t, "H22")
	d := carrierDaemon(t, proc.Token, nil)
	web, home := localSite(t, "web"), proc.Dir(t)
	start := func() *proc.Command {
		t.Helper()
		args := []string{"node", "--state-dir", filepath.Join(home, "node"), "--display-name", "site", "--expose", fmt.Sprint("web=http:127.0.0.1:", web.port)}
		env := []string{"TUNNEL_URL=" + withToken(d, "/v1/tunnel", proc.Token), "INSTANCE_ID=site"}
		return proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), env, args...)
	}
	node := start()
	var url string
	proc.Until(t, "the binding", func() bool {
		_, out := rest(t, d, "GET", "/v1/bindings", nil)
		for _, b := range slicesOf(out["bindings"]) {
			for _, name := range []string{"url", "publicUrl"} {
				if u, ok := b.(object)[name].(string); ok && u != "" {
					url = u
				}
			}
		}
		return url != ""
	})
	served := func() bool {
		code, _, body, err := visitOnce(url + "x")
		return err == nil && code == 200 && body == "web GET /x"
	}
	proc.Until(t, "visitors are served", served)
	proc.Until(t, "the node to say where", func() bool { return strings.Contains(node.Stderr.String(), url) })
	if err := syscall.Kill(node.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	proc.Until(t, "visitors are told to wait", func() bool {
		code, head, _, err := visitOnce(url)
		return err == nil && code == 503 && head.Get("Retry-After") != ""
	})
	start()
	proc.Until(t, "visitors are served again", served)
}
