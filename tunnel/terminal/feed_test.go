package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// byteAt is what the tests write at a place, so that any byte out of place is seen.
func byteAt(seq int64) byte { return byte(seq*31 + seq>>8 + seq>>16) }

func run(from int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byteAt(from + int64(i))
	}
	return b
}

func attach(t interface{ Fatal(...any) }, f *Feed, seq, window int64) *Viewer {
	v, err := f.Attach(seq, window)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// now is a context that has ended: what would wait fails instead.
func now() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func check(t interface{ Fatalf(string, ...any) }, p Piece) {
	if !bytes.Equal(p.Data, run(p.Seq, len(p.Data))) {
		t.Fatalf("bytes at %d are not those that were written there", p.Seq)
	}
}

// The feed against a model: everything that was ever written, and where each viewer stands.
func TestFeedIsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Int64Range(0, 3*Ring).Draw(t, "first")
		f := NewFeed(first)
		type model struct {
			v                  *Viewer
			pos, acked, window int64
		}
		var viewers []*model
		start, end := first, first
		ended := false
		furthest := func(most int64) int64 {
			at := int64(-1)
			for _, m := range viewers {
				taken := m.pos
				if m.window > 0 {
					taken = m.acked
				}
				at = max(at, min(taken, most))
			}
			return at
		}
		fastest := func() int64 { return furthest(end) }
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				n := rapid.IntRange(0, Ring+Ring/2).Draw(t, "n")
				written, err := f.Write(now(), run(end, n))
				// A viewer may wait at a number that is not there yet. Once it is, there is more room, of which a write that
				// is told to end may still make use.
				room, most := int64(n), int64(n)
				if len(viewers) > 0 {
					room = min(room, max(fastest()+Ahead-end, 0))
					most = min(most, max(furthest(math.MaxInt64)+Ahead-end, 0))
				}
				switch {
				case ended:
					if !errors.Is(err, ErrEnded) {
						t.Fatalf("a write after the end: %v", err)
					}
					return
				case int64(written) < room || int64(written) > most || (written < n) != (err != nil):
					t.Fatalf("wrote %d of %d with room for %d to %d: %v", written, n, room, most, err)
				}
				end += int64(written)
				start = max(start, end-Ring)
			},
			"put": func(t *rapid.T) {
				n := rapid.IntRange(0, 2*Ring).Draw(t, "n")
				if err := f.Put(run(end, n)); (err != nil) != ended {
					t.Fatal(err)
				}
				if !ended {
					end += int64(n)
					start = max(start, end-Ring)
				}
			},
			"skip": func(t *rapid.T) {
				n := rapid.Int64Range(1, 2*Ring).Draw(t, "n")
				err := f.Skip(now(), n)
				if waits := len(viewers) > 0 && fastest() != end; ended || waits {
					if err == nil {
						t.Fatal("skipped what must wait")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				end += n
				start = end
			},
			"attach": func(t *rapid.T) {
				window := rapid.SampledFrom([]int64{0, 0, 1, 1000, 64 << 10}).Draw(t, "window")
				seq := rapid.OneOf(rapid.Int64Range(-2, -1), rapid.Int64Range(0, end+10)).Draw(t, "seq")
				v, err := f.Attach(seq, window)
				if len(viewers) == MaxViewers {
					if !errors.Is(err, ErrViewers) {
						t.Fatalf("a viewer too many: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				pos := seq
				switch seq {
				case FromStart:
					pos = start
				case FromEnd:
					pos = end
				}
				viewers = append(viewers, &model{v, pos, pos, window})
			},
			"next": func(t *rapid.T) {
				if len(viewers) == 0 {
					return
				}
				m := rapid.SampledFrom(viewers).Draw(t, "viewer")
				buf := make([]byte, rapid.IntRange(1, Ring+1).Draw(t, "buf"))
				p, err := m.v.Next(now(), buf)
				missed := max(start-m.pos, 0)
				if missed > 0 {
					m.pos = start
					m.acked = max(m.acked, m.pos-m.window)
				}
				n := min(max(end-m.pos, 0), int64(len(buf)))
				if m.window > 0 {
					n = max(min(n, m.acked+m.window-m.pos), 0)
				}
				if n == 0 && missed == 0 {
					if eof := errors.Is(err, io.EOF); err == nil || eof != (ended && m.pos >= end) {
						t.Fatalf("nothing to read: %v", err)
					}
					return
				}
				if err != nil || p.Missed != missed || p.Seq != m.pos || int64(len(p.Data)) != n {
					t.Fatalf("got %d missed, %d bytes at %d, %v; want %d missed, %d at %d", p.Missed, len(p.Data), p.Seq, err, missed, n, m.pos)
				}
				check(t, p)
				m.pos += n
			},
			"ack": func(t *rapid.T) {
				if len(viewers) == 0 {
					return
				}
				m := rapid.SampledFrom(viewers).Draw(t, "viewer")
				seq := rapid.Int64Range(0, end+5).Draw(t, "seq")
				m.v.Ack(seq)
				m.acked = max(m.acked, min(seq, m.pos))
			},
			"detach": func(t *rapid.T) {
				if len(viewers) == 0 {
					return
				}
				i := rapid.IntRange(0, len(viewers)-1).Draw(t, "viewer")
				viewers[i].v.Detach()
				if _, err := viewers[i].v.Next(now(), make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
					t.Fatalf("a detached viewer reads: %v", err)
				}
				viewers = append(viewers[:i], viewers[i+1:]...)
			},
			"end": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					f.End(Exit{})
					ended = true
				}
			},
			"": func(t *rapid.T) {
				if s, e := f.Range(); e != end || s != start {
					t.Fatalf("keeps [%d,%d), want [%d,%d)", s, e, start, end)
				}
				if len(f.buf) > Ring {
					t.Fatalf("the ring has %d bytes", len(f.buf))
				}
				if f.Viewers() != len(viewers) {
					t.Fatalf("%d viewers, want %d", f.Viewers(), len(viewers))
				}
			},
		})
	})
}

// One slow viewer stops the writer and loses nothing; memory stays that of one ring.
func TestFeedOneSlowViewerLosesNothing(t *testing.T) {
	const total = 8 << 20
	f := NewFeed(0)
	v := attach(t, f, 0, 0)
	go func() {
		for seq := int64(0); seq < total; {
			n := min(1+rand.IntN(70_000), int(total-seq))
			if _, err := f.Write(context.Background(), run(seq, n)); err != nil {
				t.Error(err)
			}
			seq += int64(n)
		}
		code := 3
		f.End(Exit{Code: &code})
	}()
	var at int64
	buf := make([]byte, 10_000)
	for {
		p, err := v.Next(t.Context(), buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || p.Missed > 0 || p.Seq != at {
			t.Fatalf("at %d: %+v, %v", at, p.Missed, err)
		}
		check(t, p)
		at += int64(len(p.Data))
		if at%7 == 0 {
			runtime.Gosched()
		}
	}
	if e, ended := f.Exit(); at != total || !ended || *e.Code != 3 {
		t.Fatalf("read %d bytes, exit %+v", at, e)
	}
}

// The fastest sets the pace; a stalled one is told what it missed and then goes on in order.
func TestFeedStalledViewerStallsNobody(t *testing.T) {
	const total = 4 << 20
	f := NewFeed(0)
	fast, stalled := attach(t, f, 0, 0), attach(t, f, 0, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			p, err := fast.Next(context.Background(), buf)
			if err != nil {
				return
			}
			if p.Missed > 0 {
				t.Error("the fastest missed something")
			}
		}
	})
	for seq := int64(0); seq < total; seq += 1 << 10 {
		if _, err := f.Write(t.Context(), run(seq, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	f.End(Exit{})
	wg.Wait()
	p, err := stalled.Next(t.Context(), make([]byte, Ring))
	if err != nil || p.Missed != total-Ring || p.Seq != total-Ring || len(p.Data) != Ring {
		t.Fatalf("missed %d, %d bytes at %d, %v", p.Missed, len(p.Data), p.Seq, err)
	}
	check(t, p)
}

// A writer that waits goes on when the viewer it waits for leaves, and when the feed ends.
func TestFeedWriterIsFreed(t *testing.T) {
	for name, free := range map[string]func(f *Feed, v *Viewer){
		"detach": func(_ *Feed, v *Viewer) { v.Detach() },
		"end":    func(f *Feed, _ *Viewer) { f.End(Exit{}) },
		"ack":    func(_ *Feed, v *Viewer) { v.Ack(Ahead) },
		"faster": func(f *Feed, _ *Viewer) { _, _ = f.Attach(FromEnd, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFeed(0)
			v := attach(t, f, 0, Ring)
			if _, err := f.Write(t.Context(), run(0, Ahead)); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Next(t.Context(), make([]byte, Ahead)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := f.Write(context.Background(), run(Ahead, 10))
				done <- err
			}()
			select {
			case err := <-done:
				t.Fatal("did not wait: ", err)
			case <-time.After(20 * time.Millisecond):
			}
			free(f, v)
			if err := <-done; err != nil && name != "end" {
				t.Fatal(err)
			}
		})
	}
}

// The place of a viewer that lost its connection holds the pace, until it is taken or its time is over.
func TestFeedParkedPlace(t *testing.T) {
	f := NewFeed(0)
	v := attach(t, f, 0, 0)
	v.Park(time.Hour)
	if _, err := v.Next(t.Context(), make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) || f.Viewers() != 0 {
		t.Fatal("a parked viewer reads: ", err)
	}
	if n, err := f.Write(now(), run(0, Ring)); n != Ahead || err == nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	w := attach(t, f, 0, 0)
	if n, _ := f.Write(now(), run(Ahead, 10)); n != 0 {
		t.Fatal("the place was given up")
	}
	if p, err := w.Next(t.Context(), make([]byte, Ring)); err != nil || len(p.Data) != Ahead || p.Missed != 0 {
		t.Fatal(len(p.Data), p.Missed, err)
	}
	w.Park(10 * time.Millisecond)
	if n, err := f.Write(t.Context(), run(Ahead, 2*Ring)); n != 2*Ring || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
}

func BenchmarkFeed(b *testing.B) {
	f := NewFeed(0)
	v, err := f.Attach(0, 0)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 32<<10)
		for {
			if _, err := v.Next(context.Background(), buf); err != nil {
				return
			}
		}
	}()
	p := run(0, 4<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := f.Write(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
	f.End(Exit{})
	<-done
}
