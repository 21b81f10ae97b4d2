package mux

import (
	"io"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// gate is a sink that says what it is given, and takes it when it is told to.
type gate struct{ got, take chan int }

func (g *gate) Write(p []byte) (int, error) {
	g.got <- len(p)
	<-g.take
	return len(p), nil
}

// A sink that takes one frame and is slow with the next earns credit for the first: who has none left would wait for
// both.
func TestCreditOfASlowSink(t *testing.T) {
	for name, cfg := range map[string]Config{
		"a published driver": {StreamWindow: wire.MinStreamWindow, SessionWindow: 4 * wire.MinStreamWindow},
		"hanzod.1":           {StreamWindow: wire.MinStreamWindow, SessionWindow: 4 * wire.MinStreamWindow, Hanzod1: true},
		"the default":        {},
	} {
		t.Run(name, func(t *testing.T) {
			streams := make(chan *Stream, 1)
			cfg.Open = func(st *Stream, _ wire.StreamOpenBody) error { streams <- st; return nil }
			s, r, _ := against(t, cfg)
			window := int(s.cfg.StreamWindow)
			if err := r.send(open(1)); err != nil {
				t.Fatal(err)
			}
			st := <-streams
			piece := make([]byte, wire.MaxPayload)
			for range window / len(piece) {
				if err := r.send(wire.Append(nil, wire.Data, 1, piece)); err != nil {
					t.Fatal(err)
				}
			}
			for end := time.Now().Add(wait); s.Stats().Held < int64(window); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes arrived", s.Stats().Held)
				}
			}
			g := &gate{make(chan int, 64), make(chan int)}
			over := make(chan struct{})
			go func() {
				defer close(over)
				_, _ = io.Copy(g, st)
			}()
			// The sink has taken a quarter of the window and holds the rest up.
			for taken := 0; taken < window/4; taken += len(piece) {
				<-g.got
				g.take <- 0
			}
			<-g.got
			back := 0
			for back < window/4 {
				if f := r.until(wire.Window); f.Stream == 1 {
					back += int(wire.ParseWindow(f.Payload))
				}
			}
			close(g.take)
			_ = st.Reset(wire.CodeCancel, "")
			<-over
		})
	}
}

// Streams whose reader does nothing cost their windows and little more, in whatever pieces the other end sends.
func TestMemoryOfBusyStreams(t *testing.T) {
	const streams = 32
	const window = wire.StreamWindow / 4
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what is in pools goes with the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for name, piece := range map[string]int{"whole frames": wire.MaxPayload, "odd frames": 40_000, "some": 4000, "small": 100, "single bytes": 1} {
		t.Run(name, func(t *testing.T) {
			part := window
			if piece == 1 {
				part = 32 << 10
			}
			got := 0
			s, r, _ := against(t, Config{StreamWindow: window, SessionWindow: streams * window, Open: func(*Stream, wire.StreamOpenBody) error { got++; return nil }})
			before := heap()
			for i := range uint32(streams) {
				if err := r.send(open(2*i + 1)); err != nil {
					t.Fatal(err)
				}
			}
			m := make([]byte, 0, wire.MaxMessage)
			for left := part; left > 0; {
				for i := range uint32(streams) {
					m = m[:0]
					for n, frames := left, 0; n > 0 && frames < wire.MaxFrames && len(m)+wire.HeaderSize+piece <= wire.MaxMessage; frames++ {
						size := min(n, piece)
						m = append(wire.AppendHeader(m, wire.Data, 2*i+1, size), make([]byte, size)...)
						n -= size
						if i == streams-1 {
							left = n
						}
					}
					if err := r.send(m); err != nil {
						t.Fatal(err)
					}
				}
			}
			for end := time.Now().Add(wait); s.Stats().Held < streams*int64(part); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes arrived", s.Stats().Held)
				}
			}
			grown := heap() - before
			each := (grown - streams*int64(part)) / streams
			t.Logf("%d bytes each beside what was sent", each)
			if each > 20<<10 && grown > streams*(window+20<<10) {
				t.Errorf("%d streams with %d bytes take %d, %d each beside those", streams, part, grown, each)
			}
		})
	}
}
