//go:build unix

package link

import (
	"os"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// twoHeartbeats is in how much time a silent peer is gone (R13), and slack what a busy machine may
	// add.
	twoHeartbeats = 60 * time.Second
	slack         = 3 * time.Second
	// wakeTime is in how much time every link is tried after a sleep of the machine (R14).
	wakeTime = 5 * time.Second
)

// clock is the time of day, which can jump.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) jump(d time.Duration) { c.ahead.Add(int64(d)) }

// TestWake: when the clock jumps, links that live stay, and dead ones are noticed within seconds, on
// either side.
func TestWake(t *testing.T) {
	for _, via := range []string{webSocket, local, overTLS} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			var daemon, node clock
			w := newWorld(t, via, options{daemonNow: daemon.now, nodeNow: node.now})
			// Nothing is wrong: the links stand. The token of the signature allows two minutes, so both
			// clocks jump.
			daemon.jump(10 * time.Minute)
			node.jump(10 * time.Minute)
			time.Sleep(wakeTime)
			if !w.online() || w.node.connects() != 1 {
				t.Fatalf("a live link was given up; connected %d times", w.node.connects())
			}
			if _, err := w.sh("true"); err != nil {
				t.Error(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := w.sh("sleep 60")
				ended <- err
			}()
			until(t, patience, "the command is on its way", func() bool { return w.node.log.has("connected") })
			w.proxy.hush(true)
			began := time.Now()
			daemon.jump(10 * time.Minute)
			until(t, wakeTime+slack, "the daemon knows that the node is gone", func() bool { return !w.online() })
			t.Logf("the daemon knew after %v", time.Since(began))
			if err := <-ended; codeOf(err) != "nodes.disconnected" {
				t.Errorf("the call ended with %v", err)
			}
			began = time.Now()
			node.jump(10 * time.Minute)
			until(t, wakeTime+slack, "the node knows that the daemon is gone", func() bool { return w.node.log.has(`"retryIn":`) })
			t.Logf("the node knew after %v", time.Since(began))
			w.proxy.hush(false)
			w.proxy.cut()
			until(t, patience, "the node is back", func() bool { return w.node.connects() > 1 && w.online() })
		})
	}
}

// TestSilence: a link on which nothing passes any more is gone within two heartbeats on both sides,
// and the calls that wait fail by then (R13).
func TestSilence(t *testing.T) {
	if os.Getenv("ROBUST") == "" {
		t.Skip("takes a minute; ROBUST=1 runs it")
	}
	overEach(t, func(t *testing.T, w *world) {
		ended := make(chan time.Time, 1)
		go func() {
			_, err := w.invoke("system.run", `{"command":["/bin/sh","-c","sleep 300"]}`, 10*time.Minute)
			if codeOf(err) != "nodes.disconnected" {
				t.Errorf("the call ended with %v", err)
			}
			ended <- time.Now()
		}()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		w.proxy.hush(true)
		until(t, twoHeartbeats+slack, "the node is offline", func() bool { return !w.online() })
		t.Logf("offline after %v, the call failed after %v", time.Since(began), (<-ended).Sub(began))
		until(t, twoHeartbeats+slack-time.Since(began), "the node knows", func() bool { return w.node.log.has(`"retryIn":`) })
		t.Logf("the node knew after %v", time.Since(began))
		w.proxy.hush(false)
		w.proxy.cut()
		until(t, twoHeartbeats, "the node is back", func() bool { return w.node.connects() > 1 && w.online() })
	})
}
