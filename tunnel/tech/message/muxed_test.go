package message

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"
)

// two are the ends of a channel on a link in memory.
func two(t *testing.T, credit bool) (a, b *Muxed) {
	t.Helper()
	closing := func(other **Muxed) func(error) {
		return func(err error) {
			p := ChannelClose{}
			if err != nil {
				p.Error = err.Error()
			}
			if credit {
				(*other).Put(Of(TypeChannelClose, p, nil))
			}
		}
	}
	a = NewMuxed(func(_ context.Context, e json.RawMessage) error { b.Take(e); return nil }, credit, closing(&b))
	b = NewMuxed(func(_ context.Context, e json.RawMessage) error { a.Take(e); return nil }, credit, closing(&a))
	return a, b
}

// Who does not read stops who sends after one window, and nothing is lost.
func TestMuxedCredit(t *testing.T) {
	a, b := two(t, true)
	const pieces = 40
	sent := make(chan int, pieces)
	go func() {
		for i := range pieces {
			if err := a.Send(context.Background(), Of(TypeFileChunk, FileChunk{Offset: int64(i)}, bytes.Repeat([]byte{byte(i)}, 100<<10))); err != nil {
				t.Error(err)
			}
			sent <- i
		}
		_ = a.Close(nil)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for len(sent) < 5 {
		if ctx.Err() != nil {
			t.Fatal("not even a window goes out")
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := len(sent); n != 5 {
		t.Fatalf("%d pieces of 100 KiB went out, the window has 512 KiB", n)
	}
	for i := range pieces {
		m, err := b.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var p FileChunk
		if err := m.Into(&p); err != nil || p.Offset != int64(i) || !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(i)}, 100<<10)) {
			t.Fatalf("piece %d: %s, %d bytes, %v", i, m.Payload, len(m.Data), err)
		}
		if bytes.Contains(m.Payload, []byte("data_b64")) {
			t.Fatal("the bytes stand in the payload, too")
		}
	}
	if _, err := b.Receive(ctx); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// An end says why, on both sides, and ends what waits.
func TestMuxedClose(t *testing.T) {
	a, b := two(t, true)
	waits := make(chan error, 1)
	go func() {
		_, err := b.Receive(context.Background())
		waits <- err
	}()
	_ = a.Close(errors.New("the session was taken over"))
	if err := <-waits; err == nil || err.Error() != "the session was taken over" {
		t.Error(err)
	}
	if err := b.Send(context.Background(), Message{Type: TypeInput}); err == nil {
		t.Error("sent on a closed channel")
	}
	if _, err := a.Receive(context.Background()); err == nil {
		t.Error("received on a closed channel")
	}
	a, _ = two(t, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Receive(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Without credit a channel that nobody reads ends, and only it.
func TestMuxedBehind(t *testing.T) {
	var why error
	x := NewMuxed(nil, false, func(err error) { why = err })
	m := Message{Type: TypeChunk, Data: make([]byte, MaxData)}
	for range MaxWaiting/MaxData - 1 {
		x.Put(m)
	}
	if why != nil {
		t.Fatal("it ended with room left")
	}
	x.Put(m)
	x.Put(m)
	if _, err := x.Receive(context.Background()); !errors.Is(err, ErrBehind) || !errors.Is(why, ErrBehind) {
		t.Errorf("%v, %v", err, why)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"type":"terminal","payload":{"command":"ls -la"}}`))
	f.Add([]byte(`{"type":"file_chunk","payload":{"offset":1,"data_b64":"AAEC"}}`))
	f.Add([]byte(`{"type":"x","payload":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := FromEnvelope(text)
		if err != nil {
			return
		}
		out, err := Envelope(m)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := FromEnvelope(out)
		if err != nil || again.Type != m.Type || !bytes.Equal(again.Data, m.Data) {
			t.Fatalf("%q: %q: %v", text, out, err)
		}
	})
}
