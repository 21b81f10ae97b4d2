//go:build unix

package promises

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promise R1 in its small form: what comings of each kind leave behind when all have gone. The
	// first warm-ups of them fill what is made once and kept.
	comings     = 400
	manyComings = 2000 // with ROBUST=1
	warmUps     = 300
	atOnce      = 16
	maxLeft     = 512 << 10
	oneVisit    = 20 * time.Second
)

// visit is one coming and going of a client of some kind.
type visit struct {
	name string
	do   func(ctx context.Context, n int) error
}

// visits are the kinds of clients.
func visits(t *testing.T, d *hanzodtest.Daemon) []visit {
	operator := dial.Options{
		URL: d.WS(), Client: dial.Client{ID: "test", Mode: "test"}, Role: identity.RoleOperator,
		Scopes: identity.AllOperatorScopes, Auth: dial.Auth{Token: d.Token},
	}
	legacy := func(o dial.Options, call string) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			c, err := dial.Dial(ctx, o)
			if err != nil {
				return err
			}
			if call != "" {
				_, err = c.Call(ctx, call, map[string]any{})
			}
			return errors.Join(err, c.Close())
		}
	}
	device, node, refused := operator, operator, operator
	device.Device = proc.Device(t)
	node.Role, node.Scopes, node.Client.ID, node.Client.Mode = identity.RoleNode, nil, "node-host", "node"
	node.Commands = []string{"system.which"}
	refused.Auth.Token = "wrong"
	return []visit{
		{"operator", legacy(operator, "status")},
		{"operator with a device", legacy(device, "node.list")},
		{"node", func(ctx context.Context, n int) error {
			o := node
			o.Client.InstanceID = fmt.Sprint("instance-", n)
			return legacy(o, "")(ctx, n)
		}},
		{"refused", func(ctx context.Context, n int) error {
			err := legacy(refused, "")(ctx, n)
			if e, ok := errors.AsType[*dial.RefusedError](err); ok && strings.HasPrefix(e.Message, "unauthorized: ") {
				return nil
			}
			return fmt.Errorf("not refused: %w", err)
		}},
		{"node of version 1", func(ctx context.Context, n int) error {
			ws, _, err := websocket.Dial(ctx, d.WS(), nil)
			if err != nil {
				return err
			}
			defer func() { _ = ws.CloseNow() }()
			hello := fmt.Sprintf(`{"type":"req","id":"1","method":"connect","params":{"minProtocol":1,"maxProtocol":1,"role":"node",`+
				`"client":{"id":"older-%d","displayName":"","version":"","platform":"linux","mode":"node"},"auth":{"token":%q}}}`, n, d.Token)
			if err := ws.Write(ctx, websocket.MessageText, []byte(hello)); err != nil {
				return err
			}
			for {
				_, m, err := ws.Read(ctx)
				if err != nil {
					return err
				}
				if strings.HasPrefix(string(m), `{"type":"hello-ok"`) {
					return ws.Close(websocket.StatusNormalClosure, "")
				}
			}
		}},
		{"operator that is cut off with a call under way", func(ctx context.Context, n int) error {
			nc, err := net.Dial("tcp", d.Addr())
			if err != nil {
				return err
			}
			if err := nc.(*net.TCPConn).SetLinger(0); err != nil { // the end is a reset
				return err
			}
			ws, _, err := websocket.Dial(ctx, d.WS(), &websocket.DialOptions{HTTPClient: &http.Client{
				Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil }},
			}})
			if err != nil {
				return err
			}
			defer func() { _ = ws.CloseNow() }()
			ws.SetReadLimit(-1)
			if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"req","id":"1","method":"connect","params":{"minProtocol":3,"maxProtocol":3,`+
				`"scopes":["operator.admin"],"client":{"id":"test","version":"1","platform":"linux","mode":"cli"},"auth":{"token":%q}}}`, d.Token)); err != nil {
				return err
			}
			for {
				_, m, err := ws.Read(ctx)
				if err != nil {
					return err
				}
				if strings.Contains(string(m[:min(len(m), 50)]), `"id":"1"`) {
					break
				}
			}
			q, err := json.Marshal(map[string]any{"type": "req", "id": "2", "method": "exec.approval.request", "params": map[string]any{
				"id": fmt.Sprintf("left-%d-%d", time.Now().UnixNano(), n), "command": "x", "timeoutMs": 20, "twoPhase": true,
			}})
			if err != nil {
				return err
			}
			return ws.Write(ctx, websocket.MessageText, q)
		}},
		{"half a request", func(context.Context, int) error {
			nc, err := net.Dial("tcp", d.Addr())
			if err != nil {
				return err
			}
			_, err = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
			return errors.Join(err, nc.Close())
		}},
		{"upgrade without a connect", func(context.Context, int) error {
			nc, err := net.Dial("tcp", d.Addr())
			if err != nil {
				return err
			}
			_, err = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
			if err == nil {
				_, err = bufio.NewReader(nc).ReadString('\n')
			}
			return errors.Join(err, nc.Close())
		}},
		{"gRPC with a stream", func(ctx context.Context, _ int) error {
			c, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(ctx)
			s, err := c.System.WatchEvents(ctx, &systemv1.WatchEventsRequest{})
			if err == nil {
				_, err = s.Header()
			}
			if err == nil {
				_, err = c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
			}
			cancel()
			return errors.Join(err, c.Close())
		}},
		{"node by gRPC", func(ctx context.Context, n int) error {
			c, err := client.Dial(ctx, client.Options{Socket: d.Socket(), AsNode: true})
			if err != nil {
				return err
			}
			l, err := c.AttachNode(ctx, client.NodeOptions{Registration: &nodesv1.NodeRegistration{
				ClientId: fmt.Sprint("linked-", n), ClientMode: "node", Version: "1", Platform: "linux", Commands: []string{"system.which"},
			}})
			if err == nil {
				err = l.Close()
			}
			return errors.Join(err, c.Close())
		}},
		{"REST with a stream", func(ctx context.Context, _ int) error {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			for _, path := range []string{"/v1/health", "/v1/nodes:watch"} {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL()+path, nil)
				if err != nil {
					return err
				}
				r.Header.Set("Authorization", "Bearer "+d.Token)
				res, err := tr.RoundTrip(r)
				if err != nil {
					return err
				}
				if res.StatusCode != http.StatusOK {
					return errors.New(res.Status)
				}
				if path == "/v1/health" {
					_, _ = io.Copy(io.Discard, res.Body) // so that the connection is used again
				}
				_ = res.Body.Close()
			}
			return nil
		}},
	}
}

// come makes many visits, some at a time.
func (v visit) come(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				ctx, cancel := context.WithTimeout(t.Context(), oneVisit)
				if err := v.do(ctx, i); err != nil {
					t.Errorf("%s %d: %v", v.name, i, err)
				}
				cancel()
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
}

// heap is what is in use after everything that is garbage is gone.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools kept until the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestR1NothingIsLeft: after many connects and disconnects of each kind (2,000 with ROBUST=1) there are as many goroutines
// as before, the daemon counts nobody, and the heap is what it was.
func TestR1NothingIsLeft(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{"logging": map[string]any{"consoleLevel": "error"}}})
	admin, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	settled := func(want int) bool {
		st, err := admin.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
		return err == nil && st.GetConnections() == 0 && st.GetNodesConnected() == 0 && st.GetApprovalsPending() == 0 && runtime.NumGoroutine() <= want
	}
	all := visits(t, d)
	n := comings
	if os.Getenv("ROBUST") != "" {
		n = manyComings
	}
	for _, v := range all {
		v.come(t, warmUps)
	}
	var goroutines int
	proc.Until(t, "the first visits are over", func() bool {
		now := runtime.NumGoroutine()
		same := now == goroutines
		goroutines = now
		time.Sleep(50 * time.Millisecond)
		return same && settled(now)
	})
	for _, v := range all {
		before := heap()
		v.come(t, n)
		proc.Until(t, fmt.Sprintf("all are gone after %s; %d goroutines, %d before", v.name, runtime.NumGoroutine(), goroutines), func() bool {
			return settled(goroutines)
		})
		after := heap()
		t.Logf("%-46s leaves %+.1f bytes a visit", v.name, float64(int64(after)-int64(before))/float64(n))
		if after > before+maxLeft {
			t.Errorf("%d visits of %s leave %d bytes", n, v.name, after-before)
		}
	}
}
