package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

const wait = 30 * time.Second

// raw is the other end of a session's carrier, which says what it likes.
type raw struct {
	t *testing.T
	c Carrier
}

// against starts a session with a raw peer, and checks at the end that nothing of it is left.
func against(t *testing.T, cfg Config) (*Session, *raw, chan error) {
	before := runtime.NumGoroutine()
	lost := make(chan error, 16)
	cfg.Lost = func(_ int, err error) { lost <- err }
	s := New(cfg)
	a, b := Pipe()
	if err := s.Add(0, a, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.Close(0, "")
		_ = s.Close(0, "")
		s.Wait()
		if got := s.Stats(); s.Streams() != 0 || got.Queued != 0 {
			t.Errorf("%d streams, %+v", s.Streams(), got)
		}
		for end := time.Now().Add(wait); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
				return
			}
		}
	})
	return s, &raw{t, b}, lost
}

func (r *raw) send(frames ...[]byte) error { return r.c.Write(net.Buffers(frames)) }

// next returns the frames of the next message.
func (r *raw) next() []wire.Frame {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	defer cancel()
	m, err := r.c.Read(ctx)
	if err != nil {
		r.t.Fatalf("no message: %v", err)
	}
	var out []wire.Frame
	for len(m) > 0 {
		f, rest, err := wire.Next(m)
		if err != nil {
			r.t.Fatal(err)
		}
		f.Payload = append([]byte(nil), f.Payload...)
		out, m = append(out, f), rest
	}
	return out
}

// until reads until a frame of the type, and returns it.
func (r *raw) until(t wire.Type) wire.Frame {
	r.t.Helper()
	for {
		for _, f := range r.next() {
			if f.Type == t {
				return f
			}
		}
	}
}

// away reads until GOAWAY and checks its code, and then that the carrier is closed with a code.
func (r *raw) away(want wire.Code, code int) {
	r.t.Helper()
	var body wire.GoAwayBody
	if err := wire.Decode(r.until(wire.GoAway).Payload, &body); err != nil || body.Code != want {
		r.t.Errorf("GOAWAY %+v, %v, want %d", body, err, want)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	defer cancel()
	for {
		_, err := r.c.Read(ctx)
		if err == nil {
			continue
		}
		var closed *CloseError
		if !errors.As(err, &closed) || closed.Code != code {
			r.t.Errorf("closed with %v, want %d", err, code)
		}
		return
	}
}

func frame(t wire.Type, stream uint32, payload string) []byte {
	return wire.Append(nil, t, stream, []byte(payload))
}

func open(stream uint32) []byte { return frame(wire.StreamOpen, stream, `{"kind":"tcp"}`) }

func keep(*Stream, wire.StreamOpenBody) error { return nil }

func TestViolationsEndTheSession(t *testing.T) {
	big := strings.Repeat("x", wire.MaxPayload)
	small := Config{Open: keep, StreamWindow: wire.MinStreamWindow, SessionWindow: wire.MinStreamWindow}
	client := Config{Client: true, Open: keep}
	for _, c := range []struct {
		name  string
		cfg   Config
		send  [][]byte
		code  wire.Code
		close int
	}{
		{"an even id at a server", Config{Open: keep}, [][]byte{open(2)}, wire.CodeProtocol, 1002},
		{"an odd id at a client", client, [][]byte{open(3)}, wire.CodeProtocol, 1002},
		{"an id again", client, [][]byte{open(4), open(4)}, wire.CodeProtocol, 1002},
		{"a falling id", client, [][]byte{open(4), open(2)}, wire.CodeProtocol, 1002},
		{"stream 0", client, [][]byte{open(0)}, wire.CodeProtocol, 1002},
		{"DATA of no stream", client, [][]byte{frame(wire.Data, 2, "x")}, wire.CodeProtocol, 1002},
		{"DATA of a stream to come", client, [][]byte{frame(wire.Data, 1, "x")}, wire.CodeProtocol, 1002},
		{"an increment of nothing", client, [][]byte{wire.AppendWindow(nil, 0, 0)}, wire.CodeProtocol, 1002},
		{"credit above the session's", client, [][]byte{wire.AppendWindow(nil, 0, 1)}, wire.CodeFlowControl, 1002},
		{"credit above the stream's", client, [][]byte{open(2), wire.AppendWindow(nil, 2, 1)}, wire.CodeFlowControl, 1002},
		{"DATA above the session's", small, [][]byte{open(1), open(3), frame(wire.Data, 1, big), frame(wire.Data, 3, big), frame(wire.Data, 3, "x")}, wire.CodeFlowControl, 1002},
		{"an unknown frame", client, [][]byte{frame(0x17, 0, "")}, wire.CodeProtocol, 1002},
		{"a mandatory frame", client, [][]byte{frame(0x81, 0, "")}, wire.CodeProtocol, 1002},
		{"a frame too large", client, [][]byte{[]byte("\x12\x00\x00\x00\x02\x00\x01\x00\x01")}, wire.CodeFrameSize, 1002},
		{"HELLO in the middle", client, [][]byte{frame(wire.Hello, 0, "{}")}, wire.CodeProtocol, 1002},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, r, lost := against(t, c.cfg)
			if err := r.send(c.send...); err != nil {
				t.Fatal(err)
			}
			r.away(c.code, c.close)
			var e *SessionError
			if err := <-lost; !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("lost with %v", err)
			}
			if _, err := s.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"}); err == nil {
				t.Error("opened a stream")
			}
		})
	}
}

func TestStreamErrorsCostTheStreamOnly(t *testing.T) {
	streams := make(chan *Stream, 16)
	_, r, _ := against(t, Config{Hanzod1: true, StreamWindow: wire.MinStreamWindow, SessionWindow: 1 << 20, Open: func(st *Stream, _ wire.StreamOpenBody) error {
		streams <- st
		return nil
	}})
	big := strings.Repeat("x", wire.MaxPayload)
	for i, c := range []struct {
		code wire.Code
		send [][]byte
	}{
		{wire.CodeFlowControl, [][]byte{frame(wire.Data, 1, big), frame(wire.Data, 1, big), frame(wire.Data, 1, "x")}},
		{wire.CodeStreamClosed, [][]byte{frame(wire.EOF, 3, ""), frame(wire.Data, 3, "x")}},
		{wire.CodeStreamClosed, [][]byte{frame(wire.EOF, 5, ""), frame(wire.EOF, 5, "")}},
		{wire.CodeProtocol, [][]byte{frame(wire.ResponseHead, 7, "{")}},
		{wire.CodeProtocol, [][]byte{frame(wire.ResponseHead, 9, `{"status":200,"headers":[],"final":true}`), frame(wire.ResponseHead, 9, `{"status":200,"headers":[],"final":true}`)}},
		{wire.CodeCalm, func() (all [][]byte) {
			for range maxControls - 2 {
				all = append(all, frame(wire.StreamControl, 11, "{}"))
			}
			return all
		}()},
	} {
		id := uint32(2*i + 1)
		if err := r.send(append([][]byte{open(id)}, c.send...)...); err != nil {
			t.Fatal(err)
		}
		if c.code == wire.CodeCalm {
			_ = r.send(c.send[:3]...)
		}
		f := r.until(wire.Reset)
		if code, reason := wire.ParseReset(f.Payload); code != c.code || f.Stream != id {
			t.Errorf("stream %d: RESET %d of %d (%s), want %d", id, code, f.Stream, reason, c.code)
		}
		st := <-streams
		if _, err := io.Copy(io.Discard, st); i != 1 && i != 2 && err == nil {
			t.Errorf("stream %d: no error", id)
		}
		_ = st.Close()
	}
	// All of the session's credit is there again.
	_ = r.send(open(21))
	st := <-streams
	go func() { _, _ = io.Copy(io.Discard, st) }()
	for range 64 {
		if err := r.send(frame(wire.Data, 21, big)); err != nil {
			t.Fatal(err)
		}
		r.until(wire.Window)
	}
	_ = st.Close()
}

func TestResetIsNotAnswered(t *testing.T) {
	s, r, _ := against(t, Config{Open: keep})
	_ = r.send(open(1), frame(wire.Reset, 1, "\x00\x07why"), frame(wire.Reset, 1, "\x00\x07"), frame(wire.EOF, 1, ""), wire.AppendWindow(nil, 1, 5), frame(wire.Data, 1, "late"), frame(wire.Ping, 0, "12345678"))
	got := r.next()
	for len(got) < 2 {
		got = append(got, r.next()...)
	}
	// DATA of a stream that is gone earns credit of the session, nothing else.
	for _, f := range got {
		switch {
		case f.Type == wire.Pong && string(f.Payload) == "12345678":
		case f.Type == wire.Window && f.Stream == 0 && wire.ParseWindow(f.Payload) == 4:
		default:
			t.Errorf("sent %+v", f)
		}
	}
	if s.Streams() != 0 {
		t.Error("the stream is still there")
	}
}

func TestCreditIsReturnedInOrder(t *testing.T) {
	_, r, _ := against(t, Config{Open: func(st *Stream, _ wire.StreamOpenBody) error {
		go func() {
			_, _ = io.Copy(st, st)
			_ = st.Close()
		}()
		return nil
	}})
	_ = r.send(open(1), frame(wire.Data, 1, "hello"))
	var seen []wire.Frame
	for len(seen) < 3 {
		seen = append(seen, r.next()...)
	}
	at := func(ty wire.Type, stream uint32) int {
		for i, f := range seen {
			if f.Type == ty && f.Stream == stream {
				return i
			}
		}
		t.Fatalf("no frame %#x of %d in %+v", ty, stream, seen)
		return 0
	}
	if at(wire.Window, 1) > at(wire.Window, 0) || string(seen[at(wire.Data, 1)].Payload) != "hello" {
		t.Errorf("%+v", seen)
	}
}

func TestTenThousandOpens(t *testing.T) {
	admitted := 0
	_, r, _ := against(t, Config{MaxStreams: 8, Open: func(*Stream, wire.StreamOpenBody) error { admitted++; return nil }})
	go func() {
		for i := range uint32(10_000) {
			if r.send(open(2*i+1)) != nil {
				return
			}
		}
	}()
	f := r.until(wire.Reset)
	if code, reason := wire.ParseReset(f.Payload); code != wire.CodeExhausted || reason != "max streams exceeded" {
		t.Errorf("%d %s", code, reason)
	}
	r.away(wire.CodeCalm, 1008)
	if admitted != 8 {
		t.Errorf("%d streams were admitted", admitted)
	}
}

func TestStreamsAreCountedUntilTheyAreClosedHere(t *testing.T) {
	var all []*Stream
	taken := make(chan *Stream, 16)
	_, r, _ := against(t, Config{MaxStreams: 2, Open: func(st *Stream, _ wire.StreamOpenBody) error { taken <- st; return nil }})
	_ = r.send(open(1), frame(wire.Reset, 1, "\x00\x07"), open(3), frame(wire.Reset, 3, "\x00\x07"), open(5))
	if f := r.until(wire.Reset); f.Stream != 5 {
		t.Errorf("RESET of %d", f.Stream)
	}
	for range 2 {
		all = append(all, <-taken)
	}
	for _, st := range all {
		_ = st.Close()
	}
	_ = r.send(open(7))
	_ = (<-taken).Reset(wire.CodeRefused, "no")
	if f := r.until(wire.Reset); f.Stream != 7 {
		t.Errorf("RESET of %d", f.Stream)
	}
}

func TestFloods(t *testing.T) {
	// A peer that asks for PONGs and never reads.
	_, r, lost := against(t, Config{Open: keep})
	go func() {
		var m []byte
		for range wire.MaxFrames {
			m = wire.Append(m, wire.Ping, 0, []byte("12345678"))
		}
		for r.send(m) == nil {
		}
	}()
	select {
	case err := <-lost:
		var e *SessionError
		if !errors.As(err, &e) || e.Code != wire.CodeCalm {
			t.Errorf("lost with %v", err)
		}
	case <-time.After(wait):
		t.Fatal("PINGs without end")
	}
}

func TestGoAwayAndOn(t *testing.T) {
	s, r, _ := against(t, Config{Open: keep})
	_ = r.send(open(1), frame(wire.GoAway, 0, `{"code":0,"message":"bye"}`), open(3))
	if f := r.until(wire.Reset); f.Stream != 3 {
		t.Errorf("RESET of %d", f.Stream)
	}
	if s.Streams() != 1 {
		t.Errorf("%d streams", s.Streams())
	}
	if _, err := s.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"}); !errors.Is(err, ErrGoingAway) {
		t.Error(err)
	}
	go func() {
		for i := range uint32(10_000) {
			if r.send(open(2*i+5)) != nil {
				return
			}
		}
	}()
	r.away(wire.CodeCalm, 1008)
}

func TestAPeerThatReadsNothing(t *testing.T) {
	s, _, _ := against(t, Config{})
	st, err := s.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	_ = st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := st.Write(make([]byte, 8<<20))
	if err == nil || n > wire.StreamWindow+maxQueued {
		t.Errorf("%d bytes, %v", n, err)
	}
	if got := s.Stats(); got.Queued > maxQueued || got.Stalled == 0 && got.Out == wire.StreamWindow {
		t.Errorf("%+v", got)
	}
	_ = st.Reset(wire.CodeCancel, "")
}

func TestPongTimeout(t *testing.T) {
	_, r, lost := against(t, Config{PingEvery: 10 * time.Millisecond, PongWithin: 50 * time.Millisecond})
	f := r.until(wire.Ping)
	_ = r.send(wire.Append(nil, wire.Pong, 0, f.Payload))
	r.until(wire.Ping)
	r.away(wire.CodeIdle, 1001)
	var e *SessionError
	if err := <-lost; !errors.As(err, &e) || e.Message != "pong timeout" {
		t.Errorf("lost with %v", err)
	}
}

func TestASecondaryThatIsLost(t *testing.T) {
	s, r, lost := against(t, Config{})
	a, b := Pipe()
	if err := s.Add(1, a, nil); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	first, err := s.OpenOn(ctx, 0, wire.StreamOpenBody{Kind: "tcp"})
	second, err2 := s.OpenOn(ctx, 1, wire.StreamOpenBody{Kind: "tcp"})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	_ = b.Close(1001, "away")
	var closed *CloseError
	if err := <-lost; !errors.As(err, &closed) || closed.Code != 1001 {
		t.Errorf("lost with %v", err)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("its stream ends with %v", err)
	}
	_ = r.send(frame(wire.Data, first.ID(), "on"))
	p := make([]byte, 2)
	if _, err := io.ReadFull(first, p); err != nil || string(p) != "on" {
		t.Errorf("%q, %v", p, err)
	}
	_ = first.Close()
	_ = second.Close()
	// The index may be used again.
	a, b = Pipe()
	if err := s.Add(1, a, nil); err != nil {
		t.Error(err)
	}
	_ = b.Close(0, "")
}

func TestManyIdleStreams(t *testing.T) {
	const n = 10_000
	streams := make(chan *Stream, n)
	client := New(Config{Client: true, Hanzod1: true, MaxStreams: n, Open: func(st *Stream, _ wire.StreamOpenBody) error { streams <- st; return nil }})
	server := New(Config{Hanzod1: true, MaxStreams: n})
	a, b := Pipe()
	_ = client.Add(0, a, nil)
	_ = server.Add(0, b, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var last *Stream
	for range n {
		st, err := server.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"})
		if err != nil {
			t.Fatal(err)
		}
		last = st
	}
	var peer *Stream
	for range n {
		select {
		case peer = <-streams:
		case <-time.After(wait):
			t.Fatal("streams are missing")
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := int64(after.HeapAlloc-before.HeapAlloc) / n; each > 3000 {
		t.Errorf("a stream that does nothing takes %d bytes at both ends", each)
	}
	if peer.ID() != last.ID() {
		t.Errorf("%d and %d", peer.ID(), last.ID())
	}
	go func() { _, _ = last.Write([]byte("x")) }()
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	_ = client.Close(1000, "")
	_ = server.Close(0, "")
	client.Wait()
	server.Wait()
}
