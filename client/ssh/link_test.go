package ssh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// testWait is how long what must not hang may take.
const testWait = 20 * time.Second

// lossy is a connection that never answers who opens a channel, not even when it ends.
type lossy struct {
	ssh.Conn
	forever chan struct{}
}

func (c lossy) OpenChannel(string, []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	<-c.forever
	return nil, nil, io.EOF
}

// A channel whose opening is lost with the connection keeps neither who asked nor who closes.
func TestOpeningIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base, far := net.Pipe()
		defer far.Close()
		c := lossy{forever: make(chan struct{})}
		defer close(c.forever)
		l := &link{Client: &ssh.Client{Conn: c}, base: base, gone: make(chan struct{})}
		h := &Host{}
		start := time.Now()
		go func() {
			<-time.After(time.Second)
			close(l.gone)
		}()
		if _, _, err := h.channel(t.Context(), l, "session", nil); !errors.Is(err, errEnded) || time.Since(start) != time.Second {
			t.Fatalf("after %s: %v", time.Since(start), err)
		}
		if _, _, err := h.channel(t.Context(), l, "session", nil); !errors.Is(err, errEnded) {
			t.Fatal(err)
		}
		l.close()
		if took := time.Since(start); took > time.Second+closeTime {
			t.Fatalf("it closes after %s", took)
		}
	})
}

type closer func() error

func (c closer) Close() error { return c() }

// A machine that does not close a channel loses the link, and one that does keeps it.
func TestChannelThatIsNotClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base, far := net.Pipe()
		l := &link{base: base, gone: make(chan struct{})}
		ended := make(chan time.Time, 1)
		go func() {
			_, _ = far.Read(make([]byte, 1))
			ended <- time.Now()
		}()
		var closed atomic.Int32
		ch := closer(func() error { closed.Add(1); return nil })

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stop := l.limit(ctx, ch)
		for range 2 {
			if !stop() {
				t.Fatal("it was too late")
			}
		}
		<-time.After(2 * time.Second)
		if closed.Load() != 0 {
			t.Fatal("it closes what was in time")
		}

		again, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stop = l.limit(again, ch)
		<-time.After(2 * time.Second)
		if stop() || closed.Load() != 1 {
			t.Fatalf("it was in time, closed %d times", closed.Load())
		}
		<-time.After(2 * deafTime)
		select {
		case <-ended:
			t.Fatal("the link of a machine that closes its channels has ended")
		default:
		}

		last, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		defer l.limit(last, ch)()
		if took := (<-ended).Sub(start); took != time.Second+deafTime {
			t.Fatalf("the link ends after %s", took)
		}
		l.close()
	})
}

// Who opens channels while the connection ends is always answered.
func TestOpeningAtTheEnd(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 200 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, chans, reqs, err := ssh.NewServerConn(far, cfg)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			for n := range chans {
				_ = n.Reject(ssh.Prohibited, "no")
			}
		}()
		m := &meter{Conn: conn}
		c, chans, reqs, err := ssh.NewClientConn(m, "box", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
		if err != nil {
			t.Fatal(err)
		}
		top := ssh.NewClient(c, chans, reqs)
		m.carry(top)
		var work sync.WaitGroup
		for range 4 {
			work.Go(func() {
				for no := (*ssh.OpenChannelError)(nil); ; {
					if _, _, err := top.OpenChannel("any", nil); !errors.As(err, &no) {
						return
					}
				}
			})
		}
		<-time.After(time.Millisecond)
		far.Close()
		answered := make(chan struct{})
		go func() {
			work.Wait()
			close(answered)
		}()
		select {
		case <-answered:
		case <-time.After(testWait):
			t.Fatal("who opens a channel while the connection ends waits for ever")
		}
	}
}
