package compat

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/compat/wire"
)

// A frame is the same however it is cut.
func TestFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 1000, 1<<16 - 1, 1 << 16, 1<<16 + 1, 200_000} {
		text := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
		for _, f := range []frame{
			{own: text},
			{event: &rendered{head: text, tail: []byte("}")}, seq: 7},
			{event: &rendered{head: text[:n/2], tail: text[n/2:]}, seq: 18446744073709551615},
			{event: &rendered{head: text, tail: []byte("}")}},
			{own: text[:n/3], more: &more{shared: [][]byte{text[n/3 : n/2], {}, text[n/2:]}, end: []byte("]}"), size: n - n/3 + 2}},
		} {
			want := append([]byte{}, f.own...)
			switch {
			case f.more != nil:
				want = append(append(want, text[n/3:]...), f.more.end...)
			case f.event != nil && f.seq == 0:
				want = append(want, f.event.head...)
			case f.event != nil:
				want = append(fmt.Appendf(append(want, f.event.head...), "%d", f.seq), f.event.tail...)
			}
			whole, all := f.appendFrom(make([]byte, 0, n+64), 0)
			if !all || f.size() != len(whole) || !bytes.HasSuffix(whole, want) || len(whole)-len(want) > maxHead {
				t.Fatalf("%d bytes become %d, size %d", len(want), len(whole), f.size())
			}
			if got := headed(t, whole); !bytes.Equal(got, want) {
				t.Fatalf("the library reads %d bytes of %d", len(got), len(want))
			}
			for range 20 {
				off, room := rand.IntN(len(whole)+1), rand.IntN(len(whole)+20)
				part, all := f.appendFrom(make([]byte, 0, room), off)
				if !bytes.Equal(part, whole[off:min(len(whole), off+room)]) || all != (off+room >= len(whole)) {
					t.Fatalf("%d bytes from %d of %d: %d come, all %v", room, off, len(whole), len(part), all)
				}
			}
		}
	}
}

// headed reads the payload of a frame with the library.
func headed(t *testing.T, frame []byte) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		defer b.Close()
		r, err := http.ReadRequest(bufio.NewReader(b))
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
			acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		_, _ = b.Write(frame)
		_, _ = b.Read(make([]byte, 100)) // until the client is done
	}()
	ws, _, err := websocket.Dial(t.Context(), "ws://x/", &websocket.DialOptions{HTTPClient: clientOver(a)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	_, got, err := ws.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Over real sockets: frames of all sizes, from many goroutines, to clients that read in fits and
// starts and ask and ping meanwhile, arrive whole, in order and with numbers that have no gap.
func TestRealSockets(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) { realSockets(t, secure) })
	}
}

func realSockets(t *testing.T, secure bool) {
	w := newWorld(t, worldOptions{mode: "token", tcp: true, tls: secure})
	const clients, events = 8, 300
	var readers, publishers sync.WaitGroup
	var pings atomic.Int64
	for i := range clients {
		c := w.operator("operator.admin")
		c.shrink()
		readers.Go(func() {
			var seq uint64
			for n, asked := 0, 0; n < events; {
				f := c.read()
				if f.Type != "event" {
					if !f.OK {
						t.Errorf("%+v", f)
					}
					continue
				}
				if got, _ := f.Seq.Get(); got != seq+1 {
					t.Errorf("client %d: event %d after %d", i, got, seq)
					return
				}
				seq++
				if f.Event != "exec.approval.requested" {
					continue
				}
				n++
				request, _ := f.Payload.Get("request")
				if command := text(request, "command"); strings.Trim(command, "x") != "" {
					t.Errorf("client %d: %.100s", i, command)
				}
				if n%50 == i {
					asked++
					c.ask("node.list", "{}")
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					if err := c.ws.Ping(ctx); err != nil {
						t.Errorf("client %d: %v", i, err)
					} else {
						pings.Add(1)
					}
					cancel()
				}
			}
		})
	}
	for range 3 {
		publishers.Go(func() {
			for range events / 3 {
				n := []int{0, 100, 1000, 20_000, 80_000}[rand.IntN(5)]
				w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: approvals.Approval{Command: strings.Repeat("x", n)}})
			}
		})
	}
	publishers.Wait()
	readers.Wait()
	if pings.Load() == 0 {
		t.Error("no ping was answered")
	}
	if n := w.bus.Budget().Held(); n != 0 {
		t.Errorf("%d bytes are held for nobody", n)
	}
}

// shrink makes a client's receive buffer small, so that what it does not read stays with the daemon.
func (c *client) shrink() {
	below := c.nc.Conn
	if t, ok := below.(*tls.Conn); ok {
		below = t.NetConn()
	}
	if t, ok := below.(*net.TCPConn); ok {
		_ = t.SetReadBuffer(128 << 10)
	}
}

// A pong does not wait for what waits.
func TestPongGoesFirst(t *testing.T) {
	w := newWorld(t, worldOptions{mode: "token", tcp: true})
	c := w.operator("operator.admin")
	settled := c.call("health", "{}")
	if !settled.OK {
		t.Fatal(settled)
	}
	c.shrink()
	c.nc.paused.Lock()
	const events, size = 200, 100_000
	for range events {
		w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: approvals.Approval{Command: strings.Repeat("x", size)}})
	}
	got := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		got <- c.ws.Ping(ctx)
	}()
	sc := w.conns()[0]
	deadline := time.Now().Add(10 * time.Second)
	for pending := 0; pending == 0 && time.Now().Before(deadline); {
		sc.out.mu.Lock()
		pending = len(sc.out.control)
		sc.out.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	c.nc.paused.Unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if n := sc.Backlog(); n < events*size/4 {
		t.Errorf("only %d bytes still wait when the pong comes", n)
	}
	n := 0
	for f := (wire.Frame{}); n < events; f = c.read() {
		if f.Event == "exec.approval.requested" {
			n++
		}
	}
}

// A client that asks and does not read is asked for patience: what it is owed stays bounded, and it gets
// every answer in the end.
func TestUnreadAnswers(t *testing.T) {
	for _, opts := range []worldOptions{{mode: "token", tcp: true}, {mode: "token", tcp: true, tls: true}, {mode: "token"}} {
		t.Run(fmt.Sprintf("sockets %v, TLS %v", opts.tcp, opts.tls), func(t *testing.T) {
			w := newWorld(t, opts)
			c := w.operator("operator.read")
			c.shrink()
			sc := w.conns()[0]
			c.nc.paused.Lock()
			const asked = 10_000
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for i := range asked {
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					req := fmt.Sprintf(`{"type":"req","id":"n%d","method":"health"}`, i)
					if err := c.ws.Write(ctx, websocket.MessageText, []byte(req)); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			most := 0
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for range 300 {
				sc.out.mu.Lock()
				most = max(most, sc.out.owed)
				sc.out.mu.Unlock()
				<-look.C
			}
			c.nc.paused.Unlock()
			if most > maxOwed+(8<<10) {
				t.Errorf("%d bytes of answers wait", most)
			}
			for n := 0; n < asked; {
				f := c.read()
				if f.Type != "res" {
					continue
				}
				if !f.OK || f.ID != fmt.Sprint("n", n) {
					t.Fatalf("%+v after %d answers", f, n)
				}
				n++
			}
			<-sent
		})
	}
}
