package tech_test

import (
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// moves sends pieces of a file both ways, and returns how long that took.
func (w *world) moves(j *tech.Joined, node *conn, pieces int) time.Duration {
	w.t.Helper()
	data := make([]byte, message.MaxData)
	began := time.Now()
	for i := range pieces {
		at := int64(i * len(data))
		if err := j.Send(w.t.Context(), message.Of(message.TypeWrite, message.FileWrite{Path: "/srv/up", Upload: "upload-1", Offset: at}, data)); err != nil {
			w.t.Fatal(err)
		}
		<-node.in
		node.out <- message.Of(message.TypeFileChunk, message.FileChunk{Offset: at}, data)
		if m, err := j.Receive(w.t.Context()); err != nil || len(m.Data) != len(data) {
			w.t.Fatal(len(m.Data), err)
		}
	}
	return time.Since(began)
}

// Files go as fast as they can, but not beside somebody who types.
func TestFilesLeaveRoomForKeys(t *testing.T) {
	w := newWorld(t)
	r := w.open(alice, tech.OpenIn{})
	file, term := w.join(alice, r.ID, message.File, "f"), w.join(alice, r.ID, message.Terminal, "t")
	node := w.n.last().conn("f")
	const pieces = 60
	// 31 MB take 655 ms at 48 MB/s, and what may be made good at once takes 5 ms from that.
	const least = 630 * time.Millisecond
	free := w.moves(file, node, pieces)
	if err := term.Send(t.Context(), message.Message{Type: message.TypeInput, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if beside := w.moves(file, node, pieces); beside < least {
		t.Errorf("beside a key it took %v, without one %v", beside, free)
	}
	if free > least/2 {
		t.Logf("a slow machine: %v without a key", free)
	}
	began := time.Now()
	if err := term.Send(t.Context(), message.Message{Type: message.TypeInput, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > least/2 {
		t.Errorf("a key took %v", took)
	}
}
