package promises

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
)

// TestP5LargeMessagesOfOneDevice: a device that was let in begins many large messages and finishes none.
// It gets room for two of the largest; others send theirs meanwhile.
func TestP5LargeMessagesOfOneDevice(t *testing.T) {
	a := attack(t, nil)
	device, token := a.paired(identity.ScopeRead)
	const tries = 6
	began := 0
	for range tries {
		proxy := tunnel(t, a.Addr())
		o := a.options(device, identity.ScopeRead)
		o.URL, o.Auth = "ws://"+proxy.addr, dial.Auth{DeviceToken: token}
		a.connect(o)
		raw := <-proxy.conns
		// The head of a masked message of 24 MiB, and all but its end.
		if _, err := raw.Write([]byte{0x81, 0xff, 0, 0, 0, 0, 0x01, 0x80, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		piece, n := bytes.Repeat([]byte{' '}, 64<<10), 0
		for n < 24<<20-1 { // until nobody takes anything for a second
			_ = raw.SetWriteDeadline(time.Now().Add(time.Second))
			m, err := raw.Write(piece[:min(len(piece), 24<<20-1-n)])
			if n += m; err != nil {
				break
			}
		}
		if n == 24<<20-1 {
			began++
		}
	}
	if began < 1 || began > 3 {
		t.Errorf("%d of %d large messages were taken", began, tries)
	}
	other, otherToken := a.paired(identity.ScopeRead)
	o := a.options(other, identity.ScopeRead)
	o.Auth = dial.Auth{DeviceToken: otherToken}
	c := a.connect(o)
	if _, err := c.Call(a.ctx(), "node.list", map[string]any{"x": strings.Repeat("x", 20<<20)}); err == nil || !strings.Contains(err.Error(), "unexpected property") {
		t.Errorf("another device: %.200s", fmt.Sprint(err))
	}
}

type proxied struct {
	addr  string
	conns chan net.Conn
}

// tunnel passes connections on, and shows those to the other side.
func tunnel(t *testing.T, to string) proxied {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := proxied{l.Addr().String(), make(chan net.Conn, 1)}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			_ = in.Close()
			return
		}
		p.conns <- out
		go func() {
			_, _ = io.Copy(in, out)
			_ = in.Close()
		}()
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	return p
}
