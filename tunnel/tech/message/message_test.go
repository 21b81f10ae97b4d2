package message_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// cut is a pipe whose other side has written all, in pieces.
type cut struct {
	bytes.Buffer
	pieces [][]byte
}

func (c *cut) Close(error) error { return nil }

func (c *cut) Piece() ([]byte, error) {
	if len(c.pieces) == 0 {
		return nil, io.EOF
	}
	p := c.pieces[0]
	c.pieces = c.pieces[1:]
	return p, nil
}

// Messages come as they were sent, however the pipe has cut them; each is its receiver's alone.
func TestPieces(t *testing.T) {
	sent := []message.Message{
		{Type: message.TypeInput, Data: []byte("x")},
		message.Of(message.TypeFileChunk, message.FileChunk{Offset: 1}, bytes.Repeat([]byte("ab"), message.MaxData/2)),
		{Type: message.TypeClose},
		message.Of(message.TypeChunk, struct{}{}, []byte("shown")),
	}
	var all cut
	to := message.Over(&all)
	for _, m := range sent {
		if err := to.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	text := all.Bytes()
	for _, most := range []int{1, 7, 9, 64, 4096, message.MaxData, len(text)} {
		c := &cut{}
		for rest := bytes.Clone(text); len(rest) > 0; {
			n := most
			if most > 1 && most < len(text) {
				n = rand.IntN(most) // 0 is an empty piece
			}
			n = min(n, len(rest))
			c.pieces, rest = append(c.pieces, rest[:n:n]), rest[n:]
		}
		from := message.Over(c)
		var got []message.Message
		for {
			m, err := from.Receive(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("pieces of up to %d: %v", most, err)
			}
			got = append(got, m)
		}
		if len(got) != len(sent) {
			t.Fatalf("pieces of up to %d: %d messages", most, len(got))
		}
		for i := range got { // what is appended to one does not reach the next
			_ = append(got[i].Data, "overwritten"...)
		}
		for i, m := range got {
			if m.Type != sent[i].Type || !bytes.Equal(m.Data, sent[i].Data) || string(m.Payload) != string(sent[i].Payload) {
				t.Errorf("pieces of up to %d: message %d came as %s %s and %d bytes", most, i, m.Type, m.Payload, len(m.Data))
			}
		}
	}
	half := message.Over(&cut{pieces: [][]byte{text[:5]}})
	if _, err := half.Receive(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a message: %v", err)
	}
}
