package door

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// descriptors is how many this process has open, 0 where nobody says.
func descriptors() int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}

// TestVisitorsWhoReadNothing: a visitor that never reads holds no permit and no descriptor when its tunnel has ended.
func TestVisitorsWhoReadNothing(t *testing.T) {
	w := newTunnelWorld(t, nil)
	flood := func(out io.Writer) {
		for {
			if _, err := out.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				flood(c)
			}()
		}
	}()
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			flood(rw)
			return
		}
		c, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
		flood(c)
	}))
	defer site.Close()
	used := func() int {
		out, err := w.c.Tunnels.List(t.Context(), &tunnelv1.TunnelServiceListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return int(out.GetTotals().GetPermitsUsed())
	}
	permits, open := used(), descriptors()
	for _, c := range []struct {
		name, request string
		in            driver.ExposeIn
	}{
		{"tcp", "x", driver.ExposeIn{Target: l.Addr().String(), TCP: true}},
		{"http", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", driver.ExposeIn{Target: site.Listener.Addr().String()}},
		{"upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n", driver.ExposeIn{Target: site.Listener.Addr().String()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s := w.connect(wire.V2)
			b, err := s.Expose(ctx, c.in)
			if err != nil {
				t.Fatal(err)
			}
			visitors := make([]net.Conn, 3)
			for i := range visitors {
				v, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.Info().Port)))
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close()
				if visitors[i] = v; c.request != "" {
					_, _ = io.WriteString(v, c.request)
				}
			}
			var moved uint64
			w := *w
			terminal := *w.terminalWorld
			w.terminalWorld, terminal.t = &terminal, t
			w.within("all that fits is on its way", func() bool {
				out, err := w.c.Tunnels.Get(ctx, &tunnelv1.TunnelServiceGetRequest{TunnelId: s.ID()})
				was := moved
				moved = out.GetTunnel().GetBytesIn()
				return err == nil && out.GetTunnel().GetActiveStreams() == 3 && moved > 1<<20 && moved == was
			})
			if n := used(); n < permits+4 {
				t.Errorf("they hold %d permits, of %d", n, permits)
			}
			_ = s.Close()
			w.within("the permits are back", func() bool { return used() == permits })
			for _, v := range visitors {
				_ = v.Close()
			}
			w.within("the descriptors are back", func() bool { return descriptors() <= open+2 })
		})
	}
}
