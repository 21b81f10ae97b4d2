package dial

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is one connection of the fake gateway.
type peer struct {
	tb    testing.TB
	ws    *websocket.Conn
	ctx   context.Context
	index int // 0 is the first connection
}

type request struct {
	Type, ID, Method string
	Params           json.RawMessage
}

func (p *peer) send(format string, args ...any) {
	_ = p.ws.Write(p.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)) // the client may be gone
}

// recv returns the next request; ok is false when the client is gone.
func (p *peer) recv() (r request, ok bool) {
	_, data, err := p.ws.Read(p.ctx)
	if err != nil {
		return r, false
	}
	if err := json.Unmarshal(data, &r); err != nil || r.Type != "req" || r.ID == "" {
		p.tb.Errorf("no request: %.200s", data)
	}
	return r, true
}

// greet does the handshake and returns the parameters of connect.
func (p *peer) greet(hello string) json.RawMessage {
	p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"nonce-1","ts":1}}`)
	r, ok := p.recv()
	if ok && r.Method != "connect" { // the client may be stopping
		p.tb.Errorf("first request %+v", r)
	}
	p.send(`{"type":"res","id":%q,"ok":true,"payload":%s}`, r.ID, hello)
	return r.Params
}

func (p *peer) refuse(code int, errorShape string) {
	p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"n","ts":1}}`)
	if r, ok := p.recv(); ok {
		p.send(`{"type":"res","id":%q,"ok":false,"error":%s}`, r.ID, errorShape)
	}
	p.ws.Close(websocket.StatusCode(code), "refused")
}

// wait holds the connection until the client ends it, and returns how.
func (p *peer) wait() websocket.StatusCode {
	for {
		if _, _, err := p.ws.Read(p.ctx); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

const hello = `{"type":"hello-ok","protocol":3,"server":{"version":"9","connId":"C7"},"policy":{"tickIntervalMs":30000}}`

func helloTick(ms int) string { return strings.Replace(hello, "30000", fmt.Sprint(ms), 1) }

// gateway serves each connection with serve and returns its URL.
func gateway(tb testing.TB, serve func(p *peer)) string {
	tb.Helper()
	url, _ := gatewayServer(tb, false, serve)
	return url
}

func gatewayServer(tb testing.TB, tls bool, serve func(p *peer)) (string, *httptest.Server) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			tb.Error(err)
			return
		}
		ws.SetReadLimit(64 << 20)
		mu.Lock()
		p := &peer{tb, ws, ctx, n}
		n++
		wg.Add(1)
		mu.Unlock()
		defer wg.Done()
		defer ws.CloseNow()
		serve(p)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if tls {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	tb.Cleanup(func() {
		cancel()
		wg.Wait()
		srv.Close()
	})
	return "ws" + strings.TrimPrefix(srv.URL, "http"), srv
}

func options(url string) Options {
	return Options{URL: url, Client: Client{ID: "test", Mode: "test", Version: "1", Platform: "linux"}}
}

func connect(tb testing.TB, o Options) *Conn {
	tb.Helper()
	c, err := Dial(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func within(tb testing.TB, what string, done <-chan struct{}) {
	tb.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		tb.Fatal("never happened: " + what)
	}
}
