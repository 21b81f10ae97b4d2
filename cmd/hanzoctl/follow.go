package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
)

const (
	// followFirst and followMax bound the pauses before a stream is opened again. A daemon that restarts is
	// there within a second, and a network that comes back is noticed as soon.
	followFirst = 50 * time.Millisecond
	followMax   = time.Second
)

// follow is each for a stream without an end of its own: where the daemon or the network goes away, it
// says so on stderr and opens the stream again, until ctx ends. open is told whether it is called again.
// The first stream has to come about; and what no retry mends ends it.
func follow[M any, P interface {
	*M
	proto.Message
}](ctx context.Context, a *app, count int, open func(ctx context.Context, again bool) (grpc.ServerStreamingClient[M], error), f func(P) error) error {
	left, heard, away := count, false, false
	pause := followFirst
	var told error // what f returned
	for {
		err := func() error {
			ctx, cancel := context.WithCancel(ctx) // ends the stream, however this ends
			defer cancel()
			s, err := open(ctx, heard)
			if err != nil {
				return err
			}
			// The daemon answers a watch before anything happens: that is when it is there again.
			md, err := s.Header()
			if err != nil {
				return err
			}
			if len(md) > 0 { // a stream that ended before it began has none, and Recv says why
				if away {
					fmt.Fprintln(a.stderr, "the daemon is back")
				}
				heard, away, pause = true, false, followFirst
			}
			for {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				if told = f(m); told != nil {
					return told
				}
				if left--; left == 0 {
					return nil
				}
			}
		}()
		switch {
		case err == nil, told != nil:
			return err
		case ctx.Err() != nil, !heard:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case !errors.Is(err, io.EOF) && !client.Passing(err):
			return err
		case !away:
			away = true
			fmt.Fprintln(a.stderr, "the daemon is away; trying again until interrupted")
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
		pause = min(2*pause, followMax)
	}
}
