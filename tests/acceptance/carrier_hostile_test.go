//go:build unix

package acceptance

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// Bounds of what hostile peers may cost.
const (
	// The windows of one session both ways, as much again that the collector leaves, and half of that for all else.
	hostileMemory = 96 << 20 // bytes of growth since the start
	hostileRounds = 2
	hostileAgain  = 16 << 20               // what a round may have more than the first, when collections come at other moments
	hostileReturn = time.Minute            // within which the system has back what is in use no more
	hostileVisit  = 5 * time.Second        // the slowest visit of the honest tunnel
	hostileMedian = 250 * time.Millisecond // of its visits
)

// honest is a tunnel of hanzoctl with a visitor that comes again and again.
type honest struct {
	t    *testing.T
	port int

	mu    sync.Mutex // held during a visit, and while nobody may visit
	times []time.Duration
	bad   []string
}

func newHonest(t *testing.T, d *proc.Daemon, target int) *honest {
	t.Helper()
	h := &honest{t: t}
	c := d.Ctl("tunnel", "expose", fmt.Sprint("127.0.0.1:", target), "--json")
	proc.Until(t, "the port of the honest tunnel", func() bool {
		_, _ = fmt.Sscanf(after(c.Stdout.String(), `"port": `), "%d", &h.port)
		return h.port != 0
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			h.mu.Lock()
			began := time.Now()
			code, _, body, err := visitOnce(at(h.port, "/honest"))
			h.times = append(h.times, time.Since(began))
			if err != nil || code != 200 || body != "web GET /honest" {
				h.bad = append(h.bad, fmt.Sprintf("%d %.200q %v", code, body, err))
			}
			h.mu.Unlock()
			<-time.After(5 * time.Millisecond)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		c.End(syscall.SIGINT)
	})
	return h
}

// take returns how the visits were since the last time: how many, the median, the slowest, the failures.
func (h *honest) take() (n int, median, worst time.Duration, bad []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, bad = len(h.times), h.bad
	if n > 0 {
		slices.Sort(h.times)
		median, worst = h.times[n/2], h.times[n-1]
	}
	h.times, h.bad = nil, nil
	return n, median, worst, bad
}

// holdings are what a daemon has while nobody visits.
type holdings struct{ files, permits, tunnels, bindings int }

// within says that no more is held than before; of descriptors, the daemon may have let go of some of its own.
func (h holdings) within(b holdings) bool {
	files := h.files <= b.files
	h.files = b.files
	return files && h == b
}

func holds(t *testing.T, d *proc.Daemon) holdings {
	t.Helper()
	n := 0
	for _, x := range tunnelList(t, d) {
		n += len(slicesOf(x["bindings"]))
	}
	return holdings{openFiles(t, d.PID()), permits(t, d), len(tunnelList(t, d)), n}
}

// collected waits until the daemon has looked twice for memory that is in use no more: what ended before is free then. The
// collector begins when there is as much new as is in use, which the pages asked for here bring about, or after two minutes.
func collected(t *testing.T, d *proc.Daemon) {
	t.Helper()
	const count = "go_gc_duration_seconds_count"
	from := gauge(t, d, count)
	proc.UntilFor(t, 5*time.Minute, "two collections", func() bool { return gauge(t, d, count) >= from+2 })
}

// gauge is a figure of a daemon's metrics.
func gauge(t *testing.T, d *proc.Daemon, name string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, d.URL()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = bearer(proc.Token)
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
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
	}
	t.Fatalf("no figure %s: %d %.300s", name, res.StatusCode, text)
	return 0
}

// routines are the goroutines of a daemon.
func routines(t *testing.T, d *proc.Daemon) int {
	t.Helper()
	return int(gauge(t, d, "go_goroutines"))
}

// bareSocket is a connection to a daemon that says what it likes, and reads only what it is told to.
type bareSocket struct {
	net.Conn
	r *bufio.Reader
}

func dialBare(t *testing.T, addr string) *bareSocket {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &bareSocket{c, bufio.NewReader(c)}
}

const upgradeText = "GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: hoody-tunnel.v1\r\n"

// upgradeBare is a WebSocket without a library.
func upgradeBare(t *testing.T, d *proc.Daemon, token string) *bareSocket {
	t.Helper()
	s := dialBare(t, d.Addr())
	text := upgradeText
	if token != "" {
		text += "Authorization: Bearer " + token + "\r\n"
	}
	_ = s.SetDeadline(time.Now().Add(10 * time.Second)) // a socket has deadlines
	_, _ = io.WriteString(s, text+"\r\n")               // who reads says that it is gone
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close() // there is none
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade got %s", res.Status)
	}
	_ = s.SetDeadline(time.Time{}) // as above
	return s
}

// message is a binary message, masked with zeros.
func message(frames ...tframe) []byte {
	var m []byte
	for _, f := range frames {
		m = f.append(m)
	}
	out := []byte{0x82, 0x80 | 127}
	out = binary.BigEndian.AppendUint64(out, uint64(len(m)))
	return append(append(out, 0, 0, 0, 0), m...)
}

// over waits until the daemon has ended the connection.
func (s *bareSocket) over(limit time.Duration) error {
	_ = s.SetReadDeadline(time.Now().Add(limit)) // a socket has deadlines
	_, err := io.Copy(io.Discard, s.r)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return fmt.Errorf("it is still there after %v", limit)
	}
	return nil
}

// dribble writes a text byte by byte until it is written or the time is over.
func (s *bareSocket) dribble(b []byte, every, limit time.Duration) {
	for end := time.Now().Add(limit); len(b) > 0 && time.Now().Before(end); b = b[1:] {
		if _, err := s.Write(b[:1]); err != nil {
			return
		}
		<-time.After(every)
	}
}

func helloV1() tframe {
	return jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{"hanzod.1"}})
}

// greeted is an operator's carrier behind HELLO_OK.
func greeted(t *testing.T, d *proc.Daemon) *rawCarrier {
	t.Helper()
	c := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	c.write(helloV1())
	c.want(tHelloOK)
	return c
}

// dialBind is a carrier whose streams lead to a port.
func dialBind(t *testing.T, d *proc.Daemon, port int) *rawCarrier {
	t.Helper()
	c := greeted(t, d)
	c.write(jframe(tBind, object{"clientBindRef": 1, "kind": "tcp", "mode": "dial", "host": "127.0.0.1", "containerPort": port}))
	c.want(tBindOK)
	return c
}

func openDial(id int) tframe {
	f := jframe(tOpen, object{"kind": "dial"})
	f.stream = uint32(id)
	return f
}

// hole takes connections and reads nothing of them.
type hole struct {
	port int
	most atomic.Int32 // at once
	now  atomic.Int32
}

func newHole(t *testing.T) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{port: l.Addr().(*net.TCPAddr).Port}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10) // it is a hint
			n := h.now.Add(1)
			for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
			}
			wg.Go(func() {
				defer h.now.Add(-1)
				defer c.Close()
				<-stop
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(stop)
		wg.Wait()
	})
	return h
}

// each runs n of something at once.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

var garbage = []string{
	"", "{", "null", "[]", "0", `"x"`, "\xff\xfe\x00", `{"a":` + strings.Repeat("[", 30_000), strings.Repeat(`{"a":`, 10_000),
	`{"version":1,"capabilities":{},"clientBindRef":"x","bindId":"y","kind":[],"mode":{},"containerPort":"z","sessionId":5,"index":-1,"nonce":[],"code":"q","status":"r","headers":7,"host":1,"port":[]}`,
	`{"version":"hoody-tunnel.v1","clientBindRef":1e308,"bindId":99999999999999999999,"containerPort":-1,"index":1e9,"status":-5,"code":4294967296,"kind":"tcp","mode":"pull"}`,
	`{"kind":"http","mode":"expose","containerPort":70000,"clientBindRef":0,"label":"` + strings.Repeat("x", 60_000) + `"}`,
	`{"kind":"dial","host":"\u0000","port":65536,"method":"\r\n","target":"\n","headers":[["a\r\nb","c\n"],[],[1]]}`,
}

// badHeads are what a hostile driver answers a visitor with, and what the visitor may get; 0 is a connection that ends.
func badHeads() map[string]struct {
	frames []tframe
	codes  []int
} {
	head := func(text string) tframe { return tframe{typ: tHead, payload: []byte(text)} }
	gone := []int{0, 502}
	out := map[string]struct {
		frames []tframe
		codes  []int
	}{
		"no JSON":             {[]tframe{head("{")}, gone},
		"nothing":             {[]tframe{head("")}, gone},
		"nesting":             {[]tframe{head(strings.Repeat("[", 60_000))}, gone},
		"status 0":            {[]tframe{head(`{"status":0,"headers":[],"final":true}`)}, gone},
		"status 99999":        {[]tframe{head(`{"status":99999,"headers":[],"final":true}`)}, gone},
		"a status of letters": {[]tframe{head(`{"status":"ok","headers":[],"final":true}`)}, gone},
		"headers as text":     {[]tframe{head(`{"status":200,"headers":"x","final":true}`)}, gone},
		"a split header":      {[]tframe{head(`{"status":200,"headers":[["a","b\r\nset-cookie: evil=1"]],"final":true}`), {typ: tEOF}}, []int{0, 200, 502}},
		"a lie of length":     {[]tframe{head(`{"status":200,"headers":[["content-length","10"]],"final":true}`), {typ: tData, payload: []byte("abc")}, {typ: tEOF}}, []int{0, 200, 502}},
		"101 unasked":         {[]tframe{head(`{"status":101,"headers":[],"final":true}`)}, gone},
		"EOF first":           {[]tframe{{typ: tEOF}}, gone},
		"DATA first":          {[]tframe{{typ: tData, payload: []byte("HTTP/1.1 200 OK\r\n\r\n")}, {typ: tEOF}}, gone},
		"RESET":               {[]tframe{{typ: tReset, payload: []byte{0, 6, 0xff, 0xfe}}}, gone},
		"RESET of nothing":    {[]tframe{{typ: tReset}}, gone},
	}
	many := slices.Repeat([]tframe{head(`{"status":103,"headers":[],"final":false}`)}, 64)
	out["heads without end"] = struct {
		frames []tframe
		codes  []int
	}{slices.Concat(many, many), gone}
	return out
}

// garbledDriver exposes something and answers each visitor with frames.
func garbledDriver(t *testing.T, d *proc.Daemon, name string, answer []tframe, codes []int) {
	c := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	defer func() {
		c.write(jframe(tGoAway, object{"code": 0, "message": "done"}))
		_ = c.ws.CloseNow() // it is over
	}()
	c.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": []string{}}))
	c.want(tHelloOK)
	c.write(jframe(tBind, object{"clientBindRef": 1, "kind": "http", "mode": "expose", "containerPort": 0}))
	port := int(c.want(tBindOK).json()["containerPort"].(float64))
	got := make(chan int, 1)
	go func() {
		v := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		res, err := v.Get(at(port, "/"))
		if err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				got <- -1
				return
			}
			got <- 0
			return
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body) // it may be cut
		if res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: a header was split: %v", name, res.Header)
		}
		got <- res.StatusCode
	}()
	f, err := c.await(10*time.Second, func(f tframe) bool { return f.typ == tOpen })
	if err != nil {
		t.Errorf("%s: no STREAM_OPEN: %v", name, err)
		return
	}
	for chunk := range slices.Chunk(answer, 16) {
		chunk = slices.Clone(chunk)
		for i := range chunk {
			chunk[i].stream = f.stream
		}
		c.write(chunk...)
	}
	if code := <-got; !slices.Contains(codes, code) {
		t.Errorf("%s: the visitor got %d, want one of %v", name, code, codes)
	}
}

// Hostile peers of the real daemon, one kind after the other: an honest tunnel beside them works as before, and
// afterwards the daemon holds what it held.
func TestY18HostilePeers(t *testing.T) {
	accept(t, "Y18")
	d := carrierDaemon(t, proc.Token, nil)
	web, sink := localSite(t, "web"), newHole(t)
	h := newHonest(t, d, web.port)
	time.Sleep(time.Second) // pools fill
	// What the first of everything costs is no leak.
	warm := dialBind(t, d, sink.port)
	warm.write(jframe(tGoAway, object{"code": 0}))
	_ = warm.ws.CloseNow() // it is over
	proc.Until(t, "only the honest one is there", func() bool { return len(tunnelList(t, d)) == 1 })
	h.mu.Lock()
	var before holdings
	proc.Until(t, "it is quiet", func() bool {
		was := before
		before = holds(t, d)
		return was == before
	})
	goroutines := routines(t, d)
	h.mu.Unlock()
	memory := proc.Private(t, d.PID())
	t.Logf("before: %+v, %d goroutines, %d KiB", before, goroutines, memory>>10)

	away := func(t *testing.T, c *rawCarrier, code float64) {
		t.Helper()
		f, err := c.await(10*time.Second, func(f tframe) bool { return f.typ == tGoAway })
		if err != nil || f.json()["code"] != code {
			t.Errorf("GOAWAY %v %v, want %v", f, err, code)
		}
		c.ended(10 * time.Second)
	}
	type attack struct {
		name string
		run  func(t *testing.T)
	}
	attacks := []attack{
		{"slow heads", func(t *testing.T) {
			each(40, func(i int) {
				s := dialBare(t, d.Addr())
				defer s.Close()
				s.dribble([]byte(upgradeText), 100*time.Millisecond, time.Duration(i%4+1)*time.Second)
				if i == 0 { // one waits for what the daemon does
					if err := s.over(40 * time.Second); err != nil {
						t.Error(err)
					}
				}
			})
		}},
		{"silence before HELLO", func(t *testing.T) {
			var socks []*bareSocket
			for range 60 {
				socks = append(socks, upgradeBare(t, d, ""))
			}
			each(len(socks), func(i int) {
				if err := socks[i].over(12 * time.Second); err != nil {
					t.Error(err)
				}
				_ = socks[i].Close()
			})
		}},
		{"HELLO in drops", func(t *testing.T) {
			each(20, func(i int) {
				token := ""
				if i%2 == 0 {
					token = proc.Token
				}
				s := upgradeBare(t, d, token)
				defer s.Close()
				s.dribble(message(helloV1()), 200*time.Millisecond, 8*time.Second)
				if err := s.over(5 * time.Second); err != nil {
					t.Error(err)
				}
			})
		}},
		{"DATA beyond the stream's window", func(t *testing.T) {
			c := dialBind(t, d, sink.port)
			c.write(openDial(1))
			c.want(0x41)
			piece := tframe{tData, 1, make([]byte, 65000)}
			for range 400 { // 26 MB, whatever the windows are
				c.write(piece, piece, piece)
			}
			if f, err := c.await(10*time.Second, func(f tframe) bool { return f.typ == tReset || f.typ == tGoAway }); err != nil || f.typ == tReset && (len(f.payload) < 2 || f.payload[1] != 3) {
				t.Errorf("%v %v", f, err)
			}
			c.write(jframe(tGoAway, object{"code": 0})) // it is not to be parked
			c.ended(10 * time.Second)                   // a socket that is closed with data in it may lose the frame
		}},
		{"DATA beyond the session's window", func(t *testing.T) {
			c := dialBind(t, d, sink.port)
			for i := range 40 {
				c.write(openDial(2*i + 1))
			}
			for range 40 {
				c.want(0x41)
			}
			for round := 0; round < 200; round++ {
				select {
				case <-c.done:
					round = 200
				default:
				}
				for i := range 40 {
					c.write(tframe{tData, uint32(2*i + 1), make([]byte, 65000)})
				}
			}
			away(t, c, 3)
		}},
		{"10,000 streams", func(t *testing.T) {
			c := dialBind(t, d, sink.port)
			sink.most.Store(sink.now.Load())
			base := sink.now.Load()
			for i := 0; i < 10_000; i += 50 {
				var all []tframe
				for j := range 50 {
					all = append(all, openDial(2*(i+j)+1))
				}
				c.write(all...)
			}
			refused := 0
			for {
				f, err := c.await(2*time.Second, func(f tframe) bool { return f.typ == tReset || f.typ == tGoAway })
				if err != nil || f.typ == tGoAway {
					t.Logf("%d of 10,000 streams were refused, then %v %v; %d connections at the target at most", refused, f, err, sink.most.Load()-base)
					break
				}
				refused++
			}
			if n := sink.most.Load() - base; n > 256 {
				t.Errorf("%d connections at the target", n)
			}
			_ = c.ws.CloseNow() // it is over
		}},
		{"credit of nothing, and too much", func(t *testing.T) {
			for _, x := range []struct {
				n    int
				code float64
			}{{0, 1}, {1, 3}, {1<<31 - 1, 3}, {1<<32 - 1, 3}} {
				c := greeted(t, d)
				c.write(tframe{tWindow, 0, u32(x.n)})
				away(t, c, x.code)
				c = dialBind(t, d, sink.port)
				c.write(openDial(1))
				c.want(0x41)
				c.write(tframe{tWindow, 1, u32(x.n)})
				away(t, c, x.code)
			}
		}},
		{"GOAWAY, and on it goes", func(t *testing.T) {
			each(8, func(int) {
				c := dialBind(t, d, sink.port)
				c.write(jframe(tGoAway, object{"code": 0, "message": "bye"}))
				for i := range 200 {
					c.write(jframe(tBind, object{"clientBindRef": i + 2, "kind": "tcp", "mode": "pull", "containerPort": 0}), openDial(2*i+1))
				}
				c.ended(15 * time.Second)
			})
		}},
		{"PING without reading", func(t *testing.T) {
			each(8, func(int) {
				s := upgradeBare(t, d, proc.Token)
				defer s.Close()
				_, _ = s.Write(message(helloV1())) // who reads says that it is gone
				flood := message(slices.Repeat([]tframe{{tPing, 0, []byte("12345678")}}, 64)...)
				_ = s.SetWriteDeadline(time.Now().Add(3 * time.Second)) // a socket has deadlines
				sent := 0
				for sent < 32<<20 {
					n, err := s.Write(flood)
					if sent += n; err != nil {
						break
					}
				}
				// It reads nothing for a while.
				<-time.After(time.Second)
			})
		}},
		{"garbage for JSON", func(t *testing.T) {
			for _, typ := range []byte{tHello, tHelloOK, tBind, tBindOK, tUnbind, tUnbindErr, tJoin, tJoinOK, tOpen, tHead, tGoAway, tRevoked, 0x41, 0x42, 0x43} {
				each(len(garbage), func(i int) {
					var c *rawCarrier
					stream := uint32(0)
					switch typ {
					case tHello, tJoin:
						c = openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
					case tOpen, tHead, 0x41, 0x42:
						c, stream = greeted(t, d), 1
					default:
						c = greeted(t, d)
					}
					c.write(tframe{typ, stream, []byte(garbage[i])})
					c.write(tframe{typ: tPing, payload: []byte("12345678")})
					if _, err := c.await(12*time.Second, func(f tframe) bool { return f.typ == tPong }); err != nil {
						c.ended(12 * time.Second)
					}
					c.write(jframe(tGoAway, object{"code": 0}))
					_ = c.ws.CloseNow() // it is over
				})
			}
		}},
		{"visitors that stall", func(t *testing.T) {
			addr := fmt.Sprint("127.0.0.1:", h.port)
			each(45, func(i int) {
				s := dialBare(t, addr)
				defer s.Close()
				_ = s.SetWriteDeadline(time.Now().Add(20 * time.Second)) // a socket has deadlines
				switch i % 3 {
				case 0: // a head in drops
					s.dribble([]byte("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "+strings.Repeat("y", 200)), 100*time.Millisecond, 15*time.Second)
					if err := s.over(10 * time.Second); err != nil {
						t.Error(err)
					}
				case 1: // a body in drops
					_, _ = io.WriteString(s, "POST /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n") // who reads says that it is gone
					s.dribble(bytes.Repeat([]byte("z"), 100), 100*time.Millisecond, 5*time.Second)
				case 2: // a large answer that is not read
					_, _ = io.WriteString(s, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n") // as above
					_ = s.SetWriteDeadline(time.Now().Add(5 * time.Second))                                        // as above
					piece := make([]byte, 64<<10)
					for range 1024 {
						if _, err := s.Write(piece); err != nil {
							break
						}
					}
				}
			})
		}},
		{"heads of garbage", func(t *testing.T) {
			for name, x := range badHeads() {
				garbledDriver(t, d, name, x.frames, x.codes)
			}
		}},
	}
	suffer := func(attack attack) {
		t.Run(attack.name, func(t *testing.T) {
			h.take()
			peak := proc.Private(t, d.PID())
			began, stop := time.Now(), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						peak = max(peak, proc.Private(t, d.PID()))
					}
				}
			})
			attack.run(t)
			close(stop)
			wg.Wait()
			took := time.Since(began)
			time.Sleep(200 * time.Millisecond) // some visits at least
			n, median, worst, bad := h.take()
			h.mu.Lock()
			var now holdings
			back := time.Now()
			for now = holds(t, d); !now.within(before) && time.Since(back) < 10*time.Second; now = holds(t, d) {
				<-time.After(50 * time.Millisecond)
			}
			h.mu.Unlock()
			t.Logf("%s: %v; the honest tunnel had %d visits, median %v, slowest %v; at most %d KiB more; back after %v", attack.name, took.Round(time.Millisecond), n,
				median.Round(10*time.Microsecond), worst.Round(10*time.Microsecond), (peak-memory)>>10, time.Since(back).Round(time.Millisecond))
			if !now.within(before) {
				t.Errorf("%s: the daemon holds %+v, it held %+v", attack.name, now, before)
			}
			if len(bad) > 0 || n == 0 || worst > hostileVisit || median > hostileMedian {
				t.Errorf("%s: %d visits, median %v, slowest %v, %d failed: %.1000s", attack.name, n, median, worst, len(bad), fmt.Sprint(bad))
			}
			if peak-memory > hostileMemory {
				t.Errorf("%s: %d KiB more", attack.name, (peak-memory)>>10)
			}
			if d.Ended() {
				t.Fatalf("%s: the daemon is gone", attack.name)
			}
		})
	}
	// What the attacks leave is memory that the collector has not looked at yet, and no more of it after each round.
	var live [hostileRounds]int64
	first := int64(0)
	for round := range live {
		for _, one := range attacks {
			suffer(one)
		}
		h.mu.Lock()
		now := 0
		proc.Until(t, "the goroutines are back", func() bool {
			now = routines(t, d)
			return now <= goroutines
		})
		collected(t, d)
		// It collects again when there is twice as much as was in use.
		live[round] = gauge(t, d, "go_memstats_next_gc_bytes") / 2
		kept := proc.Private(t, d.PID())
		t.Logf("after round %d: %+v, %d goroutines, %d KiB, of which %d KiB were in use at the last of %d collections", round+1, holds(t, d), now, kept>>10, live[round]>>10,
			gauge(t, d, "go_gc_duration_seconds_count"))
		h.mu.Unlock()
		if live[round] > live[0]+hostileAgain {
			t.Errorf("round %d: %d KiB are in use, %d KiB were after the first", round+1, live[round]>>10, live[0]>>10)
		}
		first = cmp.Or(first, kept)
		// What is not in use any more goes back to the system little by little.
		proc.UntilFor(t, hostileReturn, fmt.Sprintf("round %d: no more is private than the %d KiB after the first", round+1, first>>10), func() bool {
			return proc.Private(t, d.PID()) <= first+hostileAgain
		})
	}
}
