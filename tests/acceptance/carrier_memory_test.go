//go:build unix

package acceptance

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// busyStream is what a stream may cost beside its window, busyRest what everything else may: buffers of carriers,
	// goroutines, and what the collector has not looked at yet.
	busyStream = 20 << 10
	busyRest   = 16 << 20
)

// Streams whose windows are full, because nobody reads at the target, cost their windows and little more in the real
// daemon, and all of it serves the next ones.
func TestY14BusyMemory(t *testing.T) {
	accept(t, "Y14")
	for name, x := range map[string]struct {
		capabilities            []string
		tunnels, streams, piece int
	}{
		"published windows": {[]string{}, 6, 15, maxFramePayload},
		"hanzod.1":          {[]string{"hanzod.1"}, 3, 12, maxFramePayload},
		"small frames":      {[]string{}, 3, 15, 500},
	} {
		t.Run(name, func(t *testing.T) {
			d := carrierDaemon(t, proc.Token, nil)
			sink := newHole(t)
			// What the first of everything costs is no stream's.
			first, _ := busyTunnel(t, d, sink.port, x.capabilities, 1, x.piece)
			first.write(jframe(tGoAway, object{"code": 0}))
			_ = first.ws.CloseNow() // it is over
			proc.Until(t, "the tunnel is gone", func() bool { return len(tunnelList(t, d)) == 0 })
			before := proc.Private(t, d.PID())
			used, files := permits(t, d), openFiles(t, d.PID())
			var grown [3]int64
			for round := range grown {
				var all []*rawCarrier
				held := 0
				for range x.tunnels {
					c, n := busyTunnel(t, d, sink.port, x.capabilities, x.streams, x.piece)
					all, held = append(all, c), held+n
				}
				grown[round] = proc.Private(t, d.PID()) - before
				n := x.tunnels * x.streams
				t.Logf("round %d: %d stalled streams with %d KiB in their windows: %d KiB more, %d KiB beside the windows", round, n, held>>10, grown[round]>>10, (grown[round]-int64(held))>>10)
				if bar := int64(held + n*busyStream + busyRest); grown[round] > bar {
					t.Errorf("%d KiB more, at most %d KiB are allowed", grown[round]>>10, bar>>10)
				}
				for _, c := range all {
					c.write(jframe(tGoAway, object{"code": 0}))
					_ = c.ws.CloseNow() // it is over
				}
				proc.Until(t, "the permits are back", func() bool { return permits(t, d) == used })
				proc.Until(t, "the descriptors are back", func() bool { return openFiles(t, d.PID()) <= files })
				collected(t, d) // what these streams held is free for the next
			}
			if grown[2] > grown[0]+busyRest {
				t.Errorf("the memory grows: %v", grown)
			}
		})
	}
}

// busyTunnel opens a tunnel with streams to a port where nobody reads, and sends as much as there is credit for. It
// returns how many bytes wait in the daemon.
func busyTunnel(t *testing.T, d *proc.Daemon, port int, capabilities []string, streams, piece int) (*rawCarrier, int) {
	t.Helper()
	c := openCarrier(t, d, "hoody-tunnel.v1", bearer(proc.Token))
	c.write(jframe(tHello, object{"version": "hoody-tunnel.v1", "capabilities": capabilities}))
	hello := c.want(tHelloOK).json()
	window, session := int(hello["streamWindow"].(float64)), int(hello["sessionWindow"].(float64))
	whole := session
	c.write(jframe(tBind, object{"clientBindRef": 1, "kind": "tcp", "mode": "dial", "host": "127.0.0.1", "containerPort": port}))
	c.want(tBindOK)
	credit := map[uint32]int{}
	for i := range streams {
		c.write(openDial(2*i + 1))
		credit[uint32(2*i+1)] = window
	}
	for range streams {
		c.want(0x41)
	}
	for {
		sent := false
		for id := range credit {
			var frames []tframe
			for size := 0; len(frames) < maxFrames; {
				n := min(credit[id], session, piece)
				if n == 0 || size+frameHeader+n > maxMessage {
					break
				}
				frames = append(frames, tframe{tData, id, make([]byte, n)})
				credit[id] -= n
				session -= n
				size += frameHeader + n
			}
			if len(frames) > 0 {
				c.write(frames...)
				sent = true
			}
		}
		limit := time.Second // none comes any more
		if sent {
			limit = time.Microsecond
		}
		for {
			f, err := c.await(limit, func(f tframe) bool { return f.typ == tWindow || f.typ == tReset || f.typ == tGoAway })
			if err != nil {
				break
			}
			if f.typ != tWindow {
				t.Fatal(f)
			}
			sent, limit = true, time.Microsecond
			if n := int(binary.BigEndian.Uint32(f.payload)); f.stream == 0 {
				session += n
			} else {
				credit[f.stream] += n
			}
		}
		if !sent {
			break
		}
	}
	select {
	case <-c.done:
		t.Fatalf("the tunnel has ended: %v", c.end)
	default:
	}
	// A stream that has no credit for a frame has bytes that wait for the target.
	for id, n := range credit {
		if session > maxFramePayload && n > window/2 {
			t.Errorf("stream %d stopped with credit for %d bytes", id, n)
		}
	}
	return c, whole - session
}
