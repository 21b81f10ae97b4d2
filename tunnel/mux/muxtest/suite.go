// Package muxtest is one suite for carriers: what streams over a pair of them must do, whatever carries them.
package muxtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Pair returns a new pair of carriers: the end that dialled and the end that was dialled. What it needs is cleaned
// up with t.
type Pair func(t *testing.T) (client, server mux.Carrier)

// limit bounds every wait.
const limit = 30 * time.Second

// Suite runs all checks over the carriers of pair.
func Suite(t *testing.T, pair Pair) {
	t.Run("messages", func(t *testing.T) { messages(t, pair) })
	t.Run("close codes", func(t *testing.T) { closeCodes(t, pair) })
	t.Run("echo", func(t *testing.T) { echo(t, pair) })
	t.Run("half close", func(t *testing.T) { halfClose(t, pair) })
	t.Run("reset", func(t *testing.T) { reset(t, pair) })
	t.Run("heads", func(t *testing.T) { heads(t, pair) })
	t.Run("bulk", func(t *testing.T) {
		bulk(t, pair, mux.Config{Hanzod1: true, StreamWindow: mux.OwnStreamWindow, SessionWindow: mux.OwnSessionWindow})
	})
	t.Run("small windows", func(t *testing.T) {
		bulk(t, pair, mux.Config{StreamWindow: wire.MinStreamWindow, SessionWindow: wire.MinSessionWindow})
	})
	t.Run("fair with stalled sinks", func(t *testing.T) { fair(t, pair) })
	t.Run("shards", func(t *testing.T) { shards(t, pair) })
	t.Run("drain", func(t *testing.T) { drain(t, pair) })
	t.Run("deadlines", func(t *testing.T) { deadlines(t, pair) })
}

// Ends is a pair of sessions with the streams that were opened at each.
type Ends struct {
	Client, Server *mux.Session
	// AtClient are the streams that the server opened, AtServer those that the client opened.
	AtClient, AtServer chan *mux.Stream
	// LostClient and LostServer get what Lost is told.
	LostClient, LostServer chan error
}

// Connect makes sessions of cfg over n pairs of carriers.
func Connect(t *testing.T, pair Pair, cfg mux.Config, n int) *Ends {
	t.Helper()
	e := &Ends{
		AtClient: make(chan *mux.Stream, 1024), AtServer: make(chan *mux.Stream, 1024),
		LostClient: make(chan error, 16), LostServer: make(chan error, 16),
	}
	one := func(client bool, at chan *mux.Stream, lost chan error) *mux.Session {
		c := cfg
		c.Client = client
		if c.Open == nil {
			c.Open = func(s *mux.Stream, body wire.StreamOpenBody) error {
				if body.Kind == "refuse" {
					return &mux.ResetError{Code: wire.CodeRefused, Reason: "local connect failed"}
				}
				at <- s
				return nil
			}
		}
		c.Lost = func(_ int, err error) { lost <- err }
		return mux.New(c)
	}
	e.Client, e.Server = one(true, e.AtClient, e.LostClient), one(false, e.AtServer, e.LostServer)
	for i := range n {
		c, s := pair(t)
		if err := errors.Join(e.Client.Add(i, c, nil), e.Server.Add(i, s, nil)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = e.Client.Close(1000, "")
		_ = e.Server.Close(0, "")
		e.Client.Wait()
		e.Server.Wait()
	})
	return e
}

// Open opens a stream at one end and takes it at the other.
func (e *Ends) Open(t *testing.T, fromClient bool) (opened, taken *mux.Stream) {
	t.Helper()
	from, at := e.Server, e.AtClient
	if fromClient {
		from, at = e.Client, e.AtServer
	}
	opened, err := from.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp", RemoteAddr: "192.0.2.1:7"})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case taken = <-at:
	case <-time.After(limit):
		t.Fatal("the stream does not arrive")
	}
	_ = opened.SetDeadline(time.Now().Add(limit))
	_ = taken.SetDeadline(time.Now().Add(limit))
	return opened, taken
}

func messages(t *testing.T, pair Pair) {
	client, server := pair(t)
	for _, ends := range [][2]mux.Carrier{{client, server}, {server, client}} {
		for _, size := range []int{1, 9, 125, 126, 65_535, 65_536, 70_000, wire.MaxMessage} {
			want := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(want)
			sum := sha256.Sum256(want)
			done := make(chan error, 1)
			go func() {
				parts := net.Buffers{want[:size/3], nil, want[size/3:]}
				done <- ends[0].Write(parts)
			}()
			got, err := ends[1].Read(t.Context())
			if err != nil || sha256.Sum256(got) != sum {
				t.Fatalf("a message of %d bytes came as %d bytes, %v", size, len(got), err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	if own, ok := server.(mux.BufferReader); ok {
		go func() { _ = client.Write(net.Buffers{[]byte("into "), []byte("a buffer")}) }()
		got, err := own.ReadBuffer(t.Context(), func(n int) []byte { return make([]byte, n+10) })
		if err != nil || string(got) != "into a buffer" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := client.Write(net.Buffers{make([]byte, wire.MaxMessage), []byte("x")}); err == nil {
		t.Error("a message that is too large was written")
	}
	_ = client.Close(0, "")
	_ = server.Close(0, "")
}

func closeCodes(t *testing.T, pair Pair) {
	for _, code := range []int{1000, 1002, 1008, 1013, 4001} {
		for swap := range 2 {
			a, b := pair(t)
			if swap == 1 {
				a, b = b, a
			}
			done := make(chan error, 1)
			go func() {
				_, err := b.Read(t.Context())
				_ = b.Close(0, "")
				done <- err
			}()
			_ = a.Close(code, "a reason")
			select {
			case err := <-done:
				var closed *mux.CloseError
				if !errors.As(err, &closed) || closed.Code != code || closed.Reason != "a reason" {
					t.Errorf("closed with %d, got %v", code, err)
				}
			case <-time.After(limit):
				t.Fatal("no close arrives")
			}
			if err := a.Write(net.Buffers{[]byte("x")}); err == nil {
				t.Error("a carrier that was closed takes a message")
			}
		}
	}
	a, b := pair(t)
	_ = a.Close(0, "")
	var closed *mux.CloseError
	if _, err := b.Read(t.Context()); err == nil || errors.As(err, &closed) && closed.Code != 1006 {
		t.Errorf("lost carrier: %v", err)
	}
	_ = b.Close(0, "")
}

func echo(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{}, 1)
	for i := range 20 {
		a, b := e.Open(t, i%2 == 0)
		if want := uint32(i/2*2 + 2); i%2 == 1 && a.ID() != want || i%2 == 0 && a.ID() != want-1 {
			t.Errorf("stream %d has the id %d", i, a.ID())
		}
		if b.ID() != a.ID() || b.RemoteAddr().String() != "192.0.2.1:7" {
			t.Errorf("%d and %d, from %v", a.ID(), b.ID(), b.RemoteAddr())
		}
		go func() {
			_, _ = io.Copy(b, b)
			_ = b.Close()
		}()
		for _, size := range []int{1, 100, 3000, 100_000} {
			want := fmt.Appendf(nil, "%*d", size, i)
			if _, err := a.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(a, got); err != nil || string(got) != string(want) {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
		_ = a.CloseWrite()
		if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
		_ = a.Close()
		if err := a.Err(); err != nil {
			t.Error(err)
		}
	}
	await(t, "the streams to end", func() bool { return e.Client.Streams() == 0 && e.Server.Streams() == 0 })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); {
		<-time.After(time.Millisecond)
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func halfClose(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{}, 1)
	a, b := e.Open(t, false)
	_, _ = a.Write([]byte("question"))
	_ = a.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || string(got) != "question" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("wrote after EOF")
	}
	go func() {
		_, _ = b.Write([]byte("answer"))
		_ = b.Close()
	}()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Fatalf("%q, %v", got, err)
	}
	_ = a.Close()
	await(t, "the stream to end", func() bool { return e.Client.Streams() == 0 && e.Server.Streams() == 0 })
	// What was sent before Close arrives.
	a, b = e.Open(t, true)
	go func() {
		_, _ = a.Write(make([]byte, 300_000))
		_ = a.Close()
	}()
	if got, err := io.ReadAll(b); err != nil || len(got) != 300_000 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	_ = b.Close()
}

func reset(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{}, 1)
	a, b := e.Open(t, false)
	done := b.Done()
	if err := a.Reset(wire.CodeTakeover, "taken over"); err != nil {
		t.Fatal(err)
	}
	_, err := b.Read(make([]byte, 1))
	var got *mux.ResetError
	if !errors.As(err, &got) || got.Code != wire.CodeTakeover || got.Reason != "taken over" || !got.Remote {
		t.Errorf("got %v", err)
	}
	select {
	case <-done:
	case <-time.After(limit):
		t.Error("not done")
	}
	_ = b.Close()
	// A refusal.
	c, err := e.Server.Open(t.Context(), wire.StreamOpenBody{Kind: "refuse"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := c.Accepted(ctx); !errors.As(err, &got) || got.Code != wire.CodeRefused || got.Reason != "local connect failed" {
		t.Errorf("refused with %v", err)
	}
	_ = c.Close()
	await(t, "the streams to end", func() bool { return e.Client.Streams() == 0 && e.Server.Streams() == 0 })
	// One of many that is reset in the middle costs the others nothing.
	a, b = e.Open(t, false)
	go func() { _, _ = a.Write(make([]byte, 1<<20)) }()
	_, _ = io.ReadFull(b, make([]byte, 10_000))
	_ = b.Reset(wire.CodeCancel, "")
	await(t, "the reset", func() bool { return a.Err() != nil })
	_ = a.Close()
	a, b = e.Open(t, true)
	_, _ = a.Write([]byte("still here"))
	_ = a.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || string(got) != "still here" {
		t.Errorf("%q, %v", got, err)
	}
	_ = a.Close()
	_ = b.Close()
}

func heads(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{Hanzod1: true}, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	a, b := e.Open(t, false)
	for _, status := range []int{103, 200} {
		if err := b.SendHead(wire.ResponseHeadBody{Status: status, Headers: [][2]string{{"x", "y"}}, Final: status == 200}); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = b.Write([]byte("body"))
	_ = b.CloseWrite()
	for _, status := range []int{103, 200} {
		if head, err := a.Head(ctx); err != nil || head.Status != status || head.Final != (status == 200) || head.Headers[0] != [2]string{"x", "y"} {
			t.Errorf("%+v, %v", head, err)
		}
	}
	if got, err := io.ReadAll(a); string(got) != "body" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = a.Close()
	_ = b.Close()
	a, b = e.Open(t, true)
	if err := errors.Join(b.Accept("127.0.0.1:22"), b.SendControl([]byte(`{"op":"exit"}`))); err != nil {
		t.Fatal(err)
	}
	if where, err := a.Accepted(ctx); err != nil || where != "127.0.0.1:22" {
		t.Errorf("%q, %v", where, err)
	}
	if got, err := a.Control(ctx); err != nil || string(got) != `{"op":"exit"}` {
		t.Errorf("%q, %v", got, err)
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	if _, err := a.Control(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a control message that never came: %v", err)
	}
	_ = a.Close()
	_ = b.Close()
}

// bulkBytes is how much goes in each direction.
func bulkBytes() int {
	if os.Getenv("ROBUST") != "" {
		return 64 << 20
	}
	return 8 << 20
}

func bulk(t *testing.T, pair Pair, cfg mux.Config) {
	e := Connect(t, pair, cfg, 1)
	a, b := e.Open(t, false)
	size := bulkBytes()
	var wg sync.WaitGroup
	for i, end := range []*mux.Stream{a, b} {
		var sent [32]byte
		wg.Go(func() {
			source := rand.NewChaCha8([32]byte{byte(i)})
			h := sha256.New()
			_, err := end.ReadFrom(io.TeeReader(io.LimitReader(source, int64(size)), h))
			if err != nil {
				t.Error(err)
			}
			h.Sum(sent[:0])
			_ = end.CloseWrite()
		})
		wg.Go(func() {
			other := []*mux.Stream{b, a}[i]
			h := sha256.New()
			n, err := other.WriteTo(h)
			if err != nil || n != int64(size) {
				t.Errorf("%d of %d bytes, %v", n, size, err)
			}
			want := sha256.New()
			_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{byte(i)}), int64(size))
			if string(h.Sum(nil)) != string(want.Sum(nil)) {
				t.Error("other bytes arrived")
			}
		})
	}
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
	if got := e.Server.Stats(); got.Out != uint64(size) || got.In != uint64(size) || got.Queued != 0 || got.Held != 0 {
		t.Errorf("%+v", got)
	}
}

func fair(t *testing.T, pair Pair) {
	// Twice as many streams nobody reads as would fill the session's window.
	cfg := mux.Config{StreamWindow: wire.MinStreamWindow, SessionWindow: wire.MinSessionWindow}
	e := Connect(t, pair, cfg, 1)
	for range 8 {
		a, _ := e.Open(t, false)
		go func() { _, _ = a.Write(make([]byte, 1<<20)) }()
	}
	// Each of those that are read gets on, whatever the machine does meanwhile; how equal their shares are is for
	// benchmarks.
	const streams, enough = 10, 1 << 20
	done := make(chan error, streams)
	for range streams {
		a, b := e.Open(t, false)
		go func() {
			for {
				if _, err := a.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		go func() {
			_, err := io.CopyN(io.Discard, b, enough)
			if err == nil {
				_ = b.Reset(wire.CodeCancel, "")
			}
			done <- err
		}()
	}
	for range streams {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(limit):
			t.Fatal("streams that are read wait for those that are not")
		}
	}
}

func shards(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{Hanzod1: true}, 3)
	var on [3]*mux.Stream
	var peers [3]*mux.Stream
	for i := range on {
		st, err := e.Server.OpenOn(t.Context(), i, wire.StreamOpenBody{Kind: "tcp"})
		if err != nil {
			t.Fatal(err)
		}
		on[i], peers[i] = st, <-e.AtClient
		_ = st.SetDeadline(time.Now().Add(limit))
		_ = peers[i].SetDeadline(time.Now().Add(limit))
		if st.Index() != i || peers[i].Index() != i {
			t.Errorf("stream on %d and %d, not %d", st.Index(), peers[i].Index(), i)
		}
		go func(i int) {
			_, _ = io.Copy(peers[i], peers[i])
			_ = peers[i].Close()
		}(i)
	}
	if _, err := e.Server.OpenOn(t.Context(), 7, wire.StreamOpenBody{Kind: "tcp"}); !errors.Is(err, mux.ErrCarrier) {
		t.Errorf("opened on a carrier that is not there: %v", err)
	}
	check := func(i int) error {
		want := make([]byte, 200_000)
		go func() { _, _ = on[i].Write(want) }()
		_, err := io.ReadFull(on[i], make([]byte, len(want)))
		return err
	}
	for i := range on {
		if err := check(i); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.Client.Carriers(); got != 3 {
		t.Errorf("%d carriers", got)
	}
}

func drain(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{}, 1)
	a, b := e.Open(t, false)
	if err := e.Server.GoAway(wire.CodeNone, "admin kill", time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Server.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"}); !errors.Is(err, mux.ErrGoingAway) {
		t.Errorf("opened after GOAWAY: %v", err)
	}
	await(t, "GOAWAY", func() bool {
		_, err := e.Client.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"})
		return errors.Is(err, mux.ErrGoingAway)
	})
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Server.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained with a stream: %v", err)
	}
	go func() {
		_, _ = io.Copy(b, b)
		_ = b.Close()
	}()
	_, _ = a.Write([]byte("the rest"))
	_ = a.CloseWrite()
	if got, err := io.ReadAll(a); err != nil || string(got) != "the rest" {
		t.Errorf("%q, %v", got, err)
	}
	_ = a.Close()
	ctx, stop := context.WithTimeout(t.Context(), limit)
	defer stop()
	if err := e.Server.Drain(ctx); err != nil {
		t.Error(err)
	}
	_ = e.Server.Close(1000, "bye")
	select {
	case err := <-e.LostClient:
		var closed *mux.CloseError
		if !errors.As(err, &closed) || closed.Code != 1000 || closed.Reason != "bye" {
			t.Errorf("closed with %v", err)
		}
	case <-time.After(limit):
		t.Fatal("the client does not learn of the close")
	}
	if err := <-e.LostServer; !errors.Is(err, mux.ErrClosed) {
		t.Errorf("the server lost %v", err)
	}
}

func deadlines(t *testing.T, pair Pair) {
	e := Connect(t, pair, mux.Config{StreamWindow: wire.MinStreamWindow, SessionWindow: wire.MinSessionWindow}, 1)
	a, b := e.Open(t, true)
	_ = a.SetDeadline(time.Now().Add(30 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: %v", err)
	}
	if _, err := a.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing: %v", err)
	}
	_ = a.SetDeadline(time.Time{})
	go func() { _, _ = io.Copy(io.Discard, b) }()
	_ = a.SetDeadline(time.Now().Add(limit))
	if _, err := a.Write(make([]byte, 1<<20)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	_ = a.Close()
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
