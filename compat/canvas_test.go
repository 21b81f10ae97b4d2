package compat

import (
	"sync"
	"testing"
	"time"
)

// A connection has one capability at most, and none after its end.
func TestCapabilitiesAreBoundToConnections(t *testing.T) {
	caps, now := newCapabilities(), time.UnixMilli(1700000000000)
	a, b := &conn{}, &conn{}
	mint := func(c *conn) string {
		t.Helper()
		token, expires, err := caps.mint(c, now)
		if err != nil || len(token) != 24 || !expires.Equal(now.Add(capabilityTTL)) {
			t.Fatalf("%q, %v, %v", token, expires, err)
		}
		return token
	}
	first, other := mint(a), mint(b)
	ended, ok := caps.use(first, now.Add(capabilityTTL-1))
	if !ok {
		t.Fatal("not in force")
	}
	if _, ok := caps.use(first, now.Add(2*capabilityTTL-2)); !ok {
		t.Error("a use does not count anew")
	}
	if _, ok := caps.use(other, now.Add(capabilityTTL)); ok {
		t.Error("in force at its end")
	}
	second := mint(a)
	select {
	case <-ended:
	default:
		t.Error("the replaced one has not ended")
	}
	if _, ok := caps.use(first, now); ok || first == second {
		t.Error("the replaced one is in force")
	}
	if len(caps.byHash) != 2 || len(caps.byConn) != 2 {
		t.Errorf("%d and %d are kept", len(caps.byHash), len(caps.byConn))
	}
	ended, _ = caps.use(second, now)
	caps.end(a)
	caps.end(a)
	<-ended
	if _, ok := caps.use(second, now); ok {
		t.Error("in force after the connection")
	}
	caps.end(b)
	if len(caps.byHash)+len(caps.byConn) != 0 {
		t.Errorf("%d and %d are kept", len(caps.byHash), len(caps.byConn))
	}
	for _, token := range []string{"", first, first[:23], first + "x"} {
		if _, ok := caps.use(token, now); ok {
			t.Errorf("%q is in force", token)
		}
	}
}

func TestCapabilitiesAtOnce(t *testing.T) {
	caps, now := newCapabilities(), time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := &conn{}
			for range 200 {
				token, _, err := caps.mint(c, now)
				if err != nil {
					t.Error(err)
				}
				if _, ok := caps.use(token, now); !ok {
					t.Error("not in force")
				}
			}
			caps.end(c)
		})
	}
	wg.Wait()
	if len(caps.byHash)+len(caps.byConn) != 0 {
		t.Errorf("%d and %d are kept", len(caps.byHash), len(caps.byConn))
	}
}
