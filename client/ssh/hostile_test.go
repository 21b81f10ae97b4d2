//go:build unix

package ssh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

// hostile is a server that does what a test says with each connection.
func hostile(t *testing.T, serve func(net.Conn)) (o ssh.Options) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		_ = within(t, "the server", func() error { <-ended; return nil })
	})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go serve(c)
		}
	}()
	s := sshtest.Start(t, sshtest.Options{}) // for its key and its directories
	home := s.ClientHome(fmt.Sprintf("Host *\n  IdentityFile %s\n  UserKnownHostsFile %s\n  StrictHostKeyChecking accept-new\n", s.Key, filepath.Join(s.Dir, "new")))
	return ssh.Options{Address: "ssh://alice@" + l.Addr().String(), Getenv: func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}}
}

// server logs everybody in, and does what a test says with the rest.
func server(t *testing.T, serve func(*xssh.ServerConn, <-chan xssh.NewChannel, <-chan *xssh.Request)) ssh.Options {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &xssh.ServerConfig{
		NoClientAuth:   true,
		BannerCallback: func(xssh.ConnMetadata) string { return strings.Repeat("\x1b[2Jbanner ", 10_000) },
	}
	cfg.AddHostKey(signer)
	return hostile(t, func(c net.Conn) {
		conn, chans, reqs, err := xssh.NewServerConn(c, cfg)
		if err != nil {
			c.Close()
			return
		}
		serve(conn, chans, reqs)
		conn.Close()
	})
}

func failsWithin(t *testing.T, o ssh.Options, ctxTime, most time.Duration) *client.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ctxTime)
	defer cancel()
	start := time.Now()
	h, err := ssh.Connect(ctx, o)
	if err == nil {
		closes(t, h)
		t.Fatal("it connects")
	}
	if took := time.Since(start); took > most {
		t.Fatalf("it took %s to fail: %v", took, err)
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok || len(e.Message) > 16<<10 || strings.ContainsAny(e.Message, "\x1b\n") {
		t.Fatalf("%T: %.200q", err, err)
	}
	return e
}

func TestServersThatDoNotSpeakSSH(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"says nothing":      func(net.Conn) {},
		"ends":              func(c net.Conn) { c.Close() },
		"another protocol":  func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); c.Close() },
		"endless lines":     func(c net.Conn) { flood(c, []byte(strings.Repeat("hello\r\n", 1000))) },
		"one endless line":  func(c net.Conn) { flood(c, []byte(strings.Repeat("\x1b[2J", 1000))) },
		"a version alone":   func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n") },
		"garbage after it":  func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n"); flood(c, make([]byte, 4096)) },
		"a packet too long": func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-x\r\n\x7f\xff\xff\xff\x04"); flood(c, []byte("aaaa")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := failsWithin(t, hostile(t, serve), time.Second, 3*time.Second)
			if e.Fields["step"] != string(ssh.StepConnect) {
				t.Fatalf("%+v", e)
			}
		})
	}
}

func flood(c net.Conn, p []byte) {
	for {
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}

func TestServersThatMisbehaveAfterTheLogin(t *testing.T) {
	t.Parallel()
	session := func(f func(xssh.Channel)) func(*xssh.ServerConn, <-chan xssh.NewChannel, <-chan *xssh.Request) {
		return func(_ *xssh.ServerConn, chans <-chan xssh.NewChannel, reqs <-chan *xssh.Request) {
			go xssh.DiscardRequests(reqs)
			for n := range chans {
				if n.ChannelType() != "session" {
					_ = n.Reject(xssh.Prohibited, strings.Repeat("\x1b]0;no\x07", 1000))
					continue
				}
				ch, r, err := n.Accept()
				if err != nil {
					return
				}
				go func() {
					for one := range r {
						if one.WantReply {
							_ = one.Reply(true, nil)
						}
						go f(ch)
					}
				}()
			}
		}
	}
	for name, serve := range map[string]func(*xssh.ServerConn, <-chan xssh.NewChannel, <-chan *xssh.Request){
		"opens nothing": func(c *xssh.ServerConn, _ <-chan xssh.NewChannel, r <-chan *xssh.Request) {
			go xssh.DiscardRequests(r)
			_ = c.Wait()
		},
		"programs say nothing":   session(func(xssh.Channel) {}),
		"programs say much":      session(func(ch xssh.Channel) { pours(ch) }),
		"programs complain much": session(func(ch xssh.Channel) { pours(ch.Stderr()) }),
		"programs end":           session(func(ch xssh.Channel) { ch.Close() }),
		"opens channels to us": func(c *xssh.ServerConn, chans <-chan xssh.NewChannel, r <-chan *xssh.Request) {
			go xssh.DiscardRequests(r)
			go func() {
				for n := range chans {
					_ = n.Reject(xssh.Prohibited, "no")
				}
			}()
			for {
				if _, _, err := c.OpenChannel("x11", make([]byte, 1000)); err != nil && !errors.As(err, new(*xssh.OpenChannelError)) {
					return
				}
			}
		},
		"asks us much": func(c *xssh.ServerConn, chans <-chan xssh.NewChannel, r <-chan *xssh.Request) {
			go xssh.DiscardRequests(r)
			go func() {
				for n := range chans {
					_ = n.Reject(xssh.Prohibited, "no")
				}
			}()
			for {
				if _, _, err := c.SendRequest("keepalive@openssh.com", true, make([]byte, 1000)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failsWithin(t, server(t, serve), 1500*time.Millisecond, 4*time.Second)
		})
	}
}

func pours(w io.Writer) {
	p := []byte(strings.Repeat("\x1b[31mnoise\n", 1000))
	for {
		if _, err := w.Write(p); err != nil {
			return
		}
	}
}

// What nobody reads is not kept: the daemon's side waits.
func TestUnreadDataIsBounded(t *testing.T) {
	w := machine(t, sshtest.Options{})
	port := pour(t)
	h := w.connect()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const streams = 8
	for range streams {
		conn, err := h.DialPort(soon(t), port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("d")); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(time.Second)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > streams*4<<20 {
		t.Fatalf("%d streams that nobody reads hold %d bytes", streams, grew)
	}
	// And they do not keep others waiting.
	health(t, h)
}

// Closing ends all of it, whatever is under way; TestMain looks for what is left.
func TestCloseWhileBusy(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	port := pour(t)
	h := w.connect()
	read := make(chan error, 4)
	for range 4 {
		conn, err := h.DialPort(soon(t), port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("d")); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.Copy(io.Discard, conn)
			read <- err
		}()
	}
	w.server.Freeze()
	closes(t, h)
	for range 4 {
		_ = within(t, "reading", func() error { return <-read })
	}
}

// A program of the user's may leave behind others that hold its output.
func TestProgramThatLeavesOthersBehind(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	w.configure(w.server.HostBlock("box", "ProxyCommand false"))
	o := w.options("ssh://box")
	o.Program = os.Args[0] // see TestMain
	if e := failsWithin(t, o, time.Second, 15*time.Second); e.Code != client.CodeTimeout {
		t.Fatal(e)
	}
}

// A person is asked for a password, and for what the machine wants to know; its words cannot steer the terminal.
func TestPasswordsAndQuestions(t *testing.T) {
	t.Parallel()
	const secret = "correct horse"
	for _, kbd := range []bool{false, true} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := xssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		cfg := &xssh.ServerConfig{}
		cfg.AddHostKey(signer)
		if kbd {
			cfg.KeyboardInteractiveCallback = func(_ xssh.ConnMetadata, ask xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
				got, err := ask("na\x1b[2Jme", "read\u202ethis", []string{"Code\r\n:", "Colour:"}, []bool{false, true})
				if err == nil && (len(got) != 2 || got[0] != secret || got[1] != "blue") {
					err = errors.New("no")
				}
				return nil, err
			}
		} else {
			cfg.PasswordCallback = func(_ xssh.ConnMetadata, p []byte) (*xssh.Permissions, error) {
				if string(p) != secret {
					return nil, errors.New("no")
				}
				return nil, nil
			}
		}
		in := make(chan struct{}, 8)
		o := hostile(t, func(c net.Conn) {
			conn, chans, reqs, err := xssh.NewServerConn(c, cfg)
			if err != nil {
				c.Close()
				return
			}
			in <- struct{}{}
			go xssh.DiscardRequests(reqs)
			for n := range chans {
				_ = n.Reject(xssh.Prohibited, "no")
			}
			conn.Close()
		})
		if e := failsWithin(t, o, limit, limit); e.Code != ssh.CodeAuth {
			t.Fatalf("without a person: %v", e)
		}
		p := &person{answers: map[string][]string{"password": {"wrong", secret}, "Code": {"wrong", secret}, "Colour": {"red", "blue"}}}
		o.Prompt = p
		e := failsWithin(t, o, limit, limit) // it lets us in, and refuses the rest
		if len(in) != 1 || e.Code != ssh.CodeRefused || strings.Contains(e.Message, secret) {
			t.Fatalf("let in %d times: %s: %v", len(in), e.Code, e)
		}
		for i, q := range p.questions() {
			if strings.ContainsAny(q, "\x1b\r\u202e") || !strings.Contains(q, "alice@127.0.0.1") || p.shown[i] != strings.Contains(q, "Colour") {
				t.Errorf("the question is %q, shown %v", q, p.shown[i])
			}
		}
		p.answers = map[string][]string{"password": {"1", "2", "3", secret}, "Code": {"1", "2", "3", secret}, "Colour": {"1", "2", "3", "blue"}}
		if e := failsWithin(t, o, limit, limit); e.Code != ssh.CodeAuth {
			t.Fatalf("after three wrong answers: %v", e)
		}
	}
}
