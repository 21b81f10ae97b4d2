package promises

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestP6NobodyHoldsAConnection: whatever a stranger begins and leaves unfinished, at either port, its
// connection is over after ten seconds and a little (promise 6). One that asks a harmless thing again and
// again may stay, as long as it asks.
func TestP6NobodyHoldsAConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time that a stranger has")
	}
	a := attack(t, map[string]any{"hooks": map[string]any{"enabled": true, "token": "hook-token-4f1e9b"}})
	upgrade := "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	post := func(path, more string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n" + more + "\r\n{"
	}
	const within = 13 * time.Second
	var wg sync.WaitGroup
	hold := func(name, addr string, secure bool, bytes string) {
		wg.Go(func() {
			began := time.Now()
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer func() { _ = c.Close() }()
			if secure {
				tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				if err := tc.Handshake(); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				c = tc
			}
			_, _ = io.WriteString(c, bytes) // it may be refused before it has all
			_ = c.SetReadDeadline(time.Now().Add(within + 5*time.Second))
			_, err = io.Copy(io.Discard, c)
			if took := time.Since(began); took > within {
				t.Errorf("%s: the connection stood for %v (%v)", name, took, err)
			}
		})
	}
	for name, bytes := range map[string]string{
		"nothing":            "",
		"half a header":      "GET /healthz HTTP/1.1\r\nHost: loc",
		"a body for REST":    post("/v1/nodes/x:invoke", ""),
		"with a wrong token": post("/v1/nodes/x:invoke", "Authorization: Bearer wrong\r\n"),
		"expecting":          post("/v1/nodes/x:invoke", "Expect: 100-continue\r\n"),
		"in chunks":          strings.Replace(post("/v1/nodes/x:invoke", ""), "Content-Length: 100000", "Transfer-Encoding: chunked", 1),
		"a body for a tool":  post("/tools/invoke", ""),
		"a body for a hook":  post("/hooks/wake", ""),
		"a body for a probe": post("/healthz", ""),
		"a body for nothing": post("/nope", ""),
		"for the document":   post("/openapi.json", ""),
		"for the metrics":    post("/metrics", ""),
		"for the canvas":     post("/__openclaw__/canvas/", "X-Forwarded-For: 203.0.113.9\r\n"),
		"with a read":        strings.Replace(post("/v1/nodes", ""), "POST", "GET", 1),
		"a bad path":         post("/__openclaw__/cap/", ""),
		"an upgrade":         upgrade,
		"part of a frame":    upgrade + "\x81\xfe\xff\xff\x00\x00\x00\x00{",
		"a huge frame":       upgrade + "\x81\xff\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00{",
		"an upgrade's body":  strings.Replace(upgrade, "\r\n\r\n", "\r\nContent-Length: 1000\r\n\r\n{", 1),
		"another upgrade":    strings.Replace(upgrade, "websocket", "h2c", 1),
		"served, then idle":  "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"HTTP/2":             http2.ClientPreface,
	} {
		hold(name, a.Addr(), false, bytes)
	}
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, bytes := range map[string]string{
		"nothing": "", "half a preface": http2.ClientPreface[:5], "a preface": http2.ClientPreface, "settings": http2.ClientPreface + settings,
		"pings":    http2.ClientPreface + settings + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", 3),
		"HTTP/1.1": "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		hold("gRPC: "+name, a.GRPCAddress(), true, bytes)
	}
	hold("gRPC: silence", a.GRPCAddress(), false, "")
	hold("gRPC: half a handshake", a.GRPCAddress(), false, "\x16\x03\x01\x02\x00\x01")
	wg.Wait()
	// And the daemon serves as ever.
	if code, text := a.ask("GET", "/v1/nodes", bearerHeader(a.Token), ""); code != 200 {
		t.Error(fmt.Sprint(code, " ", text))
	}
}
