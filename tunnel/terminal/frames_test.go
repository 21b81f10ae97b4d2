//go:build linux

package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// duplex is a pipe in memory with room for some bytes each way, as a link has.
type duplex struct {
	r, w *room
}

type room struct {
	mu     sync.Mutex
	cond   *sync.Cond
	b      []byte
	cap    int
	ended  bool
	broken error
}

func newRoom(n int) *room {
	r := &room{cap: n}
	r.cond = sync.NewCond(&r.mu)
	return r
}

func (r *room) read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.b) == 0 && !r.ended && r.broken == nil {
		r.cond.Wait()
	}
	if r.broken != nil {
		return 0, r.broken
	}
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	r.cond.Broadcast()
	return n, nil
}

func (r *room) write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := 0
	for len(p) > 0 {
		for len(r.b) >= r.cap && r.broken == nil && !r.ended {
			r.cond.Wait()
		}
		if r.broken != nil || r.ended {
			return done, io.ErrClosedPipe
		}
		n := min(len(p), r.cap-len(r.b))
		r.b = append(r.b, p[:n]...)
		p = p[n:]
		done += n
		r.cond.Broadcast()
	}
	return done, nil
}

func (r *room) close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.ended = true
	} else if r.broken == nil {
		r.broken = err
	}
	r.cond.Broadcast()
}

func pipes(n int) (node, gateway *duplex) {
	a, b := newRoom(n), newRoom(n)
	return &duplex{a, b}, &duplex{b, a}
}

func (d *duplex) Read(p []byte) (int, error)  { return d.r.read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.w.write(p) }
func (d *duplex) CloseWrite() error           { d.w.close(nil); return nil }
func (d *duplex) Close(err error) error {
	if err == nil {
		err = net.ErrClosed
	}
	d.w.close(nil)
	d.r.close(err)
	return nil
}

// serve joins a feed to a terminal, and returns what ends both.
func serve(t testing.TB, term *Terminal, f *Feed, window int) (*Remote, func() (node, gateway error)) {
	node, gw := pipes(window)
	_, from := f.Range()
	r := NewRemote(gw, f)
	var wg sync.WaitGroup
	var nodeErr, gwErr error
	wg.Go(func() { nodeErr = term.Serve(context.Background(), node, from) })
	wg.Go(func() { gwErr = r.Run(context.Background()) })
	return r, func() (error, error) { wg.Wait(); return nodeErr, gwErr }
}

func TestRemoteIsTheTerminal(t *testing.T) {
	t.Parallel()
	term := open(t, manager(t, Config{}), "sh")
	f := NewFeed(0)
	r, wait := serve(t, term, f, 64<<10)
	v := attach(t, f, FromStart, 0)
	s := &screen{t: t, v: v}
	s.until(`\$ `)
	if err := r.Resize(71, 33); err != nil {
		t.Fatal(err)
	}
	if err := r.Input(t.Context(), []byte("stty size\n")); err != nil {
		t.Fatal(err)
	}
	s.until(`33 71\r\n`)
	if err := r.Input(t.Context(), []byte("exit 9\n")); err != nil {
		t.Fatal(err)
	}
	s.rest()
	if e, _ := f.Exit(); e.Code == nil || *e.Code != 9 {
		t.Fatalf("exit %+v", e)
	}
	if a, b := wait(); a != nil || b != nil {
		t.Fatal(a, b)
	}
	if err := r.Input(t.Context(), []byte("x")); !errors.Is(err, ErrEnded) {
		t.Fatal(err)
	}
}

// The link is cut again and again while the program writes: every byte arrives once, in order.
func TestRemoteGoesOnAfterCuts(t *testing.T) {
	t.Parallel()
	term := open(t, manager(t, Config{}), "sh", "-c", "stty raw; exec seq 1 300000")
	f := NewFeed(0)
	v := attach(t, f, FromStart, 0)
	cuts := 0
	go func() {
		for {
			node, gw := pipes(48 << 10)
			_, from := f.Range()
			done := make(chan error, 1)
			go func() { done <- term.Serve(context.Background(), node, from) }()
			r := NewRemote(gw, f)
			ctx, cancel := context.WithTimeout(context.Background(), 15*time.Millisecond)
			err := r.Run(ctx)
			cancel()
			<-done
			if err == nil {
				return
			}
			cuts++
		}
	}()
	var got bytes.Buffer
	buf := make([]byte, 5000)
	for {
		p, err := v.Next(t.Context(), buf)
		got.Write(p.Data)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || p.Missed > 0 {
			t.Fatalf("missed %d, %v", p.Missed, err)
		}
	}
	var want strings.Builder
	for i := 1; i <= 300000; i++ {
		want.WriteString(itoa(i) + "\n")
	}
	if got.String() != want.String() {
		t.Fatalf("%d bytes, want %d", got.Len(), want.Len())
	}
	t.Log(cuts, "cuts")
}

func itoa(n int) string {
	var b [20]byte
	i := len(b)
	for ; n > 0; n /= 10 {
		i--
		b[i] = byte('0' + n%10)
	}
	return string(b[i:])
}

// A paste into a program that writes much and reads nothing for long stops neither direction.
func TestRemotePasteAndFlood(t *testing.T) {
	t.Parallel()
	term := open(t, manager(t, Config{}), "sh", "-c", "stty raw -echo; echo ready; seq 1 100000; head -c 1500000 | cksum")
	f := NewFeed(0)
	s := &screen{t: t, v: attach(t, f, FromStart, 0)} // before anything can have gone by
	r, wait := serve(t, term, f, 16<<10)
	s.until("ready")
	paste := run(0, 1_500_000)
	done := make(chan error, 1)
	go func() { done <- r.Input(context.Background(), paste) }()
	out := s.rest()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "99999\n100000\n") || !strings.Contains(out, " 1500000") {
		t.Fatalf("the end is %q", out[max(0, len(out)-60):])
	}
	if a, b := wait(); a != nil || b != nil {
		t.Fatal(a, b)
	}
}

// A slow viewer at the far end stops the program: what is under way is bounded.
func TestRemoteSlowViewerStopsTheProgram(t *testing.T) {
	t.Parallel()
	term := open(t, manager(t, Config{Grace: [2]time.Duration{10 * time.Millisecond, 20 * time.Millisecond}}), "sh", "-c", "stty raw; exec cat /dev/zero")
	f := NewFeed(0)
	_, wait := serve(t, term, f, 32<<10)
	v := attach(t, f, FromStart, 0)
	var last int64 = -1
	for range 500 {
		time.Sleep(20 * time.Millisecond)
		_, end := term.Feed().Range()
		if end == last && end > 0 {
			break
		}
		last = end
	}
	if last > 2*Ahead+64<<10+readSize {
		t.Fatalf("the program wrote %d bytes that nobody reads", last)
	}
	v.Detach()
	term.Close()
	if a, b := wait(); a != nil || b != nil {
		t.Fatal(a, b)
	}
}

// Nothing that a gateway or a node sends breaks the other end.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("I\x00\x00\x00\x01xR\x00\x00\x00\x04\x00\x50\x00\x18A\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"), true)
	f.Add([]byte("S\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00D\x00\x00\x00\x02hiM\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x01\x00X\x00\x00\x00\x06\x01\x00\x00\x00\x03\x00"), false)
	f.Add([]byte("D\xff\xff\xff\xff"), false)
	f.Fuzz(func(t *testing.T, b []byte, toNode bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		near, far := pipes(1 << 20)
		go func() {
			_, _ = far.Write(b)
			_ = far.CloseWrite()
			_, _ = io.Copy(io.Discard, readerOf{far})
		}()
		if toNode {
			term := &Terminal{feed: NewFeed(0), dev: noDevice{}, m: NewManager(Config{})}
			term.in.init()
			_ = term.Serve(ctx, near, 0)
			term.in.end()
		} else {
			feed := NewFeed(0)
			_ = NewRemote(near, feed).Run(ctx)
		}
		if ctx.Err() != nil {
			t.Fatal("it hangs")
		}
	})
}

type readerOf struct{ d *duplex }

func (r readerOf) Read(p []byte) (int, error) { return r.d.Read(p) }

type noDevice struct{ device }

func (noDevice) Resize(int, int) error { return nil }
func (noDevice) TryWrite([]byte) int   { return 0 }

func TestExitTravels(t *testing.T) {
	code := -3
	for _, e := range []Exit{{}, {Code: &code}, {Signal: "SIGHUP"}, {Reason: "the node was restarted"}} {
		got, err := decodeExit(e.encode())
		if err != nil || got.Signal != e.Signal || got.Reason != e.Reason || (got.Code == nil) != (e.Code == nil) || e.Code != nil && *got.Code != *e.Code {
			t.Errorf("%+v came as %+v, %v", e, got, err)
		}
	}
}
