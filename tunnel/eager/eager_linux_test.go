package eager

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestBusy has every processor kept busy: letting others run would take long then, so it is not done again and again.
func TestBusy(t *testing.T) {
	resting.Store(0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	go func() {
		r, p := New(b), make([]byte, 1)
		for {
			if _, err := r.Read(p); err != nil {
				return
			}
			if _, err := b.Write(p); err != nil {
				return
			}
		}
	}()
	var stop atomic.Bool
	defer stop.Store(true)
	for range 2 * runtime.NumCPU() {
		go func() {
			runtime.LockOSThread() // a thread that the kernel has to find time for
			for !stop.Load() {
			}
		}()
	}
	// Bytes come all the same, and sooner or later one finds that others take long.
	p := make([]byte, 1)
	_ = a.SetDeadline(time.Now().Add(20 * time.Second))
	for i := 0; i < 20 || resting.Load() == 0; i++ {
		if _, err := a.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := New(a).Read(p); err != nil {
			t.Fatal(err)
		}
	}
}
