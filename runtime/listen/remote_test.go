package listen

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// serve accepts until the listener closes and hands out what it accepted.
func serve(t *testing.T, l net.Listener) (accepted chan net.Conn, stop func()) {
	t.Helper()
	accepted = make(chan net.Conn, MaxStrangers+10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	return accepted, func() {
		closeAll(t, l)
		wg.Wait()
	}
}

func tcp(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dialTCP(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ended waits until the other side has closed.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeout(err)) {
		t.Errorf("the connection stands: %v", err)
	}
}

func errTimeout(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return err
	}
	return nil
}

func counts(t *testing.T, l *Limited, all, strangers int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		a, s := l.Conns()
		if a == all && s == strangers {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, %d strangers; want %d and %d", a, s, all, strangers)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestLimitStrangers: one address holds so many unproved connections and no more, those that prove
// themselves stay, and the others are closed in time.
func TestLimitStrangers(t *testing.T) {
	l := Limit(tcp(t))
	l.patience = 300 * time.Millisecond
	accepted, stop := serve(t, l)
	defer stop()
	var clients []net.Conn
	for range MaxStrangersPerAddr {
		clients = append(clients, dialTCP(t, l))
	}
	counts(t, l, MaxStrangersPerAddr, MaxStrangersPerAddr)
	ended(t, dialTCP(t, l)) // one too many
	first := (<-accepted).(*guarded)
	RemoteInfo{stranger: stranger{first}}.Proved()
	RemoteInfo{stranger: stranger{first}}.Proved() // twice changes nothing
	// There is room for one again.
	clients = append(clients, dialTCP(t, l))
	counts(t, l, MaxStrangersPerAddr+1, MaxStrangersPerAddr)
	// The time of the strangers ends, and theirs alone.
	for _, c := range clients[1:] {
		ended(t, c)
	}
	counts(t, l, 1, 0)
	if _, err := io.WriteString(first, "x"); err != nil {
		t.Error(err)
	}
	_ = first.Close()
	_ = first.Close()
	counts(t, l, 0, 0)
	if len(l.from) != 0 {
		t.Errorf("%d addresses are remembered", len(l.from))
	}
}

// TestLimitMakesWay: strangers that are there first do not keep others out: the oldest makes way once
// it had its chance.
func TestLimitMakesWay(t *testing.T) {
	l := Limit(tcp(t))
	l.chance = 200 * time.Millisecond
	_, stop := serve(t, l)
	defer stop()
	var idle []net.Conn
	for range MaxStrangersPerAddr {
		idle = append(idle, dialTCP(t, l))
	}
	counts(t, l, MaxStrangersPerAddr, MaxStrangersPerAddr)
	time.Sleep(l.chance)
	late := dialTCP(t, l)
	ended(t, idle[0])
	counts(t, l, MaxStrangersPerAddr, MaxStrangersPerAddr)
	_ = late.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := late.Read(make([]byte, 1)); errTimeout(err) == nil {
		t.Errorf("the newer one was closed: %v", err)
	}
}

// TestLimitRefusals: a row of refused calls ends a connection, an accepted one between them does not.
func TestLimitRefusals(t *testing.T) {
	l := Limit(tcp(t))
	accepted, stop := serve(t, l)
	defer stop()
	c := dialTCP(t, l)
	info := RemoteInfo{stranger: stranger{(<-accepted).(*guarded)}}
	for i := range maxRefusals - 1 {
		if first := info.Refused(); first != (i == 0) {
			t.Errorf("refusal %d is the first: %v", i, first)
		}
	}
	info.Proved()
	for range maxRefusals - 1 {
		info.Refused()
	}
	if _, err := io.WriteString(info.conn, "x"); err != nil {
		t.Errorf("it was closed early: %v", err)
	}
	info.Refused()
	_, _ = c.Read(make([]byte, 1))
	ended(t, c)
	counts(t, l, 0, 0)
}

func TestRemoteCredentialsAreForServers(t *testing.T) {
	f := TLSFiles{Generate: true}
	f.Cert, f.Key = DefaultTLSFiles(t.TempDir())
	cert, err := LoadCertificate(f, time.Now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	creds := RemoteCredentials(cert)
	if _, _, err := creds.ClientHandshake(t.Context(), "x", nil); err == nil {
		t.Error("they work for clients")
	}
}
