package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// roles are what this program is as a child of itself. Each ends with its standard input.
var roles map[string]func(args []string) error

func init() {
	roles = map[string]func([]string) error{"as-target": target, "as-client": exposer, "as-relay": relay}
}

// ports are where the services of the target are, or what leads to them.
type ports struct{ Sink, Source, Echo, HTTP int }

// say tells the parent where the services are, and waits until it goes.
func say(p ports) error {
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func listen(serve func(net.Conn)) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// acknowledged is after how many bytes the target says how many it has.
const acknowledged = 1 << 20

// target serves what is exposed: one takes bytes and says how many, one sends without end, one sends back
// what it gets, one is HTTP.
func target([]string) error {
	var p ports
	var errs [4]error
	p.Sink, errs[0] = listen(func(c net.Conn) {
		b := make([]byte, 256<<10)
		var n, told uint64
		for {
			m, err := c.Read(b)
			n += uint64(m)
			if n-told >= acknowledged {
				if _, err := c.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
					return
				}
				told = n
			}
			if err != nil {
				return
			}
		}
	})
	p.Source, errs[1] = listen(func(c net.Conn) {
		b := make([]byte, 256<<10)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	p.Echo, errs[2] = listen(echo)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.HTTP = l.Addr().(*net.TCPAddr).Port
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})}
	go func() { _ = srv.Serve(l) }()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	return say(p)
}

// echo sends back what it gets.
func echo(c net.Conn) {
	b := make([]byte, 4<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// exposer is the client of a tunnel.
func exposer(args []string) error {
	f := flag.NewFlagSet("as-client", flag.ContinueOnError)
	server := f.String("server", "", "ws or wss URL, or the path of a socket")
	fingerprint := f.String("fingerprint", "", "of the certificate")
	profile := f.String("profile", "", "file")
	var t ports
	f.IntVar(&t.Sink, "sink", 0, "")
	f.IntVar(&t.Source, "source", 0, "")
	f.IntVar(&t.Echo, "echo", 0, "")
	f.IntVar(&t.HTTP, "http", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := driver.Options{Version: wire.V2, MaxLocal: 1 << 16, MaxTarget: 1 << 16}
	if filepath.IsAbs(*server) {
		c, err := client.Dial(ctx, client.Options{Socket: *server})
		if err != nil {
			return err
		}
		defer c.Close()
		o.Dial = func(ctx context.Context, _ int) (mux.Carrier, error) { return c.Carry(ctx, o.Version) }
	} else {
		o.Dial = func(ctx context.Context, _ int) (mux.Carrier, error) {
			return hoody.Dial(ctx, *server, token, o.Version, hoody.DialOptions{Fingerprint: *fingerprint, AllowInsecure: true})
		}
	}
	s, err := driver.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	var p ports
	for _, x := range []struct {
		to   int
		tcp  bool
		port *int
	}{{t.Sink, true, &p.Sink}, {t.Source, true, &p.Source}, {t.Echo, true, &p.Echo}, {t.HTTP, false, &p.HTTP}} {
		b, err := s.Expose(ctx, driver.ExposeIn{Target: strconv.Itoa(x.to), TCP: x.tcp})
		if err != nil {
			return err
		}
		*x.port = b.Info().Port
	}
	if *profile != "" {
		w, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer w.Close()
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return say(p)
}

// relay is a line of 25 ms each way.
func relay(args []string) error {
	const delay = 25 * time.Millisecond
	port, err := listen(func(c net.Conn) {
		to, err := net.Dial("tcp", args[0])
		if err != nil {
			return
		}
		defer to.Close()
		done := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{c, to}, {to, c}} {
			go func() {
				defer func() { done <- struct{}{} }()
				late(way[1], way[0], delay)
			}()
		}
		<-done
	})
	if err != nil {
		return err
	}
	return say(ports{Echo: port})
}

// late copies, each piece after the delay. 4,096 pieces may be under way.
func late(to io.Writer, from io.Reader, delay time.Duration) {
	type piece struct {
		at time.Time
		b  []byte
	}
	line := make(chan piece, 4096)
	go func() {
		defer close(line)
		for {
			b := make([]byte, 64<<10)
			n, err := from.Read(b)
			if n > 0 {
				line <- piece{time.Now().Add(delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range line {
		if d := time.Until(p.at); d > 0 {
			time.Sleep(d)
		}
		if _, err := to.Write(p.b); err != nil {
			return
		}
	}
}

// child is a running process that said where its services are.
type child struct {
	proc
	ports
}

// start runs this program in a role.
func start(ctx context.Context, role string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, out, err := launch(ctx, self, append([]string{role}, args...)...)
	if err != nil {
		return nil, err
	}
	c := &child{proc: *p}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.ports)
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	return c, nil
}
